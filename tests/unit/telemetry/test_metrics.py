"""Metrics are read back with the client library's own parser."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.metrics import PGCAT_PLACE, SQLSTATES_MAX, render_metrics
from pgcat_cluster.telemetry.snapshot import NodeSnapshot, Totals
from tests.support.control import SECRETS, SNAPSHOT

PGCAT_SERVER_METRICS = {
    f"pgcat_{name}"
    for name in (
        "stats_total_query_count stats_total_query_time stats_total_received stats_total_sent "
        "stats_total_xact_count stats_total_xact_time stats_total_wait_time stats_total_errors "
        "servers_bytes_received servers_bytes_sent servers_transaction_count servers_query_count "
        "servers_error_count stats_avg_query_count stats_avg_query_time stats_avg_recv stats_avg_sent "
        "stats_avg_errors stats_avg_xact_count stats_avg_xact_time stats_avg_wait_time servers_idle_count "
        "servers_active_count servers_tested_count servers_login_count servers_is_banned servers_is_paused "
        "databases_pool_size databases_current_connections"
    ).split()
}
PGCAT_POOL_METRICS = {
    f"pgcat_pools_{name}"
    for name in "maxwait maxwait_us cl_waiting cl_active cl_idle sv_idle sv_active sv_login sv_tested".split()
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(snapshot: NodeSnapshot = SNAPSHOT) -> Samples:
    text = render_metrics(snapshot, History()).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_pgcat_s_names_have_its_labels_for_every_server() -> None:
    found = samples()
    labels = {name: set() for name, _ in found}
    for name, pairs in found:
        labels[name].add(frozenset(label for label, _ in pairs))
    theirs = {name for name in labels if not name.startswith("pgcat_cluster_")}
    assert theirs == PGCAT_SERVER_METRICS | PGCAT_POOL_METRICS
    assert all(labels[name] == {frozenset(PGCAT_PLACE)} for name in PGCAT_SERVER_METRICS)
    assert all(labels[name] == {frozenset({"pool", "user"})} for name in PGCAT_POOL_METRICS)
    place = {"host": "10.0.0.1", "shard": "0", "role": "primary", "pool": "app", "index": "0"}
    place |= {"database": "app_production", "username": "app"}
    assert value(found, "pgcat_stats_total_query_count", **place) == 32
    assert value(found, "pgcat_stats_total_query_time", **place) == 36
    assert value(found, "pgcat_servers_idle_count", **place) == 5
    banned = place | {"host": "10.0.0.3", "role": "replica", "index": "2"}
    assert value(found, "pgcat_servers_is_banned", **banned) == 1
    assert value(found, "pgcat_servers_is_paused", **banned) == 1
    assert value(found, "pgcat_pools_maxwait", pool="app", user="app") == 2
    assert value(found, "pgcat_pools_maxwait_us", pool="app", user="app") == 345


def test_our_own_names() -> None:
    found = samples()
    pool = {"database": "app", "user": "app"}
    assert value(found, "pgcat_cluster_build_info", version="0.1.0", build="interpreted", node="n1") == 1
    assert value(found, "pgcat_cluster_ready") == 1
    assert value(found, "pgcat_cluster_upcalls_total") == 41
    assert value(found, "pgcat_cluster_flows") == 42
    assert value(found, "pgcat_cluster_unknown_statements_total") == 43
    assert value(found, "pgcat_cluster_pins_total", reason="listens") == 44
    assert value(found, "pgcat_cluster_log_lines_dropped_total") == 45
    assert value(found, "pgcat_cluster_queries_total", **pool) == 12
    assert value(found, "pgcat_cluster_commands_total", **pool, command="set") == 24
    assert value(found, "pgcat_cluster_unplaced_statements_total", **pool, reason="no_key") == 25
    assert value(found, "pgcat_cluster_behind_reads_total", **pool, outcome="primary") == 26
    assert value(found, "pgcat_cluster_behind_reads_total", **pool, outcome="failed") == 0
    assert value(found, "pgcat_cluster_behind_wait_seconds_total", **pool) == 0.027
    assert value(found, "pgcat_cluster_mirror_transactions_total", **pool, outcome="dropped") == 6
    assert value(found, "pgcat_cluster_mirror_errors_total", **pool, sqlstate="40001") == 10
    assert value(found, "pgcat_cluster_mirror_queue_bytes", **pool) == 3
    assert value(found, "pgcat_cluster_query_seconds_total", **pool) == 0.019
    assert value(found, "pgcat_cluster_wait_seconds_total", **pool) == 0.00002
    assert value(found, "pgcat_cluster_oldest_wait_seconds", **pool) == 2.000345
    assert value(found, "pgcat_cluster_clients", **pool, state="waiting") == 5
    assert value(found, "pgcat_cluster_errors_total", **pool, sqlstate="42601") == 2
    part = pool | {"server": "p1", "shard": "0"}
    assert value(found, "pgcat_cluster_server_links", **part, state="login") == 5
    assert value(found, "pgcat_cluster_server_queries_total", **part) == 32
    backend = {"server": "r1", "cluster": "c", "host": "10.0.0.2", "port": "5433"}
    assert value(found, "pgcat_cluster_server_role", **backend, role="replica") == 1
    assert value(found, "pgcat_cluster_server_role", **backend, role="primary") == 0
    assert value(found, "pgcat_cluster_server_lag_bytes", **backend) == 10
    assert value(found, "pgcat_cluster_server_lag_seconds", **backend) == 0.5
    unknown = {"server": "p1", "cluster": "c", "host": "10.0.0.1", "port": "5432"}
    assert ("pgcat_cluster_server_lag_bytes", frozenset(unknown.items())) not in found


def test_labels_are_escaped() -> None:
    nasty = 'a"b\\c\nd'
    pool = msgspec.structs.replace(SNAPSHOT.pools[0], database=nasty)
    found = samples(msgspec.structs.replace(SNAPSHOT, pools=(pool,)))
    assert value(found, "pgcat_cluster_queries_total", database=nasty, user="app") == 12


def test_sqlstates_do_not_grow_without_end() -> None:
    errors = {f"X{number:04}": 1 for number in range(SQLSTATES_MAX + 7)}
    pool = msgspec.structs.replace(SNAPSHOT.pools[0], totals=Totals(errors=errors))
    found = samples(msgspec.structs.replace(SNAPSHOT, pools=(pool,)))
    codes = [dict(labels)["sqlstate"] for name, labels in found if name == "pgcat_cluster_errors_total"]
    assert len(codes) == SQLSTATES_MAX + 1
    assert value(found, "pgcat_cluster_errors_total", database="app", user="app", sqlstate="other") == 7


def test_no_secret_is_a_label() -> None:
    text = render_metrics(SNAPSHOT, History()).decode()
    assert [secret for secret in SECRETS if secret in text] == []
