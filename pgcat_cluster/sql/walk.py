"""Judges the nodes of PostgreSQL's own grammar: one pass over each statement's tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from .findings import Findings
from .functions import SET_CONFIG
from .grammar import Tree
from .statement import Effect, TransactionVerb
from .tree import Node, child, children, names, text

_CURSOR_OPT_HOLD = 0x20
"""Bit of DeclareCursorStmt.options (PostgreSQL's parsenodes.h)."""


def judge(statement: Node, findings: Findings) -> None:
    """Adds what one statement is and does to the findings."""
    for kind, body in statement.items():
        assert isinstance(body, dict)
        known = _STATEMENTS.get(kind)
        if known is not None:
            known(body, findings)
        else:
            _utility(kind, body, findings)


# --- reading a tree ---------------------------------------------------------------------------------------


def _constant_text(node: Node) -> str | None:
    """The text of a string constant, also behind a cast."""
    while "TypeCast" in node:
        node = child(child(node, "TypeCast"), "arg")
    return text(child(child(node, "A_Const"), "sval"), "sval")


def _is_true(node: Node) -> bool:
    """Whether a node is certainly the constant true."""
    boolean = child(child(node, "A_Const"), "boolval")
    if boolean:
        return boolean.get("boolval") is True
    return _constant_text(node) in ("t", "true")


# --- nodes that count wherever they stand -----------------------------------------------------------------


class _Walk:
    """One pass over one statement's tree; notes what only the statement as a whole can judge."""

    __slots__ = ("findings", "names_temporary")

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.names_temporary = False

    def over(self, root: Tree) -> None:
        """Visits every node below, without recursion: nesting costs no stack."""
        visits = _VISITS
        pending: list[Tree] = [root]
        while pending:
            node = pending.pop()
            if isinstance(node, dict):
                if "relpersistence" in node:
                    self.relation(node)
                for key, value in node.items():
                    if type(value) is dict or type(value) is list:
                        visit = visits.get(key)
                        if visit is not None:
                            visit(self, value)
                        pending.append(value)
            elif isinstance(node, list):
                pending.extend(node)

    def relation(self, body: Node) -> None:
        schema = text(body, "schemaname") or ""
        if body["relpersistence"] == "t" or schema.startswith("pg_temp"):
            self.names_temporary = True

    def locking(self, _: Tree) -> None:
        self.findings.refuse("locks rows", Effect.WRITES)

    def into(self, clause: Tree) -> None:
        effect = Effect.TEMPORARY if text(child(clause, "rel"), "relpersistence") == "t" else Effect.WRITES
        self.findings.refuse("writes: select into", effect)

    def insert(self, _: Tree) -> None:
        self.findings.refuse("writes: insert", Effect.WRITES)

    def update(self, body: Tree) -> None:
        self.findings.refuse("writes: update", Effect.WRITES)
        if text(child(body, "relation"), "relname") == "pg_settings":
            # The view has a rule that turns the update into set_config(name, setting, false).
            self.findings.effects.add(Effect.SETS_PARAMETER)
            self.findings.parameters.append(None)

    def delete(self, _: Tree) -> None:
        self.findings.refuse("writes: delete", Effect.WRITES)

    def merge(self, _: Tree) -> None:
        self.findings.refuse("writes: merge", Effect.WRITES)

    def execute(self, body: Tree) -> None:
        self.findings.prepared_name = text(body, "name")
        effects = (Effect.EXECUTES, Effect.RUNS_CODE, Effect.WRITES)
        self.findings.refuse("executes a prepared statement", *effects)

    def name(self, body: Tree) -> None:
        if (text(body, "sval") or "").startswith("pg_temp"):
            self.names_temporary = True

    def call(self, body: Tree) -> None:
        path = names(body, "funcname")
        name = path[-1].lower()
        if name != SET_CONFIG:
            self.findings.call(name, ".".join(path).lower())
            return
        arguments = children(body, "args")
        by_position = len(arguments) == 3 and not any("NamedArgExpr" in argument for argument in arguments)
        parameter = _constant_text(arguments[0]) if by_position else None
        self.findings.set_config(parameter, is_local=by_position and _is_true(arguments[2]))
        if by_position:
            _note_search_path(self.findings, parameter, arguments[1:2])


_VISITS: dict[str, Callable[[_Walk, Tree], None]] = {
    "FuncCall": _Walk.call,
    "String": _Walk.name,
    "lockingClause": _Walk.locking,
    "intoClause": _Walk.into,
    "InsertStmt": _Walk.insert,
    "UpdateStmt": _Walk.update,
    "DeleteStmt": _Walk.delete,
    "MergeStmt": _Walk.merge,
    "ExecuteStmt": _Walk.execute,
}


def _note_search_path(findings: Findings, parameter: str | None, values: list[Node]) -> None:
    """With pg_temp in search_path, a plain CREATE makes temporary objects."""
    if (parameter or "").lower() != "search_path":
        return
    if any("pg_temp" in (_constant_text(value) or "").lower() for value in values):
        findings.effects.add(Effect.TEMPORARY)


# --- statements, by their root node -----------------------------------------------------------------------


def _query(kind: str) -> Callable[[Node, Findings], None]:
    """Statements with a plan: they are what their nodes are."""

    def judge_query(body: Node, findings: Findings) -> None:
        walk = _Walk(findings)
        walk.over({kind: body})
        if walk.names_temporary:
            findings.refuse("names a temporary object")

    return judge_query


_WORDS = {
    "AlterObjectSchemaStmt": "alter schema of",
    "AlterSeqStmt": "alter sequence",
    "AlterStatsStmt": "alter statistics",
    "AlterTSConfigurationStmt": "alter text search configuration",
    "CheckPointStmt": "checkpoint",
    "CompositeTypeStmt": "create type",
    "CreateAmStmt": "create access method",
    "CreateEnumStmt": "create type",
    "CreateEventTrigStmt": "create event trigger",
    "CreateFdwStmt": "create foreign data wrapper",
    "CreateOpClassStmt": "create operator class",
    "CreateOpFamilyStmt": "create operator family",
    "CreatePLangStmt": "create language",
    "CreateRangeStmt": "create type",
    "CreateSeqStmt": "create sequence",
    "CreateStatsStmt": "create statistics",
    "CreateStmt": "create table",
    "CreateTableSpaceStmt": "create tablespace",
    "CreateTrigStmt": "create trigger",
    "CreatedbStmt": "create database",
    "DefineStmt": "create",
    "DropTableSpaceStmt": "drop tablespace",
    "DropdbStmt": "drop database",
    "IndexStmt": "create index",
    "RefreshMatViewStmt": "refresh materialized view",
    "RuleStmt": "create rule",
    "SecLabelStmt": "security label",
    "VacuumStmt": "vacuum or analyze",
    "ViewStmt": "create view",
}


_DEFINES = frozenset(
    {"CreateFunctionStmt", "CreateExtensionStmt", "AlterExtensionStmt", "AlterExtensionContentsStmt"}
)
_HOLDS_FUNCTIONS = frozenset(
    f"OBJECT_{kind}" for kind in ("FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE", "EXTENSION", "SCHEMA")
)


def _defines_functions(kind: str, body: Node) -> bool:
    """Whether functions may be others, or under other names, when it is done."""
    named = (text(body, key) for key in ("objtype", "objectType", "removeType", "renameType", "kind"))
    return kind in _DEFINES or any(name in _HOLDS_FUNCTIONS for name in named)


@cache
def _words_of(kind: str) -> str:
    """A statement's name, from its node's name where the grammar's authors chose a readable one."""
    if kind in _WORDS:
        return _WORDS[kind]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.removesuffix("Stmt")).lower()


def _utility(kind: str, body: Node, findings: Findings) -> None:
    """Definitions and every statement this module does not know: a write."""
    walk = _Walk(findings)
    drops = kind.startswith(("Drop", "Alter", "Rename"))
    words = _words_of(kind)
    findings.refuse(words if words.startswith(("drop", "alter", "rename")) else f"writes: {words}")
    walk.over(body)
    if _defines_functions(kind, body):
        findings.effects.add(Effect.DEFINES)
    if drops:
        findings.effects.update((Effect.DROPS, Effect.WRITES))
    elif not walk.names_temporary:
        findings.effects.add(Effect.WRITES)
    elif "ONCOMMIT_DROP" not in (body.get("oncommit"), child(body, "into").get("onCommit")):
        # With ON COMMIT DROP nothing outlives the transaction, so there is nothing to keep a server for.
        findings.effects.add(Effect.TEMPORARY)


def _explain(body: Node, findings: Findings) -> None:
    # An argument of ANALYZE is a constant, which a shape does not tell: taken for true.
    options = [text(child(option, "DefElem"), "defname") for option in children(body, "options")]
    query = child(body, "query")
    if "analyze" in options:
        judge(query, findings)
        return
    planned = Findings(rules=findings.rules)
    judge(query, planned)
    findings.by_catalog |= planned.by_catalog
    findings.calls_unknown |= planned.calls_unknown
    if planned.reason is not None:
        # Only planned: of all its effects none happens, but EXECUTE must find its statement.
        findings.prepared_name = planned.prepared_name
        findings.refuse(planned.reason, *planned.effects & {Effect.EXECUTES})


def _copy(body: Node, findings: Findings) -> None:
    if body.get("is_from"):
        if "filename" in body:
            findings.refuse("writes: copy from", Effect.WRITES)
        else:
            findings.refuse("writes: copy from", Effect.WRITES, Effect.COPY_IN)
    elif "filename" in body:
        findings.refuse("writes: copy to a file or program", Effect.WRITES)
    else:
        findings.effects.add(Effect.COPY_OUT)
    _query("CopyStmt")(body, findings)


def _transaction(body: Node, findings: Findings) -> None:
    kind = (text(body, "kind") or "").removeprefix("TRANS_STMT_")
    chains = body.get("chain") is True
    match kind:
        case "BEGIN" | "START":
            if _begins_read_only(body):
                verb, reason = TransactionVerb.BEGIN_READ_ONLY, "begins a read-only transaction"
            else:
                verb, reason = TransactionVerb.BEGIN, "begins a transaction"
            findings.control(verb, reason, opens=True)
        case "COMMIT":
            findings.control(TransactionVerb.COMMIT, "ends a transaction", opens=chains, ends=True)
        case "ROLLBACK":
            findings.control(TransactionVerb.ROLLBACK, "ends a transaction", opens=chains, ends=True)
        case "PREPARE":
            findings.control(TransactionVerb.OTHER, "prepares a transaction", ends=True)
            findings.effects.add(Effect.WRITES)
        case "COMMIT_PREPARED" | "ROLLBACK_PREPARED":
            findings.control(TransactionVerb.OTHER, "ends a prepared transaction")
            findings.effects.add(Effect.WRITES)
        case _:
            findings.control(TransactionVerb.OTHER, "controls a savepoint")
            findings.effects.add(Effect.SAVES)


def _begins_read_only(body: Node) -> bool:
    """READ ONLY, not contradicted, and not SERIALIZABLE, which a hot standby refuses."""
    read_only = False
    for option in children(body, "options"):
        mode = child(option, "DefElem")
        constant = child(child(mode, "arg"), "A_Const")
        match text(mode, "defname"):
            case "transaction_read_only":
                if child(constant, "ival").get("ival") != 1:
                    return False
                read_only = True
            case "transaction_isolation":
                if text(child(constant, "sval"), "sval") == "serializable":
                    return False
    return read_only


def _set(body: Node, findings: Findings) -> None:
    name = (text(body, "name") or "").lower()
    values = children(body, "args")
    match text(body, "kind"):
        case "VAR_RESET_ALL":
            findings.parameters.append("all")
        case "VAR_SET_MULTI" if name == "session characteristics":
            modes = [text(child(value, "DefElem"), "defname") for value in values]
            findings.parameters.extend(None if mode is None else f"default_{mode}" for mode in modes)
        case "VAR_SET_MULTI":
            findings.control(TransactionVerb.OTHER, "sets transaction modes")
            return
        case "VAR_SET_VALUE":
            findings.needs_text = True
            findings.parameters.append(name)
            _note_search_path(findings, name, values)
        case _:
            findings.parameters.append(name)
    findings.refuse("sets a parameter", Effect.SETS_LOCAL if body.get("is_local") else Effect.SETS_PARAMETER)


def _show(body: Node, findings: Findings) -> None:
    findings.show(text(body, "name") or "")


def _prepare(body: Node, findings: Findings) -> None:
    findings.prepared_name = text(body, "name")
    findings.refuse("prepares a statement", Effect.PREPARES)


def _execute(body: Node, findings: Findings) -> None:
    _query("ExecuteStmt")(body, findings)


def _deallocate(body: Node, findings: Findings) -> None:
    findings.prepared_name = text(body, "name")
    findings.refuse("deallocates a prepared statement", Effect.DEALLOCATES)


def _discard(body: Node, findings: Findings) -> None:
    findings.discard((text(body, "target") or "").removeprefix("DISCARD_").lower())


def _declare(body: Node, findings: Findings) -> None:
    findings.refuse("uses a cursor")
    options = body.get("options")
    if isinstance(options, int) and options & _CURSOR_OPT_HOLD:
        findings.effects.add(Effect.HOLD_CURSOR)
    _Walk(findings).over(body)


def _code(reason: str) -> Callable[[Node, Findings], None]:
    def judge_code(body: Node, findings: Findings) -> None:
        findings.refuse(reason, Effect.RUNS_CODE, Effect.WRITES)
        if "funccall" in body:
            _Walk(findings).over({"FuncCall": body["funccall"]})

    return judge_code


def _plain(reason: str, *effects: Effect) -> Callable[[Node, Findings], None]:
    """Statements that say all by their kind."""

    def judge_plain(_: Node, findings: Findings) -> None:
        findings.refuse(reason, *effects)

    return judge_plain


_STATEMENTS: dict[str, Callable[[Node, Findings], None]] = {
    "SelectStmt": _query("SelectStmt"),
    "InsertStmt": _query("InsertStmt"),
    "UpdateStmt": _query("UpdateStmt"),
    "DeleteStmt": _query("DeleteStmt"),
    "MergeStmt": _query("MergeStmt"),
    "ExplainStmt": _explain,
    "CopyStmt": _copy,
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set,
    "VariableShowStmt": _show,
    "PrepareStmt": _prepare,
    "ExecuteStmt": _execute,
    "DeallocateStmt": _deallocate,
    "DiscardStmt": _discard,
    "DeclareCursorStmt": _declare,
    "FetchStmt": _plain("uses a cursor"),
    "ClosePortalStmt": _plain("uses a cursor", Effect.CLOSES_CURSOR),
    "ConstraintsSetStmt": _plain("sets constraints"),
    "ListenStmt": _plain("listens", Effect.LISTENS),
    "UnlistenStmt": _plain("unlistens", Effect.UNLISTENS),
    "NotifyStmt": _plain("notifies", Effect.WRITES),
    "LockStmt": _plain("locks a table"),
    "LoadStmt": _plain("loads a library", Effect.LOADS),
    "DoStmt": _code("runs code"),
    "CallStmt": _code("calls a procedure"),
}
