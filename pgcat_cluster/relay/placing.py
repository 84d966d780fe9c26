"""Where in a sharded pool a client's request goes, and what a client is answered that needs no server for it.

A transaction of a sharded pool is bound to a shard by its first statement that names one, so BEGIN is held back
until then: the client has its answer (status `T`) and no server. What must not run is refused: the client gets an
ErrorResponse, and its transaction fails on the server too, by a Bind that can only fail.

What only prepares is done aside meanwhile, on a server of any shard: it says nothing of where the transaction goes.

Commands of ours, and a held BEGIN with its end, are answered here. In a batch of the extended protocol they are
answered frame by frame, each after all that a server was asked before it has been answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcat_cluster.relay import frames, marks, octets, selectors
from pgcat_cluster.relay import ledger as ledgers
from pgcat_cluster.relay import survey as surveys
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.relay.ledger import Owed
from pgcat_cluster.relay.preparing import Preparer

if TYPE_CHECKING:
    from pgcat_cluster.relay.server import Server
    from pgcat_cluster.relay.stock import Target

ANYWHERE = marks.ANYWHERE
KEYED = marks.KEYED
UNSAID = marks.UNSAID
LOOKS = marks.CALLS | marks.WATCHED
COMMAND = marks.COMMAND
BEGINS = marks.BEGINS
CLOSES = marks.CLOSES
OWN = marks.COMMAND | marks.BEGINS | marks.CLOSES | marks.JOINS
JOINS = marks.JOINS
IDLE = frames.STATUS_IDLE
HEARS_ALL = marks.HEARS_ALL
FORGETS = marks.FORGETS
REREADS = marks.REREADS
UNTOLD = marks.UNTOLD
ENDS = marks.ENDS
FINISHES = marks.FINISHES
NOWHERE = marks.NOWHERE
NESTS = marks.NESTS
UNCLEAN = marks.UNCLEAN
SETS_PATH = marks.SETS_PATH
RESTORES_PATH = marks.RESTORES_PATH
SAVES = marks.SAVES
STEERS = marks.SETS_PATH | marks.RESTORES_PATH | marks.SAVES | marks.REREADS
# Portals of ours that one client may have.
PORTALS_MAX = 64


class Placer(Preparer):
    """The part of a client that knows about shards, and about answers without a server."""

    __slots__ = ()

    # -- which shard ---------------------------------------------------------------------------------------

    def _place_text(self, desk: Desk, flow: Flow, buffer: bytearray, start: int, stop: int) -> bool:
        """Decide the shard of the simple Query buffer[start:stop] that was just cut to its shape; False: refused."""
        if (
            self.server is not None
            and self.status == frames.STATUS_FAILED
            and flow.flags & (ENDS | UNCLEAN) != ENDS
        ):
            # The server refuses it in its own words, as nothing in it ends what has failed.
            return True
        found = UNSAID
        if flow.reach == KEYED:
            selector = flow.selector
            assert selector is not None
            if not desk.scanner.is_placed:
                desk.scanner.scan(buffer, start, stop)
            found = selector.by_constants(desk.scanner, buffer, self.is_utf8)
        shard = self._aim(desk, flow, found)
        if shard == UNSAID:
            desk.upcalls += 1
            text = octets.cut(buffer, start, stop)
            shard = desk.control.locate(self._itself(), None, flow, found, text)
        return self._take_aim(desk, flow, shard)

    def _place_bind(self, desk: Desk, statement: Statement, buffer: bytearray, start: int, stop: int) -> bool:
        """Decide the shard of a statement by its Bind message buffer[start:stop]; False: refused."""
        if self.server is not None and self.status == frames.STATUS_FAILED and not self.unsynced:
            return True
        flow = statement.flow
        found = UNSAID
        self.hint = statement.hint
        self.role_hint = statement.role_hint
        if flow.reach == KEYED:
            found = self._found_by(statement, buffer, start, stop)
        shard = self._aim(desk, flow, found)
        if shard == UNSAID:
            desk.upcalls += 1
            bind = octets.cut(buffer, start, stop)
            shard = desk.control.locate(self._itself(), statement, flow, found, bind)
        return self._take_aim(desk, flow, shard)

    def _found_by(self, statement: Statement, buffer: bytearray, start: int, stop: int) -> int:
        """What the keys of a statement say: its constants, then the parameters of this Bind."""
        selector = statement.flow.selector
        assert selector is not None
        found = statement.shard_utf8 if self.is_utf8 else statement.shard
        if selector.has_parameters and (found >= 0 or found == UNSAID):
            bound = selector.by_parameters(buffer, start, stop, statement.types, self.is_utf8)
            if found == UNSAID or bound < 0:
                found = bound
            elif bound != found:
                found = selectors.SEVERAL
        return found

    def _aim(self, desk: Desk, flow: Flow, found: int) -> int:
        """The shard where a statement shall go, as far as no thought is needed; else UNSAID."""
        if self.hint >= 0:
            return self.hint
        if found >= 0:
            return found
        if flow.reach == KEYED:
            return UNSAID
        if self.server is not None and (flow.reach == ANYWHERE or self._goes_along(flow)):
            # Wherever its transaction is, or its session.
            return self.shard
        if self.shard_wish >= 0:
            return self.shard_wish
        if flow.reach == ANYWHERE:
            return self._any_shard(desk, flow.role)
        return desk.default_shard if desk.default_shard >= 0 else UNSAID

    def _goes_along(self, flow: Flow) -> bool:
        """Whether a statement without a key belongs to the transaction that a server has of its client.

        It does not if that may be over by then, nor does it go with a session that is bound to a server, nor to
        where it was only prepared.
        """
        return (
            flow.reach == NOWHERE
            and self.status == frames.STATUS_OPEN
            and not self.aside
            and not flow.flags & FINISHES
            and not (self.unsynced and self.finishes)
        )

    def _take_aim(self, desk: Desk, flow: Flow, shard: int) -> bool:
        """Whether a statement can go to this shard; -1 says that it was refused already.

        False with `strays` set: it can, but from another server than the one where it was only prepared.
        """
        if shard < 0:
            return False
        if self.server is None:
            self.shard = shard
            self.aside = False
            return True
        if shard == self.shard and not self.aside:
            return True
        if self.unsynced and not self.executed and not self.pinned and (self.aside or self.status == IDLE):
            self.strays = True
            self.shard_next = shard
            return False
        desk.upcalls += 1
        desk.control.misplace(self._itself(), flow, shard)
        return False

    def _narrow(self, target: Target) -> Target | None:
        """Where a read goes that must see what its client wrote; None if no server is known to have that."""
        self.needs = None
        if self.role == marks.PRIMARY or len(self.positions) == 0:
            return target
        self.needs = self.positions.get(self.shard)
        return target if self.needs is None else target.narrow(self.needs)

    def _moves(self) -> bool:
        """A batch that was begun on a replica, and only prepared there, may go on at the primary."""
        return (
            self.role != marks.PRIMARY
            and self.role_wish < 0
            and self.status == frames.STATUS_IDLE
            and not self.executed
            and self.unsynced
        )

    def _leave_prepared(self, server: Server) -> None:
        """Leave a server where statements were only prepared, in the middle of a batch."""
        self.confirm()
        self.overlay.clear()
        self.retry = False
        if len(self.cork) > 0:
            self.put_bytes(bytes(self.cork))
            self.cork.clear()
        self.server = None
        self.peer = None
        self.aside = False
        self.unsynced = False
        self.probed = False
        self.decided = False
        server.part()

    def _hear(self, desk: Desk, buffer: bytearray, start: int, stop: int) -> bool:
        """Heed what the comments of a statement say, which was just cut to its shape; False: refused."""
        self.hint = -1
        self.role_hint = -1
        if desk.hears != HEARS_ALL and not desk.scanner.mentions(buffer):
            return True
        desk.upcalls += 1
        return desk.control.hear(self._itself(), octets.cut(buffer, start, stop))

    def _locate_constants(
        self, desk: Desk, statement: Statement, buffer: bytearray, start: int, stop: int
    ) -> bool:
        """Find out once what constants and comments of a prepared text say of its shard; False: refused."""
        if desk.scanner.comments > 0 or desk.hears == HEARS_ALL:
            if not self._hear(desk, buffer, start, stop):
                # Its next Parse is to be refused as well.
                desk.statements.forget(statement)
                return False
            statement.hint = self.hint
            statement.role_hint = self.role_hint
        self._read_constants(desk, statement, buffer, start, stop)
        return True

    def _read_constants(
        self, desk: Desk, statement: Statement, buffer: bytearray, start: int, stop: int
    ) -> None:
        """Find out once what the constants of a prepared text say of its shard, and whether its parameters can."""
        statement.shard = UNSAID
        statement.shard_utf8 = UNSAID
        statement.is_open = False
        statement.typed = None
        flow = statement.flow
        if desk.shards > 1 and flow.reach == KEYED:
            selector = flow.selector
            assert selector is not None
            if selector.has_constants:
                desk.scanner.scan(buffer, start, stop)
                # Statements are shared among clients of all encodings.
                statement.shard = selector.by_constants(desk.scanner, buffer, False)
                statement.shard_utf8 = selector.by_constants(desk.scanner, buffer, True)
            statement.is_open = statement.hint < 0 and selector.asks(statement.types)

    def _define(
        self, desk: Desk, has_name: bool, buffer: bytearray, start: int, text_end: int, stop: int
    ) -> Statement:
        """The statement of a Parse that was not seen before: its text begins at `start`, behind it stand the types.

        One without a name is hardly sent twice with the same constants: it is kept only if it has to be asked about.
        """
        text = octets.cut(buffer, start, text_end)
        types = octets.cut(buffer, text_end + 1, stop)
        flow = self._decide(desk, buffer, start, text_end)
        selector = flow.selector
        if has_name or desk.scanner.constants == 0 or (selector is not None and selector.asks(types)):
            return desk.statements.make(text, types, flow, self.context)
        return Statement(text, types, flow, b"", True, self.context)

    def _typed(self, desk: Desk, server: Server, name: bytes, statement: Statement) -> Statement | None:
        """What an open statement is executed as; None: its server is asked first, for the types of its parameters.

        Should it fail to tell, the client gets its words.
        """
        typed = statement.typed
        if typed is None:
            if len(name) == 0:
                self._ensure_unnamed(server, statement)
                server.put_bytes(frames.describe_frame(name) + frames.FLUSH_FRAME)
            else:
                statement = self._ensure(desk, server, name, statement)
                if not statement.is_open:
                    return statement
                server.put_bytes(frames.describe_frame(statement.server_name) + frames.FLUSH_FRAME)
            server.ledger.append(Owed(ledgers.DESCRIBED_QUIET, None, statement))
            server.ledger.append(ledgers.OWED_COLUMNS_QUIET)
            self.unsynced = True
            self.is_simple = False
            self._stop_short()
            return None
        self._rename(name, typed)
        return typed

    def decide_anew(self, statement: Statement) -> None:
        """The rules have changed by which a prepared statement was decided; its comments are not heard here."""
        desk = self.desk
        assert desk is not None
        text = bytearray(statement.text)
        statement.flow = self._decide(desk, text, 0, len(text))
        self._read_constants(desk, statement, text, 0, len(text))

    def _note(self, flow: Flow) -> None:
        """Remember what an execution may do to the session, besides its flags.

        Constants of what comes behind it in the same flush may mean something else than for others, so what is prepared
        there is not shared, until the server has told all that holds then.
        """
        if flow.flags & REREADS or (flow.flags & ENDS and self.rereads):
            if not self.is_alone:
                self.context_before = self.context[len(self.path) :]
            self.rereads = True
            self.is_alone = True
            self.untold = self.untold or flow.flags & UNTOLD != 0
            desk = self.desk
            assert desk is not None
            self.context = self.path + desk.statements.context_of_one()
        if flow.flags & SAVES:
            self.saved_in = self.transactions
        if flow.flags & SETS_PATH or (flow.flags & RESTORES_PATH and len(self.path) > 0):
            desk = self.desk
            assert desk is not None
            desk.upcalls += 1
            desk.control.repath(self._itself(), flow)
        if flow.flags & FORGETS and self.server is not None and self.status != frames.STATUS_FAILED:
            self.server.prepared.clear()
        if flow.parameters:
            if self.names is None:
                self.names = set()
            self.names.update(flow.parameters)

    def _save(self, desk: Desk, text: bytes) -> None:
        """Let the session know what becomes of the savepoints that its wishes may be undone to."""
        desk.upcalls += 1
        desk.control.save(self._itself(), text)
        self.saves = True
        self.completed = 0

    # -- what must not run ---------------------------------------------------------------------------------

    def _refuse(self, kind: int, stop: int, end: int, position: int) -> int:
        """A request must not run: its client is told `refusal`. Answers where the frame ends, position if later."""
        server = self.server
        if server is not None and self.unsynced and not self.probed:
            # It is found again, unless an error before it makes the server pass over it.
            self.refusal = b""
            self._probe(server)
            return position
        self.retry = False
        if len(self.cork) > 0:
            self.put_bytes(bytes(self.cork))
            self.cork.clear()
        self.put_bytes(self.refusal)
        self.refusal = b""
        self.decided = False
        self._drop(stop, end)
        is_batch = kind != frames.QUERY and kind != frames.FUNCTION
        if is_batch:
            self.skipping = True
        if server is None:
            if self.status != frames.STATUS_IDLE:
                self.status = frames.STATUS_FAILED
        elif self.status == frames.STATUS_OPEN or self.unsynced:
            if not is_batch:
                self._spoil(server)
                return stop
            # When its Sync comes.
            self.spoils = True
        if not is_batch:
            self.put_bytes(frames.ready_frame(self.status))
        return stop

    def _spoil(self, server: Server) -> None:
        """Let the transaction fail on the server too; its ReadyForQuery is the client's."""
        self.spoils = False
        desk = self.desk
        if desk is not None and desk.mirror is not None:
            # There it would not fail.
            desk.mirror.left_out(self._itself())
        server.put_bytes(frames.FAIL_SYNC)
        server.ledger.append(ledgers.OWED_READY)
        self.spoiling = True
        self.awaiting = True
        self.unsynced = False
        self.finishes = False
        self.probed = False
        self.is_simple = False
        self.copy_ahead = 0

    def _sync_here(self) -> None:
        """Sync without a server."""
        if self.portals and self.status == frames.STATUS_IDLE:
            self.portals.clear()
        self.put_bytes(frames.ready_frame(self.status))

    def _unanswered(self) -> None:
        """A part of a batch goes to the server: what is answered here comes behind its answers."""
        self.unsynced = True
        self.probed = False
        self.is_simple = False

    def _probe(self, server: Server) -> None:
        """Wait until all that was sent of a batch without Sync has been answered, or has failed.

        The answer to a Close that can not fail tells; it does not come if there was an error.
        """
        server.put_bytes(frames.close_frame(marks.NOBODY) + frames.FLUSH_FRAME)
        server.ledger.append(ledgers.OWED_PROBE)
        self._stop_short()

    def _stop_short(self) -> None:
        """The rest of a batch is not looked at until what was asked about it has been answered."""
        self.probing = True
        # To repeat a batch it must have been consumed.
        self.retry = False

    # -- answers of ours -----------------------------------------------------------------------------------

    def _is_own(self, desk: Desk, flow: Flow, statement: Statement | None) -> bool:
        """Whether a statement is answered here, as things are; None: that of a simple Query."""
        flags = flow.flags
        if flags & OWN == 0:
            return False
        if flags & COMMAND:
            return True
        if desk.shards == 1 or self.server is not None:
            return False
        if flags & JOINS:
            return len(self.held) > 0 and self.status == frames.STATUS_OPEN
        if flags & BEGINS:
            # One that names its shard itself is not held back.
            hint = self.hint if statement is None else statement.hint
            return hint < 0 and self.status != frames.STATUS_FAILED
        return self.status != frames.STATUS_IDLE

    def _answers(self, desk: Desk, flow: Flow, text: bytes) -> bool:
        """Answer a simple Query here, if it is for us to answer; False: it is not, or it must be refused."""
        if flow.flags & LOOKS:
            desk.upcalls += 1
            if desk.control.perform(self._itself(), flow, text):
                return True
            if self.refusal:
                return False
        if not self._is_own(desk, flow, None):
            return False
        answer = self._own_transaction(desk, flow, text, self.role_hint)
        if answer[0] == frames.ERROR:
            self.refusal = answer
            return False
        self.put_bytes(answer)
        self.put_bytes(frames.ready_frame(self.status))
        self.unnamed = None
        return True

    def _goes_on(self, desk: Desk) -> bool:
        """Whether a transaction without a server has not failed; else all but its end is refused."""
        if self.status == frames.STATUS_FAILED:
            desk.upcalls += 1
            desk.control.abort(self._itself())
            return False
        return True

    def _own(self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> int:
        """The first frame of a batch, which the survey found to be about a statement of ours."""
        statement = self.surveyed
        assert statement is not None
        return self._own_frame(desk, kind, statement, buffer, position, stop, end)

    def _own_unread(
        self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int, end: int
    ) -> int:
        """In session mode: answer a frame about a command of ours. Position if its turn comes later, -1 if it is none.

        Only commands are remembered there, so most clients pay for a look at the first letters of what they prepare.
        """
        if kind != frames.PARSE and self.unnamed is None and not self.statements and not self.portals:
            return -1
        limit = stop if stop < end else end
        portal_end = position + 4
        if kind == frames.BIND:
            portal_end = octets.find_nul(buffer, position + 5, limit)
        elif kind == frames.DESCRIBE or kind == frames.CLOSE:
            portal_end = position + 5
        elif kind != frames.PARSE:
            return -1
        name_end = octets.find_nul(buffer, portal_end + 1, limit) if portal_end >= 0 else -1
        if stop > end and (
            stop - position <= surveys.COMMAND_BYTES_MAX
            if kind == frames.PARSE
            else name_end < 0 and end - position < surveys.NAMES_BYTES_MAX
        ):
            return position
        if name_end < 0:
            return -1
        name = frames.cut_name(octets.cut(buffer, portal_end + 1, name_end))
        if kind == frames.PARSE:
            statement = self._unread_statement(desk, buffer, name_end + 1, stop) if stop <= end else None
            if statement is not None:
                return self._own_frame(desk, kind, statement, buffer, position, stop, end)
        elif kind == frames.BIND:
            statement = self._statement(name)
            if statement is not None:
                return self._own_frame(desk, kind, statement, buffer, position, stop, end)
            self.portals.pop(octets.cut(buffer, position + 5, portal_end), None)
            return -1
        elif buffer[position + 5] != 0x53:
            return -1
        elif kind == frames.DESCRIBE:
            statement = self._statement(name)
            if statement is not None:
                return self._own_frame(desk, kind, statement, buffer, position, stop, end)
            return -1
        # From now on it is the name of what the server prepares, or forgets.
        if len(name) == 0:
            self.unnamed = None
        else:
            self.statements.pop(name, None)
        return -1

    def _unread_statement(self, desk: Desk, buffer: bytearray, start: int, stop: int) -> Statement | None:
        """The command that a Parse prepares in session mode, whose text and types are buffer[start:stop]."""
        text_end = octets.find_nul(buffer, start, stop)
        if text_end < 0:
            return None
        flow = self._decide_unread(desk, buffer, start, text_end)
        if flow.flags & COMMAND == 0:
            return None
        known = desk.statements.get(octets.cut(buffer, start, stop), self.context)
        if known is not None:
            return known
        text = octets.cut(buffer, start, text_end)
        return desk.statements.make(text, octets.cut(buffer, text_end + 1, stop), flow, self.context)

    def _own_described(self, desk: Desk, buffer: bytearray, position: int, stop: int) -> Statement | None:
        """The statement that this Describe names, if it is one of ours."""
        if stop - position < 7 or buffer[position + 5] != 0x53:
            return None
        statement = self._statement(frames.cut_name(octets.cut(buffer, position + 6, stop - 1)))
        if statement is None or not statement.flow.flags & OWN:
            return None
        return statement if self._is_own(desk, statement.flow, statement) else None

    def _own_transaction(self, desk: Desk, flow: Flow, text: bytes, role_hint: int) -> bytes:
        """Begin, set up or end a transaction without a server; what follows Execute."""
        is_idle = self.status == frames.STATUS_IDLE
        if flow.flags & BEGINS:
            if not is_idle:
                # What it says of the transaction holds all the same.
                self.held.append(text)
                self.held_role = flow.role
                desk.upcalls += 1
                tag = flow.detail
                assert isinstance(tag, bytes)
                return desk.control.begun_twice(self._itself(), tag)
            self.held = [text]
            self.held_role = flow.role
            self.held_hint = role_hint
            self.status = frames.STATUS_OPEN
            answer = flow.detail
        elif flow.flags & JOINS:
            if flow.flags & NESTS:
                desk.upcalls += 1
                error = desk.control.nest(self._itself(), text)
                if error:
                    return error
            self.held.append(text)
            answer = flow.detail
        else:
            answer = flow.detail if self.status == frames.STATUS_OPEN else frames.ROLLBACK_FRAME
            self.held = []
            self.status = frames.STATUS_IDLE
            self.transactions += 1
            if self.rereads:
                self.context = self.path + self.context_before
                self.rereads = False
                self.is_alone = False
                self.untold = False
            if self.wishes_end:
                desk.control.wish_no_more(self._itself())
        if flow.flags & STEERS:
            self._note(flow)
        assert isinstance(answer, bytes)
        return answer

    def _own_portal(
        self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int, end: int
    ) -> int:
        """Answer an Execute, Describe or Close of a portal of ours; position if later, -1 if it is none."""
        if stop > end:
            return position
        start = position + 5
        if kind != frames.EXECUTE:
            if stop - start < 2 or buffer[start] != 0x50:
                return -1
            start += 1
        name_end = octets.find_nul(buffer, start, stop)
        if name_end < 0:
            return -1
        name = octets.cut(buffer, start, name_end)
        if name not in self.portals:
            return -1
        return self._own_frame(desk, kind, self.portals[name][0], buffer, position, stop, end)

    def _drop_portals(self) -> None:
        """A server has the transaction now: what was bound here to begin, end or set up one is no longer ours.

        The server does not know these portals, and says so.
        """
        for name, (statement, _) in list(self.portals.items()):
            if not statement.flow.flags & COMMAND:
                del self.portals[name]

    def _own_frame(
        self,
        desk: Desk,
        kind: int,
        statement: Statement,
        buffer: bytearray,
        position: int,
        stop: int,
        end: int,
    ) -> int:
        """Answer one frame of a batch that is about a statement of ours; position if its turn comes later."""
        server = self.server
        if stop > end:
            return position
        if server is not None and self.unsynced and not self.probed:
            self._probe(server)
            return position
        self.decided = False
        if kind == frames.PARSE:
            name_end = octets.find_nul(buffer, position + 5, stop)
            name = frames.cut_name(octets.cut(buffer, position + 5, name_end))
            if len(name) == 0:
                self.unnamed = statement
            else:
                self.statements[name] = statement
            self.overlay.pop(name, None)
            desk.client_parses += 1
            self.put_bytes(frames.PARSE_COMPLETE_FRAME)
        elif kind == frames.BIND:
            name_end = octets.find_nul(buffer, position + 5, stop)
            if len(self.portals) >= PORTALS_MAX:
                self.portals.clear()
            self.portals[octets.cut(buffer, position + 5, name_end)] = (
                statement,
                octets.cut(buffer, octets.find_nul(buffer, name_end + 1, stop) + 1, stop),
            )
            desk.binds += 1
            self.put_bytes(frames.BIND_COMPLETE_FRAME)
        elif kind == frames.DESCRIBE:
            bound = b""
            if buffer[position + 5] == 0x50:
                bound = self.portals[octets.cut(buffer, position + 6, stop - 1)][1]
            desk.upcalls += 1
            answer = desk.control.own_columns(self._itself(), statement, bound)
            if answer[0] == frames.ERROR:
                self.refusal = answer
                return self._refuse(kind, stop, end, position)
            self.put_bytes(answer)
        elif kind == frames.EXECUTE:
            if statement.flow.flags & COMMAND:
                name_end = octets.find_nul(buffer, position + 5, stop)
                bound = self.portals[octets.cut(buffer, position + 5, name_end)][1]
                desk.upcalls += 1
                answer = desk.control.own_answer(self._itself(), statement, bound)
            else:
                answer = self._own_transaction(desk, statement.flow, statement.text, statement.role_hint)
            if answer[0] == frames.ERROR:
                self.refusal = answer
                return self._refuse(kind, stop, end, position)
            self.put_bytes(answer)
        else:
            self.portals.pop(octets.cut(buffer, position + 6, stop - 1), None)
            self.put_bytes(frames.CLOSE_COMPLETE_FRAME)
        return stop
