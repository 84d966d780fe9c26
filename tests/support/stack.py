"""Real PostgreSQL servers and nodes for tests, as fixtures that stop everything at the end.

`pg_stack` is shared by all tests of a worker: leave it as it was found. A test that stops, freezes or
promotes servers, or changes their settings, takes `make_stack` and gets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.processes import DemoFault
from pgcat_cluster.demo.stack import Stack

StackMaker = Callable[..., Stack]
NodeMaker = Callable[..., Node]


@pytest.fixture(scope="session")
def pg_stack() -> Iterator[Stack]:
    """A primary and two streaming replicas, as in `pg_stack.replicas[0].dsn("test", "test")`."""
    with _started(replicas=2) as stack:
        yield stack


@pytest.fixture
def make_stack() -> Iterator[StackMaker]:
    """Stacks of one test's own: `make_stack(replicas=1, settings={"max_connections": "20"})`."""
    with ExitStack() as closing:

        def make(**arguments: Any) -> Stack:
            return closing.enter_context(_started(**arguments))

        yield make


@pytest.fixture(scope="session")
def pg_node(pg_stack: Stack) -> Node:
    """A node with the demo's configuration in front of `pg_stack`, shared like it: `pg_node.dsn()`."""
    return pg_stack.add_node()


@pytest.fixture
def start_node(pg_stack: Stack) -> Iterator[NodeMaker]:
    """Nodes of one test's own in front of the shared servers.

    `start_node(config=…)` takes a template as in `pgcat_cluster.demo.node.CONFIG`;
    `start_node(environment={"PGCAT_PURE": "1"})` runs interpreted.
    """
    with ExitStack() as closing:

        def start(**arguments: Any) -> Node:
            node = pg_stack.add_node(**arguments)
            closing.callback(node.stop)
            return node

        yield start


class _started:
    """A stack that starts, or the reason why this machine can not start one."""

    def __init__(self, **arguments: Any) -> None:
        self._stack = Stack(**arguments)

    def __enter__(self) -> Stack:
        try:
            return self._stack.__enter__()
        except DemoFault as fault:
            pytest.fail(f"no stack: {fault}", pytrace=False)

    def __exit__(self, *why: Any) -> None:
        self._stack.__exit__(*why)
