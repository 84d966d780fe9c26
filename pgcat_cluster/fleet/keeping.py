"""Writes down what a node goes by, whenever that changed, so that its next life can begin with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import structs

from pgcat_cluster.fleet.state import Known, State
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.telemetry.logs import get_logger

_KEEP_S = 1.0


class Keeping:
    """One file after the other, none of them for a revision alone. Without `state` nothing is kept.

    `done` is called when there may be more to write down.
    """

    def __init__(
        self,
        state: State | None,
        *,
        pause: Callable[[float], Awaitable[None]],
        done: Callable[[], None],
    ) -> None:
        self._state = state
        self._pause = pause
        self._done = done
        self._kept: Known | None = None
        self._task: asyncio.Task[None] | None = None
        self._disk: asyncio.Future[None] | None = None
        self._log = get_logger()

    def keep(self, known: Known | None) -> None:
        """What the node goes by now; None: nothing yet."""
        if self._state is None or known is None or (self._task is not None and not self._task.done()):
            return
        if (mark := structs.replace(known, revision=0)) != self._kept:
            self._kept = mark
            self._task = spawn(self._write(self._state, known), "write the cache file")

    def keep_anew(self) -> None:
        """The revisions of what was kept mean nothing any more: write all down again."""
        self._kept = None

    async def end(self, known: Known | None) -> None:
        """The node leaves: the last word on the disk is that others may have what was its own."""
        if self._task is not None:
            self._task.cancel()
        if self._disk is not None:
            # A thread can not be cancelled.
            await asyncio.gather(self._disk, return_exceptions=True)
        if self._state is not None and known is not None:
            self._state.keep(structs.replace(known, parted=True))

    async def _write(self, state: State, known: Known) -> None:
        self._disk = asyncio.get_running_loop().run_in_executor(None, state.keep, known)
        try:
            await asyncio.shield(self._disk)
        except OSError as error:
            self._log.error("the cache file can not be written", reason=error.strerror)
        await self._pause(_KEEP_S)
        self._done()
