"""Settings written as documents again: every default said, verifiers hidden."""

import functools
import json
from collections.abc import Iterator
from typing import Any

from msgspec import NODEFAULT, Struct, inspect, structs

from pgcat_cluster.topology import model
from pgcat_cluster.topology import settings as documents
from pgcat_cluster.topology.model import Cluster, Credentials, PoolKey, PoolSettings, Topology, build
from pgcat_cluster.topology.reading import Path, dotted
from pgcat_cluster.topology.settings import Document, PoolOptions, PoolUser, Settings, User

HIDDEN = "(hidden)"


def shown_lines(settings: Settings) -> Iterator[str]:
    """One line of TOML per setting, `pools.app.users.app.size = 20`, as it is in force."""
    for path, value in _leaves(as_document(resolved(settings)), ()):
        yield f"{dotted(path)} = {_toml(value)}"


def parts_in_force(topology: Topology) -> Iterator[tuple[Path, Struct]]:
    """All that a running node goes by, each part with its path: what is equal has the same rows."""
    yield ("node",), topology.node
    yield ("fleet",), topology.fleet
    yield from ((("clusters", name), cluster) for name, cluster in topology.clusters.items())
    yield from ((("shardmaps", name), one) for name, one in topology.documents.shardmaps.items())
    yield from ((("users", name), user) for name, user in topology.users.items())
    yield from ((("pools", key.database, "users", key.user), pool) for key, pool in topology.pools.items())


def rows_in_force(path: Path, part: Struct) -> Iterator[tuple[Path, str, str]]:
    """Path, value and default of everything in one part, as texts; secrets are not among it."""
    match part:
        case Cluster():
            return _rows(path, as_document(_cluster(part)), _silent_cluster())
        case model.User():
            return _rows(path, {"auth": part.auth, "server_user": part.server.user}, {})
        case PoolSettings():
            place = {name: _plain_tree(value) for name, value in _lying(part).items() if value is not None}
            usual = pool_defaults() | {"sharding": as_document(documents.PoolSharding())}
            return _rows(path, place | as_document(_options(part)), usual)
        case documents.ShardMap():
            return _rows(path, as_document(part), {})
    return _rows(path, as_document(part), as_document(type(part)()))


@functools.cache
def _silent_cluster() -> dict[str, Any]:
    return as_document(documents.Cluster(servers={}))


def _rows(path: Path, tree: dict[str, Any], defaults: dict[str, Any]) -> Iterator[tuple[Path, str, str]]:
    usual = dict(_leaves(defaults, path))
    for leaf, value in _leaves(tree, path):
        yield leaf, _plain(value), _plain(usual[leaf]) if leaf in usual else ""


def _plain(value: object) -> str:
    return value if isinstance(value, str) else _toml(value)


def _cluster(cluster: Cluster) -> documents.Cluster:
    """The document of a cluster, without references to secrets."""
    probe = cluster.probe
    return documents.Cluster(
        servers={
            name: documents.Server(
                host=server.key.address.host,
                port=server.key.address.port,
                zone=server.zone,
                weight=server.weight,
                tags=dict(server.tags),
            )
            for name, server in cluster.servers.items()
        },
        min_healthy=cluster.min_healthy,
        probe=None if probe is None else documents.Probe(user=probe.user, database=probe.database),
        admin=None if cluster.admin is None else documents.Credentials(user=cluster.admin.user),
        leadership=cluster.leadership,
        read=cluster.read,
        tls=cluster.tls,
        connect_timeout_s=cluster.connect_timeout_s,
    )


def as_document(document: Struct) -> dict[str, Any]:
    """The plain tree that would be read as this document; what is unset is left out."""
    tree: dict[str, Any] = _written(_kind_of(type(document)), document)
    return tree


@functools.cache
def _kind_of(document: type[Struct]) -> inspect.Type:
    return inspect.type_info(document)


def resolved(settings: Settings) -> Settings:
    """The same settings with all that depends on other settings said where it counts."""
    topology = build(settings, lambda reference: "")
    pools = {}
    for label, pool in settings.pools.items():
        database = pool.database or label
        keys = {user: PoolKey(database, settings.users[user].user or user) for user in pool.users}
        pools[label] = structs.replace(
            pool,
            **dict.fromkeys(PoolOptions.__struct_fields__),
            database=database,
            **_lying(next(topology.pools[key] for key in keys.values())),
            users={user: _options(topology.pools[key]) for user, key in keys.items()},
        )
    return structs.replace(
        settings,
        node=structs.replace(
            settings.node, tls=structs.replace(settings.node.tls, mode=settings.node.tls.mode_in_force)
        ),
        clusters={
            name: structs.replace(cluster, min_healthy=topology.clusters[name].min_healthy)
            for name, cluster in settings.clusters.items()
        },
        pools=pools,
        users={label: _named(label, user) for label, user in settings.users.items()},
    )


def _plain_tree(value: Struct | str) -> dict[str, Any] | str:
    return value if isinstance(value, str) else as_document(value)


def _lying(pool: PoolSettings) -> dict[str, Any]:
    """Where the data of a pool lie, by field of its document: in one database, or in one for each shard."""
    if pool.sharding is None:
        (whole,) = pool.shards
        return {"cluster": whole.cluster, "server_database": whole.database}
    shards = documents.PoolShards(
        map=pool.sharding.map.name or None,
        clusters={str(shard.number): shard.cluster for shard in pool.shards},
        databases={str(shard.number): shard.database for shard in pool.shards},
    )
    silent = {"cluster": None, "server_database": None}
    return silent | {"shards": shards, "sharding": _sharding(pool.sharding)}


def _sharding(sharding: model.Sharding) -> documents.PoolSharding:
    return documents.PoolSharding(
        key=sharding.key,
        tables={table: documents.TableSharding(key=column) for table, column in sharding.tables.items()},
        reference=sorted(sharding.reference),
        otherwise=sharding.otherwise,
        default_shard=sharding.default_shard,
        sticky_comments=sharding.sticky_comments,
        shard_id_regex=sharding.shard_id_regex or None,
        sharding_key_regex=sharding.sharding_key_regex or None,
        regex_search_limit=sharding.regex_search_limit_bytes,
    )


def _options(pool: PoolSettings) -> PoolUser:
    return PoolUser(**{field: getattr(pool, field) for field in PoolOptions.__struct_fields__})


def _named(label: str, user: User) -> User:
    name = user.user or label
    # What stands before the first $ of a verifier is its method, and no secret.
    verifier = user.verifier and user.verifier[: user.verifier.find("$") + 1] + HIDDEN
    return structs.replace(user, user=name, server_user=user.server_user or name, verifier=verifier)


def default_of(field: inspect.Field) -> object:
    """A field's default as a document writes it; None where it is unset, or said by its parts."""
    if field.default_factory is not NODEFAULT:
        return _written(field.type, field.default_factory())
    if field.default in (NODEFAULT, None) or isinstance(field.default, Document):
        return None
    return _written(field.type, field.default)


@functools.cache
def pool_defaults() -> dict[str, Any]:
    """What a pool is that says nothing of itself."""
    silent = PoolSettings(key=PoolKey("", ""), shards=(), login=Credentials(user=""))
    return as_document(_options(silent))


def _written(kind: inspect.Type, value: Any) -> Any:
    match kind:
        case inspect.Metadata(extra={"notation": notation}):
            return notation.show(value)
        case inspect.Metadata():
            return _written(kind.type, value)
        case inspect.UnionType():
            return _written(next(one for one in kind.types if not isinstance(one, inspect.NoneType)), value)
        case inspect.StructType():
            return {
                field.encode_name: _written(field.type, part)
                for field in kind.fields
                if (part := getattr(value, field.name)) is not None
            }
        case inspect.DictType():
            return {key: _written(kind.value_type, part) for key, part in value.items()}
        case inspect.ListType() | inspect.VarTupleType():
            return [_written(kind.item_type, part) for part in value]
    return value


def _leaves(tree: dict[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _toml(value: object) -> str:
    # JSON's texts, numbers and lists are TOML's too, but for one control character that JSON leaves bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
