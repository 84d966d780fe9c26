"""Real etcd servers for tests, as fixtures that stop everything at the end.

gRPC speaks with one event loop of a process only: late news of a loop that is closed hold up those of the next.
So tests that open a store are marked `pytest.mark.asyncio(loop_scope="session")`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aetcd import rpc

from pgcat_cluster.demo.etcd import Etcd
from pgcat_cluster.fleet.etcd import EtcdSettings, EtcdStore

EtcdMaker = Callable[..., Etcd]
StoreMaker = Callable[..., EtcdStore]


@pytest.fixture
def make_etcd() -> Iterator[EtcdMaker]:
    """Stores of one test's own: `make_etcd(members=3)`."""
    with ExitStack() as closing:
        yield lambda **arguments: closing.enter_context(Etcd(**arguments))


@pytest_asyncio.fixture(loop_scope="session")
async def open_store() -> AsyncIterator[StoreMaker]:
    """The port to a running etcd: `open_store(etcd, call_s=0.5)`; it begins with the first endpoint."""
    opened: list[EtcdStore] = []

    def connect(etcd: Etcd, **arguments: Any) -> EtcdStore:
        settings = EtcdSettings(
            **{"endpoints": tuple(etcd.endpoints), "allow_bad_version": True, "login_jitter_s": 0.05}
            | arguments
        )
        opened.append(EtcdStore(settings, chance=_First(1)))
        return opened[-1]

    yield connect
    for store in opened:
        await store.close()


class _First(random.Random):
    """Chance that begins with the first endpoint."""

    def randrange(self, *_bounds: Any) -> int:
        return 0


async def compact(endpoint: str, revision: int) -> None:
    """Make the store forget what happened before a revision."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        await rpc.KVStub(channel).Compact(rpc.CompactionRequest(revision=revision, physical=True))


async def eventually(condition: Callable[[], Awaitable[Any]], within_s: float = 20.0) -> Any:
    """What the condition answers as soon as that is true."""
    async with asyncio.timeout(within_s):
        while not (answer := await condition()):
            await _moment()
    return answer


async def _moment() -> None:
    """A short while for others, on the loop's own clock."""
    reached = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, reached.set)
    await reached.wait()


async def raise_alarm(endpoint: str) -> None:
    """Let the store say that its space is used up."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        maintenance = rpc.MaintenanceStub(channel)
        member_id = (await maintenance.Status(rpc.StatusRequest())).header.member_id
        await maintenance.Alarm(rpc.AlarmRequest(action="ACTIVATE", alarm="NOSPACE", memberID=member_id))


async def admit_users(endpoint: str, **permissions: str) -> None:
    """Switch users on: root, and one of each name who reads and writes below one prefix; passwords are names."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        auth = rpc.AuthStub(channel)
        for name, prefix in {**permissions, "root": ""}.items():
            await auth.UserAdd(rpc.AuthUserAddRequest(name=name, password=name))
            await auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
            if prefix:
                end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
                permission = rpc.Permission(permType="READWRITE", key=prefix.encode(), range_end=end.encode())
                await auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name=name, perm=permission))
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
        await auth.AuthEnable(rpc.AuthEnableRequest())


async def forget_tokens(endpoint: str, user: str) -> None:
    """Make the tokens of a user invalid, as time does."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        await rpc.AuthStub(channel).UserChangePassword(
            rpc.AuthUserChangePasswordRequest(name=user, password=user), metadata=await _as_root(channel)
        )


async def add_role(endpoint: str, name: str) -> None:
    """Change something about users: tokens given before are of an older revision then."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        await rpc.AuthStub(channel).RoleAdd(
            rpc.AuthRoleAddRequest(name=name), metadata=await _as_root(channel)
        )


async def _as_root(channel: grpc.aio.Channel) -> list[tuple[str, str]]:
    login = await rpc.AuthStub(channel).Authenticate(rpc.AuthenticateRequest(name="root", password="root"))
    return [("token", login.token)]
