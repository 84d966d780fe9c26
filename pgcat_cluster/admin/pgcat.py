"""PgCat's vocabulary: its tables, column by column, and its login parameters.

Statistics are per server and user here, and bytes are counted from the servers' side.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pgcat_cluster.admin.rows import Row, Table, columns
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.places import places
from pgcat_cluster.telemetry.redaction import redact_settings
from pgcat_cluster.telemetry.snapshot import ClientState, LinkState, NodeSnapshot

VERSION = "1.3.0"

CLIENT_STATES: dict[ClientState, str] = {
    "active": "active",
    "idle": "idle",
    "waiting": "waiting",
    "active_cancel_req": "active",
    "waiting_cancel_req": "waiting",
}
LINK_STATES: dict[LinkState, str] = {
    "new": "login",
    "active": "active",
    "idle": "idle",
    "used": "idle",
    "tested": "tested",
    "active_cancel": "active",
    "being_canceled": "active",
}


def login_parameters() -> dict[str, str]:
    """ParameterStatus at login; drivers parse the version."""
    return {
        "application_name": "",
        "client_encoding": "UTF8",
        "server_encoding": "UTF8",
        "server_version": VERSION,
        "DateStyle": "ISO, MDY",
    }


def _version(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [(f"PgCat {VERSION} (pgcat_cluster {snapshot.version}, {snapshot.build})",)]


def _config(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (setting.key, setting.value, "-", "yes" if setting.changeable else "no")
        for setting in redact_settings(snapshot.settings)
    ]


def _databases(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (
            place.name,
            place.backend.host,
            str(place.backend.port),
            place.server_database,
            place.pool.user,
            place.part.size,
            place.pool.min_size,
            0,
            place.pool.mode,
            place.part.size,
            place.part.links.open,
            int(place.part.is_paused),
            int(place.backend.is_avoided),
        )
        for place in places(snapshot)
    ]


def _pools(snapshot: NodeSnapshot, history: History) -> list[Row]:
    rows: list[Row] = []
    for pool in snapshot.pools:
        links = [server.links for server in pool.servers]
        rows.append(
            (
                pool.database,
                pool.user,
                pool.mode,
                pool.clients.idle,
                pool.clients.active,
                pool.clients.waiting,
                pool.clients.active_cancel_req + pool.clients.waiting_cancel_req,
                sum(counts.active for counts in links),
                sum(counts.idle for counts in links),
                sum(counts.used for counts in links),
                sum(counts.tested for counts in links),
                sum(counts.login for counts in links),
                pool.oldest_wait_us // 1_000_000,
                pool.oldest_wait_us % 1_000_000,
            )
        )
    return rows


def _clients(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (
            f"0x{client.number:08X}",
            client.database,
            client.user,
            client.application_name,
            CLIENT_STATES[client.state],
            client.xact_count,
            client.query_count,
            client.error_count,
            int(snapshot.taken_at_s - client.connected_at_s),
            client.longest_wait_us // 1_000_000,
            client.longest_wait_us % 1_000_000,
        )
        for client in snapshot.clients
    ]


def _servers(snapshot: NodeSnapshot, history: History) -> list[Row]:
    names = {
        (place.pool.database, place.pool.user, place.part.server, place.part.shard): place.name
        for place in places(snapshot)
    }
    return [
        (
            f"0x{link.number:08X}",
            link.database,
            link.user,
            # A pool whose settings have gone keeps its links until they are released.
            names.get((link.database, link.user, link.server, link.shard), link.server),
            link.application_name,
            LINK_STATES[link.state],
            link.xact_count,
            link.query_count,
            link.bytes_sent,
            link.bytes_received,
            int(snapshot.taken_at_s - link.connected_at_s),
            link.prepared_hits,
            link.prepared_misses,
            link.prepared_evictions,
            link.prepared_statements,
        )
        for link in snapshot.links
    ]


def _stats(snapshot: NodeSnapshot, history: History) -> list[Row]:
    rows: list[Row] = []
    for place in places(snapshot):
        total = place.part.totals
        average = history.pgcat.of(place.pool.database, place.pool.user, place.part.server, place.part.shard)
        rows.append(
            (
                place.name,
                place.server_database,
                place.pool.user,
                total.xact_count,
                total.query_count,
                total.server_bytes_received,
                total.server_bytes_sent,
                total.xact_time_us // 1000,
                total.query_time_us // 1000,
                total.wait_time_us,
                total.error_count,
                average.xact_count,
                average.query_count,
                average.server_bytes_received,
                average.server_bytes_sent,
                average.error_count,
                average.xact_time_us // 1000,
                average.query_time_us // 1000,
                average.wait_time_us_per_second,
            )
        )
    return rows


def _lists(snapshot: NodeSnapshot, history: History) -> list[Row]:
    servers = [server for pool in snapshot.pools for server in pool.servers]
    clients = [pool.clients for pool in snapshot.pools]
    return [
        ("databases", len(servers) + 1),
        ("users", len(snapshot.pools) + 1),
        ("pools", len(servers) + 1),
        ("free_clients", sum(counts.idle for counts in clients)),
        ("used_clients", sum(counts.active for counts in clients)),
        ("login_clients", snapshot.logins_pending),
        ("free_servers", sum(server.links.idle for server in servers)),
        ("used_servers", sum(server.links.active for server in servers)),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ]


def _bans(snapshot: NodeSnapshot, history: History) -> list[Row]:
    """Whatever keeps clients of this node away from a server: operators, the fleet, or what it saw itself."""
    rows: list[Row] = []
    for place in places(snapshot):
        backend, avoidance = place.backend, place.backend.avoidance
        if not backend.is_avoided or backend.role == "unknown":
            continue
        length_s = avoidance.length_s if avoidance else None
        left_s = avoidance.left_s if avoidance else None
        rows.append(
            (
                place.pool.database,
                place.pool.user,
                backend.role,
                backend.host,
                backend.reason if length_s is None else f"AdminBan({length_s})",
                _time(avoidance.at_s) if avoidance else None,
                # Nobody knows how long the others will last.
                None if length_s is None else str(length_s),
                None if left_s is None else str(left_s),
            )
        )
    return rows


def _time(at_s: float) -> str:
    """With nanoseconds, which the original prints."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f000")


def _users(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [(pool.user, pool.mode) for pool in snapshot.pools]


TABLES: dict[str, Table] = {
    "VERSION": Table(columns=columns("version", "s"), rows=_version),
    "CONFIG": Table(columns=columns("key value default changeable", "ssss"), rows=_config),
    "DATABASES": Table(
        columns=columns(
            "name host port database force_user pool_size min_pool_size reserve_pool pool_mode"
            " max_connections current_connections paused disabled",
            "sssssiiisiiii",
        ),
        rows=_databases,
    ),
    "POOLS": Table(
        columns=columns(
            "database user pool_mode cl_idle cl_active cl_waiting cl_cancel_req sv_active sv_idle sv_used"
            " sv_tested sv_login maxwait maxwait_us",
            "sss" + 11 * "N",
        ),
        rows=_pools,
    ),
    "CLIENTS": Table(
        columns=columns(
            "client_id database user application_name state transaction_count query_count error_count"
            " age_seconds maxwait maxwait_us",
            "sssss" + 6 * "N",
        ),
        rows=_clients,
        needs_connections=True,
    ),
    "SERVERS": Table(
        columns=columns(
            "server_id database_name user address_id application_name state transaction_count query_count"
            " bytes_sent bytes_received age_seconds prepare_cache_hit prepare_cache_miss"
            " prepare_cache_eviction prepare_cache_size",
            "ssssss" + 9 * "N",
        ),
        rows=_servers,
        needs_connections=True,
    ),
    "STATS": Table(
        columns=columns(
            "instance database user total_xact_count total_query_count total_received total_sent"
            " total_xact_time total_query_time total_wait_time total_errors avg_xact_count avg_query_count"
            " avg_recv avg_sent avg_errors avg_xact_time avg_query_time avg_wait_time",
            "sss" + 16 * "N",
        ),
        rows=_stats,
    ),
    "BANS": Table(
        columns=columns(
            "db user role host reason ban_time ban_duration_seconds ban_remaining_seconds", 8 * "s"
        ),
        rows=_bans,
        tag="SHOW BANS",
    ),
    "LISTS": Table(columns=columns("list items", "si"), rows=_lists),
    "USERS": Table(columns=columns("name pool_mode", "ss"), rows=_users),
}
