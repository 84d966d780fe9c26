"""Read your writes, with a replica that replays late: what a token holder sees, and what others see."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, Connection, config, connect, eventually, one, port

DELAY_S = 0.1

# How many writes are read back.
PAIRS = [8, pytest.param(300, marks=pytest.mark.live_long)]

# `replicas` never reads the primary, so what it sees a replica has replayed; it waits as long as that takes.
_POOLS = """
[pools.replicas]
server_database = "test"
consistency = "session"
consistency_wait = "60s"
reads_on_primary = "never"
users = { test = {} }

[pools.hasty]
server_database = "test"
consistency = "session"
consistency_wait = "20ms"
users = { test = {} }

[pools.hasty-replicas]
server_database = "test"
consistency = "session"
consistency_wait = "20ms"
reads_on_primary = "never"
users = { test = {} }
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(replicas=1) as stack:
        stack.primary.query("create table counters (name text primary key, n int)", "test", "test")
        stack.replicas[0].configure({"recovery_min_apply_delay": f"'{int(DELAY_S * 1000)}ms'"})
        stack.replicas[0].reload()
        yield stack


@pytest.fixture(scope="module")
def nodes(stack: Stack) -> list[Node]:
    return [stack.add_node(config=config(tables=_POOLS + PATIENT_HEALTH)) for _ in range(2)]


@pytest.fixture
def late(stack: Stack) -> Iterator[int]:
    """The port of a replica that replays nothing for now."""
    replica = stack.replicas[0]
    replica.query("select pg_wal_replay_pause()")
    yield replica.port
    replica.query("select pg_wal_replay_resume()")


def begin(connection: Connection, name: str) -> None:
    connection.execute("insert into counters values (%s, 0) on conflict (name) do update set n = 0", (name,))


def write(connection: Connection, name: str, n: int) -> None:
    connection.execute("update counters set n = %s where name = %s", (n, name))


def read(connection: Connection, name: str) -> tuple[int, int]:
    """What is read, and the port of the server that said it."""
    row = connection.execute(
        "select coalesce((select n from counters where name = %s), -1), inet_server_port()", (name,)
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def token(connection: Connection) -> str:
    row = connection.execute("show pgcat.consistency_token", prepare=False).fetchone()
    assert row is not None
    return str(row[0])


def wait_for(connection: Connection, text: str) -> None:
    connection.execute(f"set pgcat.wait_for = '{text}'".encode(), prepare=False)


def test_without_consistency_reads_are_stale(nodes: list[Node]) -> None:
    """Else nothing below would prove anything."""
    with connect(nodes[0]) as connection:
        begin(connection, "loose")
        stale = 0
        for n in range(1, 31):
            write(connection, "loose", n)
            stale += read(connection, "loose")[0] < n
    assert stale


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("prepares", [None, 0], ids=["unnamed", "prepared"])
def test_a_session_reads_what_it_wrote(
    stack: Stack, nodes: list[Node], prepares: int | None, pairs: int
) -> None:
    with connect(nodes[0], "replicas", prepare_threshold=prepares) as connection:
        begin(connection, "own")
        seen = []
        for n in range(1, pairs + 1):
            write(connection, "own", n)
            seen.append(read(connection, "own"))
        assert seen == [(n, stack.replicas[0].port) for n in range(1, pairs + 1)]


@pytest.mark.parametrize("pairs", PAIRS)
def test_a_token_carries_it_to_another_node(stack: Stack, nodes: list[Node], pairs: int) -> None:
    with connect(nodes[0], "replicas") as writer, connect(nodes[1], "replicas") as reader:
        begin(writer, "token")
        seen = []
        for n in range(1, pairs + 1):
            write(writer, "token", n)
            wait_for(reader, token(writer))
            seen.append(read(reader, "token"))
        assert seen == [(n, stack.replicas[0].port) for n in range(1, pairs + 1)]
        # What one was told to wait for one may pass on.
        with connect(nodes[0], "replicas", options=f"-c pgcat.wait_for={token(reader)}") as third:
            assert read(third, "token") == (pairs, stack.replicas[0].port)


def test_writes_that_no_statement_shows(stack: Stack, nodes: list[Node]) -> None:
    """A function that nobody knows to write, alone and in a transaction; a batch; COPY."""
    with connect(nodes[0], "replicas") as connection:
        begin(connection, "hidden")
        connection.execute(
            "create or replace function advance(who text) returns int language sql as"
            " 'update counters set n = n + 1 where name = who returning n'"
        )
        n = 0
        for _ in range(3):
            connection.execute("select advance('hidden')")
            n += 1
            assert read(connection, "hidden")[0] == n
        with connection.transaction():
            connection.execute("select advance('hidden')")
        n += 1
        assert read(connection, "hidden") == (n, stack.replicas[0].port)
        with connection.pipeline():
            write(connection, "hidden", 50)
            cursor = connection.execute("select n from counters where name = 'hidden'")
            connection.execute("select 1")
        assert cursor.fetchone() == (50,)
        with connection.cursor() as copying, copying.copy("copy counters from stdin") as copy:
            copy.write("copied\t7\n")
        assert read(connection, "copied")[0] == 7
        connection.execute("delete from counters where name = 'copied'")
        assert read(connection, "copied")[0] == -1


def test_who_is_not_served_in_time_reads_the_primary(stack: Stack, nodes: list[Node], late: int) -> None:
    with connect(nodes[0], "hasty") as connection:
        begin(connection, "hasty")
        for n in range(1, 4):
            write(connection, "hasty", n)
            assert read(connection, "hasty") == (n, stack.primary.port)
        # Who wrote nothing is in no hurry.
        with connect(nodes[0], "hasty") as other:
            assert port(other) == late
        # Nor does it bind one who is in a transaction that only reads, to no other server than it needs.
        with connection.transaction():
            connection.execute("set transaction read only")
            assert read(connection, "hasty") == (3, stack.primary.port)


def test_where_the_primary_may_not_be_read(nodes: list[Node], late: int) -> None:
    with connect(nodes[0], "hasty-replicas") as connection:
        begin(connection, "refused")
        with pytest.raises(psycopg.errors.QueryCanceled, match="consistency timeout") as caught:
            read(connection, "refused")
        assert caught.value.diag.message_detail is not None
        assert "r1: 1:" in caught.value.diag.message_detail
        # Only that read: the session goes on.
        write(connection, "refused", 5)
        with connection.transaction():
            assert one(connection, "select n from counters where name = 'refused' for update") == 5


def test_a_token_that_is_none(nodes: list[Node]) -> None:
    with connect(nodes[0], "replicas") as connection:
        empty = token(connection)
        wait_for(connection, empty)
        for wrong in ("", "x", empty[:-1], empty + "A"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="no consistency token"):
                wait_for(connection, wrong)
        assert one(connection, "select 1") == 1


def test_a_pool_that_keeps_no_positions_says_so(nodes: list[Node]) -> None:
    with (
        connect(nodes[0]) as connection,
        pytest.raises(psycopg.errors.FeatureNotSupported, match="keeps no positions"),
    ):
        token(connection)


def test_reads_go_on_at_once_when_a_replica_is_known_to_be_current(stack: Stack, nodes: list[Node]) -> None:
    """No question, no wait: the position is known."""
    with connect(nodes[0], "replicas") as connection:
        begin(connection, "steady")
        assert read(connection, "steady") == (0, stack.replicas[0].port)
        # Probes learn it too, whoever asks.
        with connect(nodes[1], "replicas") as other:
            wait_for(other, token(connection))
            assert read(other, "steady") == (0, stack.replicas[0].port)
        answers = [read(connection, "steady") for _ in range(20)]
        assert set(answers) == {(0, stack.replicas[0].port)}


def test_a_promoted_replica_is_another_timeline(nodes: list[Node], stack: Stack) -> None:
    """A position of the timeline before is none of the next one: what is read is the new primary's."""
    replica = stack.replicas[0]
    with connect(nodes[0], "hasty") as connection:
        begin(connection, "promoted")
        write(connection, "promoted", 1)
        eventually(
            lambda: replica.query("select n from counters where name = 'promoted'", "test", "test") == [(1,)],
            "the replica has replayed it",
        )
        before = token(connection)
        stack.primary.stop("immediate")
        replica.promote()

        def goes_on() -> bool:
            try:
                with connect(nodes[1], "hasty") as other:
                    write(other, "promoted", 2)
                    return True
            except psycopg.Error:
                return False

        eventually(goes_on, "the new primary takes writes")
        with connect(nodes[1], "hasty") as other:
            wait_for(other, before)
            assert read(other, "promoted") == (2, replica.port)
            write(other, "promoted", 3)
            after = token(other)
            assert after != before
            wait_for(other, before)
            assert token(other) == after
