"""Columns and values of console answers, in PostgreSQL's text and binary formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.snapshot import NodeSnapshot

Value = str | int | bytes | None
Row = tuple[Value, ...]

# The letters of the tables below and in the dialects: type oid, and size (-1: variable).
TYPES = {
    "s": (25, -1),  # text
    "i": (23, 4),  # int4
    "q": (20, 8),  # int8
    "N": (1700, -1),  # numeric
    "T": (25, -1),  # a time, printed as text
    "b": (17, -1),  # bytea
}
_INTEGER_BYTES = {23: 4, 20: 8}


class Column(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    type_oid: int
    type_size: int


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One SHOW command: its columns, and its rows in any order. `tag` is what completes it."""

    columns: tuple[Column, ...]
    rows: Callable[[NodeSnapshot, History], list[Row]]
    needs_connections: bool = False
    tag: str = "SHOW"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a command gives: rows of its columns or none, then its tag; a notice may come first."""

    tag: str
    columns: tuple[Column, ...] | None = None
    rows: Sequence[Row] = ()
    notice: bytes = b""
    closes: bool = False


def columns(names: str, letters: str) -> tuple[Column, ...]:
    """Columns from their names, separated by blanks, and one type letter each."""
    return tuple(
        Column(name=name, type_oid=TYPES[letter][0], type_size=TYPES[letter][1])
        for name, letter in zip(names.split(), letters, strict=True)
    )


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """By the leading columns, NULL first: the same state always gives the same answer."""
    return sorted(rows, key=lambda row: tuple((value is not None, value) for value in row))


def encode_row(table: Sequence[Column], formats: Sequence[int], row: Row) -> list[bytes | None]:
    return [
        _encode(column.type_oid, is_binary == 1, value)
        for column, is_binary, value in zip(table, formats, row, strict=True)
    ]


def _encode(type_oid: int, is_binary: bool, value: Value) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value if is_binary else b"\\x" + value.hex().encode()
    if isinstance(value, str):
        # A client's own names may be in any encoding, but readers insist on UTF-8.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
    if type_oid in _INTEGER_BYTES:
        size_bytes = _INTEGER_BYTES[type_oid]
        # A total may outgrow the type the original gave it; the largest number is better than a broken row.
        number = min(value, (1 << 8 * size_bytes - 1) - 1)
        return number.to_bytes(size_bytes, "big", signed=True) if is_binary else b"%d" % number
    return _numeric(value) if is_binary else b"%d" % value


def _numeric(count: int) -> bytes:
    """numeric's binary form: digits to the base of 10000 behind their number, weight, sign and scale."""
    digits: list[int] = []
    while count:
        count, digit = divmod(count, 10_000)
        digits.insert(0, digit)
    header = (len(digits), max(0, len(digits) - 1), 0, 0)
    return b"".join(part.to_bytes(2, "big") for part in (*header, *digits))
