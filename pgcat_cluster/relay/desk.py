"""What clients of one (database, user) share besides servers, and what the relay asks of those above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.flows import Flow, FlowTable, Statement, Statements
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.relay.stock import Gate, Pool, Target

if TYPE_CHECKING:
    from pgcat_cluster.relay.client import Client
    from pgcat_cluster.relay.server import Server


class Errand(Protocol):
    """A question or order of ours to a server: gets the rows and errors, then the end."""

    def take(self, kind: int, body: bytes) -> None:
        """A DataRow, ErrorResponse or ParameterStatus, without type and length."""

    def done(self, server: Server) -> None:
        """ReadyForQuery has come."""


class Receiver(Protocol):
    """Gets every frame of a client that is not (yet) relayed: login, cancel, consoles."""

    def frame(self, client: Client, kind: int, body: bytes) -> None:
        """One frame; kind is 0 for a packet of the start-up phase."""

    def frame_bytes_max(self, kind: int) -> int:
        """The longest body allowed in this state."""

    def refuse_length(self, client: Client, kind: int, length: int) -> None:
        """A frame announced a length that is not allowed; the client must be closed."""

    def gone(self, client: Client) -> None:
        """The client is gone."""


class Control(Protocol):
    """What the relay asks the session: each call is an upcall, and none happens for a repeated statement."""

    def analyse(self, client: Client, text: bytes, shape: bytes | None) -> Flow:
        """Decide about a statement that no flow is known for. `shape` is None for an unknown statement."""

    def perform(self, client: Client, flow: Flow, text: bytes) -> bool:
        """A simple Query names a prepared statement in SQL, or is a command of ours.

        True: it was answered here, nothing is forwarded.
        """

    def watch(self, client: Client, text: bytes) -> None:
        """A prepared statement is about to be executed whose flow is watched."""

    def own_columns(self, client: Client, statement: Statement, bind: bytes) -> bytes:
        """What follows Describe of a statement that is answered here, or of its portal, or an ErrorResponse.

        `bind` is what followed the names in Bind; of a statement it is empty.
        """

    def own_answer(self, client: Client, statement: Statement, bind: bytes) -> bytes:
        """Carry out a statement that is answered here: what follows Execute, or an ErrorResponse."""

    def begun_twice(self, client: Client, tag: bytes) -> bytes:
        """What follows a BEGIN inside a transaction, whose CommandComplete is `tag`."""

    def hear(self, client: Client, text: bytes) -> bool:
        """Find what the comments of a statement say: `hint` and `role_hint`. False: nonsense, as `refusal` says."""

    def repath(self, client: Client, flow: Flow) -> None:
        """A statement that is to run changes search_path: see that the client's `path` is what that will be."""

    def locate(self, client: Client, statement: Statement | None, flow: Flow, found: int, text: bytes) -> int:
        """The shard of a statement whose keys do not say it by themselves; -1: none, as `refusal` says.

        `found` is why not. `text` is that of a simple Query, or a Bind message of `statement`.
        """

    def misplace(self, client: Client, flow: Flow, shard: int) -> None:
        """A statement is for another shard than the server that the client must stay with: say so in `refusal`."""

    def abort(self, client: Client) -> None:
        """A transaction without a server has failed, and something else than its end was asked: say so in `refusal`."""

    def align(self, client: Client, server: Server) -> None:
        """Put the client's parameters into force on the server it has just got."""

    def wish_no_more(self, client: Client) -> None:
        """The transaction is over, and with it what was wished for it alone."""

    def nest(self, client: Client, text: bytes) -> bytes:
        """A client whose BEGIN is held back does this to savepoints; the ErrorResponse if it has not set that one."""

    def save(self, client: Client, text: bytes) -> None:
        """A client that has wished something in its transaction does something to savepoints."""

    def save_not(self, client: Client, completed: int) -> None:
        """That has failed behind so many of its statements."""

    def reread(self, client: Client, server: Server) -> None:
        """The server has told all that was changed of how it reads the client's constants."""

    def settle(self, client: Client, server: Server) -> None:
        """A transaction that may have left something is over; ends with `release` or `stay`."""

    def ask(self, pool: Pool, server: Link) -> None:
        """A link is free and clean, and its pool asks something of the server."""

    def follow(self, client: Client) -> None:
        """A client waits behind: no server of its target is known to have what it must see."""

    def want(self, client: Client, target: Target) -> None:
        """A client waits, and a pool of its target may grow."""

    def reported(self, client: Client | None, server: Server, body: bytes) -> None:
        """ParameterStatus arrived."""

    def refused(self, client: Client, flow: Flow | None) -> None:
        """A standby refused a statement that was taken for a read."""

    def violated(self, client: Client, text: str) -> None:
        """The client broke the protocol; it must be closed."""

    def retire(self, server: Server) -> None:
        """A free link that must not be used again."""

    def server_lost(self, server: Server, client: Client | None, reason: str) -> None:
        """A server link is gone; the client, if any, must be told or served elsewhere."""

    def client_gone(self, client: Client) -> None:
        """A client is gone; its server, if any, was already abandoned."""


class Mirror(Protocol):
    """Gets a copy of what is forwarded for the clients of a desk, as they said it."""

    def sent(self, client: Client, statement: Statement | None, frames: bytes) -> None:
        """Whole frames: a Query; or of a batch Bind, Execute, Close, Sync. A Bind among them is of `statement`."""

    def left_out(self, client: Client) -> None:
        """Something was forwarded of which there is no copy."""

    def again(self, client: Client) -> None:
        """The request in progress, a read that stands alone, will be sent once more."""

    def over(self, client: Client) -> None:
        """The client's transaction is over, and its flags are still known."""

    def gone(self, client: Client) -> None:
        """The client is gone."""


class Desk(Gate):
    """A gate with what clients of one (database, user) share besides servers: flows, statements, counts.

    What links count themselves is counted here when they are gone: bytes, queries, transactions and their times.
    """

    __slots__ = (
        "binds", "client_bytes_received", "client_bytes_sent", "client_parses", "clock", "control",
        "default_shard", "errors", "flows", "hears", "is_session_mode", "mirror", "prepared_max", "queries",
        "query_s", "repeats", "scanner", "server_bytes_received", "server_bytes_sent", "server_parses",
        "session_flow", "statement_bytes_max", "statements", "transaction_s", "transactions",
        "unknown_statements", "upcalls", "wait_s",
    )  # fmt: skip

    def __init__(
        self,
        balancing: int,
        seed: int,
        grow: Callable[[Pool], None],
        detail: object,
        *,
        control: Control,
        clock: Callable[[], float],
        is_session_mode: bool,
        statement_bytes_max: int,
        prepared_max: int,
        flow_entries_max: int = 10000,
        flow_bytes_max: int = 16777216,
        shards: int = 1,
    ) -> None:
        super().__init__(balancing, seed, grow, detail, shards)
        self.control = control
        self.clock = clock
        self.scanner = Scanner()
        self.flows = FlowTable(flow_entries_max, flow_bytes_max)
        self.statements = Statements(flow_entries_max)
        self.session_flow = Flow(marks.PRIMARY, marks.ENDS, "session mode")
        self.is_session_mode = is_session_mode
        # The shard of statements that lead to none, -1 if there is none.
        self.default_shard = -1
        self.hears = marks.HEARS_COMMENTS
        self.statement_bytes_max = statement_bytes_max
        self.prepared_max = prepared_max
        # Only the lanes pay for it, and only where there is one.
        self.mirror: Mirror | None = None
        self.upcalls = 0
        self.unknown_statements = 0
        self.queries = 0
        self.transactions = 0
        self.binds = 0
        self.client_parses = 0
        self.server_parses = 0
        self.query_s = 0.0
        self.transaction_s = 0.0
        self.wait_s = 0.0
        self.repeats = 0
        self.client_bytes_received = 0
        self.client_bytes_sent = 0
        self.server_bytes_received = 0
        self.server_bytes_sent = 0
        self.errors: dict[bytes, int] = {}

    def ask(self, pool: Pool, server: Link) -> None:
        self.control.ask(pool, server)

    def let_go(self, server: Server) -> None:
        """A link has ended: what it did stays counted."""
        self.server_bytes_received += server.bytes_received
        self.server_bytes_sent += server.bytes_sent
        self.queries += server.queries
        self.transactions += server.transactions
        self.query_s += server.query_s
        self.transaction_s += server.transaction_s

    def forget(self) -> None:
        """Decide everything anew: the rules have changed."""
        self.flows = FlowTable(self.flows.entries_max, self.flows.bytes_max)
        # Clients hold what they prepared: no new statement may have the name of one of those on a server.
        self.statements.by_content.clear()
