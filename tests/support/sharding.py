"""Pools with four shards of real servers, each of which has its own part of every hash-partitioned table alone.

A statement on the wrong shard shows: a server without the partition of a row refuses the row, and does not have
it to be read. In `many_shards` the shards are databases of one primary and its replicas; in `shard_clusters` each
is a primary and a replica of its own. What `test` has committed is on the replicas when the client hears of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
import pytest

from pgcat_cluster.demo.cluster import Cluster
from pgcat_cluster.demo.documents import cluster_document
from pgcat_cluster.demo.node import CONFIG, Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, connect
from tests.support.shards import add_partition

SHARDS = 4
DATABASES = [f"shard{number}" for number in range(SHARDS)]

SCHEMA = """
    create table data (id bigint, value varchar) partition by hash (id);
    create table texts (id text, value varchar) partition by hash (id);
    create table uuids (id uuid, value varchar) partition by hash (id);
    create table note (data_id bigint, line int, body text) partition by hash (data_id);
    create table country (code text primary key, title text);
"""
# Pools by the type of their key; the tables of each are named by its document.
KEY_TYPES = {"sharded": "bigint", "by-text": "text", "by-uuid": "uuid"}
# Pools whose clients have to share links; what serves their reads.
FEW_LINKS = {"few": "primary", "few-replicas": "replicas"}
SHARDING = """
key = "id"
tables.note = { key = "data_id" }
reference = ["country"]
"""


@dataclass(frozen=True)
class ShardedNode:
    """A node with sharded pools, and what it stands in front of: per shard its servers and its database."""

    stack: Stack
    node: Node
    clusters: Sequence[Cluster]
    databases: Sequence[str]
    own: dict[int, psycopg.Connection[tuple[object, ...]]] = field(default_factory=dict)

    def connect(self, pool: str = "sharded", **keywords: object) -> psycopg.Connection:
        return connect(self.node, pool, **keywords)

    def primary(self, shard: int) -> Postgres:
        return self.clusters[shard].primary

    def ask(self, shard: int, sql: str) -> list[tuple[object, ...]]:
        """What the primary of a shard itself says, over a connection that is kept."""
        if shard not in self.own:
            dsn = self.primary(shard).dsn("test", self.databases[shard])
            self.own[shard] = psycopg.connect(dsn, autocommit=True)
        cursor = self.own[shard].execute(sql.encode())
        return cursor.fetchall() if cursor.description else []

    def forget(self) -> None:
        """Drop the connections of our own, which servers that went have closed."""
        for connection in self.own.values():
            connection.close()
        self.own.clear()

    def close(self) -> None:
        self.forget()
        self.node.stop()

    def counts(self, table: str) -> list[int]:
        """The rows of a table on each shard."""
        return [int(str(self.ask(shard, f"select count(*) from {table}")[0][0])) for shard in range(SHARDS)]

    def truncate(self, *tables: str) -> None:
        for shard in range(SHARDS):
            self.ask(shard, f"truncate {', '.join(tables)}")


@pytest.fixture(scope="session")
def many_shards(wire_stack: Stack) -> Iterator[ShardedNode]:
    """Four databases of one primary and two replicas; pools of KEY_TYPES and FEW_LINKS."""
    for shard, database in enumerate(DATABASES):
        wire_stack.primary.query(f"create database {database} owner test")
        fill(wire_stack.primary, shard, database)
    clusters = wire_stack.clusters * SHARDS
    document = config(clusters, DATABASES)
    for pool, reads in FEW_LINKS.items():
        settings = f'reads = "{reads}"\nsize = 2'
        document += pool_documents(clusters, DATABASES, {pool: "bigint"}, settings=settings)
    node = wire_stack.add_node(config=document)
    shards = ShardedNode(wire_stack, node, clusters, DATABASES)
    yield shards
    shards.close()


@pytest.fixture(scope="session")
def shard_clusters() -> Iterator[ShardedNode]:
    """Four primaries with a replica each, and the same pools: eight servers, so few tests take it."""
    # The name of every replica, as it calls itself: a commit waits for the one that its primary has.
    with Stack(shards=SHARDS, replicas=1, settings={"synchronous_standby_names": "'*'"}) as stack:
        for shard, cluster in enumerate(stack.clusters):
            cluster.primary.query("alter role test set synchronous_commit = 'remote_apply'")
            cluster.primary.query("drop table data", database="test")
            fill(cluster.primary, shard, "test")
        databases = ["test"] * SHARDS
        node = stack.add_node(config=config(stack.clusters, databases))
        shards = ShardedNode(stack, node, stack.clusters, databases)
        yield shards
        shards.close()


def config(
    clusters: Sequence[Cluster],
    databases: Sequence[str],
    *,
    pools: Mapping[str, str] | None = None,
    sharding: str = SHARDING,
    settings: str = 'reads = "replicas"',
) -> str:
    """A template for a node with one pool for each type of key; `pools` are names with the type."""
    parts = [CONFIG.partition("[clusters.")[0], PATIENT_HEALTH]
    parts += {cluster.name: cluster_document(cluster, finds_primary=True) for cluster in clusters}.values()
    parts.append(pool_documents(clusters, databases, pools or KEY_TYPES, sharding, settings))
    return "\n".join(parts)


def pool_documents(
    clusters: Sequence[Cluster],
    databases: Sequence[str],
    pools: Mapping[str, str],
    sharding: str = SHARDING,
    settings: str = "",
) -> str:
    """A map and a pool for each of `pools`, which are names with the type of their key."""
    parts = []
    places = ", ".join(f'{number} = "{cluster.name}"' for number, cluster in enumerate(clusters))
    named = ", ".join(f'{number} = "{database}"' for number, database in enumerate(databases))
    for pool, key_type in pools.items():
        parts.append(
            f"""
[shardmaps.{pool}]
kind = "hash"
key = {{ type = "{key_type}" }}
shards = {len(clusters)}

[pools.{pool}]
shards = {{ map = "{pool}", clusters = {{ {places} }}, databases = {{ {named} }} }}
users = {{ test = {{}} }}
{settings}

[pools.{pool}.sharding]
{sharding}
"""
        )
    return "\n".join(parts)


def fill(primary: Postgres, shard: int, database: str) -> None:
    """Give a database the tables, and of the partitioned ones the part of one shard."""
    with psycopg.connect(primary.dsn("test", database), autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
        for table in ("data", "texts", "uuids", "note"):
            add_partition(connection, table, shard, SHARDS)
        connection.execute("insert into country values ('de', 'Deutschland'), ('fr', 'France')")
