"""One query without those inside it: what is in its FROM, and what its conditions bind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from .conditions import Answer, Conditions, Fact, settle
from .grammar import Tree
from .key_rules import Kind, Placement
from .outputs import Output
from .scopes import NOTHING, Column, Piece, Relation, Scope, joined
from .terms import Pin, Term, Terms
from .tree import Node, child, children, names, nodes, only, spelled, text

Ctes = Mapping[str, Output]


class Refusal(Exception):
    """Nobody can tell which shard knows the answer; the text says why."""


class Unread(Refusal):
    """Nor may it run on the shard of a transaction, which may not be that of its keys or of the rows it writes."""


class Pass(Protocol):
    """The pass over a statement that a level is part of; `queries.Queries` is it."""

    values: Terms
    terms: dict[Term, None]
    keys: dict[str, None]

    def statement(
        self, kind: str, body: Node, outer: Scope | None = None, ctes: Ctes | None = None
    ) -> Output:
        """Looks at a query inside."""

    def placement(self, relation: Node) -> Placement:
        """Where a table's rows are."""

    def nested(self) -> AbstractContextManager[None]:
        """Counts what stands inside something else."""


class Level:
    """One query without those inside it: its tables, and the conditions on them."""

    def __init__(self, queries: Pass, outer: Scope | None, ctes: Ctes) -> None:
        self._queries = queries
        self._outer = outer
        self._ctes = ctes
        self._keys: list[Column] = []
        self._facts: list[Fact] = []
        self._outer_joins: list[tuple[frozenset[Column], list[Fact]]] = []
        """Joins looked at so far that are LEFT or RIGHT: the keys on their nullable side, and what ON says."""
        self._places: list[tuple[Scope, Tree]] = []
        """Expressions that may hold queries, with what names mean in them."""
        self._conditions: list[Node] = []
        self._answered: dict[int, Output] = {}
        """Queries that were looked at to bind others, by identity of their node."""

    # --- FROM

    def pieces(self, items: Iterable[Node]) -> Piece:
        """The list of FROM or USING."""
        piece = NOTHING
        for item in items:
            piece = piece.beside(self._item(item, piece))
        return piece

    def table(self, relation: Node, placement: Placement) -> Piece:
        """A table by its own name or its alias."""
        schema, name = text(relation, "schemaname") or "", text(relation, "relname") or ""
        alias = child(relation, "alias")
        columns: dict[str, Column | None] = {}
        keys: tuple[Column, ...] = ()
        if placement.kind is Kind.SHARDED:
            key = Column(placement.column, display(relation))
            keys = (key,)
            self._keys.append(key)
            if "colnames" in alias:
                key.remark = "its columns have other names here"
            else:
                columns[key.name] = key
        found = Relation(columns, schema=schema, is_table=not alias)
        return Piece(relations={text(alias, "aliasname") or name: found}, names=columns, keys=keys)

    def _item(self, item: Node, left: Piece) -> Piece:
        """One item of FROM; `left` are those before it, which LATERAL may name."""
        kind, body = only(item)
        alias = child(body, "alias")
        name = text(alias, "aliasname") or ""
        match kind:
            case "RangeVar":
                return self._range(body)
            case "JoinExpr":
                return self._join(body, left)
            case "RangeSubselect" if not body.get("lateral"):
                query = child(child(body, "subquery"), "SelectStmt")
                output = self._queries.statement("SelectStmt", query, self._outer, self._ctes)
                return output.renamed(names(alias, "colnames")).piece(name)
            case "RangeTableSample":
                piece = self._item(child(body, "relation"), left)
                if piece.keys:
                    raise Refusal(f"takes a sample of {piece.keys[0].owner}")
                self._places.append((Scope(left, self._outer), body.get("args")))
                return piece
        # LATERAL, functions: they may name what stands before them, and nothing is known of their columns.
        self._places.append((Scope(left, self._outer), body))
        return Piece(relations={one: Relation() for one in ([name] if name else _own_names(kind, body))})

    def _range(self, relation: Node) -> Piece:
        name = text(relation, "relname") or ""
        alias = child(relation, "alias")
        if "schemaname" not in relation and name in self._ctes:
            output = self._ctes[name].renamed(names(alias, "colnames"))
            return output.piece(text(alias, "aliasname") or name)
        return self.table(relation, self._queries.placement(relation))

    def _join(self, body: Node, left: Piece) -> Piece:
        """A join; chains of joins lean to the left, and cost no depth."""
        chain = [body]
        while "JoinExpr" in child(chain[-1], "larg"):
            chain.append(child(child(chain[-1], "larg"), "JoinExpr"))
        piece = self._item(child(chain[-1], "larg"), left)
        for body in reversed(chain):
            with self._queries.nested():
                right = self._item(child(body, "rarg"), left.beside(piece))
            piece = self._joined(body, piece, right)
        return piece

    def _joined(self, body: Node, left: Piece, right: Piece) -> Piece:
        kind = text(body, "jointype") or ""
        nullable, bound = {
            "JOIN_INNER": ((), left.keys + right.keys),
            "JOIN_LEFT": (_columns(right), right.keys),
            "JOIN_RIGHT": (_columns(left), left.keys),
        }.get(kind, (_columns(left) + _columns(right), ()))
        for column in nullable:
            column.is_nullable = True
        piece = left.beside(right)
        facts: list[Fact] = []
        is_natural = body.get("isNatural") is True
        if is_natural or "usingClause" in body:
            using = None if is_natural else names(body, "usingClause")
            piece, equated = joined(left, right, kind, using)
            facts += [fact for one, other in equated for fact in (Fact(one, other), Fact(other, one))]
        if "quals" in body:
            scope = Scope(piece, self._outer)
            self._conditions.append(child(body, "quals"))
            facts += Conditions(self._queries.values, scope).facts(child(body, "quals"))
            self._places.append((scope, body["quals"]))
        self._note(facts, bound)
        if kind in ("JOIN_LEFT", "JOIN_RIGHT"):
            self._outer_joins.append((frozenset(bound), facts))
        if "join_using_alias" in body:
            alias = text(child(body, "join_using_alias"), "aliasname") or ""
            piece = piece.beside(Piece(relations={alias: Relation()}, is_complete=True))
        alias_body = child(body, "alias")
        if alias_body:
            piece = piece.named(text(alias_body, "aliasname") or "", "colnames" in alias_body)
        return piece

    # --- conditions

    def condition(self, condition: Node, scope: Scope, bound: Iterable[Column]) -> None:
        """A condition that every row meets, as far as these columns go: WHERE binds every table of the level."""
        self._conditions.append(condition)
        self._note(Conditions(self._queries.values, scope).facts(condition), bound)

    def _note(self, facts: Iterable[Fact], bound: Iterable[Column]) -> None:
        """Facts that hold of every row that counts, as far as these columns go."""
        columns = frozenset(bound)
        effective = [fact for fact in facts if fact.column in columns]
        self._facts += effective
        said = {fact.column for fact in effective}
        kept: list[tuple[frozenset[Column], list[Fact]]] = []
        inner: list[Fact] = []
        for nullable, conditions in self._outer_joins:
            # What refuses NULL on the nullable side of an outer join below makes an inner join of it.
            if nullable.isdisjoint(said):
                kept.append((nullable, conditions))
            else:
                inner += conditions
        self._outer_joins = kept
        if inner:
            self._note(inner, columns)

    def _settle(self) -> None:
        """Pin what can be pinned; where tables are left, with the answers of subqueries."""
        settle(self._facts, self._keys)
        for fact in self._facts:
            if fact.column.pin is not None or not isinstance(fact.source, Answer):
                continue
            pin = self._answer(fact.source).pin_at(fact.source.position)
            if pin is not None:
                fact.column.pin = Pin(pin.terms)
                settle(self._facts, self._keys)

    def _answer(self, answer: Answer) -> Output:
        known = self._answered.get(id(answer.query))
        if known is None:
            known = self._queries.statement("SelectStmt", answer.query, answer.scope, self._ctes)
            self._answered[id(answer.query)] = known
        return known

    def finish(self, scope: Scope, rest: Node) -> None:
        """Weighs all conditions, then looks at every query that stands in the level's expressions."""
        self._places.append((scope, rest))
        self._settle()
        for key in self._keys:
            if key.pin is None:
                remark = f" ({key.remark})" if key.remark else ""
                is_named = remark or any(_weighs(condition, key.name) for condition in self._conditions)
                why = f"the key of {key.owner}, {key.name}, is not bound to a value{remark}"
                raise Unread(why) if is_named else Refusal(why)
            self._queries.terms.update(dict.fromkeys(key.pin.terms))
            self._queries.keys.setdefault(f"{key.owner}.{key.name}")
        places, self._places = self._places, []
        for scope, place in places:
            for kind, body in nodes(place, into_queries=False):
                if kind == "SelectStmt" and id(body) not in self._answered:
                    self._queries.statement(kind, body, scope, self._ctes)


def _weighs(condition: Node, name: str) -> bool:
    """Whether a condition says something of a column, other than that it equals another column."""
    mentions = 0
    for kind, body in nodes(condition):
        if kind == "ColumnRef":
            mentions += _is_named(body, name)
        elif kind == "A_Expr" and names(body, "name") == ["="]:
            sides = [child(child(body, side), "ColumnRef") for side in ("lexpr", "rexpr")]
            if all(sides):
                mentions -= sum(_is_named(side, name) for side in sides)
    return mentions > 0


def _is_named(reference: Node, name: str) -> bool:
    fields = children(reference, "fields")
    return bool(fields) and spelled(fields[-1:]) == [name]


def display(relation: Node) -> str:
    """A table's name as the statement has it."""
    schema, name = text(relation, "schemaname"), text(relation, "relname") or ""
    return f"{schema}.{name}" if schema else name


def _columns(piece: Piece) -> tuple[Column, ...]:
    """Every column that is known of a piece."""
    known = [*piece.keys, *piece.names.values()]
    for relation in piece.relations.values():
        known += relation.columns.values() if relation else ()
    return tuple(column for column in known if column is not None)


def _own_names(kind: str, body: Node) -> list[str]:
    """How an item of FROM that has no alias can be named."""
    match kind:
        case "RangeFunction":
            return [names(call, "funcname")[-1] for name, call in nodes(body) if name == "FuncCall"]
        case "RangeTableFunc":
            return ["xmltable"]
        case "JsonTable":
            return ["json_table"]
    return []
