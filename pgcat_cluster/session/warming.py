"""Runs the prewarmer's queries on a new link, before any client gets it."""

from __future__ import annotations

from collections.abc import Callable

from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import Account, backend_of
from pgcat_cluster.wire import messages

# How long the queries of the prewarmer may keep a new link from its clients.
PREWARM_S = 5.0
_ERROR = 0x45

# Gets the pool, the query and the reason.
Failed = Callable[[Pool, str, str], None]


def prewarm(account: Account, server: Server, now: float, failed: Failed) -> bool:
    """Send the queries of a pool over a link; whether there are any."""
    plugins = account.settings.plugins
    if plugins is None or not plugins.prewarmer.enabled or not plugins.prewarmer.queries:
        return False
    queries = plugins.prewarmer.queries
    for number, query in enumerate(queries, 1):
        server.order(query.encode(), _Warming(query, failed, is_last=number == len(queries)))
    # They may have set anything.
    server.is_unclean = True
    backend_of(server).warm_by = now + PREWARM_S
    server.flush()
    return True


class _Warming:
    """Waits for the answer to one of the queries."""

    def __init__(self, query: str, failed: Failed, *, is_last: bool) -> None:
        self._query = query
        self._failed = failed
        self._is_last = is_last
        self._error: bytes | None = None

    def take(self, kind: int, body: bytes) -> None:
        if kind == _ERROR:
            self._error = body

    def done(self, server: Server) -> None:
        if self._is_last:
            backend_of(server).warm_by = 0.0
        if self._error is not None:
            reason = messages.fields_of_error(self._error).get("M", "")
            self._failed(server.pool, self._query, reason)
