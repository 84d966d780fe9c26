"""Sharding functions: to which of so many shards a key belongs, for whoever computes it outside of a node.

A node itself asks a `relay.selectors.ShardTable`, which gives the same answers.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from pgcat_cluster.relay import hashing

Key = TypeVar("Key", int, bytes)

_INTEGER_MIN: Final = -(2**63)
_INTEGER_MAX: Final = 2**63 - 1


def pg_bigint_hash(key: int, shards: int) -> int:
    """Return the shard of an integer: the partition PostgreSQL gives it under `PARTITION BY HASH (key)`.

    It is the remainder for which `satisfies_hash_partition(table, shards, remainder, key)` holds, whether the
    column is a smallint, an integer or a bigint, and what PgCat's function of this name gives. Raises
    OverflowError for a key that does not fit 64 bits with its sign, and ValueError for less than one shard.
    """
    _check(key, shards)
    return hashing.hash_of_row(hashing.hash_of_int(key)) % shards


def pg_text_hash(key: str, shards: int) -> int:
    """Return the shard of a text or varchar: the hash partition in a database in UTF-8.

    Its column has a deterministic collation, as all have that are not made otherwise. Raises ValueError for less
    than one shard, and for what no such database holds: NUL characters and lone surrogates.
    """
    if "\0" in key:
        raise ValueError("a text of PostgreSQL holds no NUL character")
    _check(0, shards)
    return hashing.hash_of_row(hashing.hash_of_bytes(key.encode())) % shards


def pg_uuid_hash(key: bytes, shards: int) -> int:
    """Return the shard of a uuid, given as its 16 bytes: the hash partition. Raises ValueError for anything else."""
    if len(key) != 16:
        raise ValueError(f"a uuid has 16 bytes, not {len(key)}")
    _check(0, shards)
    return hashing.hash_of_row(hashing.hash_of_bytes(key)) % shards


def pg_timestamp_hash(microseconds: int, shards: int) -> int:
    """Return the shard of a timestamp or timestamptz, given as microseconds since 2000 began (in UTC, for the latter).

    Raises the same errors as `pg_bigint_hash`, whose function it is.
    """
    return pg_bigint_hash(microseconds, shards)


def sha1(key: int, shards: int) -> int:
    """Return the shard of an integer by PgCat's function of this name.

    That is SHA-1 of the decimal digits (with a sign if the key is negative), of whose hexadecimal form the last eight
    digits are the number that is divided. Raises the same errors as `pg_bigint_hash`.
    """
    _check(key, shards)
    return int.from_bytes(hashlib.sha1(b"%d" % key, usedforsecurity=False).digest()[-4:], "big") % shards


def modulo(key: int, shards: int) -> int:
    """Return the remainder of an integer divided by the number of shards, which is never negative.

    So -1 of three shards is on the last one, as it is in mathematics and unlike in SQL. Raises the same errors as
    `pg_bigint_hash`.
    """
    _check(key, shards)
    return key % shards


def listed(key: Key, values: Mapping[Key, int]) -> int | None:
    """Return the shard that a list names for a key, None if it names none."""
    return values.get(key)


def in_range(key: Key, bounds: Sequence[tuple[Key, int]]) -> int | None:
    """Return the shard of the range that holds a key, None if it lies before the first one.

    `bounds` are the least key and the shard of each range, in ascending order; a range ends where the next begins.
    Texts are compared by their bytes, as the collation "C" does.
    """
    place = bisect_right(bounds, key, key=lambda bound: bound[0])
    return bounds[place - 1][1] if place else None


def _check(key: int, shards: int) -> None:
    if not _INTEGER_MIN <= key <= _INTEGER_MAX:
        raise OverflowError("a key has 64 bits with its sign")
    if shards < 1:
        raise ValueError("there is at least one shard")
