"""Which column a name in a query means, as far as that is certain without knowing the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from .terms import Pin

# What makes names certain although nobody tells the columns of a table: a sharded table has its key column. A
# name that only one relation is known to have either means that one, or PostgreSQL finds it in two and says so.


class Column:
    """A column that is known to be there: the key of a sharded table, or what a subquery puts out.

    `pin` grows from None to the values it is bound to, while the conditions of its level are weighed.
    """

    __slots__ = ("is_nullable", "name", "owner", "pin", "remark")

    def __init__(self, name: str, owner: str = "", pin: Pin | None = None) -> None:
        self.name = name
        self.owner = owner
        self.pin = pin
        self.is_nullable = pin is not None and pin.is_nullable
        """An outer join may put NULL in its place."""
        self.remark = ""
        """Why a condition on it did not bind it."""


Names = Mapping[str, Column | None]
"""Columns known to be there; None: it is there, and can not be told from another."""


class Relation(NamedTuple):
    """What a qualified name finds: the columns known behind an alias."""

    columns: Names = MappingProxyType({})
    schema: str = ""
    is_table: bool = False
    """A table under its own name, which may be qualified by its schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of FROM: the relations in it and what is known of their columns."""

    relations: Mapping[str, Relation | None] = field(default_factory=dict)
    """By alias; None: two have it."""
    names: Names = field(default_factory=dict)
    keys: tuple[Column, ...] = ()
    """The key columns of all sharded tables in it."""
    is_complete: bool = False
    """There are no other columns than those in `names`."""

    def beside(self, other: Piece) -> Piece:
        """Both, as a comma or CROSS JOIN puts them."""
        return Piece(
            relations=_united(self.relations, other.relations),
            names=_united(self.names, other.names),
            keys=self.keys + other.keys,
            is_complete=self.is_complete and other.is_complete,
        )

    def named(self, alias: str, renames: bool) -> Piece:
        """`(…) as alias`: only through the alias; with a list of new names nothing is certain."""
        names: Names = {} if renames else self.names
        complete = self.is_complete and not renames
        return Piece(relations={alias: Relation(names)}, names=names, keys=self.keys, is_complete=complete)


NOTHING = Piece(is_complete=True)


_Value = TypeVar("_Value")


def _united(first: Mapping[str, _Value], second: Mapping[str, _Value]) -> dict[str, _Value | None]:
    united: dict[str, _Value | None] = {**first, **second}
    united.update(dict.fromkeys(first.keys() & second.keys()))
    return united


def joined(
    left: Piece, right: Piece, kind: str, using: Iterable[str] | None
) -> tuple[Piece, list[tuple[Column, Column]]]:
    """What JOIN … USING (or NATURAL: `using` is None) makes of two pieces, and the columns that it equates.

    `kind` is the grammar's: JOIN_INNER, JOIN_LEFT, JOIN_RIGHT, JOIN_FULL.
    """
    piece = left.beside(right)
    names = dict(piece.names)
    is_natural = using is None
    equated: list[tuple[Column, Column]] = []
    for name in left.names.keys() | right.names.keys() if using is None else using:
        ours, theirs = left.names.get(name), right.names.get(name)
        if ours is not None and theirs is not None:
            equated.append((ours, theirs))
        match kind:
            case "JOIN_INNER":
                merged = ours or theirs
            case "JOIN_LEFT":
                merged = ours
            case "JOIN_RIGHT":
                # Of a natural join nobody knows whether the other side has the column at all.
                merged = None if is_natural and theirs is None else theirs
            case _:
                merged = None
        names[name] = merged
    merged_piece = Piece(
        relations=piece.relations, names=names, keys=piece.keys, is_complete=piece.is_complete
    )
    return merged_piece, equated


@dataclass(frozen=True, slots=True)
class Scope:
    """What names can mean at one place: a piece, and behind it the scopes of the queries around."""

    piece: Piece
    outer: Scope | None = None

    def column(self, path: Iterable[str]) -> Column | None:
        """The column of a dotted name, if it is certain and known."""
        match list(path):
            case [name]:
                return self._unqualified(name)
            case [alias, name]:
                return self._behind(alias, name)
            case [schema, table, name]:
                return self._of_table(schema, table, name)
        return None

    def _unqualified(self, name: str) -> Column | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.piece.names:
                return scope.piece.names[name]
            if not scope.piece.is_complete:
                return None
            scope = scope.outer
        return None

    def _behind(self, alias: str, name: str) -> Column | None:
        scope: Scope | None = self
        while scope is not None:
            if alias in scope.piece.relations:
                relation = scope.piece.relations[alias]
                return relation.columns.get(name) if relation else None
            scope = scope.outer
        return None

    def _of_table(self, schema: str, table: str, name: str) -> Column | None:
        """A table without alias that was named with this schema; one named without may be it or not."""
        scope: Scope | None = self
        while scope is not None:
            if table in scope.piece.relations:
                relation = scope.piece.relations[table]
                if relation is None or not relation.is_table or relation.schema != schema:
                    return None
                return relation.columns.get(name)
            scope = scope.outer
        return None
