"""Averages change when a period has ended, and are rates or means of what happened in it."""

from __future__ import annotations

import msgspec

from pgcat_cluster.telemetry.averages import Averages, History, PeriodAverages, average
from pgcat_cluster.telemetry.snapshot import (
    NodeSnapshot,
    PoolServerSnapshot,
    PoolSnapshot,
    Totals,
    sum_totals,
)
from tests.support.control import SNAPSHOT

BEFORE = Totals(xact_count=10, query_count=20, wait_time_us=1_000, errors={"42601": 1})
AFTER = Totals(
    xact_count=40,
    query_count=80,
    server_assignment_count=10,
    client_bytes_received=6_000,
    client_bytes_sent=12_000,
    server_bytes_received=18_000,
    server_bytes_sent=24_000,
    xact_time_us=90_000,
    query_time_us=120_000,
    wait_time_us=61_000,
    client_parse_count=120,
    server_parse_count=180,
    bind_count=240,
    errors={"42601": 31, "57014": 30},
)


def at(uptime_s: float, totals: Totals) -> NodeSnapshot:
    server = PoolServerSnapshot(server="p1", totals=totals)
    pools = tuple(
        PoolSnapshot(database="app", user=user, mode="transaction", size=1, totals=totals, servers=(server,))
        for user in ("a", "b")
    )
    return msgspec.structs.replace(SNAPSHOT, uptime_s=uptime_s, pools=pools)


def test_counts_are_per_second_and_times_per_item() -> None:
    assert average(BEFORE, AFTER, 60.0) == Averages(
        xact_count=0,
        query_count=1,
        server_assignment_count=0,
        client_bytes_received=100,
        client_bytes_sent=200,
        server_bytes_received=300,
        server_bytes_sent=400,
        client_parse_count=2,
        server_parse_count=3,
        bind_count=4,
        error_count=1,
        wait_time_us_per_second=1_000,
        xact_time_us=3_000,
        query_time_us=2_000,
        wait_time_us=6_000,
    )


def test_totals_that_fell_count_as_still() -> None:
    assert average(AFTER, BEFORE, 1.0) == Averages()


def test_nothing_before_the_first_period_ends_and_the_last_whole_one_after() -> None:
    averages = PeriodAverages(15)
    averages.observe(at(1.0, Totals()))
    averages.observe(at(15.9, AFTER))
    assert averages.of("app", "a", "p1", 0) == Averages()
    averages.observe(at(16.0, AFTER))
    assert averages.of("app", "a", "p1", 0) == average(Totals(), AFTER, 15.0)
    assert averages.of("app") == average(Totals(), sum_totals([AFTER, AFTER]), 15.0)
    assert averages.of() == averages.of("app")
    averages.observe(at(17.0, AFTER))
    assert averages.of("app") == average(Totals(), sum_totals([AFTER, AFTER]), 15.0)
    averages.observe(at(31.0, AFTER))
    assert averages.of("app") == Averages()


def test_a_late_reading_divides_by_the_time_that_really_passed() -> None:
    averages = PeriodAverages(15)
    averages.observe(at(0.0, Totals()))
    averages.observe(at(30.0, AFTER))
    assert averages.of("app", "b", "p1", 0).query_count == 2


def test_a_subject_nobody_has_seen_has_zeros() -> None:
    assert PeriodAverages(15).of("nowhere") == Averages()


def test_both_periods_are_kept() -> None:
    history = History()
    for uptime_s in range(0, 61, 5):
        history.observe(at(uptime_s, AFTER if uptime_s else Totals()))
    assert history.pgbouncer.of("app").query_count == 2
    assert history.pgcat.of("app") == Averages()


def test_sums_add_every_count_and_every_code() -> None:
    assert sum_totals([]) == Totals()
    total = sum_totals([BEFORE, AFTER])
    assert (total.xact_count, total.query_count, total.bind_count) == (50, 100, 240)
    assert total.errors == {"42601": 32, "57014": 30}
    assert total.error_count == 62
