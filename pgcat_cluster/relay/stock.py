"""Idle servers and waiters: who gets a server link, and in which order.

Rules. Waiters of one gate are served strictly in the order they came, over all its targets that a freed
server fits. A waiter that left is skipped. A newcomer never overtakes a waiter of its own target. How many
links there may be is decided elsewhere (`pool`): here stand only the counts it goes by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.positions import Position

_LEAST = marks.BALANCE_LEAST


class Waiter(Link):
    """A link that may wait for a server: `waiting` says that it does, `ticket` is its place."""

    __slots__ = ("ticket", "waiting")

    waiting: bool
    ticket: int

    def granted(self, server: Link) -> None:
        """A server is yours; called only while `waiting`."""
        raise NotImplementedError

    def accepts(self, pool: Pool) -> bool:
        """Whether a server of this pool would do; asked when it has left the queue for one."""
        return True

    def turned_away(self) -> None:
        """It waits no longer, where it waited, and has to look for a server anew."""
        raise NotImplementedError


class Pool:
    """The links of one (database, user, server). `busy` of the `opened` links are in use, `opening` are not yet there.

    `key` names the server, which is the primary if it `leads`; `detail` belongs to the session. `generation` goes
    up when all links that exist must be closed at their next check-in.

    The server has replayed the log up to `replayed`, or written as much if it leads; both are known of its
    `timeline`, and 0 is unknown. Clients that can only be served here wait in `alone`. While the session `asks`
    something of the server, the next link that is free is for the question.
    """

    __slots__ = (
        "alone", "asks", "assigned", "detail", "errors", "gate", "generation", "idle", "key", "leads", "limit",
        "may_open", "opened", "opening", "replayed", "targets", "timeline", "weight",
    )  # fmt: skip

    def __init__(self, gate: Gate, key: str, limit: int, weight: int, detail: object) -> None:
        self.gate = gate
        self.key = key
        self.limit = limit
        self.weight = weight
        self.detail = detail
        self.idle: list[Link] = []
        self.targets: list[Target] = []
        self.opened = 0
        self.opening = 0
        self.generation = 0
        self.assigned = 0
        self.errors: dict[bytes, int] = {}
        self.may_open = True
        self.leads = False
        self.asks = False
        self.timeline = 0
        self.replayed = 0
        self.alone: Target | None = None

    def has_replayed(self, position: Position) -> bool:
        """Whether a read here sees what lies before a position; a primary has all of its timeline."""
        if self.leads:
            return self.timeline >= position.timeline
        return self.timeline == position.timeline and self.replayed >= position.lsn

    def busy(self) -> int:
        return self.opened - len(self.idle)

    def may_grow(self) -> bool:
        return self.may_open and self.opened + self.opening < self.limit

    def take(self) -> Link | None:
        """The link that was used last, or None."""
        idle = self.idle
        while idle:
            server = idle.pop()
            if not server.closed:
                self.assigned += 1
                return server
        return None

    def checkin(self, server: Link) -> None:
        """A link is free and clean: the first waiter it fits gets it, else it rests."""
        if self.asks and not self.gate.paused:
            self.asks = False
            self.gate.ask(self, server)
            return
        if self.gate.waiting > 0:
            for target in self.targets:
                if target.waiting > 0 and not self.gate.paused:
                    waiter = self.next_waiter()
                    if waiter is not None:
                        self.assigned += 1
                        waiter.granted(server)
                        return
        self.idle.append(server)

    def next_waiter(self) -> Waiter | None:
        """Take the waiter with the oldest ticket among the heads of the targets this pool serves.

        Who accepts none of this pool looks elsewhere.
        """
        while True:
            best: Target | None = None
            oldest = 0
            for target in self.targets:
                head = target.head()
                if head is not None and (best is None or head.ticket < oldest):
                    best = target
                    oldest = head.ticket
            if best is None:
                return None
            waiter = best.waiters.popleft()[1]
            best.leave(waiter)
            if not self.gate.keeps_positions or waiter.accepts(self):
                return waiter
            waiter.turned_away()


class Target:
    """Where statements of one role go in one shard: the eligible pools, and who waits for one of their links.

    `waiting` is how many of `waiters` still wait; nobody is kept there when none does.
    """

    __slots__ = ("gate", "pools", "role", "shard", "waiters", "waiting", "weight")

    def __init__(self, gate: Gate, role: int, shard: int = 0) -> None:
        self.gate = gate
        self.role = role
        self.shard = shard
        self.pools: list[Pool] = []
        self.waiters: deque[tuple[int, Waiter]] = deque()
        self.waiting = 0
        self.weight = 0

    def serve_by(self, pools: list[Pool]) -> None:
        """Replace the eligible pools; waiters stay, and those who can go on at once do."""
        for pool in self.pools:
            pool.targets.remove(self)
        self.pools = pools
        self.weight = 0
        for pool in pools:
            pool.targets.append(self)
            self.weight += pool.weight
        self.serve_waiters()

    def serve_waiters(self) -> None:
        """Hand idle links to waiters, as far as both are there."""
        for pool in list(self.pools):
            while len(pool.idle) > 0 and not self.gate.paused:
                waiter = pool.next_waiter()
                if waiter is None:
                    break
                server = pool.take()
                if server is None:
                    self.rejoin(waiter)
                    break
                waiter.granted(server)

    def rejoin(self, waiter: Waiter) -> None:
        """Back to the front: the link that was meant for it had died."""
        waiter.waiting = True
        self.waiting += 1
        self.gate.waiting += 1
        self.waiters.appendleft((waiter.ticket, waiter))

    def head(self) -> Waiter | None:
        """The first who still waits; those who left are dropped on the way."""
        waiters = self.waiters
        while len(waiters) > 0:
            ticket, waiter = waiters[0]
            if waiter.waiting and waiter.ticket == ticket and not waiter.closed:
                return waiter
            waiters.popleft()
        return None

    def enqueue(self, waiter: Waiter) -> None:
        waiter.ticket = self.gate.next_ticket()
        waiter.waiting = True
        self.waiting += 1
        self.gate.waiting += 1
        self.waiters.append((waiter.ticket, waiter))

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer; an entry that is still there is dropped when it comes to the front."""
        if waiter.waiting:
            waiter.waiting = False
            self.waiting -= 1
            self.gate.waiting -= 1
            if self.waiting == 0:
                self.waiters.clear()

    def take(self) -> Link | None:
        """An idle link of an eligible pool, or None: then the caller waits.

        The pool is chosen by weight and chance, or by how busy it is. A chosen pool without an idle link
        that may grow is asked to, and another one serves meanwhile.
        """
        if self.gate.paused or self.waiting > 0:
            return None
        pools = self.pools
        count = len(pools)
        if count == 0:
            return None
        pool = pools[0]
        if count > 1:
            pool = self.least_busy() if self.gate.balancing == _LEAST else self.drawn()
        server = pool.take()
        if server is not None or count == 1:
            return server
        if pool.may_grow():
            self.gate.grow(pool)
        for other in pools:
            server = other.take()
            if server is not None:
                return server
        return None

    def narrow(self, position: Position) -> Target | None:
        """Where who must see a position may go: here, to one pool alone, or nowhere yet."""
        best: Pool | None = None
        is_any = True
        for pool in self.pools:
            if not pool.has_replayed(position):
                is_any = False
            elif best is None or pool.busy() * best.weight < best.busy() * pool.weight:
                best = pool
        if is_any:
            return self
        return None if best is None else best.alone

    def drawn(self) -> Pool:
        left = self.gate.draw() % self.weight if self.weight > 0 else 0
        for pool in self.pools:
            left -= pool.weight
            if left < 0:
                return pool
        return self.pools[0]

    def least_busy(self) -> Pool:
        """The pool with the fewest busy links for its weight; chance decides between equals."""
        best = self.drawn()
        for pool in self.pools:
            if pool.busy() * best.weight < best.busy() * pool.weight:
                best = pool
        return best

    def may_grow(self) -> bool:
        for pool in self.pools:
            if pool.may_grow():
                return True
        return False


class Gate:
    """What all clients of one (database, user) share: the targets, how many wait for them and in which order, pause.

    The target of a role in a shard is `targets[shard * ROLES + role]`; there is at least one shard.
    `grow` is called with a pool that has no idle link for a client and may have more. If it `keeps_positions`, reads
    go where what their client wrote has been replayed; who finds no such place waits `behind`.
    """

    __slots__ = (
        "balancing", "behind", "detail", "grow", "keeps_positions", "paused", "random", "shards", "targets",
        "tickets", "waiting",
    )  # fmt: skip

    def __init__(
        self, balancing: int, seed: int, grow: Callable[[Pool], None], detail: object, shards: int = 1
    ) -> None:
        self.balancing = balancing
        self.random = seed & 0xFFFFFFFF or 1
        self.grow = grow
        self.detail = detail
        self.paused = False
        self.tickets = 0
        self.waiting = 0
        self.shards = shards
        self.targets = [Target(self, role, shard) for shard in range(shards) for role in range(marks.ROLES)]
        self.keeps_positions = False
        self.behind = Target(self, marks.REPLICA)

    def ask(self, pool: Pool, server: Link) -> None:
        """A free link of a pool that asks something; it comes back when that is answered."""
        raise NotImplementedError

    def next_ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def draw(self) -> int:
        """A pseudo-random number of 32 bits (xorshift): spreads load, guards nothing."""
        x = self.random
        x ^= (x << 13) & 0xFFFFFFFF
        x ^= x >> 17
        x ^= (x << 5) & 0xFFFFFFFF
        self.random = x
        return x

    def shard_from(self, shard: int, role: int) -> int:
        """This shard, or the next one that has servers for a role, if there is such a one."""
        for _ in range(self.shards):
            target = self.targets[shard * marks.ROLES + role]
            if len(target.pools) > 0:
                break
            shard = (shard + 1) % self.shards
        return shard

    def serve_waiters(self) -> None:
        for target in self.targets:
            target.serve_waiters()
