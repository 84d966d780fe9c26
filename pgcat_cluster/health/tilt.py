"""Trust in oneself: after a stall of our own loop, what it saw meanwhile proves nothing."""

from __future__ import annotations

import math

from pgcat_cluster.health.evidence import Sample

TICK_S = 0.1
_LATE_S = 0.5
_QUIET_S = 3.0


class Tilt:
    """On from a tick more than 500 ms late until 3 s of good ticks have passed.

    While it is on, failures prove nothing, and neither does an answer that was under way during the stall.
    """

    def __init__(self, now: float) -> None:
        self.count = 0
        self.stalled_s = -math.inf  # when the last stall was over
        self._last_tick_s = now
        self._until_s = now

    def is_on(self, now: float) -> bool:
        """Also true while a tick is overdue: after a stall a sample may be handled before the tick is."""
        return now < self._until_s or now - self._last_tick_s > TICK_S + _LATE_S

    def trusts(self, sample: Sample, now: float) -> bool:
        return not self.is_on(now) or (sample.failure is None and sample.duration_s < _LATE_S)

    def tick(self, now: float) -> None:
        """To be called every TICK_S."""
        if now - self._last_tick_s > TICK_S + _LATE_S:
            self.count += now >= self._until_s
            self._until_s = now + _QUIET_S
            self.stalled_s = now
        self._last_tick_s = now
