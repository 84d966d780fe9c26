"""The rules of the store's port, kept by the model and by etcd alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pgcat_cluster.agreement.transactions import (
    Batch,
    Compare,
    Delete,
    Event,
    Field,
    Outcome,
    Put,
    Range,
    Rows,
    Transaction,
    absent,
    nothing_newer,
    unchanged,
)
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.fleet.store import Compacted, LeaseGone, Refused, Store, Watch
from pgcat_cluster.net.tasks import spawn
from tests.support.etcd import EtcdMaker, StoreMaker, compact, eventually

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", params=["model", "etcd"])
async def store(
    request: pytest.FixtureRequest, make_etcd: EtcdMaker, open_store: StoreMaker
) -> AsyncIterator[Store]:
    if request.param == "etcd":
        yield open_store(make_etcd(), call_s=5.0)
        return
    loop = asyncio.get_running_loop()
    port = ModelPort(ModelStore(), now_s=loop.time, pause=asyncio.sleep)
    time = spawn(port.keep_time(), "time of the model")
    yield port
    time.cancel()


def put(key: str, value: bytes = b"", lease: int = 0) -> Transaction:
    return Transaction(then=(Put(key=key, value=value, lease=lease),))


async def next_events(watch: Watch) -> Batch:
    """The next batch that says more than how far the watch is."""
    async with asyncio.timeout(20.0):
        async for batch in watch:
            if batch.events:
                return batch
    raise AssertionError("a watch never ends by itself")


async def holds(store: Store, *compares: Compare) -> bool:
    return (await store.txn(Transaction(compares=compares))).succeeded


async def test_an_empty_prefix_is_one_zero_key(store: Store) -> None:
    def compare(field: Field, operator: str, operand: int | bytes) -> Compare:
        return Compare(key="/none/", field=field, operator=operator, operand=operand, prefix=True)

    assert await holds(store, compare(Field.MOD, "==", 0), compare(Field.CREATE, "<", 1), absent("/none"))
    assert not await holds(store, compare(Field.MOD, ">", 0))
    assert not await holds(store, compare(Field.VALUE, "==", b""))
    assert not await holds(store, compare(Field.VALUE, "!=", b"x"))


async def test_deletions_are_invisible_to_compares_of_a_prefix(store: Store) -> None:
    await store.txn(put("/p/1"))
    revision = (await store.txn(put("/p/2"))).revision
    await store.txn(Transaction(then=(Delete(key="/p/1"),)))
    assert await holds(store, nothing_newer("/p/", revision))
    await store.txn(put("/p/3"))
    assert not await holds(store, nothing_newer("/p/", revision))


async def test_a_transaction_writes_a_key_once(store: Store) -> None:
    for operations in (
        (Put(key="/k", value=b"1"), Put(key="/k", value=b"2")),
        (Put(key="/p/k", value=b""), Delete(key="/p/", prefix=True)),
    ):
        with pytest.raises(Refused):
            await store.txn(Transaction(then=operations))
        with pytest.raises(Refused):
            await store.txn(Transaction(then=(), otherwise=operations))
    assert await store.snapshot(["/"]) == (1, ())


async def test_at_most_128_operations(store: Store) -> None:
    puts = tuple(Put(key=f"/p/{number}", value=b"") for number in range(129))
    with pytest.raises(Refused):
        await store.txn(Transaction(then=puts))
    assert (await store.txn(Transaction(then=puts[:128]))).revision == 2


async def test_what_is_too_large_is_refused(store: Store) -> None:
    with pytest.raises(Refused):
        await store.txn(put("/k", bytes(1600 * 1024)))
    with pytest.raises(Refused):
        await store.txn(put("/k", bytes(2600 * 1024)))
    assert (await store.txn(put("/k", bytes(1024 * 1024)))).revision == 2


async def test_a_put_without_lease_frees_the_key(store: Store) -> None:
    lease = await store.grant(60)
    await store.txn(Transaction(then=tuple(Put(key=f"/{name}", value=b"", lease=lease) for name in "ab")))
    await store.txn(put("/a"))
    await store.revoke(lease)
    revision, rows = await store.snapshot(["/"])
    assert (revision, [row.key for row in rows]) == (4, ["/a"])


async def test_a_put_keeps_the_creation_even_under_another_lease(store: Store) -> None:
    first, second = await store.grant(60), await store.grant(60)
    await store.txn(put("/k", b"1", first))
    await store.txn(put("/k", b"2", second))
    (row,) = (await store.snapshot(["/k"]))[1]
    assert (row.create_revision, row.mod_revision, row.lease) == (2, 3, second)
    await store.revoke(first)
    assert await holds(store, unchanged(row))
    await store.revoke(second)
    await store.txn(put("/k"))
    assert not await holds(store, Compare(key="/k", field=Field.CREATE, operator="==", operand=2))


async def test_a_refused_guard_makes_no_revision(store: Store) -> None:
    await store.txn(put("/k"))
    guarded = Transaction(compares=(absent("/k"),), then=(Put(key="/k", value=b"x"),))
    assert await store.txn(guarded) == Outcome(succeeded=False, revision=2, answers=())
    nothing = Transaction(then=(Delete(key="/none/", prefix=True),))
    assert await store.txn(nothing) == Outcome(succeeded=True, revision=2, answers=(None,))


async def test_count_and_newest_of_a_prefix_in_one_question(store: Store) -> None:
    for number in range(3):
        await store.txn(put(f"/p/{number}", b"value"))
    question = Transaction(then=(Range(key="/p/", prefix=True, limit=1, keys_only=True, newest_first=True),))
    outcome = await store.txn(question)
    (answer,) = outcome.answers
    assert isinstance(answer, Rows)
    assert [(row.key, row.value, row.mod_revision) for row in answer.rows] == [("/p/2", b"", 4)]
    assert (answer.count, outcome.revision) == (3, 4)


async def test_a_snapshot_has_every_row_once_at_one_revision(store: Store) -> None:
    names = [f"/{letter}/{number:04}" for letter in "abc" for number in range(700)]
    for start in range(0, len(names), 100):
        batch = names[start : start + 100]
        await store.txn(Transaction(then=tuple(Put(key=name, value=b"v") for name in batch)))
    revision, rows = await store.snapshot(["/c/", "/a/"])
    assert revision == 1 + len(names) // 100
    assert [row.key for row in rows] == names[1400:] + names[:700]


async def test_a_lease_ends_with_all_its_keys_in_one_batch(store: Store) -> None:
    watch = store.watch("/p/", 2)
    # Two seconds are the least that etcd gives.
    lease = await store.grant(1)
    assert await store.refresh(lease) == 2
    puts = tuple(Put(key=f"/p/{name}", value=b"", lease=lease) for name in "ba")
    assert (await store.txn(Transaction(then=puts))).revision == 2
    assert [event.key for event in (await next_events(watch)).events] == ["/p/b", "/p/a"]
    gone = (Event(key="/p/a", row=None), Event(key="/p/b", row=None))
    assert await next_events(watch) == Batch(revision=3, events=gone)
    assert await store.refresh(lease) == 0
    with pytest.raises(LeaseGone):
        await store.txn(put("/p/c", b"", lease))
    await store.revoke(lease)
    await watch.close()


async def test_refreshing_keeps_a_lease(store: Store) -> None:
    kept, ended = await store.grant(2), await store.grant(2)
    await store.txn(Transaction(then=(Put(key="/kept", value=b"", lease=kept),)))
    await store.txn(Transaction(then=(Put(key="/ended", value=b"", lease=ended),)))

    async def only_one_is_left() -> bool:
        assert await store.refresh(kept) == 2
        return [row.key for row in (await store.snapshot(["/"]))[1]] == ["/kept"]

    await eventually(only_one_is_left)


async def test_a_watch_begins_in_the_past_and_goes_on(store: Store) -> None:
    await store.txn(put("/p/1", b"1"))
    await store.txn(put("/q/1"))
    await store.txn(
        Transaction(then=(Put(key="/p/2", value=b"2"), Delete(key="/p/1"), Put(key="/q", value=b"")))
    )
    watch = store.watch("/p/", 3)
    batch = await next_events(watch)
    assert (batch.revision, [(event.key, event.row is None) for event in batch.events]) == (
        4,
        [("/p/2", False), ("/p/1", True)],
    )
    await store.txn(put("/p/3"))
    assert (await next_events(watch)).revision == 5
    assert store.statistics().applied == {"/p/": 5}
    await watch.close()
    assert store.statistics().applied == {}


async def test_the_status_names_the_store(store: Store) -> None:
    await store.txn(put("/k"))
    status = await store.status()
    assert status.cluster_id
    assert (status.revision, status.alarms) == (2, ())
    assert store.statistics().connected


async def test_a_watch_of_what_is_forgotten(store: Store) -> None:
    for _ in range(4):
        await store.txn(put("/k"))
    if isinstance(store, ModelPort):
        store.model.compact(4)
    else:
        await compact(store.statistics().member, 4)
    watch = store.watch("/k", 3)
    with pytest.raises(Compacted) as raised:
        await next_events(watch)
    assert raised.value.revision == 4
    later = store.watch("/k", 5)
    assert (await next_events(later)).revision == 5
    await later.close()
