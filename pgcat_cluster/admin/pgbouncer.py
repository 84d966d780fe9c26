"""PgBouncer's vocabulary: the tables of its version 1.25, column by column, and its login parameters.

Never a column more than the original has: some readers go by position and count.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pgcat_cluster.admin.rows import Row, Table, columns
from pgcat_cluster.telemetry.averages import PGBOUNCER_PERIOD_S, Averages, History, database_totals
from pgcat_cluster.telemetry.redaction import redact_settings
from pgcat_cluster.telemetry.snapshot import (
    BackendSnapshot,
    DatabaseSnapshot,
    NodeSnapshot,
    PoolSnapshot,
    Totals,
    sum_totals,
)

NAME = "pgbouncer"
VERSION = "1.25.2"
# The console shows itself as a database, as the original does; tools skip it by name.
SELF_POOL_SIZE = 2


def login_parameters() -> dict[str, str]:
    """ParameterStatus at login; drivers parse the version."""
    return {
        "server_version": f"{VERSION}/bouncer",
        "client_encoding": "UTF8",
        "server_encoding": "UTF8",
        "DateStyle": "ISO",
        "TimeZone": "GMT",
        "standard_conforming_strings": "on",
        "is_superuser": "on",
    }


def _version(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [(f"PgBouncer {VERSION} (pgcat_cluster {snapshot.version}, {snapshot.build})",)]


def _config(snapshot: NodeSnapshot, history: History) -> list[Row]:
    rows: dict[str, Row] = {
        "max_client_conn": ("max_client_conn", str(snapshot.max_clients), "", "yes"),
        "max_user_connections": ("max_user_connections", "0", "0", "no"),
        "stats_period": ("stats_period", str(PGBOUNCER_PERIOD_S), str(PGBOUNCER_PERIOD_S), "no"),
    }
    for setting in redact_settings(snapshot.settings):
        changeable = "yes" if setting.changeable else "no"
        rows[setting.key] = (setting.key, setting.value, setting.default, changeable)
    return list(rows.values())


def _address(database: DatabaseSnapshot, backends: dict[str, BackendSnapshot]) -> tuple[str | None, int]:
    """All hosts as the original prints a list of them, and the port of the primary (else of the first)."""
    servers = [backends[name] for name in database.servers]
    primaries = [server for server in servers if server.role == "primary"]
    if not servers:
        return None, 0
    return ",".join(server.host for server in servers), (primaries or servers)[0].port


def _databases(snapshot: NodeSnapshot, history: History) -> list[Row]:
    backends = {backend.name: backend for backend in snapshot.backends}
    rows: list[Row] = [
        (
            *(NAME, None, snapshot.listen_port, NAME, NAME, SELF_POOL_SIZE, 0, 0, 0, "statement", None),
            *(0, 0, 0, snapshot.console_clients, 0, 0),
        )
    ]
    for database in snapshot.databases:
        pools = [pool for pool in snapshot.pools if pool.database == database.name]
        host, port = _address(database, backends)
        rows.append(
            (
                database.name,
                host,
                port,
                database.server_database,
                database.force_user,
                database.size,
                database.min_size,
                database.reserve_size,
                database.lifetime_s,
                database.mode,
                database.balancing,
                database.max_server_links,
                sum(server.links.open for pool in pools for server in pool.servers),
                database.max_clients,
                sum(pool.clients.all for pool in pools),
                int(database.is_paused),
                int(database.is_disabled),
            )
        )
    return rows


def _pool(pool: PoolSnapshot, balancing: str | None) -> Row:
    links = [server.links for server in pool.servers]
    return (
        pool.database,
        pool.user,
        # An idle client counts as active here: it is one that nothing is pending for.
        pool.clients.active + pool.clients.idle,
        pool.clients.waiting,
        pool.clients.active_cancel_req,
        pool.clients.waiting_cancel_req,
        sum(counts.active for counts in links),
        sum(counts.active_cancel for counts in links),
        sum(counts.being_canceled for counts in links),
        sum(counts.idle for counts in links),
        sum(counts.used for counts in links),
        sum(counts.tested for counts in links),
        sum(counts.login for counts in links),
        pool.oldest_wait_us // 1_000_000,
        pool.oldest_wait_us % 1_000_000,
        pool.mode,
        balancing,
    )


def _pools(snapshot: NodeSnapshot, history: History) -> list[Row]:
    balancing = {database.name: database.balancing for database in snapshot.databases}
    rows: list[Row] = [(NAME, NAME, snapshot.console_clients, *[0] * 12, "statement", None)]
    return rows + [_pool(pool, balancing.get(pool.database)) for pool in snapshot.pools]


def _values(counts: Totals | Averages) -> Row:
    """What every table of statistics shows, in its order: totals, or the averages of the same name."""
    return (
        counts.server_assignment_count,
        counts.xact_count,
        counts.query_count,
        counts.client_bytes_received,
        counts.client_bytes_sent,
        counts.xact_time_us,
        counts.query_time_us,
        counts.wait_time_us,
        counts.client_parse_count,
        counts.server_parse_count,
        counts.bind_count,
    )


def _totals_by_database(snapshot: NodeSnapshot) -> dict[str, Totals]:
    return {NAME: Totals()} | database_totals(snapshot)


def _stats(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (name, *_values(total), *_values(history.pgbouncer.of(name)))
        for name, total in _totals_by_database(snapshot).items()
    ]


def _stats_totals(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [(name, *_values(total)) for name, total in _totals_by_database(snapshot).items()]


def _stats_averages(snapshot: NodeSnapshot, history: History) -> list[Row]:
    names = _totals_by_database(snapshot)
    return [(name, *_values(history.pgbouncer.of(name))) for name in names]


TOTALS_NAMES = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
)


def _totals(snapshot: NodeSnapshot, history: History) -> list[Row]:
    total = _values(sum_totals(pool.totals for pool in snapshot.pools))
    average = _values(history.pgbouncer.of())
    return [
        (prefix + name, value)
        for prefix, values in (("total_", total), ("avg_", average))
        for name, value in zip(TOTALS_NAMES, values, strict=True)
    ]


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _pointer(number: int | None) -> str:
    """A connection's number in the form of the original's pointers; never a memory address."""
    return "" if number is None else f"0x{number:08x}"


def _clients(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (
            "C",
            client.user or "(nouser)",
            client.database or "(nodb)",
            client.replication,
            client.state,
            client.address,
            client.port,
            client.local_address,
            client.local_port,
            _time(client.connected_at_s),
            _time(client.requested_at_s),
            client.wait_us // 1_000_000,
            client.wait_us % 1_000_000,
            0,
            _pointer(client.number),
            _pointer(client.link),
            client.process_id,
            client.tls,
            client.application_name,
            client.prepared_statements,
            client.number,
        )
        for client in snapshot.clients
    ]


def _servers(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (
            "S",
            link.user,
            link.database,
            "none",
            link.state,
            link.address,
            link.port,
            link.local_address,
            link.local_port,
            _time(link.connected_at_s),
            _time(link.requested_at_s),
            0,
            0,
            int(link.close_needed),
            _pointer(link.number),
            _pointer(link.client),
            link.process_id,
            link.tls,
            link.application_name,
            link.prepared_statements,
            link.number,
        )
        for link in snapshot.links
    ]


def _users(snapshot: NodeSnapshot, history: History) -> list[Row]:
    rows: list[Row] = []
    for user in snapshot.users:
        pools = [pool for pool in snapshot.pools if pool.user == user.name]
        rows.append(
            (
                user.name,
                "" if user.size is None else f"{user.size:9d}",
                "",
                user.mode or "",
                user.max_server_links,
                sum(server.links.open for pool in pools for server in pool.servers),
                user.max_clients,
                sum(pool.clients.all for pool in pools),
            )
        )
    return rows


def _lists(snapshot: NodeSnapshot, history: History) -> list[Row]:
    # Nothing is kept for connections that are gone, and names are resolved without a list: zeros are true.
    return [
        ("databases", len(snapshot.databases) + 1),
        ("users", len(snapshot.users) + 1),
        ("peers", 0),
        ("pools", len(snapshot.pools) + 1),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", sum(pool.clients.all for pool in snapshot.pools) + snapshot.console_clients),
        ("login_clients", snapshot.logins_pending),
        ("free_servers", 0),
        ("used_servers", sum(server.links.open for pool in snapshot.pools for server in pool.servers)),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ]


def _state(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        ("active", "no" if snapshot.state == "paused" else "yes"),
        ("paused", "yes" if snapshot.state == "paused" else "no"),
        ("suspended", "no"),
    ]


def _fds(snapshot: NodeSnapshot, history: History) -> list[Row]:
    # The original gives out cancel keys and password hashes here.
    return []


_CONNECTION = columns(
    "type user database replication state addr port local_addr local_port connect_time request_time wait"
    " wait_us close_needed ptr link remote_pid tls application_name prepared_statements id",
    "ssssssisiTTiiississii",
)

TABLES: dict[str, Table] = {
    "VERSION": Table(columns=columns("version", "s"), rows=_version),
    "CONFIG": Table(columns=columns("key value default changeable", "ssss"), rows=_config),
    "DATABASES": Table(
        columns=columns(
            "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime"
            " pool_mode load_balance_hosts max_connections current_connections max_client_connections"
            " current_client_connections paused disabled",
            "ssissiiiissiiiiii",
        ),
        rows=_databases,
    ),
    "POOLS": Table(
        columns=columns(
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active"
            " sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us"
            " pool_mode load_balance_hosts",
            "ssiiiiiiiiiiiiiss",
        ),
        rows=_pools,
    ),
    "STATS": Table(
        columns=columns(
            "database total_server_assignment_count total_xact_count total_query_count total_received"
            " total_sent total_xact_time total_query_time total_wait_time total_client_parse_count"
            " total_server_parse_count total_bind_count avg_server_assignment_count avg_xact_count"
            " avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time"
            " avg_client_parse_count avg_server_parse_count avg_bind_count",
            "s" + 22 * "N",
        ),
        rows=_stats,
    ),
    "STATS_TOTALS": Table(
        columns=columns(
            "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
            " query_time wait_time client_parse_count server_parse_count bind_count",
            "s" + 11 * "N",
        ),
        rows=_stats_totals,
    ),
    "STATS_AVERAGES": Table(
        columns=columns(
            "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
            " query_time wait_time avg_client_parse_count avg_server_parse_count avg_bind_count",
            "s" + 11 * "N",
        ),
        rows=_stats_averages,
    ),
    "TOTALS": Table(columns=columns("name value", "sN"), rows=_totals),
    "CLIENTS": Table(columns=_CONNECTION, rows=_clients, needs_connections=True),
    "SERVERS": Table(columns=_CONNECTION, rows=_servers, needs_connections=True),
    "USERS": Table(
        columns=columns(
            "name pool_size reserve_pool_size pool_mode max_user_connections current_connections"
            " max_user_client_connections current_client_connections",
            "ssssiiii",
        ),
        rows=_users,
    ),
    "LISTS": Table(columns=columns("list items", "si"), rows=_lists),
    "STATE": Table(columns=columns("key value", "ss"), rows=_state),
    "FDS": Table(
        columns=columns(
            "fd task user database addr port cancel link client_encoding std_strings datestyle timezone"
            " password scram_client_key scram_server_key",
            "issssiqisssssbb",
        ),
        rows=_fds,
    ),
}
