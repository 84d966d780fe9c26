"""Judges statements where PostgreSQL's grammar can not be had: by keywords; the one door to sqlglot.

sqlglot misreads statements without an error, so it is never asked what a statement is. The first keyword says
that; words that write or lock anywhere in a query refuse it; and only what sqlglot then recognises as a query
may be a read. The cost is precision, not safety: some reads stay on the primary, EXPLAIN and COPY always.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import errors, expressions

from .findings import NOT_PARSED, Findings, unknown
from .functions import SET_CONFIG
from .statement import Analysis, Effect, TransactionVerb
from .tokens import NotUnderstood, Token, cut
from .volatility import FunctionRules


def analyze(text: str, rules: FunctionRules) -> Analysis:
    """Like `analysis.analyze`, with less insight."""
    findings = Findings(rules=rules)
    count = 0
    try:
        for statement in _statements(text):
            count += 1
            _judge(statement, findings)
    except NotUnderstood:
        return unknown(NOT_PARSED)
    return findings.conclude(count)


# --- cutting


def _statements(text: str) -> Iterator[list[Token]]:
    statement: list[Token] = []
    for token in cut(text):
        if token.text != ";":
            statement.append(token)
        elif statement:
            yield statement
            statement = []
    if statement:
        yield statement


# --- judging


def _judge(tokens: list[Token], findings: Findings) -> None:
    words = [token.name if token.is_keyword else "" for token in tokens]
    first = words[0]
    if first in _QUERIES or tokens[0].text == "(":
        _query(tokens, words, findings)
    elif first in _TRANSACTION_WORDS or words[:2] == ["prepare", "transaction"]:
        _transaction(words, findings)
    elif first == "set":
        _set(tokens, words, findings)
    elif first == "show":
        findings.show(_parameter_named(tokens, words))
    elif first in _PLAIN:
        reason, effects = _PLAIN[first]
        findings.refuse(reason, *effects)
        _details(tokens, words, findings)
    else:
        raise NotUnderstood
    _calls(tokens, findings)


def _follow(words: list[str], *wanted: str) -> bool:
    """Whether these words stand next to each other somewhere."""
    width = len(wanted)
    return any(tuple(words[at : at + width]) == wanted for at in range(len(words) - width + 1))


_QUERIES = frozenset({"select", "values", "with", "table"})
_READING_ROOTS = (expressions.Select, expressions.Values, expressions.SetOperation, expressions.Subquery)
_REFUSED_NODES = (
    expressions.Lock,
    expressions.Into,
    expressions.Insert,
    expressions.Update,
    expressions.Delete,
    expressions.Merge,
    expressions.Command,
)
_WRITING_WORDS = ("insert", "update", "delete", "merge")


def _query(tokens: list[Token], words: list[str], findings: Findings) -> None:
    for word in _WRITING_WORDS:
        # FOR UPDATE and a column named `update` are taken for writes too: no read is worth the risk.
        if word in words:
            findings.refuse(f"writes: {word}", Effect.WRITES)
    if "into" in words:
        effect = Effect.TEMPORARY if {"temp", "temporary"} & set(words) else Effect.WRITES
        findings.refuse("writes: select into", effect)
    if any(_follow(words, "for", strength) for strength in ("share", "no", "key")):
        findings.refuse("locks rows", Effect.WRITES)
    if any(token.name.startswith("pg_temp") for token in tokens):
        findings.refuse("names a temporary object")
    if "pg_settings" in (token.name for token in tokens) and "update" in words:
        findings.refuse("writes: update", Effect.SETS_PARAMETER)
        findings.parameters.append(None)
    if findings.reason is None and words[0] != "table":
        _require_query(tokens)


def _require_query(tokens: list[Token]) -> None:
    try:
        roots = sqlglot.parse(_joined(tokens), read="postgres")
    except (errors.SqlglotError, RecursionError) as fault:
        raise NotUnderstood from fault
    if len(roots) != 1 or not isinstance(roots[0], _READING_ROOTS) or roots[0].find(*_REFUSED_NODES):
        raise NotUnderstood


def _joined(tokens: list[Token]) -> str:
    # sqlglot takes two parameters without a blank between them for a dollar quote, so all but operators
    # stands between blanks.
    pieces: list[str] = []
    for token in tokens:
        is_mark = not (token.name or token.is_string or token.is_value)
        pieces.append(token.text if is_mark else f" {token.text} ")
    return "".join(pieces)


_TRANSACTION_WORDS = frozenset(
    {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"}
)


def _transaction(words: list[str], findings: Findings) -> None:
    chains = _follow(words, "and", "chain")
    match words[0]:
        case "begin" | "start":
            if _follow(words, "read", "only") and not {"write", "serializable"} & set(words):
                verb, reason = TransactionVerb.BEGIN_READ_ONLY, "begins a read-only transaction"
            else:
                verb, reason = TransactionVerb.BEGIN, "begins a transaction"
            findings.control(verb, reason, opens=True)
        case "prepare":
            findings.control(TransactionVerb.OTHER, "prepares a transaction", ends=True)
            findings.effects.add(Effect.WRITES)
        case "commit" | "rollback" if "prepared" in words[:2]:
            findings.control(TransactionVerb.OTHER, "ends a prepared transaction")
            findings.effects.add(Effect.WRITES)
        case "rollback" | "abort" if "to" not in words:
            findings.control(TransactionVerb.ROLLBACK, "ends a transaction", opens=chains, ends=True)
        case "commit" | "end":
            findings.control(TransactionVerb.COMMIT, "ends a transaction", opens=chains, ends=True)
        case _:
            findings.control(TransactionVerb.OTHER, "controls a savepoint")
            findings.effects.add(Effect.SAVES)


_NAMES_OF_SET = {"time": "timezone", "names": "client_encoding", "schema": "search_path", "xml": "xmloption"}


def _set(tokens: list[Token], words: list[str], findings: Findings) -> None:
    match words[1:]:
        case ["constraints", *_]:
            findings.refuse("sets constraints")
            return
        case ["transaction", *_] | ["local", "transaction", *_]:
            findings.control(TransactionVerb.OTHER, "sets transaction modes")
            return
        case ["session", "characteristics", *_]:
            findings.parameters.append(None)
        case ["session", "authorization", *_] | [_, "session", "authorization", *_]:
            findings.parameters.append("session_authorization")
        case _:
            at = 2 if words[1:2] in (["local"], ["session"]) else 1
            name = _name_at(tokens, at)
            findings.parameters.append(_NAMES_OF_SET.get(name or "", name))
    findings.needs_text = True
    if any("pg_temp" in token.text.lower() for token in tokens):
        findings.effects.add(Effect.TEMPORARY)
    is_local = words[1:2] == ["local"]
    findings.refuse("sets a parameter", Effect.SETS_LOCAL if is_local else Effect.SETS_PARAMETER)


def _name_at(tokens: list[Token], at: int) -> str | None:
    """A name, dots included; None where there is none."""
    if at >= len(tokens) or not tokens[at].name:
        return None
    name = tokens[at].name
    while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].name:
        at += 2
        name = f"{name}.{tokens[at].name}"
    return name.lower()


_MAINTENANCE_WORDS = frozenset(
    {"truncate", "grant", "revoke", "comment", "security", "vacuum", "analyze", "cluster"}
    | {"reindex", "checkpoint", "refresh", "reassign", "import"}
)
_WRITES = (Effect.WRITES,)
_DROPS = (Effect.DROPS, Effect.WRITES)
_ANYTHING = (Effect.RUNS_CODE, Effect.WRITES)
_PLAIN: dict[str, tuple[str, tuple[Effect, ...]]] = {
    **{word: (f"writes: {word}", _WRITES) for word in (*_WRITING_WORDS, *_MAINTENANCE_WORDS)},
    "create": ("writes: create", ()),
    "drop": ("drop", _DROPS),
    "alter": ("alter", _DROPS),
    "lock": ("locks a table", ()),
    "copy": ("copies", (Effect.COPY_IN, Effect.COPY_OUT, Effect.WRITES)),
    "explain": ("explains", (Effect.EXECUTES, *_ANYTHING)),
    "do": ("runs code", _ANYTHING),
    "call": ("calls a procedure", _ANYTHING),
    "reset": ("sets a parameter", (Effect.SETS_PARAMETER,)),
    "discard": ("discards session state", ()),
    "prepare": ("prepares a statement", (Effect.PREPARES,)),
    "execute": ("executes a prepared statement", (Effect.EXECUTES, *_ANYTHING)),
    "deallocate": ("deallocates a prepared statement", (Effect.DEALLOCATES,)),
    "declare": ("uses a cursor", ()),
    "fetch": ("uses a cursor", ()),
    "move": ("uses a cursor", ()),
    "close": ("uses a cursor", (Effect.CLOSES_CURSOR,)),
    "listen": ("listens", (Effect.LISTENS,)),
    "unlisten": ("unlistens", (Effect.UNLISTENS,)),
    "notify": ("notifies", _WRITES),
    "load": ("loads a library", (Effect.LOADS,)),
}


_DISCARDED = {"temp": "temp", "temporary": "temp", "plans": "plans", "sequences": "sequences"}


_HOLDS_FUNCTIONS = frozenset({"function", "procedure", "routine", "aggregate", "extension", "schema"})


def _details(tokens: list[Token], words: list[str], findings: Findings) -> None:
    """What a keyword's statement says beyond the keyword."""
    if words[0] in ("create", "alter", "drop") and _HOLDS_FUNCTIONS & set(words[1:4]):
        findings.effects.add(Effect.DEFINES)
    match words[0]:
        case "create":
            is_temporary = {"temp", "temporary"} & set(words[1:5]) or any(
                token.name.startswith("pg_temp") for token in tokens
            )
            if not is_temporary:
                findings.effects.add(Effect.WRITES)
            elif not _follow(words, "on", "commit", "drop"):
                findings.effects.add(Effect.TEMPORARY)
            if _follow(words, "as", "execute"):
                findings.effects.update((Effect.EXECUTES, *_ANYTHING))
        case "update" if any(token.name == "pg_settings" for token in tokens):
            findings.effects.add(Effect.SETS_PARAMETER)
            findings.parameters.append(None)
        case "reset":
            findings.parameters.append(_parameter_named(tokens, words))
        case "discard":
            findings.discard(_DISCARDED.get(" ".join(words[1:]), "all"))
        case "prepare" | "execute":
            findings.prepared_name = _name_at(tokens, 1)
        case "deallocate":
            at = 2 if words[1:2] == ["prepare"] and len(words) > 2 else 1
            findings.prepared_name = None if words[at : at + 1] == ["all"] else _name_at(tokens, at)
        case "declare" if _follow(words, "with", "hold"):
            findings.effects.add(Effect.HOLD_CURSOR)
        case _:
            pass


def _parameter_named(tokens: list[Token], words: list[str]) -> str:
    match words[1:]:
        case ["time", "zone"]:
            return "timezone"
        case ["transaction", "isolation", "level"]:
            return "transaction_isolation"
        case ["session", "authorization"]:
            return "session_authorization"
        case _:
            name = _name_at(tokens, 1)
            if name is None:
                raise NotUnderstood
            return name


# Words of the language that a parenthesis may follow, and that no function can be called by.
_SYNTAX = frozenset(
    """
    all and any array as asymmetric between by case coalesce cross cube distinct else except exists extract filter
    from full greatest group grouping having in inner intersect interval is join lateral least like limit
    materialized natural not nullif numeric offset on only or order outer over overlay position precision
    rollup row rows select sets similar some substring symmetric tablesample then time timestamp treat trim
    union using values varchar when where with within
    """.split()
)


def _calls(tokens: list[Token], findings: Findings) -> None:
    for at, token in enumerate(tokens[:-1]):
        if not token.name or tokens[at + 1].text != "(":
            continue
        if token.is_keyword and token.name in _SYNTAX and _qualified(tokens, at) == token.name:
            continue
        if token.name != SET_CONFIG:
            findings.call(token.name, _qualified(tokens, at))
            continue
        # set_config ( 'name' , value , true )
        arguments = tokens[at + 2 : at + 8]
        by_position = (
            len(arguments) == 6
            and arguments[0].is_string
            and arguments[1].text == arguments[3].text == ","
            and (arguments[2].is_string or arguments[2].is_value)
            and arguments[5].text == ")"
        )
        name = arguments[0].text[1:-1] if by_position and arguments[0].text.startswith("'") else None
        findings.set_config(name, is_local=by_position and arguments[4].name == "true")
        if by_position and "pg_temp" in arguments[2].text.lower():
            findings.effects.add(Effect.TEMPORARY)


def _qualified(tokens: list[Token], at: int) -> str:
    if at >= 2 and tokens[at - 1].text == "." and tokens[at - 2].name:
        return f"{tokens[at - 2].name}.{tokens[at].name}"
    return tokens[at].name
