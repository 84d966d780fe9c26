"""All that is not deciding: servers and their illnesses, the network and its cuts, the store behind it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Compare, Outcome, Transaction
from pgcat_cluster.fleet.model import ModelStore
from pgcat_cluster.fleet.store import StoreFault, Unavailable, Unknown
from pgcat_cluster.health.evidence import EvidenceClass, Sample, ServerFacts, Source
from pgcat_cluster.topology.model import Topology, build
from pgcat_cluster.topology.reading import parse
from tests.simulation.clockwork import Clockwork

CALL_DEADLINE_S = 1.5
STORE = "store"


@dataclass
class ServerState:
    """One PostgreSQL as it really is."""

    name: str
    zone: str
    kind: str = "up"  # up, down, hung, slow, wrong, starting
    slow_s: float = 0.0
    life: int = 0
    is_primary: bool = False
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
    lag_share: float = 0.05  # of watch deliveries that come late
    lag_s: float = 0.5
    hosts_shared: bool = False
    lag_by_node: dict[str, float] = field(default_factory=dict)
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
        self.servers: dict[tuple[str, str], ServerState] = {}
        self.zones: dict[str, str] = {}  # of nodes and servers
        self.cuts: set[tuple[str, str]] = set()
        self.zone_cuts: set[tuple[str, str]] = set()
        self.answers_lost = 0
        self.lag_by_prefix: dict[str, float] = {}
        self.history: deque[str] = deque(maxlen=80)
        self.weaken: Callable[[Compare], bool] | None = None
        self.topologies: dict[int, Topology] = {}
        self.text = ""
        for cluster, count in plan.clusters.items():
            for index in range(count):
                name = f"r{index}" if index else "p0"
                zone = f"z{index % plan.zones}"
                self.servers[cluster, name] = ServerState(name, zone, is_primary=index == 0)
                self.zones[f"{cluster}/{name}"] = zone

    # -- topology

    def topology(self, generation: int, removed: frozenset[tuple[str, str]] = frozenset()) -> Topology:
        """The documents of one generation, and what they mean."""
        plan = self.plan
        lines = [
            f"[fleet]\njury = {plan.jury}",
            'bans = { min = "3s", max = "12s", strike_decay = "30s", ramp = "4s" }',
        ]
        for cluster in plan.clusters:
            there = [name for own, name in self.servers if own == cluster and (own, name) not in removed]
            lines += [
                f"[clusters.{cluster}]\nmin_healthy = {min(plan.min_healthy, len(there))}",
                'leadership = { source = "static", primary = "p0" }',
                f"[clusters.{cluster}.servers]",
            ]
            lines += [f'{name} = {{ host = "{cluster}-{name}" }}' for name in there]
        topology = build(parse("\n".join(lines), "simulation"))
        self.topologies[generation] = topology
        return topology

    # -- who reaches whom

    def zone_of(self, end: str) -> str:
        return self.zones.get(end, "")

    def passes(self, source: str, target: str) -> bool:
        """Whether what the one sends arrives at the other."""
        zones = (self.zone_of(source), self.zone_of(target))
        return (source, target) not in self.cuts and zones not in self.zone_cuts

    def round_trips(self, source: str, target: str) -> bool:
        return self.passes(source, target) and self.passes(target, source)

    # -- probes

    def probe(
        self, node: str, cluster: str, server: str, source: Source, timeout_s: float
    ) -> tuple[float, Sample]:
        """How long a probe takes that begins now, and what it finds."""
        state = self.servers[cluster, server]
        rtt_s = self.chance.uniform(0.0005, 0.0015)
        if not self.round_trips(node, f"{cluster}/{server}"):
            failure = EvidenceClass.UNREACHABLE if source is Source.FRESH else EvidenceClass.SOFT
            return timeout_s, _failed(source, timeout_s, failure, "no answer")
        if state.kind == "down":
            return rtt_s, _failed(source, rtt_s, EvidenceClass.REFUSED, "connection refused")
        if state.kind == "starting":
            return rtt_s, _failed(source, rtt_s, EvidenceClass.GOING, "starting up")
        took_s = rtt_s + (state.slow_s if state.kind == "slow" else 0.0)
        if state.kind == "hung" or took_s > timeout_s:
            return timeout_s, _failed(source, timeout_s, EvidenceClass.SOFT, "timeout")
        facts = ServerFacts(
            in_recovery=not state.is_primary,
            system_identifier="8" if state.kind == "wrong" else "7",
            timeline=1,
            write_lsn=100,
            replay_lsn=None if state.is_primary else 100,
            replayed_age_s=None if state.is_primary else 0.0,
            started_at=str(state.life),
        )
        return took_s, Sample(source=source, duration_s=took_s, facts=facts)

    # -- the store, from one node

    def commit(self, transaction: Transaction) -> Outcome:
        """The transaction as it arrives at the store; without the guard that a run leaves out."""
        if self.weaken is not None:
            kept = tuple(compare for compare in transaction.compares if not self.weaken(compare))
            transaction = Transaction(compares=kept, then=transaction.then, otherwise=transaction.otherwise)
        return self.store.txn(transaction, self.clock.now)

    def call(self, node: str, ask: Callable[[], object], answer: Callable[[object], None]) -> None:
        """Ask the store; the answer, or the fault, comes later."""
        going_s, coming_s = (self.chance.uniform(0.0005, 0.003) for _ in range(2))

        def arrive() -> None:
            if not self.passes(node, STORE):
                self.clock.after(CALL_DEADLINE_S, lambda: answer(Unavailable("no answer")))
                return
            result: object
            try:
                result = ask()
            except StoreFault as fault:
                result = fault
            is_lost = not self.passes(STORE, node)
            if self.answers_lost and isinstance(result, Outcome):
                self.answers_lost -= 1
                is_lost = True
            if is_lost:
                self.clock.after(CALL_DEADLINE_S, lambda: answer(Unknown("the answer was lost")))
            else:
                self.clock.after(coming_s, lambda: answer(result))

        self.clock.after(going_s, arrive)

    def delivery_s(self, node: str, prefix: str) -> float:
        """How long a watch takes to tell."""
        plan = self.plan
        delay_s = self.chance.uniform(0.0005, 0.003)
        if self.chance.random() < plan.lag_share:
            delay_s += self.chance.uniform(0, plan.lag_s)
        return delay_s + plan.lag_by_node.get(node, 0.0) + self.lag_by_prefix.get(prefix, 0.0)

    def note(self, text: str) -> None:
        """For the story a failure tells."""
        self.history.append(f"{self.clock.now:9.3f}  {text}")


def _failed(source: Source, took_s: float, failure: EvidenceClass, detail: str) -> Sample:
    return Sample(source=source, duration_s=took_s, failure=failure, detail=detail)
