"""Every sharding hash against the server's own: satisfies_hash_partition, for keys of each type at random."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.routing import functions

MODULI = (2, 3, 5, 12, 64, 1000)
EPOCH = datetime.datetime(2000, 1, 1)
EPOCH_UTC = EPOCH.replace(tzinfo=datetime.UTC)


def integer(bits: int) -> Callable[[random.Random], int]:
    """Keys of every magnitude, the bounds of the type among them."""
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1

    def make(chance: random.Random) -> int:
        if chance.random() < 0.01:
            return chance.choice((least, most, -1, 0, 1))
        return chance.randint(least, most) >> chance.randrange(bits)

    return make


# Without NUL, which no text holds, and the surrogates, which no UTF-8 holds.
ALPHABETS = ("abcXYZ 019-_", "".join(map(chr, range(1, 0x300))), "é€𝄞\U0010ffff\ue000 \x7f")


def text(chance: random.Random) -> str:
    return "".join(chance.choices(chance.choice(ALPHABETS), k=chance.randrange(chance.choice((2, 14, 60)))))


def moment(chance: random.Random) -> datetime.datetime:
    return EPOCH + datetime.timedelta(
        microseconds=chance.randint(-(10**15) * 63, 10**17 * 2) >> chance.randrange(60)
    )


def microseconds(key: datetime.datetime) -> int:
    return (key - (EPOCH if key.tzinfo is None else EPOCH_UTC)) // datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class KeyKind:
    type: str
    make: Callable[[random.Random], object]
    shard_of: Callable[..., int]


KINDS = [
    KeyKind("smallint", integer(16), functions.pg_bigint_hash),
    KeyKind("integer", integer(32), functions.pg_bigint_hash),
    KeyKind("bigint", integer(64), functions.pg_bigint_hash),
    KeyKind("text", text, functions.pg_text_hash),
    KeyKind("varchar", text, functions.pg_text_hash),
    KeyKind(
        "uuid",
        lambda chance: uuid.UUID(bytes=chance.randbytes(16)),
        lambda key, shards: functions.pg_uuid_hash(key.bytes, shards),
    ),
    KeyKind("timestamp", moment, lambda key, shards: functions.pg_timestamp_hash(microseconds(key), shards)),
    KeyKind(
        "timestamptz",
        lambda chance: moment(chance).replace(tzinfo=datetime.UTC),
        lambda key, shards: functions.pg_timestamp_hash(microseconds(key), shards),
    ),
]


@pytest.fixture(scope="module")
def connection(pg_stack: Stack) -> Iterator[psycopg.Connection]:
    # All in one transaction that is never committed.
    with psycopg.connect(pg_stack.primary.dsn("test", "test")) as connection:
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
        yield connection
        connection.rollback()


@pytest.mark.parametrize(
    ("count", "seed"),
    [(20_000, 1), pytest.param(1_000_000, 2, marks=pytest.mark.live_long)],
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
@pytest.mark.timeout(900)
def test_the_server_agrees(
    kind: KeyKind, count: int, seed: int, connection: psycopg.Connection, record_property
) -> None:
    chance = random.Random(seed)
    connection.execute("drop table if exists hashed")
    connection.execute(f"create temporary table hashed (key {kind.type}) partition by hash (key)")
    agreed = strayed = 0
    for done in range(0, count, 20_000):
        keys = [kind.make(chance) for _ in range(min(20_000, count - done))]
        moduli = [chance.choice(MODULI) for _ in keys]
        row = connection.execute(
            "select count(*) filter (where satisfies_hash_partition(t, modulus, shard, key)),"
            " count(*) filter (where satisfies_hash_partition(t, modulus, (shard + 1) %% modulus, key))"
            f" from unnest(%s::{kind.type}[], %s::int[], %s::int[]) as u(key, modulus, shard),"
            " (select 'hashed'::regclass) as c(t)",
            [keys, moduli, [kind.shard_of(*pair) for pair in zip(keys, moduli, strict=True)]],
        ).fetchone()
        assert row is not None
        agreed += row[0]
        strayed += row[1]
    record_property("keys", agreed)
    assert (agreed, strayed) == (count, 0)
