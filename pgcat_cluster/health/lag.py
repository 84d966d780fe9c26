"""Whether a replica is too far behind: by bytes or seconds, with hysteresis, and never all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LagLimits:
    """None means no limit. A replica is behind above a limit and current again below half of it."""

    bytes_max: int | None = None
    seconds_max: float | None = None
    samples: int = 3
    min_serving: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far one replica is behind its primary; what could not be measured is None.

    Bytes compare positions; seconds are the age of the last replayed transaction, 0 on a replica that has
    replayed all it received: an idle primary does not make its replicas old.
    """

    lag_bytes: int | None = None
    lag_s: float | None = None

    @property
    def order(self) -> tuple[float, float]:
        """Least behind first; bytes decide, as they are comparable between replicas."""
        return (
            float("inf") if self.lag_bytes is None else self.lag_bytes,
            float("inf") if self.lag_s is None else self.lag_s,
        )


class LagGate:
    """One replica: behind after `samples` looks above a limit in a row, current again below half of it."""

    def __init__(self, limits: LagLimits) -> None:
        self.limits = limits
        self.lag = Lag()
        self.is_behind = False
        self._above = 0

    def receive(self, lag: Lag) -> bool:
        """Take one measurement; says whether the gate moved."""
        self.lag = lag
        before = self.is_behind
        self._above = self._above + 1 if self._exceeds(lag, 1.0) else 0
        if self._above >= self.limits.samples:
            self.is_behind = True
        elif self.is_behind and not self._exceeds(lag, 0.5):
            self.is_behind = False
        return self.is_behind is not before

    def _exceeds(self, lag: Lag, share: float) -> bool:
        return _is_above(lag.lag_bytes, self.limits.bytes_max, share) or _is_above(
            lag.lag_s, self.limits.seconds_max, share
        )


def _is_above(value: float | None, limit: float | None, share: float) -> bool:
    return value is not None and limit is not None and value > limit * share


def kept_out(gates: Mapping[str, LagGate], min_serving: int) -> frozenset[str]:
    """The replicas that are behind, less the least behind ones needed to keep `min_serving` in service."""
    behind = [server for server, gate in gates.items() if gate.is_behind]
    behind.sort(key=lambda server: (gates[server].lag.order, server))
    needed = max(0, min_serving - (len(gates) - len(behind)))
    return frozenset(behind[needed:])
