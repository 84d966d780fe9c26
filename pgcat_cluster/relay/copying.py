"""COPY FROM STDIN, a client's side of it: data go on as they come, and nothing that would be answered unawares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcat_cluster.relay import frames, octets
from pgcat_cluster.relay import ledger as ledgers
from pgcat_cluster.relay.desk import Mirror
from pgcat_cluster.relay.flows import Statement
from pgcat_cluster.relay.survey import Surveyor

if TYPE_CHECKING:
    from pgcat_cluster.relay.server import Server


class Copier(Surveyor):
    """The part of a client that passes frames on, or over, without a look inside."""

    __slots__ = ()

    def _forward(self, server: Server, buffer: bytearray, start: int, stop: int, end: int) -> None:
        """Put a frame, or the part of it that is here; the rest streams."""
        if stop > end:
            server.put(buffer, start, end)
            self.remaining = stop - end
            self.streaming = True
        else:
            server.put(buffer, start, stop)

    def _drop(self, stop: int, end: int) -> None:
        """Pass over a frame, also what has not arrived of it."""
        if stop > end:
            self.remaining = stop - end
            self.streaming = False

    def _copy_for_mirror(
        self, mirror: Mirror, statement: Statement | None, buffer: bytearray, start: int, stop: int, end: int
    ) -> None:
        """Let the mirror know of frames that were forwarded; of those that are not here as a whole, only that."""
        if stop > end or buffer[start] == frames.FUNCTION:
            mirror.left_out(self._itself())
        else:
            mirror.sent(self._itself(), statement, octets.cut(buffer, start, stop))

    def _copy_frame(self, kind: int, buffer: bytearray, position: int, stop: int, end: int) -> int:
        """A frame while the server reads COPY data, as far as we know: the COPY may have failed meanwhile.

        The server ignores data that come too late, so they go to it; everything else it would answer. Answers
        where the frame ends, position if its turn comes later.
        """
        server = self.server
        desk = self.desk
        assert server is not None
        assert desk is not None
        if frames.COPIES[kind]:
            # The Syncs before it were ignored, we take it: who knew of a failure sends no more data.
            self.copy_syncs = 0
            if self.copy_synced:
                self.copy_synced, self.copy_doubt = False, True
            self._forward(server, buffer, position, stop, end)
            if kind == frames.COPY_DONE or kind == frames.COPY_FAIL:
                self.copying = False
                self.awaiting = self.is_simple
        elif kind == frames.FLUSH:
            self._drop(stop, end)
        elif kind == frames.SYNC:
            if stop - position > 5:
                desk.control.violated(self._itself(), "invalid message length")
            elif stop > end:
                return position
            else:
                self.copy_syncs += 1
        else:
            self._interrupt(server, kind)
            return position
        return stop

    def _interrupt(self, server: Server, kind: int) -> None:
        """The client sent this where COPY data belong: a server that still reads them ends the session.

        It does so as soon as it has read the type, so we send no more than that. Had the COPY failed before, the
        message is dealt with in its turn, and what this empty one is answered is swallowed.
        """
        self.copying = False
        is_passed_over = not self.is_simple and self.copy_syncs == 0
        if self.copy_syncs > 0:
            server.sync_late()
        server.put_bytes(bytes((kind, 0, 0, 0, 4)))
        if is_passed_over:
            # Like all that follows up to Sync: no more is looked at until the error is here.
            server.ledger.append(ledgers.OWED_PROBE)
            self.probing = True
            return
        if kind != frames.QUERY and kind != frames.FUNCTION:
            server.put_bytes(frames.SYNC_FRAME)
        server.ledger.append(ledgers.OWED_SYNC_QUIET)
        self.awaiting = True
