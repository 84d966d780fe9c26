"""Commands of ours through real clients: psql, psycopg, asyncpg; and that servers are chosen as was said."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest

from pgcat_cluster.demo.stack import Stack
from tests.support.fronts import Front
from tests.support.player import Address

IS_REPLICA = "select pg_is_in_recovery()"


@pytest.fixture
def address(wire_front: Front) -> Address:
    """A pool that reads from replicas."""
    return wire_front.database("split")


@pytest.fixture
def connection(address: Address) -> Iterator[psycopg.Connection]:
    with psycopg.connect(**address.keywords(), autocommit=True) as connection:
        yield connection


def value(connection: psycopg.Connection, query: str) -> object:
    """The only value of an answer."""
    row = connection.execute(query).fetchone()
    assert row is not None
    assert len(row) == 1
    return row[0]


SCRIPT = """
SET SERVER ROLE TO 'primary';
SELECT pg_is_in_recovery();
SHOW SERVER ROLE;
SeT SeRver Role TO 'RePLICA';
SELECT pg_is_in_recovery();
show server role;
SET SHARDING KEY TO '1';
SHOW SHARD;
SET SHARD TO 1;
SET PRIMARY READS TO 'on';
SHOW PRIMARY READS;
SET SERVER ROLE TO 'default';
SELECT pg_is_in_recovery() FROM pg_sleep(0) FOR UPDATE;
SHOW pgcat.route;
"""
ANSWERS = """SET SERVER ROLE
f
primary
SET SERVER ROLE
t
replica
SET SHARDING KEY
0
ERROR:  shard 1 is not configured 1, staying on shard Some(0) (shard numbers start at 0)
SET PRIMARY READS
on
SET SERVER ROLE
f
0|primary|main/p1|locks rows
"""


def test_psql(wire_stack: Stack, address: Address) -> None:
    psql = wire_stack.client_program("psql")
    if psql is None:
        pytest.skip("no psql on this machine")
    ran = subprocess.run(
        [psql, "-X", "-A", "-t", "-h", address.host, "-p", str(address.port), "-U", address.user]
        + ["-d", address.database, "-f", "-"],
        input=SCRIPT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PGPASSWORD": address.password},
        check=True,
    )
    assert ran.stdout.replace("psql:<stdin>:10: ", "") == ANSWERS


def test_wishes_hold_until_they_are_changed(connection: psycopg.Connection) -> None:
    assert value(connection, IS_REPLICA) is True
    connection.execute("set pgcat.server_role = primary")
    assert [value(connection, IS_REPLICA) for _ in range(3)] == [False] * 3
    with connection.transaction():
        assert value(connection, "show pgcat.server_role") == "primary"
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    connection.execute("reset pgcat.server_role")
    assert value(connection, IS_REPLICA) is True


def test_reset_all_and_discard_all(connection: psycopg.Connection) -> None:
    for reset in ("reset all", "discard all"):
        connection.execute("set server role to primary")
        assert value(connection, IS_REPLICA) is False
        connection.execute(reset)
        assert value(connection, "show pgcat.server_role") == "auto"
        assert value(connection, IS_REPLICA) is True


def test_wishes_at_start_up(address: Address) -> None:
    options = "-c pgcat.server_role=primary --pgcat.primary-reads=on"
    with psycopg.connect(**address.keywords(), options=options, autocommit=True) as connection:
        assert value(connection, IS_REPLICA) is False
        assert value(connection, "show primary reads") == "on"
        connection.execute("set server role to replica")
        assert value(connection, IS_REPLICA) is True
        connection.execute("set server role to default")
        assert value(connection, IS_REPLICA) is False
    with pytest.raises(psycopg.OperationalError, match="is not configured 1, staying on shard None"):
        psycopg.connect(**address.keywords(), options="-c pgcat.shard=3")


def test_mistakes_leave_the_session_alone(connection: psycopg.Connection) -> None:
    for query, error, text in (
        ("set pgcat.shrd = 1", psycopg.errors.UndefinedObject, "pgcat.shard"),
        ("set sharding key to 'x'", psycopg.errors.InvalidTextRepresentation, "bigint"),
        (f"set sharding key to {2**63}", psycopg.errors.NumericValueOutOfRange, "bigint"),
        ("set shard to 9", psycopg.errors.InvalidParameterValue, "staying on shard None"),
        ("select 1; set shard to 0", psycopg.errors.FeatureNotSupported, "must stand alone"),
    ):
        with pytest.raises(error, match=text):
            connection.execute(query)
    assert value(connection, "show shard") == "unset"


def test_explain_route_runs_nothing(connection: psycopg.Connection) -> None:
    lines = [line for (line,) in connection.execute("explain route drop table no_such_table")]
    assert lines[0] == "Route: shard 0, primary"
    assert "  Server: main/p1 eligible, weight 100" in lines
    connection.execute("select 40 + 2")
    connection.execute("select 41 + 1")
    lines = [line for (line,) in connection.execute("explain route select 1 + 1")]
    assert "  Flow: remembered" in lines


def test_asyncpg(address: Address) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(address.url())
        try:
            assert await connection.execute("SET SERVER ROLE TO 'primary'") == "SET SERVER ROLE"
            assert await connection.fetchval(IS_REPLICA) is False
            assert await connection.execute("SET SERVER ROLE TO 'auto'") == "SET SERVER ROLE"
            assert await connection.fetchval(IS_REPLICA) is True
            assert await connection.fetchval("show server role") == "replica"
            statement = await connection.prepare("set pgcat.server_role = primary")
            for _ in range(3):
                await statement.fetch()
            rows = await connection.fetch("explain route select 1")
            assert rows[0]["route"] == "Route: shard 0, primary"
        finally:
            await connection.close()

    asyncio.run(talk())


def test_commands_by_the_extended_protocol(connection: psycopg.Connection) -> None:
    connection.execute("set server role to 'primary'", prepare=True)
    cursor = connection.execute("show server role", prepare=True)
    assert (cursor.description or [])[0].name == "server role"
    assert cursor.fetchall() == [("primary",)]
    for _ in range(3):
        row = connection.execute(IS_REPLICA + " where 1 = %s", (1,), prepare=True).fetchone()
        assert row == (False,)
    assert connection.cursor(binary=True).execute("show pgcat.server_role").fetchone() == ("primary",)
    with pytest.raises(psycopg.errors.UndefinedObject, match=r"pgcat\.shard"):
        connection.execute("set pgcat.shrd = 1", prepare=True)
    with connection.transaction():
        connection.execute("set local pgcat.primary_reads = on", prepare=True)
        assert connection.execute("show pgcat.primary_reads", prepare=True).fetchone() == ("on",)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert connection.execute("show pgcat.primary_reads", prepare=True).fetchone() == ("off",)
    with connection.pipeline() as pipeline:
        connection.execute("set server role to replica")
        first = connection.execute(IS_REPLICA)
        shown = connection.execute("show pgcat.server_role")
        # What comes before a Sync is one transaction, and stays on its server.
        connection.execute("set server role to primary")
        second = connection.execute(IS_REPLICA)
        pipeline.sync()
        third = connection.execute(IS_REPLICA)
    found = [cursor.fetchone() for cursor in (first, shown, second, third)]
    assert found == [(True,), ("replica",), (True,), (False,)]


def test_a_mistake_in_a_transaction(connection: psycopg.Connection) -> None:
    connection.execute("begin")
    connection.execute("select 1")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute("set shard to 7", prepare=True)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    connection.execute("rollback")
    assert value(connection, "show shard") == "unset"
