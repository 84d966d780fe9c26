"""A light read load on several nodes, and what its clients met."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg

from pgcat_cluster.demo.node import Node
from tests.support.nodes import connect, eventually

# Several rows, so that an answer can break off in its middle.
_READ = b"select inet_server_port() from generate_series(1, 3)"
_PAUSE_S = 0.05
_KEPT = 2000
_END_S = 60.0


@dataclass
class Failure:
    """A statement, or the attempt to connect, that failed; `rows` of its answer had come."""

    node: str
    error: str
    rows: int


@dataclass
class _Client:
    node: Node
    answers: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    count: int = 0
    failures: list[Failure] = field(default_factory=list)
    is_forgiven: bool = False
    thread: threading.Thread | None = None


class Load:
    """Clients that read all the time, one statement after the other in autocommit, and connect again if they must.

    A statement that waits for a silent server waits until that speaks again, as it would without us.
    """

    def __init__(self, nodes: Sequence[Node], clients_each: int = 2) -> None:
        self._clients = [_Client(node) for node in nodes for _ in range(clients_each)]
        self._stopping = threading.Event()

    def __enter__(self) -> Load:
        for client in self._clients:
            client.thread = threading.Thread(target=self._read, args=(client,), daemon=True)
            client.thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_why: object) -> None:
        self._stopping.set()
        for client in self._clients:
            assert client.thread is not None
            client.thread.join(_END_S)

    # -- what they met

    @property
    def statements(self) -> int:
        """How many were answered."""
        return sum(client.count for client in self._clients)

    @property
    def failures(self) -> list[Failure]:
        """All that no fault explains: nothing of the answer had come, and the node itself was there."""
        return [failure for client in self._clients for failure in client.failures if not failure.rows]

    @property
    def broken_off(self) -> int:
        """Statements that failed when rows had already begun to flow."""
        return sum(bool(failure.rows) for client in self._clients for failure in client.failures)

    def goes_on(self, *nodes: Node) -> None:
        """Every client, or every one of these nodes, gets answers to what it asks from now on."""
        now = time.monotonic()

        def all_did() -> bool:
            return all(
                client.answers and client.answers[-1][0] > now
                for client in self._clients
                if not nodes or client.node in nodes
            )

        eventually(all_did, f"all clients are answered; failures: {self.failures}")

    @contextlib.contextmanager
    def forgiving(self, *nodes: Node) -> Iterator[None]:
        """While these nodes are dead or cut off from all servers, what their clients meet does not count."""
        clients = [client for client in self._clients if client.node in nodes]
        for client in clients:
            client.is_forgiven = True
        yield
        self.goes_on(*nodes)
        for client in clients:
            client.is_forgiven = False

    # -- within the threads

    def _read(self, client: _Client) -> None:
        while not self._stopping.is_set():
            ports: list[int] = []
            try:
                with connect(client.node) as connection:
                    while not self._stopping.is_set():
                        began_s = time.monotonic()
                        with connection.cursor() as cursor:
                            ports.extend(row[0] for row in cursor.stream(_READ))
                        client.answers.append((began_s, ports[-1]))
                        client.count += 1
                        ports.clear()
                        self._stopping.wait(_PAUSE_S)
            except psycopg.Error as error:
                if not client.is_forgiven:
                    text = f"{error.sqlstate} {error}".strip()
                    client.failures.append(Failure(client.node.name, text, len(ports)))
                self._stopping.wait(_PAUSE_S)
