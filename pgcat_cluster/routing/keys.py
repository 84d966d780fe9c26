"""The slow way from the text of a sharding key to its shard."""

from __future__ import annotations

import re
from bisect import bisect_right

from pgcat_cluster.errors import InvalidText, OutOfRange
from pgcat_cluster.relay import hashing
from pgcat_cluster.routing import functions
from pgcat_cluster.topology.model import ShardMap
from pgcat_cluster.topology.sharding_keys import INTEGER_BITS, Key, KeyType, read_key


def key_of_text(key_type: KeyType, text: str) -> Key:
    """The key that a text means. Raises InvalidText or OutOfRange."""
    said = text.strip() if key_type not in ("text", "varchar") else text
    try:
        return read_key(key_type, said.removeprefix("+") if key_type in INTEGER_BITS else said)
    except ValueError as wrong:
        if key_type in INTEGER_BITS and re.fullmatch(r"[+-]?[0-9]+", said):
            raise OutOfRange(f'value "{said}" is out of range for type {key_type}') from None
        raise InvalidText(
            f'invalid input syntax for type {key_type}: "{text}"', hint=f"It takes {wrong}."
        ) from None


def shard_of(shard_map: ShardMap, key: Key) -> int | None:
    """The shard of a key; None if the map has none for it."""
    if shard_map.kind == "list":
        return shard_map.values.get(key)
    if shard_map.kind == "range":
        place = bisect_right([bound for bound, _ in shard_map.bounds], key)
        shard = shard_map.bounds[place - 1][1] if place else -1
        return shard if shard >= 0 else None
    if isinstance(key, bytes):
        return hashing.hash_of_row(hashing.hash_of_bytes(key)) % shard_map.shards
    if shard_map.kind == "sha1":
        return functions.sha1(key, shard_map.shards)
    if shard_map.kind == "modulo":
        return functions.modulo(key, shard_map.shards)
    return functions.pg_bigint_hash(key, shard_map.shards)
