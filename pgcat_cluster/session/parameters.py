"""A session's parameters as values, and the SQL that carries them from server to server.

The server itself says what a transaction left behind: `state_query` asks it, `State` is the answer. So SET in
functions, in DO blocks, rolled back or not, are all told apart by PostgreSQL and not by us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from msgspec import Struct

if TYPE_CHECKING:
    from pgcat_cluster.relay.client import Client

# Changing who one is goes last, and back first: under another role other parameters may be out of reach.
_IDENTITIES = ("session_authorization", "role")
# Of the session and yet not the client's: `seed` can not be read, the others follow from the transaction.
_NOT_CARRIED = frozenset(
    {"seed", "transaction_isolation", "transaction_read_only", "transaction_deferrable", "is_superuser"}
)


class Parameters:
    """What differs from a fresh session of the server, by lower-case name. Equal sets are one object."""

    __slots__ = ("__weakref__", "values")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = MappingProxyType(dict(values))

    def __repr__(self) -> str:
        return f"Parameters({', '.join(sorted(self.values))})"


class Catalogue:
    """Makes equal parameter sets identical, so that the data plane compares them by identity."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[frozenset[tuple[str, str]], Parameters] = WeakValueDictionary()
        self.none = self.of({})

    def of(self, values: Mapping[str, str]) -> Parameters:
        key = frozenset(values.items())
        parameters = self._known.get(key)
        if parameters is None:
            parameters = Parameters(values)
            self._known[key] = parameters
        return parameters


class State(Struct, frozen=True, kw_only=True):
    """What is left of a client on a server: its parameters, and the reasons why it must stay there.

    `prepared` are the names by which SQL can call statements that were prepared by protocol.
    """

    values: dict[str, str]
    pins: tuple[str, ...]
    prepared: frozenset[bytes]


def quote(value: str) -> str:
    """A string constant that means the same whatever standard_conforming_strings says."""
    doubled = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{doubled}'"


def align_query(have: Parameters, want: Parameters) -> bytes:
    """One Query that turns the parameters of a server session into those of a client; empty if none differ."""
    lost = [name for name in have.values if name not in want.values]
    changed = {name: value for name, value in want.values.items() if have.values.get(name) != value}
    parts = [f"RESET {name}" for name in reversed(_IDENTITIES) if name in have.values]
    parts += [f"RESET {_identifier(name)}" for name in lost if name not in _IDENTITIES]
    calls = [_call(name, value) for name, value in changed.items() if name not in _IDENTITIES]
    if calls:
        parts.append("SELECT " + ", ".join(calls))
    # Was reset above, so it is set again even if it is the same.
    parts += [f"SELECT {_call(name, want.values[name])}" for name in _IDENTITIES if name in want.values]
    return ";".join(parts).encode(errors="surrogateescape")


def _call(name: str, value: str) -> str:
    return f"pg_catalog.set_config({quote(name)},{quote(value)},false)"


def _identifier(name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


_DOTTED = re.compile(rb"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)+")
_NAMES_MAX = 50


def names_in(code: bytes) -> tuple[str, ...]:
    """Names with a dot that a piece of code mentions: among them are the custom parameters it sets."""
    found = dict.fromkeys(name.decode().lower() for name in _DOTTED.findall(code))
    return tuple(found)[:_NAMES_MAX]


def state_query(login: str, custom: Iterable[str], *, is_spelled: bool = False) -> bytes:
    """Ask a server what its session holds that a fresh one does not.

    `custom` names parameters with a dot: PostgreSQL lists them nowhere (they are placeholders). `is_spelled`
    asks for names of prepared statements too.
    """
    parts = [
        "SELECT 's', name, setting FROM pg_catalog.pg_settings WHERE source = 'session'",
        "SELECT 's', 'role', pg_catalog.current_setting('role') WHERE pg_catalog.current_setting('role') <> 'none'",
        f"SELECT 's', 'session_authorization', session_user::text WHERE session_user::text <> {quote(login)}",
        "SELECT 'p', 'listen', NULL FROM pg_catalog.pg_listening_channels()",
        "SELECT 'p', 'prepare', NULL FROM pg_catalog.pg_prepared_statements WHERE from_sql",
        "SELECT 'p', 'hold cursor', NULL FROM pg_catalog.pg_cursors WHERE is_holdable",
        "SELECT 'p', 'advisory lock', NULL FROM pg_catalog.pg_locks"
        " WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()",
        "SELECT 'p', 'temporary object', NULL FROM pg_catalog.pg_class"
        " WHERE relnamespace = pg_catalog.pg_my_temp_schema()",
    ]
    for name in custom:
        parts.append(
            f"SELECT 's', {quote(name)}, v FROM pg_catalog.current_setting({quote(name)}, true) v WHERE v IS NOT NULL"
        )
    if is_spelled:
        parts.append("SELECT 'n', name, NULL FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql")
    return " UNION ALL ".join(parts).encode(errors="surrogateescape")


def read_state(rows: Iterable[list[bytes | None]]) -> State:
    """The answer to `state_query`."""
    values: dict[str, str] = {}
    pins: dict[str, None] = {}
    prepared: set[bytes] = set()
    for kind, name, value in rows:
        assert name is not None
        text = name.decode(errors="surrogateescape")
        if kind == b"p":
            pins[text] = None
        elif kind == b"n":
            prepared.add(name)
        elif text.lower() not in _NOT_CARRIED:
            values[text.lower()] = (value or b"").decode(errors="surrogateescape")
    return State(values=values, pins=tuple(pins), prepared=frozenset(prepared))


def shuns_replicas(parameters: Parameters) -> bool:
    """Whether a standby refuses to run anything under these parameters."""
    return parameters.values.get("default_transaction_isolation", "").lower() == "serializable"


# Encodings whose multi-byte characters may contain ASCII bytes: constants can not be cut out of them safely.
_UNSAFE_ENCODINGS = frozenset(
    {"SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004", "SHIFTJIS2004"}
)


def is_utf8(reported: Mapping[str, str]) -> bool:
    """Whether the servers keep texts as the bytes that the client sends."""
    names = ("client_encoding", "server_encoding")
    return all(reported.get(name, "").upper() == "UTF8" for name in names)


def has_shapes(reported: Mapping[str, str]) -> bool:
    """Whether statements of a session with these reported parameters can be cut to shapes."""
    encoding = reported.get("client_encoding", "UTF8").upper()
    return encoding not in _UNSAFE_ENCODINGS and reported.get("standard_conforming_strings", "on") == "on"


# What says how a server reads constants, once for all when it parses or plans: of these it tells each change,
READ_AS_REPORTED = (
    "client_encoding",
    "standard_conforming_strings",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
)
# of these it does not.
READ_AS_SET = (
    *("array_nulls", "backslash_quote", "bytea_output", "extra_float_digits", "lc_monetary"),
    *("timezone_abbreviations", "transform_null_equals", "xmlbinary", "xmloption"),
)


def reading_context(reported: Mapping[str, str], parameters: Parameters) -> bytes:
    """What sessions must have in common to share a prepared statement, of which a server reads constants once."""
    known = [reported.get(name, "") for name in READ_AS_REPORTED]
    known += [f"{name}={parameters.values[name]}" for name in READ_AS_SET if name in parameters.values]
    return "\0".join(known).encode(errors="surrogateescape")


def read_as(client: Client, reported: Mapping[str, str]) -> None:
    """Statements of this client are read by the parameters that are in force for it."""
    parameters = client.parameters
    assert isinstance(parameters, Parameters)
    client.has_shapes = has_shapes(reported)
    client.is_utf8 = is_utf8(reported)
    client.context = client.path + reading_context(reported, parameters)
