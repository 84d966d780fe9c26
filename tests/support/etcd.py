"""Real etcd servers for tests, as fixtures that stop everything at the end."""

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


@pytest_asyncio.fixture
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
