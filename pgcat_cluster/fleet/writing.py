"""Writes what the machines of a node ask for: no faster than the fleet allows, nothing without its lease."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping

from pgcat_cluster.agreement.bans import Decide, with_leases
from pgcat_cluster.agreement.pipeline import Bucket
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Field,
    Outcome,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.fleet.store import LeaseGone, Store, StoreFault, Unknown
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.topology.settings import Limits

_AGAIN_S = 0.5
_TRIES = 3


class Writing:
    """One write per key and one decision under way at a time.

    `lease` is the node's, 0 while it has none: then nothing is said, and what was to be said for good waits.
    `why_not` says why the store may only be read. `row` is what is known of a key, `done` is called when something
    ended.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        *,
        row: Callable[[str], Row | None],
        done: Callable[[], None],
        now_s: Callable[[], float],
    ) -> None:
        self.lease = 0
        self.why_not = ""
        self.due_s: float | None = None
        self.lease_is_gone: Callable[[], None] = lambda: None
        self._store = store
        self._row = row
        self._wrote: dict[str, tuple[int, int]] = {}
        self._limits = limits
        self._bucket = Bucket(limits.writes_per_second, limits.burst)
        self._done = done
        self._now_s = now_s
        self._wishes: dict[str, bytes | None] = {}
        self._lasting: dict[str, bytes] = {}
        self._not_before: dict[str, float] = {}
        self._writing: set[str] = set()
        self._waiting: list[tuple[Callable[[], Coroutine[None, None, None]], Callable[[], None]]] = []
        self._decisions: list[tuple[Decide, Callable[[Outcome | None], None]]] = []
        self._is_deciding = False
        self._tasks: set[asyncio.Task[None]] = set()

    def limit(self, limits: Limits) -> None:
        """The fleet allows so much from now on."""
        if limits != self._limits:
            self._limits = limits
            self._bucket = Bucket(limits.writes_per_second, limits.burst)

    # -- wishes

    def say(self, key: str, value: bytes) -> None:
        """Keep this value under the key, over every lease to come."""
        self._lasting[key] = value
        self._wishes[key] = value

    @property
    def said(self) -> dict[str, bytes]:
        """What is to stand under the node's lease from its first moment on."""
        return dict(self._lasting)

    def publish(self, key: str, value: bytes | None) -> None:
        """Put the key under the present lease, or delete it; of several wishes the newest counts."""
        self._wishes[key] = value

    def commit(self, transaction: Transaction, done: Callable[[Outcome | None], None]) -> None:
        """Carry out; None: nobody knows, or it was not tried."""
        reads_only = all(isinstance(operation, Range) for operation in transaction.then)
        if reads_only:
            self._spawn(self._carry_out(transaction, done))
        elif self.why_not:
            done(None)
        else:
            self._waiting.append((lambda: self._carry_out(transaction, done), lambda: done(None)))

    def decide(self, effect: Decide, done: Callable[[Outcome | None], None]) -> None:
        self._decisions.append((effect, done))

    def joined(self, said: Mapping[str, bytes]) -> None:
        """A new lease begins, and these stand under it; what was wished under the old one is void."""
        self._wishes = {key: value for key, value in self._lasting.items() if said.get(key) != value}
        self._not_before.clear()

    # -- carrying out

    def flush(self, now: float) -> None:
        """Send what may be sent now; `due_s` says when to come again for the rest."""
        self.due_s = None
        if not self.lease or self.why_not:
            self._wishes = {key: value for key, value in self._wishes.items() if key in self._lasting}
            decisions, self._decisions = self._decisions, []
            for _effect, done in decisions:
                done(None)
            if not self.lease:
                waiting, self._waiting = self._waiting, []
                for _begin, give_up in waiting:
                    give_up()
            return
        while self._waiting and self._may_write(now):
            begin, _give_up = self._waiting.pop(0)
            self._spawn(begin())
        for key in [key for key in self._wishes if key not in self._writing]:
            at_s = self._not_before.get(key, now)
            if at_s > now:
                self._wake(at_s)
            elif self._may_write(now):
                self._writing.add(key)
                self._spawn(self._write(key, self._wishes.pop(key), self.lease))
        if self._decisions and not self._is_deciding and self._may_write(now):
            self._is_deciding = True
            self._spawn(self._decide(*self._decisions.pop(0)))

    def _may_write(self, now: float) -> bool:
        at_s = self._bucket.take(now)
        if at_s is not None:
            self._wake(at_s)
        return at_s is None

    def _wake(self, at_s: float) -> None:
        self.due_s = at_s if self.due_s is None else min(self.due_s, at_s)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = spawn(work, "write to the store")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, key: str, value: bytes | None, lease: int) -> None:
        operation = Delete(key=key) if value is None else Put(key=key, value=value, lease=lease)
        try:
            await self._replace(operation)
        except StoreFault as fault:
            if isinstance(fault, LeaseGone) and lease == self.lease:
                self.lease_is_gone()
            # Whatever became of it, the machines see what stands; but what is said for good is said again.
            if key in self._lasting:
                self._wishes.setdefault(key, self._lasting[key])
                self._not_before[key] = self._now_s() + _AGAIN_S
        else:
            self._not_before.pop(key, None)
        finally:
            self._writing.discard(key)
        self._done()

    async def _replace(self, operation: Put | Delete) -> None:
        """Write over what stands under the key as we know it, and over nothing else.

        A write whose answer was lost may be carried out much later, by a member of the store that stood still:
        then it finds that another one has come before it, and does nothing.
        """
        key, known = operation.key, self._newest(operation.key)
        for _ in range(_TRIES):
            as_known = Compare(key=key, field=Field.MOD, operator="==", operand=known)
            outcome = await self._store.txn(
                Transaction(compares=(as_known,), then=(operation,), otherwise=(Range(key=key),))
            )
            if outcome.succeeded:
                stands = outcome.revision if isinstance(operation, Put) else 0
                self._wrote[key] = (outcome.revision, stands)
                return
            (answer,) = outcome.answers
            known = answer.rows[0].mod_revision if isinstance(answer, Rows) and answer.rows else 0
        raise Unknown(f"{key} changes all the time")

    def _newest(self, key: str) -> int:
        """The revision of what stands under the key as far as we know, 0 for nothing."""
        row = self._row(key)
        seen = 0 if row is None else row.mod_revision
        revision, stands = self._wrote.get(key, (0, 0))
        return stands if revision > seen else seen

    async def _carry_out(self, transaction: Transaction, done: Callable[[Outcome | None], None]) -> None:
        try:
            outcome = await self._store.txn(transaction)
        except StoreFault as fault:
            if isinstance(fault, LeaseGone):
                self.lease_is_gone()
            outcome = None
        done(outcome)
        self._done()

    async def _decide(self, effect: Decide, done: Callable[[Outcome | None], None]) -> None:
        try:
            granted = [await self._store.grant(math.ceil(length_s)) for length_s in effect.leases_s]
            outcome = await self._store.txn(with_leases(effect.transaction, granted))
        except StoreFault:
            outcome = None
        self._is_deciding = False
        done(outcome)
        self._done()
