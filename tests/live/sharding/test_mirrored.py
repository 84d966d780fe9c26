"""A mirror of a sharded pool gets the transactions of each shard in a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import connect, eventually, status
from tests.support.sharding import DATABASES, SHARDS, ShardedNode, config, fill

pytestmark = pytest.mark.once

KEYS = [next(key for key in range(1, 100) if pg_bigint_hash(key, SHARDS) == shard) for shard in range(SHARDS)]
ROUNDS = 5


@pytest.fixture(scope="module")
def mirror(many_shards: ShardedNode) -> Iterator[Stack]:
    """Databases with the part of one shard each: what is for another fails there."""
    with Stack(replicas=0, passwords=many_shards.stack.passwords) as stack:
        for shard, database in enumerate(DATABASES):
            stack.primary.query(f"create database copy_of_{database} owner test")
            fill(stack.primary, shard, f"copy_of_{database}")
        yield stack


@pytest.fixture
def node(many_shards: ShardedNode, mirror: Stack) -> Iterator[Node]:
    many_shards.truncate("data", "note")
    server = mirror.primary
    named = ", ".join(f'{shard} = "copy_of_{database}"' for shard, database in enumerate(DATABASES))
    options = f'host = "{server.host}", port = {server.port}, databases = {{ {named} }}'
    text = config(
        many_shards.clusters,
        DATABASES,
        pools={"sharded": "bigint"},
        settings=f"mirror = {{ {options} }}",
    )
    node = many_shards.stack.add_node(config=text)
    yield node
    node.stop()
    many_shards.truncate("data", "note")


def told(node: Node) -> dict[str, Any]:
    (found,) = [pool["mirror"] for pool in status(node)["pools"] if pool["database"] == "sharded"]
    return dict(found)


def test_each_shard_is_mirrored_apart(many_shards: ShardedNode, mirror: Stack, node: Node) -> None:
    with connect(node, "sharded", prepare_threshold=2) as client:
        for number in range(ROUNDS):
            for key in KEYS:
                client.execute(f"insert into data (id, value) values ({key}, 'said {number}')".encode())
                client.execute("insert into data (id, value) values (%s, 'bound')", [key])
                with client.transaction():
                    client.execute("insert into data (id, value) values (%s, 'begun')", [key])
                    client.execute("insert into note (data_id, line) values (%s, %s)", [key, number])
                client.execute(f"set shard to {pg_bigint_hash(key, SHARDS)}".encode())
                client.execute(b"update data set value = 'changed ' || value where value like 'said%'")
                client.execute(b"reset pgcat.shard")
    eventually(lambda: told(node)["held_bytes"] == 0, "the mirror has all of it")
    found = told(node)
    assert (found["errors"], found["dropped"], found["failed"], found["left_out"]) == ({}, 0, 0, 0)
    rows = "select id, value from data union all select data_id, line::text from note order by 1, 2"
    for shard, database in enumerate(DATABASES):
        original = many_shards.ask(shard, rows)
        assert len(original) == 4 * ROUNDS
        assert mirror.primary.query(rows, "test", f"copy_of_{database}") == original
