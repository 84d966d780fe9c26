"""The one door to PostgreSQL's own grammar (pgparse): a text becomes a tree of nodes, or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

try:
    import pgparse
except ImportError:  # no wheel for this platform: the caller takes the fallback
    pgparse = None

TEXT_BYTES_MAX = 16 * 1024
"""Longer texts are not parsed: nesting could exhaust the C stack (no crash is known up to twice that)."""

Tree = str | int | float | bool | None | list["Tree"] | dict[str, "Tree"]

AVAILABLE: bool = pgparse is not None


POSTGRESQL = 17
"""The major version of the server whose grammar it is."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """Why a text does not parse, in PostgreSQL's words, and at which character, counted from 1."""

    sqlstate: str
    message: str
    position: int | None


def fits(text: str) -> bool:
    """Whether a parser may see it: short enough, encodable, without the NUL that would end it silently."""
    if len(text) > TEXT_BYTES_MAX or "\0" in text:
        return False
    try:
        return len(text.encode()) <= TEXT_BYTES_MAX
    except UnicodeEncodeError:
        return False


def parse(text: str) -> list[dict[str, Tree]] | None:
    """The statements of a text that `fits`, each `{NodeName: fields}`; None if it does not parse."""
    try:
        return [entry["stmt"] for entry in pgparse.parse(text)]
    except (pgparse.PGQueryError, RecursionError, ValueError):
        return None


def mistake_in(text: str) -> Mistake | None:
    """What PostgreSQL would say of a text that breaks its grammar; None if it does not, or nobody can tell."""
    if not AVAILABLE or not fits(text):
        return None
    try:
        pgparse.parse(text)
    except pgparse.PGQueryError as error:
        return Mistake(_sqlstate(error.message), error.message, error.position or None)
    except (RecursionError, ValueError):
        pass
    return None


# The parser tells no code. These are of scan.l and gram.y; all other words have that of syntax errors.
_SYNTAX = "42601"
_CODES = {
    "22025": r"invalid Unicode escape",
    "22023": r"precision for type float .*|unrecognized partitioning strategy .*",
    "42939": r"role name .* is reserved|\w+ cannot be used as a role name here",
    "42P20": r"frame .*",
    "0A000": r".* not yet implemented|.* constraints cannot be marked .*|.*(?<! syntax) is not supported"
    r"|.* not supported on recursive views|CREATE SCHEMA IF NOT EXISTS cannot include schema elements",
}
_CODED = re.compile("|".join(f"(?P<code_{code}>{words})" for code, words in _CODES.items()))


def _sqlstate(message: str) -> str:
    found = _CODED.fullmatch(message)
    return _SYNTAX if found is None or found.lastgroup is None else found.lastgroup.removeprefix("code_")
