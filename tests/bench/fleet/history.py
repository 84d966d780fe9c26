"""Hears everything that is written to a fleet's keys, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Batch
from pgcat_cluster.fleet.store import Store
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.tasks import spawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One revision with the keys that it changed, below the fleet's root."""

    revision: int
    heard_s: float
    keys: tuple[str, ...]


class History:
    """One more watcher of the store: `memory` is what there is, `written` how it came about."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store = store
        self.keys = keys
        self.memory = Memory()
        self.written: list[Written] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> History:
        root = self.keys.root
        revision, rows = await self.store.snapshot((root,))
        self.memory.replace(root, rows, revision)
        self._task = spawn(self._follow(revision), "history")
        return self

    async def __aexit__(self, *_why: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self.store.close()

    async def _follow(self, revision: int) -> None:
        root = self.keys.root
        async for batch in self.store.watch(root, revision + 1):
            self._take(batch)

    def _take(self, batch: Batch) -> None:
        self.memory.apply(batch, self.keys.root)
        if batch.events:
            keys = tuple(self.keys.below(event.key) for event in batch.events)
            self.written.append(Written(revision=batch.revision, heard_s=monotonic_s(), keys=keys))
            self._changed.set()

    def since(self, instant_s: float) -> Sequence[Written]:
        return [one for one in self.written if one.heard_s >= instant_s]

    async def news(self) -> None:
        """Return once something more is written."""
        self._changed.clear()
        await self._changed.wait()

    async def revision(self) -> int:
        """The store's, whoever wrote."""
        return (await self.store.status()).revision
