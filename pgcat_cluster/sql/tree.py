"""Reads the nodes of a tree that `grammar` made, and takes nothing for granted: what is absent reads as empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def nodes(root: Tree, *, into_queries: bool = True) -> Iterator[tuple[str, Node]]:
    """Every node below with its kind, without recursion: nesting costs no stack.

    With `into_queries` False the nodes of a query that stands below are left out, not the query itself.
    """
    pending: list[Tree] = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(reversed(node))
            continue
        if not isinstance(node, dict):
            continue
        for kind, body in node.items():
            if isinstance(body, dict):
                yield kind, body
                if kind == "SelectStmt" and not into_queries:
                    continue
                pending.append(body)
            elif isinstance(body, list):
                pending.append(body)
