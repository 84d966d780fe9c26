"""Arrays of keys, and parameters whose type the server alone knows, as drivers send them: they find their shards."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import pytest

from pgcat_cluster.routing import pg_bigint_hash
from pgcat_cluster.routing.functions import pg_text_hash, pg_uuid_hash
from tests.live.test_node_upcalls import upcalls
from tests.support.nodes import address
from tests.support.sharding import SHARDS, ShardedNode
from tests.support.shards import add_partition

Connection = psycopg.Connection[tuple[object, ...]]

NUMBERS = [*range(-30, 30), 2**31, -(2**31), 2**63 - 1, -(2**63)]
TEXTS = ["", "NULL", "a,b", '"', "\\", "{x}", " a ", "it's", *(f"key {n}" for n in range(20)), "grün", "€𝄞"]
UUIDS = [uuid.UUID(int=n * 7919) for n in range(30)]
# Pool, table, keys, the shard of each.
KINDS: dict[str, tuple[str, str, Sequence[object], Callable[..., int]]] = {
    "bigint": ("sharded", "data", NUMBERS, lambda key: pg_bigint_hash(key, SHARDS)),
    "text": ("by-text", "texts", TEXTS, lambda key: pg_text_hash(key, SHARDS)),
    "uuid": ("by-uuid", "uuids", UUIDS, lambda key: pg_uuid_hash(key.bytes, SHARDS)),
}


@pytest.fixture(scope="module")
def stored(many_shards: ShardedNode) -> ShardedNode:
    """Every key of every kind is on its shard, and `twice` has an integer beside each number."""
    many_shards.truncate("data", "texts", "uuids")
    for pool, table, keys, _ in KINDS.values():
        with many_shards.connect(pool) as client:
            for key in keys:
                client.execute(f"insert into {table} (id, value) values (%s, 'stored')".encode(), [key])
    for shard in range(SHARDS):
        with psycopg.connect(
            many_shards.primary(shard).dsn("test", many_shards.databases[shard]), autocommit=True
        ) as own:
            own.execute("create table twice (id bigint, other int) partition by hash (id)")
            add_partition(own, "twice", shard, SHARDS)
    return many_shards


def by_shard(kind: str) -> list[list[object]]:
    _, _, keys, shard_of = KINDS[kind]
    return [[key for key in keys if shard_of(key) == shard] for shard in range(SHARDS)]


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_by_psycopg(stored: ShardedNode, kind: str, binary: bool, prepare: bool) -> None:
    pool, table, _, _ = KINDS[kind]
    select = f"select id from {table} where id = any(%{'b' if binary else 't'})".encode()
    with stored.connect(pool) as client:
        for _ in range(2):
            for keys in by_shard(kind):
                # NULL in the text of an array of texts is not certain.
                more = [] if kind == "text" and not binary else [None]
                found = client.execute(select, [[*keys, *more, keys[0]]], prepare=prepare).fetchall()
                assert {key for (key,) in found} == set(keys)
                one = client.execute(select, [keys[:1]], prepare=prepare).fetchall()
                assert one == [(keys[0],)]
        for refused in ([shard[0] for shard in by_shard(kind)], [], None):
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                client.execute(select, [refused], prepare=prepare)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_in_the_text(stored: ShardedNode, kind: str) -> None:
    pool, table, _, _ = KINDS[kind]
    with stored.connect(pool) as client:
        for keys in by_shard(kind):
            quoted = ",".join('"' + str(key).replace("\\", r"\\").replace('"', r"\"") + '"' for key in keys)
            literal = "'{" + quoted.replace("'", "''") + "}'"
            for array in (literal, f"{literal}::{kind}[]", f"cast({literal} as {kind}[])"):
                found = client.execute(f"select id from {table} where id = any ({array})".encode()).fetchall()
                assert {key for (key,) in found} == set(keys)


@asynccontextmanager
async def by_asyncpg(node: ShardedNode, pool: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(address(node.node, pool).url())
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_arrays_by_asyncpg(stored: ShardedNode, kind: str) -> None:
    """It asks for the type, and sends arrays in binary."""
    pool, table, _, _ = KINDS[kind]
    async with by_asyncpg(stored, pool) as client:
        statement = await client.prepare(f"select id from {table} where id = any($1::{kind}[])")
        for keys in by_shard(kind):
            for rows in (
                await client.fetch(f"select id from {table} where id = any($1)", [*keys, None]),
                await statement.fetch([None, *keys, keys[0]]),
                await client.fetch(f"select id from {table} where id in ($1, $2)", keys[0], keys[1]),
            ):
                assert {row["id"] for row in rows} <= set(keys)
                assert len(rows) in (len(keys), 2)
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await statement.fetch([keys[0] for keys in by_shard(kind)])


TWICE = "select id from {} where id = {} and (value is null or id = {})"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_parameter_in_two_places_by_asyncpg(stored: ShardedNode, kind: str) -> None:
    pool, table, keys, _ = KINDS[kind]
    select = TWICE.format(table, "$1", "$1")
    async with by_asyncpg(stored, pool) as client:
        for key in keys:
            assert [row["id"] for row in await client.fetch(select, key)] == [key]
        async with client.transaction():
            assert await client.execute(f"update {table} set value = $2 where id = $1 and (value is null or id = $1)",
                                        keys[0], "changed") == "UPDATE 1"  # fmt: skip


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_in_two_places_by_psycopg(
    stored: ShardedNode, kind: str, binary: bool, prepare: bool
) -> None:
    """As text without a type it is the server who tells it; else psycopg declares one."""
    pool, table, keys, _ = KINDS[kind]
    place = "%(key)b" if binary else "%(key)t"
    select = TWICE.format(table, place, place).encode()
    with stored.connect(pool) as client:
        for key in keys:
            for value in (key,) if binary else (key, str(key)):
                found = client.execute(select, {"key": value}, prepare=prepare).fetchall()
                assert found == [(key,)]
            with client.transaction():
                assert client.execute(select, {"key": key}, prepare=prepare).fetchall() == [(key,)]


def test_a_pipeline_is_answered_in_order(stored: ShardedNode) -> None:
    """All is sent at once, before any type is known."""
    with stored.connect() as client:
        keys = by_shard("bigint")[2]
        select = b"select id, 'piped' from data where id = %(key)s and (value is null or id = %(key)s)"
        with client.pipeline():
            found = [client.execute(select, {"key": str(key)}) for key in keys]
        assert [cursor.fetchall() for cursor in found] == [[(key, "piped")] for key in keys]


@pytest.mark.parametrize("prepare", [False, True])
def test_what_was_told_is_not_asked_again(stored: ShardedNode, prepare: bool) -> None:
    """Once every link knows the statement, nothing of it climbs into the control plane."""
    statements: list[tuple[bytes, Callable[[int], object]]] = [
        (b"select id from data where id = %(key)s and (value is null or id = %(key)s)", str),
        (b"select id from data where id = any(%(key)s)", lambda key: [key, key]),
    ]
    chance = random.Random(1)
    for select, made in statements:
        with stored.connect() as client:
            for _ in range(60):
                client.execute(select, {"key": made(chance.choice(NUMBERS))}, prepare=prepare)
            before = upcalls(stored.node)
            for _ in range(200):
                key = chance.choice(NUMBERS)
                assert client.execute(select, {"key": made(key)}, prepare=prepare).fetchall() == [(key,)]
            assert upcalls(stored.node) == before


@pytest.fixture
def client(stored: ShardedNode) -> Iterator[Connection]:
    with stored.connect() as connection:
        yield connection


def test_a_type_that_has_changed(stored: ShardedNode, client: Connection) -> None:
    """What was told stays declared until an error tells that tables changed: no key is ever read as another."""
    far = 2**40
    # Analysed from left to right: the first comparison decides.
    select = b"select id from twice where other = %(key)s and id = %(key)s"
    insert = f"insert into twice (id, other) values ({far}, 7)".encode()
    assert client.execute(select, {"key": "7"}).fetchall() == []
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        client.execute(select, {"key": str(far)})
    for shard in range(SHARDS):
        stored.ask(shard, "alter table twice alter other type bigint")
    client.execute(insert)
    client.execute(f"update twice set other = {far} where id = {far}".encode())
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        client.execute(select, {"key": str(far)})
    with pytest.raises(psycopg.errors.UndefinedColumn):
        client.execute("select nothing")
    assert client.execute(select, {"key": str(far)}).fetchall() == [(far,)]
    for shard in range(SHARDS):
        stored.ask(shard, "alter table twice alter other type numeric")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        client.execute("select nothing")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        client.execute(select, {"key": str(far)})


def test_a_statement_that_no_server_understands(client: Connection) -> None:
    """The words are the server's, and the session goes on."""
    for prepare in (False, True):
        with pytest.raises(psycopg.errors.UndefinedColumn, match="missing"):
            client.execute(
                "select id from data where id = %(key)s and (missing = 1 or id = %(key)s)",
                {"key": "1"},
                prepare=prepare,
            )
        assert client.execute("select id from data where id = 1").fetchall() == [(1,)]
