"""What a condition says of columns: that they equal a value, one of a list, another column, or a subquery's answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .scopes import Column, Scope
from .terms import Pin, Terms
from .tree import Node, child, children, names, only, spelled, text

_DEPTH_MAX = 20
"""AND below OR below AND: deeper ones bind nothing."""

_EQUALS = (["="], ["pg_catalog", "="])


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A subquery whose output column number `position` a column must equal; `query` is its SelectStmt."""

    query: Node
    position: int
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """A column equals this, in every row that counts."""

    column: Column
    source: Pin | Column | Answer
    is_list: bool = False


class Conditions:
    """Reads conditions of one scope."""

    def __init__(self, terms: Terms, scope: Scope) -> None:
        self._terms = terms
        self._scope = scope

    def facts(self, condition: Node, depth: int = 0) -> list[Fact]:
        """What holds wherever the condition is true. Everything not understood says nothing."""
        found: list[Fact] = []
        pending = [condition]
        while pending:
            kind, body = only(pending.pop())
            match kind, text(body, "boolop"):
                case "BoolExpr", "AND_EXPR":
                    pending.extend(reversed(children(body, "args")))
                case "BoolExpr", "OR_EXPR":
                    if depth < _DEPTH_MAX:
                        found += self._either(children(body, "args"), depth + 1)
                case "A_Expr", _:
                    found += self._compared(body)
                case "SubLink", _:
                    found += self._answered(body)
        return found

    def _either(self, arms: Sequence[Node], depth: int) -> list[Fact]:
        """Columns that each arm binds to values are bound to those of all arms."""
        bound: dict[Column, Pin] | None = None
        for arm in arms:
            of_arm = _tightest(self.facts(arm, depth))
            if bound is None:
                bound = of_arm
            else:
                bound = {
                    column: pin.joined(of_arm[column]) for column, pin in bound.items() if column in of_arm
                }
        return [Fact(column, pin, is_list=True) for column, pin in (bound or {}).items()]

    def _compared(self, body: Node) -> list[Fact]:
        left, right = child(body, "lexpr"), child(body, "rexpr")
        kind = text(body, "kind")
        if kind in ("AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM"):
            return self._between(left, children(child(right, "List"), "items"))
        if names(body, "name") not in _EQUALS:
            return []
        match kind:
            case "AEXPR_OP":
                return self._equal_rows(left, right)
            case "AEXPR_NOT_DISTINCT":
                # No value that makes a term is NULL; a column or a subquery's answer may be, and then equals NULL.
                return [fact for fact in self._equal_rows(left, right) if isinstance(fact.source, Pin)]
            case "AEXPR_IN":
                return self._in(left, children(child(right, "List"), "items"))
            case "AEXPR_OP_ANY":
                return self._any(left, right)
        return []

    def _equal_rows(self, left: Node, right: Node) -> list[Fact]:
        if "RowExpr" not in left or "RowExpr" not in right:
            return self._equal(left, right)
        ours, theirs = _items(left), _items(right)
        if len(ours) != len(theirs):
            return []
        return [fact for pair in zip(ours, theirs, strict=True) for fact in self._equal(*pair)]

    def _equal(self, left: Node, right: Node) -> list[Fact]:
        ours, theirs = self._column(left), self._column(right)
        if ours is not None and theirs is not None:
            return [Fact(ours, theirs), Fact(theirs, ours)]
        if ours is None and theirs is None:
            return []
        column, other = (ours, right) if ours is not None else (theirs, left)
        assert column is not None
        term = self._terms.of(other)
        if term is not None:
            return [Fact(column, Pin((term,)))]
        sublink = child(other, "SubLink")
        if text(sublink, "subLinkType") == "EXPR_SUBLINK":
            return [Fact(column, self._answer(sublink, 0))]
        if "ColumnRef" not in other:
            column.remark = "compared with an expression"
        return []

    def _in(self, left: Node, items: list[Node]) -> list[Fact]:
        if "RowExpr" not in left:
            return self._listed(left, items)
        columns, rows = _items(left), [_items(item) for item in items]
        if any(len(row) != len(columns) for row in rows):
            return []
        return [
            fact
            for position, column in enumerate(columns)
            for fact in self._listed(column, [row[position] for row in rows])
        ]

    def _listed(self, left: Node, items: list[Node]) -> list[Fact]:
        column = self._column(left)
        if column is None:
            return []
        pin = self._terms.all_of(items)
        if pin is None:
            column.remark = "one of a list that holds more than constants and parameters"
            return []
        return [Fact(column, pin, is_list=True)]

    def _any(self, left: Node, right: Node) -> list[Fact]:
        column = self._column(left)
        if column is None:
            return []
        pin = self._terms.of_array(right)
        if pin is None:
            column.remark = "one of an array that holds more than constants and parameters"
            return []
        return [Fact(column, pin, is_list=True)]

    def _between(self, left: Node, bounds: list[Node]) -> list[Fact]:
        """Constants may differ from one statement of a shape to the next: only a parameter equals itself."""
        column = self._column(left)
        if column is None or len(bounds) != 2:
            return []
        low, high = map(self._terms.of, bounds)
        if low is None or low != high or not low.parameter:
            column.remark = "within a range"
            return []
        return [Fact(column, Pin((low,)))]

    def _answered(self, body: Node) -> list[Fact]:
        """`column in (select …)`, `(a, b) = any (select …)`."""
        operator = names(body, "operName")
        if text(body, "subLinkType") != "ANY_SUBLINK" or (operator and operator not in _EQUALS):
            return []
        test = child(body, "testexpr")
        columns = enumerate(map(self._column, _items(test) if "RowExpr" in test else [test]))
        return [
            Fact(column, self._answer(body, position), is_list=True)
            for position, column in columns
            if column is not None
        ]

    def _answer(self, sublink: Node, position: int) -> Answer:
        return Answer(child(child(sublink, "subselect"), "SelectStmt"), position, self._scope)

    def _column(self, node: Node) -> Column | None:
        fields = children(child(node, "ColumnRef"), "fields")
        if not fields or any("String" not in part for part in fields):
            return None
        return self._scope.column(spelled(fields))


def _items(row: Node) -> list[Node]:
    return children(child(row, "RowExpr"), "args")


def _tightest(facts: Iterable[Fact]) -> dict[Column, Pin]:
    """One binding for each column that has one: the first to a value, or else to a list."""
    bound: dict[Column, Pin] = {}
    ordered = sorted((fact for fact in facts if isinstance(fact.source, Pin)), key=lambda fact: fact.is_list)
    for fact in ordered:
        assert isinstance(fact.source, Pin)
        bound.setdefault(fact.column, fact.source)
    return bound


def settle(facts: Sequence[Fact], keys: Iterable[Column]) -> None:
    """Pins the key columns that the facts bind, also from column to column."""
    free = {column for column in keys if column.pin is None}
    for column, pin in _tightest(facts).items():
        if column in free:
            column.pin = pin
            free.discard(column)
    edges = [fact for fact in facts if isinstance(fact.source, Column)]
    moved = True
    while free and moved:
        moved = False
        for fact in edges:
            if fact.column in free and isinstance(fact.source, Column) and fact.source.pin is not None:
                fact.column.pin = Pin(fact.source.pin.terms)
                free.discard(fact.column)
                moved = True
