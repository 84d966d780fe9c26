"""Read your writes over shards that have logs of their own, where the replica of one of them replays late."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import Connection, connect, one, status
from tests.support.sharding import config

pytestmark = pytest.mark.once

DELAY_MS = 200
SHARDS = 2
# Shard 1 is the one whose replica is late.
PROMPT, LATE = (next(key for key in range(1, 100) if pg_bigint_hash(key, SHARDS) == n) for n in range(SHARDS))
# How many writes on each shard are read back.
ROUNDS = [6, pytest.param(200, marks=pytest.mark.live_long)]

# `replicas` never reads a primary, so what it sees a replica has replayed; it waits as long as that takes.
_POOLS = {
    "replicas": 'consistency = "session"\nconsistency_wait = "60s"\nreads_on_primary = "never"',
    "hasty": 'consistency = "session"\nconsistency_wait = "20ms"',
    "loose": "",
}
_SWAPPED = """
[pools.swapped]
shards = {{ clusters = {{ 0 = "{1}", 1 = "{0}" }}, databases = {{ 0 = "test", 1 = "test" }} }}
sharding = {{ key = "id" }}
consistency = "session"
users = {{ test = {{}} }}
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(shards=SHARDS, replicas=1) as stack:
        for cluster in stack.clusters:
            cluster.primary.query("create table counters (id bigint primary key, n int)", "test", "test")
        (late,) = stack.clusters[1].replicas
        late.configure({"recovery_min_apply_delay": f"'{DELAY_MS}ms'"})
        late.reload()
        yield stack


@pytest.fixture(scope="module")
def nodes(stack: Stack) -> list[Node]:
    parts = [
        config(
            stack.clusters,
            ["test"] * SHARDS,
            pools={name: "bigint"},
            sharding='key = "id"',
            settings=settings,
        )
        for name, settings in _POOLS.items()
    ]
    first, *others = parts
    # The same servers stand before the pools of each.
    text = first + "".join(other[other.index("[shardmaps.") :] for other in others)
    text += _SWAPPED.format(*(cluster.name for cluster in stack.clusters))
    return [stack.add_node(config=text) for _ in range(2)]


@pytest.fixture
def ports(stack: Stack) -> dict[int, int]:
    """By keys, the port of the replica that has them."""
    return {
        key: cluster.replicas[0].port for key, cluster in zip((PROMPT, LATE), stack.clusters, strict=True)
    }


def begin(connection: Connection) -> None:
    for key in (PROMPT, LATE):
        connection.execute(
            "insert into counters (id, n) values (%s, 0) on conflict (id) do update set n = 0", (key,)
        )


def write(connection: Connection, key: int, n: int) -> None:
    connection.execute("update counters set n = %s where id = %s", (n, key))


def read(connection: Connection, key: int) -> tuple[int, int]:
    """What is read, -1 if it is not there yet, and the port of the server that said it."""
    row = connection.execute(
        "select coalesce(max(n), -1), inet_server_port() from counters where id = %s", (key,)
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def behind(node: Node, pool: str) -> dict[str, int]:
    (found,) = [one["behind"] for one in status(node)["pools"] if one["database"] == pool]
    return dict(found)


def test_without_consistency_reads_of_the_late_shard_are_stale(nodes: list[Node]) -> None:
    """Else nothing below would prove anything."""
    with connect(nodes[0], "loose") as connection:
        begin(connection)
        stale = 0
        for n in range(1, 31):
            write(connection, LATE, n)
            stale += read(connection, LATE)[0] < n
    assert stale


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_session_reads_what_it_wrote_on_each_shard(
    nodes: list[Node], ports: dict[int, int], rounds: int
) -> None:
    with connect(nodes[0], "replicas") as connection:
        begin(connection)
        for n in range(1, rounds + 1):
            for key in (PROMPT, LATE):
                write(connection, key, n)
            assert {key: read(connection, key) for key in ports} == {key: (n, ports[key]) for key in ports}
    assert behind(nodes[0], "replicas")["current"] >= rounds


@pytest.mark.parametrize("rounds", ROUNDS)
def test_one_token_tells_of_all_shards(nodes: list[Node], ports: dict[int, int], rounds: int) -> None:
    with (
        connect(nodes[0], "replicas") as writer,
        connect(nodes[1], "replicas") as holder,
        connect(nodes[1], "loose") as other,
    ):
        begin(writer)
        stale = 0
        for n in range(1, rounds + 1):
            for key in (PROMPT, LATE):
                write(writer, key, n)
            token = one(writer, "show pgcat.consistency_token")
            stale += read(other, LATE)[0] < n
            holder.execute(f"set pgcat.wait_for = '{token}'".encode(), prepare=False)
            assert {key: read(holder, key) for key in ports} == {key: (n, ports[key]) for key in ports}
        assert stale


def test_a_late_shard_delays_no_read_of_another(
    stack: Stack, nodes: list[Node], ports: dict[int, int]
) -> None:
    (late,) = stack.clusters[1].replicas
    with connect(nodes[0], "hasty") as connection:
        begin(connection)
        late.query("select pg_wal_replay_pause()")
        try:
            write(connection, LATE, 1)
            before = behind(nodes[0], "hasty").get("primary", 0)
            assert read(connection, LATE) == (1, stack.clusters[1].primary.port)
            assert behind(nodes[0], "hasty")["primary"] == before + 1
            # Where it wrote nothing of late, nothing has to come.
            with connect(nodes[0], "replicas") as other:
                write(other, LATE, 2)
                assert read(other, PROMPT)[1] == ports[PROMPT]
        finally:
            late.query("select pg_wal_replay_resume()")


def test_a_token_of_other_shards_is_refused(nodes: list[Node]) -> None:
    """The number of a shard says nothing in a pool whose shards lie elsewhere."""
    with connect(nodes[0], "replicas") as writer, connect(nodes[1], "swapped") as reader:
        begin(writer)
        token = one(writer, "show pgcat.consistency_token")
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="of another pool"):
            reader.execute(f"set pgcat.wait_for = '{token}'".encode(), prepare=False)
        assert one(reader, "select 1") == 1
