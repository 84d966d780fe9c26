"""Nodes that go by one etcd: edits, bad ones too, bans, overrides, and life without the store."""

from __future__ import annotations

import re
import signal
from typing import Any

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from tests.live.test_cancels import Busy, login_of, send_cancel
from tests.live.test_node_health import Readers
from tests.support.fleets import SHORT_BANS, FleetMaker, size
from tests.support.nodes import Connection, answer, backend, connect, eventually, get, lines, links, one, port
from tests.support.rigs import frozen
from tests.support.stack import StackMaker

pytestmark = pytest.mark.once


def avoids(node: Node, server: str) -> bool:
    return bool(backend(node, server)["is_avoided"])


def test_an_edit_reaches_all_and_a_broken_one_nobody(make_fleet: FleetMaker) -> None:
    fleet = make_fleet()
    fleet.put("config/pools/test", "users = { test = {} }\nsize = 7")
    eventually(lambda: [size(node) for node in fleet.nodes] == [7, 7, 7], "the pool is larger")
    (accepted,) = fleet.values("decided/accepted")
    eventually(
        lambda: {ack["active"]["gen"] for ack in fleet.values("ack/")} == {accepted["gen"]}, "all say so"
    )

    fleet.put("config/pools/test", 'users = { tst = {} }\nsize = "many"')
    eventually(lambda: all(ack.get("nack") for ack in fleet.values("ack/")), "all refuse it")
    for ack in fleet.values("ack/"):
        assert [(one["key"], one["path"], one["msg"]) for one in ack["nack"]] == [
            ("config/pools/test", "users.tst", 'user "tst" does not exist; did you mean "test"?'),
            (
                "config/pools/test",
                "size",
                '"many" is not allowed; allowed: a whole number, from 1 to 1000000',
            ),
        ]
    eventually(lambda: fleet.values("status/config")[0]["desired"]["state"] == "rejected", "it is said")
    # It lies there, and does no harm to who starts now either.
    restarted = fleet.nodes[0]
    restarted.stop()
    restarted.start()
    assert [size(node) for node in fleet.nodes] == [7, 7, 7]
    assert fleet.values("decided/accepted") == [accepted]
    with connect(restarted) as client:
        assert one(client, "select 1") == 1


def test_a_login_that_a_server_refuses_stops_an_edit(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=1)
    fleet.put("config/pools/other", 'database = "missing"\nusers = { test = {} }')

    def nacks() -> list[dict[str, Any]]:
        return [nack for ack in fleet.values("ack/") for nack in ack.get("nack", [])]

    eventually(lambda: bool(nacks()), "it is refused")
    (nack,) = nacks()
    assert (nack["key"], nack["path"]) == ("config/pools/other", "users.test")
    assert re.match(r"server main/\w+ refuses the login: ", nack["msg"])
    assert 'database "missing" does not exist' in nack["msg"]


def test_a_dead_replica_is_banned_by_all_and_comes_back(
    make_fleet: FleetMaker, make_stack: StackMaker
) -> None:
    stack = make_stack()
    fleet = make_fleet(stack=stack, pool="size = 4")
    dead = stack.replicas[0]
    with Readers(fleet.nodes[0]) as first, Readers(fleet.nodes[1]) as second:
        eventually(lambda: dead.port in first.since(0) & second.since(0), "it is read")
        dead.kill()
        eventually(lambda: fleet.keys("decided/ban/") == ["decided/ban/main/r1/fleet"], "it is banned")
        eventually(lambda: all(avoids(node, "r1") for node in fleet.nodes), "all avoid it")
        (ban,) = fleet.values("decided/ban/")
        assert (ban["state"], ban["why"], ban["jury"], ban["strikes"]) == ("banned", ["refused"], 3, 1)
        assert len(ban["votes"]) >= ban["need"] == 2
        assert all(lines(node, "server.banned") for node in fleet.nodes)
        dead.start()
        eventually(lambda: fleet.keys("decided/ban/") == [], "it is forgiven")
        eventually(lambda: not any(avoids(node, "r1") for node in fleet.nodes), "all use it again")
        count = len(first.answers)
        eventually(lambda: dead.port in {answer for _, answer in first.answers[count:]}, "it is read again")
    assert first.failures == second.failures == []
    eventually(lambda: fleet.keys("verdict/") == [], "nothing is left of it")


def test_a_node_that_was_frozen_believes_nothing_it_missed(
    make_fleet: FleetMaker, make_stack: StackMaker
) -> None:
    # One look that was late would do: it votes alone.
    health = '[health]\ninterval = "100ms"\nfall = 1\ntimeout_min = "8s"\ntimeout_max = "8s"\n'
    stack = make_stack(replicas=1)
    fleet = make_fleet(nodes=1, stack=stack, fleet=health + SHORT_BANS)
    (node,) = fleet.nodes
    (replica,) = stack.replicas
    superuser = stack.primary.dsn("postgres", "postgres")
    with psycopg.connect(superuser, autocommit=True) as observer, frozen(replica):
        for _ in range(4):
            before = last_probe(observer)
            eventually(lambda before=before: last_probe(observer) != before, "the primary is probed")
        # By now it waits for the replica's answer too, and has no time left for it when it goes on.
        with frozen(node):
            lease = fleet.ctl("lease", "grant", "10").split()[1]
            fleet.ctl("put", f"--lease={lease}", "/timer", "")
            eventually(lambda: not fleet.ctl("get", "/timer"), "more time has passed than it would grant")
            assert fleet.keys("live/") == []
            replica.resume()
    eventually(lambda: bool(fleet.keys("live/")), "it is there again")
    with connect(node) as client:
        assert {port(client) for _ in range(10)} == {replica.port}
    said = fleet.operate("events")
    assert f"{fleet.values('live/')[0]['name']}." in said
    assert not re.search(r"\bbad\b|\bban", said), said
    # What a node wrote bears its time, also long after.
    when = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} +\d+  "
    for deed in (r"px-1\.\w+ joined, joining", "generation 1 is accepted", r"px-1\.\w+ runs generation 1"):
        assert re.search(when + deed, said, re.MULTILINE), said


def last_probe(observer: Connection) -> Any:
    """When the server was looked at last."""
    return one(observer, "select max(query_start) from pg_stat_activity where usename = 'pgcat_probe'")


def test_life_without_the_store(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2)
    first, second = fleet.nodes
    fleet.put("override/main/r1", "drain")
    eventually(lambda: avoids(first, "r1") and avoids(second, "r1"), "both heed it")
    eventually(lambda: (first.folder / "state" / "known.json").exists(), "it is written down")
    (member,) = fleet.etcd.members
    with connect(first) as client:
        member.stop()
        assert one(client, "select 1") == 1
        eventually(lambda: bool(lines(second, "fleet.lost")), "the lease is given up")
        assert one(client, "select 1") == 1
        second.kill()
        second.start()
        assert lines(second, "begins with what was kept")
        with connect(second) as other:
            assert one(other, "select 1") == 1
        assert avoids(second, "r1")
        fleet.etcd.restart(member)
        eventually(lambda: len(fleet.keys("live/")) == 2, "both are there again")
        fleet.delete("override/main/r1")
        eventually(lambda: not (avoids(first, "r1") or avoids(second, "r1")), "it is used again")
        assert one(client, "select 1") == 1


def test_one_word_drains_bans_and_pauses(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2)
    r1, r2 = fleet.stack.replicas
    for word in ("drain", "ban"):
        fleet.put("override/main/r1", word)
        eventually(lambda: all(avoids(node, "r1") for node in fleet.nodes), f"{word} is heeded")
        for node in fleet.nodes:
            with connect(node) as client:
                assert {port(client) for _ in range(20)} == {r2.port}
        fleet.delete("override/main/r1")
        eventually(lambda: not any(avoids(node, "r1") for node in fleet.nodes), "it is used again")
    node = fleet.nodes[0]
    with connect(node) as client:
        assert port(client) in (r1.port, r2.port)
        fleet.put("override/_pool/test", "pause")
        eventually(lambda: not any(links(node).get(state) for state in ("idle", "active")), "it is drained")
        eventually(
            lambda: all(ack.get("drained", {}).get("test") for ack in fleet.values("ack/")), "all say so"
        )
        client.pgconn.send_query(b"select 1")
        eventually(lambda: "waiting" in get(node, "/status")[1], "it waits")
        fleet.delete("override/_pool/test")
        assert answer(client) == (b"1", None)


def test_a_cancel_at_another_node_reaches_the_query(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2, pool='reads = "primary"')
    owner, other = fleet.nodes
    eventually(lambda: len(fleet.keys("prefix/")) == 2, "both have a prefix")
    busy = Busy(login_of(owner), "select pg_sleep(600), 'fleet'", fleet.stack)
    send_cancel(login_of(other), busy.key)
    assert busy.code() == "57014"
    busy.close()


def test_the_fleet_key_changes_without_a_stop(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2, pool='reads = "primary"')
    eventually(lambda: len(fleet.keys("prefix/")) == 2, "both have a prefix")
    old, new = fleet.peer_key.read_text(), "another key that is long enough for all of them\n"
    for text in (old + new, new + old, new):
        fleet.peer_key.write_text(text)
        for reads, owner, other in (*zip(fleet.nodes, fleet.nodes, reversed(fleet.nodes), strict=True),):
            before = len(lines(reads, "config.applied"))
            reads.signal(signal.SIGHUP)
            eventually(lambda n=reads, b=before: len(lines(n, "config.applied")) > b, "it reads the key")
            busy = Busy(login_of(owner), "select pg_sleep(600), 'rotation'", fleet.stack)
            send_cancel(login_of(other), busy.key)
            assert busy.code() == "57014"
            busy.close()
    # What is no key changes nothing.
    fleet.peer_key.write_text("short")
    fleet.nodes[0].signal(signal.SIGHUP)
    eventually(lambda: bool(lines(fleet.nodes[0], "shorter than 32 bytes")), "it is refused")
    busy = Busy(login_of(fleet.nodes[0]), "select pg_sleep(600), 'rotation'", fleet.stack)
    send_cancel(login_of(fleet.nodes[1]), busy.key)
    assert busy.code() == "57014"
    busy.close()


def test_a_node_without_documents_says_what_it_waits_for(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=1)
    (node,) = fleet.nodes
    node.stop()
    assert fleet.keys("live/") == fleet.keys("seat/") == []
    fleet.ctl("del", "--prefix", "/pgcat/test/")
    # What it kept would do.
    (node.folder / "state" / "known.json").unlink()
    node.launch()
    reason = "the fleet has accepted no documents yet"

    def says_why() -> bool:
        try:
            return reason in get(node, "/ready")[1]
        except OSError:
            return False

    eventually(says_why, "it says why")
    assert get(node, "/ready")[0] == 503
