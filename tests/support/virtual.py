"""Time for coroutines that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools

# Steps of a loop in which everything that can go on without time has gone on.
_SETTLING_STEPS = 50


class VirtualTime:
    """`now_s` and `pause` are handed to what is tested; `run` lets time pass."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    def now_s(self) -> float:
        return self._now_s

    async def pause(self, duration_s: float) -> None:
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + duration_s, next(self._number), waiting))
        await waiting

    def stall(self, duration_s: float) -> None:
        """Time passes, and nobody runs."""
        self._now_s += duration_s

    async def run(self, duration_s: float) -> None:
        """Wake everybody whose time comes, in order."""
        end_s = self._now_s + duration_s
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            at_s, _number, waiting = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, at_s)
            if not waiting.done():
                waiting.set_result(None)
            await self.settle()
        self._now_s = end_s

    async def settle(self) -> None:
        """Let everybody go on until only time can bring more."""
        for _step in range(_SETTLING_STEPS):
            await asyncio.sleep(0)
