"""The consoles of a fleet: what all nodes are, and what they do at one node's word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgcat_cluster.demo.node import Node
from tests.support.fleets import Fleet, FleetMaker
from tests.support.nodes import answer, backend, connect, eventually, get, links, one, port, server_pids

pytestmark = pytest.mark.once


def avoids(node: Node, server: str) -> bool:
    return bool(backend(node, server)["is_avoided"])


class Admin:
    """A console session of one node; its notices are kept, each with its detail."""

    def __init__(self, node: Node, dialect: str = "pgbouncer") -> None:
        self.connection = connect(node, dialect, "admin", row_factory=dict_row)
        self.notices: list[tuple[str, str]] = []
        self.connection.add_notice_handler(
            lambda said: self.notices.append((said.message_primary or "", said.message_detail or ""))
        )

    def __call__(self, text: str) -> list[dict[str, Any]]:
        self.notices.clear()
        cursor = self.connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []  # type: ignore[return-value]

    def refused(self, text: str) -> psycopg.errors.Diagnostic:
        with pytest.raises(psycopg.DatabaseError) as caught:
            self(text)
        return caught.value.diag


@contextmanager
def consoles(*nodes: Node, dialect: str = "pgbouncer") -> Iterator[list[Admin]]:
    admins = [Admin(node, dialect) for node in nodes]
    yield admins
    for admin in admins:
        admin.connection.close()


def ids(fleet: Fleet) -> list[str]:
    return sorted(key.removeprefix("live/") for key in fleet.keys("live/"))


def of_all(fleet: Fleet) -> list[tuple[str, str]]:
    """What is said when every node obeys."""
    return [(f"all {len(fleet.nodes)} live nodes obey", ", ".join(ids(fleet)))]


def by_command_line(fleet: Fleet) -> Any:
    command = [sys.executable, "-m", "pgcat_cluster", "fleet", "status", "--json"]
    place = {"PGCAT_ETCD": ",".join(fleet.etcd.endpoints), "PGCAT_FLEET": "test"}
    done = subprocess.run(command, env=os.environ | place, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_all_nodes_obey_one_word(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(pool="size = 4")
    first, _second, third = fleet.nodes
    r1, r2 = fleet.stack.replicas
    names = ids(fleet)
    with consoles(*fleet.nodes) as admins, consoles(third, dialect="pgcat") as [cats]:
        admin = admins[0]
        # What was edited, and how far it has come.
        admin("RELOAD FLEET")
        assert admin.notices == of_all(fleet)
        (accepted,) = fleet.values("decided/accepted")
        for console in (*admins, cats):
            rows = console("SHOW FLEET")
            assert [(row["node"], row["runs"], row["says"]) for row in rows] == [
                (name, accepted["gen"], "accepted") for name in names
            ]
            assert {(row["generation"], row["desired"]) for row in rows} == {(accepted["gen"], "accepted")}
        fleet.put("config/pools/test", 'users = { test = {} }\nsize = "many"')
        diag = admin.refused("RELOAD FLEET")
        assert (diag.sqlstate, diag.message_primary) == (
            "F0000",
            "RELOAD failed, see logs for additional details",
        )
        assert "config/pools/test: size" in (diag.message_detail or "")
        wrong = fleet.values("ack/")[0]["nack"][0]["msg"]
        assert wrong.startswith('"many" is not allowed')
        assert [
            (row["node"], row["says"], row["key"], row["path"], row["message"]) for row in cats("SHOW FLEET")
        ] == [(name, "nacked", "config/pools/test", "size", wrong) for name in names]
        fleet.put("config/pools/test", "users = { test = {} }\nsize = 4")
        admin("RELOAD FLEET")

        # A ban of all nodes: seen by each, in the store and in what they serve.
        assert cats(f"BAN {r1.host}:{r1.port} FLEET") == [
            {"db": "test", "user": "test", "role": "replica", "host": r1.host}
        ]
        assert cats.notices == of_all(fleet)
        assert all(avoids(node, "r1") for node in fleet.nodes)
        for console in (*admins, cats):
            (ban,) = console("SHOW BANS")
            assert (ban["db"], ban["user"], ban["role"], ban["host"]) == ("test", "test", "replica", r1.host)
            assert (ban["reason"], ban["ban_duration_seconds"]) == ("operator admin on px-3: ban", None)
            (row,) = console("SHOW FLEET BANS")
            assert (row["server"], row["source"], row["state"], row["by"]) == (
                *("main/r1", "operator", "ban"),
                "admin on px-3",
            )
        for node in fleet.nodes:
            with connect(node) as client:
                assert {port(client) for _ in range(10)} == {r2.port}
        assert [row["target"] for row in admin("SHOW FLEET OVERRIDES")] == ["main/r1"]
        status = by_command_line(fleet)
        assert [(one["target"], one["says"], one["by"]) for one in status["overrides"]] == [
            ("main/r1", "ban", "admin on px-3")
        ]
        assert [node["node"] for node in status["nodes"]] == [row["node"] for row in admin("SHOW NODES")]
        admin("UNBAN main/r1 FLEET")
        assert admin.notices == of_all(fleet)
        assert fleet.keys("override/") == []
        assert not any(avoids(node, "r1") for node in fleet.nodes)

        # PgCat's own ban is one node's.
        cats(f"BAN {r1.host}:{r1.port} 600")
        assert cats.notices == [("on this node alone; BAN … FLEET is for all nodes", "")]
        (ban,) = cats("SHOW BANS")
        assert (ban["reason"], ban["ban_duration_seconds"]) == ("AdminBan(600)", "600")
        assert [avoids(node, "r1") for node in fleet.nodes] == [False, False, True]
        cats(f"UNBAN {r1.host}:{r1.port}")
        assert cats("SHOW BANS") == []
        assert not any(avoids(node, "r1") for node in fleet.nodes)

        # A pause: it waits for what runs, then nothing is served anywhere, until all may go on.
        with connect(third) as client, connect(first) as late:
            with client.transaction():
                one(client, "select 1")
                admin.connection.pgconn.send_query(b"PAUSE test FLEET")
                eventually(lambda: "test" in str(fleet.values("ack/")[0].get("drained")), "one has drained")
                assert admin.connection.pgconn.is_busy()
            result = admin.connection.pgconn.get_result()
            assert result is not None
            assert result.status == psycopg.pq.ExecStatus.COMMAND_OK
            assert admin.connection.pgconn.get_result() is None
            for node in fleet.nodes:
                assert not any(links(node).get(state) for state in ("idle", "active"))
            late.pgconn.send_query(b"select 1")
            client.pgconn.send_query(b"select 1")
            for node in (first, third):
                eventually(
                    lambda node=node: '"waiting":1' in get(node, "/status")[1].replace(" ", ""), "it waits"
                )
            diag = admins[1].refused("RESUME test")
            assert diag.message_primary == "paused for the whole fleet: test"
            admins[1]("RESUME test FLEET")
            assert answer(late) == answer(client) == (b"1", None)
            assert fleet.keys("override/") == []

        # New links for old ones.
        for node in fleet.nodes:
            with connect(node) as client:
                one(client, "select 1")
        before = [server_pids(node) for node in fleet.nodes]
        assert all(before)
        admin("RECONNECT FLEET")
        eventually(
            lambda: not any(server_pids(node) & pids for node, pids in zip(fleet.nodes, before, strict=True)),
            "the links are others",
        )


def test_who_does_not_answer_is_named_and_without_etcd_nothing_is_done(make_fleet: FleetMaker) -> None:
    fleet = make_fleet()
    first, _second, frozen = fleet.nodes
    (name,) = [name for name in ids(fleet) if name.startswith("px-3.")]
    with consoles(first) as [admin], connect(first) as client:
        frozen.freeze()
        try:
            diag = admin.refused("PAUSE test FLEET")
            assert diag.message_primary == "PAUSE test FLEET was not obeyed by every node and was undone"
            assert name in (diag.message_detail or "")
            assert fleet.keys("override/") == []
            assert one(client, "select 1") == 1
        finally:
            frozen.resume()
        eventually(lambda: len(fleet.keys("live/")) == 3, "it is there again")

        (member,) = fleet.etcd.members
        member.stop()
        for text in ("PAUSE FLEET", "BAN r1 FLEET", "RECONNECT test FLEET", "RELOAD FLEET", "SHOW NODES"):
            assert (admin.refused(text).message_primary or "").startswith("etcd does not answer: ")
        admin("PAUSE test")
        assert admin.notices == [("on this node alone; PAUSE … FLEET is for all nodes", "")]
        admin("RESUME test")
        assert one(client, "select 1") == 1
        fleet.etcd.restart(member)
        eventually(lambda: len(fleet.keys("live/")) == 3, "all are there again")
        assert fleet.keys("override/") == []


def test_a_ban_that_the_fleet_voted_is_lifted_by_one_word(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(fleet='[health]\ntimeout_min = "20s"\ntimeout_max = "20s"\n[bans]\nmin = "300s"\n')
    with consoles(*fleet.nodes) as admins:
        admin = admins[0]
        votes = ids(fleet)[:2]
        fleet.put(
            "decided/ban/main/r1/fleet",
            f'{{"id":"b1","state":"banned","scope":"fleet","why":["refused"],"votes":{json.dumps(votes)},"need":2,'
            f'"jury":3,"zones":2,"strikes":4,"by":"{votes[0]}"}}',
        )
        # Its timer, so that nobody takes it for one whose time is up.
        fleet.put("decided/timer/ban-b1", '{"for":"ban/main/r1/fleet"}')
        eventually(lambda: all(avoids(node, "r1") for node in fleet.nodes), "all avoid it")
        for console in admins:
            (ban,) = console("SHOW FLEET BANS")
            assert (ban["server"], ban["source"], ban["why"], ban["votes"], ban["strikes"]) == (
                *("main/r1", "vote", "refused"),
                *(", ".join(votes), 4),
            )
            assert [row["reason"] for row in console("SHOW BANS")] == ["fleet ban: refused"]
        fleet.put(
            "verdict/main/r1/px-9.00000009", '{"v":"bad","why":["lag"],"since_rev":1,"gen":1,"zone":"z9"}'
        )
        assert ("main/r1", "px-9.00000009", "bad", "lag", "z9") in [
            tuple(row[name] for name in ("server", "node", "verdict", "why", "zone"))
            for row in admin("SHOW VERDICTS")
        ]
        assert "FLEET takes bans" in (admin.refused("UNBAN r1").message_hint or "")
        admin("UNBAN r1 FLEET")
        assert admin.notices == of_all(fleet)
        eventually(lambda: not any(avoids(node, "r1") for node in fleet.nodes), "all use it again")
        assert admin("SHOW FLEET BANS") == admin("SHOW BANS") == []
