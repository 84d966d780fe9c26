"""The way of one node to the store: late, cut in one direction or both, and with answers that are lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import structs

from pgcat_cluster.agreement.transactions import Batch, Outcome, Row, Transaction
from pgcat_cluster.fleet.model import Cursor, ModelStore
from pgcat_cluster.fleet.store import StoreFault, StoreStatistics, StoreStatus, Unavailable, Unknown
from tests.simulation.world import STORE, World

CALL_DEADLINE_S = 1.5
# By the rules of the layer in front of etcd: so long until a silent stream is given up, or one without a leader.
_SILENT_S = 6.0
_LEADERLESS_S = 1.8

_Answer = TypeVar("_Answer")


class SimulatedStore:
    """The port to the store (`pgcat_cluster.fleet.store.Store`) of the node `name`.

    A request is on its way as soon as it was sent, whatever becomes of the node; so is its answer. `asked` is
    told each transaction as it arrives.
    """

    def __init__(self, world: World, name: str, asked: Callable[[Transaction], None]) -> None:
        self._world = world
        self._name = name
        self._asked = asked
        self.watches: list[SimulatedWatch] = []
        self.is_gone = False

    async def snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        return await self._ask(lambda store, now: store.snapshot(prefixes, now))

    def watch(self, prefix: str, from_revision: int) -> SimulatedWatch:
        watch = SimulatedWatch(self._world, self._name, prefix, from_revision, self.watches)
        self.watches.append(watch)
        watch.stir()
        return watch

    async def txn(self, transaction: Transaction) -> Outcome:
        weaken = self._world.weaken
        if weaken is not None:
            kept = tuple(compare for compare in transaction.compares if not weaken(transaction, compare))
            transaction = structs.replace(transaction, compares=kept)

        def carry_out(store: ModelStore, now: float) -> Outcome:
            before = store.revision
            outcome = store.txn(transaction, now)
            if store.revision > before:
                self._asked(transaction)
            return outcome

        return await self._ask(carry_out, transaction)

    async def grant(self, ttl_s: int) -> int:
        return await self._ask(lambda store, now: store.grant(ttl_s, now))

    async def refresh(self, lease: int) -> int:
        return await self._ask(lambda store, now: store.refresh(lease, now))

    async def revoke(self, lease: int) -> None:
        await self._ask(lambda store, now: store.revoke(lease, now))

    async def status(self) -> StoreStatus:
        return await self._ask(lambda store, _now: store.status())

    def statistics(self) -> StoreStatistics:
        applied = {watch.prefix: watch.applied for watch in self.watches}
        return StoreStatistics(
            connected=True,
            member="model",
            version="model",
            answer_age_s=None,
            applied=applied,
            rotations=0,
            logins=0,
        )

    async def close(self) -> None:
        for watch in tuple(self.watches):
            await watch.close()

    async def _ask(
        self, question: Callable[[ModelStore, float], _Answer], transaction: Transaction | None = None
    ) -> _Answer:
        world, clock = self._world, self._world.clock
        answered: asyncio.Future[_Answer] = clock.create_future()
        going_s, coming_s = (world.chance.uniform(0.0005, 0.003) for _ in range(2))

        def fail(fault: StoreFault) -> None:
            if not answered.done():
                answered.set_exception(fault)

        def succeed(answer: _Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        def give_up() -> None:
            fail(Unavailable("no answer") if transaction is None else Unknown("the answer was lost"))

        def arrive() -> None:
            if transaction is not None and world.keeps(transaction, arrive):
                clock.after(CALL_DEADLINE_S, give_up)
                return
            if not world.passes(self._name, STORE):
                clock.after(CALL_DEADLINE_S, lambda: fail(Unavailable("no answer")))
                return
            try:
                answer = question(world.store, clock.now)
            except StoreFault as fault:
                clock.after(coming_s, lambda fault=fault: fail(fault))  # type: ignore[misc]
                return
            is_lost = not world.passes(STORE, self._name) or world.store_delay_s > CALL_DEADLINE_S
            if world.answers_lost and transaction is not None:
                world.answers_lost -= 1
                is_lost = True
            if is_lost:
                clock.after(CALL_DEADLINE_S, give_up)
            else:
                clock.after(coming_s + world.store_delay_s, lambda: succeed(answer))

        if not self.is_gone:
            clock.after(going_s, arrive)
        return await answered


class SimulatedWatch:
    """What happens below a prefix, told some time after it happened, in order."""

    def __init__(
        self,
        world: World,
        node: str,
        prefix: str,
        from_revision: int,
        watches: list[SimulatedWatch],
    ) -> None:
        self.prefix = prefix
        self._world = world
        self._node = node
        self._watches = watches
        self._cursor = Cursor(world.store, prefix, from_revision)
        self._told: deque[Batch] = deque()
        self._fault: StoreFault | None = None
        self._arrived = asyncio.Event()
        self._is_due = False

    @property
    def applied(self) -> int:
        return self._cursor.applied

    def stir(self) -> None:
        """Something happened: it will be told."""
        if self._is_due or self._fault is not None:
            return
        self._is_due = True
        world, plan = self._world, self._world.plan
        delay_s = world.chance.uniform(0.0005, 0.003)
        if plan.lag_share and world.chance.random() < plan.lag_share:
            delay_s += world.chance.uniform(0, plan.lag_s)
        delay_s += world.lag_by_node.get(self._node, 0.0) + world.lag_by_prefix.get(self.prefix, 0.0)
        world.clock.after(delay_s, self._tell)

    def _tell(self) -> None:
        self._is_due = False
        world = self._world
        if not world.round_trips(STORE, self._node):
            self._end_after(_SILENT_S, "silent")
            return
        if not world.store.has_leader:
            self._end_after(_LEADERLESS_S, "no leader")
            return
        try:
            while (batch := self._cursor.take()) is not None:
                if batch.events:
                    self._told.append(batch)
        except StoreFault as fault:
            self._fault = fault
        self._arrived.set()

    def _end_after(self, delay_s: float, reason: str) -> None:
        """Nobody says that a stream is dead: it is found out."""

        def end() -> None:
            self._is_due = False
            self._fault = self._fault or Unavailable(reason)
            self._arrived.set()

        self._is_due = True
        self._world.clock.after(delay_s, end)

    def __aiter__(self) -> SimulatedWatch:
        return self

    async def __anext__(self) -> Batch:
        while True:
            if self._told:
                return self._told.popleft()
            if self._fault is not None:
                raise self._fault
            self._arrived.clear()
            await self._arrived.wait()

    async def close(self) -> None:
        if self in self._watches:
            self._watches.remove(self)
        self._fault = self._fault or Unavailable("closed")
        self._arrived.set()
