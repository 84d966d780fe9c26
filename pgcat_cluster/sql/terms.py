"""The values in a statement that may be sharding keys: constants and parameters, with their sign and cast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from .tree import Node, child, children, names, number, only, text

_INTEGERS = frozenset({"int2", "int4", "int8"})
_BLANKS = b" \t\n\r\f\v"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One value that a sharding key is compared with, or inserted as.

    Either a constant at byte offset `location` of the text (its sign and the parentheses around it excluded), or
    parameter `$parameter`; the other is -1 or 0. `cast` is the type it is cast to, by PostgreSQL's own name
    (`int8`, `text`, `timestamptz`; with its schema unless that is pg_catalog); a type with a length or precision,
    or a second cast, makes no term.
    """

    location: int = -1
    parameter: int = 0
    cast: str | None = None
    is_negative: bool = False
    is_alone: bool = False
    """Nothing else has a say in the type of its $n: it occurs once, or is cast to one type wherever it does."""
    is_array: bool = False
    """It is an array of such values, each of type `cast`; any of them may be the key."""
    context: Literal["compare", "insert"] = "compare"


class Pin(NamedTuple):
    """What a column is known to be: one of these values, or, if `is_nullable`, perhaps NULL instead."""

    terms: tuple[Term, ...]
    is_nullable: bool = False

    def joined(self, other: Pin) -> Pin:
        """One of these or one of those."""
        return Pin(tuple(dict.fromkeys(self.terms + other.terms)), self.is_nullable or other.is_nullable)


class Terms:
    """Makes terms of a statement string's nodes; knows its text, and which parameters are alone."""

    def __init__(self, text: bytes, alone: frozenset[int]) -> None:
        self._text = text
        self._alone = alone

    def of(self, node: Node) -> Term | None:
        """The value that an expression certainly is, or None: NULL, an expression, a cast we do not vouch for."""
        kind, body = only(node)
        match kind:
            case "A_Const":
                return self._constant(body)
            case "ParamRef":
                parameter = number(body, "number")
                return Term(parameter=parameter, is_alone=parameter in self._alone) if parameter else None
            case "TypeCast":
                return self._cast(body)
            case "A_Expr":
                return self._signed(body)
        return None

    def all_of(self, items: list[Node]) -> Pin | None:
        """The values of a list, if each of its items is one."""
        terms = [self.of(item) for item in items]
        found = tuple(dict.fromkeys(term for term in terms if term is not None))
        return Pin(found) if found and None not in terms else None

    def of_array(self, node: Node) -> Pin | None:
        """The values of ARRAY[…], of an array's text or of a parameter, also with a cast of the whole."""
        kind, body = only(node)
        match kind:
            case "A_ArrayExpr":
                return self.all_of(children(body, "elements"))
            case "A_Const" if "sval" in body:
                term = self._constant(body)
            case "ParamRef":
                term = self.of(node)
            case "TypeCast":
                name = type_name(child(body, "typeName"), is_array=True)
                pin = self.of_array(child(body, "arg")) if name else None
                if name is None or pin is None or any(term.cast for term in pin.terms):
                    return None
                return Pin(tuple(replace(term, cast=name) for term in pin.terms))
            case _:
                return None
        return Pin((replace(term, is_array=True),)) if term else None

    def _constant(self, body: Node) -> Term | None:
        if "ival" not in body and "fval" not in body and "sval" not in body:
            return None  # NULL, a boolean, a bit string
        location, is_negative = self._unsigned(number(body, "location"))
        return Term(location=location, is_negative=is_negative)

    def _cast(self, body: Node) -> Term | None:
        kind, _ = only(child(body, "arg"))
        name = type_name(child(body, "typeName"))
        if name in (None, "bpchar") or kind not in ("A_Const", "ParamRef"):
            return (
                None  # char without a length pads: N'x' is one, whose constant does not stand where it begins
            )
        term = self.of(child(body, "arg"))
        return replace(term, cast=name) if term else None

    def _signed(self, body: Node) -> Term | None:
        """`+ 5` and `- 5::bigint`; the grammar itself takes the minus of `- 5` into the constant."""
        if text(body, "kind") != "AEXPR_OP" or "lexpr" in body:
            return None
        operand = child(body, "rexpr")
        is_cast = "TypeCast" in operand
        constant = child(child(operand, "TypeCast"), "arg") if is_cast else operand
        value = child(constant, "A_Const")
        if "ival" not in value and "fval" not in value:
            return None  # of another type there may be another operator
        term = self.of(operand)
        if term is None or (is_cast and term.cast not in _INTEGERS):
            return None
        match names(body, "name"):
            case ["+"]:
                return term
            case ["-"]:
                return replace(term, is_negative=not term.is_negative)
        return None

    def _unsigned(self, location: int) -> tuple[int, bool]:
        """Where a constant stands behind its sign, which may be followed by blanks, comments, parentheses."""
        statement = self._text
        is_negative = False
        position = location
        while position < len(statement):
            if statement.startswith(b"--", position):
                end = statement.find(b"\n", position)
                position = len(statement) if end < 0 else end
            elif statement.startswith(b"/*", position):
                position = _end_of_comment(statement, position)
            elif statement[position] == 0x2D:
                is_negative = not is_negative
                position += 1
            elif statement[position] == 0x28 or statement[position] in _BLANKS:
                position += 1
            else:
                break
        return position, is_negative


def _end_of_comment(statement: bytes, position: int) -> int:
    """Comments nest."""
    depth = 0
    while position < len(statement):
        if statement.startswith(b"/*", position):
            depth += 1
            position += 2
        elif statement.startswith(b"*/", position):
            depth -= 1
            position += 2
            if not depth:
                break
        else:
            position += 1
    return position


def type_name(body: Node, *, is_array: bool = False) -> str | None:
    """The type's name, if it is one that changes no value: no length, no precision, no set."""
    bounds = children(body, "arrayBounds")
    if "typmods" in body or "setof" in body or "pct_type" in body or len(bounds) != int(is_array):
        return None
    path = names(body, "names")
    if path[:1] == ["pg_catalog"]:
        path = path[1:]
    return ".".join(path) or None
