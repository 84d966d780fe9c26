"""A server's lane: copies answers to the client they are owed to, swallows ours, and gives the link back."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from pgcat_cluster.relay import frames, links, marks, octets
from pgcat_cluster.relay import ledger as ledgers
from pgcat_cluster.relay.coupling import ServerEnd
from pgcat_cluster.relay.desk import Desk, Errand
from pgcat_cluster.relay.ledger import Owed

if TYPE_CHECKING:
    from pgcat_cluster.relay.client import Client

# A frame that must be seen whole (errors, parameters, rows of our own questions).
CALL_BYTES_MAX = 1048576
FORGETS = marks.FORGETS
LEAVES = marks.LEAVES
UNPINS = marks.UNPINS
DOUBTS = marks.DOUBTS
ASKS = marks.LEAVES | marks.UNCLEAN | marks.FORGETS | marks.DEFINES

_first = itemgetter(0)


class Server(ServerEnd):
    """One server link: its lane, its ledger, what is prepared on it."""

    __slots__ = ()

    # -- the lane ------------------------------------------------------------------------------------------

    def consume(self, buffer: bytearray, start: int, end: int) -> int:
        p = buffer
        position = start
        run = start
        client = self.client
        if (
            client is not None
            and self.remaining == 0
            and not self.quiet
            and end - start >= frames.READY_BYTES
            and octets.has_at(buffer, end - frames.READY_BYTES, end, frames.READY_HEAD)
            and self._usual_answer(client, buffer, start, end)
        ):
            return end
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
            length = octets.length_at(buffer, position + 1)
            stop = position + 1 + length
            if length < 4 or length > frames.LENGTH_MAX:
                self._deliver(buffer, run, position)
                self.lost("the server sent an impossible length")
                return end
            client = self.client
            if client is None or (self.quiet and not self._is_told(kind)):
                # Ours. (run is position here: what came before was delivered.)
                self._deliver(buffer, run, position)
                if stop > end:
                    if (kind == frames.DATA_ROW and length > CALL_BYTES_MAX) or (
                        frames.PASSES[kind] and kind != frames.DATA_ROW
                    ):
                        self._pass_columns(kind)
                        self.remaining = stop - end
                        self.dropping = True
                        return end
                    return position
                position = stop
                run = stop
                self._swallow(kind, buffer, stop - length + 4, stop)
                continue
            if client.probing and self.ledger.kind() == ledgers.COLUMNS_QUIET:
                if stop > end:
                    break
                if kind == frames.ROW_DESCRIPTION or kind == frames.NO_DATA:
                    # Delivered first, for what waits for this answer may leave this server.
                    self._deliver(buffer, run, position)
                    position = stop
                    run = stop
                    self._pass_columns(kind)
                    self._probed(client)
                    continue
                if frames.PASSES[kind]:
                    position = stop
                    continue
            if frames.PASSES[kind]:
                if client.retry and not frames.PREPARES[kind]:
                    client.retry = False
                if client.saves and kind == frames.COMMAND_COMPLETE:
                    client.completed += 1
                if stop > end:
                    self.remaining = stop - end
                    self.dropping = False
                    position = end
                elif client.retry or client.saves:
                    position = stop
                else:
                    position = octets.behind_frames(buffer, stop, end, frames.PASSES)
                continue
            if stop > end:
                if length > CALL_BYTES_MAX:
                    self.lost("the server sent a message that is too long")
                    return end
                break
            if kind == frames.READY and client.aside:
                self._deliver(buffer, run, position)
                position = stop
                run = stop
                self._ready_aside(client, p[stop - 1])
            elif kind == frames.READY:
                client.retry = False
                position = stop
                self._deliver(buffer, run, position)
                run = position
                self._ready(client, p[stop - 1])
            elif kind == frames.PARSE_COMPLETE or kind == frames.CLOSE_COMPLETE:
                if self._is_ours(kind):
                    # Delivered first, for what waits for this answer may leave this server.
                    self._deliver(buffer, run, position)
                    run = stop
                self._completed(client, kind)
                position = stop
            elif kind == frames.PARAMETERS:
                if self.ledger.kind() == ledgers.DESCRIBED_QUIET:
                    self._deliver(buffer, run, position)
                    run = stop
                position = stop
                self._told(client, octets.cut(buffer, stop - length + 4, stop))
            elif kind == frames.ERROR:
                sqlstate = frames.error_code(buffer, position + 5, stop)
                # By protocol, not in a Query: nothing is answered up to the next Sync.
                is_passing = 0 < self.ledger.kind() < ledgers.READY
                # A statement of ours may have failed, behind which stands a Sync of ours.
                is_own = self._strike()
                is_fatal = buffer.find(b"VFATAL\0", stop - length + 4, stop) >= 0
                if is_passing and client.is_simple and not is_own and not is_fatal:
                    self.sync_behind(client)
                is_refused = client.retry and sqlstate == b"25006" and client.role_wish < 0
                # The statement that fails on purpose, for its client was told already what it must not do.
                is_spoilt = client.spoiling and not is_fatal
                # A server that ends while it owes what another one can answer: the end of the link tells (`lost`).
                is_ending = client.retry and is_fatal
                is_swallowed = is_own or is_refused or is_ending or is_spoilt
                names_ours = buffer.find(marks.SERVER_NAME_PREFIX, position, stop) >= 0
                if not is_swallowed:
                    client.retry = False
                if is_swallowed or names_ours:
                    self._deliver(buffer, run, position)
                    run = stop
                position = stop
                if is_swallowed:
                    if is_spoilt:
                        client.spoiling = False
                        client.failed = True
                    elif is_ending:
                        self.is_fatal = True
                    elif is_refused and not is_own:
                        self._stand_aside(client)
                    continue
                if names_ours:
                    renamed = bytearray(client.in_own_words(octets.cut(buffer, stop - length + 4, stop)))
                    self._deliver(renamed, 0, len(renamed))
                self._deliver(buffer, run, position)
                run = position
                self._error(client, sqlstate, names_ours, is_fatal)
            elif kind == frames.PARAMETER_STATUS:
                position = stop
                self._deliver(buffer, run, position)
                run = position
                self.control.reported(client, self, octets.cut(buffer, stop - length + 4, stop))
            elif kind == frames.COPY_IN or kind == frames.COPY_BOTH:
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

    def _usual_answer(self, client: Client, buffer: bytearray, start: int, end: int) -> bool:
        """What comes mostly: a whole answer at once, without an error, all of it the client's; whether it is one.

        It does what the frames one by one would do, with one `send`.
        """
        ledger = self.ledger
        is_parsed = buffer[start] == frames.PARSE_COMPLETE and ledger.kind() == ledgers.PARSED
        rows = start + len(frames.PARSE_COMPLETE_FRAME) if is_parsed else start
        ready = octets.behind_frames(buffer, rows, end, frames.PASSES)
        if end - ready != frames.READY_BYTES or buffer[ready] != frames.READY or client.cork or client.aside:
            return False
        if is_parsed:
            self._parsed(client, ledger.pop())
        client.retry = False
        if not client.write(buffer, start, end) and client.unsent() > links.HIGH_WATER_BYTES:
            self.pause_reading()
        self._ready(client, buffer[end - 1])
        return True

    def _look(self) -> None:
        """The head of the ledger may have changed: is the answer that comes now ours?"""
        kind = self.ledger.kind()
        self.quiet = kind == ledgers.READY_QUIET or kind == ledgers.RUN_QUIET

    def _is_told(self, kind: int) -> bool:
        """Whether this frame of what runs in front of a request is for its client all the same."""
        is_heard = kind == frames.ERROR or kind == frames.PARAMETER_STATUS
        return is_heard and self.ledger.kind() == ledgers.RUN_QUIET

    def sync_behind(self, client: Client) -> None:
        """What ran in front of a Query has failed: the Query is passed over, up to this Sync."""
        if client.remaining > 0 and client.streaming:
            # Not in the middle of a message: behind the rest of it.
            client.lingering = True
            return
        self.put_bytes(frames.SYNC_FRAME)
        self.flush()

    def _deliver(self, buffer: bytearray, start: int, end: int) -> None:
        """Give the client what is its own; held back while the request may yet be repeated elsewhere."""
        if start >= end:
            return
        client = self.client
        if client is None:
            return
        if client.retry:
            octets.append(client.cork, buffer, start, end)
            return
        if len(client.cork) > 0:
            client.put_bytes(bytes(client.cork))
            client.cork.clear()
        if not client.write(buffer, start, end) and client.unsent() > links.HIGH_WATER_BYTES:
            self.pause_reading()

    def _ready(self, client: Client, status: int) -> None:
        """ReadyForQuery for the client."""
        ledger = self.ledger
        if self.skipping:
            # What was sent between the error and the Sync was passed over.
            self._strike()
            self.skipping = False
        next_kind = ledger.pass_ready()
        if next_kind < 0:
            is_early = not ledger.is_empty()
            self.lost(
                "the server was ready before it had answered everything"
                if is_early
                else "the server was ready out of turn"
            )
            return
        self.quiet = next_kind == ledgers.READY_QUIET
        desk = client.desk
        assert desk is not None
        self.status = status
        client.status = status
        client.awaiting = next_kind == ledgers.READY
        client.copying = False
        client.request = None
        if client.saves:
            client.saves = False
            if client.failed:
                self.control.save_not(client, client.completed)
        if client.answered:
            client.confirm()
        if client.overlay and next_kind == 0:
            # Else a batch is under way already (behind a COPY that failed), and these names are its own.
            client.overlay.clear()
        if client.is_alone:
            if status == frames.STATUS_IDLE:
                client.rereads = False
                client.untold = False
            if not client.untold:
                client.is_alone = False
                desk.upcalls += 1
                self.control.reread(client, self)
        if client.flags & FORGETS:
            if not client.failed:
                client.statements.clear()
            # Once: what is prepared behind it in the same transaction stays.
            client.flags = client.flags & ~FORGETS | LEAVES
        if client.copy_doubt:
            client.copy_doubt = False
            if client.failed:
                self.lost("nobody knows which Sync was answered")
                return
        now = desk.clock()
        client.ready_at = now
        self.used_at = now
        self.query_s += now - client.request_at
        if status == frames.STATUS_IDLE and next_kind == 0 and not client.unsynced:
            if desk.mirror is not None:
                desk.mirror.over(client)
            client.transactions += 1
            self.transactions += 1
            self.transaction_s += now - client.coupled_at
            if client.attempts > 0:
                # What a standby refused changes data, whatever it looks like.
                client.flags |= DOUBTS
            client.attempts = 0
            client.primary_only = False
            if client.wishes_end:
                self.control.wish_no_more(client)
            if client.remaining > 0 and client.streaming:
                # The server waits for the rest of a frame that it will ignore.
                client.lingering = True
            else:
                self.over(desk, client)
        else:
            client.replay()

    def _ready_aside(self, client: Client, status: int) -> None:
        """ReadyForQuery behind what was only prepared here: the client's transaction is elsewhere, or nowhere yet."""
        if self.skipping:
            self._strike()
            self.skipping = False
        next_kind = self.ledger.pass_ready()
        if next_kind < 0:
            self.lost("the server was ready out of turn")
            return
        self.quiet = next_kind == ledgers.READY_QUIET
        self.status = status
        client.aside = False
        client.awaiting = False
        if client.answered:
            client.confirm()
        client.overlay.clear()
        if client.failed:
            client.status = frames.STATUS_FAILED
        client.put_bytes(frames.ready_frame(client.status))
        client.flush()
        self.release()

    def over(self, desk: Desk, client: Client) -> None:
        """A transaction is over: the server goes back, if nothing of the client is left on it."""
        asks = client.flags & ASKS != 0
        if desk.keeps_positions:
            asks = asks or (self.pool.leads and client.may_have_written())
            client.fell_behind = False
        if not (asks or client.pinned or desk.is_session_mode):
            self.release()
        elif (asks or client.flags & UNPINS) and not desk.is_session_mode:
            client.settling = True
            desk.upcalls += 1
            self.control.settle(client, self)
        else:
            client.coupled_at = client.ready_at
            client.replay()

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
        if client.pending or client.consuming:
            client.replay()

    def part(self) -> None:
        """The client goes on elsewhere in the middle of a batch: end the batch, swallow its end."""
        self.client = None
        self.peer = None
        self.put_bytes(frames.SYNC_FRAME)
        self.ledger.append(ledgers.OWED_SYNC_QUIET)
        self._look()
        self.flush()

    def _is_ours(self, kind: int) -> bool:
        """Whether this ParseComplete or CloseComplete answers what the client did not send."""
        owed = self.ledger.kind()
        return owed == (ledgers.PARSED_QUIET if kind == frames.PARSE_COMPLETE else ledgers.CLOSED_QUIET)

    def _completed(self, client: Client, kind: int) -> None:
        """ParseComplete or CloseComplete: what was sent is true now."""
        ledger = self.ledger
        desk = client.desk
        assert desk is not None
        if desk.is_session_mode and kind == frames.PARSE_COMPLETE:
            return
        if ledger.is_empty() or ledger.kind() >= ledgers.READY:
            return
        owed = ledger.pop()
        self._look()
        if owed.kind == ledgers.PARSED:
            self._parsed(client, owed)
        elif owed is ledgers.OWED_PROBE:
            self._probed(client)
        elif owed.kind == ledgers.CLOSED and owed.name is not None:
            client.answered.append(owed)

    def _probed(self, client: Client) -> None:
        """All that was sent of a batch has been answered."""
        client.probing = False
        client.probed = True
        client.replay()

    def _told(self, client: Client | None, types: bytes) -> None:
        """ParameterDescription: what the client asked, or what we asked, for a statement's shard depends on it."""
        ledger = self.ledger
        kind = ledger.kind()
        if kind != ledgers.DESCRIBED and kind != ledgers.DESCRIBED_QUIET:
            return
        statement = ledger.pop().statement
        self._look()
        if client is not None and client.desk is not None and statement is not None:
            client.desk.statements.tell(statement, types)

    def _pass_columns(self, kind: int) -> None:
        """RowDescription or NoData may be the end of the answer to what we asked."""
        is_end = kind == frames.ROW_DESCRIPTION or kind == frames.NO_DATA
        if is_end and self.ledger.kind() == ledgers.COLUMNS_QUIET:
            self.ledger.pop()
            self._look()

    def _parsed(self, client: Client, owed: Owed) -> None:
        """A Parse of the client's succeeded."""
        statement = owed.statement
        desk = client.desk
        if statement is not None and desk is not None:
            statement.proven = desk.statements.epoch
            if owed.name is not None:
                client.answered.append(owed)

    def _strike(self) -> bool:
        """An error: nothing up to the next ReadyForQuery will be answered any more. Whether that one is ours."""
        ledger = self.ledger
        client = self.client
        # Else a batch of the client may be under way already, behind what is swallowed.
        is_client_s = ledger.kind() != ledgers.READY_QUIET
        first = True
        while not ledger.is_empty() and ledger.kind() < ledgers.READY:
            owed = ledger.pop()
            if owed.name is not None and len(owed.name) == 0:
                self.unnamed = ledgers.ANY_STATEMENT
                if first and owed.kind == ledgers.PARSED and client is not None:
                    # Whether it failed itself or was passed over is not known: it is nobody's.
                    client.answered.append(Owed(ledgers.CLOSED, b""))
            elif owed.kind == ledgers.COLUMNS_QUIET:
                if client is not None:
                    client.probing = False
            elif owed.statement is not None and owed.kind < ledgers.DESCRIBED:
                if owed.kind == ledgers.CLOSED_QUIET:
                    # It was to be evicted, and is still there.
                    self.prepared[owed.statement] = 0
                else:
                    self.prepared.pop(owed.statement, None)
            elif owed.kind == ledgers.PARSED_QUIET and client is not None:
                client.spelled.discard(owed.name)
            if owed is ledgers.OWED_PROBE and client is not None:
                client.probing = False
            first = False
        self.skipping = ledger.is_empty()
        self._look()
        if client is not None and is_client_s:
            client.overlay.clear()
        return self.quiet

    def _error(self, client: Client, sqlstate: bytes, names_ours: bool, is_fatal: bool) -> None:
        """An error went to the client."""
        desk = client.desk
        assert desk is not None
        desk.errors[sqlstate] = desk.errors.get(sqlstate, 0) + 1
        self.pool.errors[sqlstate] = self.pool.errors.get(sqlstate, 0) + 1
        self.errors += 1
        client.errors += 1
        client.failed = True
        if sqlstate == b"0A000" or (sqlstate == b"26000" and names_ours):
            # A plan that no longer fits, or a statement that is gone: prepare everything again.
            self.prepared.clear()
        if sqlstate[:2] == b"42" or sqlstate[:2] == b"0A":
            # What servers accepted they may not accept any more: let them say so themselves.
            desk.statements.epoch += 1
        if is_fatal:
            self.is_fatal = True
        if client.copying:
            client.copying = False
            client.awaiting = client.is_simple
        if client.copy_synced:
            client.copy_synced = False
            client.awaiting = True
            client.unsynced = False
            self.ledger.append(ledgers.OWED_READY)
        if client.copy_syncs > 0:
            self.sync_late()
            self.flush()
        client.replay()

    def _copy_begins(self, client: Client) -> None:
        """COPY FROM STDIN: the client speaks again. A Sync already sent is ignored by the server."""
        desk = client.desk
        if desk is not None and desk.mirror is not None:
            desk.mirror.left_out(client)
        ahead = 0 if client.is_simple else client.copy_ahead
        if ahead == frames.COPY_DONE or ahead == frames.COPY_FAIL:
            # All of it was sent in one go.
            return
        client.copying = True
        client.awaiting = False
        if not client.is_simple and not self.ledger.is_empty() and self.ledger.kind() == ledgers.READY:
            self.ledger.pop()
            self._look()
            client.unsynced = True
            # Should the data before that Sync fail, it is not ignored.
            client.copy_synced = ahead == frames.COPY_DATA
        client.replay()

    def sync_late(self) -> None:
        """The Syncs that came behind the last COPY data: as the COPY has failed, they are not ignored."""
        client = self.client
        assert client is not None
        while client.copy_syncs > 0:
            client.copy_syncs -= 1
            self.put_bytes(frames.SYNC_FRAME)
            self.ledger.append(ledgers.OWED_READY)
        client.awaiting = True
        client.unsynced = False

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
        self.put_bytes(frames.query_frame(text))
        self.ledger.append(Owed(ledgers.READY_QUIET, None, None, errand))
        self._look()
        self.unnamed = None

    def precede(self, text: bytes) -> None:
        """Run a statement of ours in front of its client's request, which does not run if this one fails."""
        self.put_bytes(frames.run_frames(text))
        self.ledger.append(ledgers.OWED_RUN_QUIET)
        self._look()
        self.unnamed = ledgers.ANY_STATEMENT

    def _swallow(self, kind: int, buffer: bytearray, start: int, stop: int) -> None:
        """One frame that no client shall see."""
        ledger = self.ledger
        if kind == frames.READY:
            if self.skipping:
                self._strike()
                self.skipping = False
            if ledger.is_empty():
                self.lost("the server was ready out of turn")
                return
            owed = ledger.pop()
            if owed.kind < ledgers.READY:
                self.lost("the server was ready before it had answered everything")
                return
            self._look()
            self.status = buffer[start]
            is_alone = self.client is None
            if owed.errand is not None:
                owed.errand.done(self)
            if is_alone and ledger.is_empty() and not self.closed:
                self.clean()
        elif kind == frames.DATA_ROW or kind == frames.ERROR:
            if kind == frames.ERROR:
                if ledger.kind() == ledgers.RUN_QUIET:
                    # Whether a Sync comes behind it only its client could tell.
                    self.lost("a transaction did not begin, and its client is gone")
                    return
                self._strike()
                if ledger.is_empty():
                    # An idle link is told that it ends.
                    self.is_fatal = True
                    return
            errand = ledger.head().errand if not ledger.is_empty() else None
            if errand is not None:
                errand.take(kind, octets.cut(buffer, start, stop))
        elif kind == frames.PARAMETER_STATUS:
            self.control.reported(None, self, octets.cut(buffer, start, stop))
            errand = ledger.head().errand if not ledger.is_empty() else None
            if errand is not None:
                errand.take(kind, octets.cut(buffer, start, stop))
        elif kind == frames.PARSE_COMPLETE or kind == frames.CLOSE_COMPLETE:
            is_within = kind == frames.PARSE_COMPLETE and ledger.kind() == ledgers.RUN_QUIET
            if not ledger.is_empty() and ledger.kind() < ledgers.READY and not is_within:
                ledger.pop()
                self._look()
        elif kind == frames.PARAMETERS:
            self._told(None, b"")
        elif kind == frames.ROW_DESCRIPTION or kind == frames.NO_DATA:
            self._pass_columns(kind)
        elif kind == frames.NOTIFICATION:
            client = self.client
            if client is not None:
                client.write(buffer, start - 5, stop)
        elif kind == frames.COPY_IN or kind == frames.COPY_BOTH:
            self.lost("nobody is there to send COPY data")
        elif not frames.PASSES[kind]:
            self.lost("the server sent a message out of turn")

    def clean(self) -> None:
        """No client, nothing owed: make the session as new, then rest. One step a call.

        Nothing begins while a cancel is on its way: it would hit that. When it is over, this is called again.
        """
        assert self.client is None
        assert not self.resting
        if self.cancels > 0:
            return
        if self.status != frames.STATUS_IDLE:
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
            pool = self.pool
            if (
                self.is_retired
                or self.is_fatal
                or self.generation != pool.generation
                or pool.opened > pool.limit
            ):
                self.control.retire(self)
            else:
                self.resting = True
                pool.checkin(self)
            return
        self.flush()

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
            self.put_bytes(frames.SYNC_FRAME)
            self.ledger.append(ledgers.OWED_SYNC_QUIET)
            self._look()
        if self.remaining > 0:
            self.dropping = True
        if not self.reading:
            self.resume_reading()
        if self.ledger.is_empty():
            self.clean()
        else:
            self.abandoned_at = desk.clock()
            self.flush()

    def evict(self, count: int) -> None:
        """Close the prepared statements that were used longest ago, none of the batch in progress."""
        by_use = []
        # A client that is pinned has many transactions in one coupling.
        now = self.serial + self.transactions
        for statement, used in self.prepared.items():
            if used != now:
                by_use.append((used, statement.server_name, statement))
        by_use.sort(key=_first)
        for _, server_name, statement in by_use[:count]:
            del self.prepared[statement]
            self.prepared_evictions += 1
            self.put_bytes(frames.close_frame(server_name))
            self.ledger.append(Owed(ledgers.CLOSED_QUIET, None, statement))

    # -- the end -------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Close in good order; the pool forgets this link."""
        self._forget()
        self.put_bytes(frames.TERMINATE_FRAME)
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
