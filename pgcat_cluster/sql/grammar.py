"""The one door to PostgreSQL's own grammar (pgparse): a text becomes a tree of nodes, or nothing."""

from __future__ import annotations

try:
    import pgparse
except ImportError:  # no wheel for this platform: the caller takes the fallback
    pgparse = None

TEXT_BYTES_MAX = 16 * 1024
"""Longer texts are not parsed: nesting could exhaust the C stack (no crash is known up to twice that)."""

Tree = str | int | float | bool | None | list["Tree"] | dict[str, "Tree"]

AVAILABLE: bool = pgparse is not None


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
