"""A repeated query never climbs into the control plane, idle or saturated: shown by counting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, config, connect, eventually, links, metric

REPETITIONS = 500
WARM_UP = 4  # a shape enters the table at its second sighting, a statement each server at its first
CLIENTS = 16

Cursor = psycopg.AsyncCursor[tuple[object, ...]]
Ask = Callable[[Cursor, int], Awaitable[None]]


async def simple(cursor: Cursor, value: int) -> None:
    # Another constant each time: the shape is the same.
    result = await cursor.execute(f"select {value}".encode())
    assert await result.fetchall() == [(value,)]


async def unnamed(cursor: Cursor, value: int) -> None:
    result = await cursor.execute("select %s::int", [value], prepare=False)
    assert await result.fetchall() == [(value,)]


async def prepared(cursor: Cursor, value: int) -> None:
    result = await cursor.execute("select %s::int", [value], prepare=True)
    assert await result.fetchall() == [(value,)]


async def writing(cursor: Cursor, value: int) -> None:
    result = await cursor.execute(f"select nextval('visits') + {value}".encode())
    assert len(await result.fetchall()) == 1


async def transaction(cursor: Cursor, value: int) -> None:
    await cursor.execute("begin")
    await simple(cursor, value)
    await cursor.execute("commit")


WAYS = [simple, unnamed, prepared, writing, transaction]


@pytest.fixture(scope="module")
def idle(pg_stack: Stack) -> Iterator[Node]:
    """One link a server, so that the warm-up meets every link."""
    yield from _node(pg_stack, "size = 1")


@pytest.fixture(scope="module")
def saturated(pg_stack: Stack) -> Iterator[Node]:
    yield from _node(pg_stack, 'size = 2\nmin_size = 2\nreads = "primary"')


def _node(stack: Stack, pool: str) -> Iterator[Node]:
    node = stack.add_node(config=config(pool, tables=PATIENT_HEALTH))
    with connect(node) as client:
        client.execute("create sequence if not exists visits")
    yield node
    node.stop()


def upcalls(node: Node) -> float:
    return metric(node, "pgcat_cluster_upcalls_total")


def waits(node: Node) -> float:
    """How long clients have waited for a server altogether."""
    return metric(node, 'pgcat_cluster_wait_seconds_total{database="test",user="test"}')


async def repeat(node: Node, ask: Ask, clients: int) -> float:
    """How many upcalls `REPETITIONS` requests make, spread over that many clients."""
    connections = [await psycopg.AsyncConnection.connect(node.dsn(), autocommit=True) for _ in range(clients)]

    async def work(connection: psycopg.AsyncConnection[tuple[object, ...]], times: int) -> None:
        cursor = connection.cursor()
        for value in range(times):
            await ask(cursor, value)

    async def all_work(times: int) -> None:
        await asyncio.gather(*(work(connection, times) for connection in connections))

    try:
        await all_work(WARM_UP * (1 if clients > 1 else 10))
        before = await asyncio.to_thread(upcalls, node)
        await all_work(-(-REPETITIONS // clients))
        return await asyncio.to_thread(upcalls, node) - before
    finally:
        for connection in connections:
            await connection.close()


@pytest.mark.parametrize("ask", WAYS)
async def test_one_client_that_repeats_itself(idle: Node, ask: Ask) -> None:
    assert await repeat(idle, ask, 1) == 0


@pytest.mark.parametrize("ask", WAYS)
async def test_sixteen_clients_over_two_links(saturated: Node, ask: Ask) -> None:
    eventually(lambda: links(saturated)["idle"] == 2, "both links are there")
    waited = waits(saturated)
    assert await repeat(saturated, ask, CLIENTS) == 0
    assert waits(saturated) > waited
    assert links(saturated)["idle"] == 2
