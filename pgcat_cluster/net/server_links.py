"""Performs what the session wants done: links opened, cancels sent, losses told to health, statements logged."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from typing import Protocol

from pgcat_cluster.health.evidence import EvidenceClass
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.outgoing import OpenedServer, OpenFailed, ServerAddress, open_server, send_cancel
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import TlsContexts
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import Account, Backend, Source, backend_of, source_of, visitor_of
from pgcat_cluster.session.control import Control
from pgcat_cluster.session.wishes import for_servers
from pgcat_cluster.telemetry.logs import Event, get_logger
from pgcat_cluster.topology.model import PoolSettings, ServerKey, Topology

# A link's life is its limit less up to this share, so that links opened together do not end together.
LIFETIME_JITTER = 0.1
CANCEL_TIMEOUT_S = 5.0
# Cancel connections to one server at a time.
CANCELS_PER_SERVER_MAX = 16


class LinkHouse(Protocol):
    """What server links need of the node they belong to."""

    scratch: bytearray
    control: Control

    @property
    def topology(self) -> Topology: ...

    @property
    def tls(self) -> TlsContexts: ...

    def next_number(self) -> int: ...

    def warn(self, event: Event, key: Hashable, **keys: object) -> None:
        """Log what may happen often."""

    def traffic_failed(self, server: ServerKey, evidence: EvidenceClass, text: str) -> None:
        """Let health know what a server did to traffic."""


class ServerLinks:
    """The `Effects` of the session's control."""

    def __init__(self, house: LinkHouse, loop: asyncio.AbstractEventLoop) -> None:
        self.house = house
        self.loop = loop
        self.log = get_logger()
        # Cancels on their way to servers, and how many more each server may get.
        self.cancelling: dict[Server, asyncio.Task[None]] = {}
        self.cancel_places: dict[ServerKey, asyncio.Semaphore] = {}

    def open_link(self, account: Account, pool: Pool) -> None:
        spawn(self._open(account, pool), "open a server link")

    async def _open(self, account: Account, pool: Pool) -> None:
        source, settings = source_of(pool), account.settings
        cluster = self.house.topology.clusters.get(source.key.cluster)
        generation = pool.generation
        try:
            if cluster is None:
                raise OpenFailed("the cluster was removed")
            opened = await open_server(
                ServerAddress(host=source.key.address.host, port=source.key.address.port),
                tls=self.house.tls.outgoing[source.key.cluster],
                user=settings.login.user,
                database=source.shard.database,
                password=settings.login.password.reveal() if settings.login.password else account.scram_keys,
                parameters=for_servers(settings.parameters),
                timeout_s=cluster.connect_timeout_s,
                loop=self.loop,
                tcp=self.house.topology.node.tcp,
            )
        except OpenFailed as error:
            self._open_failed(account, pool, source, error)
            return
        self._opened(pool, settings, opened, generation)

    def _open_failed(self, account: Account, pool: Pool, source: Source, error: OpenFailed) -> None:
        evidence = error.evidence
        self.house.warn(
            "server.refused",
            (source.key, error.message),
            server=str(source.key),
            pool=str(account.settings.key),
            reason=error.message,
            evidence=evidence.value,
        )
        is_down = evidence in (
            EvidenceClass.REFUSED,
            EvidenceClass.UNREACHABLE,
            EvidenceClass.GOING,
            EvidenceClass.SOFT,
        )
        if is_down:
            self.house.traffic_failed(source.key, evidence, error.message)
        is_overload = evidence in (EvidenceClass.OVERLOAD, EvidenceClass.GOING)
        self.house.control.supply.link_failed(pool, error.message, is_overload=is_overload, is_down=is_down)

    def _opened(self, pool: Pool, settings: PoolSettings, opened: OpenedServer, generation: int) -> None:
        server = Server(opened.sock, self.loop, self.house.scratch, pool, self.house.control)
        server.tls = opened.tls
        server.generation = generation
        now = monotonic_s()
        share = int.from_bytes(os.urandom(2), "big") / 65535
        life_s = (
            settings.lifetime_s * (1 - LIFETIME_JITTER * share) if settings.lifetime_s > 0 else float("inf")
        )
        server.opened_at = now
        ready = opened.ready
        backend = Backend(
            self.house.next_number(), ready.pid, ready.secret, dict(ready.parameters), now, now + life_s
        )
        if opened.leftover:
            server.detail = backend
            server.take(bytearray(opened.leftover), 0, len(opened.leftover))
        self.house.control.linked(pool, server, backend)

    def cancel_server(self, server: Server) -> None:
        task = self.cancelling[server] = spawn(self._cancel_in_turn(server), "cancel")
        task.add_done_callback(lambda _: self.cancelling.pop(server))

    async def _cancel_in_turn(self, server: Server) -> None:
        source = source_of(server.pool)
        places = self.cancel_places.setdefault(source.key, asyncio.Semaphore(CANCELS_PER_SERVER_MAX))
        try:
            async with places:
                # What was to be cancelled may have ended in the meantime.
                if not server.closed and (server.client is not None or server.ledger):
                    await self._cancel(server, source)
        finally:
            self.house.control.supply.cancel_sent(server)

    async def _cancel(self, server: Server, source: Source) -> None:
        backend = backend_of(server)
        try:
            tls = self.house.tls.outgoing.get(source.key.cluster)
            if tls is not None and backend.secret:
                await send_cancel(
                    ServerAddress(host=source.key.address.host, port=source.key.address.port),
                    tls=tls,
                    pid=backend.pid,
                    secret=backend.secret,
                    timeout_s=CANCEL_TIMEOUT_S,
                    loop=self.loop,
                    tcp=self.house.topology.node.tcp,
                )
        except OpenFailed as error:
            self.log.warning("cancel failed", server=str(source.key), reason=error.message)
            # Whether it was sent is not known: the link must not meet another client.
            server.is_retired = True

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.loop.call_later(delay_s, call)

    def link_lost(self, account: Account, pool: Pool, reason: str) -> None:
        source = source_of(pool)
        self.house.warn(
            "server.lost",
            (source.key, reason),
            server=str(source.key),
            pool=str(account.settings.key),
            reason=reason,
        )
        self.house.traffic_failed(source.key, EvidenceClass.REFUSED, reason)

    def log_statement(self, client: Client, text: str) -> None:
        visitor = visitor_of(client)
        key = visitor.account.settings.key
        self.log.info(
            "statement", database=key.database, user=key.user, client=visitor.number, statement=text
        )

    def prewarming_failed(self, pool: Pool, query: str, reason: str) -> None:
        source = source_of(pool)
        key = source.account.settings.key
        self.house.warn(
            "pool.cold",
            (key, query, reason),
            pool=str(key),
            server=str(source.key),
            query=query,
            reason=reason,
        )

    async def cancelled(self, server: Server) -> None:
        """Wait until a cancel that is on its way to a server has been sent."""
        if (task := self.cancelling.get(server)) is not None:
            await asyncio.wait([task])
