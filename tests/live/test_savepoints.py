"""Wishes and savepoints: they follow them as a parameter does that PostgreSQL keeps itself, beside them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import psycopg
import pytest

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.fronts import Front
from tests.support.sharding import SHARDS, ShardedNode

Connection = psycopg.Connection[tuple[object, ...]]
FAILED = psycopg.pq.TransactionStatus.INERROR
# Of one shard, where there are several: a transaction does not change it.
KEYS = [key for key in range(1, 200) if pg_bigint_hash(key, SHARDS) == 1]
EXPECTED = (
    psycopg.errors.DivisionByZero,
    psycopg.errors.InFailedSqlTransaction,
    psycopg.errors.InvalidSavepointSpecification,
)
NAMES = ["a", "b", '"B b"', "work"]


@pytest.fixture(params=["one shard", "several"])
def client(request: pytest.FixtureRequest) -> Iterator[Connection]:
    if request.param == "several":
        shards: ShardedNode = request.getfixturevalue("many_shards")
        connection = shards.connect()
    else:
        front: Front = request.getfixturevalue("wire_front")
        connection = psycopg.connect(front.database("split").url())
        connection.autocommit = True
    with connection:
        yield connection


def step(draw: random.Random) -> str:
    name = draw.choice(NAMES)
    return draw.choice(
        [
            f"savepoint {name}",
            f"savepoint {name}",
            f"release {name}",
            f"rollback to {name}",
            f"rollback work to savepoint {name}",
            "select 1",
            "select 1 / 0",
        ]
    )


def run(client: Connection, draw: random.Random, said: str) -> None:
    with contextlib.suppress(*EXPECTED):
        if ";" in said or draw.random() < 0.5:
            client.execute(said.encode())
        else:
            client.execute(said.encode(), [], prepare=draw.random() < 0.3)


def wish(client: Connection, scope: str, key: int) -> None:
    for name in ("pgcat.sharding_key", "beside.key"):
        client.execute(f"set {scope}{name} = '{key}'".encode())


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.live_long) for seed in range(3, 100))]
)
def test_wishes_follow_savepoints_as_parameters_do(client: Connection, seed: int) -> None:
    draw = random.Random(seed)
    # A BEGIN that names its shard goes there; one that does not is held back, with what follows it until a key is said.
    log = [draw.choice(["/* shard_id: 1 */ begin", "begin"])]
    log += draw.choices(["savepoint a", "savepoint b"], k=draw.randrange(4))
    for said in log:
        client.execute(said.encode())
    wish(client, "local ", KEYS[0])
    client.execute(b"savepoint c")
    wish(client, "local ", KEYS[1])
    client.execute(draw.choice([b"rollback to c", b"release c"]))
    log.append("set local; savepoint c; set local; perhaps rollback to c")
    client.execute(b"select 1")
    for _ in range(40):
        if client.info.transaction_status != FAILED and draw.random() < 0.3:
            scope, key = draw.choice(["", "local "]), draw.choice(KEYS)
            log.append(f"set {scope}key {key}")
            wish(client, scope, key)
        else:
            log.append("; ".join(step(draw) for _ in range(draw.choice([1, 1, 1, 2, 3]))))
            run(client, draw, log[-1])
        if client.info.transaction_status == FAILED:
            continue
        theirs = client.execute(b"select current_setting('beside.key', true)").fetchone()
        ours = client.execute(b"show pgcat.sharding_key").fetchone()
        assert ours is not None
        assert theirs is not None
        assert ours[0] == (theirs[0] or "unset"), "\n".join(log)
    client.execute(b"rollback")
