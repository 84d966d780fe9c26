"""Sees that clients who wait get a server link, or are told why there is none: links come, go, and are replaced."""

from __future__ import annotations

from collections.abc import Callable

from pgcat_cluster.errors import NoServer, ServerUnreachable
from pgcat_cluster.pool.growth import backoff_s, grow
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool, Target
from pgcat_cluster.routing.serving import candidates
from pgcat_cluster.session.account import Account, Backend, ShardPlace, desk_of, source_of
from pgcat_cluster.session.effects import Effects
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.session.refusals import may_repeat, orphan, refuse
from pgcat_cluster.session.warming import prewarm
from pgcat_cluster.topology.view import NOT_SEEN

SILENT = "the server is silent"
_ERROR = b"E"


class Supply:
    """One for all accounts of a node. A new link has the parameters `fresh`."""

    def __init__(self, effects: Effects, clock: Callable[[], float], fresh: Parameters) -> None:
        self._effects = effects
        self._clock = clock
        self._fresh = fresh

    # -- who serves ----------------------------------------------------------------------------------------

    def place(self, account: Account, shard: ShardPlace) -> None:
        """The view of a shard or the settings changed: which of its pools serve which role."""
        pools = shard.pools
        for key, pool in pools.items():
            pool.leads = key == shard.view.primary
        for target in _targets(account, shard):
            asked = candidates(shard.view, target.role, account.settings, shard.on_all_bad)
            served = [pools[one.server.key] for one in asked if one.is_eligible and one.server.key in pools]
            # The primary is the last resort among equals.
            served.sort(key=lambda pool: pool.leads)
            if target.pools != served or target.weight != sum(pool.weight for pool in served):
                target.serve_by(served)
            self.serve(account, target)

    def serve(self, account: Account, target: Target) -> None:
        """Open links for those who wait, or tell them that there is no server."""
        if target.gate.paused or target.head() is None:
            return
        if not target.pools:
            _fail_without_server(account, target)
            return
        for pool in target.pools:
            self.grow(pool)

    # -- links come ----------------------------------------------------------------------------------------

    def grow_for(self, pool: Pool) -> None:
        """The relay would have liked a link of this pool."""
        self.grow(pool, is_wanted=True)

    def grow(self, pool: Pool, *, is_wanted: bool = False) -> None:
        """Open as many links as who waits, and the settings, ask for."""
        source = source_of(pool)
        account = source.account
        if self._clock() < source.retry_at or account.is_removed or pool.gate.paused:
            return
        waiting = sum(target.waiting for target in pool.targets)
        # Those that are being warmed are as good as being opened.
        warming = account.warming(pool)
        while True:
            decision = grow(
                opened=pool.opened - warming,
                opening=pool.opening + warming,
                idle=len(pool.idle),
                limit=pool.limit,
                min_size=account.settings.min_size,
                waiting=waiting,
                is_wanted=is_wanted,
            )
            if not decision.opens:
                return
            is_wanted = False
            pool.opening += 1
            self._effects.open_link(account, pool)

    def linked(self, pool: Pool, server: Server, backend: Backend) -> None:
        """A link is open and logged in."""
        source = source_of(pool)
        account = source.account
        pool.opening -= 1
        pool.opened += 1
        source.failures = 0
        source.retry_at = 0.0
        source.last_error = ""
        pool.may_open = True
        server.detail = backend
        server.parameters = server.base_parameters = self._fresh
        account.servers.add(server)
        server.start()
        if account.is_removed or pool.gate.paused:
            server.is_retired = True
        if not prewarm(account, server, self._clock(), self._effects.prewarming_failed):
            server.clean()
        for target in pool.targets:
            if target.waiting:
                self.grow(pool)

    def link_failed(self, pool: Pool, text: str, *, is_overload: bool, is_down: bool) -> None:
        """A link could not be opened."""
        source = source_of(pool)
        pool.opening -= 1
        source.failures += 1
        source.last_error = text
        source.retry_at = self._clock() + backoff_s(source.failures)
        pool.may_open = False
        if is_overload or pool.opened > 0 or pool.gate.paused:
            return
        for target in list(pool.targets):
            # Others may serve; a replica's fate is for health to judge, within its bound.
            if any(other.opened > 0 or other.may_open for other in target.pools):
                continue
            if is_down and target.role != marks.PRIMARY and len(source.shard.view.servers) > 1:
                continue
            while (waiter := target.head()) is not None:
                assert isinstance(waiter, Client)
                refuse(waiter, ServerUnreachable(detail=where(target) + text))

    # -- links go ------------------------------------------------------------------------------------------

    def renew(self, pool: Pool) -> None:
        """No link of this pool is used again: those that rest close now, the others when they are released."""
        pool.generation += 1
        # Another server may stand there now, or other tables.
        desk_of(source_of(pool).account).statements.epoch += 1
        for server in list(pool.idle):
            assert isinstance(server, Server)
            self.retire(server)

    def retire(self, server: Server) -> None:
        """A free link that is too old, of another generation, or has a cancel on its way."""
        if server.cancels > 0:
            return
        server.terminate()
        _let_go(server)
        if any(target.waiting for target in server.pool.targets):
            self.grow(server.pool)

    def give_up(self, pool: Pool) -> None:
        """The server fell silent and is out of use: what another one can answer as well is asked there.

        That are the reads that a dead link would let us repeat; all else waits for what the server may yet say.
        """
        source = source_of(pool)
        others = _targets(source.account, source.shard)[marks.REPLICA].pools
        if not others or pool in others:
            return
        for server in list(source.account.servers):
            client = server.client
            if server.pool is pool and client is not None and may_repeat(client):
                server.lost(SILENT)

    def lost(self, server: Server, client: Client | None, reason: str) -> None:
        """A link has ended by itself; `client` was using it."""
        account = _let_go(server)
        if not server.is_fatal and not account.is_removed:
            self._effects.link_lost(account, server.pool, reason)
        if client is not None:
            _look_through(server.pool)
            orphan(client, server, reason)
        for target in server.pool.targets:
            self.serve(account, target)

    # -- cancels -------------------------------------------------------------------------------------------

    def cancel(self, server: Server) -> None:
        """End what a link runs."""
        server.cancels += 1
        self._effects.cancel_server(server)

    def cancel_sent(self, server: Server) -> None:
        """A cancel of this link is over: it may be used again."""
        server.cancels -= 1
        if (
            server.cancels == 0
            and not server.closed
            and server.client is None
            and not server.resting
            and not server.ledger
        ):
            server.clean()


def where(target: Target) -> str:
    """Which shard a detail is about, where there are several."""
    return f"shard {target.shard}: " if target.gate.shards > 1 else ""


def why_none(account: Account, target: Target) -> str:
    """Why no server stands behind a target."""
    view = account.shards[target.shard].view
    if target.role == marks.PRIMARY or (target.role == marks.REPLICA and account.settings.reads == "primary"):
        return view.why_no_primary or "no primary is known"
    why = view.refusals()
    if not why and view.why_no_primary == NOT_SEEN:
        return NOT_SEEN
    return NOT_SEEN if NOT_SEEN in why else why or "no replica is known"


def _targets(account: Account, shard: ShardPlace) -> list[Target]:
    """The targets of one shard, in order of their roles."""
    first = shard.number * marks.ROLES
    return desk_of(account).targets[first : first + marks.ROLES]


def _fail_without_server(account: Account, target: Target) -> None:
    reason = why_none(account, target)
    if reason == NOT_SEEN:
        return
    while (waiter := target.head()) is not None:
        assert isinstance(waiter, Client)
        refuse(waiter, NoServer(detail=where(target) + reason))


def _let_go(server: Server) -> Account:
    """A link has ended: what it moved stays counted."""
    source = source_of(server.pool)
    account = source.account
    account.servers.discard(server)
    desk_of(account).let_go(server)
    source.add(server)
    return account


def _look_through(pool: Pool) -> None:
    """A server that dies takes all its links with it: none that rests is given away before its end is read."""
    for server in list(pool.idle):
        assert isinstance(server, Server)
        ahead = server.ahead()
        if ahead == _ERROR:
            # On a link that rests these are a server's last words.
            server.is_fatal = True
        if ahead in (b"", _ERROR):
            server.lost("connection closed by peer")
