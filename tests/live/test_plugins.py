"""PgCat's plugins in front of real servers, by the simple and by the extended protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, config, connect, eventually, lines

PLUGINS = """
[pools.test.plugins.query_logger]
enabled = true

[pools.test.plugins.table_access]
enabled = true
tables = ["secret", "audit.log"]

[pools.test.plugins.prewarmer]
enabled = true
queries = ["select set_config('warmed.by', 'us', false)", "select 1 from nowhere", "select pg_advisory_lock(4711)"]

[pools.test.plugins.intercept]
enabled = true

[pools.test.plugins.intercept.queries.0]
query = "select current_database() as a, current_user as b, 7"
schema = [["a", "text"], ["b", "text"], ["?column?", "int4"]]
result = [["$${DATABASE}", "$${USER}", "7"], ["", "", "8"]]
"""
SIMPLE_AND_EXTENDED = pytest.mark.parametrize(
    "binary", [None, False, True], ids=["simple", "extended", "binary"]
)
ANSWER = [("test", "test", 7), (None, None, 8)]


@pytest.fixture(scope="module")
def node(pg_stack: Stack) -> Iterator[Node]:
    node = pg_stack.add_node(config=config('size = 1\nreads = "primary"', tables=PATIENT_HEALTH) + PLUGINS)
    yield node
    node.stop()


def ask(client: psycopg.Connection[tuple[Any, ...]], text: str, binary: bool | None) -> list[tuple[Any, ...]]:
    """By the simple protocol, or by the extended one."""
    arguments = {} if binary is None else {"binary": binary, "prepare": True}
    return client.execute(text.encode(), **arguments).fetchall()  # type: ignore[arg-type]


@SIMPLE_AND_EXTENDED
def test_an_intercepted_statement_is_answered(node: Node, binary: bool | None) -> None:
    with connect(node) as client:
        for _ in range(3):
            assert ask(client, "SELECT current_database() AS a,current_user  AS b, 7", binary) == ANSWER
        assert ask(client, "select current_database() as a, current_user as b, 9", binary) == [
            ("test", "test", 9)
        ]
        with client.transaction():
            ask(client, "select 1", binary)
            assert ask(client, "select current_database() as a, current_user as b, 7", binary) == ANSWER


@SIMPLE_AND_EXTENDED
def test_a_table_is_refused_each_time(node: Node, binary: bool | None) -> None:
    with connect(node) as client:
        for number in range(3):
            for text in (f"select * from secret where a = {number}", "table audit.log", "selct 1"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="denied"):
                    ask(client, text, binary)
        assert ask(client, "select 1", binary) == [(1,)]


@SIMPLE_AND_EXTENDED
def test_a_refusal_fails_the_transaction(node: Node, binary: bool | None) -> None:
    with connect(node) as client:
        client.execute("begin")
        ask(client, "select 1", binary)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(client, "select * from secret", binary)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            ask(client, "select 1", binary)
        client.execute("rollback")
        assert ask(client, "select 1", binary) == [(1,)]


@SIMPLE_AND_EXTENDED
def test_each_execution_is_logged_without_constants(node: Node, binary: bool | None) -> None:
    name = {None: "s", False: "e", True: "b"}[binary]
    with connect(node) as client:
        for _ in range(4):
            ask(client, f"select 'hidden' as logged_{name}", binary)
    eventually(lambda: len(lines(node, f"as logged_{name}")) == 4, "all four are logged")
    told = lines(node, f"as logged_{name}")
    assert all(f'statement="select ? as logged_{name}"' in line and "database=test" in line for line in told)
    assert "hidden" not in node.log.read_text()


def test_links_are_warmed_before_they_are_used(node: Node, pg_stack: Stack) -> None:
    with connect(node) as client:
        # What the queries left in the session is gone.
        assert ask(client, "select current_setting('warmed.by', true)", None) in ([("",)], [(None,)])
        assert ask(client, "select count(*) from pg_locks where locktype = 'advisory'", None) == [(0,)]
    (told,) = lines(node, "pool.cold")[:1]
    assert "nowhere" in told
