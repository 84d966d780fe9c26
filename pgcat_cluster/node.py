"""Builds one node from its parts, starts them in order, drains them in reverse."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import structs

from pgcat_cluster import __version__
from pgcat_cluster.admin import console as consoles
from pgcat_cluster.admin.control import FleetPort, ShutdownMode
from pgcat_cluster.admin.grammar import Dialect, Rights
from pgcat_cluster.admin.http import HttpEndpoints
from pgcat_cluster.admin.operations import Operations
from pgcat_cluster.agreement.cancels import BOOT_BYTES, Answer, CancelKeys, PrefixTable
from pgcat_cluster.agreement.documents import ServerOverride
from pgcat_cluster.agreement.effective import Effective, Use
from pgcat_cluster.agreement.fleet_key import LINE_BYTES_MIN, FleetKey
from pgcat_cluster.errors import (
    ConfigFault,
    Fault,
    NotAdmitted,
    ReplicationRefused,
    ShuttingDown,
    TooManyClients,
    UnknownDatabase,
)
from pgcat_cluster.fleet import alone
from pgcat_cluster.fleet.cancels import UNDER_WAY_MAX, Cancels
from pgcat_cluster.health import tilt
from pgcat_cluster.health.cluster import ClusterHealth, Decision, Restarted
from pgcat_cluster.health.evidence import EvidenceClass, ServerFacts
from pgcat_cluster.health.roles import IdentityChanged, PrimaryChanged
from pgcat_cluster.net.clock import monotonic_s, tick
from pgcat_cluster.net.config_file import load
from pgcat_cluster.net.front import ConsoleFront, Front, certificate_names
from pgcat_cluster.net.listener import Listener, naming
from pgcat_cluster.net.mirrors import Mirrors
from pgcat_cluster.net.outgoing import ServerAddress
from pgcat_cluster.net.provisions import Provisions, provide
from pgcat_cluster.net.server_links import ServerLinks
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import IncomingTls, TlsContexts
from pgcat_cluster.probes.prober import ProbeTarget, connecting
from pgcat_cluster.probes.watch import ClusterWatch
from pgcat_cluster.relay.build import build_kind
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.marks import BALANCE_LEAST, BALANCE_RANDOM
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import Account, ShardPlace, Source, Visitor, desk_of
from pgcat_cluster.session.control import Control
from pgcat_cluster.session.judging import decide_anew
from pgcat_cluster.session.login import LoggedIn, LoginPolicy
from pgcat_cluster.session.positions import told_by
from pgcat_cluster.session.refusals import dismiss
from pgcat_cluster.telemetry.logs import Event, RepeatLimit, configure_logs, get_logger, lifecycle
from pgcat_cluster.telemetry.taking import ConsoleVisit
from pgcat_cluster.topology import diff as changes
from pgcat_cluster.topology.cutover import refuse_cutovers
from pgcat_cluster.topology.model import (
    Cluster,
    PoolKey,
    PoolSettings,
    ProbeLogin,
    ServerKey,
    Topology,
)
from pgcat_cluster.topology.reading import InvalidSettings, Problem
from pgcat_cluster.topology.units import parse_address
from pgcat_cluster.topology.view import NOT_SEEN, ClusterView, View, first_view
from pgcat_cluster.wire import messages
from pgcat_cluster.wire.startup import MINOR_VERSION_MAX, CancelRequest, Startup

TICK_S = 0.05
SCRATCH_BYTES = 131072
EXIT_CONFIG = 78
_IDLE = 0x49
# Connections beyond max_clients that may be under way, so that an operator can always log in and cancels arrive.
LOGIN_RESERVE = 100 + UNDER_WAY_MAX


class Fellowship(Protocol):
    """What a node of a fleet goes by beside its own eyes."""

    def begin(self) -> None:
        """The node runs, and waits for something to serve by."""

    @property
    def waits_for(self) -> str:
        """What is missing before the node can serve; empty when it serves."""

    @property
    def commands(self) -> FleetPort:
        """All nodes as an operator commands them."""

    def agreed(self, cluster: str, primary: str | None, own: Mapping[str, ServerOverride]) -> Effective:
        """What each server may be used for; `own` is what operators said to this node alone."""

    def news(self) -> None:
        """This node believes something else than before."""

    def drain(self) -> None:
        """The node takes no new clients any more."""

    async def leave(self) -> None:
        """The node is about to end."""

    async def reload(self) -> list[str]:
        """Read again what lies outside the store. Raises ConfigFault."""


# What a decision about a statement rests on: if it changes, all are made anew.
_DECIDES = (
    *("reads", "functions", "writing_functions", "reading_functions"),
    *("plugins", "default_role", "sharding", "comments"),
)


class Node:
    """One running proxy. Owns its listeners, accounts, watches and HTTP endpoints.

    It is also what its parts ask of the outside: `House` of the fronts, `LinkHouse` of the server links.
    """

    def __init__(
        self,
        topology: Topology,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        fleet_key: FleetKey | None = None,
        boot: bytes = b"",
    ) -> None:
        self.path = path
        self.loop = loop
        self.provisions = provide(topology)
        self.log = get_logger()
        self.repeats = RepeatLimit()
        self.name = topology.node.name or socket.gethostname()
        # Without a fleet key nobody else is to understand our keys.
        fleet_key = fleet_key or FleetKey([os.urandom(LINE_BYTES_MIN)])
        keys: CancelKeys[Client] = CancelKeys(os.urandom, fleet_key, boot or os.urandom(BOOT_BYTES))
        self.links = ServerLinks(self, loop)
        self.mirrors = Mirrors(self, loop)
        self.control = Control(self.links, monotonic_s, keys)
        self.cancels = Cancels(keys, PrefixTable(self.name), self.cancel_client)
        self.view = first_view(topology)
        self.accounts: dict[PoolKey, Account] = {}
        self.watches: dict[str, ClusterWatch] = {}
        self.fronts: dict[Client, Front] = {}
        self.consoles: dict[Client, ConsoleVisit] = {}
        self.listeners: list[Listener] = []
        self.http: HttpEndpoints | None = None
        self.http_port = 0
        self.operations = Operations(self)
        self.scratch = bytearray(SCRATCH_BYTES)
        self.mock_secret = os.urandom(32)
        self.fleet: Fellowship | None = None
        # Held by whoever makes the node go by something else.
        self.changing = asyncio.Lock()
        self.numbers = 0
        self.stopped = asyncio.Event()
        self.exit_code = 0
        self.is_draining = False
        self.generation = 1
        self.rejected: tuple[Problem, ...] = ()
        # What may be half done, should it have failed twice.
        self._unfinished: list[changes.Change] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._health_ticker: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def topology(self) -> Topology:
        return self.provisions.topology

    @property
    def tls(self) -> TlsContexts:
        return self.provisions.tls

    # -- life ----------------------------------------------------------------------------------------------

    @property
    def waits_for(self) -> str:
        return "" if self.fleet is None else self.fleet.waits_for

    async def start(self) -> None:
        """Serve. Raises OSError if an address can not be had; servers that are down only degrade the start.

        A node of a fleet only answers who asks how it is: it calls `listen` when it has something to go by.
        """
        lifecycle(self.log, "node.starting", node=self.name, version=__version__, build=build_kind())
        for settings in self.topology.pools.values():
            self._add_account(settings)
        for cluster in self.topology.clusters.values():
            self._watch(cluster)
        node = self.topology.node
        try:
            if self.fleet is None:
                self.listen()
            if node.http:
                address = parse_address(node.http)
                self.http = HttpEndpoints(self.operations, host=address.host, port=address.port)
                with naming(address):
                    self.http_port = await self.http.start()
        except OSError:
            await self._close()
            raise
        self._tick()
        self._health_ticker = spawn(tick(tilt.TICK_S, self._tick_healths), "tilt tick")
        if self.fleet is None:
            self.say_ready()
        else:
            self.fleet.begin()

    def listen(self) -> None:
        """Let clients in. Raises OSError if an address can not be had."""
        node = self.topology.node
        for text in node.listen:
            address = parse_address(text)
            with naming(address):
                listener = Listener(
                    address,
                    reuse_port=node.reuse_port,
                    tcp=node.tcp,
                    on_client=self._accepted,
                    loop=self.loop,
                )
            self.listeners.append(listener)
            lifecycle(self.log, "listener.opened", address=f"{address.host}:{listener.port}")

    def can_not_listen(self, error: OSError) -> None:
        self.exit_code = EXIT_CONFIG
        self.log.error(
            "can not listen",
            reason=error.strerror,
            remedy="change node.listen or node.http, or stop what listens there",
        )

    def say_ready(self) -> None:
        node = self.topology.node
        lifecycle(
            self.log, "node.ready", node=self.name, listen=",".join(node.listen), http=node.http or "off"
        )

    async def stop(self) -> None:
        """End at once."""
        for client in [*self.fronts, *self.consoles]:
            client.close()
        for account in self.accounts.values():
            for one in list(account.clients):
                dismiss(one, ShuttingDown())
            account.is_removed = True
            for server in list(account.servers):
                server.terminate()
        self.mirrors.close()
        if self.fleet is not None:
            await self.fleet.leave()
        await self._close()
        lifecycle(self.log, "node.stopped", node=self.name)
        self.stopped.set()

    async def _close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        if self._health_ticker is not None:
            self._health_ticker.cancel()
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        for watch in self.watches.values():
            await watch.stop()
        self.watches.clear()
        if self.http is not None:
            await self.http.stop()
            self.http = None

    def shutdown(self, mode: ShutdownMode) -> None:
        """Begin to end: drain within the limit, or at once; asked a second time, at once."""
        if mode == "immediate" or self.is_draining:
            if self._draining is not None:
                self._draining.cancel()
            self._draining = spawn(self.stop(), "stop")
            return
        self.is_draining = True
        if self.fleet is not None:
            self.fleet.drain()
        self._draining = spawn(self._drain(mode), "drain")

    async def _drain(self, mode: ShutdownMode) -> None:
        """New clients are refused, idle ones told; transactions finish, within shutdown_timeout."""
        limit_s = self.topology.node.shutdown_timeout_s
        lifecycle(self.log, "node.draining", limit_s=limit_s)
        deadline = monotonic_s() + limit_s
        while monotonic_s() < deadline:
            left = 0
            for account in self.accounts.values():
                for client in list(account.clients):
                    if mode != "wait_for_clients" and _is_resting(client):
                        dismiss(client, ShuttingDown())
                        continue
                    left += 1
            if not left:
                break
            await asyncio.sleep(TICK_S)
        await self.stop()

    def _tick(self) -> None:
        now = monotonic_s()
        for account in list(self.accounts.values()):
            if account.clients or account.servers or account.settings.min_size:
                self.control.upkeep.tick(account)
        for client, front in list(self.fronts.items()):
            if now > front.deadline_s:
                client.close()
                self.fronts.pop(client, None)
        self.operations.tick(now)
        self._ticker = self.loop.call_later(TICK_S, self._tick)

    def _tick_healths(self, now: float) -> None:
        for watch in self.watches.values():
            watch.health.tick(now)

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    # -- accounts and clusters -----------------------------------------------------------------------------

    def _add_account(self, settings: PoolSettings) -> None:
        shards = [ShardPlace(shard, self.view.clusters[shard.cluster]) for shard in settings.shards]
        account = Account(settings, shards)
        node = self.topology.node
        account.desk = Desk(
            BALANCE_LEAST if settings.balancing == "least_connections" else BALANCE_RANDOM,
            int.from_bytes(os.urandom(4), "big"),
            self.control.supply.grow_for,
            account,
            control=self.control,
            clock=monotonic_s,
            is_session_mode=settings.mode == "session",
            statement_bytes_max=node.statement_bytes_max,
            prepared_max=settings.prepared_statements_max,
            shards=len(shards),
        )
        account.desk.keeps_positions = _keeps_positions(settings)
        account.steer()
        account.desk.paused = self.operations.begins_paused(settings.key)
        self.accounts[settings.key] = account
        self._stock(account)
        self.mirrors.place(account)

    def _stock(self, account: Account) -> None:
        """In each shard one pool for each server of its cluster; those of servers that left retire."""
        desk = desk_of(account)
        for place, shard in zip(account.shards, account.settings.shards, strict=True):
            cluster = self.topology.clusters[shard.cluster]
            keys = {server.key for server in cluster.servers.values()}
            for key in [key for key in place.pools if key not in keys]:
                pool = place.pools.pop(key)
                self.control.supply.renew(pool)
                for target in list(pool.targets):
                    target.serve_by([other for other in target.pools if other is not pool])
                self.control.consistency.removed(pool)
            for server in cluster.servers.values():
                if server.key not in place.pools:
                    source = Source(account, place, server.key)
                    place.pools[server.key] = Pool(
                        desk, server.key.name, account.settings.size, server.weight, source
                    )
                place.pools[server.key].weight = server.weight
            place.database = shard.database
            place.view = self.view.clusters[shard.cluster]
            # The view says already which of the bad may be used: never those an operator took away.
            on_all_bad = cluster.read.on_all_bad
            place.on_all_bad = "primary" if on_all_bad == "any" else on_all_bad
            self.control.place(account, place)

    def _watch(self, cluster: Cluster) -> None:
        health = ClusterHealth(
            servers=list(cluster.servers),
            leadership=cluster.leadership,
            health=self.topology.fleet.health,
            read=cluster.read,
            now=monotonic_s(),
        )
        login = self._probe_login(cluster)
        if login is None:
            # Nobody uses this cluster, and nobody said who may look at it.
            return
        targets = {
            name: ProbeTarget(
                address=ServerAddress(host=server.key.address.host, port=server.key.address.port),
                tls=self.tls.outgoing[cluster.name],
                user=login.user,
                database=login.database,
                secret=login.password.reveal() if login.password else None,
            )
            for name, server in cluster.servers.items()
        }
        watch = ClusterWatch(
            health,
            targets,
            on_change=lambda decisions: self._health_changed(cluster.name, decisions),
            on_facts=lambda server, facts, asked_at: self._probed(cluster.name, server, facts, asked_at),
            connect=connecting(self.loop),
        )
        self.watches[cluster.name] = watch
        watch.start()

    def _probe_login(self, cluster: Cluster) -> ProbeLogin | None:
        """Who probes: the cluster's own user, else one whose pool uses the cluster."""
        if cluster.probe is not None:
            return cluster.probe
        for pool in self.topology.pools.values():
            for shard in pool.shards:
                if shard.cluster == cluster.name:
                    return ProbeLogin(
                        user=pool.login.user, password=pool.login.password, database=shard.database
                    )
        return None

    def _probed(self, cluster: str, server: str, facts: ServerFacts, asked_at: float) -> None:
        """Pools that keep positions learn how far a server has come."""
        told = told_by(facts)
        if told is None:
            return
        for account in self.accounts.values():
            if account.desk is not None and account.desk.keeps_positions:
                for shard in account.shards:
                    for key, pool in shard.pools.items():
                        if (key.cluster, key.name) == (cluster, server):
                            self.control.consistency.observe(pool, told, asked_at)

    def _health_changed(self, cluster: str, decisions: list[Decision]) -> None:
        watch = self.watches.get(cluster)
        if watch is None:
            # The last word of one that is being stopped.
            return
        for decision in decisions:
            if isinstance(decision, PrimaryChanged | IdentityChanged):
                lifecycle(self.log, "primary.changed", cluster=cluster, change=repr(decision))
            elif isinstance(decision, Restarted):
                self._each_pool(cluster, decision.server, self.control.supply.renew)
        if self.fleet is not None:
            self.fleet.news()
        standings = watch.health.standings()
        leader = next((name for name, one in standings.items() if one.is_primary), None)
        self._use(cluster, leader, self._uses(cluster, leader), watch.health.roles.reason)

    def heed(self, cluster: str) -> None:
        """The fleet says something else of a cluster than before."""
        watch, view = self.watches.get(cluster), self.view.clusters.get(cluster)
        if watch is None or view is None:
            return
        # Before this node has looked for itself, it goes by what it saw last.
        known = watch.health.roles.primary
        leader = known if known is not None else view.primary.name if view.primary is not None else None
        uses = self._uses(cluster, leader)
        for name, server in view.servers.items():
            if server.why_not == NOT_SEEN and name in uses and uses[name].reads:
                uses[name] = structs.replace(uses[name], reads=False, reason=NOT_SEEN)
        self._use(cluster, leader, uses, watch.health.roles.reason if known is None else "")

    def _uses(self, cluster: str, leader: str | None) -> dict[str, Use]:
        """What each server may be used for: by the fleet if there is one, else by this node alone."""
        own = self.operations.bans.overrides(cluster)
        if self.fleet is None:
            return alone.uses(self.topology.clusters[cluster], self.watches[cluster].health, leader, own)
        return dict(self.fleet.agreed(cluster, leader, own).servers)

    def _use(self, cluster: str, leader: str | None, uses: dict[str, Use], why_no_leader: str) -> None:
        view = self.view.clusters[cluster]
        standings = self.watches[cluster].health.standings()
        before = view.primary
        if leader not in uses:
            leader = None
        if leader is not None and uses[leader].writes:
            view = view.with_primary(leader)
        else:
            view = view.with_primary(None, uses[leader].reason if leader is not None else why_no_leader)
        for name, use in uses.items():
            if name not in view.servers:
                continue
            was, reason = view.servers[name].why_not, "" if use.reads else use.reason
            # Of little weight is not of none: who is on probation must be seen to do well.
            weight = max(1, round(use.weight)) if use.weight else 0
            if reason == "" and weight != view.servers[name].weight:
                view = view.with_weight(name, weight)
            if was == reason:
                continue
            self.operations.avoids((cluster, name), bool(reason) and reason != NOT_SEEN)
            view = view.with_server(name, reason)
            if bool(was) != bool(reason):
                lifecycle(
                    self.log,
                    "server.avoided" if reason else "server.restored",
                    server=f"{cluster}/{name}",
                    reason=reason or was,
                )
                if reason and name in standings and standings[name].reads and name != leader:
                    # Well as far as we can see; but no client is to meet its links again.
                    self._each_pool(cluster, name, self.control.supply.renew)
        if before != view.primary:
            # A server that changed its role is never used under the old one again.
            for key in (before, view.primary):
                if key is not None:
                    self._each_pool(cluster, key.name, self.control.supply.renew)
        self._set_view(self.view.with_cluster(view))
        for name, use in uses.items():
            if not use.reads and standings[name].is_silent_replica:
                self._each_pool(cluster, name, self.control.supply.give_up)

    def _each_pool(self, cluster: str, server: str, do: Callable[[Pool], None]) -> None:
        for account in self.accounts.values():
            for shard in account.shards:
                for key, pool in shard.pools.items():
                    if (key.cluster, key.name) == (cluster, server):
                        do(pool)

    def _set_view(self, view: View) -> None:
        if view is self.view:
            return
        self.view = view
        for account in self.accounts.values():
            for shard in account.shards:
                cluster: ClusterView | None = view.clusters.get(shard.view.name)
                if cluster is not None and shard.view is not cluster:
                    shard.view = cluster
                    for server in cluster.servers.values():
                        if (pool := shard.pools.get(server.key)) is not None:
                            pool.weight = server.weight
                    self.control.place(account, shard)

    # -- reload --------------------------------------------------------------------------------------------

    async def reload(self) -> list[str]:
        """Read the file again and apply what changed; one line a change. Raises ConfigFault, changing nothing."""
        if self.fleet is not None:
            return await self.fleet.reload()
        async with self.changing:
            try:
                provisions = await asyncio.to_thread(self._provided)
            except InvalidSettings as error:
                problems = "; ".join(error.lines())
                lifecycle(self.log, "config.rejected", level="error", file=str(self.path), problems=problems)
                self.rejected = error.problems
                raise ConfigFault(problems) from None
            return await self.adopt(provisions)

    def _provided(self) -> Provisions:
        topology = load(self.path, lambda text: self.log.warning("config.warning", text=text))
        refuse_cutovers(self.topology, topology, str(self.path))
        return provide(topology, self.provisions)

    async def adopt(self, provisions: Provisions) -> list[str]:
        """Go by another topology from now on; one line a change. One at a time: whoever calls holds `changing`.

        All of it or nothing: what fails midway raises ConfigFault, with all as it was; so does who is cancelled.
        """
        before, found = self.provisions, changes.diff(self.topology, provisions.topology)
        self._unfinished = [*self._unfinished, *found]
        try:
            await self._apply(provisions)
        except BaseException as error:
            await self._put_back(before)
            if not isinstance(error, Exception):
                raise
            # Its text may tell what nobody is to read.
            why = f"{type(error).__name__} while it was applied: a fault of this node; its log says more"
            self.log.exception("a change could not be applied")
            lifecycle(self.log, "config.rejected", level="error", problems=why)
            self.rejected = (Problem("", why),)
            raise ConfigFault(why) from error
        self.rejected = ()
        self.generation += 1
        lines = [str(change) for change in found]
        lifecycle(self.log, "config.applied", changes="; ".join(lines) or "none")
        return lines

    async def _put_back(self, before: Provisions) -> None:
        try:
            await self._apply(before)
        except Exception:
            # Then the next change makes it whole.
            self.log.exception("what was in force could not be put back")

    async def _apply(self, provisions: Provisions) -> None:
        """Clusters first, since pools stand on them; last what leaves, for who was told to go does not come back.

        What did not change is not touched, however much that is. Can be done again where it failed.
        """
        self.provisions, topology = provisions, provisions.topology
        reach = changes.reach(self._unfinished, topology)
        if reach.node:
            self._change_node()
        watches = [watch for name in reach.clusters if (watch := self.watches.pop(name, None)) is not None]
        await asyncio.gather(*(watch.stop() for watch in watches))
        self.view = self.view.with_topology(topology, reach.clusters)
        for key, account in self.accounts.items():
            if key in topology.pools and reach.touches(settings := topology.pools[key]):
                self._change_account(account, settings, is_renewed=key in reach.renewed)
        # What is new may be much, and nobody uses it yet.
        for name in reach.clusters & topology.clusters.keys():
            self._watch(topology.clusters[name])
            await asyncio.sleep(0)
        for new in [new for new in topology.pools if new not in self.accounts]:
            self._add_account(topology.pools[new])
            await asyncio.sleep(0)
        for gone in [gone for gone in self.accounts if gone not in topology.pools]:
            self._remove_account(self.accounts.pop(gone))
        self._unfinished = []

    def _change_node(self) -> None:
        """What was handed on at start; all else in [node] is looked up where it is needed."""
        node = self.topology.node
        if self.operations.writer is not None:
            configure_logs(self.operations.writer, form=node.log.format, level=node.log.level)
        for listener in self.listeners:
            listener.tcp = node.tcp

    def _change_account(self, account: Account, settings: PoolSettings, *, is_renewed: bool) -> None:
        before, desk = account.settings, desk_of(account)
        account.settings = settings
        desk.balancing = BALANCE_LEAST if settings.balancing == "least_connections" else BALANCE_RANDOM
        desk.prepared_max = settings.prepared_statements_max
        desk.keeps_positions = _keeps_positions(settings)
        desk.statement_bytes_max = self.topology.node.statement_bytes_max
        if any(getattr(before, field) != getattr(settings, field) for field in _DECIDES):
            account.steer()
            decide_anew(account)
        for pool in account.pools():
            pool.limit = settings.size
            if is_renewed:
                self.control.supply.renew(pool)
        if before.mode != settings.mode:
            # A session can not change its mode under a client: those who are here are told to come again.
            for client in list(account.clients):
                dismiss(client, ShuttingDown(detail="the pool's mode was changed"))
            desk.is_session_mode = settings.mode == "session"
        if is_renewed:
            account.greetings.clear()
        self._stock(account)
        self.mirrors.place(account)

    def _remove_account(self, account: Account) -> None:
        """The pool is gone: who waits or rests is told at once, who works may end its transaction."""
        account.is_removed = True
        self.mirrors.remove(account)
        for pool in account.pools():
            self.control.supply.renew(pool)
        fault = _no_database(account.settings.key.database)
        for client in list(account.clients):
            if client.waiting or _is_resting(client):
                dismiss(client, fault)
            else:
                spawn(self._last_transaction(client, fault), "last transaction of a removed pool")
        for server in list(account.servers):
            if server.client is None and not server.ledger:
                self.control.supply.retire(server)

    async def _last_transaction(self, client: Client, fault: Fault) -> None:
        while not client.closed:
            # Who waits now asks for another one.
            if client.waiting or _is_resting(client):
                dismiss(client, fault)
                return
            await asyncio.sleep(TICK_S)

    # -- clients: House ------------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        # Also while the node drains, for the consoles: who is refused then is told after login.
        if self.client_count() >= self.topology.node.max_clients + LOGIN_RESERVE:
            sock.close()
            return
        front = Front(self, monotonic_s() + self.topology.node.login_timeout_s)
        client = Client(sock, self.loop, self.scratch, front)
        client.detail = peer
        self.fronts[client] = front
        client.start()

    def client_count(self) -> int:
        return (
            len(self.fronts)
            + len(self.consoles)
            + sum(len(account.clients) for account in self.accounts.values())
        )

    def incoming_tls(self) -> IncomingTls:
        return self.tls.incoming

    def policy(self) -> LoginPolicy:
        return LoginPolicy(
            lookup=self.provisions.credentials.get,
            default_method="scram-sha-256",
            mock_secret=self.mock_secret,
            random_bytes=os.urandom,
        )

    def cancel(self, client: Client, request: CancelRequest) -> None:
        # It is nobody's client, and bounded by a number and a time of its own.
        self.fronts.pop(client, None)
        spawn(self._cancel_requested(client, request), "cancel request")

    async def _cancel_requested(self, client: Client, request: CancelRequest) -> None:
        await self.cancels.requested(request.pid, request.secret, _host(client))
        client.close_after_flush()

    async def cancel_client(self, client: Client) -> Answer:
        """Cancel for a client of this node; if a server must be told, wait until it has been."""
        answer = self.control.cancel_client(client)
        if answer == "sent" and client.server is not None:
            await self.links.cancelled(client.server)
        return answer

    def refused(self, client: Client, fault: Fault) -> None:
        self.fronts.pop(client, None)
        self.warn(
            "client.refused",
            fault.sqlstate,
            sqlstate=fault.sqlstate,
            reason=fault.message,
            client=_peer(client),
        )

    def warn(self, event: Event, key: Hashable, **keys: object) -> None:
        """Log what may happen often: repeats of the same key are counted, not printed."""
        silent = self.repeats.admit(event, key, monotonic_s())
        if silent is not None:
            lifecycle(self.log, event, level="warning", **keys, repeated=silent)

    def left(self, client: Client) -> None:
        self.fronts.pop(client, None)
        self.consoles.pop(client, None)

    def admit(self, client: Client, startup: Startup, logged_in: LoggedIn) -> None:
        if startup.replication is not None:
            raise ReplicationRefused()
        tls = self.tls.incoming
        if tls.is_required and client.tls is None:
            raise NotAdmitted("connection requires TLS")
        if tls.mode == "verify-full" and logged_in.user not in certificate_names(client):
            raise NotAdmitted(f'the client certificate is not that of user "{logged_in.user}"')
        peer = client.detail
        assert isinstance(peer, tuple)
        if startup.database in ("pgcat", "pgbouncer"):
            self._open_console(
                client, "pgcat" if startup.database == "pgcat" else "pgbouncer", logged_in.user
            )
            return
        if self.is_draining:
            raise ShuttingDown()
        account = self.accounts.get(PoolKey(logged_in.database, logged_in.user))
        if account is None:
            raise _no_database(logged_in.database)
        if account.settings.require_tls and client.tls is None:
            raise NotAdmitted(f'database "{logged_in.database}" requires TLS')
        limit = account.settings.max_clients
        if (limit and len(account.clients) >= limit) or self.client_count() > self.topology.node.max_clients:
            raise TooManyClients()
        if logged_in.keys is not None and account.settings.login.password is None:
            account.scram_keys = logged_in.keys
        self.fronts.pop(client, None)
        visitor = Visitor(account, self.next_number(), peer, monotonic_s())
        visitor.protocol_minor = min(startup.version[1], MINOR_VERSION_MAX)
        self.control.reception.enter(client, visitor, logged_in.parameters)

    def _open_console(self, client: Client, dialect: Dialect, user: str) -> None:
        node = self.topology.node
        if user in node.admin_users:
            rights: Rights = "admin"
        elif user in node.stats_users:
            rights = "stats"
        else:
            raise NotAdmitted(f'user "{user}" is not allowed to use the admin console')
        self.fronts.pop(client, None)
        peer, number = client.detail, self.next_number()
        assert isinstance(peer, tuple)
        self.consoles[client] = ConsoleVisit(number, dialect, user, peer, monotonic_s())
        console = consoles.Console(dialect, user, rights, self.operations)
        client.receiver = ConsoleFront(console, self.left)
        greeting = [messages.parameter_status(*one) for one in consoles.login_parameters(dialect).items()]
        greeting += [messages.backend_key_data(number, os.urandom(4)), messages.ready_for_query(b"I")]
        client.put_bytes(b"".join(greeting))
        client.flush()

    # -- server links: LinkHouse

    def traffic_failed(self, server: ServerKey, evidence: EvidenceClass, text: str) -> None:
        watch = self.watches.get(server.cluster)
        if watch is not None:
            watch.traffic_failed(server.name, evidence, text)


def _is_resting(client: Client) -> bool:
    """Nothing of the client's is under way: no transaction, no request, no wait."""
    if client.awaiting or client.waiting or client.settling:
        return False
    return client.server is None or (client.status == _IDLE and not client.unsynced)


def _no_database(name: str) -> UnknownDatabase:
    return UnknownDatabase(f'database "{name}" does not exist')


def _peer(client: Client) -> str:
    return "{}:{}".format(*client.detail) if isinstance(client.detail, tuple) else "unknown"


def _keeps_positions(settings: PoolSettings) -> bool:
    """A session on one server sees what it wrote."""
    return settings.consistency == "session" and settings.mode != "session"


def _host(client: Client) -> str:
    return str(client.detail[0]) if isinstance(client.detail, tuple) else "unknown"
