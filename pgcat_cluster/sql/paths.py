"""Says what a statement string does to its session's search_path, and reads the value of one as PostgreSQL does."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from . import grammar
from .functions import SET_CONFIG
from .tree import Node, child, children, names, nodes, only, text

_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(,|$)')


@dataclass(frozen=True, slots=True)
class Path:
    """A search_path that a session was given; `schemas` None: nobody knows which."""

    schemas: tuple[str, ...] | None


UNKNOWN = Path(None)
DEFAULT = Path(("$user", "public"))


class Step(enum.Enum):
    """A change to what was before."""

    RESET = "to what the session began with"
    END = "to what it was before the transaction, if that had set it for itself"
    BACK = "to what it was at a savepoint"


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of search_path; `to` None: nothing. `saves`: it may come back to this moment, by a savepoint.

    `is_mixed`: what is read by it stands behind the change, in the same string.
    """

    to: Path | Step | None
    is_mixed: bool
    saves: bool


def path_of(value: str) -> Path:
    """The value of the parameter, as SHOW tells it and set_config takes it."""
    schemas: list[str] = []
    position = 0
    if not value.strip():
        return Path(())
    while True:
        found = _NAME.match(value, position)
        if found is None:
            return UNKNOWN
        quoted, plain, more = found.groups()
        # PostgreSQL folds ASCII letters alone in UTF-8 databases of most locales.
        schemas.append(
            quoted.replace('""', '"')
            if quoted is not None
            else "".join(letter.lower() if letter.isascii() else letter for letter in plain)
        )
        if not more:
            return Path(tuple(schemas))
        position = found.end()


def value_of(schemas: tuple[str, ...]) -> str:
    """The value of the parameter, the same for each way to write it."""
    return ",".join('"' + schema.replace('"', '""') + '"' for schema in schemas)


def change_of(statement: str) -> Change | None:
    """What a statement string does to search_path; None for nothing that can be seen."""
    statements = grammar.parse(statement) if grammar.AVAILABLE and grammar.fits(statement) else None
    to: Path | Step | None = None
    is_mixed = saves = False
    for root in statements or ():
        kind, body = only(root)
        saves |= text(body, "kind") == "TRANS_STMT_SAVEPOINT"
        is_mixed |= to is not None and kind not in ("VariableSetStmt", "TransactionStmt")
        step = _step(kind, body, statement)
        if step is not None:
            to = UNKNOWN if to is not None and step in (Step.END, Step.BACK) else step
    return Change(to, is_mixed, saves) if to is not None or saves else None


def _step(kind: str, body: Node, statement: str) -> Path | Step | None:
    match kind:
        case "TransactionStmt":
            verb = text(body, "kind")
            return Step.BACK if verb == "TRANS_STMT_ROLLBACK_TO" else None if verb in _GOES_ON else Step.END
        case "VariableSetStmt":
            return _set(body)
        case "DiscardStmt":
            return Step.RESET if text(body, "target") == "DISCARD_ALL" else None
        case "ExecuteStmt":
            return UNKNOWN
        case "DoStmt":
            return UNKNOWN if "search_path" in statement.lower() else None
    found = nodes({kind: body})
    if any(
        node_kind == "UpdateStmt" and text(child(node, "relation"), "relname") == "pg_settings"
        for node_kind, node in found
    ):
        return UNKNOWN
    calls = [node for node_kind, node in found if node_kind == "FuncCall" and _is_set_config(node)]
    paths = [path for path in map(_called, calls) if path is not None]
    if not paths:
        return None
    return paths[0] if len(paths) == 1 and _only_calls(kind, body, calls) else UNKNOWN


_GOES_ON = ("TRANS_STMT_BEGIN", "TRANS_STMT_START", "TRANS_STMT_SAVEPOINT", "TRANS_STMT_RELEASE")


def _set(body: Node) -> Path | Step | None:
    if text(body, "kind") == "VAR_RESET_ALL":
        return Step.RESET
    if (text(body, "name") or "").lower() != "search_path":
        return None
    match text(body, "kind"):
        case "VAR_SET_DEFAULT" | "VAR_RESET":
            return Step.RESET
        case "VAR_SET_VALUE":
            schemas = [_constant(value) for value in children(body, "args")]
            return (
                Path(tuple(name for name in schemas if name is not None)) if None not in schemas else UNKNOWN
            )
    return UNKNOWN


def _is_set_config(call: Node) -> bool:
    return names(call, "funcname")[-1:] == [SET_CONFIG]


def _called(call: Node) -> Path | None:
    """What one call of set_config sets it to; None: it is about another parameter."""
    arguments = children(call, "args")
    name = _constant(arguments[0]) if len(arguments) == 3 else None
    if name is None:
        return UNKNOWN
    if name.lower() != "search_path":
        return None
    value = _constant(arguments[1])
    return UNKNOWN if value is None else path_of(value)


def _only_calls(kind: str, body: Node, calls: list[Node]) -> bool:
    """Whether a statement is SELECT with a list of such calls and no more, so that each is called once."""
    targets = [child(child(target, "ResTarget"), "val") for target in children(body, "targetList")]
    more = [field for field, value in body.items() if field not in _PLAIN and value]
    return (
        kind == "SelectStmt"
        and not more
        and len(targets) == len(calls)
        and all("FuncCall" in target for target in targets)
    )


_PLAIN = ("targetList", "limitOption", "op")


def _constant(node: Node) -> str | None:
    return text(child(child(node, "A_Const"), "sval"), "sval")
