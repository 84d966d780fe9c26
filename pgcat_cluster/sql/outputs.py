"""What a query puts out: the names of its columns, and the values those are bound to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .scopes import Column, Piece, Relation, Scope
from .terms import Pin, Terms
from .tree import Node, child, children, names, only, spelled, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The columns of a query, by position as far as they can be counted, and by name as far as they are known."""

    listed: tuple[tuple[str, Pin | None], ...] = ()
    """Name ("" if unknown) and values by position, up to the first `*`."""
    named: dict[str, Pin | None] = field(default_factory=dict)
    """Every column whose name is known; None: bound to nothing, or two have the name."""
    has_star: bool = False

    @property
    def is_complete(self) -> bool:
        return not self.has_star and all(name for name, _ in self.listed)

    def pin_at(self, position: int) -> Pin | None:
        return self.listed[position][1] if position < len(self.listed) else None

    def renamed(self, aliases: Sequence[str]) -> Output:
        """With the first columns under new names."""
        if not aliases:
            return self
        if self.has_star:
            return UNKNOWN
        old = [name for name, _ in self.listed]
        pins = [pin for _, pin in self.listed]
        return listed(list(zip([*aliases, *old[len(aliases) :]], pins, strict=False)))

    def piece(self, alias: str) -> Piece:
        """This output in FROM."""
        columns: dict[str, Column | None] = {
            name: None if pin is None else Column(name, alias, pin) for name, pin in self.named.items()
        }
        relations = {alias: Relation(columns)} if alias else {}
        return Piece(relations=relations, names=columns, is_complete=self.is_complete)


UNKNOWN = Output(has_star=True)


def listed(columns: Sequence[tuple[str, Pin | None]]) -> Output:
    """An output whose columns can be counted."""
    return Output(listed=tuple(columns), named=_by_name(columns))


def _by_name(columns: Sequence[tuple[str, Pin | None]]) -> dict[str, Pin | None]:
    named: dict[str, Pin | None] = {}
    for name, pin in columns:
        if name:
            named[name] = None if name in named else pin
    return named


def either(first: Output, second: Output) -> Output:
    """Rows of one or of the other; the names are the first one's."""
    if first.has_star or second.has_star:
        return Output(named=dict.fromkeys(first.named), has_star=True)
    pins = [
        None if pin is None or other is None else pin.joined(other)
        for (_, pin), (_, other) in zip(first.listed, second.listed, strict=False)
    ]
    return listed([(name, pin) for (name, _), pin in zip(first.listed, pins, strict=False)])


def of_targets(targets: Sequence[Node], scope: Scope, terms: Terms, *, is_nullable: bool = False) -> Output:
    """The output of a target list or of RETURNING; `is_nullable`: grouping sets put NULL in any column."""
    columns: list[tuple[str, Pin | None]] = []
    ahead: list[tuple[str, Pin | None]] = []
    has_star = False
    for target in targets:
        body = child(target, "ResTarget")
        value = child(body, "val")
        fields = children(child(value, "ColumnRef"), "fields")
        if fields and "A_Star" in fields[-1]:
            has_star = True
            ahead += _starred(spelled(fields[:-1]), scope, is_nullable)
            continue
        pin = pin_of(value, scope, terms)
        if pin is not None and is_nullable:
            pin = Pin(pin.terms, is_nullable=True)
        column = (text(body, "name") or _name_of(value), pin)
        ahead.append(column)
        if not has_star:
            columns.append(column)
    return Output(listed=tuple(columns), named=_by_name(ahead), has_star=has_star)


def of_rows(rows: Sequence[Sequence[Node]], terms: Terms) -> Output:
    """The output of VALUES."""
    width = min((len(row) for row in rows), default=0)
    return listed([(f"column{n + 1}", terms.all_of([row[n] for row in rows])) for n in range(width)])


def _starred(path: list[str], scope: Scope, is_nullable: bool) -> list[tuple[str, Pin | None]]:
    if path:
        relation = scope.piece.relations.get(path[0]) if len(path) == 1 else None
        columns = relation.columns if relation else {}
    else:
        columns = scope.piece.names
    return [(name, _pin_of(column, is_nullable)) for name, column in columns.items()]


def _pin_of(column: Column | None, is_nullable: bool = False) -> Pin | None:
    if column is None or column.pin is None:
        return None
    return Pin(column.pin.terms, is_nullable or column.is_nullable)


def pin_of(value: Node, scope: Scope, terms: Terms) -> Pin | None:
    """What an expression is known to be: a constant or parameter, or a column that is bound."""
    fields = children(child(value, "ColumnRef"), "fields")
    if fields:
        return _pin_of(scope.column(spelled(fields)))
    term = terms.of(value)
    return Pin((term,)) if term else None


def _name_of(value: Node) -> str:
    """The name PostgreSQL gives a column without AS, where that is plain to see."""
    kind, body = only(value)
    match kind:
        case "ColumnRef":
            return names(body, "fields")[-1]
        case "FuncCall":
            return names(body, "funcname")[-1]
        case "A_Const" | "ParamRef":
            return "?column?"
    return ""
