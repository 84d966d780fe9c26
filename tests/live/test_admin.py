"""The consoles and HTTP endpoints of a real node in front of real servers, asked as operators ask them."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import cast

import psycopg
import pytest

from pgcat_cluster.admin import fleet_tables
from pgcat_cluster.admin.console import TABLES
from pgcat_cluster.demo.node import CONFIG, Node
from tests.support.nodes import WITHIN_S, eventually, get, one, port, status
from tests.support.stack import NodeMaker

DIALECTS = ("pgbouncer", "pgcat")
# Of a node in peace.
EMPTY = ("FDS", "PINS", "BANS", "FLEET BANS", "FLEET OVERRIDES", "VERDICTS", "MIRRORS")
ONE_LINK = CONFIG.replace("size = 20", "size = 1")

Connection = psycopg.Connection[tuple[object, ...]]


def connect(node: Node, user: str = "test", database: str = "test") -> Connection:
    return psycopg.connect(node.dsn(user, database), autocommit=True, connect_timeout=int(WITHIN_S))


def console(node: Node, dialect: str = "pgbouncer") -> Connection:
    return connect(node, "admin", dialect)


def show(admin: Connection, subject: str) -> list[dict[str, object]]:
    return rows(admin, f"SHOW {subject}")


def rows(admin: Connection, words: str) -> list[dict[str, object]]:
    """The rows of a command that answers some."""
    cursor = admin.execute(words.encode())
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def node_ports(node: Node) -> list[int]:
    """The ports of the servers behind a node: the primary's, then those of the replicas."""
    ports = {str(one["name"]): int(one["port"]) for one in status(node)["backends"]}
    return [ports[f"main/{name}"] for name in ("p1", "r1", "r2")]


def pool(admin: Connection) -> dict[str, object]:
    return next(row for row in show(admin, "POOLS") if row["database"] == "test")


def pid(connection: Connection) -> object:
    # A write, so that it is the primary's.
    row = connection.execute("select pg_backend_pid() from (select txid_current()) t").fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def used(pg_node: Node) -> Node:
    """A node that somebody has used."""
    with connect(pg_node) as client:
        client.execute("select 1")
        pid(client)
    return pg_node


# -- SHOW


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_table_has_the_columns_it_announces(used: Node, dialect: str) -> None:
    with console(used, dialect) as admin:
        for subject, table in {**TABLES[dialect], **fleet_tables.TABLES}.items():  # type: ignore[index]
            for prepared in (False, True):
                cursor = admin.execute(f"SHOW {subject}".encode(), prepare=prepared)
                assert [column.name for column in cursor.description or ()] == [
                    column.name for column in table.columns
                ], subject
                rows = cursor.fetchall()
                assert rows or subject in EMPTY, subject


@pytest.mark.parametrize("dialect", DIALECTS)
def test_psql_reads_the_tables(used: Node, dialect: str) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("no psql on this machine")
    script = "".join(
        f"SHOW {subject};\n" for subject in ("VERSION", "HELP", *TABLES[dialect], "FLEET", "NODES")
    )  # type: ignore[index]
    done = subprocess.run(
        [psql, "-X", "-v", "ON_ERROR_STOP=1", "-d", used.dsn("admin", dialect), "-f", "-"],
        input=script,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Console usage" in done.stderr
    assert "pgcat_cluster" in done.stdout


def test_what_is_shown_is_what_happens(start_node: NodeMaker) -> None:
    node = start_node()
    with connect(node) as client, console(node) as admin, console(node, "pgcat") as cats:
        client.execute("set application_name = 'till'")
        with client.transaction():
            held = pid(client)
            row = pool(admin)
            assert (row["cl_active"], row["cl_waiting"], row["sv_active"]) == (1, 0, 1)
            (shown,) = [row for row in show(admin, "CLIENTS") if row["database"] == "test"]
            assert (shown["state"], shown["user"], shown["application_name"]) == ("active", "test", "till")
            (server,) = [row for row in show(admin, "SERVERS") if row["state"] == "active"]
            assert (server["remote_pid"], server["ptr"], server["link"]) == (
                held,
                shown["link"],
                shown["ptr"],
            )
            (mine,) = [row for row in show(cats, "CLIENTS") if row["database"] == "test"]
            assert mine["state"] == "active"
        eventually(lambda: pool(admin)["sv_active"] == 0, "the server is given back")
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.execute("select 1 / 0")
        (stats,) = [row for row in show(admin, "STATS") if row["database"] == "test"]
        assert stats["total_xact_count"] == 3
        assert stats["total_query_count"] == 5  # SET, BEGIN, the read, COMMIT, the division
        assert min(int(str(stats[name])) for name in ("total_received", "total_sent", "total_xact_time")) > 0
        division = 'pgcat_cluster_errors_total{database="test",sqlstate="22012",user="test"} 1.0'
        assert division in get(node, "/metrics")[1].splitlines()
        databases = {row["name"]: row for row in show(cats, "DATABASES")}
        assert set(databases) == {"test_shard_0_primary", "test_shard_0_replica_0", "test_shard_0_replica_1"}


def test_each_server_tells_what_was_done_there(start_node: NodeMaker) -> None:
    """PgCat's STATS, CLIENTS and SERVERS: every figure is one of what really ran."""
    node = start_node()
    counted = psycopg.connect(node.dsn("test", "test"), autocommit=True, application_name="counted")
    with console(node, "pgcat") as admin, counted as client:
        client.execute("create table counted as select 1 as n")
        client.execute("select pg_sleep(0.02) from counted for update")
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.execute("insert into counted select 1 / (n - 1) from counted")
        for number in range(4):
            client.execute("update counted set n = %s", (number,), prepare=True)
        primary, *replicas = sorted(
            (row for row in show(admin, "STATS") if row["database"] == "test"),
            key=lambda row: -cast(int, row["total_query_count"]),
        )
        assert [primary[f"total_{name}"] for name in ("xact_count", "query_count", "errors")] == [8, 7, 1]
        assert cast(int, primary["total_query_time"]) >= 20
        assert cast(int, primary["total_xact_time"]) >= 20
        assert [row["total_query_count"] for row in replicas] == [0, 0]
        mine = next(row for row in show(admin, "CLIENTS") if row["application_name"] == "counted")
        assert [mine[name] for name in ("transaction_count", "query_count", "error_count")] == [8, 7, 1]
        links = [row for row in show(admin, "SERVERS") if row["transaction_count"]]
        assert sum(cast(int, link["query_count"]) for link in links) == 7
        names = ("prepare_cache_hit", "prepare_cache_miss", "prepare_cache_eviction", "prepare_cache_size")
        assert [[link[name] for name in names] for link in links] == [[4, 1, 0, 1]]


def test_pins_name_their_reason(start_node: NodeMaker) -> None:
    node = start_node()
    with connect(node) as client, console(node) as admin:
        client.execute("listen news")
        eventually(lambda: len(show(admin, "PINS")) == 1, "the server has said what is left on it")
        (pin,) = show(admin, "PINS")
        assert (pin["database"], pin["user"]) == ("test", "test")
        assert "listen" in str(pin["reason"]).lower()
        client.execute("unlisten *")
        eventually(lambda: show(admin, "PINS") == [], "the pin ends")


def test_only_operators_get_in(pg_node: Node) -> None:
    with pytest.raises(psycopg.OperationalError, match='user "test" is not allowed to use the admin console'):
        connect(pg_node, "test", "pgbouncer")


# -- PAUSE, RESUME, RECONNECT


@pytest.mark.parametrize(
    ("dialect", "pause", "resume"),
    [
        ("pgbouncer", "PAUSE", "RESUME"),
        ("pgbouncer", "PAUSE test", "RESUME test"),
        ("pgcat", "PAUSE", "RESUME"),
        ("pgcat", "PAUSE test,test", "RESUME test,test"),
    ],
)
def test_a_pause_blocks_and_resume_releases(
    start_node: NodeMaker, dialect: str, pause: str, resume: str
) -> None:
    node = start_node()
    with connect(node) as client, console(node, dialect) as admin, console(node) as watcher:
        before = pid(client)
        admin.execute(pause.encode())
        eventually(lambda: show(watcher, "SERVERS") == [], "no server link is left")
        client.pgconn.send_query(b"select 'served'")
        eventually(lambda: pool(watcher)["cl_waiting"] == 1, "the client waits")
        assert show(watcher, "SERVERS") == []
        assert {row["value"] for row in show(watcher, "STATE") if row["key"] == "paused"} == {
            "yes" if "test" not in pause else "no"
        }
        assert {row["name"]: row["paused"] for row in show(watcher, "DATABASES")}["test"] == 1
        admin.execute(resume.encode())
        result = client.pgconn.get_result()
        assert result is not None
        assert result.get_value(0, 0) == b"served"
        assert client.pgconn.get_result() is None
        assert pid(client) != before


def test_a_pause_lets_transactions_end(start_node: NodeMaker) -> None:
    node = start_node()
    with connect(node) as client, console(node) as admin, console(node) as watcher:
        with client.transaction():
            held = pid(client)
            admin.pgconn.send_query(b"PAUSE")
            eventually(lambda: [row["value"] for row in show(watcher, "STATE")][:1] == ["no"], "it is paused")
            assert pid(client) == held
            assert [row["remote_pid"] for row in show(watcher, "SERVERS")] == [held]
        result = admin.pgconn.get_result()
        assert result is not None
        assert result.command_status == b"PAUSE"
        assert admin.pgconn.get_result() is None
        assert show(watcher, "SERVERS") == []
        admin.execute("RESUME")
        assert pid(client) != held


def test_who_connects_during_a_pause_waits_too(start_node: NodeMaker) -> None:
    node = start_node()
    with console(node) as admin:
        admin.execute("PAUSE")
        waiting = psycopg.pq.PGconn.connect_start(node.dsn().encode())
        eventually(lambda: _has_come(waiting, admin), "the new client waits")
        admin.execute("RESUME")
        eventually(lambda: waiting.connect_poll() == psycopg.pq.PollingStatus.OK, "it is let in")
        waiting.finish()


def _has_come(waiting: psycopg.pq.PGconn, admin: Connection) -> bool:
    waiting.connect_poll()
    return pool(admin)["cl_waiting"] == 1


def test_reconnect_replaces_links(start_node: NodeMaker) -> None:
    node = start_node(config=ONE_LINK)
    with connect(node) as client, console(node) as admin:
        before = pid(client)
        assert pid(client) == before
        admin.execute("RECONNECT test")
        after = pid(client)
        assert after != before
        with client.transaction():
            assert pid(client) == after
            admin.execute("RECONNECT")
            assert pid(client) == after
        assert pid(client) != after


# -- BAN, UNBAN, and FLEET without a fleet


def test_a_banned_server_serves_nobody_until_that_ends(start_node: NodeMaker) -> None:
    node = start_node()
    _p1, r1, r2 = node_ports(node)
    with connect(node) as client, console(node, "pgcat") as cats:
        readers = {"db": "test", "user": "test", "role": "replica", "host": "127.0.0.1"}
        assert rows(cats, f"BAN 127.0.0.1:{r1} 600") == [readers]
        assert {port(client) for _ in range(20)} == {r2}
        (ban,) = show(cats, "BANS")
        assert {name: ban[name] for name in readers} == readers
        assert (ban["reason"], ban["ban_duration_seconds"]) == ("AdminBan(600)", "600")
        assert 500 < int(str(ban["ban_remaining_seconds"])) <= 600
        assert rows(cats, "UNBAN main/r1") == [readers]
        assert show(cats, "BANS") == []
        eventually(lambda: port(client) == r1, "it is read again")

        # A primary too: nothing is written, and who wants to is told why.
        rows(cats, "BAN p1 600")
        with pytest.raises(psycopg.errors.CannotConnectNow) as caught:
            pid(client)
        assert "operator admin: ban, on this node alone" in (caught.value.diag.message_detail or "")
        assert {port(client) for _ in range(20)} <= {r1, r2}
        rows(cats, "UNBAN p1")
        assert pid(client)

        rows(cats, "BAN r2 1")
        assert show(cats, "BANS") != []
        eventually(lambda: show(cats, "BANS") == [], "the ban ends by itself")


def test_a_node_with_a_file_is_a_fleet_of_one(start_node: NodeMaker) -> None:
    node = start_node()
    with connect(node) as client, console(node) as admin:
        said: list[str | None] = []
        admin.add_notice_handler(lambda diag: said.append(diag.message_primary))
        for words in ("PAUSE FLEET", "RESUME FLEET", "RECONNECT test FLEET", "BAN r1 FLEET"):
            admin.execute(words.encode())
        assert len(said) == 4
        assert {*said} == {
            "this node goes by a file and is the whole fleet; what is said by hand lasts until it restarts"
        }
        assert [(row["server"], row["state"]) for row in show(admin, "FLEET BANS")] == [("main/r1", "ban")]
        admin.execute(b"UNBAN r1 FLEET")
        assert one(client, "select 1") == 1
        text = node.config.read_text()
        node.config.write_text(text.replace("size = 20", "size = 0"))
        with pytest.raises(psycopg.Error):
            admin.execute(b"RELOAD FLEET")
        (row,) = show(admin, "FLEET")
        assert (row["desired"], row["says"], row["path"]) == (
            "rejected",
            "nacked",
            "pools.test.users.test.size",
        )
        node.config.write_text(text.replace("size = 20", "size = 21"))
        admin.execute(b"RELOAD FLEET")
        (row,) = show(admin, "FLEET")
        assert (row["desired"], row["says"], row["generation"]) == ("accepted", "accepted", 2)


# -- RELOAD, SHUTDOWN


def test_reload_applies_what_changed_and_drops_nobody(start_node: NodeMaker) -> None:
    node = start_node(config=ONE_LINK)
    text = node.config.read_text()
    with connect(node) as client, connect(node) as other, console(node) as admin:
        with client.transaction():
            held = pid(client)
            other.pgconn.send_query(b"select pg_backend_pid() from (select txid_current()) t")
            eventually(lambda: pool(admin)["cl_waiting"] == 1, "the pool of one is too small")
            node.config.write_text(text.replace("size = 1 ", "size = 2 "))
            admin.execute("RELOAD")
            result = other.pgconn.get_result()
            assert result is not None
            assert result.get_value(0, 0) not in (None, str(held).encode())
            assert other.pgconn.get_result() is None
            assert pid(client) == held
        assert {row["key"]: row["value"] for row in show(admin, "CONFIG")}[
            "pools.test.users.test.size"
        ] == "2"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_bad_file_is_refused_with_the_reason_and_changes_nothing(
    start_node: NodeMaker, dialect: str
) -> None:
    node = start_node()
    text = node.config.read_text()
    with connect(node) as client, console(node, dialect) as admin:
        before = show(admin, "CONFIG")
        node.config.write_text(text.replace("size = 20", "sice = 20"))
        with pytest.raises(psycopg.Error) as caught:
            admin.execute("RELOAD")
        assert "pools.test.users.test.sice" in str(caught.value.diag.message_detail)
        assert "RELOAD failed" in str(caught.value)
        assert show(admin, "CONFIG") == before
        assert client.execute("select 1").fetchall() == [(1,)]
        node.config.write_text(text)
        admin.execute("RELOAD")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_shutdown_ends_the_node(start_node: NodeMaker, dialect: str) -> None:
    node = start_node()
    with connect(node) as client:
        client.execute("select 1")
        admin = console(node, dialect)
        if dialect == "pgcat":
            assert admin.execute("SHUTDOWN").fetchall() == [("t",)]
        else:
            with pytest.raises(psycopg.OperationalError):
                admin.execute("SHUTDOWN")
        assert node.wait(WITHIN_S) == 0
        with pytest.raises(psycopg.OperationalError):
            client.execute("select 1")
        admin.close()


def test_shutdown_waits_for_transactions(start_node: NodeMaker) -> None:
    node = start_node()
    client = connect(node)
    with console(node) as admin:
        client.execute("begin")
        held = pid(client)
        admin.execute("SHUTDOWN WAIT_FOR_SERVERS")
        status, text = get(node, "/ready")
        assert (status, json.loads(text)) == (503, {"ready": False, "reasons": ["the node is shutting down"]})
        assert pid(client) == held
        client.execute("commit")
        assert node.wait(WITHIN_S) == 0
    client.close()


# -- HTTP


def test_live_ready_metrics_and_status(used: Node) -> None:
    assert get(used, "/live") == (200, '{"live": true}')
    ready = (200, '{"ready": true, "reasons": []}')
    eventually(lambda: get(used, "/ready") == ready, "it is ready")
    status, text = get(used, "/metrics")
    assert status == 200
    lines = set(text.splitlines())
    assert "pgcat_cluster_ready 1.0" in lines
    assert 'pgcat_cluster_pool_size_links{database="test",mode="transaction",user="test"} 20.0' in lines
    roles = [
        line for line in lines if line.startswith("pgcat_cluster_server_role{") and line.endswith(" 1.0")
    ]
    assert sorted('role="primary"' in line for line in roles) == [False, False, True]
    status, text = get(used, "/status")
    assert (status, json.loads(text)["state"]) == (200, "active")
    assert get(used, "/other")[0] == 404


def test_secrets_are_nowhere(used: Node) -> None:
    shown = [get(used, path)[1] for path in ("/metrics", "/status", "/ready")]
    for dialect in DIALECTS:
        with console(used, dialect) as admin:
            shown += [str(show(admin, subject)) for subject in TABLES[dialect]]  # type: ignore[index]
    shown.append(used.log.read_text())
    for secret in used.passwords.values():
        assert not any(secret in text for text in shown)
    assert not any("SCRAM-SHA-256$" in text for text in shown)
