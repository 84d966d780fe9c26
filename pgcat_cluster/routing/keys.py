"""Sharding keys above the data plane: read from a text, bound to the places of a shape, and the faults of bad ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pgcat_cluster.errors import Fault, InvalidParameter, InvalidText, OutOfRange, Unsupported
from pgcat_cluster.relay import selectors
from pgcat_cluster.relay.selectors import Selector, ShardTable
from pgcat_cluster.sql.terms import Term
from pgcat_cluster.topology.model import ShardMap
from pgcat_cluster.topology.sharding_keys import INTEGER_BITS, Key, KeyType, read_key

_DIGITS = "decimal digits, perhaps behind a sign"
# What a literal or a parameter of a statement has to look like, by type of key.
_EXPECTED: Mapping[str, str] = {
    "smallint": _DIGITS,
    "integer": _DIGITS,
    "bigint": _DIGITS,
    "text": "a plain or dollar-quoted string, or a parameter of type text or varchar, in UTF-8",
    "varchar": "a plain or dollar-quoted string, or a parameter of type text or varchar,"
    " in UTF-8 and without a blank at its end",
    "uuid": "32 hexadecimal digits, perhaps in groups of four and in braces",
    "timestamp": "a string such as '2026-01-31 12:00:00.123456', without a zone",
    "timestamptz": "a string such as '2026-01-31 12:00:00.123456+01:00', with a numeric zone or Z",
}


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


def table_of(shard_map: ShardMap) -> ShardTable:
    """The map in the form that the data plane asks."""
    return ShardTable(
        shard_map.kind, shard_map.key_type, shard_map.shards, shard_map.values, shard_map.bounds
    )


def shard_of(shard_map: ShardMap, key: Key) -> int | None:
    """The shard of a key; None if the map has none for it."""
    table = table_of(shard_map)
    shard = table.shard_of_bytes(key) if isinstance(key, bytes) else table.shard_of_int(key)
    return shard if shard >= 0 else None


def selector_of(table: ShardTable, terms: Iterable[Term], places: Mapping[int, int]) -> Selector | None:
    """What finds the shard of a shape by the terms of its rendered text, None if a term has no place in it.

    `places` are those of `render_with_places`.
    """
    slots: list[tuple[int, str | None, bool, bool]] = []
    numbers: list[tuple[int, str | None, bool, bool]] = []
    for term in terms:
        if term.parameter:
            numbers.append((term.parameter, term.cast, term.is_alone, term.is_array))
        elif (place := places.get(term.location)) is not None:
            slots.append((place, term.cast, term.is_negative, term.is_array))
        else:
            return None
    return Selector(table, slots, numbers)


def fault_of(code: int, shard_map: ShardMap) -> Fault:
    """The fault to tell a client whose statement has no shard, by what a selector found instead.

    The values are not in it: they are the client's own.
    """
    name, expected = shard_map.key_type, _EXPECTED[shard_map.key_type]
    match code:
        case selectors.SEVERAL:
            return Unsupported(
                "the sharding keys of the statement lie on several shards",
                hint="Ask for the keys of one shard at a time.",
            )
        case selectors.UNMAPPED:
            return InvalidParameter(f"the sharding key lies on no shard of map {shard_map.name}")
        case selectors.NULL:
            return Unsupported("the sharding key is NULL", detail=f"Expected was a value of type {name}.")
        case selectors.OUT_OF_RANGE:
            return OutOfRange(
                f"the sharding key is out of range for type {name}", detail=_bounds_of(shard_map.key_type)
            )
        case selectors.WRONG_TEXT:
            return InvalidText(
                f"invalid input syntax for a sharding key of type {name}", detail=f"Expected: {expected}."
            )
        case selectors.MANY:
            return Unsupported("the statement has too many constants to look for sharding keys among them")
    return Unsupported(
        f"the sharding key is not in a form that can only mean one value of type {name}",
        detail=f"Expected: {expected}; or an array of such elements, of one dimension and without bounds.",
    )


def _bounds_of(key_type: KeyType) -> str:
    most = 1 << INTEGER_BITS.get(key_type, 64) - 1
    return f"Expected was a number from {-most} to {most - 1}."
