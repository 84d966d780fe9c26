"""A store in memory that follows etcd's rules, with its faults on demand: for simulations and tests."""

from __future__ import annotations

import asyncio
import bisect
import copy
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct, structs

from pgcat_cluster.agreement.transactions import (
    Batch,
    Compare,
    Delete,
    Event,
    Field,
    Operation,
    Outcome,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.fleet.store import (
    Compacted,
    LeaseGone,
    Refused,
    StoreStatistics,
    StoreStatus,
    Unavailable,
    Unknown,
)

_Answer = TypeVar("_Answer")

OPERATIONS_MAX = 128
REQUEST_BYTES_MAX = 1536 * 1024
LEASE_TTL_MIN_S = 2
# etcd looks for ended leases that often, so a lease may outlive its time by as much.
LEASE_CHECK_S = 0.5


class _Lease:
    __slots__ = ("ends_s", "keys", "ttl_s")

    def __init__(self, ttl_s: int, now_s: float) -> None:
        self.ttl_s = ttl_s
        self.keys: set[str] = set()
        self.extend(now_s)

    def extend(self, now_s: float) -> None:
        self.ends_s = now_s + self.ttl_s

    @property
    def noticed_s(self) -> float:
        return math.ceil(self.ends_s / LEASE_CHECK_S) * LEASE_CHECK_S


class _Contents(Struct):
    """All that a store holds; a copy of it is a backup."""

    revision: int = 1
    compacted: int = 0
    rows: dict[str, Row] = {}
    # The keys of `rows` in order.
    keys: list[str] = []
    # Every revision since the newest compaction that changed something.
    history: list[Batch] = []
    leases: dict[int, _Lease] = {}
    next_lease: int = 1


class ModelStore:
    """The rules, without a clock: whoever calls says what time it is.

    Time may stand still but never goes back. Leases that have ended by then vanish before anything else is done.
    """

    def __init__(self, *, cluster_id: int = 1) -> None:
        self.cluster_id = cluster_id
        self.has_leader = True
        # Rises when an old state is restored: watches of an earlier epoch are cut.
        self.epoch = 0
        self._contents = _Contents()
        self._listeners: list[Callable[[], None]] = []

    @property
    def revision(self) -> int:
        return self._contents.revision

    @property
    def compacted(self) -> int:
        """Of what happened before this revision nothing is known."""
        return self._contents.compacted

    # -- reading

    def rows(self) -> dict[str, Row]:
        """All there is, whether or not it could be asked for now."""
        return dict(self._contents.rows)

    def snapshot(self, prefixes: Sequence[str], now_s: float) -> tuple[int, tuple[Row, ...]]:
        self._attend(now_s)
        return self.revision, tuple(row for prefix in prefixes for row in self._below(prefix))

    def history(self, prefix: str, from_revision: int) -> Iterator[Batch]:
        """What happened below a prefix, of what had happened when this was called. Raises Compacted."""
        contents = self._contents
        if from_revision < contents.compacted:
            raise Compacted(contents.compacted)
        first = bisect.bisect_left(contents.history, from_revision, key=lambda batch: batch.revision)
        later = (contents.history[index] for index in range(first, len(contents.history)))
        return _below_only(prefix, later)

    def status(self) -> StoreStatus:
        size_bytes = sum(len(row.key) + len(row.value) for row in self._contents.rows.values())
        return StoreStatus(
            cluster_id=self.cluster_id,
            revision=self.revision,
            version="model",
            size_bytes=size_bytes,
            quota_bytes=None,
            alarms=(),
        )

    # -- writing

    def txn(self, transaction: Transaction, now_s: float) -> Outcome:
        """Carry out a transaction. Raises Refused, LeaseGone, and Unavailable without a leader."""
        self._attend(now_s)
        _check(transaction)
        succeeded = all(self._holds(compare) for compare in transaction.compares)
        operations = transaction.then if succeeded else transaction.otherwise
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and not self._is_alive(operation.lease):
                raise LeaseGone("requested lease not found")
        revision = self.revision + 1
        events: list[Event] = []
        answers = tuple(self._carry_out(operation, revision, events) for operation in operations)
        self._commit(revision, events)
        return Outcome(succeeded=succeeded, revision=self.revision, answers=answers)

    def grant(self, ttl_s: int, now_s: float) -> int:
        self._attend(now_s)
        lease = self._contents.next_lease
        self._contents.next_lease += 1
        self._contents.leases[lease] = _Lease(max(ttl_s, LEASE_TTL_MIN_S), now_s)
        return lease

    def refresh(self, lease: int, now_s: float) -> int:
        self._attend(now_s)
        held = self._contents.leases.get(lease)
        # Between its end and the next look for ended leases it still has its keys, but not for long.
        if held is None or held.ends_s <= now_s:
            return 0
        held.extend(now_s)
        return held.ttl_s

    def revoke(self, lease: int, now_s: float) -> None:
        self._attend(now_s)
        if lease in self._contents.leases:
            self._end(lease)

    def compact(self, revision: int) -> None:
        """Forget what happened before a revision. Raises Compacted or Refused for one long gone, or to come."""
        contents = self._contents
        if revision <= contents.compacted:
            raise Compacted(contents.compacted)
        if revision > contents.revision:
            raise Refused("required revision is a future revision")
        contents.compacted = revision
        kept = bisect.bisect_left(contents.history, revision, key=lambda batch: batch.revision)
        del contents.history[:kept]

    # -- time and faults

    def advance(self, now_s: float) -> None:
        """End the leases whose time is up. Without a leader none ends."""
        if not self.has_leader:
            return
        ended = [
            (held.noticed_s, lease)
            for lease, held in self._contents.leases.items()
            if held.noticed_s <= now_s
        ]
        for _noticed_s, lease in sorted(ended):
            self._end(lease)

    def next_end_s(self) -> float | None:
        """When the next lease ends unless it is refreshed."""
        if not self.has_leader:
            return None
        return min((held.noticed_s for held in self._contents.leases.values()), default=None)

    def lose_leader(self) -> None:
        """Nothing is read or written until the next election."""
        self.has_leader = False
        self._tell()

    def elect(self, now_s: float) -> None:
        """A new leader gives every lease its full time again."""
        self.has_leader = True
        for held in self._contents.leases.values():
            held.extend(now_s)
        self._tell()

    def backup(self) -> Callable[[], None]:
        """Remember this state: what is returned restores it, as an old disk would, and cuts all watches."""
        saved = copy.deepcopy(self._contents)

        def restore() -> None:
            self._contents = copy.deepcopy(saved)
            self.epoch += 1
            self._tell()

        return restore

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    # -- inside

    def _attend(self, now_s: float) -> None:
        self.advance(now_s)
        if not self.has_leader:
            raise Unavailable("no leader")

    def _is_alive(self, lease: int) -> bool:
        return lease in self._contents.leases

    def _below(self, prefix: str) -> Iterator[Row]:
        keys, rows = self._contents.keys, self._contents.rows
        for index in range(bisect.bisect_left(keys, prefix), len(keys)):
            if not keys[index].startswith(prefix):
                return
            yield rows[keys[index]]

    def _matching(self, key: str, prefix: bool) -> list[Row]:
        if prefix:
            return list(self._below(key))
        row = self._contents.rows.get(key)
        return [] if row is None else [row]

    def _holds(self, compare: Compare) -> bool:
        rows = self._matching(compare.key, compare.prefix)
        if not rows:
            if compare.field is Field.VALUE:
                return False
            rows = [_ZERO]
        return all(_compared(row, compare) for row in rows)

    def _carry_out(self, operation: Operation, revision: int, events: list[Event]) -> Rows | None:
        match operation:
            case Put():
                events.append(Event(key=operation.key, row=self._put(operation, revision)))
                return None
            case Delete():
                gone = self._matching(operation.key, operation.prefix)
                events.extend(self._delete(row.key) for row in gone)
                return None
            case Range():
                return _ranged(operation, self._matching(operation.key, operation.prefix))

    def _put(self, put: Put, revision: int) -> Row:
        contents = self._contents
        before = contents.rows.get(put.key)
        row = Row(
            key=put.key,
            value=put.value,
            create_revision=revision if before is None else before.create_revision,
            mod_revision=revision,
            lease=put.lease,
        )
        if before is None:
            bisect.insort(contents.keys, put.key)
        elif before.lease:
            contents.leases[before.lease].keys.discard(put.key)
        if put.lease:
            contents.leases[put.lease].keys.add(put.key)
        contents.rows[put.key] = row
        return row

    def _delete(self, key: str) -> Event:
        contents = self._contents
        row = contents.rows.pop(key)
        del contents.keys[bisect.bisect_left(contents.keys, key)]
        if row.lease:
            contents.leases[row.lease].keys.discard(key)
        return Event(key=key, row=None)

    def _end(self, lease: int) -> None:
        events = [self._delete(key) for key in sorted(self._contents.leases[lease].keys)]
        del self._contents.leases[lease]
        self._commit(self.revision + 1, events)

    def _commit(self, revision: int, events: list[Event]) -> None:
        if events:
            self._contents.revision = revision
            self._contents.history.append(Batch(revision=revision, events=tuple(events)))
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class Cursor:
    """Where one watch of a model store stands."""

    def __init__(self, store: ModelStore, prefix: str, from_revision: int) -> None:
        self.prefix = prefix
        # The newest revision that is taken completely.
        self.applied = from_revision - 1
        self._store = store
        self._epoch = store.epoch

    def take(self, up_to: int | None = None) -> Batch | None:
        """The next batch up to a revision; without events if nothing else happened; None if that is taken.

        Raises Compacted, and Unavailable without a leader or after an old state was restored.
        """
        store = self._store
        if store.epoch != self._epoch:
            raise Unavailable("the store was restored")
        if not store.has_leader:
            raise Unavailable("no leader")
        newest = store.revision if up_to is None else min(up_to, store.revision)
        batch = next(store.history(self.prefix, self.applied + 1), None)
        if batch is None or batch.revision > newest:
            if newest <= self.applied:
                return None
            batch = Batch(revision=newest, events=())
        self.applied = batch.revision
        return batch


class Faults:
    """What goes wrong on the way between one node and the store, until it is set right again."""

    def __init__(self) -> None:
        # Every answer takes so long.
        self.delay_s = 0.0
        # Calls fail without effect, and watches end.
        self.cut = False
        # So many of the next transactions end as Unknown: carried out, or not.
        self.answers_lost = 0
        self.requests_lost = 0
        # Watches of these prefixes do not yet tell what happened after a revision.
        self.held_at: dict[str, int] = {}


class ModelPort:
    """The port of one node to a model store: asynchronous, with faults of its own.

    `now_s` and `pause` are the clock: the loop's, or one that stands still until it is moved.
    """

    def __init__(
        self, store: ModelStore, *, now_s: Callable[[], float], pause: Callable[[float], Awaitable[None]]
    ) -> None:
        self.model = store
        self.faults = Faults()
        self._now_s = now_s
        self._pause = pause
        self._watches: set[ModelWatch] = set()
        self._answered_s: float | None = None
        store.listen(self.stir)

    def stir(self) -> None:
        """Let the watches look again: to be called after the faults were changed."""
        for watch in self._watches:
            watch.stir()

    def cancel(self) -> None:
        """End all watches, as a member does that restarts."""
        for watch in tuple(self._watches):
            watch.cut("cancelled")

    async def snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        return await self._ask(lambda now_s: self.model.snapshot(prefixes, now_s))

    def watch(self, prefix: str, from_revision: int) -> ModelWatch:
        watch = ModelWatch(self, prefix, from_revision, self._watches.discard)
        self._watches.add(watch)
        return watch

    async def txn(self, transaction: Transaction) -> Outcome:
        faults = self.faults
        if faults.requests_lost:
            faults.requests_lost -= 1
            await self._pause(faults.delay_s)
            raise Unknown("the request was lost")
        if faults.answers_lost:
            faults.answers_lost -= 1
            await self._ask(lambda now_s: self.model.txn(transaction, now_s))
            raise Unknown("the answer was lost")
        return await self._ask(lambda now_s: self.model.txn(transaction, now_s))

    async def grant(self, ttl_s: int) -> int:
        return await self._ask(lambda now_s: self.model.grant(ttl_s, now_s))

    async def refresh(self, lease: int) -> int:
        return await self._ask(lambda now_s: self.model.refresh(lease, now_s))

    async def revoke(self, lease: int) -> None:
        await self._ask(lambda now_s: self.model.revoke(lease, now_s))

    async def status(self) -> StoreStatus:
        return await self._ask(lambda _now_s: self.model.status())

    def statistics(self) -> StoreStatistics:
        age_s = None if self._answered_s is None else self._now_s() - self._answered_s
        return StoreStatistics(
            connected=not self.faults.cut,
            member="model",
            version="model",
            answer_age_s=age_s,
            applied={watch.prefix: watch.applied for watch in self._watches},
            rotations=0,
            logins=0,
        )

    async def close(self) -> None:
        self.cancel()

    async def keep_time(self) -> None:
        """Let leases end although nobody asks for anything, until cancelled."""
        while True:
            await self._pause(LEASE_CHECK_S)
            self.model.advance(self._now_s())

    async def _ask(self, question: Callable[[float], _Answer]) -> _Answer:
        if self.faults.cut:
            await self._pause(self.faults.delay_s)
            raise Unavailable("cut off")
        answer = question(self._now_s())
        await self._pause(self.faults.delay_s)
        self._answered_s = self._now_s()
        return answer


class ModelWatch:
    """A watch through a port, with the faults of that port."""

    def __init__(
        self, port: ModelPort, prefix: str, from_revision: int, ended: Callable[[ModelWatch], None]
    ) -> None:
        self.prefix = prefix
        self._port = port
        self._cursor = Cursor(port.model, prefix, from_revision)
        self._ended = ended
        self._stirred = asyncio.Event()
        self._cut = ""

    @property
    def applied(self) -> int:
        return self._cursor.applied

    def stir(self) -> None:
        self._stirred.set()

    def cut(self, reason: str) -> None:
        self._cut = reason
        self.stir()

    def __aiter__(self) -> ModelWatch:
        return self

    async def __anext__(self) -> Batch:
        faults = self._port.faults
        while True:
            if self._cut or faults.cut:
                raise Unavailable(self._cut or "cut off")
            self._stirred.clear()
            batch = self._cursor.take(faults.held_at.get(self.prefix))
            if batch is not None:
                return batch
            await self._stirred.wait()

    async def close(self) -> None:
        self._ended(self)
        self.cut("closed")


# What stands for the keys of a prefix that has none.
_ZERO = Row(key="", value=b"", create_revision=0, mod_revision=0)


def _compared(row: Row, compare: Compare) -> bool:
    known: int | bytes
    match compare.field:
        case Field.MOD:
            known = row.mod_revision
        case Field.CREATE:
            known = row.create_revision
        case Field.VALUE:
            known = row.value
        case Field.LEASE:
            known = row.lease
    operand = compare.operand
    match compare.operator:
        case "==":
            return known == operand
        case "!=":
            return known != operand
        case "<":
            return known < operand  # type: ignore[operator] # both are numbers, or both are bytes
        case ">":
            return known > operand  # type: ignore[operator]
    raise AssertionError(compare.operator)


def _ranged(wanted: Range, rows: list[Row]) -> Rows:
    count = len(rows)
    if wanted.newest_first:
        rows = sorted(rows, key=lambda row: row.mod_revision, reverse=True)
    if wanted.limit:
        rows = rows[: wanted.limit]
    if wanted.keys_only:
        rows = [structs.replace(row, value=b"") for row in rows]
    return Rows(rows=tuple(rows), count=count)


def _below_only(prefix: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        events = tuple(event for event in batch.events if event.key.startswith(prefix))
        if events:
            yield Batch(revision=batch.revision, events=events)


def _check(transaction: Transaction) -> None:
    """Raises Refused for what etcd refuses before it looks at any key."""
    parts = (transaction.compares, transaction.then, transaction.otherwise)
    if any(len(part) > OPERATIONS_MAX for part in parts):
        raise Refused("too many operations in txn request")
    if not all(part.key for some in parts for part in some):
        raise Refused("key is not provided")
    for operations in (transaction.then, transaction.otherwise):
        _check_overlap(operations)
    if sum(_size_bytes(part) for some in parts for part in some) > REQUEST_BYTES_MAX:
        raise Refused("request is too large")


def _check_overlap(operations: Sequence[Operation]) -> None:
    put: set[str] = set()
    for operation in operations:
        if isinstance(operation, Put):
            if operation.key in put:
                raise Refused("duplicate key given in txn request")
            put.add(operation.key)
    for operation in operations:
        if isinstance(operation, Delete) and any(
            key.startswith(operation.key) if operation.prefix else key == operation.key for key in put
        ):
            raise Refused("duplicate key given in txn request")


def _size_bytes(part: Compare | Operation) -> int:
    """Nearly what it takes on the wire."""
    match part:
        case Put():
            return len(part.key) + len(part.value)
        case Compare(operand=bytes() as operand):
            return len(part.key) + len(operand)
        case _:
            return len(part.key)
