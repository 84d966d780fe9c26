"""Virtual time: what is due next happens next, and nothing else does."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Clockwork:
    """Runs callbacks in the order of their times; equal times in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + max(0.0, delay_s), next(self._order), callback))

    def step(self) -> None:
        """Do the next thing."""
        self.now, _, callback = heapq.heappop(self._due)
        self.steps += 1
        callback()
