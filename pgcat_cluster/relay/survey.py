"""Decides a client's request before any of it is consumed: a statement by its shape, a batch by its statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pgcat_cluster.relay import frames, marks, octets
from pgcat_cluster.relay.coupling import ClientEnd
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.flows import Flow, Statement

if TYPE_CHECKING:
    from pgcat_cluster.relay.client import Client

BATCH_BYTES_MAX = 65536
# A Bind whose names have not come by then is as good as malformed.
NAMES_BYTES_MAX = 4096

# What a command of ours begins with, and how long it may be where not every statement is read.
COMMAND_WORDS = (b"set ", b"show ", b"reset ", b"explain route ")
COMMAND_BYTES_MAX = 16384
COMMAND = marks.COMMAND
BEGINS = marks.BEGINS
BY_PATH = marks.BY_PATH

PRIMARY = marks.PRIMARY
REPLICA = marks.REPLICA
READS = marks.READS
OWN = marks.COMMAND | marks.BEGINS | marks.CLOSES | marks.JOINS

# What a survey finds: wait for more bytes, a server is needed, it can be answered here, its first frame is about a
# statement of ours, or it must not run.
SURVEY_MORE = 0
SURVEY_SERVER = 1
SURVEY_LOCAL = 2
SURVEY_OWN = 3
SURVEY_REFUSED = 4


class Surveyor(ClientEnd):
    """The part of a client that looks ahead: nothing here consumes or forwards."""

    __slots__ = ()

    def _itself(self) -> Client:
        """This object as those above the relay know it."""
        return cast("Client", self)

    def _any_shard(self, desk: Desk, role: int) -> int:
        """The shard of what any can do: the same for the whole session, as each has its own oids."""
        if self.home < 0:
            self.home = desk.draw() % desk.shards
        return desk.shard_from(self.home, role)

    def _unknown(self, desk: Desk) -> Flow:
        desk.upcalls += 1
        desk.unknown_statements += 1
        return desk.control.analyse(self._itself(), b"", None)

    def _decide_unread(self, desk: Desk, buffer: bytearray, start: int, stop: int) -> Flow:
        """In session mode a statement is looked at only where it may be a command of ours."""
        p = buffer
        if stop - start < 4 or stop - start > COMMAND_BYTES_MAX or not self.has_shapes:
            return desk.session_flow
        first = p[start] | 0x20
        third = p[start + 2] | 0x20
        if (first >= 0x61 and first != 0x65 and first != 0x72 and first != 0x73) or third == 0x6C:
            # Begins with another letter than explain, reset, set and show, or as select does.
            return desk.session_flow
        shape = desk.scanner.glance(buffer, start, stop)
        if shape is None or not shape.startswith(COMMAND_WORDS):
            return desk.session_flow
        known = desk.flows.flows.get(shape)
        if known is None:
            desk.upcalls += 1
            known = desk.control.analyse(self._itself(), octets.cut(buffer, start, stop), shape)
        return known if known.flags & COMMAND else desk.session_flow

    def _decide(self, desk: Desk, buffer: bytearray, start: int, stop: int) -> Flow:
        """The flow of a statement: remembered, or from the control."""
        if desk.is_session_mode:
            return self._decide_unread(desk, buffer, start, stop)
        shape = desk.scanner.glance(buffer, start, stop) if self.has_shapes else None
        if shape is None:
            # Nothing is known of its constants and comments.
            desk.scanner.forget()
            desk.upcalls += 1
            desk.unknown_statements += 1
            return desk.control.analyse(self._itself(), octets.cut(buffer, start, stop), None)
        known = desk.flows.get(shape, self.path)
        if known is not None:
            return known
        desk.upcalls += 1
        return desk.control.analyse(self._itself(), octets.cut(buffer, start, stop), shape)

    def _statement(self, name: bytes) -> Statement | None:
        """What a name means to this client now, also within the batch in progress."""
        if self.overlay and name in self.overlay:
            return self.overlay[name]
        if len(name) == 0:
            return self.unnamed
        return self.statements.get(name)

    def _survey(self, desk: Desk, buffer: bytearray, start: int, end: int) -> int:
        """Decide a batch by its statements up to the first Sync or Flush, without consuming it.

        Sets role, flow (the most demanding one), survey_end (bytes of the batch) and survey_reads.
        """
        p = buffer
        position = start
        self.planned.clear()
        is_placed = False
        is_open = False
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
            length = octets.length_at(buffer, position + 1)
            stop = position + 1 + length
            if length < 4 or length > frames.LENGTH_MAX:
                break
            if kind == frames.SYNC or kind == frames.FLUSH:
                if stop > end:
                    return SURVEY_MORE
                if kind == frames.FLUSH:
                    # What comes before the Flush must be answered at once, so it can't be asked twice.
                    reads = False
                position = stop
                break
            if kind == frames.EXECUTE or kind == frames.CLOSE:
                if stop > end:
                    return SURVEY_MORE
                if kind != frames.CLOSE or not self._closes_well(buffer, position, stop):
                    local = False
            elif frames.EXTENDS[kind]:
                if kind == frames.PARSE and stop > end and stop - position <= desk.statement_bytes_max:
                    return SURVEY_MORE
                if kind == frames.DESCRIBE and stop > end:
                    return SURVEY_MORE
                self.surveyed = None
                flow = self._flow_of(desk, kind, buffer, position, stop, end)
                if self.refusal:
                    return SURVEY_REFUSED
                if flow is not None and flow.flags & OWN and self._is_own(desk, flow, self.found):
                    if position == start:
                        self.surveyed = self.found
                        return SURVEY_OWN
                    if local:
                        # Neither it nor what comes before needs a server.
                        return SURVEY_LOCAL
                    # Its turn comes when the others have been answered.
                    if flow.flags & BEGINS and flow.role == PRIMARY:
                        role = PRIMARY
                    reads = False
                    local = False
                    break
                if kind != frames.PARSE or not self._is_proven(desk):
                    local = False
                if flow is None:
                    if kind == frames.BIND and stop > end and end - position < NAMES_BYTES_MAX:
                        return SURVEY_MORE
                else:
                    found = True
                    if decisive is None or flow.role == PRIMARY:
                        decisive = flow
                    if flow.role == PRIMARY:
                        role = PRIMARY
                    if not flow.flags & READS:
                        reads = False
                    if kind == frames.BIND and not is_placed:
                        statement = self.found
                        if statement is not None:
                            self.role_hint = statement.role_hint
                            if statement.typed is not None:
                                statement = statement.typed
                            is_open = is_open or statement.is_open
                        # Nobody knows the shard of an open one: its batch moves when a server has told its types.
                        if statement is not None and desk.shards > 1 and not is_open:
                            if stop > end and stop - start <= BATCH_BYTES_MAX:
                                return SURVEY_MORE
                            limit = stop if stop < end else end
                            if not self._place_bind(desk, statement, buffer, position, limit):
                                return SURVEY_REFUSED
                        is_placed = not is_open
                if stop > end:
                    if stop - start <= BATCH_BYTES_MAX:
                        return SURVEY_MORE
                    reads = False
                    break
            else:
                # Something else in the middle: what was seen decides, the rest is judged when its turn comes.
                reads = False
                local = False
                break
            position = stop
        self.aside = False
        if not is_placed and desk.shards > 1:
            # Only prepared, and that can be on any shard, and beside a transaction that has none yet.
            self.shard = self.shard_wish
            if self.shard < 0:
                self.shard = self._any_shard(desk, role if found else PRIMARY)
            self.aside = len(self.held) > 0 and not local
        self.survey_end = position - start
        self.survey_reads = reads and found
        self.role = role if found else PRIMARY
        self.flow = decisive
        return SURVEY_LOCAL if local else SURVEY_SERVER

    def _flow_of(
        self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int, end: int
    ) -> Flow | None:
        """The flow of a Parse's text, or of the statement a Bind or Describe names; None if there is none.

        That statement is `found`.
        """
        self.found = None
        if desk.is_session_mode:
            return desk.session_flow
        limit = stop if stop < end else end
        if kind == frames.DESCRIBE:
            if buffer[position + 5] != 0x53:
                return None
            name_start = position + 6
        elif kind == frames.BIND:
            name_start = octets.find_nul(buffer, position + 5, limit) + 1
            if name_start == 0:
                return None
        else:
            name_end = octets.find_nul(buffer, position + 5, limit)
            if stop - position > desk.statement_bytes_max or name_end < 0:
                return self._unknown(desk)
            text_end = octets.find_nul(buffer, name_end + 1, stop)
            if text_end < 0:
                return None
            name = frames.cut_name(octets.cut(buffer, position + 5, name_end))
            statement = desk.statements.get(octets.cut(buffer, name_end + 1, stop), self.context)
            if statement is None or not self.has_shapes:
                flow = self._decide(desk, buffer, name_end + 1, text_end)
                text, types = b"", b""
                if desk.shards > 1 or flow.flags & OWN:
                    text = octets.cut(buffer, name_end + 1, text_end)
                    types = octets.cut(buffer, text_end + 1, stop)
                statement = Statement(text, types, flow, b"", True, self.context)
                if flow.flags & OWN:
                    statement = desk.statements.make(text, types, flow, self.context)
                if (not flow.flags & OWN or flow.flags & BEGINS) and not self._locate_constants(
                    desk, statement, buffer, name_end + 1, text_end
                ):
                    return flow
            elif len(name) == 0 or (name not in self.planned and self._statement(name) is None):
                self.surveyed = statement
            # A batch may use the name at once.
            self.planned[name] = statement
            self.found = statement
            return statement.flow
        name_end = octets.find_nul(buffer, name_start, limit)
        if name_end < 0:
            return None
        name = frames.cut_name(octets.cut(buffer, name_start, name_end))
        named = self.planned.get(name)
        if named is None:
            named = self._statement(name)
        if named is not None and named.flow.flags & BY_PATH and named.context != self.context:
            named = self._read_anew(desk, named)
        self.found = named
        return None if named is None else named.flow

    def _is_own(self, desk: Desk, flow: Flow, statement: Statement | None) -> bool:
        raise NotImplementedError

    def _place_bind(self, desk: Desk, statement: Statement, buffer: bytearray, start: int, stop: int) -> bool:
        raise NotImplementedError

    def _locate_constants(
        self, desk: Desk, statement: Statement, buffer: bytearray, start: int, stop: int
    ) -> bool:
        raise NotImplementedError

    def _read_anew(self, desk: Desk, statement: Statement) -> Statement:
        raise NotImplementedError

    def _is_proven(self, desk: Desk) -> bool:
        """Whether a server has accepted the Parse just surveyed, so that no one needs to ask again."""
        statement = self.surveyed
        return statement is not None and statement.proven == desk.statements.epoch

    def _closes_well(self, buffer: bytearray, position: int, stop: int) -> bool:
        """Whether a Close is well formed; what is not goes to a server, which says so."""
        if stop - position < 7 or buffer[position + 5] not in b"SP":
            return False
        return octets.find_nul(buffer, position + 6, stop) == stop - 1

    def _answer_here(self, desk: Desk, kind: int, buffer: bytearray, position: int, stop: int) -> int:
        """A batch that only closes, or prepares what servers are known to accept, needs no server.

        Answers where its frame ends.
        """
        if kind == frames.PARSE:
            name_end = octets.find_nul(buffer, position + 5, stop)
            name = frames.cut_name(octets.cut(buffer, position + 5, name_end))
            statement = desk.statements.get(octets.cut(buffer, name_end + 1, stop), self.context)
            assert statement is not None
            if len(name) == 0:
                self.unnamed = statement
            else:
                self.statements[name] = statement
            desk.client_parses += 1
            self.put_bytes(frames.PARSE_COMPLETE_FRAME)
            return stop
        if buffer[position + 5] == 0x53 and stop - position > 6:
            name = frames.cut_name(octets.cut(buffer, position + 6, stop - 1))
            if len(name) == 0:
                self.unnamed = None
            else:
                self.statements.pop(name, None)
        self.put_bytes(frames.CLOSE_COMPLETE_FRAME)
        return stop
