"""What a node counts of statements that lead to no shard, and of commands it answers itself."""

from __future__ import annotations

import re

import psycopg
import pytest

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import get
from tests.support.sharding import SHARDS, ShardedNode

HERE, THERE = (next(key for key in range(1, 100) if pg_bigint_hash(key, SHARDS) == n) for n in (0, 1))
REFUSED = {
    "select * from data": "no_key",
    "selct * from data": "no_key",
    f"select * from data where id in ({HERE}, {THERE})": "several_shards",
    f"select * from data where id = {HERE}.0": "doubtful_key",
    "select * from data where id = 'x'": "wrong_key",
    "select * from data where id = 9223372036854775808": "key_out_of_range",
    f"begin; select * from data where id = {HERE}; select * from data where id = {THERE}": "several_shards",
}


def counted(shards: ShardedNode, name: str, label: str) -> dict[str, float]:
    """A metric of the sharded pool, by its one label of interest."""
    found = re.findall(
        rf'^pgcat_cluster_{name}_total{{(?=.*database="sharded").*{label}="(\w+)".*}} (\S+)$',
        get(shards.node, "/metrics")[1],
        re.MULTILINE,
    )
    return {value: float(count) for value, count in found}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {value: more for value, count in after.items() if (more := count - before.get(value, 0))}


def test_statements_without_a_shard_by_reason(many_shards: ShardedNode) -> None:
    before = counted(many_shards, "unplaced_statements", "reason")
    expected: dict[str, float] = {}
    with many_shards.connect() as client:
        for statement, reason in REFUSED.items():
            with pytest.raises(psycopg.Error):
                client.execute(statement.encode())
            expected[reason] = expected.get(reason, 0) + 1
        client.execute(b"begin")
        client.execute(f"select * from data where id = {HERE}".encode())
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute(f"select * from data where id = {THERE}".encode())
        expected["bound_elsewhere"] = 1
        client.execute(b"rollback")
    assert grown(before, counted(many_shards, "unplaced_statements", "reason")) == expected


def test_commands_by_what_they_do(many_shards: ShardedNode) -> None:
    before = counted(many_shards, "commands", "command")
    with many_shards.connect() as client:
        for prepare in (False, True):
            client.execute(b"set shard to 1", prepare=prepare)
            client.execute(b"show pgcat.route", prepare=prepare)
            client.execute(b"explain route select 1", prepare=prepare)
            client.execute(b"reset pgcat.shard", prepare=prepare)
        client.execute(b"set work_mem = '1MB'")
    expected = {"set": 2, "show": 2, "explain": 2, "reset": 2}
    assert grown(before, counted(many_shards, "commands", "command")) == expected
