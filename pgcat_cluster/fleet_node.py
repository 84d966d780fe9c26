"""One node of a fleet: a node whose documents, bans and overrides come from the store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from msgspec import structs

from pgcat_cluster import __version__
from pgcat_cluster.agreement.bundles import Wrong, wrong_in
from pgcat_cluster.agreement.cancels import BOOT_BYTES, Answer, Neighbour, PrefixTable
from pgcat_cluster.agreement.documents import FEATURES, Live, ServerOverride
from pgcat_cluster.agreement.effective import Effective
from pgcat_cluster.agreement.effects import Preflight
from pgcat_cluster.agreement.fleet_key import FleetKey, FleetKeyUnusable
from pgcat_cluster.agreement.keys import Keys, node_id
from pgcat_cluster.agreement.peer_frames import Alive, Cancel, Nudge, Ping
from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.fleet.cancels import Cancels
from pgcat_cluster.fleet.commands import Commands
from pgcat_cluster.fleet.etcd import EtcdSettings, EtcdStore, members_of
from pgcat_cluster.fleet.member import Member
from pgcat_cluster.fleet.peers import Look, PeerLinks, PeerPort, PeerUnavailable
from pgcat_cluster.fleet.stamps import Stamped
from pgcat_cluster.fleet.state import Occupied, StateDirectory
from pgcat_cluster.fleet.witnesses import ask_witnesses
from pgcat_cluster.health.cluster import ClusterHealth
from pgcat_cluster.health.doubt import Place
from pgcat_cluster.net.clock import monotonic_s, wall_s
from pgcat_cluster.net.config_file import anchored, tls_contexts
from pgcat_cluster.net.outgoing import OpenFailed
from pgcat_cluster.net.provisions import Provisions, provide
from pgcat_cluster.net.secrets import SecretReader
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import OutgoingTls, TlsContexts, TlsFilesUnusable
from pgcat_cluster.node import EXIT_CONFIG, Node
from pgcat_cluster.probes.preflight import Trial
from pgcat_cluster.probes.prober import connecting, look_once
from pgcat_cluster.probes.watch import ClusterWatch
from pgcat_cluster.process import run_logging, say, serve
from pgcat_cluster.session.account import Account
from pgcat_cluster.telemetry.logs import LineWriter, lifecycle
from pgcat_cluster.topology.model import PoolKey, Topology, build
from pgcat_cluster.topology.reading import InvalidSettings
from pgcat_cluster.topology.secrets import SecretUnavailable, parse_reference
from pgcat_cluster.topology.settings import Fleet, Local, Settings, Store
from pgcat_cluster.topology.units import parse_address

_ACCEPTED = "accepted documents"
# Who has no peer port is not promised to be found by cancels.
_WITHOUT_PEERS = tuple(feature for feature in FEATURES if feature != "cancel-1")
_WITNESS_S = 2.0
_NUDGE_S = 1.0
_PING_S = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FleetNode:
    """Both sides of one node: what the node asks of its fleet, and what its member asks of the node."""

    def __init__(
        self,
        local: Local,
        store: EtcdSettings,
        fleet_key: FleetKey | None,
        state: StateDirectory | None,
        directory: Path,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._local = local
        self._directory = directory
        empty = Topology(
            node=local.node,
            fleet=Fleet(),
            clusters=MappingProxyType({}),
            users=MappingProxyType({}),
            pools=MappingProxyType({}),
        )
        boot, where, name = os.urandom(BOOT_BYTES), local.store, local.node.name
        assert name is not None
        own_id = node_id(name, boot)
        self._table = PrefixTable(own_id)
        node = self.node = Node(empty, Path(), loop, fleet_key, boot)
        node.fleet = self
        self._secrets = SecretReader(
            Path(local.node.secrets_dir), lambda text: node.log.warning("config.warning", text=text)
        )
        self._paused: frozenset[PoolKey] = frozenset()
        self._life: asyncio.Task[None] | None = None
        chance = random.Random()
        self._etcd = EtcdStore(store, chance=chance)
        keys = Keys(where.fleet)
        stamped = Stamped(self._etcd, keys, wall_s=wall_s)
        self.member = Member(
            stamped,
            self,
            keys=keys,
            node=own_id,
            live=Live(
                name=node.name,
                host=where.host or _this_machine(),
                zone=where.zone,
                state="joining",
                addr=local.node.listen[0],
                peer=where.peer,
                version=__version__,
                ttl=Fleet().ttl_s,
                features=FEATURES if fleet_key is not None else _WITHOUT_PEERS,
            ),
            fleet_id=str(uuid.uuid4()),
            chance=chance,
            state=state,
            table=self._table if fleet_key is not None else None,
        )
        self.commands = Commands(
            stamped,
            keys,
            own_id,
            settings=lambda: self.member.settings,
            paused=lambda: frozenset(key.database for key in self._paused),
            ask_applied=self._ask_applied,
            chance=chance,
        )
        self._links: PeerLinks | None = None
        self._port: PeerPort | None = None
        if fleet_key is not None:
            self._links = PeerLinks(fleet_key, fleet=where.fleet, node=own_id)
            address = parse_address(where.peer)
            self._port = PeerPort(self, fleet_key, fleet=where.fleet, node=own_id, address=address)
            node.cancels = Cancels(
                node.control.reception.keys,
                self._table,
                node.cancel_client,
                links=self._links,
                zone=where.zone,
                neighbours=self.member.neighbours,
            )

    # -- what the node asks of the fleet

    def begin(self) -> None:
        self._life = spawn(self._live(), "member of the fleet")

    async def _live(self) -> None:
        if self._port is not None:
            try:
                await self._port.start()
            except OSError as error:
                self.node.can_not_listen(error)
                self.node.shutdown("immediate")
                return
        await self.member.run()

    @property
    def waits_for(self) -> str:
        return self.member.waits_for

    def agreed(self, cluster: str, primary: str | None, own: Mapping[str, ServerOverride]) -> Effective:
        return self.member.agreed(cluster, primary, own)

    def news(self) -> None:
        self.member.stir()

    def drain(self) -> None:
        self.member.drain()

    async def leave(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        await self.member.leave()
        if self._port is not None:
            await self._port.stop()
        if self._links is not None:
            await self._links.stop()

    async def reload(self) -> list[str]:
        """Read secrets and certificates again, and judge again what was desired."""
        self._renew_own_secrets()
        self.member.judge_again()
        async with self.node.changing:
            settings = self.member.settings
            if settings is None:
                raise ConfigFault(self.waits_for)
            try:
                return await self.node.adopt(await self._provided(settings))
            except InvalidSettings as invalid:
                problems = "; ".join(invalid.lines())
                lifecycle(self.node.log, "config.rejected", level="error", problems=problems)
                raise ConfigFault(problems) from None

    def _renew_own_secrets(self) -> None:
        """Sign and log in by what stands in the files now. Raises ConfigFault, with all as it was."""
        try:
            password, fleet_key = own_secrets(self._local, lambda _text: None)
        except (SecretUnavailable, FleetKeyUnusable, OSError) as problem:
            lifecycle(self.node.log, "config.rejected", level="error", problems=f"store: {problem}")
            raise ConfigFault(f"store: {problem}") from None
        self._etcd.password = password
        if fleet_key is not None and self._links is not None and self._port is not None:
            self.node.control.reception.keys.fleet_key = fleet_key
            self._port.use(fleet_key)
            self._links.use(fleet_key)

    # -- what the member asks of the node

    @property
    def topology(self) -> Topology:
        return self.node.topology

    @property
    def healths(self) -> Mapping[str, ClusterHealth]:
        return _Healths(self.node.watches)

    async def run(self, settings: Settings) -> None:
        async with self.node.changing:
            await self.node.adopt(await self._provided(settings))
        if not self.node.listeners:
            try:
                self.node.listen()
            except OSError as error:
                self.node.can_not_listen(error)
                self.node.shutdown("immediate")
                return
            self.node.say_ready()

    async def _provided(self, settings: Settings) -> Provisions:
        before = self.node.provisions
        return await asyncio.to_thread(lambda: provide(self._built(settings), before, source=_ACCEPTED))

    def _built(self, settings: Settings) -> Topology:
        """The topology of some documents with this node's own settings and secrets."""
        own = anchored(structs.replace(settings, node=self._local.node), self._directory)
        return build(own, self._secrets, source=_ACCEPTED)

    async def preflight(self, effect: Preflight) -> tuple[tuple[Wrong, ...], tuple[Wrong, ...]]:
        def read_files() -> tuple[Topology, TlsContexts]:
            topology = self._built(effect.settings)
            return topology, tls_contexts(topology)

        try:
            topology, tls = await asyncio.to_thread(read_files)
        except InvalidSettings as invalid:
            return wrong_in(invalid.problems), ()
        trial = Trial(effect.settings, topology, tls.outgoing, self.node.loop, in_force=self.topology)
        return await trial.run(effect.changed)

    def heed(self, cluster: str) -> None:
        self.node.heed(cluster)

    def probe(self, cluster: str, server: str) -> None:
        if (watch := self.node.watches.get(cluster)) is not None:
            watch.probe(server)

    def pause(self, pools: frozenset[PoolKey]) -> None:
        for key in pools:
            account = self.node.accounts.get(key)
            if account is not None and account.desk is not None and not account.desk.paused:
                self.node.operations.pause(key.database, key.user)
        for key in self._paused - pools:
            self.node.operations.resume(key.database, key.user)
        self._paused = pools

    def reconnect(self, pools: frozenset[PoolKey]) -> None:
        for account in self._accounts(pools):
            for pool in account.pools():
                self.node.control.supply.renew(pool)
            lifecycle(self.node.log, "pool.reconnected", pool=str(account.settings.key))

    def lead(self, prefix: int) -> None:
        self.node.control.reception.keys.lead(prefix)

    async def ask_others(self, asked: tuple[Neighbour, ...], servers: frozenset[Place]) -> frozenset[Place]:
        if self._links is None or not asked:
            return frozenset()
        return await ask_witnesses(self._links, asked, servers, _WITNESS_S)

    def nudge(self, juror: Neighbour, cluster: str, server: str, evidence: str) -> None:
        if self._links is not None:
            spawn(self._nudge(self._links, juror, cluster, server, evidence), "nudge a juror")

    async def _nudge(
        self, links: PeerLinks, juror: Neighbour, cluster: str, server: str, evidence: str
    ) -> None:
        # It only makes faster what comes by itself.
        with contextlib.suppress(PeerUnavailable):
            await links.tell(juror.peer, Nudge(cluster=cluster, server=server, evidence=evidence), _NUDGE_S)

    async def _ask_applied(self, node: str, peer: str) -> Mapping[str, int] | None:
        if node == self.member.node:
            return self.applied()
        if self._links is None or not peer:
            return None
        with contextlib.suppress(PeerUnavailable):
            reply = await self._links.ask(peer, Ping(id=0), _PING_S)
            if isinstance(reply, Alive) and reply.node == node:
                return reply.applied
        return None

    # -- what other nodes ask

    async def cancel_here(self, question: Cancel, asker: str) -> Answer:
        return await self.node.cancels.asked(question, asker)

    async def probe_here(self, cluster: str, server: str, within_s: float) -> Look | None:
        watch = self.node.watches.get(cluster)
        target = watch.target(server) if watch is not None else None
        if target is None:
            return None
        began_s = monotonic_s()
        try:
            await look_once(target, within_s, connecting(self.node.loop))
        except OpenFailed as failure:
            return Look(failure.evidence.value, monotonic_s() - began_s)
        return Look("ok", monotonic_s() - began_s)

    def nudge_here(self, cluster: str, server: str, evidence: str) -> None:
        known = self.topology.clusters.get(cluster)
        if known is not None and server in known.servers:
            self.probe(cluster, server)

    def applied(self) -> dict[str, int]:
        return self.member.applied

    def is_drained(self, pools: frozenset[PoolKey]) -> bool:
        return not any(
            account.servers or any(pool.opening for pool in account.pools())
            for account in self._accounts(pools)
        )

    def _accounts(self, pools: frozenset[PoolKey]) -> list[Account]:
        return [account for key, account in self.node.accounts.items() if key in pools]


class _Healths(Mapping[str, ClusterHealth]):
    """What a node's watches see. It is asked for one cluster far more often than for all of them."""

    def __init__(self, watches: Mapping[str, ClusterWatch]) -> None:
        self._watches = watches

    def __getitem__(self, cluster: str) -> ClusterHealth:
        return self._watches[cluster].health

    def __iter__(self) -> Iterator[str]:
        return iter(self._watches)

    def __len__(self) -> int:
        return len(self._watches)


def own_secrets(local: Local, warn: Callable[[str], None]) -> tuple[str, FleetKey | None]:
    """The password for the store, and the fleet key. Raises SecretUnavailable, FleetKeyUnusable and OSError."""
    where = local.store
    reader = SecretReader(Path(local.node.secrets_dir), warn)
    password = "" if where.secret is None else reader(parse_reference(where.secret))
    fleet_key = None if where.peer_key is None else FleetKey.parse(Path(where.peer_key).read_text())
    return password, fleet_key


def _store_settings(where: Store, password: str) -> EtcdSettings:
    files = (None if one is None else Path(one) for one in (where.ca, where.cert, where.key))
    authority, certificate, key = files
    endpoints, tls = members_of(where.endpoints, authority=authority, certificate=certificate, key=key)
    if tls is not None:
        # Tried here, for gRPC does not say what is wrong with them.
        OutgoingTls(
            "require" if authority is None else "verify-ca", ca=where.ca, cert=where.cert, key=where.key
        )
    return EtcdSettings(
        endpoints=endpoints,
        tls=tls,
        user=where.user or "",
        password=password,
        allow_bad_version=where.allow_bad_version,
        quota_bytes=where.quota,
    )


def _this_machine() -> str:
    """The same for all that share a kernel, containers too: they fail together."""
    try:
        kernel = _BOOT_ID.read_text()
    except OSError:
        kernel = socket.gethostname()
    return "h-" + sha256(kernel.strip().encode()).hexdigest()[:8]


def run(local: Local, directory: Path) -> int:
    """Run a node of a fleet until it is told to stop; the exit code. `directory`: where relative paths begin."""
    where = local.store
    state = None
    try:
        password, fleet_key = own_secrets(local, say)
        store = _store_settings(where, password)
        if where.state_dir is not None:
            state = StateDirectory(Path(where.state_dir))
    except (SecretUnavailable, Occupied, FleetKeyUnusable, TlsFilesUnusable) as problem:
        say(f"store: {problem}")
        return EXIT_CONFIG
    except OSError as error:
        say(f"store: {error.filename}: {error.strerror}")
        return EXIT_CONFIG
    if state is None:
        say("store.state_dir is not set: while the store is away this node can not be restarted")

    async def main(writer: LineWriter) -> int:
        fleet_node = FleetNode(local, store, fleet_key, state, directory, asyncio.get_running_loop())
        return await serve(fleet_node.node, writer)

    return run_logging(local.node.log, main)
