"""A question of ours to a server: its rows are collected, and told when all is answered."""

from __future__ import annotations

from collections.abc import Callable

from pgcat_cluster.relay.server import Server
from pgcat_cluster.wire import messages

_ROW = 0x44
_ERROR = 0x45

Rows = list[list[bytes | None]]


class Question:
    """An errand of the relay. `then` gets the server, the rows, and the body of an ErrorResponse if there was one."""

    def __init__(self, then: Callable[[Server, Rows, bytes | None], None]) -> None:
        self._then = then
        self._rows: Rows = []
        self._error: bytes | None = None

    def take(self, kind: int, body: bytes) -> None:
        if kind == _ROW:
            self._rows.append(messages.parse_data_row(body))
        elif kind == _ERROR:
            self._error = body

    def done(self, server: Server) -> None:
        self._then(server, self._rows, self._error)
