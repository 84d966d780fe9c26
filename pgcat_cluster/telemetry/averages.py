"""Averages over the last whole period, made of the totals of two snapshots."""

from __future__ import annotations

import msgspec

from pgcat_cluster.telemetry.snapshot import COUNTED, NodeSnapshot, Totals, sum_totals

PGBOUNCER_PERIOD_S = 60
PGCAT_PERIOD_S = 15

# All, a whole database, or one server's part of a pool: (), (database,) or (database, user, server, shard).
Subject = tuple[str | int, ...]


class Averages(msgspec.Struct, frozen=True, kw_only=True):
    """Rates per second; `…_time_us` are means: per transaction, per query, per server assignment."""

    xact_count: int = 0
    query_count: int = 0
    server_assignment_count: int = 0
    client_bytes_received: int = 0
    client_bytes_sent: int = 0
    server_bytes_received: int = 0
    server_bytes_sent: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0
    error_count: int = 0
    wait_time_us_per_second: int = 0
    xact_time_us: int = 0
    query_time_us: int = 0
    wait_time_us: int = 0


NOTHING = Averages()
RATES = (*(name for name in COUNTED if not name.endswith("_us")), "error_count")


def average(before: Totals, after: Totals, elapsed_s: float) -> Averages:
    """The averages of what happened between two readings; a total that fell was reset and counts as still."""

    def grown(name: str) -> int:
        growth: int = getattr(after, name) - getattr(before, name)
        return max(0, growth)

    def mean(time: str, count: str) -> int:
        return grown(time) // grown(count) if grown(count) else 0

    rates = {name: int(grown(name) / elapsed_s) for name in RATES}
    return Averages(
        **rates,
        wait_time_us_per_second=int(grown("wait_time_us") / elapsed_s),
        xact_time_us=mean("xact_time_us", "xact_count"),
        query_time_us=mean("query_time_us", "query_count"),
        wait_time_us=mean("wait_time_us", "server_assignment_count"),
    )


def database_totals(snapshot: NodeSnapshot) -> dict[str, Totals]:
    """The totals of each database over all its users; one that nobody has used yet has zeros."""
    parts: dict[str, list[Totals]] = {database.name: [] for database in snapshot.databases}
    for pool in snapshot.pools:
        parts.setdefault(pool.database, []).append(pool.totals)
    return {name: sum_totals(totals) for name, totals in parts.items()}


class PeriodAverages:
    """The averages of one period length; `observe` often (at least once per period), then `of` answers.

    Before the first period has ended every average is 0, as in PgBouncer.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._began_s: float | None = None
        self._totals: dict[Subject, Totals] = {}
        self._averages: dict[Subject, Averages] = {}

    def observe(self, snapshot: NodeSnapshot) -> None:
        if self._began_s is not None and snapshot.uptime_s - self._began_s < self.period_s:
            return
        totals: dict[Subject, Totals] = {(name,): total for name, total in database_totals(snapshot).items()}
        totals[()] = sum_totals(totals.values())
        for pool in snapshot.pools:
            for server in pool.servers:
                totals[pool.database, pool.user, server.server, server.shard] = server.totals
        if self._began_s is not None:
            elapsed_s = snapshot.uptime_s - self._began_s
            nothing = Totals()
            self._averages = {
                subject: average(self._totals.get(subject, nothing), total, elapsed_s)
                for subject, total in totals.items()
            }
        self._began_s = snapshot.uptime_s
        self._totals = totals

    def of(self, *subject: str | int) -> Averages:
        """The averages of everything, of a database, or of (database, user, server, shard)."""
        return self._averages.get(subject, NOTHING)


class History:
    """What both consoles and the metrics average over; the node lets it observe a snapshot every second."""

    def __init__(self) -> None:
        self.pgbouncer = PeriodAverages(PGBOUNCER_PERIOD_S)
        self.pgcat = PeriodAverages(PGCAT_PERIOD_S)

    def observe(self, snapshot: NodeSnapshot) -> None:
        self.pgbouncer.observe(snapshot)
        self.pgcat.observe(snapshot)
