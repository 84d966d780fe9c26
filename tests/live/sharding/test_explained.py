"""EXPLAIN ROUTE over real shards, by drivers that bind its parameters; and refusals that name the shards."""

from __future__ import annotations

import asyncio

import asyncpg
import psycopg
import pytest

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import address
from tests.support.sharding import SHARDS, ShardedNode

KEYS = range(-20, 20)


def route(rows: list[tuple[str, ...]]) -> str:
    return rows[0][0]


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_the_bound_key_tells_the_shard(many_shards: ShardedNode, prepare: bool, binary: bool) -> None:
    with many_shards.connect() as client, client.cursor(binary=binary) as cursor:
        for key in KEYS:
            shard = pg_bigint_hash(key, SHARDS)
            cursor.execute(b"explain route select * from data where id = %s", [key], prepare=prepare)
            assert route(cursor.fetchall()) == f"Route: shard {shard}, replica"
            # What is explained is what is done.
            cursor.execute(b"select * from data where id = %s", [key], prepare=prepare)
            row = client.execute(b"show pgcat.route").fetchone()
            assert row is not None
            assert row[0] == str(shard)


def test_parameters_are_described(many_shards: ShardedNode) -> None:
    async def talk() -> None:
        link = await asyncpg.connect(address(many_shards.node, "sharded").url())
        try:
            statement = await link.prepare("explain route update data set value = $1 where id = $2")
            assert [kind.name for kind in statement.get_parameters()] == ["text", "int8"]
            for key in KEYS:
                rows = await statement.fetch("new", key)
                assert rows[0]["route"] == f"Route: shard {pg_bigint_hash(key, SHARDS)}, primary"
        finally:
            await link.close()

    asyncio.run(talk())


def test_keys_of_several_shards_are_named(many_shards: ShardedNode) -> None:
    first, other = (next(key for key in KEYS if pg_bigint_hash(key, SHARDS) == shard) for shard in (1, 3))
    with many_shards.connect() as client:
        for statement, values in (
            (f"select * from data where id in ({first}, {other})", None),
            ("select * from data where id in (%s, %s)", [other, first]),
            (f"delete from data where id in ({first}, %s)", [other]),
        ):
            for _ in range(3):
                with pytest.raises(psycopg.errors.FeatureNotSupported) as raised:
                    client.execute(statement.encode(), values, prepare=bool(values))
                assert raised.value.diag.message_detail == "Their shards are 1 and 3."
            row = client.execute(b"show pgcat.route").fetchone()
            assert row is not None
            assert "Their shards are 1 and 3." in row[3]
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="no row is moved to another shard"):
            client.execute(b"update data set id = %s where id = %s", [first, other])


@pytest.mark.parametrize("statement", ["set id = $1 where id = $1", "set value = $1 where id = $1"])
def test_a_parameter_of_a_type_that_a_server_has_to_tell(many_shards: ShardedNode, statement: str) -> None:
    """As is said, so it is done: of its shard, or with the server's own word that no type will do."""
    for key in (5, -7):
        shard = pg_bigint_hash(key, SHARDS)
        many_shards.truncate("data")
        many_shards.ask(shard, f"insert into data (id, value) values ({key}, 'x')")
        values: list[bytes | None] = [str(key).encode()]
        server = many_shards.own[shard].pgconn.exec_params(f"update data {statement}".encode(), values)
        with many_shards.connect() as client:
            told = client.pgconn.exec_params(f"explain route update data {statement}".encode(), values)
            said = told.get_value(0, 0)
            assert said in (
                f"Route: shard {shard}, primary".encode(),
                b"Route: shard by its parameters, primary",
            )
            done = client.pgconn.exec_params(f"update data {statement}".encode(), values)
            assert (done.status, done.command_tuples) == (server.status, server.command_tuples)
            assert done.error_message.partition(b"\n")[0] == server.error_message.partition(b"\n")[0]
