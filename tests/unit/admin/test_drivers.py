"""Real drivers, with their defaults, on a console that a few lines of sockets serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest

from pgcat_cluster.admin.console import Console, login_parameters
from pgcat_cluster.wire import messages
from tests.support.control import FakeControl


@pytest.fixture(params=["pgbouncer", "pgcat"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, int]]:
    """A console's database name, and the port where it answers without a password."""
    dialect: str = request.param

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def packet() -> bytes:
            return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)

        try:
            while (await packet())[:4] in (
                messages.SSL_CODE.to_bytes(4, "big"),
                messages.GSS_CODE.to_bytes(4, "big"),
            ):
                writer.write(b"N")
            writer.write(messages.authentication_ok())
            for name, value in login_parameters(dialect).items():
                writer.write(messages.parameter_status(name, value))
            writer.write(messages.backend_key_data(1, b"1234") + messages.ready_for_query(b"I"))
            console = Console(dialect, "op", "admin", FakeControl())
            closes = False
            while not closes:
                kind = (await reader.readexactly(1))[0]
                answer = console.receive(kind, await packet())
                writer.write(answer.data)
                if answer.action is not None:
                    writer.write(await answer.action())
                closes = answer.closes
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield dialect, server.sockets[0].getsockname()[1]


def rows_of(dialect: str) -> list[tuple[object, ...]]:
    if dialect == "pgcat":
        return [("app", "app", "transaction", 4, 3, 5, 3, 1, 2, 3, 4, 5, 2, 345)]
    return [
        ("app", "app", 7, 5, 1, 2, 1, 6, 7, 2, 3, 4, 5, 2, 345, "transaction", "random"),
        ("pgbouncer", "pgbouncer", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "statement", None),
    ]


async def test_psycopg_3(address: tuple[str, int]) -> None:
    database, port = address
    async with await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=port, user="op", dbname=database, autocommit=True
    ) as connection:
        for prepare in (None, True):
            for binary in (False, True):
                cursor = await connection.cursor(binary=binary).execute("SHOW POOLS", prepare=prepare)
                assert await cursor.fetchall() == rows_of(database)
        with pytest.raises(psycopg.DatabaseError, match=r"invalid command|Unsupported query"):
            await connection.execute("FROBNICATE")
        assert (await connection.execute("RECONNECT")).statusmessage == "RECONNECT"


async def test_psycopg_2_as_datadog_uses_it(address: tuple[str, int]) -> None:
    database, port = address

    def work() -> list[dict[str, object]]:
        connection = psycopg2.connect(host="127.0.0.1", port=port, user="op", dbname=database)
        try:
            connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
            with connection.cursor(cursor_factory=psycopg2.extras.DictCursor) as cursor:
                cursor.execute("SHOW POOLS;")
                return [dict(row) for row in cursor.fetchall()]
        finally:
            connection.close()

    found = await asyncio.to_thread(work)
    assert [tuple(row.values()) for row in found] == rows_of(database)
    assert (found[0]["cl_waiting"], found[0]["maxwait_us"]) == (5, 345)


async def test_asyncpg(address: tuple[str, int]) -> None:
    database, port = address
    connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user="op", database=database, ssl=False, timeout=10
    )
    try:
        for _ in range(2):
            assert [tuple(row) for row in await connection.fetch("SHOW POOLS")] == rows_of(database)
        assert await connection.execute("RECONNECT") == "RECONNECT"
        with pytest.raises(asyncpg.PostgresError, match=r"invalid command|Unsupported query"):
            await connection.fetch("FROBNICATE")
        total = {row["name"]: row["value"] for row in await connection.fetch("SHOW TOTALS")}
        assert total["total_xact_time"] == 18_000
    finally:
        await connection.close()
