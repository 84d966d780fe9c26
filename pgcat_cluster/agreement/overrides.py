"""What operators said by hand, all of it that is in force, and what of it means nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from pgcat_cluster.agreement.documents import (
    OVERRIDES,
    ActivateOverride,
    PoolOverride,
    ServerOverride,
    Undecodable,
    decode_override,
)
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Row


class Doubt(Struct, frozen=True, order=True):
    """Why an override does nothing, or not what it says. It is kept all the same."""

    key: str
    message: str


class Overrides(Struct, frozen=True, kw_only=True):
    """`servers` is by cluster and server; `pools` and `paused_at` (the revision of the pause) by label."""

    servers: Mapping[tuple[str, str], ServerOverride] = {}
    pools: Mapping[str, PoolOverride] = {}
    paused_at: Mapping[str, int] = {}
    activate: ActivateOverride | None = None
    activate_at: int = 0
    is_frozen: bool = False
    doubts: tuple[Doubt, ...] = ()

    def of_cluster(self, cluster: str) -> dict[str, ServerOverride]:
        return {server: one for (its_cluster, server), one in self.servers.items() if its_cluster == cluster}

    def reconnected_since(self, before: Overrides) -> list[str]:
        """The pools whose links are to be replaced: their number grew."""
        return [
            pool
            for pool, one in self.pools.items()
            if (one.reconnect or 0) > ((was.reconnect or 0) if (was := before.pools.get(pool)) else 0)
        ]


def removes(override: ServerOverride | None) -> bool:
    """Whether an operator took the server out of use."""
    return override is not None and override.action != "pin"


def read(
    rows: Sequence[Row], keys: Keys, *, servers: Collection[tuple[str, ...]], pools: Collection[str]
) -> Overrides:
    """All rows below `override/`; `servers` and `pools` exist now. What does not may come: it is kept."""
    found_servers: dict[tuple[str, str], ServerOverride] = {}
    found_pools: dict[str, PoolOverride] = {}
    paused_at: dict[str, int] = {}
    activate, activate_at = None, 0
    doubts = []
    for row in rows:
        if row.key == keys.freeze:
            continue  # what counts is that it is there: its value can not say otherwise
        named = keys.named(row.key)
        if named is None or named.kind not in OVERRIDES:
            doubts.append(Doubt(row.key, "is no override"))
            continue
        try:
            override = decode_override(row.key, named.kind, row.value)
        except Undecodable as problem:
            doubts.append(Doubt(row.key, ": ".join(filter(None, (problem.path, problem.message)))))
            continue
        is_known = True
        match override:
            case ServerOverride():
                cluster, server = named.names
                found_servers[cluster, server] = override
                is_known = named.names in servers
            case PoolOverride():
                [pool] = named.names
                found_pools[pool] = override
                if override.action == "pause":
                    paused_at[pool] = row.mod_revision
                is_known = pool in pools
            case ActivateOverride():
                activate, activate_at = override, row.mod_revision
        if not is_known:
            doubts.append(Doubt(row.key, "names nothing that exists now"))
    return Overrides(
        servers=found_servers,
        pools=found_pools,
        paused_at=paused_at,
        activate=activate,
        activate_at=activate_at,
        is_frozen=any(row.key == keys.freeze for row in rows),
        doubts=tuple(doubts),
    )
