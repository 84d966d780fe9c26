"""The time in what nodes write: put on behind their back and taken off before they read, so it decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from pgcat_cluster.agreement.keys import Keys, Kind
from pgcat_cluster.agreement.transactions import (
    Batch,
    Event,
    Operation,
    Outcome,
    Put,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.fleet.store import Store, StoreStatistics, StoreStatus, Watch

STAMPED = frozenset(
    (
        Kind.SCHEMA,
        Kind.ACCEPTED,
        Kind.COORD,
        Kind.LIVE,
        Kind.ACK,
        Kind.VERDICT,
        Kind.BAN,
        Kind.STATUS_CONFIG,
        Kind.STATUS_COMMAND,
        Kind.STATUS_ACTIVATE,
    )
)
"""What `fleet events` tells of the nodes. What operators write stays as they wrote it."""

_OPENING = b'"at":"'
_LENGTH = len(_OPENING) + len('2026-01-01T00:00:00.000Z"}')


class Stamped:
    """A store whose keys of one fleet say when they were written: `at`, RFC 3339 in UTC, by our wall clock."""

    def __init__(self, store: Store, keys: Keys, *, wall_s: Callable[[], float]) -> None:
        self._store = store
        self._keys = keys
        self._wall_s = wall_s

    async def snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        revision, rows = await self._store.snapshot(prefixes)
        return revision, tuple(map(self._plain, rows))

    def watch(self, prefix: str, from_revision: int) -> Watch:
        return _PlainWatch(self._store.watch(prefix, from_revision), self._plain)

    async def txn(self, transaction: Transaction) -> Outcome:
        at = datetime.fromtimestamp(self._wall_s(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        outcome = await self._store.txn(
            replace(
                transaction,
                then=tuple(self._stamped(operation, at) for operation in transaction.then),
                otherwise=tuple(self._stamped(operation, at) for operation in transaction.otherwise),
            )
        )
        return replace(outcome, answers=tuple(map(self._plain_rows, outcome.answers)))

    async def grant(self, ttl_s: int) -> int:
        return await self._store.grant(ttl_s)

    async def refresh(self, lease: int) -> int:
        return await self._store.refresh(lease)

    async def revoke(self, lease: int) -> None:
        await self._store.revoke(lease)

    async def status(self) -> StoreStatus:
        return await self._store.status()

    def statistics(self) -> StoreStatistics:
        return self._store.statistics()

    async def close(self) -> None:
        await self._store.close()

    def _is_stamped(self, key: str) -> bool:
        named = self._keys.named(key)
        return named is not None and named.kind in STAMPED

    def _stamped(self, operation: Operation, at: str) -> Operation:
        if not isinstance(operation, Put) or not self._is_stamped(operation.key):
            return operation
        comma = b"" if operation.value == b"{}" else b","
        return replace(operation, value=b'%b%b%b%b"}' % (operation.value[:-1], comma, _OPENING, at.encode()))

    def _plain(self, row: Row) -> Row:
        value = row.value
        if not value[-_LENGTH:].startswith(_OPENING) or not self._is_stamped(row.key):
            return row
        return replace(row, value=value[:-_LENGTH].removesuffix(b",") + b"}")

    def _plain_rows(self, answer: Rows | None) -> Rows | None:
        return None if answer is None else replace(answer, rows=tuple(map(self._plain, answer.rows)))


class _PlainWatch:
    """A watch whose rows bear no time."""

    def __init__(self, watch: Watch, plain: Callable[[Row], Row]) -> None:
        self._watch = watch
        self._plain = plain

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Batch:
        batch = await anext(self._watch)
        events = tuple(
            event if event.row is None else Event(key=event.key, row=self._plain(event.row))
            for event in batch.events
        )
        return replace(batch, events=events)

    async def close(self) -> None:
        await self._watch.close()


class _At(msgspec.Struct):
    at: str = ""


def written_at(keys: Keys, batch: Batch) -> datetime | None:
    """When a revision was written, by the clock of the node that wrote it; None if nobody said so."""
    for event in batch.events:
        named = keys.named(event.key)
        if event.row is None or named is None or named.kind not in STAMPED:
            continue
        try:
            return datetime.fromisoformat(msgspec.json.decode(event.row.value, type=_At).at)
        except (msgspec.DecodeError, ValueError):
            continue
    return None
