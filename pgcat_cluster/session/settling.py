"""Sets a server link to what a client needs before it uses it, and finds out afterwards what is left of the client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.session import paths
from pgcat_cluster.session.account import Visitor, backend_of, desk_of, visitor_of
from pgcat_cluster.session.catalogs import Catalogs
from pgcat_cluster.session.consistency import Consistency
from pgcat_cluster.session.decisions import ALL_OURS, ANY_PARAMETER
from pgcat_cluster.session.parameters import (
    Catalogue,
    Parameters,
    align_query,
    read_as,
    read_state,
    shuns_replicas,
    state_query,
)
from pgcat_cluster.session.positions import POSITION_QUERY
from pgcat_cluster.session.questions import Question, Rows
from pgcat_cluster.session.replies import as_fatal

# After these the server is asked what is left of the client.
_LEAVES = marks.LEAVES | marks.UNCLEAN | marks.FORGETS | marks.UNPINS
# A statement whose text is not kept can be prepared nowhere else.
LONG_STATEMENT = "long statement"


class Settling:
    """One for all accounts of a node. A client at login is handed on to `greet` when its link is aligned."""

    def __init__(
        self,
        catalogue: Catalogue,
        consistency: Consistency,
        catalogs: Catalogs,
        greet: Callable[[Client, Server], None],
    ) -> None:
        self._catalogue = catalogue
        self._consistency = consistency
        self._catalogs = catalogs
        self._greet = greet

    # -- before --------------------------------------------------------------------------------------------

    def align(self, client: Client, server: Server) -> None:
        """Put the client's parameters into force on the server it has just got."""
        have, want = server.parameters, client.parameters
        assert isinstance(have, Parameters)
        assert isinstance(want, Parameters)
        query = align_query(have, want) if have is not want else b""
        server.parameters = want
        if query:
            server.order(query, Question(partial(self._aligned, client)))
        elif client.greeting:
            self._greet(client, server)

    def _aligned(self, client: Client, server: Server, _: Rows, error: bytes | None) -> None:
        """The client's parameters are in force on the server, or one of them was refused."""
        if error is not None:
            server.is_retired = True
            server.is_unclean = True
            if server.client is client:
                client.dismiss(as_fatal(error))
        elif client.greeting and server.client is client:
            self._greet(client, server)

    # -- afterwards ----------------------------------------------------------------------------------------

    def settle(self, client: Client, server: Server) -> None:
        """A transaction that may have left something is over; ends with `release` or `stay`."""
        visitor = visitor_of(client)
        if client.unnamed is not None and not client.unnamed.is_kept:
            # Any question would drop it: what else is left is asked when it is gone.
            _pin(client, visitor, tuple(dict.fromkeys((*visitor.pins, LONG_STATEMENT))))
            if client.flags & marks.SETS_PATH:
                paths.lose(client)
            return
        leaves = client.flags & _LEAVES
        keeps_positions = desk_of(visitor.account).keeps_positions
        has_written = keeps_positions and server.pool.leads and client.may_have_written()
        if client.flags & marks.DEFINES:
            # Its own next statement shall be judged by what it has defined.
            then = None if leaves or has_written else partial(_let_on, client)
            self._catalogs.ask(server.pool, server, then)
        if has_written:
            server.order(POSITION_QUERY, Question(partial(self._wrote, client, not leaves)))
        if leaves:
            self._ask_what_is_left(client, visitor, server)
        server.flush()

    def _wrote(self, client: Client, is_all: bool, server: Server, rows: Rows, error: bytes | None) -> None:
        """The server has said where its log ends."""
        if server.client is not client:
            return
        self._consistency.wrote(client, server, rows, error)
        if is_all:
            _let_on(client, server)

    def _ask_what_is_left(self, client: Client, visitor: Visitor, server: Server) -> None:
        names = client.names or set()
        if ALL_OURS in names:
            names.discard(ALL_OURS)
            visitor.wishes = visitor.wishes_at_start
            visitor.wish(client, visitor.wishes)
        is_named = bool(client.spelled) or any(
            not statement.is_kept for statement in client.statements.values()
        )
        login = visitor.account.settings.login.user
        query = state_query(login, sorted(names - {ANY_PARAMETER}), is_spelled=is_named)
        server.order(query, Question(partial(self._settled, client)))

    def _settled(self, client: Client, server: Server, rows: Rows, error: bytes | None) -> None:
        """The server has said what is left of the client on it."""
        if server.client is not client:
            return
        visitor = visitor_of(client)
        if client.flags & marks.UNCLEAN:
            server.is_unclean = True
            self._catalogs.may_have_defined(server)
            if client.names:
                client.names.discard(ANY_PARAMETER)
        if client.flags & marks.LOADS:
            server.is_retired = True
        client.flags = 0
        if error is not None:
            paths.lose(client)
            _pin(client, visitor, ("state unknown",))
            return
        state = read_state(rows)
        pins = state.pins
        if _forget_dropped(client, state.prepared) and LONG_STATEMENT not in pins:
            pins = (*pins, LONG_STATEMENT)
        now = self._catalogue.of(state.values)
        # What was reset is what the client started with, which a server can not know.
        startup = visitor.startup
        assert startup is not None
        client.parameters = self._catalogue.of({**startup.values, **state.values})
        client.shuns_replicas = shuns_replicas(client.parameters)
        paths.settle(client, backend_of(server).reported)
        read_as(client, backend_of(server).reported)
        server.parameters = now
        if client.names and ANY_PARAMETER in client.names:
            pins = (*pins, "parameters")
        if pins:
            if server.parameters is not client.parameters:
                self.align(client, server)
                server.flush()
            _pin(client, visitor, pins)
            return
        visitor.pins = ()
        server.release()


def _forget_dropped(client: Client, prepared: frozenset[bytes]) -> bool:
    """Forget statements that SQL has dropped; whether one is left that is on this server alone."""
    is_long = False
    for name, statement in list(client.statements.items()):
        if statement.is_kept:
            if name in client.spelled and name not in prepared:
                del client.statements[name]
        elif statement.server_name not in prepared:
            del client.statements[name]
        else:
            is_long = True
    client.spelled.clear()
    return is_long


def _let_on(client: Client, server: Server) -> None:
    """Nothing but a question of ours kept the client from going on."""
    if server.client is not client:
        return
    client.flags &= ~(marks.WRITES | marks.DOUBTS | marks.DEFINES | marks.ENDS)
    if client.pinned:
        client.stay()
    else:
        server.release()


def _pin(client: Client, visitor: Visitor, reasons: tuple[str, ...]) -> None:
    for reason in reasons:
        if reason not in visitor.pins:
            visitor.account.pins[reason] += 1
    visitor.pins = reasons
    client.stay()
