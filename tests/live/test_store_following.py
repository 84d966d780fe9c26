"""A memory follows real members through kill, freeze, compaction and restart."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Delete, Put, Transaction
from pgcat_cluster.demo.etcd import Etcd, EtcdMember
from pgcat_cluster.fleet.etcd import EtcdStore
from pgcat_cluster.fleet.following import Following
from pgcat_cluster.fleet.store import Unavailable, Unknown
from pgcat_cluster.net.tasks import spawn
from tests.support.etcd import EtcdMaker, StoreMaker, compact, eventually

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

HASTY = {"call_s": 1.0, "confirm_s": 1.0, "quiet_s": 0.5, "silent_s": 1.0}


@asynccontextmanager
async def followed(store: EtcdStore) -> AsyncIterator[Following]:
    following = Following(store, ["/d/"], Memory(), chance=random.Random(3), audited=["/d/"])
    task = spawn(following.run(), "following")
    async with asyncio.timeout(20.0):
        await following.listed.wait()
    yield following
    task.cancel()
    await asyncio.wait({task})


async def insist(store: EtcdStore, transaction: Transaction) -> int:
    """Write what does no harm when it is written twice."""

    async def write() -> int:
        try:
            return (await store.txn(transaction)).revision
        except (Unavailable, Unknown):
            return 0

    return int(await eventually(write, 30.0))


def put(key: str) -> Transaction:
    return Transaction(then=(Put(key=key, value=b""),))


async def until_it_holds(following: Following, *keys: str) -> None:
    async def holds() -> bool:
        return [row.key for row in following.memory.under("/d/")] == list(keys)

    await eventually(holds, 30.0)


async def test_through_the_death_of_the_member_in_use(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd(members=3)
    follower, writer = open_store(etcd, **HASTY), open_store(etcd, **HASTY)
    await insist(writer, put("/d/1"))
    async with followed(follower) as following:
        await until_it_holds(following, "/d/1")
        killed = member_in_use(etcd, follower)
        killed.kill()
        await insist(writer, put("/d/2"))
        await until_it_holds(following, "/d/1", "/d/2")
        # The stream went on where it was.
        assert following.state().lists == 1
        etcd.restart(killed)
        member_in_use(etcd, follower).freeze()
        await insist(writer, put("/d/3"))
        await until_it_holds(following, "/d/1", "/d/2", "/d/3")


def member_in_use(etcd: Etcd, store: EtcdStore) -> EtcdMember:
    return next(member for member in etcd.members if member.endpoint == store.statistics().member)


async def test_through_a_restart_with_compaction(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd(members=3)
    first, *others = etcd.members
    follower = open_store(etcd, **HASTY | {"endpoints": (first.endpoint,)})
    writer = open_store(etcd, endpoints=tuple(member.endpoint for member in others))
    for key in ("/d/1", "/d/2"):
        await insist(writer, put(key))
    async with followed(follower) as following:
        await until_it_holds(following, "/d/1", "/d/2")
        first.kill()
        await insist(writer, Transaction(then=(Delete(key="/d/1"),)))
        revision = await insist(writer, put("/d/3"))
        await compact(others[0].endpoint, revision)
        etcd.restart(first)
        await until_it_holds(following, "/d/2", "/d/3")
        assert following.state().lists > 1
