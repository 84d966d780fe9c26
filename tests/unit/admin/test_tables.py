"""The columns of every SHOW, literally, and the rows one full snapshot gives."""

from __future__ import annotations

import msgspec
import pytest

from pgcat_cluster.admin import fleet_tables
from pgcat_cluster.admin.console import TABLES
from pgcat_cluster.admin.rows import sort_rows
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.snapshot import Avoidance
from tests.support.control import OVERVIEW, SNAPSHOT, TAKEN_AT_S

TYPE_OIDS = {"s": 25, "T": 25, "i": 23, "q": 20, "N": 1700, "b": 17}
CONNECTION = (
    "type, user, database, replication, state, addr, port, local_addr, local_port, connect_time, "
    "request_time, wait, wait_us, close_needed, ptr, link, remote_pid, tls, application_name, "
    "prepared_statements, id"
)
COLUMNS = {
    ("pgbouncer", "VERSION"): ("version", "s"),
    ("pgbouncer", "DATABASES"): (
        "name, host, port, database, force_user, pool_size, min_pool_size, reserve_pool_size, "
        "server_lifetime, pool_mode, load_balance_hosts, max_connections, current_connections, "
        "max_client_connections, current_client_connections, paused, disabled",
        "ssissiiiissiiiiii",
    ),
    ("pgbouncer", "POOLS"): (
        "database, user, cl_active, cl_waiting, cl_active_cancel_req, cl_waiting_cancel_req, sv_active, "
        "sv_active_cancel, sv_being_canceled, sv_idle, sv_used, sv_tested, sv_login, maxwait, maxwait_us, "
        "pool_mode, load_balance_hosts",
        "ssiiiiiiiiiiiiiss",
    ),
    ("pgbouncer", "STATS"): (
        "database, total_server_assignment_count, total_xact_count, total_query_count, total_received, "
        "total_sent, total_xact_time, total_query_time, total_wait_time, total_client_parse_count, "
        "total_server_parse_count, total_bind_count, avg_server_assignment_count, avg_xact_count, "
        "avg_query_count, avg_recv, avg_sent, avg_xact_time, avg_query_time, avg_wait_time, "
        "avg_client_parse_count, avg_server_parse_count, avg_bind_count",
        "sNNNNNNNNNNNNNNNNNNNNNN",
    ),
    ("pgbouncer", "STATS_TOTALS"): (
        "database, server_assignment_count, xact_count, query_count, bytes_received, bytes_sent, xact_time, "
        "query_time, wait_time, client_parse_count, server_parse_count, bind_count",
        "sNNNNNNNNNNN",
    ),
    ("pgbouncer", "STATS_AVERAGES"): (
        "database, server_assignment_count, xact_count, query_count, bytes_received, bytes_sent, xact_time, "
        "query_time, wait_time, avg_client_parse_count, avg_server_parse_count, avg_bind_count",
        "sNNNNNNNNNNN",
    ),
    ("pgbouncer", "TOTALS"): ("name, value", "sN"),
    ("pgbouncer", "CLIENTS"): (CONNECTION, "ssssssisiTTiiississii"),
    ("pgbouncer", "SERVERS"): (CONNECTION, "ssssssisiTTiiississii"),
    ("pgbouncer", "USERS"): (
        "name, pool_size, reserve_pool_size, pool_mode, max_user_connections, current_connections, "
        "max_user_client_connections, current_client_connections",
        "ssssiiii",
    ),
    ("pgbouncer", "LISTS"): ("list, items", "si"),
    ("pgbouncer", "CONFIG"): ("key, value, default, changeable", "ssss"),
    ("pgbouncer", "STATE"): ("key, value", "ss"),
    ("pgbouncer", "FDS"): (
        "fd, task, user, database, addr, port, cancel, link, client_encoding, std_strings, datestyle, "
        "timezone, password, scram_client_key, scram_server_key",
        "issssiqisssssbb",
    ),
    ("pgcat", "VERSION"): ("version", "s"),
    ("pgcat", "CONFIG"): ("key, value, default, changeable", "ssss"),
    ("pgcat", "DATABASES"): (
        "name, host, port, database, force_user, pool_size, min_pool_size, reserve_pool, pool_mode, "
        "max_connections, current_connections, paused, disabled",
        "sssssiiisiiii",
    ),
    ("pgcat", "POOLS"): (
        "database, user, pool_mode, cl_idle, cl_active, cl_waiting, cl_cancel_req, sv_active, sv_idle, "
        "sv_used, sv_tested, sv_login, maxwait, maxwait_us",
        "sssNNNNNNNNNNN",
    ),
    ("pgcat", "CLIENTS"): (
        "client_id, database, user, application_name, state, transaction_count, query_count, error_count, "
        "age_seconds, maxwait, maxwait_us",
        "sssssNNNNNN",
    ),
    ("pgcat", "SERVERS"): (
        "server_id, database_name, user, address_id, application_name, state, transaction_count, "
        "query_count, bytes_sent, bytes_received, age_seconds, prepare_cache_hit, prepare_cache_miss, "
        "prepare_cache_eviction, prepare_cache_size",
        "ssssssNNNNNNNNN",
    ),
    ("pgcat", "STATS"): (
        "instance, database, user, total_xact_count, total_query_count, total_received, total_sent, "
        "total_xact_time, total_query_time, total_wait_time, total_errors, avg_xact_count, avg_query_count, "
        "avg_recv, avg_sent, avg_errors, avg_xact_time, avg_query_time, avg_wait_time",
        "sssNNNNNNNNNNNNNNNN",
    ),
    ("pgcat", "LISTS"): ("list, items", "si"),
    ("pgcat", "USERS"): ("name, pool_mode", "ss"),
    ("pgcat", "BANS"): (
        "db, user, role, host, reason, ban_time, ban_duration_seconds, ban_remaining_seconds",
        "ssssssss",
    ),
}
FLEET_COLUMNS = {
    "FLEET": (
        "fleet, generation, accepted_rev, desired, desired_rev, why, node, runs, says, key, path, message",
        "sqqsqssqssss",
    ),
    "FLEET BANS": (
        "server, source, scope, state, why, by, votes, need, jury, strikes, since_rev",
        "sssssssiiiq",
    ),
    "FLEET OVERRIDES": ("target, says, reason, by, but, since_rev", "sssssq"),
    "NODES": (
        "node, state, zone, host, addr, version, coordinator, generation, lagging, suspects_itself",
        "sssssssqss",
    ),
    "VERDICTS": ("server, node, verdict, why, zone, generation, since_rev", "sssssqq"),
}
NAME_OF_APP = "app_shard_0_"


@pytest.mark.parametrize(("dialect", "subject"), COLUMNS, ids="-".join)
def test_columns_have_the_original_names_order_and_types(dialect: str, subject: str) -> None:
    names, letters = COLUMNS[dialect, subject]
    table = TABLES[dialect][subject]
    expected = list(zip(names.split(", "), (TYPE_OIDS[letter] for letter in letters), strict=True))
    assert [(column.name, column.type_oid) for column in table.columns] == expected


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
def test_what_one_side_lacks_has_the_shape_of_the_other(dialect: str) -> None:
    assert set(TABLES[dialect]) == {subject for _, subject in COLUMNS} | {"PINS", "MIRRORS"}


@pytest.mark.parametrize(("dialect", "subject"), COLUMNS, ids="-".join)
def test_every_row_fits_its_columns_and_numbers_are_numbers(dialect: str, subject: str) -> None:
    table = TABLES[dialect][subject]
    nullable = {"host", "force_user", "pool_mode", "load_balance_hosts"}
    nullable |= {"ban_duration_seconds", "ban_remaining_seconds"} if subject == "BANS" else set()
    for row in table.rows(SNAPSHOT, History()):
        for column, value in zip(table.columns, row, strict=True):
            if value is None:
                assert column.name in nullable
            else:
                assert isinstance(value, int if column.type_oid in (23, 20, 1700) else str), column.name


def rows(dialect: str, subject: str, history: History | None = None) -> list[tuple[object, ...]]:
    return sort_rows(TABLES[dialect][subject].rows(SNAPSHOT, history or History()))


def test_pgbouncer_databases() -> None:
    assert rows("pgbouncer", "DATABASES") == [
        ("Idle", "10.0.0.1", 5432, "idle", "one", 5, 0, 0, 0, "session", None, 0, 0, 0, 0, 1, 1),
        (
            *(
                "app",
                "10.0.0.1,10.0.0.2,10.0.0.3",
                5432,
                "app_production",
                None,
                20,
                2,
                1,
                3600,
                "transaction",
            ),
            *("random", 60, 15, 500, 12, 0, 0),
        ),
        ("pgbouncer", None, 6432, "pgbouncer", "pgbouncer", 2, 0, 0, 0, "statement", None, 0, 0, 0, 1, 0, 0),
    ]


def test_pgbouncer_pools() -> None:
    assert rows("pgbouncer", "POOLS") == [
        ("app", "app", 7, 5, 1, 2, 1, 6, 7, 2, 3, 4, 5, 2, 345, "transaction", "random"),
        ("pgbouncer", "pgbouncer", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "statement", None),
    ]


def test_pgbouncer_stats_count_from_the_clients_side() -> None:
    total = (13, 11, 12, 14, 15, 18_000, 19_000, 20, 21, 22, 23)
    zeros = (0,) * 11
    assert rows("pgbouncer", "STATS") == [
        ("Idle", *zeros, *zeros),
        ("app", *total, *zeros),
        ("pgbouncer", *zeros, *zeros),
    ]
    assert rows("pgbouncer", "STATS_TOTALS") == [("Idle", *zeros), ("app", *total), ("pgbouncer", *zeros)]


def test_pgbouncer_totals_name_every_total_and_average() -> None:
    names = (
        "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time "
        "wait_time ps_client_parse_count ps_server_parse_count ps_bind_count"
    ).split()
    total = (13, 11, 12, 14, 15, 18_000, 19_000, 20, 21, 22, 23)
    expected = {f"total_{name}": value for name, value in zip(names, total, strict=True)}
    assert dict(rows("pgbouncer", "TOTALS")) == expected | {f"avg_{name}": 0 for name in names}


def test_pgbouncer_clients_and_servers() -> None:
    assert rows("pgbouncer", "CLIENTS") == [
        (
            *("C", "(nouser)", "(nodb)", "none", "waiting", "192.0.2.2", 4001, "", 0),
            *(
                "2026-01-02 03:04:04 UTC",
                "2026-01-02 03:04:05 UTC",
                1,
                3,
                0,
                "0x00000007",
                "",
                0,
                "",
                "",
                0,
                7,
            ),
        ),
        (
            *("C", "app", "app", "none", "active", "192.0.2.1", 4000, "192.0.2.9", 6432),
            *("2026-01-02 03:03:00 UTC", "2026-01-02 03:04:00 UTC", 0, 0, 0, "0x0000002a", "0x0000002b", 0),
            *("TLSv1.3", "caf\udce9", 3, 42),
        ),
    ]
    assert rows("pgbouncer", "SERVERS") == [
        (
            *("S", "app", "app", "none", "used", "10.0.0.1", 5432, "", 0),
            *("2026-01-02 03:03:05 UTC", "2026-01-02 03:04:00 UTC", 0, 0, 1, "0x0000002b", "0x0000002a", 999),
            *("", "app", 8, 43),
        ),
    ]


def test_pgbouncer_users_lists_and_state() -> None:
    assert rows("pgbouncer", "USERS") == [
        ("app", "", "", "", 0, 15, 9, 12),
        ("bob", "        7", "", "session", 0, 0, 0, 0),
    ]
    assert dict(rows("pgbouncer", "LISTS")) == {
        "databases": 3,
        "users": 3,
        "peers": 0,
        "pools": 2,
        "peer_pools": 0,
        "free_clients": 0,
        "used_clients": 13,
        "login_clients": 2,
        "free_servers": 0,
        "used_servers": 15,
        "dns_names": 0,
        "dns_zones": 0,
        "dns_queries": 0,
        "dns_pending": 0,
    }
    assert rows("pgbouncer", "STATE") == [("active", "yes"), ("paused", "no"), ("suspended", "no")]
    assert rows("pgbouncer", "FDS") == []


def test_config_hides_secrets_and_has_what_exporters_ask_for() -> None:
    assert rows("pgbouncer", "CONFIG") == [
        ("max_client_conn", "1000", "", "yes"),
        ("max_user_connections", "0", "0", "no"),
        ("node.listen", "0.0.0.0:6432", "127.0.0.1:6432", "no"),
        ("node.tls.key_file", "node.key", "", "yes"),
        ("pools.app.note", "was ****", "", "yes"),
        ("pools.app.origin", "postgresql://****@db/app", "none", "yes"),
        ("pools.app.users.app.password", "****", "", "yes"),
        ("pools.app.users.app.verifier", "****", "", "yes"),
        ("stats_period", "60", "60", "no"),
    ]
    assert rows("pgcat", "CONFIG")[0] == ("node.listen", "0.0.0.0:6432", "-", "no")


def test_versions_say_what_runs() -> None:
    assert rows("pgbouncer", "VERSION") == [("PgBouncer 1.25.2 (pgcat_cluster 0.1.0, interpreted)",)]
    assert rows("pgcat", "VERSION") == [("PgCat 1.3.0 (pgcat_cluster 0.1.0, interpreted)",)]


def test_pgcat_databases_and_pools() -> None:
    assert rows("pgcat", "DATABASES") == [
        (
            *(NAME_OF_APP + "primary", "10.0.0.1", "5432", "app_production", "app", 20, 2, 0, "transaction"),
            *(20, 15, 0, 0),
        ),
        (
            *(
                NAME_OF_APP + "replica_0",
                "10.0.0.2",
                "5433",
                "app_production",
                "app",
                20,
                2,
                0,
                "transaction",
            ),
            *(20, 0, 0, 0),
        ),
        (
            *(
                NAME_OF_APP + "replica_1",
                "10.0.0.3",
                "5434",
                "app_production",
                "app",
                20,
                2,
                0,
                "transaction",
            ),
            *(20, 0, 1, 1),
        ),
    ]
    assert rows("pgcat", "POOLS") == [("app", "app", "transaction", 4, 3, 5, 3, 1, 2, 3, 4, 5, 2, 345)]


def test_pgcat_clients_and_servers() -> None:
    assert rows("pgcat", "CLIENTS") == [
        ("0x00000007", "", "", "", "waiting", 0, 0, 0, 1, 0, 0),
        ("0x0000002A", "app", "app", "caf\udce9", "active", 4, 5, 6, 65, 1, 2),
    ]
    assert rows("pgcat", "SERVERS") == [
        ("0x0000002B", "app", "app", NAME_OF_APP + "primary", "app", "idle", 12, 13, 15, 14, 60, 9, 10, 11, 8)
    ]


def test_pgcat_stats_count_from_the_servers_side() -> None:
    zeros = (0,) * 16
    assert rows("pgcat", "STATS") == [
        (NAME_OF_APP + "primary", "app_production", "app", 31, 32, 33, 34, 35, 36, 37, 2, *(0,) * 8),
        (NAME_OF_APP + "replica_0", "app_production", "app", *zeros),
        (NAME_OF_APP + "replica_1", "app_production", "app", *zeros),
    ]


def test_pgcat_lists_and_users() -> None:
    assert dict(rows("pgcat", "LISTS")) == {
        "databases": 4,
        "users": 2,
        "pools": 4,
        "free_clients": 4,
        "used_clients": 3,
        "login_clients": 2,
        "free_servers": 2,
        "used_servers": 1,
        "dns_names": 0,
        "dns_zones": 0,
        "dns_queries": 0,
        "dns_pending": 0,
    }
    assert rows("pgcat", "USERS") == [("app", "transaction")]


def test_pins_name_the_client_and_the_reason() -> None:
    assert rows("pgcat", "PINS") == [(42, "app", "app", "listens")]


def test_mirrors_say_what_became_of_what_was_chosen() -> None:
    assert rows("pgbouncer", "MIRRORS") == [
        ("app", "app", "m1", "5433", 1, 2, 3, 4, 5, 6, 7, 8, 19, "m1:5433: refused")
    ]


def test_bans_are_whatever_keeps_clients_away() -> None:
    at = "2026-01-02 03:03:55.000000000"
    assert rows("pgcat", "BANS") == [("app", "app", "replica", "10.0.0.3", "refused", at, None, None)]
    assert rows("pgbouncer", "BANS") == rows("pgcat", "BANS")
    p1, r1, r2 = SNAPSHOT.backends
    banned = msgspec.structs.replace(
        r1,
        is_avoided=True,
        reason="operator op: ban, on this node alone",
        avoidance=Avoidance(at_s=TAKEN_AT_S, length_s=60, left_s=59),
    )
    unseen = msgspec.structs.replace(r2, role="unknown", reason="not probed yet")
    snapshot = msgspec.structs.replace(SNAPSHOT, backends=(p1, banned, unseen))
    at = "2026-01-02 03:04:05.000000000"
    assert TABLES["pgcat"]["BANS"].rows(snapshot, History()) == [
        ("app", "app", "replica", "10.0.0.2", "AdminBan(60)", at, "60", "59")
    ]


# -- all nodes


@pytest.mark.parametrize("subject", FLEET_COLUMNS)
def test_columns_of_the_fleet(subject: str) -> None:
    names, letters = FLEET_COLUMNS[subject]
    table = fleet_tables.TABLES[subject]
    expected = list(zip(names.split(", "), (TYPE_OIDS[letter] for letter in letters), strict=True))
    assert [(column.name, column.type_oid) for column in table.columns] == expected
    for row in table.rows(OVERVIEW):
        for column, value in zip(table.columns, row, strict=True):
            assert value is None or isinstance(value, int if column.type_oid in (23, 20) else str)


def of_fleet(subject: str) -> list[tuple[object, ...]]:
    return list(sort_rows(fleet_tables.TABLES[subject].rows(OVERVIEW)))


def test_the_fleet_s_configuration_node_by_node() -> None:
    head = ("eu", 41, 80, "rejected", 88, "1 of 2 nodes")
    assert of_fleet("FLEET") == [
        (*head, "n1.00000001", 41, "accepted", "", "", ""),
        (*head, "n1.00000001", 41, "warned", "config/pools/app", "size", "is large"),
        # What looks like a secret is not shown, whoever wrote it.
        (*head, "n2.00000002", 41, "nacked", "config/clusters/c", "servers.r2", "was ****"),
        (*head, "n3", None, "lost", "", "", fleet_tables.LOST),
    ]


def test_an_empty_fleet_is_a_row_all_the_same() -> None:
    nobody = msgspec.structs.replace(OVERVIEW, nodes=(), lost_seats=(), accepted=None)
    assert fleet_tables.TABLES["FLEET"].rows(nobody) == [
        ("eu", None, None, "rejected", 88, "1 of 2 nodes", "", None, "", "", "", "")
    ]


def test_nodes_bans_verdicts_and_what_operators_said() -> None:
    here = ("a", "h", "10.0.0.9:6432", "0.1.0")
    assert of_fleet("NODES") == [
        ("n1.00000001", "serving", *here, "yes", 41, "no", "no"),
        ("n2.00000002", "serving", *here, "no", 41, "no", "no"),
        ("n3", "lost", "", "", "", "", "no", None, "yes", "no"),
    ]
    votes = "n1.00000001, n2.00000002"
    assert of_fleet("FLEET BANS") == [
        ("c/r1", "operator", "fleet", "drain", "disk", "on call", "", None, None, None, 60),
        ("c/r2", "vote", "fleet", "banned", "refused", "", votes, 2, 3, 1, 70),
    ]
    assert of_fleet("VERDICTS") == [("c/r2", "n1.00000001", "bad", "refused", "a", 41, 69)]
    assert of_fleet("FLEET OVERRIDES") == [
        ("_pool/app", "pause", "", "op on n1", "", 61),
        ("c/r1", "drain", "disk", "on call", "", 60),
        ("c/r9", "", "", "", "is no override", 62),
    ]
