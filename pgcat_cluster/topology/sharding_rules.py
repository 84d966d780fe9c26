"""What documents of shards and shard maps must be, in their fields and to each other."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pgcat_cluster.topology import settings
from pgcat_cluster.topology.settings import Document, Settings
from pgcat_cluster.topology.sharding_keys import INTEGER_BITS, Key, least, read_key
from pgcat_cluster.topology.sql_names import canonical_name

# Of each rule: the path below the document, and what is wrong there.
Broken = Iterator[tuple[tuple[str, ...], str]]


def _pool_lies_in_one_way(pool: settings.Pool) -> Broken:
    if pool.shards is None:
        if pool.sharding is not None:
            yield ("sharding",), "is for a pool with shards"
    elif pool.cluster is not None:
        yield ("cluster",), "is not allowed beside shards, which have clusters of their own"


def _statements_tell_the_shard(pool: settings.Pool) -> Broken:
    # In session mode bytes go on unseen.
    if pool.shards is None or len(pool.shards.clusters) == 1:
        return
    why = 'is not possible with several shards: mode "session" looks at no statement'
    if pool.mode == "session":
        yield ("mode",), why
    for label, user in pool.users.items():
        if user.mode == "session":
            yield ("users", label, "mode"), why


def _default_shard_exists(pool: settings.Pool) -> Broken:
    if pool.shards is None or pool.sharding is None:
        return
    default, last = pool.sharding.default_shard, len(pool.shards.clusters) - 1
    if default != "random" and default > last:
        yield ("sharding", "default_shard"), f"{default} is beyond the last shard, {last}"


def _shards_are_numbered_without_gaps(shards: settings.PoolShards) -> Broken:
    for number in range(len(shards.clusters)):
        if str(number) not in shards.clusters:
            yield (
                ("clusters", str(number)),
                f"is missing; {len(shards.clusters)} shards are numbered from 0 to {len(shards.clusters) - 1}",
            )
    for label in shards.databases:
        if label not in shards.clusters:
            yield (
                ("databases", label),
                f"shard {label} does not exist; there are: {', '.join(shards.clusters)}",
            )


def _tables_are_sharded_or_not(sharding: settings.PoolSharding) -> Broken:
    keyed: dict[str, str] = {}
    for table in sharding.tables:
        if (other := keyed.setdefault(canonical_name(table), table)) != table:
            yield ("tables", table), f"is the same table as {other}"
    for index, table in enumerate(sharding.reference):
        if canonical_name(table) in keyed:
            yield (
                ("reference", f"[{index}]"),
                f"{table} has a key in tables, so it is not whole on every shard",
            )


def _comments_are_found(sharding: settings.PoolSharding) -> Broken:
    for field in ("shard_id_regex", "sharding_key_regex"):
        text = getattr(sharding, field)
        if text is None:
            continue
        try:
            groups = re.compile(text.encode()).groups
        except (re.error, OverflowError, RecursionError) as error:
            yield (field,), f"is no regular expression: {error}"
        else:
            if groups != 1:
                yield (
                    (field,),
                    f"has {groups} groups; allowed: one, for the number or key; (?:…) groups without counting",
                )


def _map_is_whole(document: settings.ShardMap) -> Broken:
    kind, key_type = document.kind, document.key.type
    if kind in ("sha1", "modulo") and key_type not in INTEGER_BITS:
        yield ("key", "type"), f'"{key_type}" does not fit kind "{kind}"; allowed: {", ".join(INTEGER_BITS)}'
    if kind == "pg_bigint_hash" and key_type != "bigint":
        yield (
            ("key", "type"),
            f'"{key_type}" does not fit kind "pg_bigint_hash"; allowed: bigint, or kind "hash"',
        )
    for field, owner in (("values", "list"), ("ranges", "range")):
        if kind == owner and not getattr(document, field):
            yield (field,), f'is missing; kind "{owner}" needs it'
        if kind != owner and getattr(document, field):
            yield (field,), f'belongs to kind "{owner}", not "{kind}"'


def _values_are_keys_once(document: settings.ShardMap) -> Broken:
    seen: dict[Key, str] = {}
    for said, shard in document.values.items():
        if shard >= document.shards:
            yield ("values", said), _beyond(shard, document)
        try:
            key = read_key(document.key.type, said)
        except ValueError as error:
            yield ("values", said), f"is no {document.key.type}; allowed: {error}"
            continue
        if (other := seen.setdefault(key, said)) != said:
            yield ("values", said), f'is the same key as "{other}"'


def _ranges_are_apart(document: settings.ShardMap) -> Broken:
    key_type = document.key.type
    bounds: list[tuple[Key, Key | None, str]] = []
    for name, one in document.ranges.items():
        if one.shard >= document.shards:
            yield ("ranges", name, "shard"), _beyond(one.shard, document)
        keys: list[Key | None] = []
        for end, said in (("from", one.start), ("to", one.stop)):
            try:
                keys.append(None if said is None else read_key(key_type, said))
            except ValueError as error:
                yield ("ranges", name, end), f'"{said}" is no {key_type}; allowed: {error}'
        if len(keys) < 2:
            continue
        start, stop = least(key_type) if keys[0] is None else keys[0], keys[1]
        if stop is not None and not start < stop:  # type: ignore[operator]
            yield (
                ("ranges", name, "to"),
                "is not more than from; keys of a range begin at from and end before to",
            )
            continue
        bounds.append((start, stop, name))
    bounds.sort(key=lambda bound: bound[0])
    for (_, stop, name), (start, _, after) in itertools.pairwise(bounds):
        if stop is None or start < stop:  # type: ignore[operator]
            yield ("ranges", after), f"has keys that range {name} has"


def _beyond(shard: int, document: settings.ShardMap) -> str:
    return f"shard {shard} is beyond the last, {document.shards - 1}"


def _maps_fit_their_pools(documents: Settings) -> Broken:
    for label, pool in documents.pools.items():
        if pool.shards is None or pool.shards.map is None:
            continue
        shards, there = documents.shardmaps[pool.shards.map].shards, len(pool.shards.clusters)
        if shards != there:
            yield (
                ("pools", label, "shards", "clusters"),
                f'has {there} of the {shards} shards of map "{pool.shards.map}"'
                if there < shards
                else f'has {there} shards, but map "{pool.shards.map}" has {shards}',
            )


def _shards_have_own_places(documents: Settings) -> Broken:
    for label, pool in documents.pools.items():
        if pool.shards is None:
            continue
        seen: dict[tuple[str, str], str] = {}
        usual = pool.server_database or pool.database or label
        for shard, cluster in pool.shards.clusters.items():
            database = pool.shards.databases.get(shard, usual)
            if (other := seen.setdefault((cluster, database), shard)) != shard:
                yield (
                    ("pools", label, "shards", "databases", shard),
                    f'shard {other} lies in database "{database}" of cluster {cluster} already; name another',
                )


def _mirrors_keep_shards_apart(documents: Settings) -> Broken:
    """Unless they are told to put all into one database."""
    for label, pool in documents.pools.items():
        shards = {} if pool.shards is None else pool.shards.clusters
        usual = pool.server_database or pool.database or label
        own = {} if pool.shards is None else pool.shards.databases
        mirrors = {("users", user): said.mirror for user, said in pool.users.items()} | {(): pool.mirror}
        for path, mirror in mirrors.items():
            if mirror is None:
                continue
            place = ("pools", label, *path, "mirror", "databases")
            for shard in mirror.databases:
                if shard not in shards:
                    yield (
                        (*place, shard),
                        f"shard {shard} does not exist; there are: {', '.join(shards) or 'none'}",
                    )
            seen: dict[str, str] = {}
            for shard in shards if mirror.database is None else ():
                database = mirror.databases.get(shard, own.get(shard, usual))
                if (other := seen.setdefault(database, shard)) != shard:
                    yield (
                        (*place, shard),
                        f'shard {other} goes to database "{database}" already; name another, or one database for all',
                    )


RULES: Mapping[type[Document], tuple[Callable[[Any], Broken], ...]] = {
    settings.Pool: (_pool_lies_in_one_way, _statements_tell_the_shard, _default_shard_exists),
    settings.PoolShards: (_shards_are_numbered_without_gaps,),
    settings.PoolSharding: (_tables_are_sharded_or_not, _comments_are_found),
    settings.ShardMap: (_map_is_whole, _values_are_keys_once, _ranges_are_apart),
    Settings: (_maps_fit_their_pools, _shards_have_own_places, _mirrors_keep_shards_apart),
}
