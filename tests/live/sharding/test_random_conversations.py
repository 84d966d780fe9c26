"""Random conversations with a sharded pool and with plain PostgreSQL have the same answers and leave the same rows.

`PGCAT_SEED=… pytest --long -k for_long` begins with that seed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.support import talks
from tests.support.nodes import address
from tests.support.player import Address
from tests.support.sharding import DATABASES, SHARDS, ShardedNode
from tests.support.shards import add_partition
from tests.support.talkers import Stand, hold, shrunk

LONG_S = 110.0


@pytest.fixture(scope="module")
def stand(many_shards: ShardedNode) -> Iterator[Stand]:
    """Pools with few links beside a database of the same servers that has all partitions."""
    primary = many_shards.primary(0)
    primary.query("create database plain owner test")
    plain_address = Address(
        host=primary.host,
        port=primary.port,
        user="test",
        password=many_shards.stack.passwords["test"],
        database="plain",
    )
    plain = psycopg.connect(**plain_address.keywords(), autocommit=True)
    sides = [plain, *(psycopg.connect(primary.dsn("test", name), autocommit=True) for name in DATABASES)]
    for shard, side in enumerate(sides, -1):
        side.execute("set timezone = 'UTC'")
        side.execute(talks.TABLE)
        for one in range(SHARDS) if side is plain else [shard]:
            add_partition(side, "diary", one, SHARDS)

    replicas = [
        psycopg.connect(one.dsn("test", "plain"), autocommit=True) for one in many_shards.stack.replicas
    ]

    def running(is_ours: bool) -> bool:
        text = (
            "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            f" and query like '%pg_sleep({talks.SLEEP_S})%' and (datname = 'plain') <> {is_ours}"
        )
        return any(one.execute(text.encode()).fetchone() != (0,) for one in [plain, *replicas])

    def rows(is_ours: bool, condition: str) -> list[tuple[object, ...]]:
        asked = sides[1:] if is_ours else [plain]
        select = f"select id, value, moment::text from diary where {condition}"
        return sorted(row for side in asked for row in side.execute(select.encode()).fetchall())

    def clear(condition: str) -> None:
        for side in sides:
            side.execute(f"delete from diary where {condition}".encode())

    yield Stand(
        node=lambda pool: address(many_shards.node, pool),
        plain=plain_address,
        running=running,
        rows=rows,
        clear=clear,
    )
    for side in sides:
        side.execute("drop table diary")
    for connection in [*sides, *replicas]:
        connection.close()
    primary.query("drop database plain")


def check(seed: int, stand: Stand) -> None:
    talk = talks.make(seed)
    if found := hold(talk, stand):
        shorter = shrunk(talk, found.essence, stand)
        stand.clear(talk.condition)
        again = hold(shorter, stand)
        pytest.fail(
            f"{found}\n\n{talk.shown()}\n\nshorter: {again or 'did not happen again'}\n{shorter.shown()}",
            pytrace=False,
        )


def test_like_postgresql(stand: Stand) -> None:
    for seed in range(10):
        check(seed, stand)


@pytest.mark.live_long
@pytest.mark.timeout(900)
def test_like_postgresql_for_long(stand: Stand, record_property) -> None:
    first = seed = int(os.environ.get("PGCAT_SEED", random.randrange(1_000_000)))
    print(f"the first seed is {first}")
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        check(seed, stand)
        seed += 1
    for name, value in {"first seed": first, "conversations": seed - first, "messages": stand.said}.items():
        record_property(name, value)
    record_property("refused", stand.refused)
