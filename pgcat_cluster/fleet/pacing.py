"""Keeps a node from doing harm to the store: a bucket for writes, and pauses that grow and differ."""

from __future__ import annotations

import random


class Bucket:
    """So many writes a second, and a few at once after a rest. It has no clock: time is handed in."""

    def __init__(self, *, per_second: float = 5.0, burst: int = 20) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._filled_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether one more may be written now; counts it if so."""
        self._fill(now_s)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_s(self, now_s: float) -> float:
        """How long until `take` says yes."""
        self._fill(now_s)
        return max(0.0, (1.0 - self._tokens) / self._per_second)

    def _fill(self, now_s: float) -> None:
        if self._filled_s is not None:
            gained = (now_s - self._filled_s) * self._per_second
            # A sum of many small parts must not fall short of the whole.
            self._tokens = min(self._burst, round(self._tokens + gained, 9))
        self._filled_s = now_s


class Backoff:
    """Pauses between attempts, with full jitter: a fleet that lost its store does not come back at one instant."""

    def __init__(self, chance: random.Random, *, least_s: float = 0.1, most_s: float = 5.0) -> None:
        self._chance = chance
        self._least_s = least_s
        self._most_s = most_s
        self._attempts = 0

    def next_s(self) -> float:
        ceiling_s = min(self._most_s, self._least_s * 2**self._attempts)
        # More would not raise the ceiling.
        self._attempts = min(self._attempts + 1, 16)
        return self._chance.uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """The last attempt went well."""
        self._attempts = 0
