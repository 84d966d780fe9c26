"""A client's lane: looks at each frame, has it decided, and puts it in the terms of the server that gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcat_cluster.relay import frames, links, marks, octets
from pgcat_cluster.relay import ledger as ledgers
from pgcat_cluster.relay import survey as surveys
from pgcat_cluster.relay.borrowing import Borrower
from pgcat_cluster.relay.desk import Control, Desk
from pgcat_cluster.relay.flows import Statement
from pgcat_cluster.relay.ledger import Owed

if TYPE_CHECKING:
    from pgcat_cluster.relay.server import Server


PRIMARY = marks.PRIMARY
REPLICA = marks.REPLICA
READS = marks.READS
SEQUENCES = marks.SEQUENCES
CALLS = marks.CALLS
OWN = marks.COMMAND | marks.BEGINS | marks.CLOSES | marks.JOINS
NOTED = marks.FORGETS | marks.SETS_PATH | marks.RESTORES_PATH | marks.SAVES | marks.REREADS | marks.ENDS
BY_PATH = marks.BY_PATH
UNCLEAN = marks.UNCLEAN
UNPINS = marks.UNPINS
FINISHES = marks.FINISHES
WATCHED = marks.WATCHED
NESTS = marks.NESTS
HEARS_ALL = marks.HEARS_ALL
BEGINS = marks.BEGINS
# What a statement rarely needs of the session before it is forwarded.
PREPARES = (
    marks.SEQUENCES | marks.CALLS | marks.WATCHED | marks.BEGINS | marks.CLOSES | marks.JOINS | marks.NESTS
)
# What is looked at before a simple Query goes anywhere.
LOOKS = marks.CALLS | marks.WATCHED | marks.BEGINS | marks.CLOSES | marks.JOINS


class Client(Borrower):
    """One client: its lane, its request in progress, its prepared statements."""

    __slots__ = ()

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
                        if self.awaiting:
                            self.server.sync_behind(self)
                        else:
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
            length = octets.length_at(buffer, position + 1)
            if length < 4 or length > frames.LENGTH_MAX:
                self._control().violated(self, "invalid message length")
                return end
            stop = position + 1 + length
            if self.copying:
                stop = self._copy_frame(kind, buffer, position, stop, end)
                if stop == position:
                    break
                position = stop if stop < end else end
                continue
            if self.refused or self.skipping:
                self._skip(kind)
                self._drop(stop, end)
                position = stop if stop < end else end
                continue
            server = self.server
            if server is not None and server.skipping and kind != frames.SYNC and kind != frames.TERMINATE:
                # After an error the server passes over everything up to Sync, and so do we.
                self._drop(stop, end)
                position = stop if stop < end else end
                continue
            if kind == frames.QUERY or kind == frames.FUNCTION or (kind == frames.SYNC and length != 4):
                if self.unsynced and server is not None and not self.probed:
                    self._probe(server)
                    break
                if (self.out or self.plain) and self.unsent() > links.HIGH_WATER_BYTES:
                    self.pause_reading()
                    break
                stop = self._query(kind, buffer, position, stop, end)
            elif frames.EXTENDS[kind]:
                stop = self._extended(kind, buffer, position, stop, end)
            elif kind == frames.SYNC:
                if self.server is None:
                    self._sync_here()
                else:
                    if self.desk is not None and self.desk.mirror is not None:
                        self._copy_for_mirror(self.desk.mirror, None, buffer, position, stop, end)
                    self._sync()
            elif kind == frames.FLUSH:
                if self.server is not None and stop <= end:
                    self.server.put(buffer, position, stop)
            elif kind == frames.COPY_DATA or kind == frames.COPY_DONE or kind == frames.COPY_FAIL:
                server = self.server
                if server is not None and self.unsynced:
                    # An Execute before it may have begun the COPY; if not, the server ignores it too.
                    self.copy_ahead = kind
                    self._forward(server, buffer, position, stop, end)
                else:
                    # What is left of a COPY that failed is ignored (protocol, "COPY Operations").
                    self._drop(stop, end)
            elif kind == frames.TERMINATE:
                self._depart()
                return end
            else:
                self._control().violated(self, f"invalid frontend message type {kind}")
                return end
            if stop == position:
                break
            position = stop if stop < end else end
        server = self.server
        if server is not None and (server.out or server.plain):
            server.flush()
            if server.unsent() > links.HIGH_WATER_BYTES:
                self.pause_reading()
        if (self.out or self.plain) and self.receiver is None:
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
        receiver.frame(self, kind, octets.cut(buffer, position + header, stop))
        return stop

    def _control(self) -> Control:
        desk = self.desk
        assert desk is not None
        return desk.control

    def _skip(self, kind: int) -> None:
        """A request that was refused: it is dropped, up to its Sync."""
        if self.refused:
            self.refused = False
            self.decided = False
            if kind == frames.QUERY or kind == frames.FUNCTION:
                self.put_bytes(frames.ready_frame(self.status))
                return
            self.skipping = True
        if kind == frames.SYNC:
            self.skipping = False
            server = self.server
            if server is None or not (self.spoils or self.unsynced):
                self._sync_here()
            elif self.spoils:
                self._spoil(server)
            else:
                self._sync()

    # -- simple queries ------------------------------------------------------------------------------------

    def _query(self, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> int:
        """Query and FunctionCall; answers position when it has to wait, else stop."""
        desk = self.desk
        assert desk is not None
        if not self.decided:
            if self.aside and self.server is not None:
                self._leave_prepared(self.server)
            text_end = position + 5
            if kind == frames.FUNCTION or stop - position > desk.statement_bytes_max:
                flow = self._unknown(desk)
            elif stop > end:
                return position
            else:
                text_end = stop - 1 if buffer[stop - 1] == 0 else stop
                flow = self._decide(desk, buffer, position + 5, text_end)
            if flow.flags & LOOKS:
                if flow.flags & BEGINS and not self._hear(desk, buffer, position + 5, text_end):
                    return self._refuse(kind, stop, end, position)
                if self._answers(desk, flow, octets.cut(buffer, position + 5, text_end)):
                    self._drop(stop, end)
                    self.flush()
                    return stop
                if self.refusal:
                    return self._refuse(kind, stop, end, position)
            self.flow = flow
            if self.server is None and self.status != frames.STATUS_IDLE and not self._goes_on(desk):
                return self._refuse(kind, stop, end, position)
            if (
                desk.scanner.comments > 0 or self.hint >= 0 or self.role_hint >= 0 or desk.hears == HEARS_ALL
            ) and not self._hear(desk, buffer, position + 5, text_end):
                return self._refuse(kind, stop, end, position)
            if desk.shards > 1 and not self._place_text(desk, flow, buffer, position + 5, text_end):
                if not self.strays:
                    return self._refuse(kind, stop, end, position)
                self.shard = self.shard_next
            if self.server is not None and (self.strays or (flow.role == PRIMARY and self._moves())):
                self.strays = False
                self._leave_prepared(self.server)
            self.decided = True
        else:
            assert self.flow is not None
            flow = self.flow
        server = self.server
        if server is None:
            server = self._checkout(desk, flow.role)
            if server is None:
                return self._refuse_now(kind, stop, end) if self.refused else position
            self.request_at = self.coupled_at
        else:
            self.request_at = desk.clock()
        self.decided = False
        if flow.flags & PREPARES:
            if flow.flags & SEQUENCES:
                self._forget_sequences(server)
            if flow.flags & CALLS:
                self._spell_out(server, octets.cut(buffer, position + 5, stop), True)
            if flow.flags & NESTS and self.wishes_end:
                self._save(desk, octets.cut(buffer, position + 5, stop - 1))
        self.retry = False
        if (
            self.role != PRIMARY
            and not server.pool.leads
            and flow.flags & READS
            and self.status == frames.STATUS_IDLE
            and not self.pinned
            and stop <= end
            and not self.unsynced
        ):
            self.retry = True
            self.request = octets.cut(buffer, position, stop)
        self.flags |= flow.flags
        if flow.flags & NOTED or flow.parameters:
            self._note(flow)
        if stop <= end:
            server.write(buffer, position, stop)
        else:
            self._forward(server, buffer, position, stop, end)
        if desk.mirror is not None:
            self._copy_for_mirror(desk.mirror, None, buffer, position, stop, end)
        server.ledger.append(ledgers.OWED_READY)
        server.unnamed = None
        if self.answered:
            self.confirm()
        if self.overlay:
            self.overlay.pop(b"", None)
        self.unnamed = None
        self.awaiting = True
        self.executed = True
        self.is_simple = True
        self.failed = False
        self.queries += 1
        server.queries += 1
        return stop

    def _refuse_now(self, kind: int, stop: int, end: int) -> int:
        self._skip(kind)
        self._drop(stop, end)
        return stop

    # -- the extended protocol -----------------------------------------------------------------------------

    def _extended(self, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> int:
        """Parse, Bind, Describe, Execute, Close; answers position when it has to wait, else stop."""
        desk = self.desk
        assert desk is not None
        whole = -1
        if desk.is_session_mode:
            whole = self._own_unread(desk, kind, buffer, position, stop, end)
        elif not self.unsynced and (kind == frames.BIND or kind == frames.PARSE):
            whole = self._usual_batch(desk, kind, buffer, position, stop, end)
        if whole < 0 and self.portals and kind != frames.PARSE and kind != frames.BIND:
            whole = self._own_portal(desk, kind, buffer, position, stop, end)
        if whole >= 0:
            return whole
        if self.server is None:
            if not self.decided:
                is_failed = self.status == frames.STATUS_FAILED
                if (
                    is_failed
                    and kind == frames.CLOSE
                    and stop <= end
                    and self._closes_well(buffer, position, stop)
                ):
                    return self._answer_here(desk, kind, buffer, position, stop)
                survey = self._survey(desk, buffer, position, end)
                if survey == surveys.SURVEY_MORE:
                    return position
                if survey == surveys.SURVEY_OWN:
                    return self._own(desk, kind, buffer, position, stop, end)
                if survey == surveys.SURVEY_REFUSED or (
                    self.status != frames.STATUS_IDLE and not self._goes_on(desk)
                ):
                    if kind == frames.PARSE and buffer[position + 5] == 0:
                        # As PostgreSQL, which drops it first.
                        self.unnamed = None
                    return self._refuse(kind, stop, end, position)
                if survey == surveys.SURVEY_LOCAL:
                    return self._answer_here(desk, kind, buffer, position, stop)
                self.decided = True
            if self._checkout(desk, self.role) is None:
                return self._refuse_now(kind, stop, end) if self.refused else position
        if self.decided:
            self._begin_batch(desk, buffer, position, end)
        server = self.server
        assert server is not None
        if not self.unsynced:
            self.is_simple = False
            self.copy_ahead = 0
            self.failed = False
            self.request_at = desk.clock()
        if desk.is_session_mode:
            self._unanswered()
            if kind == frames.EXECUTE:
                server.queries += 1
                self.queries += 1
            elif kind == frames.CLOSE:
                server.ledger.append(ledgers.OWED_CLOSE)
            self._forward(server, buffer, position, stop, end)
            return stop
        if kind == frames.EXECUTE:
            if stop > end:
                return position
            self._unanswered()
            self.executed = True
            self.queries += 1
            server.queries += 1
            server.put(buffer, position, stop)
            if desk.mirror is not None:
                self._copy_for_mirror(desk.mirror, None, buffer, position, stop, end)
            return stop
        if kind == frames.BIND:
            return self._bind(desk, server, buffer, position, stop, end)
        if kind == frames.PARSE:
            return self._parse(desk, server, buffer, position, stop, end)
        if stop > end:
            return position
        if kind == frames.DESCRIBE:
            own = self._own_described(desk, buffer, position, stop)
            if own is not None:
                return self._own_frame(desk, kind, own, buffer, position, stop, end)
            self._describe(server, buffer, position, stop)
        else:
            self._close(server, buffer, position, stop)
            if desk.mirror is not None:
                self._copy_for_mirror(desk.mirror, None, buffer, position, stop, end)
        self._unanswered()
        return stop

    def _usual_batch(
        self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int, end: int
    ) -> int:
        """What drivers send most: one known statement, all of it unnamed or already prepared, whole up to its Sync.

        Answers where the batch ends, position if it has to wait, -1 if it is another kind of batch. It does what
        the frames one by one would do, at once.
        """
        if stop > end or stop - position < 8:
            # Not here yet, or malformed.
            return -1
        if self.status == frames.STATUS_FAILED or not self.has_shapes:
            return -1
        p = buffer
        first_stop = stop
        bind_stop = stop
        bind = position
        is_parsed = kind == frames.PARSE
        name_end = 0
        if is_parsed:
            if p[position + 5] != 0:
                return -1
            bind = stop
            if end - bind < 12 or p[bind] != frames.BIND or p[bind + 5] != 0 or p[bind + 6] != 0:
                return -1
            name = b""
            statement = desk.statements.get(octets.cut(buffer, position + 6, stop), self.context)
            length = octets.length_at(buffer, bind + 1)
            bind_stop = stop = bind + 1 + length
            if length < 4 or length > frames.LENGTH_MAX:
                return -1
        else:
            if p[position + 5] != 0:
                return -1
            name_end = octets.find_nul(buffer, position + 6, stop)
            if name_end < 0:
                return -1
            name = octets.cut(buffer, position + 6, name_end)
            statement = self.unnamed if len(name) == 0 else self.statements.get(name)
        if statement is None:
            return -1
        if statement.flow.flags & BY_PATH and statement.context != self.context:
            statement = self._read_anew(desk, statement)
            self._rename(name, statement)
        if not statement.is_kept or statement.is_open:
            return -1
        if octets.has_at(buffer, stop, end, frames.DESCRIBE_EXECUTE_SYNC):
            stop += len(frames.DESCRIBE_EXECUTE_SYNC)
        elif octets.has_at(buffer, stop, end, frames.EXECUTE_SYNC):
            stop += len(frames.EXECUTE_SYNC)
        else:
            return -1
        flow = statement.flow
        if flow.flags & PREPARES:
            return -1
        self.role_hint = statement.role_hint
        if desk.shards > 1 and not self._place_bind(desk, statement, buffer, bind, bind_stop):
            return self._refuse(kind, first_stop, end, position)
        if self.portals:
            self.portals.pop(b"", None)
        self.flow = flow
        server = self.server
        if server is None:
            self.survey_end = stop - position
            self.survey_reads = flow.flags & READS != 0
            self.decided = True
            server = self._checkout(desk, flow.role)
            if server is None:
                # When its turn comes the batch is looked at again.
                return self._refuse_now(kind, first_stop, end) if self.refused else position
            self.request_at = self.coupled_at
        else:
            self.request_at = desk.clock()
        self.retry = False
        if (
            self.decided
            and self.survey_reads
            and self.role != PRIMARY
            and self.status == frames.STATUS_IDLE
            and not server.pool.leads
        ):
            self.retry = True
            self.request = octets.cut(buffer, position, stop)
        self.decided = False
        self.flags |= flow.flags
        if flow.flags & NOTED or flow.parameters:
            self._note(flow)
        self.is_simple = False
        self.copy_ahead = 0
        self.failed = False
        if is_parsed:
            desk.client_parses += 1
            server.ledger.append(Owed(ledgers.PARSED, b"", statement))
            server.unnamed = statement
            if statement.told > 0:
                server.put_bytes(statement.parse_frame(name))
            server.write(buffer, bind if statement.told > 0 else position, stop)
        elif len(name) == 0:
            self._ensure_unnamed(server, statement)
            server.write(buffer, position, stop)
        else:
            statement = self._ensure(desk, server, name, statement)
            length = 5 + len(statement.server_name) + first_stop - name_end
            renamed = bytearray(b"B" + length.to_bytes(4, "big") + b"\0" + statement.server_name)
            octets.append(renamed, buffer, name_end, stop)
            server.write(renamed, 0, len(renamed))
        if desk.mirror is not None:
            self._copy_for_mirror(desk.mirror, statement, buffer, bind, stop, end)
        desk.binds += 1
        server.queries += 1
        self.queries += 1
        self.executed = True
        server.ledger.append(ledgers.OWED_READY)
        self.awaiting = True
        return stop

    def _begin_batch(self, desk: Desk, buffer: bytearray, position: int, end: int) -> None:
        """The first frame of a decided batch goes out: keep the batch if it may be repeated."""
        self.decided = False
        self.retry = False
        server = self.server
        assert server is not None
        if (
            self.survey_reads
            and self.role != PRIMARY
            and self.status == frames.STATUS_IDLE
            and not server.pool.leads
            and self.survey_end <= end - position
        ):
            self.retry = True
            self.request = octets.cut(buffer, position, position + self.survey_end)
        if self.flow is not None and self.flow.flags & SEQUENCES:
            self._forget_sequences(server)

    def _parse(
        self, desk: Desk, server: Server, buffer: bytearray, position: int, stop: int, end: int
    ) -> int:
        is_held = stop - position <= desk.statement_bytes_max
        if is_held and stop > end:
            return position
        limit = stop if stop < end else end
        name_end = octets.find_nul(buffer, position + 5, limit)
        if name_end < 0 and stop > end:
            if end - position < surveys.NAMES_BYTES_MAX:
                return position
            # PostgreSQL looks at no more of a name.
            name_end = position + 5 + 63
        text_end = octets.find_nul(buffer, name_end + 1, stop) if is_held and name_end >= 0 else name_end
        if text_end < 0:
            # Malformed: the server says so in its own words.
            self._unanswered()
            server.put(buffer, position, stop)
            return stop
        name = frames.cut_name(octets.cut(buffer, position + 5, name_end))
        if is_held:
            known = None
            if self.has_shapes:
                known = desk.statements.get(octets.cut(buffer, name_end + 1, stop), self.context)
            if known is None:
                known = self._define(desk, len(name) > 0, buffer, name_end + 1, text_end, stop)
                if not self._locate_constants(desk, known, buffer, name_end + 1, text_end):
                    return self._refuse(frames.PARSE, stop, end, position)
            statement = known
        else:
            statement = Statement(b"", b"", self._unknown(desk), self._unknown_name(name), False)
        flow = statement.flow
        if flow.flags & OWN and self._is_own(desk, flow, statement):
            return self._own_frame(desk, frames.PARSE, statement, buffer, position, stop, end)
        if flow.role == PRIMARY and self._moves():
            if not self.probed:
                self._probe(server)
                return position
            moved = self._move(desk, PRIMARY, self.shard)
            if moved is None:
                return position
            server = moved
        if flow.flags & CALLS:
            self._spell_out(server, statement.text, False)
        desk.client_parses += 1
        self._unanswered()
        if not is_held:
            self.flags |= UNCLEAN
        if len(name) == 0:
            if statement.told == 0:
                self._forward(server, buffer, position, stop, end)
            else:
                server.put_bytes(statement.parse_frame(name))
            server.ledger.append(Owed(ledgers.PARSED, name, statement))
            self.overlay[name] = statement
            server.unnamed = statement
            return stop
        taken = self._statement(name)
        if taken is not None:
            # The server itself shall say that the name is taken, in its own words, or that the transaction
            # has failed, whichever is true.
            if taken.is_kept:
                self._prepare_as(server, name, ledgers.ANY_STATEMENT)
                self.spelled.discard(name)
            self._forward(server, buffer, position, stop, end)
            server.ledger.append(Owed(ledgers.PARSED, None, None))
            return stop
        if not is_held:
            if server.is_stale:
                server.put_bytes(frames.close_frame(statement.server_name))
                server.ledger.append(ledgers.OWED_CLOSE_QUIET)
            length = stop - name_end + 4 + len(statement.server_name)
            server.put_bytes(b"P" + length.to_bytes(4, "big") + statement.server_name)
            self._forward(server, buffer, name_end, stop, end)
            server.ledger.append(Owed(ledgers.PARSED, name, statement))
            self.overlay[name] = statement
            desk.server_parses += 1
            return stop
        if statement in server.prepared:
            server.prepared_hits += 1
        else:
            server.prepared_misses += 1
            self._make_room(desk, server)
        server.put_bytes(frames.close_frame(statement.server_name))
        server.ledger.append(ledgers.OWED_CLOSE_QUIET)
        server.put_bytes(statement.parse_frame(statement.server_name))
        server.ledger.append(Owed(ledgers.PARSED, name, statement))
        server.prepared[statement] = server.serial + server.transactions
        desk.server_parses += 1
        self.overlay[name] = statement
        return stop

    def _move(self, desk: Desk, role: int, shard: int) -> Server | None:
        """Leave a server; what was prepared there is prepared again where it is needed."""
        server = self.server
        assert server is not None
        self._leave_prepared(server)
        self.shard = shard
        moved = self._checkout(desk, role)
        self.decided = False
        self.survey_reads = False
        return moved

    def _bind(self, desk: Desk, server: Server, buffer: bytearray, position: int, stop: int, end: int) -> int:
        limit = stop if stop < end else end
        portal_end = octets.find_nul(buffer, position + 5, limit)
        name_end = octets.find_nul(buffer, portal_end + 1, limit) if portal_end >= 0 else -1
        if name_end < 0:
            if stop > end and end - position < surveys.NAMES_BYTES_MAX:
                return position
            self._unanswered()
            self._forward(server, buffer, position, stop, end)
            return stop
        name = frames.cut_name(octets.cut(buffer, portal_end + 1, name_end))
        statement = self._statement(name)
        if statement is not None:
            if statement.flow.flags & OWN and self._is_own(desk, statement.flow, statement):
                return self._own_frame(desk, frames.BIND, statement, buffer, position, stop, end)
            if statement.flow.flags & NESTS and self.wishes_end and self.unsynced and not self.probed:
                # Should it fail, nothing before it has.
                self._probe(server)
                return position
            if desk.shards > 1 and stop > end and stop - position <= surveys.BATCH_BYTES_MAX:
                # Its keys may be in what has not come.
                return position
            if statement.flow.flags & BY_PATH and statement.context != self.context:
                statement = self._read_anew(desk, statement)
                self._rename(name, statement)
            if statement.is_open and (self.status != frames.STATUS_FAILED or self.unsynced):
                typed = self._typed(desk, server, name, statement)
                if typed is None:
                    return position
                statement = typed
            if desk.shards > 1 and not self._place_bind(desk, statement, buffer, position, limit):
                if not self.strays:
                    return self._refuse(frames.BIND, stop, end, position)
                self.strays = False
                if not self.probed:
                    self._probe(server)
                    return position
                # What comes behind it in its batch may need the primary.
                role = PRIMARY if self.role == PRIMARY else statement.flow.role
                moved = self._move(desk, role, self.shard_next)
                if moved is None:
                    return position
                server = moved
            if statement.flow.role == PRIMARY and self._moves():
                if not self.probed:
                    self._probe(server)
                    return position
                moved = self._move(desk, PRIMARY, self.shard)
                if moved is None:
                    return position
                server = moved
            self.flags |= statement.flow.flags
            if statement.flow.flags & FINISHES:
                self.finishes = True
            self._note(statement.flow)
            if statement.flow.flags & CALLS:
                self._spell_out(server, statement.text, False)
            if statement.flow.flags & NESTS and self.wishes_end:
                self._save(desk, statement.text)
            if statement.flow.flags & WATCHED:
                desk.upcalls += 1
                desk.control.watch(self, statement.text)
        if desk.mirror is not None:
            self._copy_for_mirror(desk.mirror, statement, buffer, position, stop, end)
        if self.portals:
            self.portals.pop(octets.cut(buffer, position + 5, portal_end), None)
        desk.binds += 1
        self._unanswered()
        self.executed = True
        if len(name) == 0:
            self._ensure_unnamed(server, statement)
            self._forward(server, buffer, position, stop, end)
            return stop
        if statement is None:
            server_name = self._unknown_name(name)
        else:
            statement = self._ensure(desk, server, name, statement)
            server_name = statement.server_name
        length = stop - position - 1 - (name_end - portal_end - 1) + len(server_name)
        server.put_bytes(b"B" + length.to_bytes(4, "big"))
        server.put(buffer, position + 5, portal_end + 1)
        server.put_bytes(server_name)
        self._forward(server, buffer, name_end, stop, end)
        return stop

    def _sync(self) -> None:
        server = self.server
        assert server is not None
        server.put_bytes(frames.SYNC_FRAME)
        server.ledger.append(ledgers.OWED_READY)
        self.awaiting = True
        self.unsynced = False
        self.finishes = False
        self.probed = False
        self.is_simple = False

    # -- told by the server's lane -------------------------------------------------------------------------

    def stay(self) -> None:
        """Settled, and pinned: go on with the same server."""
        self.settling = False
        self.pinned = True
        self.replay()

    def drained(self) -> None:
        server = self.server
        if server is not None:
            server.resume_reading()
        self.replay()
        if not self.reading and not self.closing and len(self.pending) <= links.HIGH_WATER_BYTES:
            self.resume_reading()

    def hold_back(self) -> None:
        if self.waiting or self.awaiting or self.settling or self.probing:
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
