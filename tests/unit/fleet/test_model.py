"""Time and faults of the model store; its rules are compared with etcd's among the live tests."""

from __future__ import annotations

import asyncio

import pytest

from pgcat_cluster.agreement.transactions import Batch, Delete, Event, Put, Transaction
from pgcat_cluster.fleet.model import Cursor, ModelPort, ModelStore
from pgcat_cluster.fleet.store import Compacted, StoreFault, Unavailable, Unknown
from tests.support.virtual import VirtualTime


def put(key: str, lease: int = 0) -> Transaction:
    return Transaction(then=(Put(key=key, value=b"", lease=lease),))


def revisions(cursor: Cursor, up_to: int | None = None) -> list[tuple[int, int]]:
    """What is taken: revisions, and how many events each has."""
    taken = []
    while (batch := cursor.take(up_to)) is not None:
        taken.append((batch.revision, len(batch.events)))
    return taken


class TestTime:
    def test_a_lease_ends_at_the_next_look_for_ended_ones(self) -> None:
        store = ModelStore()
        lease = store.grant(6, 0.1)
        store.txn(put("/k", lease), 0.1)
        assert store.next_end_s() == 6.5
        store.advance(6.4)
        assert store.revision == 2
        assert store.refresh(lease, 6.2) == 0
        store.advance(6.5)
        assert store.snapshot(["/"], 6.5) == (3, ())
        assert store.next_end_s() is None

    def test_any_question_sees_what_has_ended_by_then(self) -> None:
        store = ModelStore()
        first, second = store.grant(9, 0.0), store.grant(5, 0.0)
        for key, lease in (("/a", first), ("/b", second)):
            store.txn(put(key, lease), 0.0)
        assert store.refresh(first, 4.0) == 9
        assert store.txn(Transaction(), 12.5).revision == 4
        assert [row.key for row in store.snapshot(["/"], 12.5)[1]] == ["/a"]
        # Each lease has a revision of its own, in the order of their ends.
        assert list(store.history("/", 4)) == [Batch(revision=4, events=(Event(key="/b", row=None),))]

    def test_without_a_leader_nothing_is_done_and_an_election_gives_full_time(self) -> None:
        store = ModelStore()
        lease = store.grant(6, 0.0)
        store.txn(put("/k", lease), 0.0)
        watch = Cursor(store, "/", 2)
        store.lose_leader()
        for call in (
            lambda: store.txn(put("/l"), 8.0),
            lambda: store.snapshot(["/"], 8.0),
            lambda: store.refresh(lease, 8.0),
            watch.take,
        ):
            with pytest.raises(Unavailable):
                call()
        store.elect(8.0)
        assert store.next_end_s() == 14.0
        assert store.refresh(lease, 13.9) == 6
        assert revisions(watch) == [(2, 1)]


class TestWatching:
    def test_a_cursor_tells_how_far_it_is(self) -> None:
        store = ModelStore()
        store.txn(put("/p/1"), 0.0)
        store.txn(put("/q/1"), 0.0)
        store.txn(put("/q/2"), 0.0)
        cursor = Cursor(store, "/p/", 1)
        assert revisions(cursor) == [(2, 1), (4, 0)]
        assert cursor.applied == 4
        store.txn(Transaction(then=(Delete(key="/", prefix=True),)), 0.0)
        assert revisions(cursor) == [(5, 1)]

    def test_watches_lag_apart(self) -> None:
        store = ModelStore()
        for name in "abc":
            store.txn(put(f"/{name}"), 0.0)
        slow = Cursor(store, "/", 2)
        assert revisions(slow, up_to=3) == [(2, 1), (3, 1)]
        assert revisions(slow, up_to=2) == []
        assert revisions(slow) == [(4, 1)]

    def test_what_is_forgotten(self) -> None:
        store = ModelStore()
        for name in "abc":
            store.txn(put(f"/{name}"), 0.0)
        store.compact(3)
        assert revisions(Cursor(store, "/", 3)) == [(3, 1), (4, 1)]
        with pytest.raises(Compacted):
            Cursor(store, "/", 2).take()


def test_an_old_state_comes_back() -> None:
    store = ModelStore()
    lease = store.grant(6, 0.0)
    store.txn(put("/old", lease), 0.0)
    restore = store.backup()
    store.txn(put("/new"), 0.0)
    watch = Cursor(store, "/", 2)
    for _again in range(2):
        restore()
        revision, rows = store.snapshot(["/"], 0.0)
        assert (revision, [row.key for row in rows]) == (2, ["/old"])
        store.revoke(lease, 0.0)
        assert store.snapshot(["/"], 0.0) == (3, ())
    with pytest.raises(Unavailable):
        watch.take()


class TestPort:
    """The faults between one node and the store."""

    def setup_method(self) -> None:
        self.store = ModelStore()
        self.paused: list[float] = []
        self.port = ModelPort(self.store, now_s=lambda: 0.0, pause=self.pause)

    async def pause(self, duration_s: float) -> None:
        self.paused.append(duration_s)

    async def test_lost_requests_and_lost_answers_look_the_same(self) -> None:
        self.port.faults.requests_lost = self.port.faults.answers_lost = 1
        for key in ("/lost", "/done"):
            with pytest.raises(Unknown):
                await self.port.txn(put(key))
        await self.port.txn(put("/after"))
        assert [row.key for row in (await self.port.snapshot(["/"]))[1]] == ["/after", "/done"]

    async def test_one_node_is_cut_off_and_another_is_not(self) -> None:
        other = ModelPort(self.store, now_s=lambda: 0.0, pause=self.pause)
        watch = self.port.watch("/", 2)
        waiting = asyncio.gather(anext(watch), return_exceptions=True)
        await VirtualTime().settle()
        self.port.faults.cut = True
        self.port.stir()
        assert [type(fault) for fault in await waiting] == [Unavailable]
        for call in (self.port.txn(put("/k")), self.port.grant(5), self.port.status()):
            with pytest.raises(Unavailable):
                await call
        assert not self.port.statistics().connected
        assert (await other.txn(put("/k"))).revision == 2

    async def test_a_watch_is_held_back_and_goes_on(self) -> None:
        watch = self.port.watch("/", 2)
        self.port.faults.held_at["/"] = 2
        for key in ("/a", "/b"):
            await self.port.txn(put(key))
        assert (await anext(watch)).revision == 2
        waiting = asyncio.gather(anext(watch))
        await VirtualTime().settle()
        assert not waiting.done()
        del self.port.faults.held_at["/"]
        self.port.stir()
        assert (await waiting)[0].revision == 3
        self.port.cancel()
        with pytest.raises(StoreFault):
            await anext(watch)

    async def test_every_answer_takes_its_time(self) -> None:
        self.port.faults.delay_s = 0.25
        await self.port.txn(put("/k"))
        assert self.paused == [0.25]
