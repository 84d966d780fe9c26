"""The detector, class by class, with explicit time."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgcat_cluster.health.detector import Detector, OpinionChanged, State
from pgcat_cluster.health.evidence import (
    EvidenceClass,
    ProbeWanted,
    Sample,
    ServerFacts,
    Source,
    evidence_of_sqlstate,
)
from pgcat_cluster.topology.settings import Health

FACTS = ServerFacts(in_recovery=True, system_identifier="1", timeline=1, write_lsn=1, replay_lsn=1)


def answer(duration_s: float = 0.002, source: Source = Source.KEPT) -> Sample:
    return Sample(source=source, duration_s=duration_s, facts=FACTS)


def failure(evidence: EvidenceClass, source: Source = Source.FRESH, duration_s: float = 0.0) -> Sample:
    return Sample(source=source, duration_s=duration_s, failure=evidence, detail="why")


def wanted(after_s: float, reason: str = "why") -> ProbeWanted:
    return ProbeWanted(server="r1", after_s=after_s, fresh=True, reason=reason)


def moved(before: State, after: State, evidence: EvidenceClass | None, reason: str = "why") -> OpinionChanged:
    return OpinionChanged(server="r1", before=before, after=after, evidence=evidence, reason=reason)


@pytest.fixture
def detector() -> Detector:
    return Detector("r1", Health(), 0.0)


def make_bad(detector: Detector, now: float = 0.0) -> None:
    for _ in range(3):
        detector.receive(failure(EvidenceClass.REFUSED), now)
    assert detector.opinion.state is State.BAD


def test_refused_is_asked_at_once_and_after_50_ms_then_bad(detector: Detector) -> None:
    refused = EvidenceClass.REFUSED
    sample = failure(refused)
    assert detector.receive(sample, 1.0) == [moved(State.OK, State.SUSPECT, refused), wanted(0.0)]
    assert detector.takes_new_work
    assert detector.receive(sample, 1.001) == [wanted(0.05)]
    assert detector.receive(sample, 1.052) == [moved(State.SUSPECT, State.BAD, refused)]
    assert not detector.takes_new_work
    assert detector.receive(sample, 2.0) == []


def test_unreachable_is_asked_once_more_then_bad(detector: Detector) -> None:
    unreachable = EvidenceClass.UNREACHABLE
    sample = failure(unreachable)
    assert detector.receive(sample, 1.0) == [moved(State.OK, State.SUSPECT, unreachable), wanted(0.0)]
    assert detector.receive(sample, 1.5) == [moved(State.SUSPECT, State.BAD, unreachable)]


def test_going_takes_no_new_work_at_once_and_is_bad_after_a_second(detector: Detector) -> None:
    going = EvidenceClass.GOING
    sample = failure(going)
    assert detector.receive(sample, 1.0) == [moved(State.OK, State.SUSPECT, going), wanted(0.25)]
    assert not detector.takes_new_work
    assert detector.receive(sample, 1.25) == [wanted(0.25)]
    assert detector.receive(sample, 1.9) == [wanted(pytest.approx(0.1))]
    assert detector.receive(sample, 2.0) == [moved(State.SUSPECT, State.BAD, going)]


def test_soft_is_bad_after_fall_in_a_row() -> None:
    detector = Detector("r1", Health(fall=3), 0.0)
    soft = EvidenceClass.SOFT
    sample = failure(soft, duration_s=0.3)
    assert detector.receive(sample, 1.0) == [moved(State.OK, State.SUSPECT, soft), wanted(0.2)]
    assert detector.receive(sample, 1.5) == [wanted(0.2)]
    assert detector.receive(answer(), 1.9) == [moved(State.SUSPECT, State.OK, None, "answers again")]
    for now in (3.0, 3.5):
        assert moved(State.SUSPECT, State.BAD, soft) not in detector.receive(sample, now)
    assert detector.receive(sample, 4.0) == [moved(State.SUSPECT, State.BAD, soft)]


def test_wrong_is_bad_at_once_and_only_facts_end_it(detector: Detector) -> None:
    wrong = EvidenceClass.WRONG
    assert detector.receive(failure(wrong), 1.0) == [
        moved(State.OK, State.SUSPECT, wrong),
        moved(State.SUSPECT, State.BAD, wrong),
    ]
    assert detector.receive(failure(EvidenceClass.CONFIG), 400.0) == []
    assert detector.receive(answer(), 401.0) == [moved(State.BAD, State.RECOVERING, wrong, "answers again")]


@pytest.mark.parametrize("evidence", [EvidenceClass.OVERLOAD, EvidenceClass.CONFIG])
def test_a_full_server_or_a_bad_password_is_no_illness(detector: Detector, evidence: EvidenceClass) -> None:
    for now in range(100):
        assert detector.receive(failure(evidence), float(now)) == []
    assert detector.opinion.state is State.OK


def test_traffic_only_asks_for_a_probe(detector: Detector) -> None:
    sample = failure(EvidenceClass.REFUSED, Source.TRAFFIC)
    for now in range(100):
        assert detector.receive(sample, float(now)) == [wanted(0.0, "traffic: why")]
    assert detector.opinion.state is State.OK
    make_bad(detector, 100.0)
    assert detector.receive(sample, 101.0) == []
    assert detector.receive(answer(source=Source.TRAFFIC), 102.0) == []


def test_recovery_needs_rise_answers_over_a_second_and_a_half(detector: Detector) -> None:
    make_bad(detector)
    refused = EvidenceClass.REFUSED
    assert detector.receive(answer(), 10.0) == [moved(State.BAD, State.RECOVERING, refused, "answers again")]
    assert not detector.takes_new_work
    assert detector.receive(answer(), 10.1) == []
    assert detector.receive(answer(), 10.2) == []
    assert detector.receive(answer(), 11.5) == [
        moved(State.RECOVERING, State.OK, None, "4 answers over 1.5 s")
    ]
    assert detector.takes_new_work


def test_one_failure_ends_a_recovery(detector: Detector) -> None:
    make_bad(detector)
    detector.receive(answer(), 10.0)
    soft = EvidenceClass.SOFT
    assert detector.receive(failure(soft), 10.5) == [moved(State.RECOVERING, State.BAD, soft)]


def test_the_class_of_a_bad_server_follows_the_evidence(detector: Detector) -> None:
    make_bad(detector)
    soft = EvidenceClass.SOFT
    assert detector.receive(failure(soft), 3.0) == [moved(State.BAD, State.BAD, soft)]
    assert detector.opinion.since_s == 0.0


def test_probes_back_off_with_time_and_with_strikes(detector: Detector) -> None:
    assert detector.probe_interval_s == 1.0
    make_bad(detector)
    intervals = []
    for now in range(60):
        intervals.append(detector.probe_interval_s)
        detector.receive(failure(EvidenceClass.REFUSED), float(now))
    assert intervals[0] == 1.0
    assert intervals == sorted(intervals)
    assert intervals[-1] == 10.0
    for now in (60.0, 61.0, 62.0):
        detector.receive(answer(), now)
    assert detector.opinion.state is State.OK
    make_bad(detector, 63.0)
    assert detector.probe_interval_s == 2.0


def test_strikes_are_forgiven_after_a_minute_of_health(detector: Detector) -> None:
    make_bad(detector)
    for now in (1.0, 2.0, 3.0, 63.0):
        detector.receive(answer(), now)
    make_bad(detector, 64.0)
    assert detector.probe_interval_s == 1.0


def test_timeouts_follow_the_slowest_percent_within_limits(detector: Detector) -> None:
    def timeout_after(duration_s: float) -> float:
        for _ in range(100):
            detector.receive(answer(duration_s), 0.0)
        return detector.timeout_s(Source.KEPT)

    assert detector.timeout_s(Source.KEPT) == 0.5
    assert timeout_after(0.001) == 0.25
    detector.receive(answer(1.9), 0.0)
    assert detector.timeout_s(Source.KEPT) == 0.25, "one slow answer in a hundred changes nothing"
    assert timeout_after(0.1) == pytest.approx(0.4)
    assert timeout_after(3.0) == 2.0
    assert detector.timeout_s(Source.FRESH) == 0.5, "logins are measured apart"


def test_timeouts_double_in_doubt(detector: Detector) -> None:
    detector.receive(answer(), 0.0)
    timeouts = [detector.timeout_s(Source.KEPT)]
    detector.receive(failure(EvidenceClass.SOFT), 1.0)
    timeouts.append(detector.timeout_s(Source.KEPT))
    detector.receive(failure(EvidenceClass.SOFT), 2.0)
    timeouts.append(detector.timeout_s(Source.KEPT))
    assert timeouts == [0.25, 0.5, 2.0]


@pytest.mark.parametrize("fall", [2, 3])
def test_a_server_that_hangs_is_bad_within_three_and_a_half_seconds(fall: int) -> None:
    """The worst case: it hangs right after an answer, and nothing but the regular probes looks."""
    detector = Detector("r1", Health(fall=fall), 0.0)
    for source in (Source.KEPT, Source.FRESH):
        detector.receive(answer(0.01, source), 0.0)
    started_s, source = 1.0, Source.KEPT
    while True:
        duration_s = detector.timeout_s(source)
        ended_s = started_s + duration_s
        effects = detector.receive(failure(EvidenceClass.SOFT, source, duration_s), ended_s)
        if detector.opinion.state is State.BAD:
            break
        [started_s] = [ended_s + effect.after_s for effect in effects if isinstance(effect, ProbeWanted)]
        source = Source.FRESH
    assert ended_s < 3.5


@pytest.mark.parametrize(
    ("sqlstate", "evidence"),
    [
        ("57P01", EvidenceClass.GOING),
        ("57P02", EvidenceClass.GOING),
        ("57P03", EvidenceClass.GOING),
        ("53300", EvidenceClass.OVERLOAD),
        ("28P01", EvidenceClass.CONFIG),
        ("28000", EvidenceClass.CONFIG),
        ("3D000", EvidenceClass.CONFIG),
        ("42501", EvidenceClass.CONFIG),
        ("XX000", EvidenceClass.SOFT),
    ],
)
def test_evidence_of_an_error(sqlstate: str, evidence: EvidenceClass) -> None:
    assert evidence_of_sqlstate(sqlstate) is evidence


LEGAL = {
    (State.OK, State.SUSPECT),
    (State.SUSPECT, State.OK),
    (State.SUSPECT, State.SUSPECT),
    (State.SUSPECT, State.BAD),
    (State.BAD, State.BAD),
    (State.BAD, State.RECOVERING),
    (State.RECOVERING, State.OK),
    (State.RECOVERING, State.BAD),
}


class DetectorMachine(RuleBasedStateMachine):
    """Any history: legal moves only, illness only by what counts, and a way back always."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.detector = Detector("r1", Health(), 0.0)
        self.counted_since_success = 0

    def feed(self, sample: Sample) -> None:
        state = self.detector.opinion.state
        for effect in self.detector.receive(sample, self.now):
            if isinstance(effect, OpinionChanged):
                assert effect.before is state
                assert (effect.before, effect.after) in LEGAL
                state = effect.after
        assert state is self.detector.opinion.state

    @rule(after_s=st.floats(0.001, 20.0))
    def time_passes(self, after_s: float) -> None:
        self.now += after_s

    @rule(duration_s=st.floats(0.0001, 2.0), source=st.sampled_from([Source.KEPT, Source.FRESH]))
    def answers(self, duration_s: float, source: Source) -> None:
        self.counted_since_success = 0
        self.feed(answer(duration_s, source))

    @rule(evidence=st.sampled_from(EvidenceClass), source=st.sampled_from(Source))
    def fails(self, evidence: EvidenceClass, source: Source) -> None:
        if source is not Source.TRAFFIC:
            self.counted_since_success = self.counted_since_success + 1 if evidence.counts else 0
        before = self.detector.opinion.state
        self.feed(failure(evidence, source))
        if source is Source.TRAFFIC or not evidence.counts:
            after = self.detector.opinion.state
            assert after is not State.BAD or before is State.BAD

    @rule()
    def recovers(self) -> None:
        for _ in range(4):
            self.now += 0.6
            self.answers(0.001, Source.FRESH)
        assert self.detector.opinion.state is State.OK

    @invariant()
    def is_sound(self) -> None:
        opinion = self.detector.opinion
        assert (opinion.evidence is None) == (opinion.state is State.OK)
        assert 0.25 <= self.detector.timeout_s(Source.KEPT) <= 2.0
        assert 0.5 <= self.detector.probe_interval_s <= 10.0
        if opinion.state in (State.OK, State.SUSPECT):
            assert self.counted_since_success <= 2 or opinion.evidence is EvidenceClass.GOING


TestDetectorMachine = DetectorMachine.TestCase
TestDetectorMachine.settings = hypothesis_settings(max_examples=50, stateful_step_count=30)
