"""A node's life: it starts whatever the servers do, changes without dropping anybody, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import (
    PATIENT_HEALTH,
    WITHIN_S,
    address,
    answer,
    change,
    clients,
    config,
    connect,
    eventually,
    get,
    lines,
    links,
    one,
    refuses,
    status,
)
from tests.support.player import Frame, Line, fields_of, log_in, query
from tests.support.stack import NodeMaker, StackMaker

PID = "select pg_backend_pid()"
ONE_LINK = 'reads = "primary"\nsize = 1\n'


def refusal(act: Callable[[], object]) -> str | None:
    with pytest.raises(psycopg.Error) as caught:
        act()
    return caught.value.sqlstate


# -- the end


def test_sigterm_lets_transactions_finish(start_node: NodeMaker) -> None:
    node = start_node()
    with Line(node.host, node.port) as working, Line(node.host, node.port) as idle:
        log_in(working, address(node))
        log_in(idle, address(node))
        working.ask(query("begin"))
        working.ask(query("select 1"))
        node.signal(signal.SIGTERM)
        idle.read_to_close()
        assert [_told(message) for message in idle.frames] == ["FATAL 57P01"]
        assert get(node, "/ready")[0] == 503
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            connect(node)
        assert "DataRow" in [message.name for message in working.ask(query("select 1"))]
        assert node.is_running()
        working.frames.clear()
        working.send([query("commit")])
        working.read_to_close()
        assert [_told(message) for message in working.frames] == [
            "CommandComplete",
            "ReadyForQuery",
            "FATAL 57P01",
        ]
        assert node.wait(WITHIN_S) == 0
    assert lines(node, "node.stopped")


def _told(message: Frame) -> str:
    fields = fields_of(message.body) if message.type == b"E" else None
    return message.name if fields is None else f"{fields['S']} {fields['C']}"


def test_sigterm_waits_for_so_long(start_node: NodeMaker) -> None:
    node = start_node(config=config(node='shutdown_timeout = "300ms"'))
    with connect(node) as client:
        client.execute("begin")
        client.execute("select 1")
        node.signal(signal.SIGTERM)
        assert node.wait(WITHIN_S) == 0
        assert refusal(lambda: client.execute("select 1")) == "57P01"


def test_a_second_sigterm_ends_at_once(start_node: NodeMaker) -> None:
    node = start_node()
    with connect(node) as client:
        client.execute("begin")
        client.execute("select 1")
        node.signal(signal.SIGTERM)
        eventually(lambda: bool(lines(node, "node.draining")), "it drains")
        node.signal(signal.SIGTERM)
        assert node.wait(WITHIN_S) == 0
        assert refusal(lambda: client.execute("select 1")) == "57P01"


def test_sigquit_ends_at_once(start_node: NodeMaker) -> None:
    node = start_node()
    with connect(node) as client:
        client.execute("begin")
        node.signal(signal.SIGQUIT)
        assert node.wait(WITHIN_S) == 0
        assert refuses(node)
        assert refusal(lambda: client.execute("select 1")) == "57P01"


# -- change


def test_a_bigger_pool_serves_who_waits(start_node: NodeMaker) -> None:
    node = start_node(config=config(ONE_LINK))
    with connect(node) as holder, connect(node) as waiter, holder.transaction():
        held = one(holder, PID)
        waiter.pgconn.send_query(PID.encode())
        eventually(lambda: clients(node)["waiting"] == 1, "the pool of one is too small")
        line = change(node, "size = 1", "size = 2")
        assert "pools.test" in line or "test/test" in line
        pid, code = answer(waiter)
        assert (code, int(pid) == held) == (None, False)
        assert one(holder, PID) == held


def test_a_smaller_pool_closes_links_when_they_are_free(start_node: NodeMaker) -> None:
    node = start_node(config=config('reads = "primary"\nsize = 3\n'))
    with connect(node) as first, connect(node) as second, connect(node) as third:
        with first.transaction(), second.transaction(), third.transaction():
            assert len({one(client, PID) for client in (first, second, third)}) == 3
            change(node, "size = 3", "size = 1")
            assert links(node)["active"] == 3
        eventually(lambda: links(node)["idle"] == 1, "one link is left")
        assert [one(client, "select 1") for client in (first, second, third)] == [1, 1, 1]


def test_a_server_joins_and_leaves(start_node: NodeMaker, pg_stack: Stack) -> None:
    last = pg_stack.replicas[-1]
    entry = f'{last.name} = {{ host = "{last.host}", port = {last.port} }}'
    node = start_node(config=config(tables=PATIENT_HEALTH))
    with connect(node) as client:

        def ports() -> set[int]:
            return {one(client, "select inet_server_port()") for _ in range(20)}

        both = {replica.port for replica in pg_stack.replicas}
        eventually(lambda: ports() == both, "both replicas are read")
        assert f"main/{last.name}" in change(node, entry, "")
        eventually(lambda: ports() == both - {last.port}, "it is not read any more")
        (pool,) = status(node)["pools"]
        assert [server["server"] for server in pool["servers"]] == ["main/p1", "main/r1"]
        change(node, "[pools.test]", f"[clusters.main.servers.{last.name}]\nhost = {last.host!r}\n"
               f"port = {last.port}\n[pools.test]")  # fmt: skip
        eventually(lambda: ports() == both, "it is read again")


def test_a_pool_that_is_removed(start_node: NodeMaker) -> None:
    other = f'[pools.other]\nserver_database = "test"\n{ONE_LINK}users = {{ test = {{}} }}\n'
    node = start_node(config=config(tables=other))
    with (
        connect(node) as bystander,
        Line(node.host, node.port) as working,
        connect(node, "other") as waiting,
    ):
        before = one(bystander, "select txid_current() > 0")
        log_in(working, address(node, "other"))
        working.ask(query("begin"))
        held = working.ask(query(PID))
        waiting.pgconn.send_query(b"select 1")
        eventually(lambda: clients(node, "other")["waiting"] == 1, "it waits")
        change(node, other, "")
        assert answer(waiting) == (b"", "3D000")
        assert working.ask(query(PID)) == held
        working.frames.clear()
        # libpq takes an error right behind ReadyForQuery for a notice, so nothing of it is used here.
        working.send([query("commit")])
        working.read_to_close()
        assert [_told(message) for message in working.frames] == [
            "CommandComplete",
            "ReadyForQuery",
            "FATAL 3D000",
        ]
        with pytest.raises(psycopg.OperationalError, match='database "other" does not exist'):
            connect(node, "other")
        assert one(bystander, "select txid_current() > 0") == before
        change(node, "[clusters.main]", f"{other}[clusters.main]")
        with connect(node, "other") as again:
            assert one(again, "select 1") == 1


def test_a_password_that_changes(start_node: NodeMaker, make_stack: StackMaker) -> None:
    stack = make_stack(replicas=0)
    node = stack.add_node(config=config(ONE_LINK))
    with connect(node) as client:
        with client.transaction():
            before = one(client, PID)
            stack.primary.query("alter role test password 'another'")
            (node.folder / "secrets" / "test.secret").write_text("another")
            change(node, "size = 1", "size = 1 ")
            assert one(client, PID) == before
        # A new link, and the new password opens it.
        assert one(client, PID) != before
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(node)
        connect(node, password="another").close()


def test_an_invalid_file_changes_nothing(start_node: NodeMaker) -> None:
    node = start_node(config=config(ONE_LINK))
    with connect(node) as client:
        before = one(client, PID)
        line = change(node, "size = 1", "sice = 1", event="config.rejected")
        assert str(node.config) in line
        assert "pools.test.sice" in line
        assert "size" in line
        line = change(node, "sice = 1", "size = 0", event="config.rejected")
        assert "pools.test.size" in line
        assert one(client, PID) == before
        change(node, "size = 0", "size = 1")
        assert one(client, PID) == before


SHARDS = """
[shardmaps.by-id]
kind = "hash"
key.type = "bigint"
shards = 2
[pools.sharded]
shards = { map = "by-id", clusters = { 0 = "main", 1 = "main" }, databases = { 0 = "test", 1 = "postgres" } }
users = { test = {} }
"""


def test_a_shard_map_in_use_changes_nothing(start_node: NodeMaker) -> None:
    node = start_node(config=config(tables=SHARDS))
    line = change(node, 'kind = "hash"', 'kind = "modulo"', event="config.rejected")
    assert 'shardmaps.by-id.kind: shard map "by-id" is used by pool "sharded": ' in line.replace("\\", "")
    with connect(node, database="pgcat", user="admin") as console, pytest.raises(psycopg.Error) as caught:
        console.execute("RELOAD")
    assert "make a new map for a new pool" in str(caught.value)
    eventually(lambda: len(lines(node, "config.rejected")) == 2, "the log has what became of RELOAD")
    line = change(node, '1 = "postgres"', '1 = "template1"', event="config.rejected")
    assert "pools.sharded.shards.databases.1: " in line
    change(node, 'kind = "modulo"', 'kind = "pg_bigint_hash"', event="config.rejected")
    # How a statement's shard is told may change, and one may say the same otherwise.
    line = change(node, '1 = "template1" } }', '1 = "postgres" } }\nsharding.key = "id"')
    assert "pool sharded/test changed: sharding" in line


def test_settings_of_the_process_change_too(start_node: NodeMaker) -> None:
    node = start_node(config=config(ONE_LINK, node='[node.log]\nformat = "text"\nlevel = "warning"'))
    with connect(node):
        assert lines(node, "node.ready") == []
        change(node, 'format = "text"\nlevel = "warning"', 'format = "json"\nlevel = "info"')
        (line,) = lines(node, "config.applied")
        assert json.loads(line)["changes"] == "node changed: log"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux for the timers of a connection")
def test_keepalive_changes_for_who_comes_next(start_node: NodeMaker) -> None:
    node = start_node(config=config(ONE_LINK, node='tcp = { keepalive_idle = "50s" }'))
    with connect(node) as before:
        assert 0 < keepalive_due_s(node, before) <= 50
        change(node, '"50s"', '"5000s"')
        with connect(node) as after:
            assert 1000 < keepalive_due_s(node, after) <= 5000
        assert 0 < keepalive_due_s(node, before) <= 50


def keepalive_due_s(node: Node, client: psycopg.Connection[Any]) -> float:
    """When the kernel will ask the client of this connection, for the node, whether it is still there."""
    with socket.socket(fileno=os.dup(client.fileno())) as sock:
        theirs = sock.getsockname()[1]
    found: list[float] = []

    def is_resting() -> bool:
        # Its last bytes may not be acknowledged yet: then another timer runs.
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, ours, other, _, _, timer, *_ = line.split()
            if (int(ours[-4:], 16), int(other[-4:], 16)) == (node.port, theirs) and timer.startswith("02:"):
                found.append(int(timer[3:], 16) / os.sysconf("SC_CLK_TCK"))
        return bool(found)

    eventually(is_resting, "nothing is under way")
    return found[-1]


# -- the beginning


def test_it_starts_without_servers_and_serves_when_they_come(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=1)
    node = stack.add_node()
    node.stop()
    stack.replicas[0].stop("immediate")
    stack.primary.stop("immediate")
    node.launch()
    # Of this life: its HTTP endpoint comes last.
    eventually(lambda: len(lines(node, "node.ready")) == 2, "it serves")
    eventually(
        lambda: all(server["is_avoided"] for server in status(node)["backends"]), "it has looked around"
    )
    code, text = get(node, "/ready")
    assert code == 503
    assert "no primary is known in cluster main" in text
    assert get(node, "/live")[0] == 200
    with pytest.raises(psycopg.OperationalError) as caught:
        connect(node).execute("select 1")
    assert "Connection refused" in str(caught.value)
    stack.primary.start()
    stack.replicas[0].start()
    eventually(lambda: get(node, "/ready")[0] == 200, "it is ready")
    with connect(node) as client:
        assert one(client, "select txid_current() > 0") is True


@pytest.mark.once
def test_a_bad_configuration_ends_it_with_a_clear_line(start_node: NodeMaker) -> None:
    node = start_node()
    node.stop()
    node.config.write_text(
        node.config.read_text().replace("[pools.test]", '[pools.test]\nmode = "transactions"')
    )
    node.launch()
    assert node.wait(WITHIN_S) == 78
    assert any(
        str(node.config) in line and "pools.test.mode" in line and "transaction" in line
        for line in node.log.read_text().splitlines()
    )


@pytest.mark.once
@pytest.mark.parametrize("which", ["listen", "http"])
def test_a_taken_port_ends_it_with_a_clear_line(start_node: NodeMaker, which: str) -> None:
    node = start_node()
    node.stop()
    taken = node.port if which == "listen" else node.http_port
    with socket.create_server((node.host, taken)):
        node.launch()
        assert node.wait(WITHIN_S) == 78
    (line,) = lines(node, "can not listen")
    assert f"{node.host}:{taken}: Address already in use" in line
    assert "node.listen or node.http" in line


# -- servers that start again


def test_a_server_that_restarts_is_noticed_by_no_idle_client(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=1)
    node = stack.add_node(config=config("min_size = 2"))
    with connect(node) as client:
        assert one(client, "select txid_current() > 0") is True
        for server in (stack.replicas[0], stack.primary):
            eventually(lambda: links(node)["idle"] == 4, "there are idle links to both")
            server.restart()
            eventually(lambda: get(node, "/ready")[0] == 200, "the node is ready")
            eventually(lambda: _serves(node), "both are used")  # by another client
            assert one(client, "select txid_current() > 0") is True
            assert {one(client, "select inet_server_port()") for _ in range(5)} == {stack.replicas[0].port}


def _serves(node: Node) -> bool:
    return not any(backend["is_avoided"] for backend in status(node)["backends"])
