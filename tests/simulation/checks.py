"""The invariants, checked at every revision of the store and after every step of a node."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgcat_cluster.agreement import overrides
from pgcat_cluster.agreement.documents import Accepted
from pgcat_cluster.agreement.effective import Effective, Use
from pgcat_cluster.agreement.transactions import Batch, Transaction
from pgcat_cluster.topology.model import Topology
from tests.simulation.world import World
from tests.support.invariants import Invariants, Violated

if TYPE_CHECKING:
    from tests.simulation.actor import Actor

_WINDOW_S = 10.0
WRITES_PER_SECOND, BURST = 5, 20


class Checks(Invariants):
    """What the store's history shows, and beside it what every node knows and does."""

    def __init__(self, world: World) -> None:
        super().__init__(world.keys)
        self.world = world
        self._applied: dict[str, tuple[int, ...]] = {}
        self._tables: dict[tuple[object, ...], Mapping[str, Effective]] = {}
        self._wrote: defaultdict[str, deque[float]] = defaultdict(deque)

    def fail(self, invariant: str, text: str) -> None:
        story = "\n".join(self.world.history)
        raise Violated(
            f"{invariant}: {text}\nseed {self.world.seed}, step {self.world.clock.steps}, "
            f"{self.world.clock.now:.3f} s, {self.world.plan}\n{story}"
        )

    # -- the store

    def topology(self, accepted: Accepted) -> Topology:
        return self.world.topologies[accepted.gen]

    def batch(self, batch: Batch) -> None:
        """One revision of the store, told for the story a failure tells."""
        for event in batch.events:
            text = "vanished" if event.row is None else event.row.value.decode()[:160]
            self.world.note(f"@{batch.revision} {self.keys.below(event.key)} {text}")
        super().batch(batch)

    def coordinates(self, term: int, transaction: Transaction) -> None:
        """A coordinator's transaction names its term."""
        operands = [one.operand for one in transaction.compares if one.key == self.keys.coord]
        if operands != [term]:
            self.fail("I14", f"a transaction of term {term} compares {operands}")

    # -- the nodes

    def after_step(self, actor: Actor) -> None:
        """I5: what a node has applied never falls."""
        applied = tuple(actor.memory.applied(prefix) for prefix in actor.prefixes)
        before = self._applied.get(actor.id)
        if before is not None and any(now < was for now, was in zip(applied, before)):
            self.fail("I5", f"{actor.id} went back from {before} to {applied}")
        self._applied[actor.id] = applied

    def table(self, actor: Actor) -> None:
        """I4 and I6: what was agreed gives one table, and an operator's word stands in it."""
        memory, keys = actor.memory, self.keys
        known = (memory.applied(keys.decided), memory.applied(keys.override), actor.zone)
        before = self._tables.setdefault(known, dict(actor.agreed))
        if before != actor.agreed:
            self.fail("I4", f"{actor.id} at {known} routes by {actor.agreed}, another by {before}")
        for (cluster, server), said in actor.overrides.servers.items():
            use = actor.agreed.get(cluster, Effective(servers={})).servers.get(server)
            if use is None:
                continue
            if overrides.removes(said) and (use.reads or use.writes):
                self.fail("I6", f"{actor.id} uses {cluster}/{server} in spite of {said}")
            if said.action == "pin" and not use.reads:
                self.fail("I6", f"{actor.id} does not read {cluster}/{server} in spite of {said}")

    def listed(self, actor: Actor, before: Mapping[str, Mapping[str, Use]], changed: list[str]) -> None:
        """I10: a new list changes routing only where its content differs."""
        relevant = [key for key in changed if key.startswith((self.keys.decided, self.keys.override))]
        after = {name: dict(table.servers) for name, table in actor.agreed.items()}
        if before and not relevant and before != after:
            self.fail("I10", f"{actor.id} routes differently after a list that changed nothing")

    def unconnected(self, actor: Actor) -> None:
        """I19: without the store nothing that was agreed changes by itself."""
        if actor.topology is None:
            return
        for cluster in actor.topology.clusters:
            table = actor.table(cluster, alone=False)
            if table != actor.agreed[cluster]:
                self.fail("I19", f"{actor.id} without the store: {actor.agreed[cluster]} became {table}")

    def wrote(self, name: str) -> None:
        """I9: a node's writes stay within its bucket."""
        times = self._wrote[name]
        times.append(self.world.clock.now)
        while times[0] < self.world.clock.now - _WINDOW_S:
            times.popleft()
        # A life more brings a bucket more; clocks run up to a tenth faster.
        if len(times) > 2 * BURST + 1.1 * WRITES_PER_SECOND * _WINDOW_S + 1:
            self.fail("I9", f"{name} wrote {len(times)} times in {_WINDOW_S} s")
