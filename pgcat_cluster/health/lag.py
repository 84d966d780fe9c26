"""Whether a replica is too far behind, with hysteresis, and never all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pgcat_cluster.health.evidence import ServerFacts

_SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far one replica is behind; what could not be measured is None.

    Bytes compare positions with the primary's; seconds are the age of what was replayed last, 0 when nothing
    is missing: an idle primary does not make its replicas old.
    """

    lag_bytes: int | None = None
    lag_s: float | None = None

    @property
    def order(self) -> tuple[float, float]:
        """Least behind first; bytes decide, as they do not depend on when the primary wrote."""
        return (
            float("inf") if self.lag_bytes is None else self.lag_bytes,
            float("inf") if self.lag_s is None else self.lag_s,
        )

    def __str__(self) -> str:
        parts = [] if self.lag_bytes is None else [f"{self.lag_bytes} bytes"]
        return ", ".join(parts if self.lag_s is None else [*parts, f"{self.lag_s:.1f} s"]) or "unknown"


def measure(replica: ServerFacts, primary: ServerFacts | None) -> Lag:
    """The lag of a replica by its newest facts and the primary's last ones, None while no primary answers.

    The primary's facts are the older ones, so a replica that keeps up has passed them. Without them only what
    the replica received and did not replay counts as missing.
    """
    if replica.replay_lsn is None:
        return Lag()
    goal = replica.write_lsn if primary is None else primary.write_lsn
    missing = max(0, goal - replica.replay_lsn)
    return Lag(
        lag_bytes=None if primary is None else missing, lag_s=replica.replayed_age_s if missing else 0.0
    )


class _Limit:
    """One figure: beyond its limit after three looks above it in a row, within it again below half of it."""

    def __init__(self, most: float) -> None:
        """`most` 0 means no limit."""
        self.is_beyond = False
        self._most = most
        self._above = 0

    def receive(self, figure: float | None) -> None:
        """Take one measurement; an unknown figure moves nothing."""
        if not self._most or figure is None:
            return
        self._above = self._above + 1 if figure > self._most else 0
        if self._above >= _SAMPLES:
            self.is_beyond = True
        elif figure < self._most / 2:
            self.is_beyond = False


class LagGate:
    """One replica: behind while its bytes or its seconds are beyond their limit.

    A server that has replayed no transaction since it started can not say how old its last one is
    (`pg_last_xact_replay_timestamp()` is NULL): while it is known to miss something, it is as old as our
    knowledge of that. Without a primary nobody knows the bytes; what has replayed all it received is then
    behind nobody.
    """

    def __init__(self, seconds_max: float, bytes_max: int = 0) -> None:
        """A limit of 0 is none."""
        self.lag = Lag()
        self._seconds = _Limit(seconds_max)
        self._bytes = _Limit(bytes_max)
        self._missing_since: float | None = None

    @property
    def is_behind(self) -> bool:
        return self._seconds.is_beyond or self._bytes.is_beyond

    def receive(self, lag: Lag, now: float) -> None:
        """Take one measurement; an unknown lag moves nothing."""
        if not lag.lag_bytes:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        if lag.lag_s is None and self._missing_since is not None:
            lag = replace(lag, lag_s=now - self._missing_since)
        self.lag = lag
        self._seconds.receive(lag.lag_s)
        self._bytes.receive(0 if lag.lag_bytes is None and lag.lag_s == 0.0 else lag.lag_bytes)


def kept_out(gates: Mapping[str, LagGate], min_serving: int) -> frozenset[str]:
    """The replicas that are behind, less the least behind ones needed to keep `min_serving` in service."""
    behind = [server for server, gate in gates.items() if gate.is_behind]
    behind.sort(key=lambda server: (gates[server].lag.order, server))
    needed = max(0, min_serving - (len(gates) - len(behind)))
    return frozenset(behind[needed:])
