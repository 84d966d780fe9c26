"""PgCat's own script, its commands one by one, and the loss of a shard, over four primaries with a replica each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import eventually, one, port
from tests.support.sharding import SHARDS, ShardedNode

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).with_name("routing.sql")
KEYS = range(1, 15)


@pytest.fixture
def emptied(shard_clusters: ShardedNode) -> ShardedNode:
    shard_clusters.truncate("data")
    return shard_clusters


def said_by_psql(shards: ShardedNode, script: Path) -> list[str]:
    """The lines it prints for a script; it must succeed without a word on standard error."""
    psql, node = shards.stack.client_program("psql"), shards.node
    if psql is None:
        pytest.skip("no psql on this machine")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [
            psql,
            "-X",
            "-At",
            "-h",
            node.host,
            "-p",
            str(node.port),
            "-U",
            "test",
            "-d",
            "sharded",
            "-f",
            script,
        ],
        env={**kept, "PGPASSWORD": node.passwords["test"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def expected_lines(found: list[str]) -> list[str]:
    """What the script makes psql print, with what each SELECT finds by its key."""
    role, key, reads = "SET SERVER ROLE", "SET SHARDING KEY", "SET PRIMARY READS"
    keyed = [line for row in found for line in (role, key, "INSERT 0 1", role, key, row)]
    return [*keyed, role, "1", role, "1", role, role, "1", reads, "1", reads, "1", reads, "1"]


def test_the_script_runs_unchanged(emptied: ShardedNode) -> None:
    assert said_by_psql(emptied, SCRIPT) == expected_lines([f"{key}|value_1" for key in KEYS])
    stored = [emptied.ask(shard, "select id from data order by id") for shard in range(SHARDS)]
    assert stored == [
        [(key,) for key in KEYS if pg_bigint_hash(key, SHARDS) == shard] for shard in range(SHARDS)
    ]


def test_its_reads_are_on_the_replicas(emptied: ShardedNode, tmp_path: Path) -> None:
    asking = tmp_path / "asking.sql"
    asking.write_text(
        SCRIPT.read_text().replace("SELECT * FROM data", "SELECT inet_server_port(), id FROM data")
    )
    replicas = [emptied.clusters[pg_bigint_hash(key, SHARDS)].replicas[0] for key in KEYS]
    found = [f"{replica.port}|{key}" for replica, key in zip(replicas, KEYS, strict=True)]
    assert said_by_psql(emptied, asking) == expected_lines(found)


@pytest.mark.parametrize("role", ["primary", "replica"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_session_says_shard_and_role(shard_clusters: ShardedNode, shard: int, role: str) -> None:
    cluster = shard_clusters.clusters[shard]
    server = cluster.primary if role == "primary" else cluster.replicas[0]
    with shard_clusters.connect() as client:
        client.execute(f"SET SHARD TO '{shard}'".encode())
        client.execute(f"SET SERVER ROLE TO '{role}'".encode())
        assert [port(client) for _ in range(3)] == [server.port] * 3
        assert (one(client, "SHOW SHARD"), one(client, "SHOW SERVER ROLE")) == (str(shard), role)


@pytest.mark.parametrize("values", [(), (1,)], ids=["simple", "extended"])
def test_nothing_runs_behind_a_begin_that_fails(shard_clusters: ShardedNode, values: tuple[int, ...]) -> None:
    """A standby can not begin this one, and then there is no transaction: what follows must not run without."""
    shard = pg_bigint_hash(1, SHARDS)
    replica, database = shard_clusters.clusters[shard].replicas[0], shard_clusters.databases[shard]
    count = b"select count(*) from pg_locks where locktype = 'advisory'"
    locking = b"select pg_advisory_lock(4711) from (select from data where id = %s) found"
    with shard_clusters.connect() as client, psycopg.connect(replica.dsn("test", database)) as own:
        client.execute(b"insert into data (id, value) values (1, 'here')")
        client.execute(b"SET SERVER ROLE TO 'replica'")
        client.execute(b"begin isolation level serializable")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="hot standby"):
            client.execute(locking if values else locking.replace(b"%s", b"1"), values or None)
        assert client.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        assert own.execute(count).fetchone() == (0,)
        client.execute(b"begin")
        client.execute(locking if values else locking.replace(b"%s", b"1"), values or None)
        assert own.execute(count).fetchone() == (1,)
        client.execute(b"rollback")


def test_a_shard_that_is_down_takes_none_with_it(emptied: ShardedNode) -> None:
    keys = [next(key for key in KEYS if pg_bigint_hash(key, SHARDS) == shard) for shard in range(SHARDS)]
    lost, (here, *_) = 2, keys
    insert, select = (
        b"insert into data (id, value) values (%s, %s)",
        b"select value from data where id = %s order by 1",
    )
    with emptied.connect() as client:
        for key in keys:
            client.execute(insert, [key, "first"])
        for server in emptied.clusters[lost].servers:
            server.kill()

        def is_told(statement: bytes, values: list[object]) -> bool:
            """Whether the client hears which shard is not there; its connection must stay."""
            with pytest.raises(psycopg.Error) as raised:
                client.execute(statement, values)
            assert not client.closed
            # What its links still carried has other codes: nobody knows what became of it.
            return raised.value.sqlstate == "57P03" and f"shard {lost}" in str(raised.value)

        for statement, values in ((select, [keys[lost]]), (insert, [keys[lost], "lost"])):
            eventually(lambda said=(statement, values): is_told(*said), "the client is told of the shard")
            for shard, key in enumerate(keys):
                if shard != lost:
                    assert client.execute(select, [key]).fetchone() == ("first",)
        client.execute(b"begin")
        assert is_told(select, [keys[lost]])
        client.execute(b"rollback")
        client.execute(insert, [here, "second"])
        assert client.execute(select, [here]).fetchall() == [("first",), ("second",)]

        for server in emptied.clusters[lost].servers:
            server.start()

        def is_back() -> bool:
            try:
                client.execute(insert, [keys[lost], "second"])
            except psycopg.Error:
                return False
            return True

        eventually(is_back, "the shard is back")
        assert client.execute(select, [keys[lost]]).fetchall()[:2] == [("first",), ("second",)]
    emptied.forget()
