"""All that is not ours: servers and their illnesses, the network and its cuts, the store, and chance."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Compare, Transaction
from pgcat_cluster.fleet.model import ModelStore
from pgcat_cluster.health.evidence import EvidenceClass
from pgcat_cluster.net.outgoing import (
    ConnectRefused,
    ConnectUnreachable,
    LoginRefused,
    OpenTimeout,
)
from pgcat_cluster.probes.prober import ProbeTarget
from tests.simulation.clockwork import Clockwork

STORE = "store"
Place = tuple[str, str]  # a cluster and a server of it


@dataclass
class ServerState:
    """One PostgreSQL as it really is."""

    name: str
    zone: str
    is_primary: bool
    kind: str = "up"  # up, down, hung, slow, wrong, starting, lagging
    slow_s: float = 0.0
    life: int = 0
    timeline: int = 1
    since_s: float = 0.0

    def turn(self, kind: str, now: float) -> None:
        if kind == "up" and self.kind == "down":
            self.life += 1
        self.kind, self.since_s = kind, now


@dataclass
class Plan:
    """What a run is made of, all of it drawn from its seed."""

    nodes: int
    zones: int
    clusters: dict[str, int]  # servers of each
    jury: int
    min_healthy: int
    source: str = "static"  # of leadership
    lag_share: float = 0.05  # of watch deliveries that come late
    lag_s: float = 0.5
    hosts_shared: bool = False
    keeps_state: bool = True  # nodes have a state directory
    favoured: tuple[str, ...] = ()  # what happens much more often
    pause_s: float = 1.0  # from one happening to the next


class World:
    """Owns time, chance, the store, the servers and who can reach whom."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.seed = seed
        self.plan = plan
        self.chance = random.Random(seed)
        self.clock = Clockwork()
        self.keys = Keys("sim")
        self.store = ModelStore()
        self.servers: dict[Place, ServerState] = {}
        self.zones: dict[str, str] = {}  # of nodes and servers
        self.cuts: set[tuple[str, str]] = set()
        self.zone_cuts: set[tuple[str, str]] = set()
        self.answers_lost = 0
        self.store_delay_s = 0.0
        self.lag_by_node: dict[str, float] = {}
        self.lag_by_prefix: dict[str, float] = {}
        self.broken: set[str] = set()  # nodes that can use no new documents
        self.history: deque[str] = deque(maxlen=120)
        self.weaken: Callable[[Transaction, Compare], bool] | None = None
        # Whether a transaction that is on its way to the store is kept there, to be let go later.
        self.keeps: Callable[[Transaction, Callable[[], None]], bool] = lambda _transaction, _go: False
        for cluster, count in plan.clusters.items():
            for index in range(count):
                name = f"r{index}" if index else "p0"
                zone = f"z{index % plan.zones}"
                self.servers[cluster, name] = ServerState(name, zone, is_primary=index == 0)
                self.zones[f"{cluster}/{name}"] = zone

    # -- who reaches whom

    def zone_of(self, end: str) -> str:
        return self.zones.get(end, "")

    def passes(self, source: str, target: str) -> bool:
        """Whether what the one sends arrives at the other."""
        if not self.cuts and not self.zone_cuts:
            return True
        zones = (self.zone_of(source), self.zone_of(target))
        return (source, target) not in self.cuts and zones not in self.zone_cuts

    def round_trips(self, source: str, target: str) -> bool:
        return self.passes(source, target) and self.passes(target, source)

    def note(self, text: str) -> None:
        """For the story a failure tells."""
        self.history.append(f"{self.clock.now:9.3f}  {text}")

    def promote(self, place: Place) -> None:
        """This replica is the primary from now on; the one before follows it."""
        cluster = place[0]
        old = next(state for (own, _), state in self.servers.items() if own == cluster and state.is_primary)
        new = self.servers[place]
        if old is new:
            return
        old.is_primary, new.is_primary = False, True
        for (own, _), state in self.servers.items():
            if own == cluster:
                state.timeline = max(old.timeline, new.timeline) + (state is new)
        for (own, _), state in self.servers.items():
            if own == cluster:
                state.timeline = new.timeline
                state.life += state is old


@dataclass
class Link:
    """A probe's link from one node to one server: asked like PostgreSQL, failing like it."""

    world: World
    node: str
    place: Place
    life: int = 0
    _timer: object = field(default=None, repr=False)

    @property
    def _state(self) -> ServerState:
        return self.world.servers[self.place]

    async def open(self, timeout_s: float) -> None:
        """Raises OpenFailed."""
        await self._answer(timeout_s, is_fresh=True)
        self.life = self._state.life

    async def query(self, sql: str, timeout_s: float) -> list[list[str | None]]:
        if self._state.kind == "down" or self._state.life != self.life:
            raise ConnectRefused("the link was reset")
        await self._answer(timeout_s, is_fresh=False)
        state = self._state
        behind_s = 60.0 if state.kind == "lagging" else 0.0
        is_replica = not state.is_primary
        return [
            [
                "t" if is_replica else "f",
                "8" if state.kind == "wrong" else "7",
                str(state.timeline),
                "1000",
                ("500" if behind_s else "1000") if is_replica else None,
                str(behind_s) if is_replica else None,
                str(state.life),
            ]
        ]

    async def _answer(self, timeout_s: float, *, is_fresh: bool) -> None:
        world, state = self.world, self._state
        rtt_s = world.chance.uniform(0.0005, 0.0015)
        if not world.round_trips(self.node, "/".join(self.place)):
            await world.clock.pause(timeout_s)
            raise ConnectUnreachable("no answer") if is_fresh else OpenTimeout("no answer")
        if state.kind == "down":
            await world.clock.pause(rtt_s)
            raise ConnectRefused("connection refused")
        if state.kind == "starting":
            await world.clock.pause(rtt_s)
            raise LoginRefused("starting up", "57P03", EvidenceClass.GOING)
        took_s = rtt_s + (state.slow_s if state.kind == "slow" else 0.0)
        if state.kind == "hung" or took_s > timeout_s:
            await world.clock.pause(timeout_s)
            raise OpenTimeout("timeout")
        await world.clock.pause(took_s)

    def watch(self, on_readable: Callable[[], None]) -> None:
        """The end of a link between two questions is noticed at the next one."""

    def unwatch(self) -> None:
        pass

    def close(self) -> None:
        pass


def place_of(target: ProbeTarget) -> Place:
    """Which server an address names: `main-r1`."""
    cluster, _, server = target.address.host.rpartition("-")
    return cluster, server
