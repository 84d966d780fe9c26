"""Looks at everything of an account that has a limit in time: waiters, requests, links, clients that rest."""

from __future__ import annotations

from collections.abc import Callable

from pgcat_cluster.errors import (
    CheckoutTimeout,
    IdleInTransaction,
    IdleSession,
    NoServer,
    ServerUnreachable,
    TransactionTimeout,
)
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool, Target
from pgcat_cluster.session.account import Account, backend_of, desk_of, source_of
from pgcat_cluster.session.catalogs import Catalogs
from pgcat_cluster.session.consistency import Consistency
from pgcat_cluster.session.refusals import dismiss, refuse
from pgcat_cluster.session.supply import Supply, where, why_none

# How long a server link may go on with the statement of a client that has left.
ABANDONED_S = 5.0
LOOK_S = 0.5
SWEEP_S = 10.0
_IDLE = 0x49


class Upkeep:
    """One for all accounts of a node."""

    def __init__(
        self, clock: Callable[[], float], supply: Supply, consistency: Consistency, catalogs: Catalogs
    ) -> None:
        self._clock = clock
        self._supply = supply
        self._consistency = consistency
        self._catalogs = catalogs

    def tick(self, account: Account) -> None:
        now = self._clock()
        desk = desk_of(account)
        settings = account.settings
        if desk.waiting > 0:
            for target in (*desk.targets, *self._consistency.targets(account)):
                _expire_waiters(account, target, now)
                self._supply.serve(account, target)
        _look_around(account, now)
        self._catalogs.tick(account)
        for server in list(account.servers):
            self._expire_server(account, server, now)
        if settings.idle_session_timeout_s > 0:
            for client in list(account.clients):
                _expire_client(client, settings.idle_session_timeout_s, now)
        for pool in account.pools():
            if not pool.may_open and now >= source_of(pool).retry_at:
                pool.may_open = True
            # What only a session's own wish would use is not kept open for it.
            is_usual = any(target.role in (marks.PRIMARY, marks.REPLICA) for target in pool.targets)
            if pool.opened + pool.opening < settings.min_size and is_usual:
                self._supply.grow(pool)

    def _expire_server(self, account: Account, server: Server, now: float) -> None:
        settings = account.settings
        backend = backend_of(server)
        client = server.client
        is_resting = client is None and not server.ledger
        if client is not None and not client.settling:
            self._expire_request(account, client, server, now)
        elif 0 < backend.warm_by < now and server.ledger and server.cancels == 0:
            # Each cancel ends one query; the link is used without what they would have done.
            self._supply.cancel(server)
        elif _lingers(server, now):
            self._supply.cancel(server)
            server.abandoned_at = 0.0
            server.is_retired = True
        if not server.is_retired and now > backend.expires_at:
            server.is_retired = True
        if is_resting and server.cancels == 0 and server.status == _IDLE:
            pool = server.pool
            idle_too_long = (
                settings.idle_timeout_s > 0
                and now - max(server.used_at, backend.opened_at) > settings.idle_timeout_s
                and pool.opened > settings.min_size
            )
            is_surplus = pool.opened > pool.limit
            if idle_too_long or is_surplus or server.is_retired or server.generation != pool.generation:
                self._supply.retire(server)

    def _expire_request(self, account: Account, client: Client, server: Server, now: float) -> None:
        settings = account.settings
        is_running = client.awaiting or client.unsynced
        if client.pinned and client.status == _IDLE and not is_running:
            return
        if is_running and 0 < settings.query_timeout_s < now - client.request_at and server.cancels == 0:
            self._supply.cancel(server)
        elif (
            client.status != _IDLE
            and not is_running
            and 0 < settings.idle_transaction_timeout_s < now - client.ready_at
        ):
            dismiss(client, IdleInTransaction())
        elif client.status != _IDLE and 0 < settings.transaction_timeout_s < now - client.coupled_at:
            dismiss(client, TransactionTimeout())


def _look_around(account: Account, now: float) -> None:
    """Notice peers that went away without an event: soon where a server is held, in time elsewhere."""
    if now - account.looked_at >= LOOK_S:
        account.looked_at = now
        for server in list(account.servers):
            server.poke()
            if server.client is not None:
                server.client.poke()
    if now - account.swept_at >= SWEEP_S:
        account.swept_at = now
        for client in list(account.clients):
            client.poke()


def _expire_waiters(account: Account, target: Target, now: float) -> None:
    limit_s = account.settings.checkout_timeout_s
    if limit_s <= 0 or target.gate.paused:
        return
    while (waiter := target.head()) is not None:
        assert isinstance(waiter, Client)
        waited = now - max(waiter.wait_since, account.resumed_at)
        if waited < limit_s:
            return
        here = where(target)
        detail = f"pool {account.settings.key}, waited {waited:.1f} s, {target.waiting} waiting"
        if not target.pools:
            refuse(waiter, NoServer(detail=f"{here}{why_none(account, target)}; {detail}"))
        elif all(pool.opened == 0 for pool in target.pools):
            errors = "; ".join(sorted({_error_of(pool) for pool in target.pools}))
            refuse(waiter, ServerUnreachable(detail=f"{here}{errors}; {detail}"))
        else:
            refuse(waiter, CheckoutTimeout(detail=here + detail))


def _expire_client(client: Client, idle_session_timeout_s: float, now: float) -> None:
    if (
        now - client.ready_at > idle_session_timeout_s
        and client.server is None
        and not client.waiting
        and not client.settling
    ):
        dismiss(client, IdleSession())


def _lingers(server: Server, now: float) -> bool:
    """Its client has left long ago, and it still runs what the client asked."""
    if server.client is not None or not server.ledger or server.cancels > 0:
        return False
    return 0.0 < server.abandoned_at < now - ABANDONED_S


def _error_of(pool: Pool) -> str:
    source = source_of(pool)
    return source.last_error or f"{source.key}: no link yet"
