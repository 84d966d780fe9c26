"""Turns samples of one server into an opinion: OK, SUSPECT, BAD or RECOVERING.

    OK --first failure--> SUSPECT --class rule met--> BAD --1 success--> RECOVERING --enough successes--> OK
     ^                       | success                 ^                      | failure
     +-----------------------+                         +----------------------+

The rule of a class says how much of it makes a server bad: `refused` the failure, a probe at once and one
50 ms later; `unreachable` the failure and one more probe; `going` 1 s of it; `soft` `fall` probes in a row;
`wrong` at once. Enough successes are `rise` of them, over 1.5 s or more. `overload` and `config`
never count: they prove that the server answers. A failure seen by traffic proves nothing about the whole
server (somebody may have ended that one link), so it only asks for a probe at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from pgcat_cluster.health.evidence import EvidenceClass, ProbeWanted, Sample, Source
from pgcat_cluster.topology.settings import Health


class State(Enum):
    OK = "ok"
    SUSPECT = "suspect"
    BAD = "bad"
    RECOVERING = "recovering"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpinionChanged:
    """The opinion, or the class of evidence behind it, changed; `reason` is what an operator reads."""

    server: str
    before: State
    after: State
    evidence: EvidenceClass | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What this node believes about one server, and since when. `evidence` is the class behind a doubt."""

    state: State
    evidence: EvidenceClass | None
    reason: str
    since_s: float


Effect = ProbeWanted | OpinionChanged

# So soon after the n-th failed probe in a row the next one is due; beyond the list the server is bad.
_REFUSED_REPEATS_S = (0.0, 0.05)
_UNREACHABLE_REPEATS_S = (0.0,)
_GOING_S = 1.0
_RECOVERY_S = 1.5
_BACKOFF_MAX_S = 10.0
_FIRST_TIMEOUT_S = 0.5
_DOUBTFUL_TIMEOUT_S = 1.0
# A dead server is asked every interval at first, for it may only restart; then ever more rarely.
_PROBES_PER_DOUBLING = 10
# Strikes are forgiven after this many intervals of good health.
_INTERVALS_TO_FORGIVE = 60


class Detector:
    """One server's machine. Owns its opinion and the probe times learned; knows no clock but `now`."""

    def __init__(self, server: str, settings: Health, now: float) -> None:
        self.server = server
        self.settings = settings
        self.opinion = Opinion(state=State.OK, evidence=None, reason="not probed yet", since_s=now)
        self._failures = 0  # probes in a row that failed by the class of the opinion
        self._failing_since = now
        self._successes = 0
        self._recovering_since = now
        self._strikes = 0
        self._ok_since = now
        self._durations: dict[Source, deque[float]] = {source: deque(maxlen=100) for source in Source}

    def timeout_s(self, source: Source) -> float:
        """How long a probe may take: four times the slowest percent of its kind, within limits.

        In doubt it doubles with each failure, up to 1 s: a server that became slow is not one that hangs.
        """
        settings = self.settings
        if self.opinion.state is State.BAD:
            return settings.timeout_max_s
        seen = sorted(self._durations[source])
        slowest = seen[int(0.99 * (len(seen) - 1))] if seen else _FIRST_TIMEOUT_S / 4
        base = min(max(4 * slowest, settings.timeout_min_s), settings.timeout_max_s)
        return max(base, min(base * 2.0 ** min(self._failures, 4), _DOUBTFUL_TIMEOUT_S))

    @property
    def probe_interval_s(self) -> float:
        """From the start of one probe to the next: shorter in doubt, backing off while the server is bad."""
        interval_s = self.settings.interval_s
        match self.opinion.state:
            case State.OK:
                return interval_s
            case State.SUSPECT | State.RECOVERING:
                return interval_s / 2
            case State.BAD:
                doubled = self._failures // _PROBES_PER_DOUBLING + self._strikes - 1
                return min(interval_s * 2.0 ** min(doubled, 10), _BACKOFF_MAX_S)

    @property
    def takes_new_work(self) -> bool:
        """Whether checkouts may choose the server; a suspect goes on unless it says that it is going."""
        state = self.opinion.state
        return state is State.OK or (
            state is State.SUSPECT and self.opinion.evidence is not EvidenceClass.GOING
        )

    def receive(self, sample: Sample, now: float) -> list[Effect]:
        """Take one look into account, in the order the looks ended."""
        if sample.source is Source.TRAFFIC:
            if sample.failure is None or not sample.failure.counts or self.opinion.state is State.BAD:
                return []
            return [self._probe(0.0, f"traffic: {sample.detail}")]
        if sample.failure is None or not sample.failure.counts:
            return self._succeed(sample, now)
        return self._fail(sample.failure, sample, now)

    def _succeed(self, sample: Sample, now: float) -> list[Effect]:
        if sample.failure is None:
            self._durations[sample.source].append(sample.duration_s)
        self._failures = 0
        match self.opinion.state:
            case State.OK:
                if self._strikes and now - self._ok_since >= _INTERVALS_TO_FORGIVE * self.settings.interval_s:
                    self._strikes = 0
                return []
            case State.SUSPECT:
                return self._move(State.OK, None, "answers again", now)
            case State.BAD:
                if self.opinion.evidence is EvidenceClass.WRONG and sample.failure is not None:
                    return []  # only facts can show that the identity is right again
                self._successes, self._recovering_since = 1, now
                return self._move(State.RECOVERING, self.opinion.evidence, "answers again", now)
            case State.RECOVERING:
                self._successes += 1
                quiet_s = now - self._recovering_since
                if self._successes < self.settings.rise or quiet_s < _RECOVERY_S:
                    return []
                self._ok_since = now
                return self._move(State.OK, None, f"{self._successes} answers over {quiet_s:.1f} s", now)

    def _fail(self, failure: EvidenceClass, sample: Sample, now: float) -> list[Effect]:
        detail = sample.detail
        state = self.opinion.state
        self._failures += 1
        if state is State.BAD:
            if failure is self.opinion.evidence:
                return []
            # The class matters to those who limit ejection: refused and wrong are not limited.
            return self._move(State.BAD, failure, detail, now)
        if state is State.RECOVERING:
            return self._turn_bad(failure, detail, now)
        effects: list[Effect] = []
        if state is State.OK or failure is not self.opinion.evidence:
            if state is State.OK:
                self._failures, self._failing_since = 1, now
            effects += self._move(State.SUSPECT, failure, detail, now)
        repeat_s = self._repeat_s(failure, sample.duration_s, now)
        if repeat_s is None:
            return effects + self._turn_bad(failure, detail, now)
        return [*effects, self._probe(repeat_s, detail)]

    def _repeat_s(self, failure: EvidenceClass, took_s: float, now: float) -> float | None:
        """When to look again before deciding; None when the class's rule is met."""
        done = self._failures - 1
        match failure:
            case EvidenceClass.REFUSED:
                return _REFUSED_REPEATS_S[done] if done < len(_REFUSED_REPEATS_S) else None
            case EvidenceClass.UNREACHABLE:
                return _UNREACHABLE_REPEATS_S[done] if done < len(_UNREACHABLE_REPEATS_S) else None
            case EvidenceClass.GOING:
                left_s = self._failing_since + _GOING_S - now
                return min(left_s, _GOING_S / 4) if left_s > 0 else None
            case EvidenceClass.SOFT:
                if self._failures < self.settings.fall:
                    return max(0.0, self.probe_interval_s - took_s)
        return None

    def _probe(self, after_s: float, reason: str) -> ProbeWanted:
        return ProbeWanted(server=self.server, after_s=after_s, fresh=True, reason=reason)

    def _turn_bad(self, failure: EvidenceClass, detail: str, now: float) -> list[Effect]:
        self._strikes += 1
        return self._move(State.BAD, failure, detail, now)

    def _move(self, state: State, evidence: EvidenceClass | None, reason: str, now: float) -> list[Effect]:
        before = self.opinion
        since_s = before.since_s if before.state is state else now
        self.opinion = Opinion(state=state, evidence=evidence, reason=reason, since_s=since_s)
        return [
            OpinionChanged(
                server=self.server, before=before.state, after=state, evidence=evidence, reason=reason
            )
        ]
