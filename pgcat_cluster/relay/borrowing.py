"""How a client gets a server for its request: at once, in a queue, from others than the first, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pgcat_cluster.relay import frames, marks
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.placing import Placer

if TYPE_CHECKING:
    from pgcat_cluster.relay.server import Server
    from pgcat_cluster.relay.stock import Pool

PRIMARY = marks.PRIMARY
REPLICA = marks.REPLICA
ANY = marks.ANY
STANDBY = marks.STANDBY
ROLES = marks.ROLES
FINISHES = marks.FINISHES


class Borrower(Placer):
    """The part of a client that takes servers and waits for them."""

    __slots__ = ()

    def _checkout(self, desk: Desk, role: int) -> Server | None:
        """Take a server, or a place in the queue (None; `refused` if even that was denied)."""
        if len(self.held) > 0:
            # Behind the end of that transaction another may begin in the same string.
            is_over = self.flow is not None and self.flow.flags & FINISHES != 0
            role = PRIMARY if is_over else self.held_role
            if self.role_hint < 0:
                self.role_hint = self.held_hint
        if self.greeting:
            pass
        elif self.role_hint >= 0:
            role = self.role_hint
        elif self.role_wish >= 0:
            role = self.role_wish
        elif self.primary_only or self.shuns_replicas:
            role = PRIMARY
        elif role == REPLICA and self.reads_wish >= 0:
            role = ANY if self.reads_wish else STANDBY
        self.role = role
        target = desk.targets[self.shard * ROLES + role]
        if desk.keeps_positions:
            narrowed = self._narrow(target)
            if narrowed is None:
                return self._fall_behind(desk)
            target = narrowed
        self.target = target
        server: Server | None = target.take()  # type: ignore[assignment]
        if server is not None:
            self._couple(desk, server)
            return server
        self.wait_since = desk.clock()
        target.enqueue(self)
        if target.may_grow() or len(target.pools) == 0 or desk.paused:
            desk.upcalls += 1
            desk.control.want(self._itself(), target)
        return self.server

    def _fall_behind(self, desk: Desk) -> Server | None:
        """Wait until a server has what this read must see."""
        self.target = desk.behind
        self.wait_since = desk.clock()
        desk.behind.enqueue(self)
        desk.upcalls += 1
        desk.control.follow(self._itself())
        return None

    def accepts(self, pool: Pool) -> bool:
        return self.needs is None or pool.has_replayed(self.needs)

    def turned_away(self) -> None:
        self.replay()

    def _couple(self, desk: Desk, server: Server) -> None:
        assert server.client is None
        server.resting = False
        server.client = self  # type: ignore[assignment]
        server.peer = self
        server.serial += 1
        if self.spelled:
            self.spelled.clear()
        self.server = server
        self.pool = server.pool
        self.peer = server
        self.flags = 0
        self.executed = False
        self.unsynced = False
        self.finishes = False
        self.coupled_at = desk.clock()
        if self.portals and not self.aside:
            self._drop_portals()
        if server.parameters is not self.parameters or self.greeting:
            desk.upcalls += 1
            desk.control.align(self._itself(), server)
        if len(self.held) > 0 and not self.aside:
            for text in self.held:
                server.precede(text)
            if desk.mirror is not None:
                # A comment may end with the line.
                desk.mirror.sent(self._itself(), None, frames.query_frame(b"\n;".join(self.held)))
            self.held = []

    def greet(self) -> None:
        """Get a server for a moment, to learn what the client must be told at login; no request is looked at."""
        desk = self.desk
        assert desk is not None
        self.greeting = True
        self.settling = True
        self.shard = desk.shard_from(0, PRIMARY)
        role = PRIMARY if len(desk.targets[self.shard * ROLES + PRIMARY].pools) > 0 else REPLICA
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
        free = cast("Server", server)
        free.wait_s += waited_s
        self._couple(desk, free)
        if self.greeting:
            server.flush()
        self.replay()

    def fail(self, error: bytes) -> None:
        """The request that waits for a server gets this ErrorResponse instead."""
        if self.target is not None:
            self.target.leave(self)
        self.put_bytes(error)
        if self.status != frames.STATUS_IDLE:
            self.status = frames.STATUS_FAILED
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
        if desk.mirror is not None:
            desk.mirror.again(self._itself())
        self.attempts += 1
        self.request = None
        self.retry = False
        self.awaiting = False
        self.unsynced = False
        self.decided = False
        self.cork.clear()
        self.overlay.clear()
        self.answered.clear()
        self.pending = bytearray(request) + self.pending
        self.replay()
