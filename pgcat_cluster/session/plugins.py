"""What a pool's plugins make of a statement: refuse it, answer it here, say how it may be logged."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from pgcat_cluster.errors import Fault, TableRefused, Unsupported
from pgcat_cluster.relay.shapes import Scanner, render
from pgcat_cluster.sql.form import form_of
from pgcat_cluster.sql.relations import Relation, relations
from pgcat_cluster.topology.model import PoolKey
from pgcat_cluster.topology.settings import InterceptedQuery, Plugins, TableAccess
from pgcat_cluster.wire import messages

# Type id and size by name; of any other name PgCat makes "any".
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
_TRUE: Final = frozenset({"t", "true", "y", "yes", "on", "1"})

_MARKERS: Final = re.compile(rb"\0m|\0[a-z]")
_MAY_HOLD_A_PASSWORD: Final = re.compile(rb"passw|secret|scram-sha-256|\bmd5|connection", re.IGNORECASE)


class Column(Struct, frozen=True):
    name: str
    oid: int
    size: int


class Interception(Struct, frozen=True, kw_only=True):
    """The answer to an intercepted statement. Formats are those of Bind: none, one for all, or one a column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str | None, ...], ...]

    def description(self, formats: Sequence[int] = ()) -> bytes:
        """RowDescription."""
        columns = [(column.name, column.oid, column.size) for column in self.columns]
        return messages.row_description(columns, self._formats(formats))

    def execution(self, formats: Sequence[int] = ()) -> bytes:
        """What follows Execute: rows and tag. Raises Unsupported for a value that has no binary form here."""
        asked = self._formats(formats)
        rows = [
            messages.data_row(
                [
                    _value(value, column, form)
                    for value, column, form in zip(row, self.columns, asked, strict=True)
                ]
            )
            for row in self.rows
        ]
        return b"".join(rows) + messages.command_complete(f"SELECT {len(rows)}")

    def _formats(self, formats: Sequence[int]) -> Sequence[int]:
        if len(formats) < 2:
            return (formats[0] if formats else 0,) * len(self.columns)
        return formats


def _value(value: str | None, column: Column, form: int) -> bytes | None:
    if value is None:
        return None
    if form == 0 or column.oid in _TEXTS:
        return value.encode()
    try:
        if column.oid in _WHOLE_NUMBERS:
            return int(value).to_bytes(_WHOLE_NUMBERS[column.oid], "big", signed=column.oid != 26)
        if column.oid == 16:
            return b"\1" if value.lower() in _TRUE else b"\0"
        if column.oid in (700, 701):
            return struct.pack("!f" if column.oid == 700 else "!d", float(value))
    except (ValueError, OverflowError):
        pass
    raise Unsupported(f'the intercepted value of column "{column.name}" has no binary form here')


class Refusal(Struct, frozen=True):
    """A statement that no server shall see, and what its client is told."""

    fault: Fault


class PoolPlugins:
    """The plugins of one (database, user) that look at statements, made of settings once.

    What it says of a statement depends on its text and the settings alone; PgCat's order is kept: what is
    intercepted is answered though a rule would refuse it.
    """

    def __init__(self, settings: Plugins, key: PoolKey) -> None:
        self._scanner = Scanner()
        self.logs = settings.query_logger.enabled
        self._logs_constants = settings.query_logger.constants
        self._rules = _Rules(settings.table_access) if settings.table_access.enabled else None
        self._answers: dict[tuple[str, ...], Interception] = {}
        self._shapes: set[bytes] = set()
        if settings.intercept.enabled:
            for query in settings.intercept.queries.values():
                self._learn(query, key)

    def _learn(self, query: InterceptedQuery, key: PoolKey) -> None:
        shape = self._shape(query.query.encode())
        form = form_of(query.query)
        if shape is not None and form is not None:
            self._shapes.add(_squeezed(shape))
            self._answers[form] = _interception(query, key)

    def _shape(self, text: bytes) -> bytes | None:
        return self._scanner.scan(bytearray(text), 0, len(text))

    def depends_on_constants(self, shape: bytes) -> bool:
        """Whether of statements of this shape one may be intercepted and another one not."""
        return bool(self._shapes) and _squeezed(shape) in self._shapes

    def judge(self, text: bytes, shape: bytes | None) -> Interception | Refusal | None:
        """What becomes of a statement instead of being sent on. `shape` is None where it is not understood."""
        said = text.decode(errors="surrogateescape")
        if shape is not None and self.depends_on_constants(shape):
            form = form_of(said)
            if form is not None and form in self._answers:
                return self._answers[form]
        if self._rules is None:
            return None
        fault = self._rules.refusal(None if shape is None else render(shape), said)
        return None if fault is None else Refusal(fault)

    def logged(self, text: bytes) -> str:
        """A statement as it is logged: constants only where settings say so, and none that may be a password."""
        if self._logs_constants and not _MAY_HOLD_A_PASSWORD.search(text):
            return text.decode(errors="replace")
        shape = self._shape(text)
        if shape is None:
            return f"(not understood, {len(text)} bytes)"
        return _MARKERS.sub(_as_logged, shape).decode(errors="replace")


def _squeezed(shape: bytes) -> bytes:
    """The same for shapes of statements that may have one form: a first look, which is cheap."""
    return shape.replace(b" ", b"")


def _as_logged(marker: re.Match[bytes]) -> bytes:
    return b", ..." if marker.group() == b"\0m" else b"?"


def plugins_of(settings: Plugins | None, key: PoolKey) -> PoolPlugins | None:
    """Those of a pool; None where no plugin looks at statements."""
    return PoolPlugins(settings, key) if settings is not None and settings.sees_statements else None


def _interception(query: InterceptedQuery, key: PoolKey) -> Interception:
    columns = tuple(Column(name, *_TYPES.get(kind.lower(), _ANY)) for name, kind in query.schema)
    rows = tuple(tuple(_filled(value, key) for value in row) for row in query.result)
    return Interception(columns=columns, rows=rows)


def _filled(value: str, key: PoolKey) -> str | None:
    return value.replace("${USER}", key.user).replace("${DATABASE}", key.database) or None


class _Rules:
    """Tables that may not be named, each with its schema or without: by their name the schemas they are refused in."""

    def __init__(self, settings: TableAccess) -> None:
        self._schemas: dict[str, set[str]] = {}
        for rule in settings.tables:
            *schema, name = (_folded(part) for part in re.findall(r'"(?:[^"]|"")+"|[^".]+', rule))
            self._schemas.setdefault(name, set()).add(schema[0] if schema else "")

    def refusal(self, words: str | None, text: str) -> TableRefused | None:
        """`words` are the statement with other constants, None where it is not understood; `text` is its own."""
        named = None if words is None else relations(words)
        if named is not None and re.search(r"\bdo\b", words or ""):
            # Code is a constant.
            named = relations(text)
        if named is None:
            return TableRefused(
                "permission for a statement that is not understood denied",
                detail="Access to tables is restricted, and which ones it names can not be told.",
            )
        refused = sorted(one.name for one in named if self._is_refused(one))
        return TableRefused(f'permission for table "{refused[0]}" denied') if refused else None

    def _is_refused(self, relation: Relation) -> bool:
        schemas = self._schemas.get(relation.name)
        # A search_path, which is the client's, says what a bare name means.
        return schemas is not None and (not relation.schema or "" in schemas or relation.schema in schemas)


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
