"""A client and a server coupled: frames forwarded by remembered decisions, every reply owed accounted for.

How a request travels. The client's lane looks at each frame. A Query, or a batch of the extended protocol up
to its Sync or Flush, is *decided*: its shape finds a flow, or the control (plain Python, an upcall) makes one.
Then the client is *coupled* with a server of the flow's target, or waits for one. While coupled, frames are
forwarded; after a Query or Sync nothing more of the client is looked at until ReadyForQuery has come back, so
answers can not get out of order. At ReadyForQuery `I` the server is released, unless something must be asked
or done first (*settling*), or the client is pinned to it.

The ledger of a server lists the replies owed that matter: ParseComplete, CloseComplete, ReadyForQuery; each is
the client's, or ours (then it is swallowed). An ErrorResponse strikes everything up to the next ReadyForQuery,
as PostgreSQL does (protocol, "Extended Query": after an error, messages are skipped to Sync).

Prepared statements are known to a server under names of ours. Preparing is always Close and Parse, so it
succeeds whatever the server remembers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import itemgetter
from socket import socket
from typing import Protocol, cast

from pgcat_cluster.relay import links, marks
from pgcat_cluster.relay.flows import Flow, FlowTable, Statement, Statements
from pgcat_cluster.relay.links import Link, Reactor
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.relay.stock import Gate, Pool, Target, Waiter

# Frontend message types.
BIND = 0x42
CLOSE = 0x43
DESCRIBE = 0x44
EXECUTE = 0x45
FUNCTION = 0x46
FLUSH = 0x48
PARSE = 0x50
QUERY = 0x51
SYNC = 0x53
TERMINATE = 0x58
COPY_DONE = 0x63
COPY_DATA = 0x64
COPY_FAIL = 0x66
# Backend message types that are looked at.
PARSE_COMPLETE = 0x31
BIND_COMPLETE = 0x32
CLOSE_COMPLETE = 0x33
DATA_ROW = 0x44
ERROR = 0x45
COPY_IN = 0x47
PARAMETER_STATUS = 0x53
COPY_BOTH = 0x57
READY = 0x5A
NOTIFICATION = 0x41

# What is owed, in a ledger.
OWED_PARSE = 1
OWED_PARSE_QUIET = 2
OWED_CLOSE = 3
OWED_CLOSE_QUIET = 4
OWED_READY = 5
OWED_READY_QUIET = 6

STATUS_IDLE = 0x49
LENGTH_MAX = 0x3FFFFFFF
BATCH_BYTES_MAX = 65536
NAMES_BYTES_MAX = 4096
# A frame of a server that must be seen whole (errors, parameters, rows of our own questions).
CALL_BYTES_MAX = 1048576

PRIMARY = marks.PRIMARY
REPLICA = marks.REPLICA
READS = marks.READS
SEQUENCES = marks.SEQUENCES
CALLS = marks.CALLS
FORGETS = marks.FORGETS
UNPINS = marks.UNPINS
ASKS = marks.LEAVES | marks.UNCLEAN | marks.FORGETS

SURVEY_MORE = 0
SURVEY_SERVER = 1
SURVEY_LOCAL = 2


def _passing() -> bytes:
    table = bytearray(256)
    # BindComplete, Notification, CommandComplete, CopyData, CopyDone, DataRow, EmptyQuery, CopyOut, NoData,
    # Notice, PortalSuspended, RowDescription, ParameterDescription, FunctionCallResponse
    for kind in b"2ACcdDIHnNsTtV":
        table[kind] = 1
    return bytes(table)


def _preparing() -> bytes:
    table = bytearray(256)
    for kind in b"123TtnN":
        table[kind] = 1
    return bytes(table)


# Backend frames that are copied on without a look, and those that come before the answer proper.
_PASSES = _passing()
PASSES = _PASSES
_PREPARES = _preparing()
PREPARES = _PREPARES

_SYNC_FRAME = b"S\x00\x00\x00\x04"
_FLUSH_FRAME = b"H\x00\x00\x00\x04"
_TERMINATE_FRAME = b"X\x00\x00\x00\x04"
_CLOSE_COMPLETE_FRAME = b"3\x00\x00\x00\x04"


_first = itemgetter(0)


def _cut(name: bytes) -> bytes:
    """A statement's name as PostgreSQL keeps it (NAMEDATALEN)."""
    return name if len(name) < 64 else name[:63]


def query_frame(text: bytes) -> bytes:
    return b"Q" + (5 + len(text)).to_bytes(4, "big") + text + b"\0"


def close_frame(name: bytes) -> bytes:
    return b"C" + (6 + len(name)).to_bytes(4, "big") + b"S" + name + b"\0"


def ready_frame(status: int) -> bytes:
    return b"Z\x00\x00\x00\x05" + bytes((status,))


class Errand(Protocol):
    """A question or order of ours to a server: gets the rows and errors, then the end."""

    def take(self, kind: int, body: bytes) -> None:
        """A DataRow or ErrorResponse, without type and length."""

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

    def perform(self, client: Client, flow: Flow) -> bool:
        """A simple Query names a prepared statement in SQL; True: it was answered here, nothing is forwarded."""

    def align(self, client: Client, server: Server) -> None:
        """Put the client's parameters into force on the server it has just got."""

    def settle(self, client: Client, server: Server) -> None:
        """A transaction that may have left something is over; ends with `release` or `stay`."""

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


class Owed:
    """One reply that a server owes."""

    __slots__ = ("errand", "kind", "name", "statement")

    def __init__(
        self, kind: int, name: bytes | None, statement: Statement | None, errand: Errand | None
    ) -> None:
        self.kind = kind
        self.name = name
        self.statement = statement
        self.errand = errand


_READY = Owed(OWED_READY, None, None, None)
_SYNC_QUIET = Owed(OWED_READY_QUIET, None, None, None)
_CLOSE = Owed(OWED_CLOSE, None, None, None)
_PROBE = Owed(OWED_CLOSE_QUIET, None, None, None)


class Desk(Gate):
    """A gate with what clients of one (database, user) share besides servers: flows, statements, counts."""

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
    ) -> None:
        super().__init__(balancing, seed, grow, detail)
        self.control = control
        self.clock = clock
        self.scanner = Scanner()
        self.flows = FlowTable(flow_entries_max, flow_bytes_max)
        self.statements = Statements(flow_entries_max)
        self.session_flow = Flow(PRIMARY, marks.ENDS, "session mode")
        self.is_session_mode = is_session_mode
        self.statement_bytes_max = statement_bytes_max
        self.prepared_max = prepared_max
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

    def forget(self) -> None:
        """Decide everything anew: the rules have changed."""
        self.flows = FlowTable(self.flows.entries_max, self.flows.bytes_max)
        self.statements = Statements(self.statements.entries_max)


class Client(Waiter):
    """One client: its lane, its request in progress, its prepared statements.

    `receiver` takes all frames until login is complete (and for consoles for ever). Then `desk` is set, and
    exactly one of these holds: idle (no server), waiting (a place in a target's queue), coupled (`server`).
    """

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
        self.status = STATUS_IDLE
        # The request in progress.
        self.flow: Flow | None = None
        self.role = PRIMARY
        self.decided = False
        self.awaiting = False
        self.unsynced = False
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
        self.copy_ended = False
        self.copy_failed = False
        # The session.
        self.flags = 0
        self.parameters: object = None
        self.settling = False
        self.greeting = False
        self.pinned = False
        self.has_shapes = True
        self.statements: dict[bytes, Statement] = {}
        self.overlay: dict[bytes, Statement | None] = {}
        self.planned: dict[bytes, Statement] = {}
        self.unnamed: Statement | None = None
        self.spelled: set[bytes] = set()
        self.names: set[str] | None = None
        # Times (of the desk's clock) and counts.
        self.wait_since = 0.0
        self.longest_wait_s = 0.0
        self.coupled_at = 0.0
        self.request_at = 0.0
        self.ready_at = 0.0
        self.queries = 0
        self.transactions = 0

    # -- joining -------------------------------------------------------------------------------------------

    def join(self, desk: Desk, parameters: object) -> None:
        """Login is complete: from now on frames are relayed."""
        self.desk = desk
        self.parameters = parameters
        self.receiver = None
        self.ready_at = desk.clock()

    # -- the lane ------------------------------------------------------------------------------------------

    def consume(self, buffer: bytearray, start: int, end: int) -> int:
        position = start
        p = buffer
        while position < end and not self.closed and not self.closing:
            if self.remaining > 0:
                count = end - position
                if count > self.remaining:
                    count = self.remaining
                self.remaining -= count
                if self.streaming and self.server is not None:
                    self.server.put(buffer, position, position + count)
                position += count
                if self.lingering and self.remaining == 0:
                    self.lingering = False
                    if self.server is not None and self.desk is not None:
                        self.server.flush()
                        self.server.over(self.desk, self)
                continue
            if self.receiver is not None:
                stop = self._offer(buffer, position, end)
                if stop == position:
                    break
                position = stop
                continue
            if self.waiting or self.awaiting or self.settling or self.probing:
                break
            if end - position < 5:
                break
            kind = p[position]
            length = p[position + 1]
            length = (length << 8) | p[position + 2]
            length = (length << 8) | p[position + 3]
            length = (length << 8) | p[position + 4]
            if length < 4 or length > LENGTH_MAX:
                self._control().violated(self, "invalid message length")
                return end
            stop = position + 1 + length
            if self.copying:
                self._copy_frame(kind, buffer, position, stop, end)
                position = stop if stop < end else end
                continue
            if self.refused or self.skipping:
                self._skip(kind)
                self._drop(stop, end)
                position = stop if stop < end else end
                continue
            server = self.server
            if server is not None and server.skipping and kind != SYNC and kind != TERMINATE:
                # After an error the server passes over everything up to Sync, and so do we.
                self._drop(stop, end)
                position = stop if stop < end else end
                continue
            if kind == QUERY or kind == FUNCTION or (kind == SYNC and length != 4):
                if self.unsynced and server is not None and not self.probed:
                    self._probe(server)
                    break
                if self.unsent() > links.HIGH_WATER_BYTES:
                    self.pause_reading()
                    break
                stop = self._query(kind, buffer, position, stop, end)
            elif kind == PARSE or kind == BIND or kind == DESCRIBE or kind == EXECUTE or kind == CLOSE:
                stop = self._extended(kind, buffer, position, stop, end)
            elif kind == SYNC:
                if self.server is None:
                    self.put_bytes(ready_frame(STATUS_IDLE))
                else:
                    self._sync()
            elif kind == FLUSH:
                if self.server is not None and stop <= end:
                    self.server.put(buffer, position, stop)
            elif kind == COPY_DATA or kind == COPY_DONE or kind == COPY_FAIL:
                server = self.server
                if server is not None and self.unsynced:
                    # An Execute before it may have begun the COPY; if not, the server ignores it too.
                    self.copy_ended = kind != COPY_DATA
                    self._forward(server, buffer, position, stop, end)
                else:
                    # What is left of a COPY that failed is ignored (protocol, "COPY Operations").
                    self._drop(stop, end)
            elif kind == TERMINATE:
                self._depart()
                return end
            else:
                self._control().violated(self, f"invalid frontend message type {kind}")
                return end
            if stop == position:
                break
            position = stop if stop < end else end
        server = self.server
        if server is not None:
            server.flush()
            if server.unsent() > links.HIGH_WATER_BYTES:
                self.pause_reading()
        if self.receiver is None and not self.closed:
            self.flush()
        return position

    def _offer(self, buffer: bytearray, position: int, end: int) -> int:
        """Hand one frame to the receiver."""
        receiver = self.receiver
        assert receiver is not None
        if self.settling:
            return position
        header = 4 if self.is_starting else 5
        if end - position < header:
            return position
        kind = 0 if self.is_starting else buffer[position]
        length = int.from_bytes(buffer[position + header - 4 : position + header], "big")
        if length < 4 or length - 4 > receiver.frame_bytes_max(kind):
            receiver.refuse_length(self, kind, length)
            return end
        stop = position + header - 4 + length
        if stop > end:
            return position
        self.is_glued = stop < end
        receiver.frame(self, kind, bytes(buffer[position + header : stop]))
        return stop

    def _control(self) -> Control:
        desk = self.desk
        assert desk is not None
        return desk.control

    def _drop(self, stop: int, end: int) -> None:
        """Pass over a frame, also what has not arrived of it."""
        if stop > end:
            self.remaining = stop - end
            self.streaming = False

    def _skip(self, kind: int) -> None:
        """A request that was refused: it is dropped, up to its Sync."""
        if self.refused:
            self.refused = False
            self.decided = False
            if kind == QUERY or kind == FUNCTION:
                self.put_bytes(ready_frame(STATUS_IDLE))
                return
            self.skipping = True
        if kind == SYNC:
            self.skipping = False
            self.put_bytes(ready_frame(STATUS_IDLE))

    def _copy_frame(self, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> None:
        """While the server reads COPY data everything goes to it; it ignores Sync and Flush itself."""
        server = self.server
        assert server is not None
        self._forward(server, buffer, position, stop, end)
        if kind == COPY_DONE or kind == COPY_FAIL:
            self.copying = False
            if self.is_simple:
                self.awaiting = True

    def _forward(self, server: Server, buffer: bytearray, start: int, stop: int, end: int) -> None:
        """Put a frame, or the part of it that is here; the rest streams."""
        if stop > end:
            server.put(buffer, start, end)
            self.remaining = stop - end
            self.streaming = True
        else:
            server.put(buffer, start, stop)

    # -- simple queries ------------------------------------------------------------------------------------

    def _query(self, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> int:
        """Query and FunctionCall; answers position when it has to wait, else stop."""
        desk = self.desk
        assert desk is not None
        if not self.decided:
            if stop > end:
                if kind == QUERY and stop - position <= desk.statement_bytes_max:
                    return position
                flow = self._unknown(desk)
            elif kind == FUNCTION:
                flow = self._unknown(desk)
            else:
                text_end = stop - 1 if buffer[stop - 1] == 0 else stop
                flow = self._decide(desk, buffer, position + 5, text_end)
                if flow.flags & CALLS:
                    desk.upcalls += 1
                    if desk.control.perform(self, flow):
                        self.flush()
                        return stop
            self.flow = flow
            self.decided = True
        else:
            assert self.flow is not None
            flow = self.flow
        server = self.server
        if server is None:
            server = self._checkout(desk, flow.role)
            if server is None:
                if self.refused:
                    return self._refuse_now(kind, stop, end)
                return position
        self.decided = False
        if flow.flags & SEQUENCES and not self.executed:
            server.order(b"DISCARD SEQUENCES", None)
        if flow.flags & CALLS:
            self._spell_out(server)
        self.retry = False
        if (
            flow.flags & READS
            and self.status == STATUS_IDLE
            and self.role == REPLICA
            and stop <= end
            and not self.unsynced
        ):
            self.retry = True
            self.request = bytes(buffer[position:stop])
        self._note(flow)
        self._forward(server, buffer, position, stop, end)
        server.ledger.append(_READY)
        server.unnamed = None
        self.unnamed = None
        self.awaiting = True
        self.executed = True
        self.is_simple = True
        self.failed = False
        self.queries += 1
        desk.queries += 1
        self.request_at = desk.clock()
        return stop

    def _refuse_now(self, kind: int, stop: int, end: int) -> int:
        self._skip(kind)
        self._drop(stop, end)
        return stop

    def _unknown(self, desk: Desk) -> Flow:
        desk.upcalls += 1
        desk.unknown_statements += 1
        return desk.control.analyse(self, b"", None)

    def _decide(self, desk: Desk, buffer: bytearray, start: int, stop: int) -> Flow:
        """The flow of a statement: remembered, or from the control."""
        if desk.is_session_mode:
            return desk.session_flow
        shape = desk.scanner.scan(buffer, start, stop) if self.has_shapes else None
        if shape is None:
            desk.upcalls += 1
            desk.unknown_statements += 1
            return desk.control.analyse(self, bytes(buffer[start:stop]), None)
        known = desk.flows.get(shape)
        if known is not None:
            return known
        desk.upcalls += 1
        return desk.control.analyse(self, bytes(buffer[start:stop]), shape)

    def _note(self, flow: Flow) -> None:
        """Remember what an execution may do to the session."""
        self.flags |= flow.flags
        if flow.flags & FORGETS and self.server is not None:
            self.server.prepared.clear()
        if flow.parameters:
            if self.names is None:
                self.names = set()
            self.names.update(flow.parameters)

    # -- a server ------------------------------------------------------------------------------------------

    def _checkout(self, desk: Desk, role: int) -> Server | None:
        """Take a server, or a place in the queue (None; `refused` if even that was denied)."""
        if self.primary_only or self.shuns_replicas:
            role = PRIMARY
        self.role = role
        target = desk.primary if role == PRIMARY else desk.replica
        self.target = target
        server = cast(Server | None, target.take())
        if server is not None:
            self._couple(desk, server)
            return server
        self.wait_since = desk.clock()
        target.enqueue(self)
        if target.may_grow() or len(target.pools) == 0 or desk.paused:
            desk.upcalls += 1
            desk.control.want(self, target)
        return self.server

    def _couple(self, desk: Desk, server: Server) -> None:
        assert server.client is None
        server.resting = False
        server.client = self
        server.peer = self
        server.serial += 1
        self.spelled.clear()
        self.server = server
        self.peer = server
        self.flags = 0
        self.executed = False
        self.unsynced = False
        self.coupled_at = desk.clock()
        if server.parameters is not self.parameters or self.greeting:
            desk.upcalls += 1
            desk.control.align(self, server)

    def greet(self) -> None:
        """Get a server for a moment, to learn what the client must be told at login; no request is looked at."""
        desk = self.desk
        assert desk is not None
        self.greeting = True
        self.settling = True
        role = PRIMARY if len(desk.primary.pools) > 0 else REPLICA
        server = self._checkout(desk, role)
        if server is not None:
            server.flush()

    def granted(self, server: Link) -> None:
        desk = self.desk
        assert desk is not None
        waited_s = desk.clock() - self.wait_since
        desk.wait_s += waited_s
        if waited_s > self.longest_wait_s:
            self.longest_wait_s = waited_s
        self._couple(desk, cast(Server, server))
        if self.greeting:
            server.flush()
        self.replay()

    def fail(self, error: bytes) -> None:
        """The request that waits for a server gets this ErrorResponse instead."""
        if self.target is not None:
            self.target.leave(self)
        self.put_bytes(error)
        self.refused = True
        self.flush()
        self.replay()

    def repeat(self) -> None:
        """Ask again, elsewhere: not one byte of an answer has reached the client, and the request only reads."""
        request = self.request
        assert request is not None
        desk = self.desk
        assert desk is not None
        desk.repeats += 1
        self.attempts += 1
        self.request = None
        self.retry = False
        self.awaiting = False
        self.unsynced = False
        self.decided = False
        self.cork.clear()
        self.overlay.clear()
        self.pending = bytearray(request) + self.pending
        self.replay()

    # -- the extended protocol -----------------------------------------------------------------------------

    def _extended(self, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> int:
        """Parse, Bind, Describe, Execute, Close; answers position when it has to wait, else stop."""
        desk = self.desk
        assert desk is not None
        if self.server is None:
            if not self.decided:
                survey = self._survey(desk, buffer, position, end)
                if survey == SURVEY_MORE:
                    return position
                if survey == SURVEY_LOCAL:
                    return self._close_here(buffer, position, stop)
                self.decided = True
            if self._checkout(desk, self.role) is None:
                if self.refused:
                    return self._refuse_now(kind, stop, end)
                return position
        if self.decided:
            self._begin_batch(desk, buffer, position, end)
        server = self.server
        assert server is not None
        if not self.unsynced:
            self.is_simple = False
            self.copy_ended = False
            self.failed = False
            self.request_at = desk.clock()
        if desk.is_session_mode:
            self.unsynced = True
            if kind == EXECUTE:
                desk.queries += 1
                self.queries += 1
            elif kind == CLOSE:
                server.ledger.append(_CLOSE)
            self._forward(server, buffer, position, stop, end)
            return stop
        if kind == EXECUTE:
            if stop > end:
                return position
            self.unsynced = True
            self.executed = True
            self.queries += 1
            desk.queries += 1
            server.put(buffer, position, stop)
            return stop
        if kind == BIND:
            return self._bind(desk, server, buffer, position, stop, end)
        if kind == PARSE:
            return self._parse(desk, server, buffer, position, stop, end)
        if stop > end:
            return position
        self.unsynced = True
        if kind == DESCRIBE:
            self._describe(server, buffer, position, stop)
        else:
            self._close(server, buffer, position, stop)
        return stop

    def _begin_batch(self, desk: Desk, buffer: bytearray, position: int, end: int) -> None:
        """The first frame of a decided batch goes out: keep the batch if it may be repeated."""
        self.decided = False
        self.retry = False
        if self.survey_reads and self.role == REPLICA and self.survey_end <= end - position:
            self.retry = True
            self.request = bytes(buffer[position : position + self.survey_end])
        server = self.server
        if self.flow is not None and self.flow.flags & SEQUENCES and not self.executed and server is not None:
            server.order(b"DISCARD SEQUENCES", None)

    def _survey(self, desk: Desk, buffer: bytearray, start: int, end: int) -> int:
        """Decide a batch by its statements up to the first Sync or Flush, without consuming it.

        Sets role, flow (the most demanding one), survey_end (bytes of the batch) and survey_reads.
        """
        p = buffer
        position = start
        self.planned.clear()
        role = REPLICA
        local = True
        reads = True
        found = False
        decisive: Flow | None = None
        while True:
            if position - start > BATCH_BYTES_MAX:
                reads = False
                break
            if end - position < 5:
                return SURVEY_MORE
            kind = p[position]
            length = p[position + 1]
            length = (length << 8) | p[position + 2]
            length = (length << 8) | p[position + 3]
            length = (length << 8) | p[position + 4]
            stop = position + 1 + length
            if length < 4 or length > LENGTH_MAX:
                break
            if kind == SYNC or kind == FLUSH:
                if stop > end:
                    return SURVEY_MORE
                if kind == FLUSH:
                    # What comes before the Flush must be answered at once, so it can't be asked twice.
                    reads = False
                position = stop
                break
            if kind == PARSE or kind == BIND or (kind == DESCRIBE and stop - position > 5):
                local = False
                if kind == PARSE and stop > end and stop - position <= desk.statement_bytes_max:
                    return SURVEY_MORE
                if kind == DESCRIBE and stop > end:
                    return SURVEY_MORE
                flow = self._flow_of(desk, kind, buffer, position, stop, end)
                if flow is None:
                    if kind == BIND and stop > end and end - position < NAMES_BYTES_MAX:
                        return SURVEY_MORE
                else:
                    found = True
                    if decisive is None or flow.role == PRIMARY:
                        decisive = flow
                    if flow.role == PRIMARY:
                        role = PRIMARY
                    if not flow.flags & READS:
                        reads = False
                if stop > end:
                    if stop - start <= BATCH_BYTES_MAX:
                        return SURVEY_MORE
                    reads = False
                    break
            elif kind == EXECUTE or kind == CLOSE or kind == DESCRIBE:
                if stop > end:
                    return SURVEY_MORE
                if kind != CLOSE or not self._closes_well(buffer, position, stop):
                    local = False
            else:
                # Something else in the middle: what was seen decides, the rest is judged when its turn comes.
                reads = False
                local = False
                break
            position = stop
        self.survey_end = position - start
        self.survey_reads = reads and found
        self.role = role if found else PRIMARY
        self.flow = decisive
        return SURVEY_LOCAL if local else SURVEY_SERVER

    def _flow_of(
        self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int, end: int
    ) -> Flow | None:
        """The flow of a Parse's text, or of the statement a Bind or Describe names; None if there is none."""
        if desk.is_session_mode:
            return desk.session_flow
        limit = stop if stop < end else end
        if kind == DESCRIBE:
            if buffer[position + 5] != 0x53:
                return None
            name_start = position + 6
        elif kind == BIND:
            name_start = buffer.find(b"\0", position + 5, limit) + 1
            if name_start == 0:
                return None
        else:
            name_end = buffer.find(b"\0", position + 5, limit)
            if stop > end or name_end < 0:
                return self._unknown(desk)
            text_end = buffer.find(b"\0", name_end + 1, stop)
            if text_end < 0:
                return None
            text = bytes(buffer[name_end + 1 : text_end])
            statement = desk.statements.get(text, bytes(buffer[text_end + 1 : stop]))
            if statement is not None and self.has_shapes:
                flow = statement.flow
            else:
                flow = self._decide(desk, buffer, name_end + 1, text_end)
            # A batch may use the name at once.
            self.planned[_cut(bytes(buffer[position + 5 : name_end]))] = Statement(text, b"", flow, b"")
            return flow
        name_end = buffer.find(b"\0", name_start, limit)
        if name_end < 0:
            return None
        name = _cut(bytes(buffer[name_start:name_end]))
        named = self.planned.get(name)
        if named is None:
            named = self._statement(name)
        return None if named is None else named.flow

    def _statement(self, name: bytes) -> Statement | None:
        """What a name means to this client now, also within the batch in progress."""
        if self.overlay and name in self.overlay:
            return self.overlay[name]
        if len(name) == 0:
            return self.unnamed
        return self.statements.get(name)

    def _closes_well(self, buffer: bytearray, position: int, stop: int) -> bool:
        """Whether a Close is well formed; what is not goes to a server, which says so."""
        if stop - position < 7 or buffer[position + 5] not in b"SP":
            return False
        return buffer.find(b"\0", position + 6, stop) == stop - 1

    def _close_here(self, buffer: bytearray, position: int, stop: int) -> int:
        """A batch that only closes needs no server: CloseComplete never fails. Answers where its frame ends."""
        if buffer[position + 5] == 0x53 and stop - position > 6:
            name = _cut(bytes(buffer[position + 6 : stop - 1]))
            if len(name) == 0:
                self.unnamed = None
            else:
                self.statements.pop(name, None)
        self.put_bytes(_CLOSE_COMPLETE_FRAME)
        return stop

    def _ensure(self, desk: Desk, server: Server, statement: Statement) -> None:
        """The server knows this statement under its server name when what follows arrives."""
        if statement in server.prepared:
            server.prepared[statement] = server.serial
            return
        if len(server.prepared) >= desk.prepared_max:
            server.evict(desk.prepared_max // 8)
        desk.server_parses += 1
        server.prepared[statement] = server.serial
        server.put_bytes(close_frame(statement.server_name))
        server.ledger.append(Owed(OWED_CLOSE_QUIET, None, None, None))
        server.put_bytes(statement.parse_frame(statement.server_name))
        server.ledger.append(Owed(OWED_PARSE_QUIET, None, statement, None))

    def _spell_out(self, server: Server) -> None:
        """SQL names statements that were prepared by protocol: the server must know them under their names.

        What is left of them when the transaction is over is asked in settling.
        """
        for name in [*self.statements, *self.overlay]:
            statement = self._statement(name)
            if statement is not None and name not in self.spelled:
                server.put_bytes(close_frame(name))
                server.ledger.append(Owed(OWED_CLOSE_QUIET, None, None, None))
                server.put_bytes(statement.parse_frame(name))
                server.ledger.append(Owed(OWED_PARSE_QUIET, None, None, None))
                self.spelled.add(name)
                server.is_stale = True

    def _parse(
        self, desk: Desk, server: Server, buffer: bytearray, position: int, stop: int, end: int
    ) -> int:
        if stop > end:
            if stop - position <= desk.statement_bytes_max:
                return position
            desk.control.violated(self, "a statement this long can not be prepared: see statement_bytes_max")
            return stop
        name_end = buffer.find(b"\0", position + 5, stop)
        text_end = buffer.find(b"\0", name_end + 1, stop) if name_end >= 0 else -1
        if text_end < 0:
            # Malformed: the server says so in its own words.
            self.unsynced = True
            server.put(buffer, position, stop)
            return stop
        name = _cut(bytes(buffer[position + 5 : name_end]))
        text = bytes(buffer[name_end + 1 : text_end])
        types = bytes(buffer[text_end + 1 : stop])
        statement = desk.statements.get(text, types)
        if statement is None or not self.has_shapes:
            flow = self._decide(desk, buffer, name_end + 1, text_end)
            if len(name) == 0 and desk.scanner.constants > 0:
                statement = Statement(text, types, flow, b"")
            else:
                statement = desk.statements.make(text, types, flow)
        flow = statement.flow
        if flow.role == PRIMARY and self._moves():
            if not self.probed:
                self._probe(server)
                return position
            moved = self._move(desk)
            if moved is None:
                return position
            server = moved
        if flow.flags & CALLS:
            self._spell_out(server)
        desk.client_parses += 1
        self.unsynced = True
        if len(name) == 0:
            server.put(buffer, position, stop)
            server.ledger.append(Owed(OWED_PARSE, name, statement, None))
            self.unnamed = statement
            server.unnamed = statement
            return stop
        if self._statement(name) is not None:
            # The server itself shall say that the name is taken, in its own words, or that the transaction
            # has failed, whichever is true.
            server.put_bytes(Statement(b"", b"\0\0", flow, b"").parse_frame(name))
            server.ledger.append(Owed(OWED_PARSE_QUIET, None, None, None))
            server.put(buffer, position, stop)
            server.ledger.append(Owed(OWED_PARSE, None, None, None))
            server.is_stale = True
            return stop
        server.put_bytes(close_frame(statement.server_name))
        server.ledger.append(Owed(OWED_CLOSE_QUIET, None, None, None))
        server.put_bytes(statement.parse_frame(statement.server_name))
        server.ledger.append(Owed(OWED_PARSE, name, statement, None))
        server.prepared[statement] = server.serial
        desk.server_parses += 1
        self.overlay[name] = statement
        return stop

    def _moves(self) -> bool:
        """A batch that was begun on a replica, and only prepared there, may go on at the primary."""
        return self.role == REPLICA and self.status == STATUS_IDLE and not self.executed and self.unsynced

    def _move(self, desk: Desk) -> Server | None:
        """Leave the replica; what was prepared there is prepared again where it is needed."""
        server = self.server
        assert server is not None
        for name, statement in self.overlay.items():
            if statement is None:
                self.statements.pop(name, None)
            else:
                self.statements[name] = statement
        self.overlay.clear()
        self.retry = False
        if len(self.cork) > 0:
            self.put_bytes(bytes(self.cork))
            self.cork.clear()
        self.server = None
        self.peer = None
        self.unsynced = False
        self.probed = False
        server.part()
        server = self._checkout(desk, PRIMARY)
        self.decided = False
        self.survey_reads = False
        return server

    def _bind(self, desk: Desk, server: Server, buffer: bytearray, position: int, stop: int, end: int) -> int:
        limit = stop if stop < end else end
        portal_end = buffer.find(b"\0", position + 5, limit)
        name_end = buffer.find(b"\0", portal_end + 1, limit) if portal_end >= 0 else -1
        if name_end < 0:
            if stop > end and end - position < NAMES_BYTES_MAX:
                return position
            self.unsynced = True
            self._forward(server, buffer, position, stop, end)
            return stop
        name = _cut(bytes(buffer[portal_end + 1 : name_end]))
        statement = self._statement(name)
        if statement is not None:
            if statement.flow.role == PRIMARY and self._moves():
                if not self.probed:
                    self._probe(server)
                    return position
                moved = self._move(desk)
                if moved is None:
                    return position
                server = moved
            self._note(statement.flow)
            if statement.flow.flags & CALLS:
                self._spell_out(server)
        desk.binds += 1
        self.unsynced = True
        self.executed = True
        if len(name) == 0:
            self._ensure_unnamed(server, statement)
            self._forward(server, buffer, position, stop, end)
            return stop
        if statement is None:
            server_name = self._unknown_name(name)
        else:
            self._ensure(desk, server, statement)
            server_name = statement.server_name
        length = stop - position - 1 - (name_end - portal_end - 1) + len(server_name)
        server.put_bytes(b"B" + length.to_bytes(4, "big"))
        server.put(buffer, position + 5, portal_end + 1)
        server.put_bytes(server_name)
        self._forward(server, buffer, name_end, stop, end)
        return stop

    def _ensure_unnamed(self, server: Server, statement: Statement | None) -> None:
        """The server's unnamed statement is this client's, or nobody's."""
        if statement is None:
            if server.unnamed is not None or server.has_unnamed:
                server.put_bytes(close_frame(b""))
                server.ledger.append(Owed(OWED_CLOSE_QUIET, None, None, None))
                server.unnamed = None
                server.has_unnamed = False
        elif server.unnamed is not statement:
            server.put_bytes(statement.parse_frame(b""))
            server.ledger.append(Owed(OWED_PARSE_QUIET, None, None, None))
            server.unnamed = statement

    def in_own_words(self, body: bytes) -> bytes:
        """An ErrorResponse in which servers' names of prepared statements are this client's."""
        for name, statement in self.statements.items():
            if statement.server_name and statement.server_name in body:
                body = body.replace(b'"' + statement.server_name + b'"', b'"' + name + b'"')
        return b"E" + (len(body) + 4).to_bytes(4, "big") + body

    def _unknown_name(self, name: bytes) -> bytes:
        """A name the client never prepared goes to the server, which says so; but never one of ours."""
        if name.startswith(marks.SERVER_NAME_PREFIX):
            return b"?" + name
        return name

    def _describe(self, server: Server, buffer: bytearray, position: int, stop: int) -> None:
        desk = self.desk
        assert desk is not None
        if stop - position < 7 or buffer[position + 5] != 0x53 or buffer[stop - 1] != 0:
            server.put(buffer, position, stop)
            return
        name = _cut(bytes(buffer[position + 6 : stop - 1]))
        statement = self._statement(name)
        if len(name) == 0:
            self._ensure_unnamed(server, statement)
            server.put(buffer, position, stop)
            return
        if statement is None:
            server_name = self._unknown_name(name)
        else:
            self._ensure(desk, server, statement)
            server_name = statement.server_name
        server.put_bytes(b"D" + (6 + len(server_name)).to_bytes(4, "big") + b"S" + server_name + b"\0")

    def _close(self, server: Server, buffer: bytearray, position: int, stop: int) -> None:
        if stop - position < 7 or buffer[position + 5] != 0x53:
            server.put(buffer, position, stop)
            server.ledger.append(_CLOSE)
            return
        name = _cut(bytes(buffer[position + 6 : stop - 1]))
        server.ledger.append(Owed(OWED_CLOSE, name, None, None))
        if len(name) == 0:
            server.put(buffer, position, stop)
            server.unnamed = None
            self.unnamed = None
        else:
            server.put_bytes(close_frame(marks.NOBODY))
            self.overlay[name] = None

    def _probe(self, server: Server) -> None:
        """Wait until all that was sent of a batch without Sync has been answered, or has failed.

        The answer to a Close that can not fail tells; it does not come if there was an error.
        """
        server.put_bytes(close_frame(marks.NOBODY) + _FLUSH_FRAME)
        server.ledger.append(_PROBE)
        self.probing = True

    def _sync(self) -> None:
        server = self.server
        assert server is not None
        server.put_bytes(_SYNC_FRAME)
        server.ledger.append(_READY)
        self.awaiting = True
        self.unsynced = False
        self.probed = False
        self.is_simple = False

    # -- told by the server's lane -------------------------------------------------------------------------

    def stay(self) -> None:
        """Settled, and pinned: go on with the same server."""
        self.settling = False
        self.pinned = True
        self.flags = 0
        self.replay()

    def drained(self) -> None:
        server = self.server
        if server is not None:
            server.resume_reading()
        self.replay()
        if not self.reading and not self.closing and len(self.pending) <= links.HIGH_WATER_BYTES:
            self.resume_reading()

    def hold_back(self) -> None:
        if self.waiting or self.awaiting or self.settling:
            self.pause_reading()

    # -- the end -------------------------------------------------------------------------------------------

    def _depart(self) -> None:
        """Terminate: what was answered still goes out."""
        self._leave()
        self.flush()
        self.close_after_flush()
        self._control().client_gone(self)

    def lost(self, reason: str) -> None:
        if self.closed:
            return
        if self.closing:
            self.close()
            return
        self._leave()
        self.close()
        if self.receiver is not None:
            self.receiver.gone(self)
        else:
            self._control().client_gone(self)

    def dismiss(self, farewell: bytes) -> None:
        """Say a last word and close; a server is abandoned."""
        if self.closed or self.closing:
            return
        self._leave()
        self.put_bytes(farewell)
        self.flush()
        self.close_after_flush()
        if self.receiver is not None:
            self.receiver.gone(self)
        else:
            self._control().client_gone(self)

    def _leave(self) -> None:
        if self.waiting and self.target is not None:
            self.target.leave(self)
        server = self.server
        if server is not None:
            server.abandon()


class Server(Link):
    """One server link: its lane, its ledger, what is prepared on it.

    `client` is who it is coupled with. Without one it rests in its pool (`resting`), or it is being cleaned, or a
    cancel is on its way to it; then all that arrives is swallowed.
    """

    def __init__(
        self, sock: socket, reactor: Reactor, scratch: bytearray, pool: Pool, control: Control
    ) -> None:
        super().__init__(sock, reactor, scratch)
        self.pool = pool
        self.control = control
        self.detail: object = None
        self.client: Client | None = None
        self.ledger: deque[Owed] = deque()
        self.quiet = False
        self.skipping = False
        self.dropping = False
        self.status = STATUS_IDLE
        self.parameters: object = None
        self.base_parameters: object = None
        self.prepared: dict[Statement, int] = {}
        self.unnamed: Statement | None = None
        self.has_unnamed = False
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
        self.transactions = 0

    # -- the lane ------------------------------------------------------------------------------------------

    def consume(self, buffer: bytearray, start: int, end: int) -> int:
        p = buffer
        position = start
        run = start
        while position < end and not self.closed:
            if self.remaining > 0:
                count = end - position
                if count > self.remaining:
                    count = self.remaining
                self.remaining -= count
                position += count
                if self.dropping:
                    run = position
                continue
            if end - position < 5:
                break
            kind = p[position]
            length = p[position + 1]
            length = (length << 8) | p[position + 2]
            length = (length << 8) | p[position + 3]
            length = (length << 8) | p[position + 4]
            stop = position + 1 + length
            if length < 4 or length > LENGTH_MAX:
                self._deliver(buffer, run, position)
                self.lost("the server sent an impossible length")
                return end
            client = self.client
            if client is None or self.quiet:
                # Ours. (run is position here: what came before was delivered.)
                self._deliver(buffer, run, position)
                if stop > end:
                    if (kind == DATA_ROW and length > CALL_BYTES_MAX) or (PASSES[kind] and kind != DATA_ROW):
                        self.remaining = stop - end
                        self.dropping = True
                        return end
                    return position
                position = stop
                run = stop
                self._swallow(kind, buffer, stop - length + 4, stop)
                continue
            if PASSES[kind]:
                if client.retry and not PREPARES[kind]:
                    client.retry = False
                if stop > end:
                    self.remaining = stop - end
                    self.dropping = False
                    position = end
                else:
                    position = stop
                continue
            if stop > end:
                if length > CALL_BYTES_MAX:
                    self.lost("the server sent a message that is too long")
                    return end
                break
            if kind == READY:
                client.retry = False
                position = stop
                self._deliver(buffer, run, position)
                run = position
                self._ready(client, p[stop - 1])
            elif kind == PARSE_COMPLETE or kind == CLOSE_COMPLETE:
                if self._is_ours():
                    # Delivered first, for what waits for this answer may leave this server.
                    self._deliver(buffer, run, position)
                    run = stop
                self._completed(client, kind)
                position = stop
            elif kind == ERROR:
                sqlstate = error_code(buffer, position + 5, stop)
                self._strike()
                if client.retry and sqlstate == b"25006":
                    self._deliver(buffer, run, position)
                    position = stop
                    run = position
                    self._stand_aside(client)
                    continue
                client.retry = False
                if buffer.find(marks.SERVER_NAME_PREFIX, position, stop) >= 0:
                    self._deliver(buffer, run, position)
                    renamed = bytearray(client.in_own_words(bytes(buffer[position + 5 : stop])))
                    self._deliver(renamed, 0, len(renamed))
                    run = stop
                position = stop
                self._deliver(buffer, run, position)
                run = position
                self._error(client, sqlstate, buffer.find(b"VFATAL\0", stop - length + 4, stop) >= 0)
            elif kind == PARAMETER_STATUS:
                position = stop
                self._deliver(buffer, run, position)
                run = position
                self.control.reported(client, self, bytes(buffer[stop - length + 4 : stop]))
            elif kind == COPY_IN or kind == COPY_BOTH:
                client.retry = False
                position = stop
                self._deliver(buffer, run, position)
                run = position
                self._copy_begins(client)
            else:
                self._deliver(buffer, run, position)
                self.lost("the server sent a message out of turn")
                return end
        if run < position:
            self._deliver(buffer, run, position)
        return position

    def _look(self) -> None:
        """The head of the ledger may have changed: is the answer that comes now ours?"""
        ledger = self.ledger
        self.quiet = len(ledger) > 0 and ledger[0].kind == OWED_READY_QUIET

    def _deliver(self, buffer: bytearray, start: int, end: int) -> None:
        """Give the client what is its own; held back while the request may yet be repeated elsewhere."""
        if start >= end:
            return
        client = self.client
        if client is None:
            return
        if client.retry:
            client.cork += buffer[start:end]
            return
        if len(client.cork) > 0:
            client.put_bytes(bytes(client.cork))
            client.cork.clear()
        client.write(buffer, start, end)
        if client.unsent() > links.HIGH_WATER_BYTES:
            self.pause_reading()

    def _ready(self, client: Client, status: int) -> None:
        """ReadyForQuery for the client."""
        ledger = self.ledger
        if self.skipping:
            # What was sent between the error and the Sync was passed over.
            self._strike()
            self.skipping = False
        if len(ledger) == 0:
            if not client.copy_failed:
                self.lost("the server was ready out of turn")
                return
        elif ledger.popleft().kind != OWED_READY:
            self.lost("the server was ready before it had answered everything")
            return
        self._look()
        desk = client.desk
        assert desk is not None
        self.status = status
        client.status = status
        client.awaiting = False
        client.copying = False
        client.copy_failed = False
        client.request = None
        if client.overlay:
            client.overlay.clear()
        if client.flags & FORGETS and not client.failed:
            client.statements.clear()
        now = desk.clock()
        client.ready_at = now
        self.used_at = now
        desk.query_s += now - client.request_at
        if status == STATUS_IDLE and len(ledger) == 0 and not client.unsynced:
            desk.transactions += 1
            client.transactions += 1
            self.transactions += 1
            desk.transaction_s += now - client.coupled_at
            client.attempts = 0
            client.primary_only = False
            if client.remaining > 0 and client.streaming:
                # The server waits for the rest of a frame that it will ignore.
                client.lingering = True
            else:
                self.over(desk, client)
        else:
            client.replay()

    def over(self, desk: Desk, client: Client) -> None:
        """A transaction is over: the server goes back, if nothing of the client is left on it."""
        if desk.is_session_mode:
            client.coupled_at = client.ready_at
            client.replay()
        elif client.flags & ASKS or (client.pinned and client.flags & UNPINS):
            client.settling = True
            desk.upcalls += 1
            self.control.settle(client, self)
        elif client.pinned:
            client.coupled_at = client.ready_at
            client.replay()
        else:
            self.release()

    def release(self) -> None:
        """Give this server back; its client goes on with what it sent meanwhile."""
        client = self.client
        assert client is not None
        client.server = None
        client.peer = None
        client.settling = False
        client.pinned = False
        client.flags = 0
        self.client = None
        self.peer = None
        if not self.reading:
            self.resume_reading()
        self.clean()
        client.replay()

    def part(self) -> None:
        """The client goes on elsewhere in the middle of a batch: end the batch, swallow its end."""
        self.client = None
        self.peer = None
        self.put_bytes(_SYNC_FRAME)
        self.ledger.append(_SYNC_QUIET)
        self._look()
        self.flush()

    def _is_ours(self) -> bool:
        """Whether the next ParseComplete or CloseComplete answers what the client did not send."""
        ledger = self.ledger
        if len(ledger) == 0:
            return False
        kind = ledger[0].kind
        return kind == OWED_PARSE_QUIET or kind == OWED_CLOSE_QUIET

    def _completed(self, client: Client, kind: int) -> None:
        """ParseComplete or CloseComplete: what was sent is true now."""
        ledger = self.ledger
        desk = client.desk
        assert desk is not None
        if desk.is_session_mode and kind == PARSE_COMPLETE:
            return
        if len(ledger) == 0 or ledger[0].kind >= OWED_READY:
            return
        owed = ledger.popleft()
        self._look()
        if owed.kind == OWED_PARSE:
            if owed.name and owed.statement is not None:
                client.statements[owed.name] = owed.statement
                if client.overlay.get(owed.name) is owed.statement:
                    del client.overlay[owed.name]
        elif owed is _PROBE:
            client.probing = False
            client.probed = True
            client.replay()
        elif owed.kind == OWED_CLOSE and owed.name:
            client.statements.pop(owed.name, None)
            if owed.name in client.overlay and client.overlay[owed.name] is None:
                del client.overlay[owed.name]

    def _strike(self) -> None:
        """An error: nothing up to the next ReadyForQuery will be answered any more."""
        ledger = self.ledger
        client = self.client
        first = True
        while len(ledger) > 0 and ledger[0].kind < OWED_READY:
            owed = ledger.popleft()
            if owed.statement is not None:
                self.prepared.pop(owed.statement, None)
                if self.unnamed is owed.statement:
                    self.unnamed = None
                    self.has_unnamed = True
                    if first and client is not None and client.unnamed is owed.statement:
                        client.unnamed = None
            if owed is _PROBE and client is not None:
                client.probing = False
            first = False
        self.skipping = len(ledger) == 0
        self._look()
        if client is not None and client.overlay:
            client.overlay.clear()

    def _error(self, client: Client, sqlstate: bytes, is_fatal: bool) -> None:
        """An error went to the client."""
        desk = client.desk
        assert desk is not None
        desk.errors[sqlstate] = desk.errors.get(sqlstate, 0) + 1
        client.failed = True
        if sqlstate == b"0A000" or sqlstate == b"26000":
            # A plan that no longer fits, or a statement that is gone: prepare everything again.
            self.prepared.clear()
        if is_fatal:
            self.is_fatal = True
        if client.copying or client.copy_failed:
            client.copying = False
            if not client.is_simple:
                client.copy_failed = True
                client.unsynced = True
            else:
                client.awaiting = True
        client.replay()

    def _copy_begins(self, client: Client) -> None:
        """COPY FROM STDIN: the client speaks again. A Sync already sent is ignored by the server."""
        if not client.is_simple and client.copy_ended:
            # All of it was sent in one go.
            return
        client.copying = True
        client.awaiting = False
        if not client.is_simple and len(self.ledger) > 0 and self.ledger[0].kind == OWED_READY:
            self.ledger.popleft()
            self._look()
            client.unsynced = True
        client.replay()

    def _stand_aside(self, client: Client) -> None:
        """A standby refused what was taken for a read: the client asks the primary."""
        flow = client.flow
        self.client = None
        self.peer = None
        client.server = None
        client.peer = None
        client.primary_only = True
        self.control.refused(client, flow)
        client.repeat()

    # -- our own questions ---------------------------------------------------------------------------------

    def order(self, text: bytes, errand: Errand | None) -> None:
        """Send a Query of our own; its answer is swallowed, rows and errors go to the errand."""
        self.put_bytes(query_frame(text))
        self.ledger.append(Owed(OWED_READY_QUIET, None, None, errand))
        self._look()
        self.unnamed = None
        self.has_unnamed = False

    def _swallow(self, kind: int, buffer: bytearray, start: int, stop: int) -> None:
        """One frame that no client shall see."""
        ledger = self.ledger
        if kind == READY:
            if self.skipping:
                self._strike()
                self.skipping = False
            if len(ledger) == 0:
                self.lost("the server was ready out of turn")
                return
            owed = ledger.popleft()
            if owed.kind < OWED_READY:
                self.lost("the server was ready before it had answered everything")
                return
            self._look()
            self.status = buffer[start]
            is_alone = self.client is None
            if owed.errand is not None:
                owed.errand.done(self)
            if is_alone and len(ledger) == 0 and not self.closed:
                self.clean()
        elif kind == DATA_ROW or kind == ERROR:
            if kind == ERROR:
                self._strike()
                if len(ledger) == 0:
                    # An idle link is told that it ends.
                    self.is_fatal = True
                    return
            errand = ledger[0].errand if len(ledger) > 0 else None
            if errand is not None:
                errand.take(kind, bytes(buffer[start:stop]))
        elif kind == PARAMETER_STATUS:
            self.control.reported(None, self, bytes(buffer[start:stop]))
        elif kind == PARSE_COMPLETE or kind == CLOSE_COMPLETE:
            if len(ledger) > 0 and ledger[0].kind < OWED_READY:
                ledger.popleft()
                self._look()
        elif kind == NOTIFICATION:
            client = self.client
            if client is not None:
                client.write(buffer, start - 5, stop)
        elif kind == COPY_IN or kind == COPY_BOTH:
            self.lost("nobody is there to send COPY data")
        elif not PASSES[kind]:
            self.lost("the server sent a message out of turn")

    def clean(self) -> None:
        """No client, nothing owed: make the session as new, then rest. One step a call."""
        assert self.client is None
        assert not self.resting
        if self.status != STATUS_IDLE:
            self.order(b"ROLLBACK", None)
        elif self.is_unclean:
            self.is_unclean = False
            self.is_stale = False
            self.prepared.clear()
            self.parameters = self.base_parameters
            self.order(b"DISCARD ALL", None)
        elif self.is_stale:
            self.is_stale = False
            self.prepared.clear()
            self.order(b"DEALLOCATE ALL", None)
        else:
            self._rest()
            return
        self.flush()

    def _rest(self) -> None:
        if self.is_retired or self.is_fatal or self.generation != self.pool.generation or self.cancels > 0:
            self.control.retire(self)
        else:
            self.resting = True
            self.pool.checkin(self)

    def abandon(self) -> None:
        """The client is gone. Roll back and reuse where that is sure, else close."""
        client = self.client
        assert client is not None
        desk = client.desk
        assert desk is not None
        self.client = None
        self.peer = None
        client.server = None
        client.peer = None
        if desk.is_session_mode or client.pinned or client.settling or client.flags & ASKS:
            self.is_unclean = True
        if client.copying or (client.remaining > 0 and client.streaming):
            self.lost("its client left in the middle of a message")
            return
        if client.unsynced:
            self.put_bytes(_SYNC_FRAME)
            self.ledger.append(_SYNC_QUIET)
            self._look()
        if self.remaining > 0:
            self.dropping = True
        if not self.reading:
            self.resume_reading()
        if len(self.ledger) == 0:
            self.clean()
        else:
            self.abandoned_at = desk.clock()
            self.flush()

    def evict(self, count: int) -> None:
        """Close the prepared statements that were used longest ago, none of the batch in progress."""
        by_use = []
        for statement, serial in self.prepared.items():
            if serial != self.serial:
                by_use.append((serial, statement.server_name, statement))
        by_use.sort(key=_first)
        for _, server_name, statement in by_use[: max(count, 1)]:
            del self.prepared[statement]
            self.put_bytes(close_frame(server_name))
            self.ledger.append(Owed(OWED_CLOSE_QUIET, None, None, None))

    # -- the end -------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Close in good order; the pool forgets this link."""
        self._forget()
        self.put_bytes(_TERMINATE_FRAME)
        self.flush()
        self.close()

    def lost(self, reason: str) -> None:
        if self.closed:
            return
        client = self.client
        self._forget()
        self.close()
        self.client = None
        self.peer = None
        if client is not None:
            client.server = None
            client.peer = None
        self.control.server_lost(self, client, reason)

    def _forget(self) -> None:
        pool = self.pool
        pool.opened -= 1
        if self in pool.idle:
            pool.idle.remove(self)


def error_code(buffer: bytearray, start: int, stop: int) -> bytes:
    """The SQLSTATE of an ErrorResponse body, XX000 if it names none."""
    position = start
    while position < stop and buffer[position] != 0:
        end = buffer.find(b"\0", position, stop)
        if end < 0:
            break
        if buffer[position] == 0x43:
            return bytes(buffer[position + 1 : end])
        position = end + 1
    return b"XX000"
