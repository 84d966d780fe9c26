"""One node of a simulated fleet: production's member and probes in a process of their own, without clients."""

from __future__ import annotations

import asyncio
import random
from asyncio import events
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pgcat_cluster.agreement.bundles import Wrong
from pgcat_cluster.agreement.cancels import Neighbour, PrefixTable
from pgcat_cluster.agreement.documents import FEATURES, Live
from pgcat_cluster.agreement.effective import Effective
from pgcat_cluster.agreement.effects import Preflight
from pgcat_cluster.agreement.keys import node_id
from pgcat_cluster.agreement.peer_frames import Probe, Question, Reply, Seen
from pgcat_cluster.fleet.house import Findings
from pgcat_cluster.fleet.member import Member
from pgcat_cluster.fleet.peers import PeerUnavailable
from pgcat_cluster.fleet.state import Known
from pgcat_cluster.fleet.witnesses import ask_witnesses
from pgcat_cluster.health.cluster import ClusterHealth
from pgcat_cluster.health.doubt import Place
from pgcat_cluster.health.tilt import TICK_S
from pgcat_cluster.net.clock import tick
from pgcat_cluster.net.outgoing import OpenFailed, ServerAddress
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import OutgoingTls
from pgcat_cluster.probes.prober import ProbeTarget, look_once
from pgcat_cluster.probes.watch import ClusterWatch
from pgcat_cluster.topology.model import Cluster, PoolKey, Topology, build
from pgcat_cluster.topology.reading import InvalidSettings, Problem
from pgcat_cluster.topology.settings import Settings
from pgcat_cluster.topology.units import Address
from tests.simulation.port import SimulatedStore
from tests.simulation.world import Link, World, place_of

if TYPE_CHECKING:
    from tests.simulation.fleet import Company

TTL_S = 6
_WITNESS_S = 2.0
_PREFLIGHT_S = 0.05
_NO_TLS = OutgoingTls("disable")


class Identity(NamedTuple):
    """Which store, and which of its states when one was restored."""

    cluster_id: int
    epoch: int


class Disk:
    """What outlives a process: the state directory's contract, without files. `store` is whose state was kept."""

    def __init__(self) -> None:
        self.store: Identity | None = None
        self._leases: list[int] = []
        self._known: Known | None = None

    def leases(self) -> list[int]:
        return list(self._leases)

    def keep_leases(self, leases: list[int]) -> None:
        self._leases = list(leases)

    def known(self, fleet: str) -> Known | None:
        return self._known

    def keep(self, known: Known) -> None:
        self._known = known


class Process:
    """One life of one node. What it shares with others is the world alone: its clock runs at its own rate."""

    def __init__(
        self,
        world: World,
        company: Company,
        name: str,
        place: tuple[str, str],
        rate: float,
        disk: Disk | None,
    ) -> None:
        """`place` is its host and its zone."""
        self.world = world
        self.company = company
        self.name = name
        self.host, self.zone = place
        self.id = node_id(name, world.chance.randbytes(4))
        self.is_dead = False
        self.is_paused = False
        self._is_leaving = False
        self.backlog: list[events.Handle] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = world.clock.context_of(self)
        self.is_mixed = False
        self.origin = Identity(world.store.cluster_id, world.store.epoch)
        if disk is not None:
            if disk.store is None or disk.known(world.keys.fleet) is None:
                disk.store = self.origin
            self.origin = disk.store
        self.disk = disk
        self.store = SimulatedStore(world, name, lambda transaction: company.checks.asked(self, transaction))
        self._rate = rate
        self._began_s = world.chance.uniform(0, 100_000)  # what its clock shows means nothing to others
        self._born_s = world.clock.now
        self.member: Member
        self.house: House
        self.chance = random.Random(world.chance.getrandbits(64))
        self.context.run(self._begin)

    def _begin(self) -> None:
        self.house = House(self)
        self.member = Member(
            self.store,
            self.house,
            keys=self.world.keys,
            node=self.id,
            live=Live(
                name=self.name,
                host=self.host,
                zone=self.zone,
                state="joining",
                addr=f"{self.name}:6432",
                peer=f"{self.name}:6434",
                version="0",
                ttl=TTL_S,
                features=FEATURES,
            ),
            fleet_id="simulated",
            chance=self.chance,
            state=self.disk,
            table=PrefixTable(self.id),
            now_s=self.now_s,
            pause=self.pause,
        )
        self._life = spawn(self.member.run(), f"life of {self.id}")
        spawn(tick(TICK_S, self.house.tick, self.now_s, self.pause), "tilt tick")

    def now_s(self) -> float:
        return self._began_s + (self.world.clock.now - self._born_s) * self._rate

    async def pause(self, duration_s: float) -> None:
        await self.world.clock.pause(duration_s / self._rate)

    def begin(self, work: Coroutine[None, None, None], name: str) -> None:
        """Do something in this process."""
        with self.world.clock.entered():
            self.context.run(spawn, work, name)

    # -- the end

    def kill(self) -> None:
        """At once, whatever it does. What was on its way to the store arrives; nothing more goes."""
        self.store.is_gone = True
        self.world.clock.end([self])

    def leave(self) -> None:
        """A clean stop, once."""
        if not self._is_leaving:
            self._is_leaving = True
            self.begin(self._leave(), f"{self.id} leaves")

    async def _leave(self) -> None:
        self._life.cancel()
        await asyncio.wait({self._life})
        await self.member.leave()
        self.is_dead = True


class House:
    """What a member asks of its node: servers are probed by production's probes, clients there are none."""

    def __init__(self, process: Process) -> None:
        self.topology: Topology = build(Settings())
        self.settings: Settings | None = None
        self.watches: dict[str, ClusterWatch] = {}
        self.tables: dict[str, Effective] = {}  # what is routed by
        self._process = process
        self._world = process.world
        self._company = process.company
        self._name = process.name

    @property
    def healths(self) -> Mapping[str, ClusterHealth]:
        return {name: watch.health for name, watch in self.watches.items()}

    async def run(self, settings: Settings) -> None:
        if self._name in self._world.broken:
            raise InvalidSettings("here", [Problem("users.app.secret", "can not be read on this node")])
        before, self.topology = self.topology, build(settings)
        self.settings = settings
        is_other_fleet = before.fleet != self.topology.fleet
        for name in [*self.watches]:
            if is_other_fleet or self.topology.clusters.get(name) != before.clusters.get(name):
                self.tables.pop(name, None)
                await self.watches.pop(name).stop()
        for name, cluster in self.topology.clusters.items():
            if name not in self.watches:
                self._watch(name, cluster)

    def _watch(self, name: str, cluster: Cluster) -> None:
        process = self._process
        health = ClusterHealth(
            servers=list(cluster.servers),
            leadership=cluster.leadership,
            health=self.topology.fleet.health,
            read=cluster.read,
            now=process.now_s(),
        )
        targets = {server: _target(one.key.address) for server, one in cluster.servers.items()}
        watch = self.watches[name] = ClusterWatch(
            health,
            targets,
            on_change=lambda _decisions: self._health_changed(name),
            connect=self._connect,
            chance=process.chance,
            now_s=process.now_s,
        )
        watch.start()

    async def _connect(self, target: ProbeTarget, timeout_s: float) -> Link:
        link = Link(self._world, self._name, place_of(target))
        await link.open(timeout_s)
        return link

    def tick(self, now: float) -> None:
        for health in self.healths.values():
            health.tick(now)

    def _health_changed(self, cluster: str) -> None:
        self._process.member.stir()
        self.heed(cluster)

    def heed(self, cluster: str) -> None:
        if (watch := self.watches.get(cluster)) is not None:
            self.tables[cluster] = self._process.member.agreed(cluster, watch.health.roles.primary, {})

    async def preflight(self, effect: Preflight) -> Findings:
        await self._process.pause(self._world.chance.uniform(0, _PREFLIGHT_S))
        if self._name in self._world.broken:
            return (Wrong("users/app", "secret", "can not be read on this node"),), ()
        return (), ()

    def probe(self, cluster: str, server: str) -> None:
        if (watch := self.watches.get(cluster)) is not None and watch.target(server) is not None:
            watch.probe(server)

    def pause(self, pools: frozenset[PoolKey]) -> None:
        pass

    def reconnect(self, pools: frozenset[PoolKey]) -> None:
        pass

    def lead(self, prefix: int) -> None:
        pass

    def is_drained(self, pools: frozenset[PoolKey]) -> bool:
        return True

    # -- other nodes

    async def ask_others(self, asked: tuple[Neighbour, ...], servers: frozenset[Place]) -> frozenset[Place]:
        # In an order that does not hang on the hashes of this process.
        return await ask_witnesses(self, asked, sorted(servers), _WITNESS_S) if asked else frozenset()

    async def ask(self, peer: str, question: Question, timeout_s: float) -> Reply:
        """Over the peer port. Raises PeerUnavailable."""
        assert isinstance(question, Probe)
        answered: asyncio.Future[Seen] = self._world.clock.create_future()

        def answer(seen: Seen) -> None:
            if not answered.done():
                answered.set_result(seen)

        def ask(other: Process) -> None:
            other.begin(other.house.look_for(self._name, question, answer), "look for another node")

        self._company.send(self._name, peer, ask)
        try:
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            raise PeerUnavailable(f"{peer}: no answer in time") from None

    async def look_for(self, asker: str, question: Probe, answer: Callable[[Seen], None]) -> None:
        """Another node doubts its own eyes."""
        watch = self.watches.get(question.cluster)
        target = watch.target(question.server) if watch is not None else None
        if target is None:
            return
        began_s, evidence = self._process.now_s(), "ok"
        try:
            await look_once(target, question.within_ms / 1000, self._connect, self._process.now_s)
        except OpenFailed as failure:
            evidence = failure.evidence.value
        rtt_ms = (self._process.now_s() - began_s) * 1000
        seen = Seen(id=0, evidence=evidence, rtt_ms=rtt_ms, age_ms=0.0)
        self._company.send(self._name, f"{asker}:", lambda _asker: answer(seen))

    def nudge(self, juror: Neighbour, cluster: str, server: str, evidence: str) -> None:
        self._company.send(
            self._name, juror.peer, lambda other: other.context.run(other.house.probe, cluster, server)
        )


def _target(address: Address) -> ProbeTarget:
    return ProbeTarget(
        address=ServerAddress(host=address.host, port=address.port),
        tls=_NO_TLS,
        user="probe",
        database="postgres",
        secret=None,
    )
