"""Lag: measured against the primary or against what was received, and gated with hysteresis."""

from __future__ import annotations

import pytest

from pgcat_cluster.health.evidence import ServerFacts
from pgcat_cluster.health.lag import Lag, LagGate, kept_out, measure


def replica(received: int, replayed: int | None, age_s: float | None = 60.0) -> ServerFacts:
    return ServerFacts(
        in_recovery=True,
        system_identifier="7",
        timeline=1,
        write_lsn=received,
        replay_lsn=replayed,
        replayed_age_s=age_s,
    )


PRIMARY = ServerFacts(in_recovery=False, system_identifier="7", timeline=1, write_lsn=1000)


@pytest.mark.parametrize(
    ("facts", "primary", "lag"),
    [
        # An idle primary: nothing is missing, however old the last transaction.
        (replica(1000, 1000, 3600.0), PRIMARY, Lag(lag_bytes=0, lag_s=0.0)),
        # The replica was asked later and is ahead of what the primary said then.
        (replica(1200, 1100, 0.1), PRIMARY, Lag(lag_bytes=0, lag_s=0.0)),
        (replica(1000, 400, 12.0), PRIMARY, Lag(lag_bytes=600, lag_s=12.0)),
        # Cut off: it replayed all it has, and the primary went on.
        (replica(400, 400, 12.0), PRIMARY, Lag(lag_bytes=600, lag_s=12.0)),
        (replica(400, 400, 12.0), None, Lag(lag_bytes=None, lag_s=0.0)),
        (replica(400, 300, 12.0), None, Lag(lag_bytes=None, lag_s=12.0)),
        (replica(400, None), PRIMARY, Lag()),
        (replica(400, 300, None), PRIMARY, Lag(lag_bytes=700, lag_s=None)),
    ],
)
def test_measure(facts: ServerFacts, primary: ServerFacts | None, lag: Lag) -> None:
    assert measure(facts, primary) == lag


def gate_states(seconds_max: float, lags: list[float | None]) -> list[bool]:
    gate = LagGate(seconds_max)
    states = []
    for now, lag_s in enumerate(lags):
        gate.receive(Lag(lag_s=lag_s), float(now))
        states.append(gate.is_behind)
    return states


def test_three_in_a_row_above_the_limit_and_half_of_it_to_return() -> None:
    assert gate_states(10.0, [11, 11, 10, 11, 11, 11, 9, 5, 4.9, 11]) == [
        *[False, False, False, False, False, True],
        *[True, True, False, False],
    ]


def test_an_unknown_lag_moves_nothing() -> None:
    assert gate_states(10.0, [11, 11, None, 11, None]) == [False, False, False, True, True]


def test_missing_bytes_of_unknown_age_are_as_old_as_they_are_known() -> None:
    """As after a restart: nothing replayed yet, so the server itself can not tell an age."""
    gate = LagGate(2.0)
    seen = []
    for now, lag_bytes in enumerate([0, 5, 5, 5, 5, 5, 5, 0, 5]):
        gate.receive(Lag(lag_bytes=lag_bytes, lag_s=None if lag_bytes else 0.0), 100.0 + now)
        seen.append((gate.lag.lag_s, gate.is_behind))
    assert seen == [
        *[(0.0, False), (0.0, False), (1.0, False), (2.0, False), (3.0, False), (4.0, False), (5.0, True)],
        *[(0.0, False), (0.0, False)],
    ]


def test_no_limit() -> None:
    assert gate_states(0.0, [1e9] * 5) == [False] * 5


def test_bytes_and_seconds_each_take_it_out_and_both_must_let_it_back() -> None:
    gate = LagGate(10.0, 1000)
    seen = []
    for lag_bytes, lag_s in [
        *[(2000, 1.0)] * 3,  # by bytes alone
        (600, 1.0),
        (499, 1.0),
        *[(400, 11.0)] * 3,  # by seconds alone
        *[(2000, 11.0)] * 3,  # by both
        (2000, 1.0),
        (100, 1.0),
    ]:
        gate.receive(Lag(lag_bytes=lag_bytes, lag_s=lag_s), 0.0)
        seen.append(gate.is_behind)
    assert seen == [
        *[False, False, True, True, False],
        *[False, False, True],
        *[True, True, True, True, False],
    ]


def test_bytes_without_a_primary() -> None:
    gate = LagGate(0.0, 1000)
    seen = []
    for lag in [
        *[Lag(lag_bytes=2000, lag_s=60.0)] * 3,
        Lag(lag_s=60.0),  # no primary, and something received is not replayed: nobody knows more
        Lag(lag_s=0.0),  # behind nobody
    ]:
        gate.receive(lag, 0.0)
        seen.append(gate.is_behind)
    assert seen == [False, False, True, True, False]


def gate(lag_bytes: int, *, is_behind: bool) -> LagGate:
    made = LagGate(0.0, 100)
    for _ in range(3 if is_behind else 1):
        made.receive(Lag(lag_bytes=lag_bytes), 0.0)
    assert made.is_behind == is_behind
    return made


@pytest.mark.parametrize(
    ("min_serving", "out"),
    [(0, {"a", "b"}), (1, {"a", "b"}), (2, {"a"}), (3, set())],
)
def test_the_least_behind_stay_when_they_are_needed(min_serving: int, out: set[str]) -> None:
    gates = {"a": gate(900, is_behind=True), "b": gate(500, is_behind=True), "c": gate(0, is_behind=False)}
    assert kept_out(gates, min_serving) == out


def test_lag_in_words() -> None:
    assert [str(Lag(lag_bytes=5, lag_s=1.25)), str(Lag(lag_s=2.0)), str(Lag())] == [
        "5 bytes, 1.2 s",
        "2.0 s",
        "unknown",
    ]
