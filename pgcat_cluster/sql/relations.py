"""Which tables a statement string names, wherever they stand in it."""

from __future__ import annotations

from typing import NamedTuple

from . import grammar
from .grammar import Tree
from .tokens import NotUnderstood, Token, cut


class Relation(NamedTuple):
    """A table as a statement names it; the schema is empty where it says none."""

    schema: str
    name: str


def relations(text: str) -> frozenset[Relation] | None:
    """Every relation a text may name; None for what is not understood.

    Rather one too many: a name that WITH defines is among them, so are all words of the code of DO. What views,
    functions and rules read does not show in a statement, and so is not found.
    """
    if not grammar.fits(text):
        return None
    if not grammar.AVAILABLE:
        return _by_tokens(text)
    statements = grammar.parse(text)
    return None if statements is None else frozenset(_in_trees(statements))


def _in_trees(statements: list[dict[str, Tree]]) -> set[Relation]:
    found: set[Relation] = set()
    pending: list[Tree] = [*statements]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
            continue
        if not isinstance(node, dict):
            continue
        name = node.get("relname")
        if isinstance(name, str):
            found.add(Relation(_text(node.get("schemaname")), name))
        for key, value in node.items():
            if key in ("DropStmt", "CommentStmt", "SecLabelStmt"):
                found |= _of_object(value)
            elif key == "DoStmt":
                found |= _in_code(value)
            pending.append(value)
    return found


def _text(value: Tree) -> str:
    return value if isinstance(value, str) else ""


def _strings(tree: Tree) -> list[str]:
    """All names and texts below a node, in their order."""
    if isinstance(tree, list):
        return [text for item in tree for text in _strings(item)]
    if not isinstance(tree, dict):
        return []
    if "sval" in tree:
        return [_text(tree["sval"])]
    return [text for value in tree.values() for text in _strings(value)]


def _of_object(statement: Tree) -> set[Relation]:
    """DROP, COMMENT and SECURITY LABEL name objects by their parts; the last may be a column, trigger or rule."""
    found: set[Relation] = set()
    assert isinstance(statement, dict)
    objects = statement.get("objects") or [statement.get("object")]
    assert isinstance(objects, list)
    for one in objects:
        names = _strings(one)
        for parts in (names, names[:-1]):
            if parts:
                found.add(Relation(parts[-2] if len(parts) > 1 else "", parts[-1]))
    return found


def _in_code(body: Tree) -> set[Relation]:
    found: set[Relation] = set()
    for code in _strings(body):
        for word in "".join(letter if letter.isalnum() or letter in "_$" else " " for letter in code).split():
            found |= {Relation("", word), Relation("", word.lower())}
    return found


def _by_tokens(text: str) -> frozenset[Relation] | None:
    """Without the grammar every name may be that of a table, and code is not understood."""
    try:
        tokens = list(cut(text))
    except NotUnderstood:
        return None
    if any(token.name == "do" for token in tokens):
        return None
    return frozenset(_names(tokens))


def _names(tokens: list[Token]) -> set[Relation]:
    found = set()
    for at, token in enumerate(tokens):
        if token.name:
            has_schema = at >= 2 and tokens[at - 1].text == "."
            found.add(Relation(tokens[at - 2].name if has_schema else "", token.name))
    return found
