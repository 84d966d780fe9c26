"""Servers that die, hang, change their roles or only have a bad day: what a node makes of them."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.stack import Stack
from tests.support.machine import kept_waiting_s
from tests.support.nodes import (
    answer,
    backend,
    config,
    connect,
    eventually,
    get,
    lines,
    links,
    one,
    port,
)
from tests.support.stack import NodeMaker, StackMaker

OBSERVE = 'leadership = { source = "observe" }'
STATIC = 'leadership = { source = "static", primary = "p1" }'
# So soon a node that gets its processor time avoids a server that refuses, and one that hangs.
AVOIDED_DEAD_S = 1.0
AVOIDED_HANGING_S = 3.5
# A node that was kept from running for so long at once trusts itself again after so long.
STALL_S = 0.5
TILT_S = 3.5
# A probe may take four times as long as its slowest ones; two of them must fail.
TIMEOUTS = 2 * 4


class Readers:
    """Clients that read all the time; what they met, and when they got which server."""

    def __init__(self, node: Node, count: int = 4, sql: str = "select inet_server_port()") -> None:
        self.failures: list[Exception] = []
        self.answers: list[tuple[float, int]] = []
        self._node = node
        self._sql = sql
        self._stop_asked = threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(count)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        for thread in self._threads:
            thread.join(20)

    def _read(self) -> None:
        try:
            with connect(self._node) as client:
                while not self._stop_asked.is_set():
                    answer = int(one(client, self._sql))
                    self.answers.append((time.monotonic(), answer))
        except Exception as failure:
            self.failures.append(failure)

    def since(self, instant_s: float) -> set[int]:
        """The servers that have answered since then."""
        return {server for at_s, server in list(self.answers) if at_s >= instant_s}


def refusal(act: Callable[[], object]) -> tuple[str | None, str, str]:
    """SQLSTATE, message and detail of what went wrong."""
    with pytest.raises(psycopg.Error) as caught:
        act()
    diagnosis = caught.value.diag
    return caught.value.sqlstate, diagnosis.message_primary or "", diagnosis.message_detail or ""


def instant(line: str) -> float:
    """When a line of the log was written, as a Unix time."""
    return datetime.fromisoformat(line.split()[0].replace("Z", "+00:00")).timestamp()


class Limit:
    """How soon a node must avoid a server, which grows by what the machine keeps from the node meanwhile."""

    def __init__(self, node: Node, limit_s: float) -> None:
        self._node, self._limit_s = node, limit_s
        self._began, self._kept_s = now(), kept_waiting_s(node.pid)

    def check(self, server: str) -> None:
        """The node's own log says that it avoids the server, and when."""
        found: list[str] = []

        def is_said() -> bool:
            found[:] = [
                line
                for line in lines(self._node, "server.avoided")
                if f"server=main/{server} " in line and instant(line) >= self._began
            ]
            return bool(found)

        eventually(is_said, f"{server} is avoided")
        kept_s = kept_waiting_s(self._node.pid) - self._kept_s
        allowed_s = self._limit_s + kept_s + (TILT_S if kept_s > STALL_S else 0.0)
        assert instant(found[0]) - self._began < allowed_s


def slowest_probe_s(server: Postgres) -> float:
    """How long a login and a look at the server take here and now."""
    took_s = []
    for _ in range(5):
        began_s = time.monotonic()
        server.query("select pg_is_in_recovery()", "pgcat_probe", "postgres")
        took_s.append(time.monotonic() - began_s)
    return max(took_s)


def is_restored(node: Node, server: str) -> bool:
    return not backend(node, server)["is_avoided"]


def now() -> float:
    """By the clock of the log."""
    return time.time()  # noqa: TID251


# -- replicas


def test_a_replica_dies_under_a_read_load_and_no_client_notices(make_stack: StackMaker) -> None:
    stack = make_stack()
    node = stack.add_node(config=config("size = 4"))
    dead, other = stack.replicas
    with Readers(node) as readers:
        eventually(lambda: readers.since(0) == {dead.port, other.port}, "both replicas are read")
        limit = Limit(node, AVOIDED_DEAD_S)
        dead.kill()
        limit.check(dead.name)
        after_s = time.monotonic()
        eventually(lambda: len([1 for at_s, _ in readers.answers if at_s > after_s]) > 50, "reads go on")
        assert readers.since(after_s) == {other.port}
        dead.start()
        eventually(lambda: dead.port in readers.since(after_s), "it is read again")
    assert readers.failures == []


def test_a_replica_hangs_and_comes_back(make_stack: StackMaker) -> None:
    stack = make_stack()
    node = stack.add_node(config=config("size = 4", cluster=OBSERVE))
    frozen, other = stack.replicas
    with connect(node) as client:
        eventually(lambda: {port(client) for _ in range(20)} == {frozen.port, other.port}, "both are read")
        limit = Limit(node, AVOIDED_HANGING_S + TIMEOUTS * slowest_probe_s(frozen))
        frozen.freeze()
        limit.check(frozen.name)
        with connect(node) as fresh:
            assert {port(fresh) for _ in range(50)} == {other.port}
        frozen.resume()
        eventually(lambda: is_restored(node, frozen.name), "it is trusted again")
        with connect(node) as fresh:
            eventually(lambda: port(fresh) == frozen.port, "it is read again")


def test_who_waits_for_a_replica_that_hangs_is_answered_by_another(make_stack: StackMaker) -> None:
    stack = make_stack()
    node = stack.add_node(config=config("size = 20\nmin_size = 8", cluster=OBSERVE))
    frozen, other = stack.replicas
    with contextlib.ExitStack() as clients:

        def come() -> psycopg.Connection[tuple[Any, ...]]:
            return clients.enter_context(connect(node))

        readers = [come() for _ in range(16)]
        eventually(
            lambda: {port(readers[0]) for _ in range(20)} == {frozen.port, other.port}, "both are read"
        )
        inside = come()

        def is_inside() -> bool:
            inside.execute("rollback")
            inside.execute("begin read only")
            return port(inside) == frozen.port

        eventually(is_inside, "a transaction is under way there")
        eventually(lambda: links(node)["idle"] >= 3 * 8 - 1, "links rest there")
        frozen.freeze()
        inside.pgconn.send_query(b"select 7")
        for reader in readers:
            # About every other one goes there.
            reader.pgconn.send_query(b"select inet_server_port()")
        hang = not backend(node, frozen.name)["is_avoided"]
        eventually(lambda: all(is_answered(reader) for reader in readers), "every read is answered")
        assert {answer(reader) for reader in readers} == {(str(other.port).encode(), None)}
        assert lines(node, "the server is silent") or not hang
        # What only that server can go on with waits for it.
        assert not is_answered(inside)
        frozen.resume()
        eventually(lambda: is_answered(inside), "the transaction goes on")
        assert answer(inside) == (b"7", None)
        inside.execute("commit")


@pytest.mark.once
def test_a_long_read_is_not_disturbed_where_its_server_is_avoided_but_answers(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=1)
    node = stack.add_node(config=config("size = 4", cluster=OBSERVE))
    (replica,) = stack.replicas
    with connect(node) as client, connect(node, "pgcat", "admin") as admin:
        eventually(lambda: port(client) == replica.port, "it is read")
        client.pgconn.send_query(b"select inet_server_port() from pg_sleep(3)")
        eventually(lambda: links(node)["active"] == 1, "it runs")
        admin.execute(f"BAN {replica.name} 60".encode())
        eventually(lambda: bool(backend(node, replica.name)["is_avoided"]), "it is avoided")
        eventually(lambda: is_answered(client), "it is answered all the same")
        assert answer(client) == (str(replica.port).encode(), None)


def is_answered(client: psycopg.Connection[tuple[Any, ...]]) -> bool:
    client.pgconn.consume_input()
    return not client.pgconn.is_busy()


def test_nobody_is_left_without_a_replica(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=1)
    pools = "\n".join(
        f'[pools.{mode.replace("_", "-")}]\nserver_database = "test"\nreads_on_primary = "{mode}"\n'
        "users = { test = {} }"
        for mode in ("never", "when_no_replica", "always")
    )
    node = stack.add_node(config=config(tables=pools))
    primary, replica = stack.primary.port, stack.replicas[0].port
    with (
        connect(node, "never") as never,
        connect(node, "when-no-replica") as when_none,
        connect(node, "always") as always,
    ):
        assert {port(never) for _ in range(30)} == {replica}
        assert {port(when_none) for _ in range(30)} == {replica}
        eventually(lambda: {port(always) for _ in range(30)} == {primary, replica}, "both are read")
        stack.replicas[0].kill()
        eventually(lambda: backend(node, "r1")["is_avoided"], "the replica is avoided")
        assert {port(when_none) for _ in range(10)} == {primary}
        assert {port(always) for _ in range(10)} == {primary}
        code, message, detail = refusal(lambda: port(never))
        assert (code, message) == ("57P03", "no server is available")
        assert detail.startswith("r1: bad, refused:")
        assert one(never, "select txid_current() > 0") is True


@pytest.mark.parametrize("balancing", ["random", "least_connections"])
def test_reads_are_spread(start_node: NodeMaker, pg_stack: Stack, balancing: str) -> None:
    node = start_node(config=config(f'balancing = "{balancing}"'))
    with connect(node) as client:
        eventually(lambda: len({port(client) for _ in range(20)}) == 2, "there are links to both")
        counts = collections.Counter(port(client) for _ in range(400))
    assert set(counts) == {replica.port for replica in pg_stack.replicas}
    # 7 standard deviations: not by bad luck.
    assert min(counts.values()) > 130


def test_least_connections_avoids_the_busy_one(start_node: NodeMaker) -> None:
    node = start_node(config=config('balancing = "least_connections"'))
    with contextlib.ExitStack() as closing:
        working, other = [closing.enter_context(connect(node)) for _ in range(2)]
        eventually(lambda: len({port(other) for _ in range(20)}) == 2, "there are links to both")
        working.execute("begin read only")
        busy = port(working)
        assert busy not in {port(other) for _ in range(50)}
        working.execute("commit")


# -- the primary


def test_a_static_primary_is_lost(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=1)
    node = stack.add_node(config=config(cluster=STATIC))
    write = "create table if not exists written (id int)"
    with connect(node) as client:
        client.execute(write)
        stack.primary.kill()
        eventually(lambda: backend(node, "p1")["is_avoided"], "it is avoided")
        code, _, detail = refusal(lambda: client.execute(write))
        # Not after a wait for a server, which would be 53300.
        assert code in ("57P03", "08001")
        assert "Connection refused" in detail
        assert port(client) == stack.replicas[0].port
        status, reasons = get(node, "/ready")
        assert (status, "Connection refused" in reasons) == (503, True)
        stack.primary.start()
        eventually(lambda: get(node, "/ready")[0] == 200, "writes go on")
        client.execute(write)


def _has_table(server: Postgres) -> bool:
    return server.query("select to_regclass('written') is not null", "test", "test") == [(True,)]


def test_writes_follow_a_new_primary(make_stack: StackMaker) -> None:
    stack = make_stack()
    node = stack.add_node(config=config(cluster=OBSERVE))
    old, new = stack.primary, stack.replicas[0]
    where = "insert into written values (1) returning inet_server_port()"
    with connect(node) as client:
        client.execute("create table written (id int)")
        assert one(client, where) == old.port
        eventually(lambda: _has_table(new), "the replica has replayed it")
        new.promote()
        stack.replicas[1].follow(new)
        eventually(lambda: backend(node, new.name)["role"] == "primary", "the new primary is seen")
        # The old one takes writes of whoever asks it; nobody of ours does any more.
        written = old.query("select count(*) from written", "postgres", "test")
        assert [one(client, where) for _ in range(20)] == [new.port] * 20
        assert old.query("select count(*) from written", "postgres", "test") == written
        eventually(lambda: port(client) == stack.replicas[1].port, "reads go to who follows the new one")
        assert old.port not in {port(client) for _ in range(30)}
        assert backend(node, old.name)["is_avoided"]


# -- what is no illness


@pytest.mark.parametrize("what", ["a full pool", "slow queries", "a wrong password"])
def test_a_bad_day_is_no_illness(make_stack: StackMaker, start_node: NodeMaker, what: str) -> None:
    stack = make_stack(replicas=1) if what == "a wrong password" else None
    node = (stack.add_node if stack else start_node)(
        config=config('reads = "primary"\nsize = 2\ncheckout_timeout = "100ms"')
    )
    with connect(node) as first, connect(node) as second, connect(node) as third:
        if what == "a wrong password":
            assert stack is not None
            stack.primary.query("alter role test password 'another'")
            with connect(node, "pgbouncer", "admin") as admin:
                admin.execute("RECONNECT")
            for _ in range(10):
                code, _, detail = refusal(lambda: first.execute("select 1"))
                assert (code, "password authentication failed" in detail) == ("08001", True)
        else:
            for client in (first, second):
                client.execute("begin")
                client.pgconn.send_query(b"select pg_sleep(2.5)" if what == "slow queries" else b"select 1")
            for _ in range(10):
                assert refusal(lambda: third.execute("select 1"))[0] == "53300"
            assert [answer(client)[1] for client in (first, second)] == [None, None]
        server = backend(node, "p1")
        assert (server["opinion"], server["is_avoided"]) == ("ok", False)
        assert lines(node, "server.avoided") == []
