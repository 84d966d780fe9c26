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
