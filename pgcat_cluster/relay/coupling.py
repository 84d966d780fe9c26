"""A client and a server coupled: frames forwarded by remembered decisions, every reply owed accounted for.

How a request travels. The client's lane looks at each frame. A Query, or a batch of the extended protocol up
to its Sync or Flush, is *decided*: its shape finds a flow, or the control (plain Python, an upcall) makes one.
Then the client is *coupled* with a server of the flow's target, or waits for one. While coupled, frames are
forwarded; after a Query or Sync nothing more of the client is looked at until ReadyForQuery has come back, so
answers can not get out of order. At ReadyForQuery `I` the server is released, unless something must be asked
or done first (*settling*), or the client is pinned to it.

The ledger of a server lists the replies owed that matter: ParseComplete, CloseComplete, ReadyForQuery, and in sharded
pools ParameterDescription; each is the client's, or ours (then it is swallowed). An ErrorResponse strikes everything
up to the next ReadyForQuery, as PostgreSQL does (protocol, "Extended Query": after an error, messages are skipped to
Sync).

Prepared statements are known to a server under names of ours. Preparing is always Close and Parse, so it
succeeds whatever the server remembers. One that is too long to be held has its client's own name and stays on its
link, and so does the client.
"""

from __future__ import annotations

from socket import socket
from typing import TYPE_CHECKING

from pgcat_cluster.relay import frames, marks
from pgcat_cluster.relay.desk import Control, Desk, Errand, Receiver
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.relay.ledger import Ledger, Owed
from pgcat_cluster.relay.links import Link, Reactor
from pgcat_cluster.relay.positions import Position
from pgcat_cluster.relay.stock import Pool, Target, Waiter

if TYPE_CHECKING:
    from pgcat_cluster.relay.client import Client
    from pgcat_cluster.relay.server import Server

PRIMARY = marks.PRIMARY
ENDS = marks.ENDS
CHANGES = marks.WRITES | marks.DOUBTS


class ClientEnd(Waiter):
    """What a server sees of a client: all of its state, and what it may be told.

    `receiver` takes all frames until login is complete (and for consoles for ever). Then `desk` is set, and
    exactly one of these holds: idle (no server), waiting (a place in a target's queue), coupled (`server`).
    """

    __slots__ = (
        "answered", "aside", "attempts", "awaiting", "completed", "context", "context_before", "copy_ahead",
        "copy_doubt", "copy_synced", "copy_syncs", "copying", "cork", "coupled_at", "decided", "desk", "detail",
        "errors", "executed", "failed", "fell_behind", "finishes", "flags", "flow", "found", "greeting", "has_shapes",
        "held", "held_hint", "held_role", "hint", "home", "is_alone", "is_glued", "is_simple", "is_starting",
        "is_utf8", "lingering", "longest_wait_s", "names", "needs", "overlay", "parameters", "path", "pinned",
        "planned", "pool", "portals", "positions", "primary_only", "probed", "probing", "queries", "reads_wish",
        "ready_at", "receiver", "refusal", "refused", "request", "request_at", "rereads", "retry", "role",
        "role_hint", "role_wish", "saved_in", "saves", "server", "settling", "shard", "shard_next", "shard_wish",
        "shuns_replicas", "skipping", "spelled", "spoiling", "spoils", "statements", "status", "strays", "streaming",
        "survey_end", "survey_reads", "surveyed", "target", "transactions", "unnamed", "unsynced", "untold",
        "wait_since", "wishes_end",
    )  # fmt: skip

    def __init__(self, sock: socket, reactor: Reactor, scratch: bytearray, receiver: Receiver) -> None:
        super().__init__(sock, reactor, scratch)
        self.waiting = False
        self.ticket = 0
        self.receiver: Receiver | None = receiver
        self.is_starting = True
        self.is_glued = False
        self.desk: Desk | None = None
        self.detail: object = None
        self.server: Server | None = None
        self.target: Target | None = None
        # Of the server it was coupled with last.
        self.pool: Pool | None = None
        self.status = frames.STATUS_IDLE
        # The request in progress.
        self.flow: Flow | None = None
        self.role = marks.PRIMARY
        self.shard = 0
        # Where it goes with what any shard can do, -1 while it has not.
        self.home = -1
        # What its comments say, -1 if nothing; why it was refused; whether its refusal is still to be told the server,
        # or being told.
        self.hint = -1
        self.role_hint = -1
        # Its server knows nothing of the transaction that is held; it must leave it for another shard.
        self.aside = False
        self.strays = False
        self.shard_next = 0
        self.refusal = b""
        self.spoils = False
        self.spoiling = False
        self.decided = False
        self.awaiting = False
        self.unsynced = False
        # Something in the batch in progress ends a transaction.
        self.finishes = False
        self.executed = False
        self.is_simple = False
        self.failed = False
        self.skipping = False
        self.refused = False
        self.streaming = False
        self.lingering = False
        self.probing = False
        self.probed = False
        self.retry = False
        self.request: bytes | None = None
        self.survey_end = 0
        self.survey_reads = False
        self.primary_only = False
        self.shuns_replicas = False
        self.attempts = 0
        self.cork = bytearray()
        # COPY FROM STDIN.
        self.copying = False
        self.copy_ahead = 0
        self.copy_synced = False
        self.copy_doubt = False
        self.copy_syncs = 0
        # A BEGIN that no server has seen yet and what is held behind it, the role it needs, what its comments say;
        # portals of statements that are answered here, each with the rest of its Bind.
        self.held: list[bytes] = []
        self.held_role = marks.PRIMARY
        self.held_hint = -1
        self.portals: dict[bytes, tuple[Statement, bytes]] = {}
        # The session. Its wishes are -1 where it has none; some were said in its transaction.
        self.shard_wish = -1
        self.role_wish = -1
        self.reads_wish = -1
        self.wishes_end = False
        # The request in progress does something to savepoints, unless it fails; and how much of it has been done.
        self.saves = False
        self.completed = 0
        # What it wrote lies before these, by shard; and what the request in progress must see.
        self.positions: dict[int, Position] = {}
        self.needs: Position | None = None
        self.fell_behind = False
        self.flags = 0
        self.parameters: object = None
        self.settling = False
        self.greeting = False
        self.pinned = False
        self.has_shapes = True
        self.is_utf8 = False
        # The search_path that was set, in the session's own form, where names of tables depend on it; behind it in
        # `context` the parameters that say what constants of a statement mean, as they are in force for it.
        self.path = b""
        # In which of its transactions it last set a savepoint, where the path matters.
        self.saved_in = -1
        self.context = b""
        self.statements: dict[bytes, Statement] = {}
        self.overlay: dict[bytes, Statement | None] = {}
        self.planned: dict[bytes, Statement] = {}
        self.surveyed: Statement | None = None
        self.found: Statement | None = None
        self.answered: list[Owed] = []
        self.unnamed: Statement | None = None
        self.spelled: set[bytes] = set()
        self.names: set[str] | None = None
        # Something in its transaction may have changed how constants are read; how is not known yet, so its context is
        # its own; no server will tell.
        self.rereads = False
        self.is_alone = False
        self.untold = False
        self.context_before = b""
        # Times (of the desk's clock) and counts.
        self.wait_since = 0.0
        self.longest_wait_s = 0.0
        self.coupled_at = 0.0
        self.request_at = 0.0
        self.ready_at = 0.0
        self.queries = 0
        self.transactions = 0
        self.errors = 0

    def may_have_written(self) -> bool:
        """Whether what it did with its server, the primary, may have changed data.

        A transaction that was opened there may have; one that is there since no replica was current only reads,
        as far as its statements say.
        """
        flags = self.flags
        return flags & CHANGES != 0 or (flags & ENDS != 0 and self.role == PRIMARY and not self.fell_behind)

    def repeat(self) -> None:
        """Ask again, elsewhere: not one byte of an answer has reached the client, and the request only reads."""
        raise NotImplementedError

    def confirm(self) -> None:
        """What was answered of a batch is true now: its names are this client's, or no longer."""
        raise NotImplementedError

    def in_own_words(self, body: bytes) -> bytes:
        """An ErrorResponse in which servers' names of prepared statements are this client's."""
        raise NotImplementedError


class ServerEnd(Link):
    """What a client sees of a server link: all of its state, and what it may ask of it.

    `client` is who it is coupled with. Without one it rests in its pool (`resting`), or it is being cleaned, or a
    cancel is on its way to it; then all that arrives is swallowed.
    """

    __slots__ = (
        "abandoned_at", "base_parameters", "cancels", "client", "control", "detail", "dropping", "errors",
        "generation", "is_fatal", "is_retired", "is_stale", "is_unclean", "ledger", "opened_at", "parameters",
        "pool", "prepared", "prepared_evictions", "prepared_hits", "prepared_misses", "queries", "query_s",
        "quiet", "resting", "serial", "skipping", "status", "transaction_s", "transactions", "unnamed",
        "used_at", "wait_s",
    )  # fmt: skip

    def __init__(
        self, sock: socket, reactor: Reactor, scratch: bytearray, pool: Pool, control: Control
    ) -> None:
        super().__init__(sock, reactor, scratch)
        self.pool = pool
        self.control = control
        self.detail: object = None
        self.client: Client | None = None
        self.ledger = Ledger()
        self.quiet = False
        self.skipping = False
        self.dropping = False
        self.status = frames.STATUS_IDLE
        self.parameters: object = None
        self.base_parameters: object = None
        self.prepared: dict[Statement, int] = {}
        self.unnamed: Statement | None = None
        self.serial = 0
        self.generation = pool.generation
        self.resting = False
        self.is_unclean = False
        self.is_stale = False
        self.is_retired = False
        self.is_fatal = False
        self.cancels = 0
        self.abandoned_at = 0.0
        self.opened_at = 0.0
        self.used_at = 0.0
        # What was done here, as the desk counts it.
        self.transactions = 0
        self.queries = 0
        self.errors = 0
        self.query_s = 0.0
        self.transaction_s = 0.0
        self.wait_s = 0.0
        self.prepared_hits = 0
        self.prepared_misses = 0
        self.prepared_evictions = 0

    def over(self, desk: Desk, client: Client) -> None:
        """A transaction is over: the server goes back, if nothing of the client is left on it."""
        raise NotImplementedError

    def part(self) -> None:
        """The client goes on elsewhere in the middle of a batch: end the batch, swallow its end."""
        raise NotImplementedError

    def sync_late(self) -> None:
        """The Syncs that came behind the last COPY data: as the COPY has failed, they are not ignored."""
        raise NotImplementedError

    def sync_behind(self, client: Client) -> None:
        """What ran in front of a Query has failed: the Query is passed over, up to this Sync."""
        raise NotImplementedError

    def order(self, text: bytes, errand: Errand | None) -> None:
        """Send a Query of our own; its answer is swallowed, rows and errors go to the errand."""
        raise NotImplementedError

    def precede(self, text: bytes) -> None:
        """Run a statement of ours in front of its client's request, which does not run if this one fails."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The client is gone. Roll back and reuse where that is sure, else close."""
        raise NotImplementedError

    def evict(self, count: int) -> None:
        """Close the prepared statements that were used longest ago, none of the batch in progress."""
        raise NotImplementedError
