"""Tilt: what a node saw around a stall of its own proves nothing."""

from __future__ import annotations

from pgcat_cluster.health.evidence import EvidenceClass, Sample, ServerFacts, Source
from pgcat_cluster.health.tilt import TICK_S, Tilt

FACTS = ServerFacts(in_recovery=False, system_identifier="7", timeline=1, write_lsn=1)


def ticking(tilt: Tilt, begin: float, end: float) -> float:
    ticks = round((end - begin) / TICK_S)
    for number in range(1, ticks + 1):
        tilt.tick(begin + number * TICK_S)
    return begin + ticks * TICK_S


def test_on_after_a_late_tick_and_off_after_three_quiet_seconds() -> None:
    tilt = Tilt(0.0)
    now = ticking(tilt, 0.0, 5.0)
    assert not tilt.is_on(now)
    assert not tilt.is_on(now + 0.59)
    assert tilt.is_on(now + 0.61), "before the late tick itself is handled"
    tilt.tick(now + 0.7)
    now = ticking(tilt, now + 0.7, now + 3.6)
    assert tilt.is_on(now)
    now = ticking(tilt, now, now + 0.2)
    assert not tilt.is_on(now)
    assert tilt.count == 1


def test_a_second_stall_prolongs_it() -> None:
    tilt = Tilt(0.0)
    tilt.tick(1.0)
    tilt.tick(2.0)
    assert tilt.count == 1
    now = ticking(tilt, 2.0, 4.9)
    assert tilt.is_on(now)
    assert not tilt.is_on(ticking(tilt, now, 5.1))


def test_in_tilt_only_new_answers_count() -> None:
    tilt = Tilt(0.0)
    failed = Sample(source=Source.FRESH, duration_s=0.1, failure=EvidenceClass.REFUSED)
    answered = Sample(source=Source.FRESH, duration_s=0.1, facts=FACTS)
    in_flight = Sample(source=Source.FRESH, duration_s=0.6, facts=FACTS)
    assert [tilt.trusts(sample, 0.1) for sample in (failed, answered, in_flight)] == [True, True, True]
    tilt.tick(1.0)
    assert [tilt.trusts(sample, 1.1) for sample in (failed, answered, in_flight)] == [False, True, False]
