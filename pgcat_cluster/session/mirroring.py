"""Which traffic of a pool a mirror gets, as whole transactions in the order of each client, and within which memory.

While a client's transaction runs, what is forwarded of it is written to a tape: the client's own words, each batch
complete in itself, since the mirror knows none of the statements that were prepared elsewhere. When the transaction is
over the tape is a unit, waiting in one of several lanes, a link each; a client's units are all in one lane. What a
mirror answers is thrown away. Tapes and units together hold no more than the queue's bytes: a transaction that does
not fit is left out as a whole, and so is one that can not be copied.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Concatenate, NamedTuple, ParamSpec

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Statement
from pgcat_cluster.session.parameters import Parameters, align_query
from pgcat_cluster.wire import messages

# Behind these the session of a link is not as before.
_DIRTIES = marks.LEAVES | marks.UNCLEAN | marks.FORGETS
# SQL that calls a statement prepared by protocol has none to call; a library stays for ever.
_NOT_COPIED = marks.CALLS | marks.LOADS
_QUERY = 0x51
_BIND = 0x42
_EXECUTE = 0x45
_CLOSE = 0x43
_SYNC = 0x53
_PORTAL = 0x50
_IDLE = 0x49
# What a transaction costs beside its bytes.
UNIT_BYTES = 200
SQLSTATES_MAX = 100


class Counts:
    """What became of transactions that were chosen for the mirror.

    `dropped` did not fit into the queue, `left_out` can not be copied, `failed` were lost with their link or by a
    fault of the recorder. `errors` are those that the mirror answered.
    """

    __slots__ = ("dropped", "errors", "failed", "left_out", "mirrored", "statements")

    def __init__(self) -> None:
        self.mirrored = 0
        self.statements = 0
        self.dropped = 0
        self.left_out = 0
        self.failed = 0
        self.errors: Counter[str] = Counter()


class Tape:
    """What was forwarded of one transaction so far, complete up to a Query or Sync, or spoiled and to be forgotten."""

    __slots__ = ("data", "is_complete", "is_spoiled", "parameters", "readies", "statements")

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.data = bytearray()
        self.readies = 0
        self.statements = 0
        self.is_complete = True
        self.is_spoiled = False


class Unit:
    """A whole transaction, for a link whose session has these parameters; what it owes are `readies`."""

    __slots__ = ("data", "is_dirty", "parameters", "readies", "statements")

    def __init__(self, tape: Tape, *, is_dirty: bool) -> None:
        self.data = bytes(tape.data)
        self.parameters = tape.parameters
        self.readies = tape.readies
        self.statements = tape.statements
        self.is_dirty = is_dirty

    @property
    def size(self) -> int:
        return UNIT_BYTES + len(self.data)


class LaneState(enum.Enum):
    """What the link of a lane does."""

    RESTS = "rests"
    PREPARES = "puts its session into the state that a unit needs"
    WORKS = "works on a unit"
    ENDS = "ends a transaction that the unit did not end there"


class Lane:
    """Units on their way to one link, one at a time: what to send, and what the answers mean."""

    def __init__(self, recorder: Recorder, fresh: Parameters) -> None:
        self.recorder = recorder
        self.state = LaneState.RESTS
        self.waiting: deque[Unit] = deque()
        self._unit: Unit | None = None
        self._owed = 0
        self._is_refused = False
        self._fresh = self._parameters = fresh
        self._is_dirty = False
        self.is_linked = False

    def linked(self) -> None:
        """There is a link, as new."""
        self.is_linked = True

    def next(self) -> bytes:
        """What to send now; nothing while an answer is owed or nobody waits."""
        if self.state is not LaneState.RESTS or not self.waiting:
            return b""
        unit = self._unit = self.waiting.popleft()
        orders = []
        if self._is_dirty:
            orders.append(b"DISCARD ALL")
            self._parameters, self._is_dirty = self._fresh, False
        if self._parameters is not unit.parameters:
            query = align_query(self._parameters, unit.parameters)
            orders += [query] if query else []
            self._parameters = unit.parameters
        if not orders:
            return self._begin(unit)
        self.state, self._owed, self._is_refused = LaneState.PREPARES, len(orders), False
        return b"".join(map(_order, orders))

    def _begin(self, unit: Unit) -> bytes:
        self.state, self._owed, self._is_dirty = LaneState.WORKS, unit.readies, unit.is_dirty
        return unit.data

    def error(self, sqlstate: str) -> None:
        """The link has answered an error."""
        self._is_refused = True
        errors = self.recorder.counts.errors
        errors[sqlstate if sqlstate in errors or len(errors) < SQLSTATES_MAX else "other"] += 1

    def ready(self, status: int) -> bytes:
        """The link has answered ReadyForQuery; what to send now."""
        self._owed -= 1
        unit = self._unit
        if self._owed > 0 or unit is None:
            return b""
        if self.state is LaneState.PREPARES and not self._is_refused:
            return self._begin(unit)
        if status != _IDLE:
            self.state, self._owed = LaneState.ENDS, 1
            return _order(b"ROLLBACK")
        counts = self.recorder.counts
        if self.state is LaneState.PREPARES:
            # What it would do in another state of the session is not what its client did.
            counts.failed += 1
            self._is_dirty = True
        else:
            counts.mirrored += 1
            counts.statements += unit.statements
        self._end(unit)
        return self.next()

    def broken(self) -> None:
        """The link is gone. What it worked on is not sent again: nobody knows how much of it was done."""
        self._parameters, self._is_dirty, self.is_linked = self._fresh, False, False
        if self._unit is not None:
            self.recorder.counts.failed += 1
            self._end(self._unit)

    def _end(self, unit: Unit) -> None:
        self.recorder.held_bytes -= unit.size
        self._unit = None
        self.state = LaneState.RESTS


_Rest = ParamSpec("_Rest")
_Told = Callable[Concatenate["Recorder", Client, _Rest], None]


def _harmless(told: _Told[_Rest]) -> _Told[_Rest]:
    """What goes wrong here costs a copy, and never the client's link."""

    def guarded(recorder: Recorder, client: Client, /, *rest: _Rest.args, **named: _Rest.kwargs) -> None:
        try:
            told(recorder, client, *rest, **named)
        except Exception as error:
            recorder.fail(client, type(error).__name__)

    return guarded


class Recorder:
    """The mirror of one desk: `relay.desk.Mirror`. `draw` gives a number from 0 to 1, `wake` is called with a lane
    that has got something to send; `number` tells clients apart; `warn` is called with faults of our own.
    """

    def __init__(
        self,
        *,
        share: float,
        queue_bytes_max: int,
        lanes: int,
        fresh: Parameters,
        draw: Callable[[], float],
        wake: Callable[[Lane], None],
        number: Callable[[Client], int],
        warn: Callable[[str], None],
    ) -> None:
        self.counts = Counts()
        self.held_bytes = 0
        self.last_error = ""
        self.lanes = [Lane(self, fresh) for _ in range(lanes)]
        self._share = share
        self._queue_bytes_max = queue_bytes_max
        self._draw = draw
        self._wake = wake
        self._number = number
        self._warn = warn
        # None: this transaction was not chosen.
        self._tapes: dict[Client, Tape | None] = {}

    def pass_over(self, client: Client) -> None:
        """The client may be in the middle of a transaction: the rest of it is not copied."""
        self._tapes[client] = None

    # -- what the relay tells ------------------------------------------------------------------------------

    @_harmless
    def sent(self, client: Client, statement: Statement | None, data: bytes) -> None:
        tape = self._tape(client)
        if tape is None or tape.is_spoiled:
            return
        if (copy := _copy_of(statement, data)) is None:
            self._spoil(tape)
            self.counts.left_out += 1
            return
        tape.data += copy.data
        tape.readies += copy.readies
        tape.statements += copy.statements
        tape.is_complete = copy.is_complete
        self.held_bytes += len(copy.data)
        if self.held_bytes > self._queue_bytes_max:
            self._spoil(tape)
            self.counts.dropped += 1

    @_harmless
    def left_out(self, client: Client) -> None:
        tape = self._tape(client)
        if tape is not None and not tape.is_spoiled:
            self._spoil(tape)
            self.counts.left_out += 1

    @_harmless
    def again(self, client: Client) -> None:
        tape = self._tapes.get(client)
        if tape is not None and not tape.is_spoiled:
            self.held_bytes -= len(tape.data)
            self._tapes[client] = Tape(tape.parameters)

    @_harmless
    def over(self, client: Client) -> None:
        lane = self.lanes[self._number(client) % len(self.lanes)]
        tape = self._tapes.pop(client, None)
        if tape is None or tape.is_spoiled:
            return
        if client.flags & _NOT_COPIED or client.pinned or not tape.is_complete:
            # Who is pinned goes by something on his server that is not at the mirror. A batch whose end was not
            # copied would never be answered.
            self._spoil(tape)
            self.counts.left_out += 1
        elif tape.statements == 0:
            self._spoil(tape)
        else:
            lane.waiting.append(Unit(tape, is_dirty=bool(client.flags & _DIRTIES)))
            self._wake(lane)

    @_harmless
    def gone(self, client: Client) -> None:
        tape = self._tapes.pop(client, None)
        if tape is not None and not tape.is_spoiled:
            self._spoil(tape)

    def fail(self, client: Client, reason: str) -> None:
        """A fault of our own: what is in progress is not copied."""
        tape = self._tapes.get(client)
        if tape is not None and not tape.is_spoiled:
            self._spoil(tape)
        self.counts.failed += 1
        self.last_error = f"fault of the recorder: {reason}"
        self._warn(self.last_error)

    # -- tapes ---------------------------------------------------------------------------------------------

    def _tape(self, client: Client) -> Tape | None:
        """The tape of the transaction in progress, None if it was not chosen; which of them it is, the first asks."""
        if client not in self._tapes:
            parameters = client.parameters
            assert isinstance(parameters, Parameters)
            self._tapes[client] = None
            if self._draw() < self._share:
                self._tapes[client] = Tape(parameters)
                self.held_bytes += UNIT_BYTES
        return self._tapes[client]

    def _spoil(self, tape: Tape) -> None:
        """Give back what a tape holds."""
        self.held_bytes -= UNIT_BYTES + len(tape.data)
        tape.data.clear()
        tape.is_spoiled = True

    @property
    def queued(self) -> int:
        """How many units wait."""
        return sum(len(lane.waiting) for lane in self.lanes)


def _order(text: bytes) -> bytes:
    return messages.frame(b"Q", text + b"\0")


class _Copy(NamedTuple):
    data: bytes
    readies: int
    statements: int
    is_complete: bool


def _copy_of(statement: Statement | None, data: bytes) -> _Copy | None:
    """Frames in words that need nothing prepared; None if there are none."""
    copy = bytearray()
    readies = statements = 0
    is_complete = True
    for kind, frame in _cut(data):
        is_complete = kind == _QUERY or kind == _SYNC
        if kind == _BIND:
            if statement is None or not statement.is_kept:
                return None
            copy += statement.parse_frame(b"") + _unnamed(frame)
        elif kind == _QUERY or kind == _EXECUTE or kind == _SYNC:
            copy += frame
            readies += is_complete
            statements += kind != _SYNC
        elif kind == _CLOSE and frame[5] == _PORTAL:
            copy += frame
    return _Copy(bytes(copy), readies, statements, is_complete)


def _cut(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        stop = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
        yield data[position], data[position:stop]
        position = stop


def _unnamed(bind: bytes) -> bytes:
    """The same Bind of the unnamed statement."""
    portal_end = bind.index(0, 5)
    name_end = bind.index(0, portal_end + 1)
    return messages.frame(b"B", bind[5 : portal_end + 1] + bind[name_end:])
