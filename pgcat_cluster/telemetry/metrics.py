"""A snapshot as Prometheus metrics: our own names, and PgCat's beside them so that dashboards keep working.

The data plane counts in plain integers; here they become samples, when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.places import places
from pgcat_cluster.telemetry.snapshot import NodeSnapshot, PoolSnapshot, Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A server may raise any SQLSTATE it likes; the label must not grow without end.
SQLSTATES_MAX = 100
OTHER_SQLSTATES = "other"

# Name, help, field of Totals, divisor to the base unit.
POOL_COUNTERS = (
    ("transactions", "Transactions finished.", "xact_count", 1),
    ("queries", "Queries finished.", "query_count", 1),
    ("server_assignments", "Times a client was given a server.", "server_assignment_count", 1),
    ("client_received_bytes", "Bytes received from clients.", "client_bytes_received", 1),
    ("client_sent_bytes", "Bytes sent to clients.", "client_bytes_sent", 1),
    ("transaction_seconds", "Time clients were coupled in transactions.", "xact_time_us", 1e6),
    ("query_seconds", "Time queries ran.", "query_time_us", 1e6),
    ("wait_seconds", "Time clients waited for a server.", "wait_time_us", 1e6),
    ("client_parses", "Parse messages for named statements from clients.", "client_parse_count", 1),
    ("server_parses", "Parse messages sent to servers.", "server_parse_count", 1),
    ("binds", "Bind messages forwarded.", "bind_count", 1),
)
SERVER_COUNTERS = (
    ("server_transactions", "Transactions finished on a server.", "xact_count", 1),
    ("server_queries", "Queries finished on a server.", "query_count", 1),
    ("server_received_bytes", "Bytes received from a server.", "server_bytes_received", 1),
    ("server_sent_bytes", "Bytes sent to a server.", "server_bytes_sent", 1),
    ("server_query_seconds", "Time queries ran on a server.", "query_time_us", 1e6),
)
POOL = ("database", "user")
POOL_SERVER = ("database", "user", "server", "shard")
BACKEND = ("server", "cluster", "host", "port")
PGCAT_PLACE = ("host", "shard", "role", "pool", "index", "database", "username")


def render_metrics(snapshot: NodeSnapshot, history: History) -> bytes:
    """The text format 0.0.4 of one snapshot."""
    return generate_latest(SnapshotCollector(snapshot, history))


class SnapshotCollector(Collector):
    """Collects from one snapshot, which never changes: it may be rendered in any thread."""

    def __init__(self, snapshot: NodeSnapshot, history: History) -> None:
        self._snapshot = snapshot
        self._history = history

    def collect(self) -> Iterator[Metric]:
        yield from _node(self._snapshot)
        yield from _pools(self._snapshot.pools)
        yield from _pool_servers(self._snapshot.pools)
        yield from _routing(self._snapshot.pools)
        yield from _mirrors(self._snapshot.pools)
        yield from _backends(self._snapshot)
        yield from _pgcat(self._snapshot, self._history)


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pgcat_cluster_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(f"pgcat_cluster_{name}_total", text, labels=labels)


def _node(snapshot: NodeSnapshot) -> Iterator[Metric]:
    build = _gauge("build_info", "Version and kind of build; always 1.", ("version", "build", "node"))
    build.add_metric([snapshot.version, snapshot.build, snapshot.name], 1)
    yield build
    gauges = (
        ("uptime_seconds", "Time since the process started.", snapshot.uptime_s),
        ("ready", "1 if the node serves clients.", int(not snapshot.not_ready)),
        ("paused", "1 if all databases are paused.", int(snapshot.state == "paused")),
        ("draining", "1 if the node is about to end.", int(snapshot.state == "draining")),
        ("clients_max", "Clients that may be connected.", snapshot.max_clients),
        ("logins_pending", "Clients that are logging in.", snapshot.logins_pending),
        ("flows", "Decisions the relay remembers.", snapshot.flows),
    )
    for name, text, value in gauges:
        gauge = _gauge(name, text)
        gauge.add_metric([], value)
        yield gauge
    counters = (
        ("upcalls", "Requests the relay handed up to be decided.", snapshot.upcalls),
        (
            "unknown_statements",
            "Statements that were not understood, and so went to the primary.",
            snapshot.unknown_statements,
        ),
        ("log_lines_dropped", "Log lines lost because their reader was slow.", snapshot.log_lines_dropped),
    )
    for name, text, value in counters:
        counter = _counter(name, text)
        counter.add_metric([], value)
        yield counter
    pins = _counter("pins", "Times a client had to keep its server, by reason.", ("reason",))
    for reason, count in snapshot.pins.items():
        pins.add_metric([reason], count)
    yield pins


def _bounded(errors: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The codes seen first by themselves, the rest as one; a code never changes sides."""
    codes = list(errors.items())
    yield from codes[:SQLSTATES_MAX]
    if codes[SQLSTATES_MAX:]:
        yield OTHER_SQLSTATES, sum(count for _, count in codes[SQLSTATES_MAX:])


def _totals(
    catalogue: Iterable[tuple[str, str, str, float]],
    labels: tuple[str, ...],
    rows: list[tuple[list[str], Totals]],
) -> Iterator[Metric]:
    for name, text, field, divisor in catalogue:
        counter = _counter(name, text, labels)
        for values, totals in rows:
            counter.add_metric(values, getattr(totals, field) / divisor)
        yield counter


def _pools(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    clients = _gauge("clients", "Clients by what they do.", (*POOL, "state"))
    oldest = _gauge("oldest_wait_seconds", "How long the client that waits longest has waited.", POOL)
    size = _gauge("pool_size_links", "Server links a pool may have per server.", (*POOL, "mode"))
    paused = _gauge("pool_paused", "1 if the pool is paused.", POOL)
    errors = _counter("errors", "Errors told to clients, by SQLSTATE.", (*POOL, "sqlstate"))
    for pool in pools:
        names = [pool.database, pool.user]
        for state in pool.clients.__struct_fields__:
            clients.add_metric([*names, state], getattr(pool.clients, state))
        oldest.add_metric(names, pool.oldest_wait_us / 1e6)
        size.add_metric([*names, pool.mode], pool.size)
        paused.add_metric(names, int(pool.is_paused))
        for sqlstate, count in _bounded(pool.totals.errors):
            errors.add_metric([*names, sqlstate], count)
    yield from (clients, oldest, size, paused, errors)
    yield from _totals(POOL_COUNTERS, POOL, [([pool.database, pool.user], pool.totals) for pool in pools])


def _routing(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    """Each label has a few values, which stand in `session`."""
    commands = _counter("commands", "Commands the node answered itself.", (*POOL, "command"))
    unplaced = _counter(
        "unplaced_statements", "Statements refused since they lead to no one shard.", (*POOL, "reason")
    )
    reads = _counter(
        "behind_reads", "Reads for which no replica was current, by what became of them.", (*POOL, "outcome")
    )
    wait = _counter("behind_wait_seconds", "Time reads waited for a replica to be current.", POOL)
    for pool in pools:
        names = [pool.database, pool.user]
        for command, count in pool.commands.items():
            commands.add_metric([*names, command], count)
        for reason, count in pool.unplaced.items():
            unplaced.add_metric([*names, reason], count)
        if pool.behind is not None:
            for outcome in ("current", "primary", "failed"):
                reads.add_metric([*names, outcome], pool.behind.get(outcome, 0))
            wait.add_metric(names, pool.behind_time_us / 1e6)
    yield from (commands, unplaced, reads, wait)


def _mirrors(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    rows = [([pool.database, pool.user], pool.mirror) for pool in pools if pool.mirror is not None]
    gauges = (
        ("mirror_links", "Links to a pool's mirror.", "links"),
        ("mirror_queue_transactions", "Transactions that wait for the mirror.", "queued"),
        ("mirror_queue_bytes", "What is held for the mirror.", "held_bytes"),
    )
    for name, text, field in gauges:
        gauge = _gauge(name, text, POOL)
        for names, mirror in rows:
            gauge.add_metric(names, getattr(mirror, field))
        yield gauge
    outcomes = _counter("mirror_transactions", "Transactions chosen for the mirror.", (*POOL, "outcome"))
    statements = _counter("mirror_statements", "Statements that the mirror has answered.", POOL)
    errors = _counter("mirror_errors", "Errors that the mirror answered, by SQLSTATE.", (*POOL, "sqlstate"))
    for names, mirror in rows:
        for outcome in ("mirrored", "dropped", "left_out", "failed"):
            outcomes.add_metric([*names, outcome], getattr(mirror, outcome))
        statements.add_metric(names, mirror.statements)
        for sqlstate, count in _bounded(mirror.errors):
            errors.add_metric([*names, sqlstate], count)
    yield from (outcomes, statements, errors)


def _pool_servers(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    links = _gauge("server_links", "Server links by state.", (*POOL_SERVER, "state"))
    rows: list[tuple[list[str], Totals]] = []
    for pool in pools:
        for part in pool.servers:
            names = [pool.database, pool.user, part.server, str(part.shard)]
            for state in part.links.__struct_fields__:
                links.add_metric([*names, state], getattr(part.links, state))
            rows.append((names, part.totals))
    yield links
    yield from _totals(SERVER_COUNTERS, POOL_SERVER, rows)


def _backends(snapshot: NodeSnapshot) -> Iterator[Metric]:
    role = _gauge("server_role", "1 for the role a server has now.", (*BACKEND, "role"))
    avoided = _gauge("server_avoided", "1 if clients are kept away from a server.", BACKEND)
    lag_bytes = _gauge("server_lag_bytes", "How far a replica is behind.", BACKEND)
    lag_s = _gauge("server_lag_seconds", "How far a replica is behind.", BACKEND)
    for backend in snapshot.backends:
        names = [backend.name, backend.cluster, backend.host, str(backend.port)]
        for possible in ("primary", "replica", "unknown"):
            role.add_metric([*names, possible], int(backend.role == possible))
        avoided.add_metric(names, int(backend.is_avoided))
        if backend.lag_bytes is not None:
            lag_bytes.add_metric(names, backend.lag_bytes)
        if backend.lag_s is not None:
            lag_s.add_metric(names, backend.lag_s)
    yield from (role, avoided, lag_bytes, lag_s)


# -- PgCat's names


def _pgcat_metric(name: str) -> Metric:
    # Untyped, because its counters have no `_total` and the client library would rename them.
    return Metric(f"pgcat_{name}", "PgCat's metric of the same name.", "unknown")


def _pgcat(snapshot: NodeSnapshot, history: History) -> Iterator[Metric]:
    metrics: dict[str, Metric] = {}

    def add(name: str, labels: Mapping[str, str], value: float) -> None:
        metric = metrics.setdefault(name, _pgcat_metric(name))
        metric.add_sample(f"pgcat_{name}", dict(labels), value)

    for place in places(snapshot):
        total = place.part.totals
        average = history.pgcat.of(place.pool.database, place.pool.user, place.part.server, place.part.shard)
        links = place.part.links
        values = (place.backend.host, str(place.part.shard), place.backend.role, place.pool.database)
        names = (*values, str(place.index), place.server_database, place.pool.user)
        labels = dict(zip(PGCAT_PLACE, names, strict=True))
        for name, value in (
            ("stats_total_query_count", total.query_count),
            ("stats_total_query_time", total.query_time_us // 1000),
            ("stats_total_received", total.server_bytes_received),
            ("stats_total_sent", total.server_bytes_sent),
            ("stats_total_xact_count", total.xact_count),
            ("stats_total_xact_time", total.xact_time_us // 1000),
            ("stats_total_wait_time", total.wait_time_us),
            ("stats_total_errors", total.error_count),
            ("stats_avg_query_count", average.query_count),
            ("stats_avg_query_time", average.query_time_us // 1000),
            ("stats_avg_recv", average.server_bytes_received),
            ("stats_avg_sent", average.server_bytes_sent),
            ("stats_avg_errors", average.error_count),
            ("stats_avg_xact_count", average.xact_count),
            ("stats_avg_xact_time", average.xact_time_us // 1000),
            ("stats_avg_wait_time", average.wait_time_us_per_second),
            ("servers_bytes_received", total.server_bytes_received),
            ("servers_bytes_sent", total.server_bytes_sent),
            ("servers_transaction_count", total.xact_count),
            ("servers_query_count", total.query_count),
            ("servers_error_count", total.error_count),
            ("servers_idle_count", links.idle + links.used),
            ("servers_active_count", links.active),
            ("servers_tested_count", links.tested),
            ("servers_login_count", links.login),
            ("servers_is_banned", int(place.backend.is_avoided)),
            ("servers_is_paused", int(place.part.is_paused)),
            ("databases_pool_size", place.part.size),
            ("databases_current_connections", links.open),
        ):
            add(name, labels, value)
    for pool in snapshot.pools:
        labels = {"pool": pool.database, "user": pool.user}
        counts = [part.links for part in pool.servers]
        for name, value in (
            ("pools_maxwait", pool.oldest_wait_us // 1_000_000),
            ("pools_maxwait_us", pool.oldest_wait_us % 1_000_000),
            ("pools_cl_waiting", pool.clients.waiting),
            ("pools_cl_active", pool.clients.active),
            ("pools_cl_idle", pool.clients.idle),
            ("pools_sv_idle", sum(links.idle for links in counts)),
            ("pools_sv_active", sum(links.active for links in counts)),
            ("pools_sv_login", sum(links.login for links in counts)),
            ("pools_sv_tested", sum(links.tested for links in counts)),
        ):
            add(name, labels, value)
    yield from metrics.values()
