"""Random keys go to their shards, however they are sent: PostgreSQL refuses a row of another shard, and lacks it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.support import fronts
from tests.support.sharding import ShardedNode

CLIENTS = 16

Key = int | str | uuid.UUID
# Stores a key and reads it back: whether the row was there.
Ask = Callable[[Key], Awaitable[bool]]


def bigint(chance: random.Random) -> int:
    """Of every magnitude."""
    if chance.random() < 0.001:
        return chance.choice((-(1 << 63), (1 << 63) - 1, -1, 0, 1))
    return chance.randint(-(1 << 63), (1 << 63) - 1) >> chance.choice((0, 0, 0, 7, 33, 50))


def text(chance: random.Random) -> str:
    alphabet = chance.choice(("abcXYZ 019-_", "'\"$:%", "é€𝄞\U0010ffff\x7f"))
    return "".join(chance.choices(alphabet, k=chance.randrange(40)))


@dataclass(frozen=True)
class Kind:
    """One type of key: its pool, its table, and how to make a key."""

    pool: str
    table: str
    make: Callable[[random.Random], Key]

    @property
    def insert(self) -> str:
        return f"insert into {self.table} (id, value) values (%s, %s)"

    @property
    def select(self) -> str:
        return f"select value from {self.table} where id = %s"


KINDS = {
    "bigint": Kind("sharded", "data", bigint),
    "text": Kind("by-text", "texts", text),
    "uuid": Kind("by-uuid", "uuids", lambda chance: uuid.UUID(bytes=chance.randbytes(16))),
}


# --- the ways in which a key can be sent


@asynccontextmanager
async def psycopg_client(
    shards: ShardedNode, kind: Kind, cursor_class: type[psycopg.AsyncCursor], place: str, prepare: bool | None
) -> AsyncIterator[Ask]:
    connection = await psycopg.AsyncConnection.connect(
        shards.node.dsn(database=kind.pool), autocommit=True, cursor_factory=cursor_class
    )
    insert, select = (text.replace("%s", place).encode() for text in (kind.insert, kind.select))

    async def ask(key: Key) -> bool:
        value = str(key)
        await connection.execute(insert, (key, value), prepare=prepare)
        cursor = await connection.execute(select, (key,), prepare=prepare)
        return await cursor.fetchall() == [(value,)]

    async with connection:
        yield ask


@asynccontextmanager
async def untyped_client(shards: ShardedNode, kind: Kind) -> AsyncIterator[Ask]:
    """Parameters of no declared type: only the server knows what they are."""
    connection = await asyncio.to_thread(shards.connect, kind.pool)
    insert, select = (kind.insert, kind.select)
    insert = insert.replace("(%s, %s)", "($1, $2)")
    select = select.replace("%s", "$1")

    def store_and_read(key: Key) -> bool:
        value = str(key).encode()
        stored = connection.pgconn.exec_params(insert.encode(), [value, value])
        assert stored.status == psycopg.pq.ExecStatus.COMMAND_OK, stored.error_message
        found = connection.pgconn.exec_params(select.encode(), [value])
        assert found.status == psycopg.pq.ExecStatus.TUPLES_OK, found.error_message
        return [found.get_value(row, 0) for row in range(found.ntuples)] == [value]

    async def ask(key: Key) -> bool:
        return await asyncio.to_thread(store_and_read, key)

    yield ask
    connection.close()


@asynccontextmanager
async def asyncpg_client(shards: ShardedNode, kind: Kind) -> AsyncIterator[Ask]:
    node = shards.node
    connection = await asyncpg.connect(
        host=node.host,
        port=node.port,
        user="test",
        password=node.passwords["test"],
        database=kind.pool,
        ssl=False,
    )
    insert = kind.insert.replace("(%s, %s)", "($1, $2)")
    select = kind.select.replace("%s", "$1")

    async def ask(key: Key) -> bool:
        value = str(key)
        await connection.execute(insert, key, value)
        return [row[0] for row in await connection.fetch(select, key)] == [value]

    yield ask
    await connection.close()


WAYS: dict[str, Callable[[ShardedNode, Kind], asynccontextmanager]] = {
    "simple": lambda shards, kind: psycopg_client(shards, kind, psycopg.AsyncClientCursor, "%s", None),
    "extended text": lambda shards, kind: psycopg_client(shards, kind, psycopg.AsyncCursor, "%t", False),
    "extended binary": lambda shards, kind: psycopg_client(shards, kind, psycopg.AsyncCursor, "%b", False),
    "prepared text": lambda shards, kind: psycopg_client(shards, kind, psycopg.AsyncCursor, "%t", True),
    "prepared binary": lambda shards, kind: psycopg_client(shards, kind, psycopg.AsyncCursor, "%b", True),
    "untyped": untyped_client,
    "asyncpg": asyncpg_client,
}


async def wrong_ones(way: str, shards: ShardedNode, kind: Kind, keys: Sequence[Key]) -> list[Key]:
    """The keys whose rows were not found where they were looked for; a refused statement raises."""
    left = iter(keys)
    wrong: list[Key] = []

    async def work() -> None:
        async with WAYS[way](shards, kind) as ask:
            for key in left:
                if not await ask(key):
                    wrong.append(key)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CLIENTS):
            workers.create_task(work())
    return wrong


COUNTS = {"bigint": (300, 80_000), "text": (100, 10_000), "uuid": (100, 10_000)}


@pytest.mark.parametrize("is_long", [False, pytest.param(True, marks=pytest.mark.live_long)])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key_type", KINDS)
@pytest.mark.timeout(1800)
async def test_no_key_goes_astray(
    many_shards: ShardedNode, way: str, key_type: str, is_long: bool, record_property
) -> None:
    kind, count = KINDS[key_type], COUNTS[key_type][is_long]
    chance = random.Random(f"{way} {key_type} {is_long}")
    keys = list({kind.make(chance) for _ in range(count)})
    many_shards.truncate(kind.table)
    assert await wrong_ones(way, many_shards, kind, keys) == []
    counts = many_shards.counts(kind.table)
    record_property("keys", len(keys))
    # Each row is where PostgreSQL wants it, so all that is left to ask is whether each is there once.
    assert (sum(counts), min(counts) > 0) == (len(keys), True)


# A key of 64 bits; division by zero where its row is not found.
PGBENCH = """\
\\set id hash(random(1, 2305843009213693951))
insert into data (id, value) values (:id, 'pgbench');
select 1 / count(*) from data where id = :id;
"""


@pytest.mark.parametrize("count", [400, pytest.param(160_000, marks=pytest.mark.live_long)])
@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
@pytest.mark.timeout(1800)
def test_no_key_of_pgbench_goes_astray(
    many_shards: ShardedNode, protocol: str, count: int, tmp_path: Path, record_property
) -> None:
    pgbench, node = fronts.pgbench_path(many_shards.stack), many_shards.node
    if pgbench is None:
        pytest.skip("no pgbench on this machine")
    many_shards.truncate("data")
    script = tmp_path / "keys.sql"
    script.write_text(PGBENCH)
    command = [pgbench, "-n", "-f", script, "-M", protocol, "-c", str(CLIENTS), "-j", "2"]
    command += ["-t", str(count // CLIENTS), "-h", node.host, "-p", str(node.port), "-U", "test", "sharded"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        command,
        env={**kept, "PGPASSWORD": node.passwords["test"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(rf"actually processed: {count}/{count}\b", done.stdout), done.stdout
    record_property("keys", count)
    counts = many_shards.counts("data")
    assert (sum(counts), min(counts) > 0) == (count, True)
