"""A store whose answers are timed, for a node that wants to know how slow it is itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pgcat_cluster.agreement.transactions import Outcome, Row, Transaction
from pgcat_cluster.fleet.store import Store, StoreStatistics, StoreStatus, Watch

_Answer = TypeVar("_Answer")


class TimedStore:
    """The port, and how long each round trip took.

    Only answers count: silence tells of the store, and a snapshot takes as long as there is to read.
    """

    def __init__(self, store: Store, answered: Callable[[float], None], now_s: Callable[[], float]) -> None:
        self._store = store
        self._answered = answered
        self._now_s = now_s

    async def _timed(self, asked: Awaitable[_Answer]) -> _Answer:
        began_s = self._now_s()
        answer = await asked
        self._answered(self._now_s() - began_s)
        return answer

    async def snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        return await self._store.snapshot(prefixes)

    def watch(self, prefix: str, from_revision: int) -> Watch:
        return self._store.watch(prefix, from_revision)

    async def txn(self, transaction: Transaction) -> Outcome:
        return await self._timed(self._store.txn(transaction))

    async def grant(self, ttl_s: int) -> int:
        return await self._timed(self._store.grant(ttl_s))

    async def refresh(self, lease: int) -> int:
        return await self._timed(self._store.refresh(lease))

    async def revoke(self, lease: int) -> None:
        await self._timed(self._store.revoke(lease))

    async def status(self) -> StoreStatus:
        return await self._timed(self._store.status())

    def statistics(self) -> StoreStatistics:
        return self._store.statistics()

    async def close(self) -> None:
        await self._store.close()
