"""What is different between two topologies, as typed changes in the order in which a node applies them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, TypeVar

from msgspec import Struct

from pgcat_cluster.topology.model import (
    Cluster,
    PoolKey,
    PoolSettings,
    Server,
    ServerKey,
    Sharding,
    ShardMap,
    Topology,
    User,
    Value,
)
from pgcat_cluster.topology.settings import Document

# Fields of [node] that are bound once, at start: its name and its listening sockets.
BOUND_AT_START = ("name", "listen", "http", "reuse_port")


class Change(Struct, frozen=True, kw_only=True):
    """One difference; as text it is the line that a log or RELOAD shows."""


class ClusterAdded(Change, frozen=True, kw_only=True):
    name: str

    def __str__(self) -> str:
        return f"cluster {self.name} added"


class ClusterRemoved(Change, frozen=True, kw_only=True):
    name: str

    def __str__(self) -> str:
        return f"cluster {self.name} removed"


class ClusterChanged(Change, frozen=True, kw_only=True):
    """Settings of a cluster, not its servers. Links opened under another `tls` must be retired."""

    name: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"cluster {self.name} changed: {', '.join(self.fields)}"


class ServerAdded(Change, frozen=True, kw_only=True):
    server: ServerKey

    def __str__(self) -> str:
        return f"server {self.server} added at {self.server.address}"


class ServerRemoved(Change, frozen=True, kw_only=True):
    """Gone, or moved: then the same name is added at its new address."""

    server: ServerKey

    def __str__(self) -> str:
        return f"server {self.server} removed at {self.server.address}"


class ServerChanged(Change, frozen=True, kw_only=True):
    server: ServerKey
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"server {self.server} changed: {', '.join(self.fields)}"


class UserAdded(Change, frozen=True, kw_only=True):
    user: str

    def __str__(self) -> str:
        return f"user {self.user} added"


class UserRemoved(Change, frozen=True, kw_only=True):
    user: str

    def __str__(self) -> str:
        return f"user {self.user} removed"


class CredentialsChanged(Change, frozen=True, kw_only=True):
    """How clients log in, or how we log in to servers for them: then links of their pools are retired."""

    user: str
    sides: tuple[Literal["clients", "servers"], ...]

    def __str__(self) -> str:
        return f"user {self.user} has other credentials towards {' and '.join(self.sides)}"


class ShardMapAdded(Change, frozen=True, kw_only=True):
    name: str

    def __str__(self) -> str:
        return f"shard map {self.name} added"


class ShardMapRemoved(Change, frozen=True, kw_only=True):
    name: str

    def __str__(self) -> str:
        return f"shard map {self.name} removed"


class ShardMapChanged(Change, frozen=True, kw_only=True):
    """What it means for a pool that goes by it is told as a change of the pool."""

    name: str

    def __str__(self) -> str:
        return f"shard map {self.name} changed"


class PoolAdded(Change, frozen=True, kw_only=True):
    pool: PoolKey

    def __str__(self) -> str:
        return f"pool {self.pool} added"


class PoolRemoved(Change, frozen=True, kw_only=True):
    pool: PoolKey

    def __str__(self) -> str:
        return f"pool {self.pool} removed"


class PoolResized(Change, frozen=True, kw_only=True):
    pool: PoolKey
    size: tuple[int, int]
    min_size: tuple[int, int]

    def __str__(self) -> str:
        parts = (
            f"{name} {before} to {after}"
            for name, (before, after) in (("size", self.size), ("min_size", self.min_size))
            if before != after
        )
        return f"pool {self.pool} resized: {', '.join(parts)}"


class PoolChanged(Change, frozen=True, kw_only=True):
    """Anything but its size. `shards.map`: keys lie elsewhere; `sharding`: a statement's shard is told otherwise."""

    pool: PoolKey
    fields: tuple[str, ...]

    def needs_new_links(self) -> bool:
        """Whether server links made before the change may not be used after it."""
        return bool({"cluster", "server_database", "shards", "parameters"} & set(self.fields))

    def __str__(self) -> str:
        return f"pool {self.pool} changed: {', '.join(self.fields)}"


class FleetChanged(Change, frozen=True, kw_only=True):
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"fleet changed: {', '.join(self.fields)}"


class NodeChanged(Change, frozen=True, kw_only=True):
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"node changed: {', '.join(self.fields)}"


class RestartNeeded(Change, frozen=True, kw_only=True):
    """Settings that a running node can not change: the old ones stay in force."""

    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"restart needed for: {', '.join(self.fields)}"


def diff(old: Topology, new: Topology) -> list[Change]:
    """The changes from `old` to `new`: first what is added, then what is different, last what is removed."""
    return [*_added(old, new), *_changed(old, new), *_removed(old, new)]


class Reach(Struct, frozen=True, kw_only=True):
    """What changes reach: clusters by name, pools, those of them that need new server links, and [node] itself."""

    clusters: frozenset[str]
    pools: frozenset[PoolKey]
    renewed: frozenset[PoolKey]
    node: bool

    def touches(self, pool: PoolSettings) -> bool:
        return pool.key in self.pools or pool.key in self.renewed or bool(pool.clusters & self.clusters)


def reach(found: Iterable[Change], topology: Topology) -> Reach:
    """What has to be looked at to go by `topology`, from either side of these changes."""
    clusters: set[str] = set()
    pools: set[PoolKey] = set()
    renewed: set[PoolKey] = set()
    node = False
    for change in found:
        match change:
            case ClusterAdded(name=name) | ClusterRemoved(name=name):
                clusters.add(name)
            case ClusterChanged(name=name, fields=fields):
                clusters.add(name)
                if "tls" in fields:
                    renewed |= {key for key, pool in topology.pools.items() if name in pool.clusters}
            case ServerAdded(server=key) | ServerRemoved(server=key) | ServerChanged(server=key):
                clusters.add(key.cluster)
            case FleetChanged(fields=fields) if "health" in fields:
                clusters |= set(topology.clusters)
            case CredentialsChanged(user=user, sides=sides) if "servers" in sides:
                renewed |= {key for key in topology.pools if key.user == user}
            case PoolResized(pool=pool):
                pools.add(pool)
            case PoolChanged(pool=pool):
                (renewed if change.needs_new_links() else pools).add(pool)
            case NodeChanged():
                node = True
                pools |= set(topology.pools)
    return Reach(clusters=frozenset(clusters), pools=frozenset(pools), renewed=frozenset(renewed), node=node)


def _servers(topology: Topology) -> dict[ServerKey, Server]:
    return {
        server.key: server for cluster in topology.clusters.values() for server in cluster.servers.values()
    }


def _added(old: Topology, new: Topology) -> Iterator[Change]:
    yield from (ClusterAdded(name=name) for name in _only(new.clusters, old.clusters))
    yield from (ServerAdded(server=key) for key in _only(_servers(new), _servers(old)))
    yield from (UserAdded(user=name) for name in _only(new.users, old.users))
    yield from (ShardMapAdded(name=name) for name in _only(new.shardmaps, old.shardmaps))
    yield from (PoolAdded(pool=key) for key in _only(new.pools, old.pools))


def _removed(old: Topology, new: Topology) -> Iterator[Change]:
    yield from (PoolRemoved(pool=key) for key in _only(old.pools, new.pools))
    yield from (ShardMapRemoved(name=name) for name in _only(old.shardmaps, new.shardmaps))
    yield from (UserRemoved(user=name) for name in _only(old.users, new.users))
    yield from (ServerRemoved(server=key) for key in _only(_servers(old), _servers(new)))
    yield from (ClusterRemoved(name=name) for name in _only(old.clusters, new.clusters))


def _changed(old: Topology, new: Topology) -> Iterator[Change]:
    node = _different(old.node, new.node)
    if fields := tuple(field for field in node if field not in BOUND_AT_START):
        yield NodeChanged(fields=fields)
    if fields := tuple(field for field in node if field in BOUND_AT_START):
        yield RestartNeeded(fields=fields)
    if fields := _different(old.fleet, new.fleet):
        yield FleetChanged(fields=fields)
    yield from _clusters_changed(old, new)
    yield from _users_changed(old, new)
    yield from (
        ShardMapChanged(name=now.name) for was, now in _both(old.shardmaps, new.shardmaps) if was != now
    )
    yield from _pools_changed(old, new)


def _clusters_changed(old: Topology, new: Topology) -> Iterator[Change]:
    for before, after in _both(old.clusters, new.clusters):
        if fields := _different(before, after, but=("servers",)):
            yield ClusterChanged(name=after.name, fields=fields)
    for server_before, server_after in _both(_servers(old), _servers(new)):
        if fields := _different(server_before, server_after):
            yield ServerChanged(server=server_after.key, fields=fields)


def _users_changed(old: Topology, new: Topology) -> Iterator[Change]:
    for before, after in _both(old.users, new.users):
        is_other: dict[Literal["clients", "servers"], bool] = {
            "clients": _client_side(before) != _client_side(after),
            "servers": before.server != after.server,
        }
        if sides := tuple(side for side, other in is_other.items() if other):
            yield CredentialsChanged(user=after.name, sides=sides)


def _client_side(user: User) -> tuple[object, ...]:
    return user.auth, user.verifier, user.password


def _pools_changed(old: Topology, new: Topology) -> Iterator[Change]:
    # Compared once: many pools may go by a large map.
    same_maps = {now.name for was, now in _both(old.shardmaps, new.shardmaps) if was == now}
    for before, after in _both(old.pools, new.pools):
        sizes = ((before.size, after.size), (before.min_size, after.min_size))
        if any(was != is_now for was, is_now in sizes):
            yield PoolResized(pool=after.key, size=sizes[0], min_size=sizes[1])
        # The login is told of once, as a change of the user's credentials.
        fields = (
            *_places_changed(before, after),
            *_different(before, after, but=("shards", "sharding", "size", "min_size", "login")),
            *_shards_told_otherwise(before.sharding, after.sharding, same_maps),
        )
        if fields:
            yield PoolChanged(pool=after.key, fields=fields)


def _places_changed(before: PoolSettings, after: PoolSettings) -> Iterator[str]:
    """What of its shards is different, by the documents' names: an unsharded pool has none to speak of."""
    if len(before.shards) == len(after.shards) == 1:
        was, is_now = before.shards[0], after.shards[0]
        if was.cluster != is_now.cluster:
            yield "cluster"
        if was.database != is_now.database:
            yield "server_database"
    elif before.shards != after.shards:
        yield "shards"


def _shards_told_otherwise(
    before: Sharding | None, after: Sharding | None, same_maps: Collection[str]
) -> Iterator[str]:
    """Two kinds of change: which shard has a key, and how the key of a statement is found."""
    if before is None or after is None:
        if before is not after:
            yield "sharding"
        return
    is_same = before.map.name == after.map.name and after.map.name in same_maps
    if not is_same and before.map != after.map:
        yield "shards.map"
    if _different(before, after, but=("map",)):
        yield "sharding"


_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry", Cluster, Server, User, ShardMap, PoolSettings)
_Any = TypeVar("_Any", bound=Value | Document)


def _only(here: Mapping[_Key, object], there: Mapping[_Key, object]) -> list[_Key]:
    return [key for key in here if key not in there]


def _both(old: Mapping[_Key, _Entry], new: Mapping[_Key, _Entry]) -> list[tuple[_Entry, _Entry]]:
    return [(old[key], new[key]) for key in new if key in old]


def _different(before: _Any, after: _Any, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The documents' names of the fields that are not equal."""
    return tuple(
        field.removesuffix("_s")
        for field in type(after).__struct_fields__
        if field not in but and getattr(before, field) != getattr(after, field)
    )
