"""Functions judged by what a real server says of them: who writes goes to the primary, who reads to a replica."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, Connection, config, connect, eventually, one, port

_POOLS = """
[pools.known]
server_database = "catalog"
functions = "catalog"
reading_functions = ["peek"]
consistency = "session"
consistency_wait = "60s"
users = { test = {} }

[pools.unasked]
server_database = "catalog"
users = { test = {} }
"""

# Which server ran it is what each of them answers, so that nothing has to be written to tell.
_FUNCTION = "create or replace function {} returns int {} language sql as 'select inet_server_port()'"


def has(server: Postgres, database: str, what: str) -> None:
    query = f"select count(*) > 0 from {what}"
    eventually(lambda: server.query(query, "test", database) == [(True,)], f"{server.name} has {what}")


@pytest.fixture(scope="module")
def database(pg_stack: Stack) -> Iterator[Stack]:
    primary = pg_stack.primary
    primary.query("create database catalog owner test")
    for name, volatility in (("counts()", "stable"), ("books()", "volatile"), ("peek()", "volatile")):
        primary.query(_FUNCTION.format(name, volatility), "test", "catalog")
    primary.query("create schema other", "test", "catalog")
    primary.query(_FUNCTION.format("other.counts(int)", "volatile"), "test", "catalog")
    primary.query("create aggregate sums(int) (sfunc = int4pl, stype = int)", "test", "catalog")
    for replica in pg_stack.replicas:
        has(replica, "postgres", "pg_database where datname = 'catalog'")
        has(replica, "catalog", "pg_proc where proname = 'sums'")
    yield pg_stack
    primary.query("drop database catalog with (force)")


@pytest.fixture(scope="module")
def node(database: Stack) -> Iterator[Node]:
    node = database.add_node(config=config(tables=_POOLS + PATIENT_HEALTH))
    yield node
    node.stop()


@pytest.fixture
def connection(node: Node) -> Iterator[Connection]:
    with connect(node, "known") as connection:
        yield connection


@pytest.fixture
def replicas(database: Stack) -> set[int]:
    return {replica.port for replica in database.replicas}


def test_volatile_functions_go_to_the_primary(
    database: Stack, connection: Connection, replicas: set[int]
) -> None:
    primary = database.primary.port
    assert port(connection) in replicas
    for _ in range(3):
        assert one(connection, "select books()") == primary
        assert one(connection, "select public.counts()") in replicas
        # The worst of those who share a name; a schema tells them apart.
        assert one(connection, "select counts()") == primary
        assert one(connection, "select other.counts(1)") == primary
        assert one(connection, "select peek()") in replicas
        assert (
            one(connection, "select public.counts() + sums(n) * 0 from generate_series(1, 2) n") in replicas
        )
        assert one(connection, "select inet_server_port() + count(*) * 0 + (random() * 0)::int") in replicas
    route = connection.execute("explain route select books()", prepare=False).fetchall()
    assert any("calls a volatile function books()" in line for (line,) in route), route


def test_where_nobody_asks_they_count_as_reads(node: Node, replicas: set[int]) -> None:
    with connect(node, "unasked") as connection:
        assert one(connection, "select books()") in replicas


def test_a_definition_counts_at_once(database: Stack, connection: Connection, replicas: set[int]) -> None:
    """For the session that defines, and for the others; also for what was prepared before."""
    primary = database.primary.port
    with connect(database.nodes[-1], "known", prepare_threshold=0) as other:
        for volatility in ("volatile", "stable", "volatile"):
            connection.execute(_FUNCTION.format("changing()", volatility))
            assert (one(connection, "select changing()") == primary) == (volatility == "volatile")
            assert (one(other, "select changing()") == primary) == (volatility == "volatile")
        with connection.transaction():
            connection.execute("alter function changing() stable")
        assert one(connection, "select changing()") in replicas
        assert one(other, "select changing()") in replicas
        connection.execute("alter function changing() rename to renamed")
        assert one(connection, "select renamed()") in replicas


def test_what_others_define_is_learned_in_time(database: Stack, connection: Connection) -> None:
    """Until then it is not known, and so goes to the primary."""
    database.primary.query(_FUNCTION.format("foreign_to_us()", "stable"), "test", "catalog")
    assert one(connection, "select foreign_to_us()") == database.primary.port
    # What code did is looked at soon.
    connection.execute("do $$ begin perform 1; end $$")
    eventually(
        lambda: one(connection, "select foreign_to_us()") != database.primary.port, "the node has asked again"
    )
