"""What an edit may not do yet: lead keys of a pool in force to another shard, or a shard to another place.

Nodes take up an edit one after the other. Until all of them can do so at one moment, two of them would send the same
key to two places meanwhile. A map that no pool goes by, and a new pool with a new map, are free; so is how the shard
of a statement is told.
"""

from collections.abc import Iterator

from pgcat_cluster.topology.model import ShardMap, Topology, map_of, shard_maps, shards_of
from pgcat_cluster.topology.reading import InvalidSettings, Path, Problem, dotted
from pgcat_cluster.topology.settings import Pool, Settings

_NOT_YET = "can be changed when fleet-wide cut-over exists; make a new"
# The parts of a map that say where keys lie, each with its path in the document.
_PARTS = {
    "kind": ("kind",),
    "key_type": ("key", "type"),
    "shards": ("shards",),
    "values": ("values",),
    "bounds": ("ranges",),
}


def cutovers(before: Settings, after: Settings) -> tuple[Problem, ...]:
    """All for which a cut-over is needed from what is in force to what is wanted, at its path in the latter."""
    if not any(pool.shards for documents in (before, after) for pool in documents.pools.values()):
        return ()
    return tuple(_Comparison(before, after).problems())


def refuse_cutovers(before: Topology, after: Topology, source: str) -> None:
    """Raises InvalidSettings, naming `source`, if a node that goes by the one needs a cut-over to the other."""
    if problems := cutovers(before.documents, after.documents):
        raise InvalidSettings(source, problems)


class _Comparison:
    """Pools in force beside the pools that are wanted in their place."""

    def __init__(self, before: Settings, after: Settings) -> None:
        self._before, self._after = before, after
        self._maps, self._wanted_maps = shard_maps(before), shard_maps(after)
        self._other_parts: dict[tuple[str, str], list[Path]] = {}
        self._owners = {key: label for label in before.pools for key in _keys(before, label)}

    def problems(self) -> Iterator[Problem]:
        seen: set[str] = set()
        for label, new in self._after.pools.items():
            # Of its label, or for a user of its in the same database.
            olds = {self._owners[key] for key in _keys(self._after, label) if key in self._owners}
            for old in sorted(olds | ({label} & self._before.pools.keys())):
                for path, message in self._moved(old, label, self._before.pools[old], new):
                    if (place := dotted(path)) not in seen:
                        seen.add(place)
                        yield Problem(place, message)

    def _moved(self, old_label: str, label: str, old: Pool, new: Pool) -> Iterator[tuple[Path, str]]:
        if old.shards is None and new.shards is None:
            return
        places, wanted = shards_of(old, old_label), shards_of(new, label)
        if len(places) != len(wanted):
            said = f"{len(wanted)} shards, but this pool has {len(places)}: their number {_NOT_YET} pool"
            yield ("pools", label, "shards" if new.shards else "cluster"), said
            return
        for place, other in zip(places, wanted, strict=True):
            if place != other:
                part = "clusters" if place.cluster != other.cluster else "databases"
                path = ("shards", part, str(place.number)) if new.shards else ("cluster",)
                lies = f'shard {place.number} lies in database "{place.database}" of cluster {place.cluster}'
                yield ("pools", label, *path), f"{lies}: its place {_NOT_YET} pool"
        was, now = map_of(old, self._maps), map_of(new, self._wanted_maps)
        if was is not None and now is not None:
            yield from self._mapped_otherwise(label, was, now)

    def _mapped_otherwise(self, label: str, was: ShardMap, now: ShardMap) -> Iterator[tuple[Path, str]]:
        # Many pools may go by a large map.
        names = was.name, now.name
        if "" in names or (other := self._other_parts.get(names)) is None:
            other = [path for field, path in _PARTS.items() if getattr(was, field) != getattr(now, field)]
            self._other_parts[names] = other
        if other and (was.name != now.name or not now.name):
            goes_by = f'shard map "{was.name}"' if was.name else "a hash over bigint"
            yield ("pools", label, "shards", "map"), f"this pool goes by {goes_by}: its map {_NOT_YET} pool"
            return
        for path in other:
            said = f'shard map "{now.name}" is used by pool "{label}": it {_NOT_YET} map for a new pool'
            yield ("shardmaps", now.name, *path), said


def _keys(documents: Settings, label: str) -> set[tuple[str, str]]:
    pool = documents.pools[label]
    return {(pool.database or label, documents.users[user].user or user) for user in pool.users}
