"""A mirror gets whole transactions once and in order; whatever happens to it, clients are answered as without it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, config, connect, eventually, status
from tests.support.stack import NodeMaker

CLIENTS = 4
ROUNDS = 25
TABLE = "copied (who int, what int, number int generated always as identity)"


@pytest.fixture(scope="module")
def mirror(pg_stack: Stack) -> Iterator[Stack]:
    """Shared by the tests below, of which the last one ends it."""
    with Stack(replicas=0, passwords=pg_stack.passwords) as stack:
        yield stack


def mirrored(start_node: NodeMaker, mirror: Stack, options: str = "") -> Node:
    server = mirror.primary
    options = f'host = "{server.host}", port = {server.port}{options}'
    return start_node(config=config(f'reads = "primary"\nmirror = {{ {options} }}', tables=PATIENT_HEALTH))


def counts(node: Node) -> dict[str, Any]:
    (pool,) = [pool for pool in status(node)["pools"] if pool["database"] == "test"]
    found: dict[str, Any] = pool["mirror"]
    return found


def is_at_rest(node: Node) -> bool:
    return counts(node)["held_bytes"] == 0


def there(mirror: Stack) -> list[tuple[int, int]]:
    return mirror.primary.query("select who, what from copied order by number", "test", "test")  # type: ignore[return-value]


def write(node: Node, who: int) -> list[int]:
    """Every way to insert, and rows that are rolled back, fail, or are only read."""
    answers = []
    with connect(node, prepare_threshold=3) as client:
        for what in range(ROUNDS):
            base = 10 * what
            insert = f"insert into copied (who, what) values ({who}, {base}) returning what"
            answers.append(one(client.execute(insert.encode())))
            answers.append(
                one(
                    client.execute(
                        "insert into copied (who, what) values (%s, %s) returning what", (who, base + 1)
                    )
                )
            )
            with client.transaction():
                client.execute("insert into copied (who, what) values (%s, %s)", (who, base + 2))
                client.execute(f"insert into copied (who, what) values ({who}, {base + 3})".encode())
            with client.transaction(force_rollback=True):
                client.execute("insert into copied (who, what) values (%s, %s)", (who, base + 4))
            with pytest.raises(psycopg.errors.DivisionByZero):
                client.execute(f"insert into copied (who, what) values ({who}, 1 / 0)".encode())
            client.execute(f"set application_name = 'client {what}'".encode())
            client.execute("select count(*) from copied where who = %s", (who,))
        with client.cursor() as cursor, cursor.copy("copy copied (who, what) from stdin") as copy:
            copy.write_row((who, -1))
    return answers


def one(cursor: psycopg.Cursor[tuple[Any, ...]]) -> int:
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def test_a_mirror_gets_what_was_sent_once_and_in_order(start_node: NodeMaker, mirror: Stack) -> None:
    node = mirrored(start_node, mirror)
    with connect(node) as client:
        # The mirror gets the table this way too.
        client.execute(f"create table {TABLE}".encode())
        try:
            eventually(lambda: counts(node)["mirrored"] == 1, "the table is there")
            with ThreadPoolExecutor(CLIENTS) as pool:
                answers = list(pool.map(lambda who: write(node, who), range(CLIENTS)))
            eventually(lambda: is_at_rest(node), "the mirror has all of it")
            found = there(mirror)
        finally:
            client.execute("drop table copied")
        eventually(lambda: is_at_rest(node), "the mirror has dropped it too")
    expected = [10 * what + offset for what in range(ROUNDS) for offset in range(4)]
    for who in range(CLIENTS):
        assert answers[who] == [what for what in expected if what % 10 < 2]
        assert [what for one, what in found if one == who] == expected
    told = counts(node)
    assert (told["dropped"], told["failed"], told["left_out"]) == (0, 0, CLIENTS)
    assert told["errors"] == {"22012": CLIENTS * ROUNDS}


def test_a_mirror_that_freezes_or_dies_harms_nobody(start_node: NodeMaker, mirror: Stack) -> None:
    mirror.primary.query(f"create table {TABLE}", "test", "test")
    node = mirrored(start_node, mirror, ', queue = "16KiB"')
    with connect(node) as client:
        client.execute(f"create table {TABLE}".encode())
        try:
            eventually(lambda: counts(node)["mirrored"] == 1, "the mirror is linked")
            mirror.primary.freeze()
            pairs(client, 0)
            frozen = counts(node)
            mirror.primary.resume()
            eventually(lambda: is_at_rest(node), "the mirror has what was kept")
            thawed, found = counts(node), there(mirror)
            mirror.primary.stop("immediate")
            pairs(client, 1)
            dead = counts(node)
            (kept,) = client.execute("select count(*) from copied").fetchall()
        finally:
            client.execute("drop table copied")
    assert kept == (2 * 2 * PAIRS,)
    assert 0 < frozen["dropped"] < PAIRS
    assert frozen["held_bytes"] <= 16384
    # All that fitted came as a whole; nothing was cut in two, and no message was out of place.
    assert thawed["mirrored"] == 1 + PAIRS - frozen["dropped"]
    assert found == [(0, what) for what in range(2 * (PAIRS - frozen["dropped"]))]
    assert thawed["errors"] == {"42P07": 1}
    assert (thawed["failed"], thawed["left_out"]) == (0, 0)
    assert dead["held_bytes"] <= 16384
    assert dead["dropped"] > frozen["dropped"]
    assert dead["last_error"]


PAIRS = 200


def pairs(client: psycopg.Connection[tuple[Any, ...]], who: int) -> None:
    for number in range(PAIRS):
        with client.transaction():
            for what in (2 * number, 2 * number + 1):
                client.execute(f"insert into copied (who, what) values ({who}, {what})".encode())
