"""What the keys of one statement say, found with time: with room for all its constants, or value by value."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from pgcat_cluster.relay import marks, selectors
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.relay.selectors import ShardTable
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.routing.keys import selector_of, table_of
from pgcat_cluster.routing.placement import rules_of
from pgcat_cluster.sql.keys import Keys, find_keys
from pgcat_cluster.sql.paths import Path
from pgcat_cluster.sql.terms import Term
from pgcat_cluster.topology.model import Sharding

SHARDS_NAMED_MAX = 4
_BEFORE = b"select "
_TEXT = 25
# Type ids of keys, and of what they may be cast to.
_OIDS = {
    "smallint": 21,
    "integer": 23,
    "bigint": 20,
    "int2": 21,
    "int4": 23,
    "int8": 20,
    "text": _TEXT,
    "varchar": 1043,
    "uuid": 2950,
    "timestamp": 1114,
    "timestamptz": 1184,
}
_PARAMETER = re.compile(rb"\$(\d+)")
_PARAMETERS_MAX = 65535


class Asked(Struct, frozen=True, kw_only=True):
    """A statement and what was bound to it: `types` as they stand in Parse, `bind` a whole message, or empty.

    `has_shapes`: where its constants end is as the grammar has it.
    `path` is the search_path that its session was given.
    """

    text: bytes
    types: bytes = b"\0\0"
    bind: bytes = b""
    is_utf8: bool = True
    has_shapes: bool = True
    path: Path | None = None


def bind_message(rest: bytes) -> bytes:
    """A Bind of the unnamed statement to the unnamed portal, of what follows the names in it; empty if that is."""
    return b"B" + (len(rest) + 6).to_bytes(4, "big") + b"\0\0" + rest if rest else b""


class Apart(Struct, frozen=True, kw_only=True):
    """Keys of several shards: which these are, in order, and whether one is what a row's key is set to."""

    shards: tuple[int, ...]
    is_complete: bool
    moves_rows: bool

    def __str__(self) -> str:
        named = [str(shard) for shard in self.shards]
        return ", ".join(named[:-1]) + f" and {named[-1]}" if self.is_complete else ", ".join([*named, "…"])


def shard_of(flow: Flow, asked: Asked) -> int:
    """What the constants and then the parameters of a statement with keys say: a shard, or a code of `selectors`.

    Without a Bind its parameters say nothing.
    """
    selector = flow.selector
    assert selector is not None
    words = bytearray(asked.text)
    scanner = Scanner(constants_max=len(words))
    if scanner.scan(words, 0, len(words)) is None:
        return selectors.UNSURE
    constants = selector.by_constants(scanner, words, asked.is_utf8)
    if not selector.has_constants:
        constants = marks.UNSAID
    if not asked.bind or not selector.has_parameters or (constants < 0 and constants != marks.UNSAID):
        return constants
    bind = bytearray(asked.bind)
    bound = selector.by_parameters(bind, 0, len(bind), asked.types, asked.is_utf8)
    return bound if bound < 0 or constants in (bound, marks.UNSAID) else selectors.SEVERAL


def apart(sharding: Sharding, asked: Asked) -> Apart | None:
    """On which shards the keys of a statement lie, as far as they can be told one by one; None: not on several."""
    keys = keys_of(sharding, asked)
    found: dict[int, None] = {}
    for shard in _shards(table_of(sharding.map), keys, asked):
        if shard >= 0:
            found.setdefault(shard)
        if len(found) > SHARDS_NAMED_MAX:
            break
    if len(found) < 2:
        return None
    named = sorted([*found][:SHARDS_NAMED_MAX])
    return Apart(shards=tuple(named), is_complete=len(named) == len(found), moves_rows=keys.sets_key)


def keys_of(sharding: Sharding, asked: Asked) -> Keys:
    """The keys of the text itself: each constant by its own place."""
    return find_keys(asked.text.decode(errors="surrogateescape"), rules_of(sharding, asked.path))


def parameter_types(sharding: Sharding | None, asked: Asked) -> list[int]:
    """The type of each parameter of a statement, as far as it can be told: what Parse says, or its key; else text."""
    shape = Scanner().scan(bytearray(asked.text), 0, len(asked.text)) or b""
    count = max((int(number) for number in _PARAMETER.findall(shape)), default=0)
    if count > _PARAMETERS_MAX:
        return []
    told = {}
    if sharding is not None:
        for term in keys_of(sharding, asked).terms:
            if term.parameter and term.is_alone:
                oid = _OIDS.get(term.cast or sharding.map.key_type, _TEXT)
                told[term.parameter] = selectors.ARRAYS[oid] if term.is_array else oid
    return [
        int.from_bytes(asked.types[4 * number - 2 : 4 * number + 2], "big") or told.get(number, _TEXT)
        for number in range(1, count + 1)
    ]


def _shards(table: ShardTable, keys: Keys, asked: Asked) -> Iterator[int]:
    """The shard of each value, or a code of `selectors`."""
    words, bind = bytearray(asked.text), bytearray(asked.bind)
    scanner = Scanner(constants_max=len(words))
    if scanner.scan(words, 0, len(words)) is None:
        return
    ends = dict(zip(scanner.starts[: scanner.constants], scanner.ends, strict=False))
    for term in keys.terms:
        if term.parameter:
            selector = selector_of(table, [term], {})
            if bind and selector is not None:
                yield selector.by_parameters(bind, 0, len(bind), asked.types, asked.is_utf8)
        elif term.location in ends:
            yield _shard_of_constant(table, term, words[term.location : ends[term.location]], asked.is_utf8)


def _shard_of_constant(table: ShardTable, term: Term, token: bytearray, is_utf8: bool) -> int:
    """A constant is read in a statement of its own, where it is not one of a list."""
    alone = bytearray(_BEFORE + token)
    scanner = Scanner()
    if scanner.scan(alone, 0, len(alone)) is None or scanner.constants != 1:
        return selectors.UNSURE
    selector = selector_of(table, [term], {term.location: scanner.places[0]})
    return selectors.UNSURE if selector is None else selector.by_constants(scanner, alone, is_utf8)
