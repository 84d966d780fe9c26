"""The health of one cluster as this node sees it: who is primary, and which servers take new work."""

from __future__ import annotations

import math
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
    """What one server may be used for now; `reason` says why not more. Lag is None on a primary.

    `is_silent_replica`: it was in recovery when it answered last, and is bad now since nothing at all comes from it.
    """

    server: str
    is_primary: bool
    reads: bool
    writes: bool
    reason: str
    opinion: Opinion
    lag: Lag | None
    is_silent_replica: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What the fleet asks of this node's probes of one server.

    Nodes that are no jurors keep no link to it and probe ever more rarely the more there are: whatever their
    number, it sees few probes. A banned server is probed more rarely with each strike, always by a fresh
    connect, until it answers. What an operator told us to ignore is as good as not probed.
    """

    is_juror: bool = True
    ignored: bool = False
    nodes: int = 1
    banned: bool = False
    strikes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What this node knows of one server by itself.

    `is_confirmed`: what speaks against it was seen again since our own loop stood still. `is_proven`: it
    answered so often in a row over fresh links, as what it should be, that a ban of it may end.
    """

    state: State
    why: str
    seen_s: float | None
    is_confirmed: bool
    is_proven: bool


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
        self._gates = {server: LagGate(read.max_lag_s, read.max_lag_bytes) for server in servers}
        self._min_serving = read.min_serving
        self._eject_max = int(len(servers) * health.local_eject_max)
        self._facts: dict[str, ServerFacts] = {}
        self._rise = health.rise
        self._interval_s = health.interval_s
        self._duties = dict.fromkeys(servers, Duty())
        self._spared: frozenset[str] = frozenset()
        self._lagging: frozenset[str] = frozenset()
        self._seen_s: dict[str, float] = {}
        self._failed_s: dict[str, float] = {}  # when the last probe that failed was begun
        self._fresh_answers = dict.fromkeys(servers, 0)  # in a row
        self.local_score = 0  # stretches what we call late while we are slow ourselves
        self._late: set[str] = set()
        self._silent: set[str] = set()  # whatever else is known of them
        self._standings = self._judge()

    def receive(self, server: str, sample: Sample, now: float) -> list[Decision]:
        """Take one look at one server into account. Looks at a server must come in the order they ended."""
        if not self._tilt.trusts(sample, now):
            if sample.failure is not None and sample.failure.counts and sample.source is not Source.TRAFFIC:
                self._failed_s[server] = now - sample.duration_s
            return []
        decisions: list[Decision] = [*self.roles.receive(server, sample)]
        if sample.facts is not None:
            decisions += self._remember(server, sample.facts, now)
            if reason := self.roles.wrong.get(server):
                sample = _as_wrong(sample, reason)
        self._count(server, sample, now)
        if self._is_late(server, sample):
            self._late.add(server)
        decisions += self._detectors[server].receive(sample, now)
        return decisions + self._changes_of_use()

    def take_late(self) -> frozenset[str]:
        """Servers that nothing spoke against, and that kept us waiting, since this was asked last."""
        late, self._late = frozenset(self._late), set()
        return late

    def _is_late(self, server: str, sample: Sample) -> bool:
        """Whether the answer took, or would have taken, longer than we grant when we are quick ourselves."""
        detector = self._detectors[server]
        return (
            detector.opinion.state is State.OK
            and sample.source is not Source.TRAFFIC
            and sample.failure in (None, EvidenceClass.SOFT, EvidenceClass.UNREACHABLE)
            and sample.duration_s >= detector.timeout_s(sample.source)
        )

    def assign(self, server: str, duty: Duty) -> bool:
        """Probe as the fleet asks from now on; whether that is sooner than before."""
        before = self._duties[server]
        if duty.banned and not before.banned:
            self._fresh_answers[server] = 0
        interval_s = self.probe_interval_s(server)
        self._duties[server] = duty
        return self.probe_interval_s(server) < interval_s

    def spare(self, servers: frozenset[str]) -> list[Decision]:
        """Use these whatever we believe: while we doubt ourselves, using anything beats using nothing.

        It does not hold for servers that refuse, or are not what they should be.
        """
        if servers == self._spared:
            return []
        self._spared = servers
        return self._changes_of_use()

    def is_tilted(self, now: float) -> bool:
        """Whether our own loop stood still lately, so that we trust no failure we see."""
        return self._tilt.is_on(now)

    @property
    def stalled_s(self) -> float:
        """When our own loop stood still last."""
        return self._tilt.stalled_s

    def witness(self, server: str) -> Witness:
        """What this node may tell others about a server."""
        opinion = self._detectors[server].opinion
        is_lagging = opinion.state is State.OK and server in self._lagging
        return Witness(
            state=State.BAD if is_lagging else opinion.state,
            why="lag" if is_lagging else opinion.evidence.value if opinion.evidence else "",
            seen_s=self._seen_s.get(server),
            is_confirmed=is_lagging or self._failed_s.get(server, -math.inf) >= self._tilt.stalled_s,
            is_proven=self._is_proven(server),
        )

    def _is_proven(self, server: str) -> bool:
        if self._fresh_answers[server] < self._rise or self._detectors[server].opinion.state is not State.OK:
            return False
        return server not in self._lagging | self._left_behind().keys() | self.roles.wrong.keys()

    def _count(self, server: str, sample: Sample, now: float) -> None:
        if sample.source is Source.TRAFFIC:
            return
        self._seen_s[server] = now
        if sample.is_silence:
            self._silent.add(server)
        elif sample.failure is not EvidenceClass.UNREACHABLE:
            self._silent.discard(server)
        if sample.failure is not None:
            self._fresh_answers[server] = 0
            if sample.failure.counts:
                self._failed_s[server] = now - sample.duration_s
        elif sample.source is Source.FRESH:
            self._fresh_answers[server] += 1

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
        return self._detectors[server].timeout_s(source) * (1 + self.local_score)

    def probe_interval_s(self, server: str) -> float:
        """From the start of one probe to the start of the next."""
        duty = self._duties[server]
        if duty.ignored:
            return _IGNORED_INTERVAL_S
        state = self._detectors[server].opinion.state
        interval_s = self._detectors[server].probe_interval_s
        if duty.banned and not self._is_proven(server):
            if self._fresh_answers[server]:
                return self._interval_s / 2
            interval_s = min(self._interval_s * 2.0 ** min(duty.strikes, 10), _BANNED_INTERVAL_MAX_S)
        elif state in (State.SUSPECT, State.RECOVERING):
            return interval_s
        if duty.is_juror:
            return interval_s
        return max(interval_s, _OTHERS_INTERVAL_S, _OTHERS_INTERVAL_PER_NODE_S * duty.nodes)

    def probes_per_link(self, server: str) -> int:
        """So many probes over one link: an open link proves nothing about the listener, nor the reverse."""
        duty = self._duties[server]
        return _PROBES_PER_LINK if duty.is_juror and not duty.banned else 1

    def _judge(self) -> dict[str, Standing]:
        reasons = self._left_behind() | self._out_of_service() | self.roles.wrong
        primary = self.roles.primary
        serving = self._gates.keys() - reasons.keys() - {primary}
        replicas = {name: self._gates[name] for name in serving}
        self._lagging = kept_out(replicas, self._min_serving)
        for name in self._lagging:
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
                is_silent_replica=opinion.state is State.BAD and name in self._silent and self._follows(name),
            )
        return standings

    def _follows(self, server: str) -> bool:
        facts = self._facts.get(server)
        return facts is not None and facts.in_recovery

    def _out_of_service(self) -> dict[str, str]:
        doubted = [detector for detector in self._detectors.values() if not detector.takes_new_work]
        doubted.sort(key=lambda detector: (detector.opinion.state is not State.BAD, detector.opinion.since_s))
        certain = [detector for detector in doubted if detector.opinion.evidence in _CERTAIN]
        limited = [
            detector
            for detector in doubted
            if detector.opinion.evidence not in _CERTAIN and detector.server not in self._spared
        ]
        return {detector.server: _why(detector.opinion) for detector in certain + limited[: self._eject_max]}

    def _left_behind(self) -> dict[str, str]:
        """Replicas that have not followed a new primary: they replay what is over."""
        return {
            name: f"on timeline {facts.timeline}, the primary is on {self.roles.timeline}"
            for name, facts in self._facts.items()
            if facts.in_recovery and facts.timeline < self.roles.timeline
        }


_PROBES_PER_LINK = 5
_OTHERS_INTERVAL_S = 1.0
_OTHERS_INTERVAL_PER_NODE_S = 0.1
_BANNED_INTERVAL_MAX_S = 10.0
_IGNORED_INTERVAL_S = 3600.0
_CERTAIN = (EvidenceClass.REFUSED, EvidenceClass.WRONG)


def _as_wrong(sample: Sample, reason: str) -> Sample:
    return replace(sample, facts=None, failure=EvidenceClass.WRONG, detail=reason)


def _why(opinion: Opinion) -> str:
    evidence = opinion.evidence.value if opinion.evidence else "none"
    return f"{opinion.state.value}, {evidence}: {opinion.reason}"
