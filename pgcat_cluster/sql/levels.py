"""Finds what the sharded tables of a query are bound to, level by level; refuses what could miss rows.

A statement may run on one shard alone if every sharded table in it can be cut down to the rows of that shard and
nobody would notice. A table can be cut down to the rows whose key is in a set of values (it is *pinned*) where a
condition that every row of the result must meet says so: one in WHERE, or in ON of an inner join the table is in,
or in ON of an outer join that the table is on the nullable side of. Having cut one table down, the same holds of
every table whose key must equal a column of it, in the same query or in a subquery of it: so pins spread. If
then every sharded table of every level is pinned, and all values lead to one shard, that shard knows the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from . import outputs
from .conditions import Answer, Conditions, Fact, settle
from .grammar import Tree
from .key_rules import KeyRules, Kind, Placement
from .outputs import Output
from .scopes import NOTHING, Column, Piece, Relation, Scope, joined
from .terms import Pin, Term, Terms
from .tree import Node, child, children, names, nodes, only, text

DEPTH_MAX = 40
"""Queries and joins inside one another."""
LEVELS_MAX = 500
"""Queries in one statement, each counted as often as it is looked at."""

Ctes = Mapping[str, Output]


class Refusal(Exception):
    """Nobody can tell which shard knows the answer; the text says why."""


class Queries:
    """One pass over the queries of a statement; `terms` holds the values that its sharded tables are bound to."""

    def __init__(self, rules: KeyRules, terms: Terms) -> None:
        self.rules = rules
        self.values = terms
        self.terms: dict[Term, None] = {}
        self.keys: dict[str, None] = {}
        """The key columns of all its sharded tables, for people."""
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
            raise Refusal(f"not understood: {kind.removesuffix('Stmt').lower()}")

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Something that stands inside something else."""
        self._levels += 1
        if self._depth >= DEPTH_MAX or self._levels > LEVELS_MAX:
            raise Refusal("too many queries in one another")
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
        level.where(child(body, "whereClause"), scope)
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
        self._refuse_change(relation, placement, children(conflict, "targetList"))
        columns = [text(child(column, "ResTarget"), "name") for column in children(body, "cols")]
        table = _display(relation)
        if not source:
            raise Refusal(f"the key of {table}, {placement.column}, is left to its default")
        if not columns:
            raise Refusal(f"insert into {table} without a list of columns: name the columns")
        if placement.column not in columns:
            raise Refusal(f"the key of {table}, {placement.column}, is not among the columns")
        output = self.statement("SelectStmt", source, outer, ctes)
        pin = output.pin_at(columns.index(placement.column))
        if pin is None or pin.is_nullable:
            raise Refusal(f"the key of {table}, {placement.column}, is given by no constant or parameter")
        inserted = tuple(
            term if term in self.terms else replace(term, context="insert") for term in pin.terms
        )
        piece = level.table(relation, placement)
        piece.keys[0].pin = Pin(inserted)
        scope = Scope(piece, outer)
        level.finish(Scope(piece.beside(_EXCLUDED), outer), conflict)
        level.finish(scope, {"returningList": body.get("returningList")})
        return outputs.of_targets(children(body, "returningList"), scope, self.values)

    def _update(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        relation = child(body, "relation")
        placement = self._writable(relation)
        self._refuse_change(relation, placement, children(body, "targetList"))
        return self._changed(body, "fromClause", placement, outer, ctes)

    def _delete(self, body: Node, outer: Scope | None, ctes: Ctes) -> Output:
        return self._changed(body, "usingClause", self._writable(child(body, "relation")), outer, ctes)

    def _changed(
        self, body: Node, others: str, placement: Placement, outer: Scope | None, ctes: Ctes
    ) -> Output:
        level = Level(self, outer, ctes)
        target = level.table(child(body, "relation"), placement)
        scope = Scope(target.beside(level.pieces(children(body, others))), outer)
        level.where(child(body, "whereClause"), scope)
        level.finish(scope, {part: body[part] for part in body.keys() - {others, "withClause", "relation"}})
        return outputs.of_targets(children(body, "returningList"), scope, self.values)

    def _writable(self, relation: Node) -> Placement:
        """Where a table is whose rows change; Refusal unless it is sharded."""
        placement = self.placement(relation)
        match placement.kind:
            case Kind.REFERENCE:
                raise Refusal(f"{_display(relation)} is a reference table, and has to change on every shard")
            case Kind.SYSTEM:
                raise Refusal(
                    f"{_display(relation)} belongs to the server, and would change on one shard alone"
                )
        return placement

    def _refuse_change(self, relation: Node, placement: Placement, targets: Iterable[Node]) -> None:
        if placement.column in (text(child(target, "ResTarget"), "name") for target in targets):
            column = f"{_display(relation)}, {placement.column},"
            raise Refusal(f"sharding key can not be updated: the row of {column} might have to move")

    def placement(self, relation: Node) -> Placement:
        """Where a table's rows are; Refusal if no rule says it."""
        schema, table = text(relation, "schemaname") or "", text(relation, "relname") or ""
        placement = self.rules.placement(schema, table)
        match placement.kind:
            case Kind.UNKNOWN:
                raise Refusal(placement.reason)
            case Kind.TEMPORARY:
                raise Refusal("names a temporary object, which is on one server")
        return placement


_EXCLUDED = Piece(relations={"excluded": Relation()})


class Level:
    """One query without those inside it: its tables, and the conditions on them."""

    def __init__(self, queries: Queries, outer: Scope | None, ctes: Ctes) -> None:
        self._queries = queries
        self._outer = outer
        self._ctes = ctes
        self._keys: list[Column] = []
        self._facts: list[Fact] = []
        self._outer_joins: list[tuple[frozenset[Column], list[Fact]]] = []
        """Joins looked at so far that are LEFT or RIGHT: the keys on their nullable side, and what ON says."""
        self._places: list[tuple[Scope, Tree]] = []
        """Expressions that may hold queries, with what names mean in them."""
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
            key = Column(placement.column, _display(relation))
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

    def where(self, condition: Node, scope: Scope) -> None:
        """WHERE binds every table of the level."""
        self._note(Conditions(self._queries.values, scope).facts(condition), scope.piece.keys)

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
                raise Refusal(f"the key of {key.owner}, {key.name}, is not bound to a value{remark}")
            self._queries.terms.update(dict.fromkeys(key.pin.terms))
            self._queries.keys.setdefault(f"{key.owner}.{key.name}")
        places, self._places = self._places, []
        for scope, place in places:
            for kind, body in nodes(place, into_queries=False):
                if kind == "SelectStmt" and id(body) not in self._answered:
                    self._queries.statement(kind, body, scope, self._ctes)


def _display(relation: Node) -> str:
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


def _adds_nothing(pin: Pin | None, to: Pin) -> bool:
    return pin is not None and {*pin.terms} <= {*to.terms}
