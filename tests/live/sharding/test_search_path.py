"""Tables of one name in two schemas, split by different keys: a bare name takes the rule of the one it means.

`north.letter` is split by `a`, `south.letter` by `b`, and each pair of keys is in both, on different shards. A server
has only its own partitions, so a statement on the wrong shard misses its row, or has its row refused.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.errors import FeatureNotSupported, InFailedSqlTransaction, UndefinedTable

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import connect
from tests.support.sharding import DATABASES, SHARDING, SHARDS, ShardedNode, config

Connection = psycopg.Connection[tuple[object, ...]]

KEYS = [
    (a, b) for a in range(12) for b in range(12) if pg_bigint_hash(a, SHARDS) != pg_bigint_hash(b, SHARDS)
]
RULES = SHARDING + 'tables."north.letter" = { key = "a" }\ntables."south.letter" = { key = "b" }\n'
READ = b"select body from letter where a = %s and b = %s"


@pytest.fixture(scope="module")
def letters(many_shards: ShardedNode) -> Iterator[ShardedNode]:
    """A node with rules for both tables; `data` stands for what no rule names with a schema."""
    for shard in range(SHARDS):
        for schema, key in (("north", "a"), ("south", "b")):
            rows = ", ".join(
                f"({a}, {b}, '{schema}')"
                for a, b in KEYS
                if pg_bigint_hash(a if key == "a" else b, SHARDS) == shard
            )
            many_shards.ask(
                shard,
                f"""create schema {schema} authorization test;
                create table {schema}.letter (a bigint, b bigint, body text) partition by hash ({key});
                create table {schema}.letter_here partition of {schema}.letter
                    for values with (modulus {SHARDS}, remainder {shard});
                grant all on all tables in schema {schema} to test;
                insert into {schema}.letter values {rows}""",
            )
    document = config(many_shards.clusters, DATABASES, pools={"letters": "bigint"}, sharding=RULES)
    node = many_shards.stack.add_node(config=document)
    yield ShardedNode(many_shards.stack, node, many_shards.clusters, DATABASES)
    node.stop()
    for shard in range(SHARDS):
        many_shards.ask(shard, "drop schema north, south cascade")


def read(client: Connection, key: tuple[int, int], *, prepare: bool = False) -> object:
    """Whose letter a bare name finds; that it finds none means that it was looked for on the wrong shard."""
    rows = client.execute(READ, key, prepare=prepare).fetchall()
    assert len(rows) == 1
    return rows[0][0]


@pytest.mark.parametrize("prepare", [False, True])
def test_each_way_to_set_it(letters: ShardedNode, prepare: bool) -> None:
    with letters.connect("letters") as client:
        for key in KEYS[:10]:
            # By default there is none in public, as a server says where it only prepares.
            with pytest.raises((UndefinedTable, FeatureNotSupported), match="letter"):
                read(client, key, prepare=prepare)
            client.execute("set search_path = south, public")
            assert read(client, key, prepare=prepare) == "south"
            client.execute("select set_config('search_path', 'north', false)")
            assert read(client, key, prepare=prepare) == "north"
            with client.transaction():
                client.execute("set local search_path to south")
                assert read(client, key, prepare=prepare) == "south"
                with client.transaction():
                    assert read(client, key, prepare=prepare) == "south"
            assert read(client, key, prepare=prepare) == "north"
            client.execute("reset search_path" if key[0] % 2 else "reset all")


def test_how_a_session_begins(letters: ShardedNode) -> None:
    for keywords, found in (
        ({"options": "-c search_path=north"}, "north"),
        ({"options": "--search-path=pg_catalog,south"}, "south"),
    ):
        with connect(letters.node, "letters", **keywords) as client:
            for key in KEYS[:8]:
                assert read(client, key) == found
                client.execute("set search_path = public")
                with pytest.raises(FeatureNotSupported, match="the key of letter, id, is not bound"):
                    read(client, key)
                client.execute("reset search_path")


def test_rows_are_stored_where_they_belong(letters: ShardedNode) -> None:
    with letters.connect("letters") as client:
        for number, (a, b) in enumerate(KEYS[:10]):
            schema = ("north", "south")[number % 2]
            client.execute(f"set search_path = {schema}".encode())
            # A server refuses what is not its own.
            client.execute("insert into letter (a, b, body) values (%s, %s, 'new')", [a, b])
            deleted = client.execute("delete from letter where a = %s and b = %s and body = 'new'", [a, b])
            assert deleted.rowcount == 1


def test_it_is_explained(letters: ShardedNode) -> None:
    a, b = KEYS[0]
    text = f"select from letter where a = {a} and b = {b}"
    with letters.connect("letters") as client:
        for schema, key in (("north", a), ("south", b)):
            client.execute(f"set search_path = {schema}".encode())
            for _ in range(3):
                lines = [str(line) for (line,) in client.execute(f"explain route {text}".encode())]
                assert lines[0] == f"Route: shard {pg_bigint_hash(key, SHARDS)}, replica"
                client.execute(text.encode())
                shown = client.execute("show pgcat.route").fetchone()
                assert shown is not None
                assert shown[0] == str(pg_bigint_hash(key, SHARDS))
        client.execute("set search_path = public, south")
        lines = [str(line) for (line,) in client.execute(f"explain route {text}".encode())]
        with pytest.raises(FeatureNotSupported) as refused:
            client.execute(text.encode())
        assert str(refused.value.diag.message_primary) in lines[0]
        assert "public.letter or south.letter by the session's search_path: write its schema" in lines[0]


STEPS = [
    *("set search_path = north", "set search_path = south", "set search_path = public, north"),
    *("set local search_path = north", "set local search_path = 'south'", "reset search_path", "reset all"),
    *("select set_config('search_path', 'south', true)", "select set_config('search_path', 'north', false)"),
    "select set_config('search_path', n.nspname, false) from pg_namespace n where n.nspname = 'south'",
    "do $$ begin set search_path = north; end $$",
    *(
        "begin",
        "begin",
        "savepoint s",
        "rollback to s",
        "release s",
        "commit",
        "rollback",
        "commit and chain",
    ),
    *("begin; set local search_path = north", "rollback; set search_path = south", "nonsense"),
]


@pytest.mark.parametrize("seeds", [1, pytest.param(100, marks=pytest.mark.live_long)])
def test_whatever_sessions_do(letters: ShardedNode, seeds: int) -> None:
    """Sessions with the same statements set, save and restore paths at random: who is answered has its row."""
    outcomes: Counter[object] = Counter()
    for seed in range(seeds):
        outcomes += _outcomes(letters, random.Random(seed))
    assert outcomes["north"] > 20 * seeds
    assert outcomes["south"] > 20 * seeds


def _outcomes(letters: ShardedNode, chance: random.Random) -> Counter[object]:
    outcomes: Counter[object] = Counter()
    clients = [letters.connect("letters") for _ in range(3)]
    try:
        for _ in range(250):
            client = chance.choice(clients)
            try:
                client.execute(chance.choice(STEPS).encode(), prepare=chance.random() < 0.3)
            except psycopg.Error as error:
                outcomes[error.sqlstate] += 1
            for _ in range(2):
                try:
                    key = chance.choice(KEYS[:6])
                    outcomes[read(client, key, prepare=chance.random() < 0.7)] += 1
                except (FeatureNotSupported, InFailedSqlTransaction, UndefinedTable) as refused:
                    # The last one is of a path without either schema.
                    outcomes[refused.sqlstate] += 1
    finally:
        for client in clients:
            client.close()
    return outcomes
