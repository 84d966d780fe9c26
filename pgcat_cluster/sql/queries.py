"""Finds what the sharded tables of a statement are bound to, query by query; refuses what could miss rows.

A statement may run on one shard alone if every sharded table in it can be cut down to the rows of that shard and
nobody would notice. A table can be cut down to the rows whose key is in a set of values (it is *pinned*) where a
condition that every row of the result must meet says so: one in WHERE, or in ON of an inner join the table is in,
or in ON of an outer join that the table is on the nullable side of. Having cut one table down, the same holds of
every table whose key must equal a column of it, in the same query or in a subquery of it: so pins spread. If
then every sharded table of every level is pinned, and all values lead to one shard, that shard knows the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from . import outputs
from .key_rules import KeyRules, Kind, Placement
from .levels import Ctes, Level, Refusal, Unread, display
from .outputs import Output
from .scopes import NOTHING, Column, Piece, Relation, Scope
from .terms import Pin, Term, Terms
from .tree import Node, child, children, names, number, only, text

DEPTH_MAX = 40
"""Queries and joins inside one another."""
LEVELS_MAX = 500
"""Queries in one statement, each counted as often as it is looked at."""


class Queries:
    """One pass over the queries of a statement; `terms` holds the values that its sharded tables are bound to."""

    def __init__(self, rules: KeyRules, terms: Terms) -> None:
        self.rules = rules
        self.values = terms
        self.terms: dict[Term, None] = {}
        self.keys: dict[str, None] = {}
        """The key columns of all its sharded tables, for people."""
        self.sets_key = False
        self.by_path = False
        """Whether it gives a key to a row that has one."""
        self._levels = 0
        self._depth = 0

    def statement(
        self, kind: str, body: Node, outer: Scope | None = None, ctes: Ctes | None = None
    ) -> Output:
        """A query or a statement that changes rows; Refusal if it needs more than one shard."""
        with self.nested():
            inner = self._with(child(body, "withClause"), outer, ctes or {})
            match kind:
                case "SelectStmt":
                    return self._select(body, outer, inner)
                case "InsertStmt":
                    return self._insert(body, outer, inner)
                case "UpdateStmt":
                    return self._update(body, outer, inner)
                case "DeleteStmt":
                    return self._delete(body, outer, inner)
                case "MergeStmt":
                    return self._merge(body, outer, inner)
            raise Refusal(f"not understood: {kind.removesuffix('Stmt').lower()}")

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Something that stands inside something else."""
        self._levels += 1
        if self._depth >= DEPTH_MAX or self._levels > LEVELS_MAX:
            raise Unread("too many queries in one another")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    # --- WITH

    def _with(self, clause: Node, outer: Scope | None, ctes: Ctes) -> Ctes:
        queries = [child(query, "CommonTableExpr") for query in children(clause, "ctes")]
        if not queries:
            return ctes
        known = dict(ctes)
        is_recursive = clause.get("recursive") is True
        if is_recursive:
            # A query may name itself and those that follow.
            known.update({text(query, "ctename") or "": outputs.UNKNOWN for query in queries})
        for query in queries:
            name = text(query, "ctename") or ""
            kind, body = only(child(query, "ctequery"))
            aliases = names(query, "aliascolnames")
            if is_recursive and text(body, "op") == "SETOP_UNION":
                output = self._recursive(name, aliases, body, outer, known)
            else:
                output = self.statement(kind, body, outer, known).renamed(aliases)
            if "search_clause" in query or "cycle_clause" in query:
                output = outputs.UNKNOWN  # more columns
            known[name] = output
        return known

    def _recursive(
        self, name: str, aliases: Sequence[str], body: Node, outer: Scope | None, ctes: Ctes
    ) -> Output:
        """The rows of the first part are bound as it says, and all others too if the second adds no value.

        That the second part does not is assumed while it is looked at, and has to come out.
        """
        inner = self._with(child(body, "withClause"), outer, ctes)
        first = self.statement("SelectStmt", child(body, "larg"), outer, inner).renamed(aliases)
        before = dict(self.terms)
        nullable = [(column, pin and Pin(pin.terms, True)) for column, pin in first.listed]
        assumed = outputs.UNKNOWN if first.has_star else outputs.listed(nullable)
        try:
            second = self.statement("SelectStmt", child(body, "rarg"), outer, {**inner, name: assumed})
            if all(
                pin is None or _adds_nothing(second.pin_at(position), pin)
                for position, (_, pin) in enumerate(assumed.listed)
            ):
                return assumed
        except Refusal:
            pass
        self.terms = before
        self.statement("SelectStmt", child(body, "rarg"), outer, inner)
        return outputs.UNKNOWN

    # --- SELECT

    def _select(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        if "intoClause" in body:
            raise Refusal("select into concerns every shard")
        if text(body, "op") not in (None, "SETOP_NONE"):
            return self._united(body, outer, ctes)
        if "valuesLists" in body:
            rows = [children(child(row, "List"), "items") for row in children(body, "valuesLists")]
            parts = ("valuesLists", "sortClause", "limitCount", "limitOffset")
            Level(self, outer, ctes).finish(Scope(NOTHING, outer), {part: body.get(part) for part in parts})
            return outputs.of_rows(rows, self.values)
        level = Level(self, outer, ctes)
        scope = Scope(level.pieces(children(body, "fromClause")), outer)
        level.condition(child(body, "whereClause"), scope, scope.piece.keys)
        level.finish(scope, {part: body[part] for part in body.keys() - {"fromClause", "withClause"}})
        has_sets = any("GroupingSet" in group for group in children(body, "groupClause"))
        return outputs.of_targets(children(body, "targetList"), scope, self.values, is_nullable=has_sets)

    def _united(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        """UNION, INTERSECT, EXCEPT: chains of them lean to the left, and cost no depth."""
        arms: list[Node] = []
        node = body
        while text(node, "op") not in (None, "SETOP_NONE"):
            arms.append(child(node, "rarg"))
            node = child(node, "larg")
            if "withClause" in node or "limitCount" in node or "limitOffset" in node or "sortClause" in node:
                break
        arms.append(node)
        output = self.statement("SelectStmt", arms.pop(), outer, ctes)
        while arms:
            output = outputs.either(output, self.statement("SelectStmt", arms.pop(), outer, ctes))
        Level(self, outer, ctes).finish(
            Scope(Piece(), outer),
            {part: body.get(part) for part in ("sortClause", "limitCount", "limitOffset")},
        )
        return output

    # --- statements that change rows

    def _insert(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        relation = child(body, "relation")
        level = Level(self, outer, ctes)
        placement = self._writable(relation)
        source = child(child(body, "selectStmt"), "SelectStmt")
        conflict = child(body, "onConflictClause")
        columns = [text(child(column, "ResTarget"), "name") for column in children(body, "cols")]
        table = display(relation)
        if not source:
            raise Unread(f"the key of {table}, {placement.column}, is left to its default")
        if not columns:
            raise Unread(f"insert into {table} without a list of columns: name the columns")
        if placement.column not in columns:
            raise Unread(f"the key of {table}, {placement.column}, is not among the columns")
        output = self.statement("SelectStmt", source, outer, ctes)
        piece = level.table(relation, placement)
        key = piece.keys[0]
        key.pin = self._inserted(key, output.pin_at(columns.index(placement.column)))
        excluded = Relation({key.name: Column(key.name, "excluded", key.pin)})
        conflicting = Scope(piece.beside(Piece(relations={"excluded": excluded})), outer)
        level.finish(conflicting, conflict)
        self._set(key, children(conflict, "targetList"), conflicting)
        scope = Scope(piece, outer)
        level.finish(scope, {"returningList": body.get("returningList")})
        return outputs.of_targets(children(body, "returningList"), scope, self.values)

    def _inserted(self, key: Column, pin: Pin | None) -> Pin:
        """What a key is given in new rows; Refusal if that is not certain. What is compared too is no new term."""
        if pin is None or pin.is_nullable:
            raise Unread(f"the key of {key.owner}, {key.name}, is given by no constant or parameter")
        return Pin(
            tuple(term if term in self.terms else replace(term, context="insert") for term in pin.terms)
        )

    def _update(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        return self._changed(body, "fromClause", outer, ctes)

    def _delete(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        return self._changed(body, "usingClause", outer, ctes)

    def _changed(self, body: Node, others: str, outer: Scope | None, ctes: Ctes) -> Output:
        relation = child(body, "relation")
        level = Level(self, outer, ctes)
        target = level.table(relation, self._writable(relation))
        scope = Scope(target.beside(level.pieces(children(body, others))), outer)
        level.condition(child(body, "whereClause"), scope, scope.piece.keys)
        level.finish(scope, {part: body[part] for part in body.keys() - {others, "withClause", "relation"}})
        if others == "fromClause":
            self._set(target.keys[0], children(body, "targetList"), scope)
        return outputs.of_targets(children(body, "returningList"), scope, self.values)

    def _merge(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        """The source joined to the target: LEFT where rows without a match are inserted, else INNER."""
        relation = child(body, "relation")
        placement = self._writable(relation)
        clauses = [child(clause, "MergeWhenClause") for clause in children(body, "mergeWhenClauses")]
        matches = {text(clause, "matchKind") for clause in clauses}
        if "MERGE_WHEN_NOT_MATCHED_BY_SOURCE" in matches:
            raise Refusal("merge: not matched by source concerns every shard")
        level = Level(self, outer, ctes)
        target = level.table(relation, placement)
        source = level.pieces([child(body, "sourceRelation")])
        scope = Scope(target.beside(source), outer)
        bound = target.keys if "MERGE_WHEN_NOT_MATCHED_BY_TARGET" in matches else scope.piece.keys
        level.condition(child(body, "joinCondition"), scope, bound)
        level.finish(
            scope, {part: body.get(part) for part in ("joinCondition", "mergeWhenClauses", "returningList")}
        )
        for clause in clauses:
            targets = children(clause, "targetList")
            if text(clause, "commandType") == "CMD_UPDATE" and _values_of(placement.column, targets):
                raise _change_of(target.keys[0])
            if text(clause, "commandType") != "CMD_INSERT":
                continue
            columns = [text(child(column, "ResTarget"), "name") for column in targets]
            values = children(clause, "values")
            if placement.column not in columns or len(values) != len(columns):
                raise Unread(f"the key of {display(relation)}, {placement.column}, is not among the columns")
            value = values[columns.index(placement.column)]
            pin = outputs.pin_of(value, Scope(source, outer), self.values)
            self.terms.update(dict.fromkeys(self._inserted(target.keys[0], pin).terms))
        return outputs.UNKNOWN

    def _writable(self, relation: Node) -> Placement:
        """Where a table is whose rows change; Refusal unless it is sharded."""
        placement = self.placement(relation)
        match placement.kind:
            case Kind.REFERENCE:
                raise Unread(f"{display(relation)} is a reference table, and has to change on every shard")
            case Kind.SYSTEM:
                raise Refusal(
                    f"{display(relation)} belongs to the server, and would change on one shard alone"
                )
        return placement

    def _set(self, key: Column, targets: Iterable[Node], scope: Scope) -> None:
        """What SET gives a key: a row stays where it is if all its values, old and new, are of one shard."""
        for value in _values_of(key.name, targets):
            pin = outputs.pin_of(value, scope, self.values)
            if pin is None or pin.is_nullable or key.pin is None:
                raise _change_of(key, ", for its new value is no constant, parameter or bound key")
            pin = self._inserted(key, pin)
            self.sets_key = True
            key.pin = key.pin.joined(pin)
            self.terms.update(dict.fromkeys(pin.terms))

    def placement(self, relation: Node) -> Placement:
        """Where a table's rows are; Refusal if no rule says it."""
        schema, table = text(relation, "schemaname") or "", text(relation, "relname") or ""
        self.by_path |= self.rules.is_by_path(schema, table)
        placement = self.rules.placement(schema, table)
        match placement.kind:
            case Kind.UNKNOWN:
                raise Refusal(placement.reason)
            case Kind.DOUBTFUL:
                raise Unread(placement.reason)
            case Kind.TEMPORARY:
                raise Refusal("names a temporary object, which is on one server")
        return placement


def _values_of(column: str, targets: Iterable[Node]) -> list[Node]:
    """What SET gives a column; of what is no plain value, or a part of the column alone, an empty node."""
    found: list[Node] = []
    for target in targets:
        body = child(target, "ResTarget")
        if text(body, "name") != column:
            continue
        value = child(body, "val")
        several = child(value, "MultiAssignRef")
        if several:
            row = children(child(child(several, "source"), "RowExpr"), "args")
            position = number(several, "colno") - 1
            value = row[position] if 0 <= position < len(row) == number(several, "ncolumns") else {}
        found.append({} if "indirection" in body else value)
    return found


def _change_of(key: Column, why: str = "") -> Refusal:
    moves = f"the row of {key.owner}, {key.name}, might have to move"
    return Unread(f"sharding key can not be updated: {moves}{why}")


def _adds_nothing(pin: Pin | None, to: Pin) -> bool:
    return pin is not None and {*pin.terms} <= {*to.terms}
