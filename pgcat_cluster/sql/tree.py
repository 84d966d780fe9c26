"""Reads the nodes of a tree that `grammar` made, and takes nothing for granted: what is absent reads as empty."""

from __future__ import annotations

from collections.abc import Iterable

from .grammar import Tree

Node = dict[str, Tree]


def text(node: Tree, key: str) -> str | None:
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, str) else None


def number(node: Tree, key: str) -> int:
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, int) else 0


def child(node: Tree, key: str) -> Node:
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, dict) else {}


def children(node: Tree, key: str) -> list[Node]:
    value = node.get(key) if isinstance(node, dict) else None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def only(node: Tree) -> tuple[str, Node]:
    """Kind and fields of a node, which is written {kind: fields}."""
    if isinstance(node, dict):
        for kind, body in node.items():
            return kind, body if isinstance(body, dict) else {}
    return "", {}


def names(node: Tree, key: str) -> list[str]:
    """A list of names as the grammar gives them: folded, without quotes."""
    return spelled(children(node, key))


def spelled(parts: Iterable[Node]) -> list[str]:
    """The names of a dotted name."""
    return [text(child(part, "String"), "sval") or "" for part in parts]


def nodes(root: Tree, *, into_queries: bool = True) -> list[tuple[str, Node]]:
    """Every node below with its kind, without recursion: nesting costs no stack.

    With `into_queries` False the nodes of a query that stands below are left out, not the query itself.
    """
    found: list[tuple[str, Node]] = []
    pending: list[Tree] = [root]
    while pending:
        node = pending.pop()
        if type(node) is list:
            pending.extend(reversed(node))
        elif type(node) is dict:
            for kind, body in node.items():
                if type(body) is dict:
                    found.append((kind, body))
                    if into_queries or kind != "SelectStmt":
                        pending.append(body)
                elif type(body) is list:
                    pending.append(body)
    return found
