"""How servers learn a client's prepared statements: under names of ours, when they are needed, as many as fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcat_cluster.relay import frames, marks, octets
from pgcat_cluster.relay import ledger as ledgers
from pgcat_cluster.relay.copying import Copier
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.flows import Statement
from pgcat_cluster.relay.ledger import Owed

if TYPE_CHECKING:
    from pgcat_cluster.relay.server import Server

UNPINS = marks.UNPINS
BY_PATH = marks.BY_PATH


class Preparer(Copier):
    """The part of a client that names statements in the server's terms."""

    __slots__ = ()

    def _ensure(self, desk: Desk, server: Server, name: bytes, statement: Statement) -> Statement:
        """The server knows this statement under its server name when what follows arrives.

        Answers the statement; another one, which the client's name means from now on, if it was prepared elsewhere
        before parameters changed: a server reads constants by those of its session, and others share what it read.
        """
        if statement in server.prepared:
            server.prepared[statement] = server.serial + server.transactions
            server.prepared_hits += 1
            return statement
        if not statement.is_kept:
            # It is there, or the server says that it is not.
            return statement
        if statement.context != self.context:
            read_anew = self._read_anew(desk, statement)
            self._rename(name, read_anew)
            return self._ensure(desk, server, name, read_anew)
        self._make_room(desk, server)
        server.prepared_misses += 1
        desk.server_parses += 1
        server.prepared[statement] = server.serial + server.transactions
        server.put_bytes(frames.close_frame(statement.server_name))
        server.ledger.append(ledgers.OWED_CLOSE_QUIET)
        server.put_bytes(statement.parse_frame(statement.server_name))
        server.ledger.append(Owed(ledgers.PARSED_QUIET, None, statement))
        return statement

    def _read_anew(self, desk: Desk, statement: Statement) -> Statement:
        """A statement that was prepared before parameters changed, as it is to be read now."""
        known = desk.statements.get(statement.text + b"\0" + statement.types, self.context)
        if known is not None:
            return known
        read_anew = desk.statements.read_as(statement, self.context)
        if statement.flow.flags & BY_PATH:
            self.decide_anew(read_anew)
        return read_anew

    def decide_anew(self, statement: Statement) -> None:
        """The rules have changed by which a prepared statement was decided; its comments are not heard here."""
        raise NotImplementedError

    def _rename(self, name: bytes, statement: Statement) -> None:
        """From now on a name that its client has prepared means this statement."""
        if name in self.overlay:
            self.overlay[name] = statement
        elif len(name) == 0:
            self.unnamed = statement
        else:
            self.statements[name] = statement

    def _make_room(self, desk: Desk, server: Server) -> None:
        # A transaction keeps all that it uses, so there may be more than one too many.
        excess = len(server.prepared) - desk.prepared_max
        if excess >= 0:
            server.evict(excess + max(desk.prepared_max // 8, 1))

    def _spell_out(self, server: Server, text: bytes, is_simple: bool) -> None:
        """SQL names statements that were prepared by protocol: the server must know them under their names.

        What is left of them when the transaction is over is asked in settling. Before a simple Query comes a Sync
        of ours: if a statement can not be prepared any more, the Query must be answered all the same. Not so if it
        is to run in a transaction that begins just now, for it must not run without.
        """
        if self.status == frames.STATUS_FAILED:
            return
        is_any = False
        for name in [*self.statements, *self.overlay]:
            statement = self._statement(name)
            if statement is not None and statement.is_kept and name not in self.spelled and name in text:
                self._prepare_as(server, name, statement)
                self.spelled.add(name)
                is_any = True
        if is_any and is_simple and (self.executed or self.status == frames.STATUS_IDLE):
            server.put_bytes(frames.SYNC_FRAME)
            server.ledger.append(ledgers.OWED_SYNC_QUIET)

    def _prepare_as(self, server: Server, name: bytes, statement: Statement) -> None:
        """Prepare a statement under a name of the client's; the server forgets it when it is cleaned."""
        server.put_bytes(frames.close_frame(name))
        server.ledger.append(ledgers.OWED_CLOSE_QUIET)
        server.put_bytes(statement.parse_frame(name))
        server.ledger.append(Owed(ledgers.PARSED_QUIET, name))
        server.is_stale = True

    def _ensure_unnamed(self, server: Server, statement: Statement | None) -> None:
        """The server's unnamed statement is this client's, or nobody's."""
        if statement is None:
            if server.unnamed is not None:
                server.put_bytes(frames.close_frame(b""))
                server.ledger.append(ledgers.OWED_CLOSE_UNNAMED_QUIET)
                server.unnamed = None
        elif server.unnamed is not statement and statement.is_kept:
            server.put_bytes(statement.parse_frame(b""))
            server.ledger.append(ledgers.OWED_PARSE_UNNAMED_QUIET)
            server.unnamed = statement

    def _forget_sequences(self, server: Server) -> None:
        """What the server remembers of sequences is another client's, unless this one may have used some there."""
        if not self.executed or not (self.pinned or self.may_have_written()):
            server.precede(b"DISCARD SEQUENCES")

    def in_own_words(self, body: bytes) -> bytes:
        """An ErrorResponse in which servers' names of prepared statements are this client's."""
        known = [*self.statements.items(), *[(owed.name, owed.statement) for owed in self.answered]]
        for name, statement in known:
            if name and statement is not None and statement.server_name and statement.server_name in body:
                body = body.replace(b'"' + statement.server_name + b'"', b'"' + name + b'"')
        return b"E" + (len(body) + 4).to_bytes(4, "big") + body

    def confirm(self) -> None:
        """What was answered of a batch is true now: its names are this client's, or no longer."""
        for owed in self.answered:
            name = owed.name
            assert name is not None
            statement = owed.statement if owed.kind == ledgers.PARSED else None
            if len(name) == 0:
                self.unnamed = statement
            elif statement is not None:
                self.statements[name] = statement
            else:
                self.statements.pop(name, None)
        self.answered.clear()

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
        name = frames.cut_name(octets.cut(buffer, position + 6, stop - 1))
        statement = self._statement(name)
        if len(name) == 0:
            self._ensure_unnamed(server, statement)
            server.put(buffer, position, stop)
            self._expect_types(desk, server, statement)
            return
        if statement is None:
            server_name = self._unknown_name(name)
        else:
            statement = self._ensure(desk, server, name, statement)
            server_name = statement.server_name
        server.put_bytes(frames.describe_frame(server_name))
        self._expect_types(desk, server, statement)

    def _expect_types(self, desk: Desk, server: Server, statement: Statement | None) -> None:
        """The types that a server will tell the client are of use to us too."""
        if desk.shards > 1:
            server.ledger.append(Owed(ledgers.DESCRIBED, None, statement))

    def _close(self, server: Server, buffer: bytearray, position: int, stop: int) -> None:
        if stop - position < 7 or buffer[position + 5] != 0x53:
            server.put(buffer, position, stop)
            server.ledger.append(ledgers.OWED_CLOSE)
            return
        name = frames.cut_name(octets.cut(buffer, position + 6, stop - 1))
        statement = self._statement(name)
        server.ledger.append(Owed(ledgers.CLOSED, name))
        if len(name) == 0:
            server.put(buffer, position, stop)
            server.unnamed = None
        elif statement is not None and not statement.is_kept:
            server.put_bytes(frames.close_frame(statement.server_name))
            self.flags |= UNPINS
        else:
            # A link that was made to know the client's own name must forget it.
            server.put_bytes(
                frames.close_frame(self._unknown_name(name) if server.is_stale else marks.NOBODY)
            )
        self.overlay[name] = None
