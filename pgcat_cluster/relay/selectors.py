"""Finds the shard of a statement by the sharding keys in it: constants of its text, and parameters bound to it.

Only forms of which it is certain what every PostgreSQL makes of them are read; DECISIONS.md lists them. Everything
else is UNSURE, and the session refuses the statement rather than guess its shard.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

from pgcat_cluster.relay import arrays, hashing, literals, octets
from pgcat_cluster.relay.shapes import Scanner

# What is found instead of a shard.
UNSURE: Final = -1  # a form of which it is not certain which key it is
SEVERAL: Final = -2  # keys of several shards
UNMAPPED: Final = -3  # the list or the ranges have no shard for the key
NULL: Final = -4  # the key is NULL
OUT_OF_RANGE: Final = -5  # beyond the key's type
WRONG_TEXT: Final = -6  # a text that is no value of the key's type
MANY: Final = -7  # more constants than the scanner recorded

_UNSURE = UNSURE
_SEVERAL = SEVERAL
_UNMAPPED = UNMAPPED
_NULL = NULL
_OUT_OF_RANGE = OUT_OF_RANGE
_WRONG_TEXT = WRONG_TEXT
_MANY = MANY
_UNREAD = -100

# Kinds of maps.
_HASH, _SHA1, _MODULO, _LIST, _RANGE = range(5)
_KINDS: Mapping[str, int] = {"hash": _HASH, "sha1": _SHA1, "modulo": _MODULO, "list": _LIST, "range": _RANGE}
# Types of keys that are read alike.
_INTEGER, _TEXT, _UUID, _MOMENT = range(4)
_FAMILIES: Mapping[str, int] = {
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "bigint": _INTEGER,
    "text": _TEXT,
    "varchar": _TEXT,
    "uuid": _UUID,
    "timestamp": _MOMENT,
    "timestamptz": _MOMENT,
}
# By PostgreSQL's own names: the type's number, and its bytes in binary format (0: any number).
_TYPES: Mapping[str, tuple[int, int]] = {
    "int2": (21, 2),
    "int4": (23, 4),
    "int8": (20, 8),
    "text": (25, 0),
    "varchar": (1043, 0),
    "uuid": (2950, 16),
    "timestamp": (1114, 8),
    "timestamptz": (1184, 8),
}
# The type of an array by that of its elements.
ARRAYS: Final[Mapping[int, int]] = {
    21: 1005, 23: 1007, 20: 1016, 25: 1009, 1043: 1015, 2950: 2951, 1114: 1115, 1184: 1185
}  # fmt: skip
_SAME_EVERYWHERE = frozenset({*ARRAYS, *ARRAYS.values()})
_NAMES: Mapping[str, str] = {"smallint": "int2", "integer": "int4", "bigint": "int8"}
_CASTS: Mapping[int, frozenset[str]] = {
    _INTEGER: frozenset({"int2", "int4", "int8"}),
    _TEXT: frozenset({"text", "varchar"}),
}
_UNKNOWN = 705  # as good as a parameter without a type
_MOMENT_MAX = 2**63 - 1  # infinity


class ShardTable:
    """A shard map, made to be asked: keys are numbers (timestamps: microseconds since 2000) or bytes (text, uuid).

    `values` are those of a list, `bounds` those of ranges in ascending order: the least key and the shard of each,
    which is negative where no shard has the keys.
    """

    __slots__ = ("_bounds", "_kind", "_owners", "_starts", "_values", "key_type", "shards")

    def __init__(
        self,
        kind: str,
        key_type: str,
        shards: int,
        values: Mapping[int | bytes, int] | None = None,
        bounds: Sequence[tuple[int | bytes, int]] = (),
    ) -> None:
        is_integer = _FAMILIES[key_type] == _INTEGER
        if shards < 1 or (kind in ("sha1", "modulo") and not is_integer):
            raise ValueError(f"no map by {kind} of {key_type} to {shards} shards")
        self._kind = _KINDS[kind]
        self.key_type = key_type
        self.shards = shards
        self._values = dict(values or {})
        self._bounds = [bound for bound, _ in bounds]
        self._owners = array("q", [shard if shard >= 0 else UNMAPPED for _, shard in bounds] or [UNMAPPED])
        numbers = [bound for bound in self._bounds if isinstance(bound, int)]
        self._starts = array("q", numbers or [0])

    def shard_of_int(self, key: int) -> int:
        """The shard of a number that fits 64 bits with its sign, UNMAPPED if there is none."""
        kind = self._kind
        if kind == _HASH:
            return hashing.hash_of_row(hashing.hash_of_int(key)) % self.shards
        if kind == _MODULO:
            return key % self.shards
        if kind == _LIST:
            return self._values.get(key, _UNMAPPED)
        if kind == _SHA1:
            digest = hashlib.sha1(b"%d" % key, usedforsecurity=False).digest()
            return octets.length_at(bytearray(digest), 16) % self.shards
        low = 0
        high = len(self._bounds)
        while low < high:
            middle = (low + high) // 2
            if key < self._starts[middle]:
                high = middle
            else:
                low = middle + 1
        return self._owners[low - 1] if low else _UNMAPPED

    def shard_of_bytes(self, key: bytes) -> int:
        """The shard of a text in UTF-8 or of a uuid's bytes, UNMAPPED if there is none."""
        if self._kind == _HASH:
            return hashing.hash_of_row(hashing.hash_of_bytes(key)) % self.shards
        if self._kind == _LIST:
            return self._values.get(key, _UNMAPPED)
        place = bisect_right(self._bounds, key)
        return self._owners[place - 1] if place else _UNMAPPED


class Selector:
    """Where one shape's keys stand, and which shards they lead to by a map.

    `slots` are constants: the place of the marker in the shape, the type that the constant is cast to by
    PostgreSQL's own name (None: it is not), whether a minus stands before it, and whether it is an array of keys
    (the cast is then that of its elements). `numbers` are parameters: the number of $n, its cast, whether nothing
    else in the statement has a say in its type, and whether it is an array.
    """

    __slots__ = (
        "_are_arrays",
        "_family",
        "_is_varchar",
        "_key_bytes",
        "_key_oid",
        "_number_casts",
        "_number_count",
        "_numbers",
        "_signs",
        "_slot_arrays",
        "_slot_casts",
        "_slot_count",
        "_slots",
        "_sole",
        "_table",
        "has_constants",
        "has_parameters",
    )

    def __init__(
        self,
        table: ShardTable,
        slots: Sequence[tuple[int, str | None, bool, bool]] = (),
        numbers: Sequence[tuple[int, str | None, bool, bool]] = (),
    ) -> None:
        numbers = sorted(numbers, key=lambda number: number[0])
        own = _NAMES.get(table.key_type, table.key_type)
        self._table = table
        self._family = _FAMILIES[table.key_type]
        self._is_varchar = own == "varchar"
        self._key_oid, self._key_bytes = _TYPES[own]
        self.has_constants = len(slots) > 0
        self.has_parameters = len(numbers) > 0
        self._slot_count = len(slots)
        self._slots = array("q", [place for place, *_ in slots] or [0])
        self._slot_casts = array("q", [self._cast_oid(own, slot[1]) for slot in slots] or [0])
        self._signs = array("q", [slot[2] for slot in slots] or [False])
        self._slot_arrays = array("q", [slot[3] for slot in slots] or [False])
        self._number_count = len(numbers)
        self._numbers = array("q", [number for number, *_ in numbers] or [0])
        self._number_casts = array("q", [self._cast_oid(own, number[1]) for number in numbers] or [0])
        self._sole = array("q", [number[2] for number in numbers] or [False])
        self._are_arrays = array("q", [number[3] for number in numbers] or [False])

    def _cast_oid(self, own: str, cast: str | None) -> int:
        """The type of a cast, 0 for none, -1 for one that may change the key."""
        if cast is None:
            return 0
        return _TYPES[cast][0] if cast in _CASTS.get(self._family, {own}) else -1

    def by_constants(self, scanner: Scanner, buffer: bytearray, is_utf8: bool = False) -> int:
        """The shard of the constants that `scanner` recorded of a statement in `buffer`, or what was found instead.

        Unless client and servers are known to use UTF-8 (`is_utf8`), other characters than ASCII are UNSURE.
        """
        if scanner.constants > scanner.constants_max:
            return _MANY
        found = _UNREAD
        for n in range(scanner.constants):
            place = scanner.places[n]
            for slot in range(self._slot_count):
                if self._slots[slot] == place:
                    shard = self._by_constant(
                        slot, scanner.kinds[n], buffer, scanner.starts[n], scanner.ends[n], is_utf8
                    )
                    if shard < 0:
                        return shard
                    if found != shard and found != _UNREAD:
                        return _SEVERAL
                    found = shard
                    break
        return found if found != _UNREAD else _UNSURE

    def by_parameters(
        self, buffer: bytearray, start: int, stop: int, types: bytes, is_utf8: bool = False
    ) -> int:
        """The shard of the parameters of the Bind message buffer[start:stop], or what was found instead.

        `types` is what stood behind the text in Parse, or in ParameterDescription: how many types, and each. What is
        no Bind message is UNSURE.
        """
        at = octets.find_nul(buffer, start + 5, stop)
        if at >= 0:
            at = octets.find_nul(buffer, at + 1, stop)
        if at < 0 or at + 3 > stop:
            return _UNSURE
        formats = two_bytes(buffer, at + 1)
        formats_at = at + 3
        at = formats_at + 2 * formats
        if at + 2 > stop:
            return _UNSURE
        count = two_bytes(buffer, at)
        at += 2
        if formats > 1 and formats != count:
            return _UNSURE
        found = _UNREAD
        k = 0
        number = 0
        while k < self._number_count:
            number += 1
            if number > count or at + 4 > stop:
                return _UNSURE
            length = octets.length_at(buffer, at)
            at += 4
            is_null = length == 0xFFFFFFFF
            if is_null:
                length = 0
            if length > stop - at:
                return _UNSURE
            while k < self._number_count and self._numbers[k] == number:
                kind = 0
                if formats:
                    kind = two_bytes(buffer, formats_at + (2 * (number - 1) if formats > 1 else 0))
                declared = declared_type(types, number)
                if self._are_arrays[k]:
                    declared = arrays.element_type(declared)
                width = self._width(k, declared)
                if width < 0 or kind > 1:
                    return _UNSURE
                if is_null:
                    return _NULL
                shard = self._by_value(k, width, kind == 1, buffer, at, at + length, is_utf8)
                if shard < 0:
                    return shard
                if found != shard and found != _UNREAD:
                    return _SEVERAL
                found = shard
                k += 1
            at += length
        return found if found != _UNREAD else _UNSURE

    def asks(self, types: bytes) -> bool:
        """Whether only a server can tell a parameter's type: `types` leaves it open, and other places have a say."""
        for k in range(self._number_count):
            if not self._sole[k] and self._number_casts[k] >= 0 and is_left_open(types, self._numbers[k]):
                return True
        return False

    def completed(self, types: bytes, told: bytes) -> bytes:
        """`types` with what ParameterDescription told of the parameters that `asks` is about.

        Of these only types that keys and their arrays may have: they have the same number everywhere.
        """
        count = two_bytes(bytearray(types), 0) if len(types) > 1 else 0
        if self._number_count:
            count = max(count, self._numbers[self._number_count - 1])
        known = [declared_type(types, number) for number in range(1, count + 1)]
        for k in range(self._number_count):
            number = self._numbers[k]
            oid = declared_type(told, number)
            if not self._sole[k] and is_left_open(types, number) and oid in _SAME_EVERYWHERE:
                known[number - 1] = oid
        return count.to_bytes(2, "big") + b"".join([oid.to_bytes(4, "big") for oid in known])

    def _width(self, k: int, declared: int) -> int:
        """How many bytes a key has in binary format, 0 for any number; -1 if its type is none to trust."""
        cast = self._number_casts[k]
        if cast < 0:
            return -1
        if declared == 0 or declared == _UNKNOWN:
            # Then its only use in the statement says its type.
            if not self._sole[k]:
                return -1
            declared = cast if cast else self._key_oid
        return self._bytes_of(declared)

    def _bytes_of(self, oid: int) -> int:
        """How many bytes a key of this type has in binary format, 0 for any number; -1 if it is no type of keys."""
        if self._family == _INTEGER:
            return integer_bytes(oid) if oid else -1
        if self._family == _TEXT:
            return 0 if oid == 25 or oid == 1043 else -1
        return self._key_bytes if oid == self._key_oid else -1

    def _by_constant(
        self, slot: int, kind: int, buffer: bytearray, start: int, stop: int, is_utf8: bool
    ) -> int:
        """The shard of the constant whose token is buffer[start:stop]."""
        cast = self._slot_casts[slot]
        if cast < 0:
            return _UNSURE
        is_array = self._slot_arrays[slot] != 0
        if kind == 0x69 or kind == 0x64:
            if self._family != _INTEGER or is_array:
                return _UNSURE
            status, magnitude = literals.read_digits(buffer, start, stop)
            if status == _WRONG_TEXT:
                return _UNSURE  # a number, but none of digits alone
            if status != 0:
                return status
            status, number = literals.signed(magnitude, self._signs[slot] != 0)
            return self._by_integer(number, integer_bytes(cast)) if status == 0 else status
        if self._signs[slot]:
            return _UNSURE  # what a minus makes of a string depends on operators
        if kind == 0x73:
            start += 1
            stop -= 1
        elif kind == 0x65:
            start += 2
            stop -= 1
        elif kind == 0x71:
            tag_start = start
            start += 1
            while buffer[start] != 0x24:
                start += 1
            start += 1
            stop -= start - tag_start
        else:
            return _UNSURE
        if kind != 0x71 and has_byte(buffer, start, stop, 0x27):
            # A doubled quote, or a string in pieces.
            if self._family != _TEXT:
                return _UNSURE
            text = octets.cut(buffer, start, stop)
            if b"'" in text.replace(b"''", b""):
                return _UNSURE
            if kind == 0x65 and b"\\" in text:
                return _UNSURE
            text = text.replace(b"''", b"'")
            return (
                self._by_elements(0, bytearray(text), 0, len(text), is_utf8)
                if is_array
                else self._by_text(text, is_utf8)
            )
        if kind == 0x65 and has_byte(buffer, start, stop, 0x5C):
            return _UNSURE
        if is_array:
            return self._by_elements(integer_bytes(cast), buffer, start, stop, is_utf8)
        return self._by_written(integer_bytes(cast), buffer, start, stop, is_utf8)

    def _by_value(
        self, k: int, width: int, is_binary: bool, buffer: bytearray, start: int, stop: int, is_utf8: bool
    ) -> int:
        """The shard of the value that is bound as buffer[start:stop]."""
        if self._are_arrays[k]:
            return self._by_array(k, width, is_binary, buffer, start, stop, is_utf8)
        return self._by_single(k, width, is_binary, buffer, start, stop, is_utf8)

    def _by_single(
        self, k: int, width: int, is_binary: bool, buffer: bytearray, start: int, stop: int, is_utf8: bool
    ) -> int:
        """The shard of the key buffer[start:stop] that is or is in the value of a parameter."""
        if is_binary and self._family != _TEXT:
            if stop - start != width:
                return _UNSURE
            if self._family == _UUID:
                return self._table.shard_of_bytes(octets.cut(buffer, start, stop))
            number = signed_bytes(buffer, start, width)
            if self._family == _INTEGER:
                return self._by_integer(number, integer_bytes(self._number_casts[k]))
            if number == _MOMENT_MAX or number == -_MOMENT_MAX - 1:
                return _UNSURE
            return self._table.shard_of_int(number)
        if has_byte(buffer, start, stop, 0):
            return _UNSURE
        if self._family == _INTEGER:
            width = min(width, integer_bytes(self._number_casts[k]))
        return self._by_written(width, buffer, start, stop, is_utf8)

    def _by_array(
        self, k: int, width: int, is_binary: bool, buffer: bytearray, start: int, stop: int, is_utf8: bool
    ) -> int:
        """The shard of all keys in the array that is bound as buffer[start:stop]; NULL if there are none."""
        if not is_binary:
            if has_byte(buffer, start, stop, 0):
                return _UNSURE
            if self._family == _INTEGER:
                width = min(width, integer_bytes(self._number_casts[k]))
            return self._by_elements(width, buffer, start, stop, is_utf8)
        # How many dimensions, whether there are NULLs, the type of the elements; per dimension its length and least
        # index. The server refuses elements of another type than the parameter's.
        if stop - start < 12:
            return _UNSURE
        dimensions = octets.length_at(buffer, start)
        width = self._bytes_of(octets.length_at(buffer, start + 8))
        if width < 0 or octets.length_at(buffer, start + 4) > 1:
            return _UNSURE
        if dimensions == 0:
            return _NULL if stop - start == 12 else _UNSURE
        if dimensions != 1 or stop - start < 20:
            return _UNSURE
        count = octets.length_at(buffer, start + 12)
        found = _NULL
        at = start + 20
        while count:
            count -= 1
            if at + 4 > stop:
                return _UNSURE
            length = octets.length_at(buffer, at)
            at += 4
            if length == 0xFFFFFFFF:
                continue
            if length > stop - at:
                return _UNSURE
            shard = self._by_single(k, width, True, buffer, at, at + length, is_utf8)
            at += length
            if shard < 0:
                return shard
            if found != shard and found != _NULL:
                return _SEVERAL
            found = shard
        return found if at == stop else _UNSURE

    def _by_elements(self, width: int, buffer: bytearray, start: int, stop: int, is_utf8: bool) -> int:
        """The shard of all keys in the array that is written as buffer[start:stop]; NULL if there are none."""
        if not is_utf8 and not octets.cut(buffer, start, stop).isascii():
            # There are encodings where half a character looks like a backslash.
            return _UNSURE
        at = arrays.opens_at(buffer, start, stop)
        if at < 0:
            return _UNSURE
        found = _NULL
        while True:
            kind, begin, end, at = arrays.next_element(buffer, at, stop)
            if kind == arrays.END:
                return found
            if kind == arrays.UNREAD:
                return _UNSURE
            if kind == arrays.PLAIN and arrays.is_null(buffer, begin, end):
                if self._family == _TEXT:
                    return _UNSURE  # with `array_nulls` off it is a text
                continue
            if kind == arrays.ESCAPED:
                plain = arrays.unescaped(buffer, begin, end)
                shard = self._by_written(width, plain, 0, len(plain), is_utf8)
            else:
                shard = self._by_written(width, buffer, begin, end, is_utf8)
            if shard < 0:
                return shard
            if found != shard and found != _NULL:
                return _SEVERAL
            found = shard

    def _by_written(self, width: int, buffer: bytearray, start: int, stop: int, is_utf8: bool) -> int:
        """The shard of the key that is written as buffer[start:stop]; an integer is one of so many bytes."""
        if self._family == _INTEGER:
            status, number = literals.read_integer(buffer, start, stop)
            return self._by_integer(number, width) if status == 0 else status
        if self._family == _TEXT:
            return self._by_text(octets.cut(buffer, start, stop), is_utf8)
        if self._family == _MOMENT:
            status, number = literals.read_moment(buffer, start, stop, self._key_oid == 1184)
            return self._table.shard_of_int(number) if status == 0 else status
        key = literals.read_uuid(buffer, start, stop)
        return self._table.shard_of_bytes(key) if len(key) == 16 else _WRONG_TEXT

    def _by_integer(self, number: int, width: int) -> int:
        """The shard of a number if it fits both the key's type and one of so many bytes."""
        width = min(width, self._key_bytes)
        if width == 4 and (number > 2147483647 or number < -2147483647 - 1):
            return _OUT_OF_RANGE
        if width == 2 and (number > 32767 or number < -32768):
            return _OUT_OF_RANGE
        return self._table.shard_of_int(number)

    def _by_text(self, text: bytes, is_utf8: bool) -> int:
        if self._is_varchar and text.endswith(b" "):
            return _UNSURE  # a column with a length may lose blanks at the end
        if not is_utf8 and not text.isascii():
            return _UNSURE
        return self._table.shard_of_bytes(text)


def integer_bytes(oid: int) -> int:
    """The bytes of an integer of this type, 8 if there is none (0), -1 if it is no integer."""
    if oid == 20 or oid == 0:
        return 8
    if oid == 23:
        return 4
    return 2 if oid == 21 else -1


def declared_type(types: bytes, number: int) -> int:
    """The type of parameter $number, 0 if it was left open."""
    at = 4 * number - 2
    if at + 4 > len(types):
        return 0
    return types[at] << 24 | types[at + 1] << 16 | types[at + 2] << 8 | types[at + 3]


def is_left_open(types: bytes, number: int) -> bool:
    """Whether nobody declared a type for parameter $number."""
    declared = declared_type(types, number)
    return declared == 0 or declared == _UNKNOWN


def two_bytes(buffer: bytearray, at: int) -> int:
    return buffer[at] << 8 | buffer[at + 1]


def signed_bytes(buffer: bytearray, at: int, width: int) -> int:
    """The number in so many bytes, the most significant one first, with its sign."""
    number = buffer[at]
    if number >= 128:
        number -= 256
    for k in range(1, width):
        number = number * 256 + buffer[at + k]
    return number


def has_byte(buffer: bytearray, start: int, stop: int, byte: int) -> bool:
    """Whether the byte is in buffer[start:stop]."""
    while start < stop:
        if buffer[start] == byte:
            return True
        start += 1
    return False
