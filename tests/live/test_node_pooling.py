"""Many clients share few server links: limits, order, and what clients leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import (
    Connection,
    address,
    clients,
    config,
    connect,
    eventually,
    links,
    one,
    server_pids,
)
from tests.support.player import Line, Refused, fields_of, log_in, query, startup
from tests.support.stack import NodeMaker, StackMaker

PID = "select pg_backend_pid()"

# One pool a test, on the primary; all of them are the database `test` there.
POOLS = {
    "checkout": 'size = 1, min_size = 1, checkout_timeout = "200ms"',
    "queue": "size = 1",
    "two-clients": "max_clients = 2",
    "idle-links": 'idle_timeout = "300ms", min_size = 1',
    "old-links": 'size = 1, lifetime = "500ms"',
    "idle-transactions": 'size = 1, idle_transaction_timeout = "300ms"',
    "transactions": 'size = 1, transaction_timeout = "500ms"',
    "queries": 'size = 1, query_timeout = "2s"',
    "min-size": "min_size = 3",
    "vanishing": "size = 1",
    "session": 'mode = "session", size = 2',
    "dying": "size = 1",
    "contexts": "size = 1",
}

# A pool of users who need no password, so that their first query can stand right behind the login.
CROWD = """
[users.crowd]
auth = "trust"
server_user = "test"
server_secret = "file:test.secret"

[pools.crowd]
server_database = "test"
reads = "primary"
users = { crowd = { $options } }
"""


def crowd(options: str) -> str:
    return config(tables=CROWD.replace("$options", options))


@pytest.fixture(scope="module")
def node(pg_stack: Stack) -> Iterator[Node]:
    pools = "\n".join(
        f'[pools.{name}]\nserver_database = "test"\nreads = "primary"\nusers = {{ test = {{ {options} }} }}'
        for name, options in POOLS.items()
    )
    node = pg_stack.add_node(config=config(tables=pools))
    yield node
    node.stop()


def refusal(act: Callable[[], object]) -> tuple[str | None, str]:
    """SQLSTATE and message of what went wrong."""
    with pytest.raises(psycopg.Error) as caught:
        act()
    return caught.value.sqlstate, caught.value.diag.message_primary or ""


def end(line: Line) -> str:
    """SQLSTATE of the last word. libpq takes an error right behind ReadyForQuery for a notice, and drops it."""
    line.read_to_close()
    return fields_of(line.frames[-1].body)["C"]


def result(connection: Connection) -> psycopg.pq.abc.PGresult:
    """The one result of what was sent."""
    found = connection.pgconn.get_result()
    assert found is not None
    assert connection.pgconn.get_result() is None
    return found


# -- waiting for a link


def test_who_waits_too_long_is_told_so_and_may_go_on(node: Node) -> None:
    eventually(lambda: links(node, "checkout")["idle"] == 1, "nobody waits for the link to be opened")
    with connect(node, "checkout") as holder, connect(node, "checkout") as waiter:
        with holder.transaction():
            holder.execute("select 1")
            with pytest.raises(psycopg.errors.TooManyConnections) as caught:
                waiter.execute("select 1")
            diagnosis = caught.value.diag
            assert diagnosis.severity == "ERROR"
            assert diagnosis.message_primary == "no server connection became free in time"
            assert str(diagnosis.message_detail).startswith("pool checkout/test, waited ")
            assert str(diagnosis.message_detail).endswith(" s, 1 waiting")
        assert one(waiter, "select 1") == 1


def test_waiters_are_served_in_the_order_they_came(node: Node, pg_stack: Stack) -> None:
    pg_stack.primary.query("create table queue (place serial, who int)", "test", "test")
    with contextlib.ExitStack() as closing:
        holder, *waiters = [closing.enter_context(connect(node, "queue")) for _ in range(9)]
        with holder.transaction():
            holder.execute("select 1")
            for number, waiter in enumerate(waiters):
                waiter.pgconn.send_query(f"insert into queue (who) values ({number})".encode())
                eventually(lambda: clients(node, "queue")["waiting"] == number + 1, "it waits")  # noqa: B023
            waiters.pop(3).close()
            eventually(lambda: clients(node, "queue")["waiting"] == 7, "one has left")
        assert [result(waiter).command_status for waiter in waiters] == [b"INSERT 0 1"] * 7
        rows = holder.execute("select who from queue order by place").fetchall()
        holder.execute("drop table queue")
    assert [who for (who,) in rows] == [0, 1, 2, 4, 5, 6, 7]


def test_a_server_that_dies_at_hand_over_forgets_nobody(node: Node, pg_stack: Stack) -> None:
    with contextlib.ExitStack() as closing:
        holder, *waiters = [closing.enter_context(connect(node, "dying")) for _ in range(5)]
        holder.execute("begin")
        held = one(holder, PID)
        for waiter in waiters:
            waiter.pgconn.send_query(PID.encode())
        eventually(lambda: clients(node, "dying")["waiting"] == 4, "they wait")
        pg_stack.primary.query(f"select pg_terminate_backend({held})")
        pids = {result(waiter).get_value(0, 0) for waiter in waiters}
        assert len(pids) == 1
        assert pids != {str(held).encode()}
        # PostgreSQL's own words reach the client whose transaction it was.
        assert refusal(lambda: holder.execute("select 1"))[0] == "57P01"


def test_a_pool_has_room_for_so_many_clients(node: Node) -> None:
    with connect(node, "two-clients") as first, connect(node, "two-clients"):
        with Line(node.host, node.port) as third, pytest.raises(Refused) as caught:
            log_in(third, address(node, "two-clients"))
        fields = caught.value.fields
        assert (fields["S"], fields["C"], fields["M"]) == (
            "FATAL",
            "53300",
            "sorry, too many clients already",
        )
        assert one(first, "select 1") == 1
    eventually(lambda: sum(clients(node, "two-clients").values()) == 0, "they have left")
    connect(node, "two-clients").close()


def test_a_node_has_room_for_so_many_clients(start_node: NodeMaker) -> None:
    small = start_node(config=config(node="max_clients = 2"))
    with connect(small), connect(small):
        with Line(small.host, small.port) as third, pytest.raises(Refused, match="53300: sorry, too many"):
            log_in(third, address(small, "test"))
        with connect(small, "pgbouncer", "admin") as admin:
            assert len(admin.execute("SHOW CLIENTS").fetchall()) == 3


# -- how long things may take


def test_a_link_that_nobody_uses_is_closed(node: Node) -> None:
    with connect(node, "idle-links") as first, connect(node, "idle-links") as second:
        with first.transaction(), second.transaction():
            both = {one(first, PID), one(second, PID)}
        assert len(both) == 2
        eventually(lambda: links(node, "idle-links")["idle"] == 1, "one link is left, as min_size wants")
        assert one(first, PID) in both


def test_a_link_grows_old(node: Node) -> None:
    with connect(node, "old-links") as client:
        with client.transaction():
            before = one(client, PID)
            client.execute("select pg_sleep(0.7)")
            assert one(client, PID) == before
        assert one(client, PID) != before


def test_an_idle_transaction_ends(node: Node) -> None:
    with Line(node.host, node.port) as line, connect(node, "idle-transactions") as other:
        log_in(line, address(node, "idle-transactions"))
        # In one message, for a slow client would be too late with a second one.
        row = line.ask(query(f"begin; {PID}"))[2]
        assert one(other, PID) == int(row.body[6:])  # waits until the link is free, and gets it clean
        assert end(line) == "25P03"


def test_a_transaction_ends(node: Node) -> None:
    with Line(node.host, node.port) as line:
        log_in(line, address(node, "transactions"))
        line.ask(query("begin"))
        while not line.is_closed:
            line.ask(query("select pg_sleep(0.05)"))
        assert end(line) == "25P04"


def test_a_query_that_takes_too_long_is_cancelled(node: Node) -> None:
    with connect(node, "queries") as client:
        code, message = refusal(lambda: client.execute("select pg_sleep(60)"))
        assert (code, message) == ("57014", "canceling statement due to user request")
        # The client lives, and its cancel hits nobody else.
        assert [one(client, "select 1") for _ in range(20)] == [1] * 20


def test_an_idle_session_ends(start_node: NodeMaker) -> None:
    node = start_node(config=crowd('idle_session_timeout = "300ms"'))
    with Line(node.host, node.port) as line:
        # Glued to the login, so that a slow client is not idle before it has asked.
        line.send(
            [startup({"user": "crowd", "database": "crowd"}) + query("begin; select pg_sleep(0.5); commit")]
        )
        assert end(line) == "57P05"
        types = [message.type for message in line.frames[-8:]]
        assert types == [b"Z", b"C", b"T", b"D", b"C", b"C", b"Z", b"E"]


def test_so_many_links_are_open_at_least(node: Node, pg_stack: Stack) -> None:
    eventually(lambda: links(node, "min-size")["idle"] == 3, "three links are there before the first client")
    with connect(node, "min-size") as client:
        victim = one(client, PID)
        before = server_pids(node, "min-size")
        assert victim in before
        pg_stack.primary.query(f"select pg_terminate_backend({victim})")

        def is_replaced() -> bool:
            now = server_pids(node, "min-size")
            return len(now) == 3 and len(now & before) == 2 and victim not in now

        eventually(is_replaced, "the lost one is replaced")
        assert one(client, PID) != victim


def test_session_mode_keeps_a_link_for_each_client(node: Node) -> None:
    with (
        connect(node, "session") as first,
        connect(node, "session") as second,
        connect(node, "session") as third,
    ):
        first.execute("create temporary table mine (id int)")
        pids = [one(first, PID), one(second, PID)]
        assert [one(first, PID), one(second, PID)] == pids
        third.pgconn.send_query(b"select pg_backend_pid(), to_regclass('mine')")
        eventually(lambda: clients(node, "session")["waiting"] == 1, "a third waits")
        first.close()
        found = result(third)
        assert (found.get_value(0, 0), found.get_value(0, 1)) == (str(pids[0]).encode(), None)


def test_session_mode_understands_the_commands_of_drivers(node: Node) -> None:
    """Which prepare all they send; a server is asked about everything else."""
    with connect(node, "session") as client:
        assert client.execute("show pgcat.server_role", prepare=True).fetchone() == ("auto",)
        pid = client.execute(PID, prepare=True).fetchone()
        for role in ("primary", "any", "primary"):
            client.execute(f"set pgcat.server_role to {role}".encode(), prepare=True)
            assert client.execute("show server role", prepare=True).fetchone() == (role,)
        with client.pipeline():
            found = [
                client.execute(text.encode())
                for text in (PID, "show pgcat.server_role", PID, "set primary reads to on", "select 7")
            ]
        assert [cursor.fetchone() for cursor in (*found[:3], found[4])] == [pid, ("primary",), pid, (7,)]
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            client.execute("set server role to nobody", prepare=True)
        assert client.execute(PID, prepare=True).fetchone() == pid

    async def talk() -> None:
        link = await asyncpg.connect(address(node, "session").url())
        try:
            statement = await link.prepare("set server role to 'primary'")
            for _ in range(3):
                assert await statement.fetch() == []
            async with link.transaction():
                assert await link.fetchval("select $1::int + 1", 6) == 7
                assert await link.fetchval("show pgcat.server_role") == "primary"
            rows = await link.fetch("explain route select 1")
            assert rows[0]["route"] == "Route: shard 0, primary"
        finally:
            await link.close()

    asyncio.run(talk())


# -- prepared statements that clients share


# A server reads these constants when it parses the statement, by what holds then.
MOMENT = "select extract(epoch from timestamptz '2026-01-01 00:00')::int8"
MOMENTS = {"UTC": 1767225600, "Asia/Tokyo": 1767193200}
LETTERS = b"select length('\xc3\xa9')"


def told(connection: Connection, sql: str | bytes, *, prepare: bool = True) -> object:
    """The first value of the first row; psycopg prepares nothing by itself where it is told not to."""
    text = sql.encode() if isinstance(sql, str) else sql
    row = connection.execute(text, prepare=prepare).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("way", ["at the start", "later", "in a transaction"])
def test_a_prepared_statement_is_read_by_the_parameters_of_its_session(node: Node, way: str) -> None:
    for zone in ("UTC", "Asia/Tokyo", "UTC", "Asia/Tokyo"):
        options = f"-c TimeZone={zone}" if way == "at the start" else "-c TimeZone=UTC"
        with connect(node, "contexts", options=options) as client:
            if way == "later":
                client.execute(f"set TimeZone = '{zone}'".encode())
            elif way == "in a transaction":
                client.execute("begin")
                client.execute(f"set local TimeZone = '{zone}'".encode())
            assert [told(client, MOMENT, prepare=prepare) for prepare in (False, True)] == [MOMENTS[zone]] * 2
            if way == "in a transaction":
                client.execute("commit")
                assert told(client, MOMENT, prepare=False) == MOMENTS["UTC"]


def test_a_prepared_statement_is_read_in_the_encoding_of_its_session(node: Node) -> None:
    with connect(node, "contexts") as one_byte, connect(node, "contexts") as two_bytes:
        one_byte.execute("set client_encoding = latin1")
        for client, letters in ((one_byte, 2), (two_bytes, 1), (one_byte, 2)):
            assert told(client, LETTERS) == letters


def test_what_was_prepared_before_parameters_changed_misleads_nobody(node: Node, pg_stack: Stack) -> None:
    """Once its server is gone it is prepared again, and read as its session is now."""
    with connect(node, "contexts", options="-c TimeZone=UTC") as mover:
        assert told(mover, MOMENT) == MOMENTS["UTC"]
        mover.execute("set TimeZone = 'Asia/Tokyo'")
        # As in PostgreSQL.
        assert told(mover, MOMENT) == MOMENTS["UTC"]
        pg_stack.primary.query(f"select pg_terminate_backend({one(mover, PID)})")
        eventually(lambda: sum(links(node, "contexts").values()) == 0, "the link is gone")
        assert told(mover, MOMENT) == MOMENTS["Asia/Tokyo"]
        with connect(node, "contexts", options="-c TimeZone=UTC") as client:
            assert told(client, MOMENT) == MOMENTS["UTC"]
        assert told(mover, MOMENT) == MOMENTS["Asia/Tokyo"]


# -- clients that vanish


def test_who_vanishes_in_a_transaction_leaves_nothing_behind(node: Node) -> None:
    with connect(node, "vanishing") as client:
        client.execute("create table counter as select 0 as value")
        line = Line(node.host, node.port)
        log_in(line, address(node, "vanishing"))
        line.ask(query("begin"))
        line.ask(query("update counter set value = 1"))
        pid = int(line.ask(query(PID))[1].body[6:])
        line.socket.close()
        # Both wait: for the one link there is, and for the lock on the row.
        cursor = client.execute("update counter set value = value + 10 returning value, pg_backend_pid()")
        assert cursor.fetchall() == [(10, pid)]
        client.execute("drop table counter")


@pytest.fixture
def many_files() -> Iterator[int]:
    """This process, and those it starts, may have so many files."""
    count = 2500
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"a process may have {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_two_thousand_clients_share_five_links(start_node: NodeMaker, many_files: int) -> None:
    count = many_files - 500
    node = await asyncio.to_thread(start_node, config=crowd("size = 5"))
    streams = []

    async def enter() -> None:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        streams.append((reader, writer))
        writer.write(startup({"user": "crowd", "database": "crowd"}))
        await answered(reader)

    async def answered(reader: asyncio.StreamReader) -> bytes:
        return await asyncio.wait_for(reader.readuntil(b"Z\0\0\0\5I"), 60)

    async def ask(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(query(f"select 'client {number}'"))
        return await answered(reader)

    for _ in range(count // 100):
        await asyncio.gather(*(enter() for _ in range(100)))
    assert clients(node, "crowd")["idle"] == count
    answers = await asyncio.gather(*(ask(number, *stream) for number, stream in enumerate(streams)))
    assert all(f"client {number}".encode() in answer for number, answer in enumerate(answers))
    await asyncio.to_thread(
        eventually, lambda: links(node, "crowd")["idle"] == 5, "the last link has come and is free"
    )
    for _, writer in streams:
        writer.close()
    await asyncio.to_thread(
        eventually, lambda: sum(clients(node, "crowd").values()) == 0, "all of them have left"
    )


# -- names


def test_a_server_name_is_resolved_again(make_stack: StackMaker, tmp_path: Path) -> None:
    """The name moves to another address: links that are opened from then on go there."""
    stack = make_stack(replicas=0, settings={"listen_addresses": "'127.0.0.1,127.0.0.2'"})
    stack.primary.admit(["host all all 127.0.0.0/8 scram-sha-256"])
    stack.primary.reload()
    address = tmp_path / "address"
    address.write_text("127.0.0.1")
    # A resolver of the test's own, which only the standard library's loop asks.
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import socket, sys
            sys.modules["uvloop"] = None
            ask = socket.getaddrinfo
            def getaddrinfo(host, *rest, **more):
                if host == "primary.test":
                    host = open({str(address)!r}).read()
                return ask(host, *rest, **more)
            socket.getaddrinfo = getaddrinfo
        """)
    )
    package = str(Path(__file__).parents[2])
    node = stack.add_node(
        config=config().replace("$servers", f'p1 = {{ host = "primary.test", port = {stack.primary.port} }}'),
        environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), package])},
    )
    where = "select host(inet_server_addr())"
    with connect(node) as client, connect(node, "pgbouncer", "admin") as admin:
        assert one(client, where) == "127.0.0.1"
        address.write_text("127.0.0.2")
        assert one(client, where) == "127.0.0.1"
        admin.execute("RECONNECT")
        assert one(client, where) == "127.0.0.2"
