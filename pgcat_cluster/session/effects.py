"""What the session wants done outside, since it does no I/O itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import Account


class Effects(Protocol):
    """Each is an obligation; none is answered at once."""

    def open_link(self, account: Account, pool: Pool) -> None:
        """Open one more link for a pool (`pool.opening` is already counted); ends in `linked` or `link_failed`."""

    def cancel_server(self, server: Server) -> None:
        """Send the server a cancel for what this link runs; `server.cancels` is already counted."""

    def link_lost(self, account: Account, pool: Pool, reason: str) -> None:
        """A link was lost that nobody closed: let health know."""

    def log_statement(self, client: Client, text: str) -> None:
        """Write down what a client asks for; nothing of `text` needs to be hidden any more."""

    def prewarming_failed(self, pool: Pool, query: str, reason: str) -> None:
        """Let operators know that a query which was to warm a new link has failed."""

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call back once, when so much time has passed."""
