"""Finds which sharding keys a statement string is bound to, so that it can run on their shard alone."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import grammar
from .builtin_functions import VOLATILITY
from .functions import FUNCTIONS, SET_CONFIG
from .key_rules import KeyRules, Kind
from .levels import Refusal, Unread
from .queries import Queries
from .statement import Effect
from .terms import Term, Terms, type_name
from .tree import Node, child, names, nodes, number, only, text

__all__ = ["KeyRules", "Keys", "Term", "Verdict", "find_keys"]


class Verdict(enum.Enum):
    """Where a statement string may run."""

    ANYWHERE = "on any shard"
    """It names no sharded table, and does nothing but read or steer its session."""
    KEYED = "on the shard of its keys"
    """One shard knows its answer if all its terms lead there."""
    NOWHERE = "on no shard that could be told"
    """Or on all; in a transaction it does what it does on the shard of that."""
    UNREAD = "on no shard that could be told, nor on that of a transaction"
    """It has keys, or writes rows, that may be another shard's or every shard's: one would miss or misplace them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What binds a statement string. KEYED promises: if all terms lead to one shard, that shard alone gives the
    answer of the whole database, given that each sharded table is split by its key with one map and that
    reference tables are whole everywhere. Functions of users are taken to look at no other table.
    """

    verdict: Verdict
    reason: str
    """The key columns it is bound by, or why it is bound to none; no constant of the statement is in it."""
    terms: tuple[Term, ...] = ()
    sets_key: bool = False
    """Among the terms may be new values of a row's key."""
    by_path: bool = False
    """Another search_path might lead to another verdict."""


def find_keys(statement: str, rules: KeyRules) -> Keys:
    """Judges a statement string, or the rendered text of a shape: no constant's value has a say."""
    if not grammar.AVAILABLE:
        return _unread("not understood: PostgreSQL's grammar is not installed")
    if not grammar.fits(statement):
        return _unread("not understood: too long, or not text")
    statements = grammar.parse(statement)
    if statements is None:
        return _nowhere("not understood: does not parse")
    trees = [nodes(root) for root in statements]
    values = Terms(statement.encode(), _alone(trees))
    terms: dict[Term, None] = {}
    keys: dict[str, None] = {}
    sets_key = by_path = False
    for root, tree in zip(statements, trees):
        queries = Queries(rules, values)
        try:
            _judge(*only(root), queries)
            _weigh(tree, is_keyed=bool(queries.terms))
        except Refusal as refusal:
            verdict = Verdict.UNREAD if isinstance(refusal, Unread) else Verdict.NOWHERE
            return Keys(verdict=verdict, reason=str(refusal), by_path=by_path or queries.by_path)
        by_path |= queries.by_path
        terms.update(queries.terms)
        keys.update(queries.keys)
        sets_key |= queries.sets_key
    if not terms:
        return Keys(verdict=Verdict.ANYWHERE, reason="names no sharded table", by_path=by_path)
    reason = f"by {', '.join(keys)}"
    return Keys(verdict=Verdict.KEYED, reason=reason, terms=tuple(terms), sets_key=sets_key, by_path=by_path)


def _alone(trees: Iterable[Iterable[tuple[str, Node]]]) -> frozenset[int]:
    """Parameters that occur once, or only in casts to one type: PostgreSQL takes it for theirs."""
    # By place, since the tree has the row of `set (a, b) = (…)` once for each column.
    places: dict[int, set[tuple[int, int]]] = {}
    casts: dict[tuple[int, str], set[tuple[int, int]]] = {}
    for n, tree in enumerate(trees):
        for kind, body in tree:
            if kind == "ParamRef":
                places.setdefault(number(body, "number"), set()).add((n, number(body, "location")))
            elif kind == "TypeCast" and "ParamRef" in child(body, "arg"):
                of = child(child(body, "arg"), "ParamRef")
                name = type_name(child(body, "typeName"))
                if name:
                    cast = number(of, "number"), name
                    casts.setdefault(cast, set()).add((n, number(of, "location")))
    once = [parameter for parameter, at in places.items() if len(at) == 1]
    return frozenset(once + [parameter for (parameter, _), at in casts.items() if at == places[parameter]])


def _nowhere(reason: str) -> Keys:
    return Keys(verdict=Verdict.NOWHERE, reason=reason)


def _unread(reason: str) -> Keys:
    return Keys(verdict=Verdict.UNREAD, reason=reason)


def _judge(kind: str, body: Node, queries: Queries) -> None:
    """Adds the terms of one statement; Refusal if nobody can tell its shard."""
    if kind in _QUERIES:
        queries.statement(kind, body)
    elif kind in _WRAPPERS:
        _judge(*only(child(body, "query")), queries)
    elif kind in _SPECIAL:
        _SPECIAL[kind](body, queries)
    elif kind not in _NEUTRAL:
        refusal = Unread if kind == "ExecuteStmt" and not queries.rules.is_empty else Refusal
        raise refusal(_REASONS.get(kind, "concerns every shard"))


def _weigh(tree: Iterable[tuple[str, Node]], *, is_keyed: bool) -> None:
    """Refusal if a statement does what its tables do not tell: a function or a lock has no shard of its own."""
    for kind, node in tree:
        if kind == "FuncCall":
            path = names(node, "funcname")
            name = path[-1]
            if name in _READ_BY_TEXT:
                raise Refusal(f"calls {name}(), which reads what the statement does not name")
            if not is_keyed and not _only_reads(path):
                raise Refusal(f"calls {name}(), and names no sharded table that tells where")
        if "lockingClause" in node and not is_keyed:
            raise Refusal("locks rows that are on every shard")


def _only_reads(path: list[str]) -> bool:
    """Whether a function is built in and does the same on any shard: it reads, or sets a parameter."""
    name = path[-1]
    if path[:-1] not in ([], ["pg_catalog"]) or name not in VOLATILITY:
        return False
    return (
        name == SET_CONFIG
        or FUNCTIONS.get(name, frozenset()) == {Effect.SETS_PARAMETER}
        or name not in FUNCTIONS
    )


def _copy(body: Node, queries: Queries) -> None:
    if "filename" in body or body.get("is_program"):
        raise Refusal("copies from or to a file of one server")
    if "query" in body:
        _judge(*only(child(body, "query")), queries)
        return
    placement = queries.placement(child(body, "relation"))
    if body.get("is_from"):
        raise Unread("copies rows in, and each may belong to another shard")
    if placement.kind is Kind.SHARDED:
        raise Refusal("copies a whole table, which is on every shard")


def _transaction(body: Node, _: Queries) -> None:
    if text(body, "kind") in ("TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED"):
        raise Refusal("ends a prepared transaction, and nobody can tell where that is")


_QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_WRAPPERS = frozenset({"ExplainStmt", "DeclareCursorStmt"})
_SPECIAL: dict[str, Callable[[Node, Queries], None]] = {"CopyStmt": _copy, "TransactionStmt": _transaction}
# They concern the session or its transaction, wherever that is.
_NEUTRAL = frozenset(
    {
        "VariableSetStmt",
        "VariableShowStmt",
        "ConstraintsSetStmt",
        "DeallocateStmt",
        "DiscardStmt",
        "FetchStmt",
        "ClosePortalStmt",
    }
)
_REASONS = {
    "PrepareStmt": "prepares by SQL, and its values come later",
    "ExecuteStmt": "executes what was prepared by SQL, and its values are not looked at",
    "ListenStmt": "listens on one server alone",
    "UnlistenStmt": "listens on one server alone",
    "NotifyStmt": "notifies those who listen on one server alone",
    "DoStmt": "runs code that is not looked at",
    "CallStmt": "calls a procedure that is not looked at",
}
_READ_BY_TEXT = frozenset(name for name, effects in FUNCTIONS.items() if Effect.RUNS_CODE in effects) | {
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
}
"""Functions that are told in a text what to read."""
