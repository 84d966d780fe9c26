"""PgCat's names for one server's part of one pool, as its consoles and dashboards know them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pgcat_cluster.telemetry.snapshot import (
    BackendSnapshot,
    NodeSnapshot,
    PoolServerSnapshot,
    PoolSnapshot,
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One server's part of one pool: `<pool>_shard_<n>_primary`, or `…_replica_<k>` counted within its shard.

    `index` counts the shard's servers of every role.
    """

    name: str
    index: int
    server_database: str
    pool: PoolSnapshot
    part: PoolServerSnapshot
    backend: BackendSnapshot


def places(snapshot: NodeSnapshot) -> Iterator[Place]:
    backends = {backend.name: backend for backend in snapshot.backends}
    for pool in snapshot.pools:
        seen: list[tuple[int, str]] = []
        for part in pool.servers:
            backend = backends[part.server]
            suffix = "" if backend.role == "primary" else f"_{seen.count((part.shard, backend.role))}"
            yield Place(
                name=f"{pool.database}_shard_{part.shard}_{backend.role}{suffix}",
                index=sum(shard == part.shard for shard, _ in seen),
                server_database=part.server_database or pool.database,
                pool=pool,
                part=part,
                backend=backend,
            )
            seen.append((part.shard, backend.role))
