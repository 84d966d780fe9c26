"""What a node answers by itself, as values and as frames of both protocols, in the formats a client asks for.

In the simple protocol the answer is `simple_frames`, in the extended one `description` (after Describe) and
`execution_frames` (after Execute); what is known before a command is carried out are its columns.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from pgcat_cluster.errors import Fault, Unsupported
from pgcat_cluster.wire import messages

# Type id and size by name; any other name means "any", as in PgCat.
_TYPES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "any": (2276, 4),
        "anyarray": (2277, -1),
        "bool": (16, 1),
        "bpchar": (1042, -1),
        "date": (1082, 4),
        "float4": (700, 4),
        "float8": (701, 8),
        "int2": (21, 2),
        "int4": (23, 4),
        "int8": (20, 8),
        "json": (114, -1),
        "name": (19, 64),
        "numeric": (1700, -1),
        "oid": (26, 4),
        "text": (25, -1),
        "timestamp": (1114, 8),
        "timestamptz": (1184, 8),
        "uuid": (2950, 16),
        "varchar": (1043, -1),
    }
)
_ANY: Final = _TYPES["any"]
_WHOLE_NUMBERS: Final = {21: 2, 23: 4, 20: 8, 26: 4}
_TEXTS: Final = frozenset({19, 25, 114, 1042, 1043})
_BOOL: Final = 16
_OID: Final = 26
_FLOATS: Final = {700: "!f", 701: "!d"}
_TRUE: Final = frozenset({"t", "true", "y", "yes", "on", "1"})


class Column(Struct, frozen=True):
    """A column; of text unless it is said otherwise."""

    name: str
    oid: int = 25
    size: int = -1


class Warned(Struct, frozen=True, kw_only=True):
    """Something a client is told beside its answer."""

    sqlstate: str
    text: str


class CommandAnswer(Struct, frozen=True, kw_only=True):
    """What is answered without a server: rows under columns and a tag, or a fault alone."""

    tag: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    warned: Warned | None = None
    fault: Fault | None = None


def column(name: str, kind: str) -> Column:
    """A column by the name of its type."""
    return Column(name, *_TYPES.get(kind.lower(), _ANY))


def description(columns: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """RowDescription, or NoData. Formats are those of Bind: none, one for all, or one a column."""
    if not columns:
        return messages.no_data()
    shown = [(column.name, column.oid, column.size) for column in columns]
    return messages.row_description(shown, _each(columns, formats))


def row(values: Sequence[str | None], columns: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """DataRow. Raises Unsupported for a value that has no binary form here and is asked for in it."""
    asked = zip(values, columns, _each(columns, formats), strict=True)
    return messages.data_row([_value(*one) for one in asked])


def result_formats(bind: bytes) -> tuple[int, ...]:
    """The formats in which a Bind wants its results: `bind` is what follows its names, empty where there was none."""
    return messages.parse_bind(b"\0\0" + bind).result_formats if bind else ()


def _each(columns: Sequence[Column], formats: Sequence[int]) -> Sequence[int]:
    return (formats[0] if formats else 0,) * len(columns) if len(formats) < 2 else formats


def _value(value: str | None, column: Column, form: int) -> bytes | None:
    if value is None:
        return None
    if form == 0 or column.oid in _TEXTS:
        return value.encode(errors="surrogateescape")
    try:
        if column.oid in _WHOLE_NUMBERS:
            return int(value).to_bytes(_WHOLE_NUMBERS[column.oid], "big", signed=column.oid != _OID)
        if column.oid == _BOOL:
            return b"\1" if value.lower() in _TRUE else b"\0"
        if column.oid in _FLOATS:
            return struct.pack(_FLOATS[column.oid], float(value))
    except (ValueError, OverflowError):
        pass
    raise Unsupported(f'the value of column "{column.name}" has no binary form here')


def simple_frames(answer: CommandAnswer, status: int) -> bytes:
    """The whole answer to a simple Query; `status` is that of the client's transaction."""
    columns = description(answer.columns) if answer.columns and answer.fault is None else b""
    return columns + execution_frames(answer) + messages.ready_for_query(bytes((status,)))


def execution_frames(answer: CommandAnswer, formats: Sequence[int] = ()) -> bytes:
    """What follows Execute: the rows and the tag, or an ErrorResponse. `formats` are those of Bind."""
    if answer.fault is not None:
        return messages.error_response(answer.fault)
    parts = []
    if answer.warned is not None:
        parts.append(messages.notice("WARNING", answer.warned.sqlstate, answer.warned.text))
    try:
        parts += [row(values, answer.columns, formats) for values in answer.rows]
    except Unsupported as fault:
        return messages.error_response(fault)
    return b"".join([*parts, messages.command_complete(answer.tag)])


def as_fatal(error: bytes) -> bytes:
    """An ErrorResponse body as the last message of a login that failed."""
    fields = error.split(b"\0")
    changed = [
        b"SFATAL" if field[:1] == b"S" else b"VFATAL" if field[:1] == b"V" else field
        for field in fields
        if field
    ]
    body = b"\0".join(changed) + b"\0\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body
