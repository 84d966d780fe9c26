"""The health of one cluster as this node sees it: who is primary, and which servers take new work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pgcat_cluster.health.detector import Detector, Opinion, OpinionChanged, State
from pgcat_cluster.health.evidence import EvidenceClass, ProbeWanted, Sample, ServerFacts, Source
from pgcat_cluster.health.lag import Lag, LagGate, kept_out, measure
from pgcat_cluster.health.roles import IdentityChanged, PrimaryChanged, Roles
from pgcat_cluster.health.tilt import Tilt
from pgcat_cluster.topology.settings import Health, Leadership, Read


@dataclass(frozen=True, slots=True, kw_only=True)
class UseChanged:
    """A server may be used for something else than before: the sum of all other decisions."""

    server: str
    reads: bool
    writes: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """The server is not the process it was: every link to it from before is dead or about to be."""

    server: str


Decision = ProbeWanted | OpinionChanged | PrimaryChanged | IdentityChanged | Restarted | UseChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one server may be used for now; `reason` says why not more. Lag is None on a primary."""

    server: str
    is_primary: bool
    reads: bool
    writes: bool
    reason: str
    opinion: Opinion
    lag: Lag | None


class ClusterHealth:
    """Puts detectors, lag gates and roles of one cluster together.

    Doubts of one node may take at most `local_eject_max` of the servers out of service, since many of them at
    once more likely tell of the node than of the servers. A server that refuses, or is not the one it should
    be, never serves. `tick` must be called every `tilt.TICK_S`.
    """

    def __init__(
        self,
        *,
        servers: Sequence[str],
        leadership: Leadership,
        health: Health,
        read: Read,
        now: float,
    ) -> None:
        self.roles = Roles(leadership.source, servers, leadership.primary)
        self._tilt = Tilt(now)
        self._detectors = {server: Detector(server, health, now) for server in servers}
        self._gates = {server: LagGate(read.max_lag_s) for server in servers}
        self._min_serving = read.min_serving
        self._eject_max = int(len(servers) * health.local_eject_max)
        self._facts: dict[str, ServerFacts] = {}
        self._standings = self._judge()

    def receive(self, server: str, sample: Sample, now: float) -> list[Decision]:
        """Take one look at one server into account. Looks at a server must come in the order they ended."""
        if not self._tilt.trusts(sample, now):
            return []
        decisions: list[Decision] = [*self.roles.receive(server, sample)]
        if sample.facts is not None:
            decisions += self._remember(server, sample.facts, now)
            if reason := self.roles.wrong.get(server):
                sample = _as_wrong(sample, reason)
        decisions += self._detectors[server].receive(sample, now)
        return decisions + self._changes_of_use()

    @property
    def tilts(self) -> int:
        """How often our own loop stood still so long that we did not trust what we saw."""
        return self._tilt.count

    def tick(self, now: float) -> None:
        """Show that our own loop runs in time."""
        self._tilt.tick(now)

    def standings(self) -> dict[str, Standing]:
        """What each server may be used for, by all that is known."""
        return self._standings

    def _changes_of_use(self) -> list[Decision]:
        before, self._standings = self._standings, self._judge()
        return [
            UseChanged(server=name, reads=one.reads, writes=one.writes, reason=one.reason)
            for name, one in self._standings.items()
            if (one.reads, one.writes) != (before[name].reads, before[name].writes)
        ]

    def _remember(self, server: str, facts: ServerFacts, now: float) -> list[Decision]:
        before = self._facts.get(server)
        self._facts[server] = facts
        self._gates[server].receive(self._lag(facts), now)
        is_another = before is not None and before.started_at != facts.started_at
        return [Restarted(server=server)] if is_another else []

    def _lag(self, facts: ServerFacts) -> Lag:
        if not facts.in_recovery:
            return Lag(lag_bytes=0, lag_s=0.0)
        primary = self.roles.primary
        # What a lost primary wrote last may never come: nobody is behind it any more.
        is_answering = primary is not None and self._detectors[primary].opinion.state is State.OK
        return measure(facts, self._facts.get(primary) if primary is not None and is_answering else None)

    def timeout_s(self, server: str, source: Source) -> float:
        """How long the next probe of this kind may take."""
        return self._detectors[server].timeout_s(source)

    def probe_interval_s(self, server: str) -> float:
        """From the start of one probe to the start of the next."""
        return self._detectors[server].probe_interval_s

    def _judge(self) -> dict[str, Standing]:
        reasons = self._left_behind() | self._out_of_service() | self.roles.wrong
        primary = self.roles.primary
        serving = self._gates.keys() - reasons.keys() - {primary}
        replicas = {name: self._gates[name] for name in serving}
        for name in kept_out(replicas, self._min_serving):
            reasons[name] = f"lag: {replicas[name].lag}"
        standings = {}
        for name, detector in self._detectors.items():
            opinion = detector.opinion
            is_primary = name == primary
            # A primary that comes back is the only one there is: no reason to let it prove itself first.
            writes = is_primary and (detector.takes_new_work or opinion.state is State.RECOVERING)
            standings[name] = Standing(
                server=name,
                is_primary=is_primary,
                reads=name not in reasons,
                writes=writes,
                reason=reasons.get(name, "" if writes or not is_primary else _why(opinion)),
                opinion=opinion,
                lag=None if is_primary else self._gates[name].lag,
            )
        return standings

    def _out_of_service(self) -> dict[str, str]:
        doubted = [detector for detector in self._detectors.values() if not detector.takes_new_work]
        doubted.sort(key=lambda detector: (detector.opinion.state is not State.BAD, detector.opinion.since_s))
        certain = [detector for detector in doubted if detector.opinion.evidence in _CERTAIN]
        limited = [detector for detector in doubted if detector.opinion.evidence not in _CERTAIN]
        return {detector.server: _why(detector.opinion) for detector in certain + limited[: self._eject_max]}

    def _left_behind(self) -> dict[str, str]:
        """Replicas that have not followed a new primary: they replay what is over."""
        return {
            name: f"on timeline {facts.timeline}, the primary is on {self.roles.timeline}"
            for name, facts in self._facts.items()
            if facts.in_recovery and facts.timeline < self.roles.timeline
        }


_CERTAIN = (EvidenceClass.REFUSED, EvidenceClass.WRONG)


def _as_wrong(sample: Sample, reason: str) -> Sample:
    return replace(sample, facts=None, failure=EvidenceClass.WRONG, detail=reason)


def _why(opinion: Opinion) -> str:
    evidence = opinion.evidence.value if opinion.evidence else "none"
    return f"{opinion.state.value}, {evidence}: {opinion.reason}"
