"""The invariants, checked at every revision of the store and after every step of a node; README.md lists them."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgcat_cluster.agreement import overrides
from pgcat_cluster.agreement.bundles import digest_of
from pgcat_cluster.agreement.cases import bans_of
from pgcat_cluster.agreement.documents import Accepted, Ban
from pgcat_cluster.agreement.effective import LocalOpinion, Use, effective
from pgcat_cluster.agreement.keys import Kind
from pgcat_cluster.agreement.transactions import Delete, Put, Row, Transaction
from pgcat_cluster.fleet.model import ModelStore
from pgcat_cluster.health.cluster import ClusterHealth
from tests.simulation.node import Identity
from tests.support.activations import Configured
from tests.support.invariants import COORDINATED, Violated

if TYPE_CHECKING:
    from tests.simulation.fleet import Company
    from tests.simulation.node import Process

_WINDOW_S = 10.0
WRITES_PER_SECOND, BURST = 5, 20
# Of a life beyond its bucket: to join and to leave, each with its leases and the prefix of cancel keys.
_COMING_AND_GOING = 6

Uses = Mapping[str, tuple[bool, bool]]


class Checks(Configured):
    """The invariants of a simulated fleet. A failure tells the seed and what happened last."""

    def __init__(self, company: Company) -> None:
        super().__init__(company.world.keys)
        self.company = company
        self.world = company.world
        self.activations = 0
        self._seen = 1
        self._epoch = 0
        self._applied: dict[str, tuple[int, ...]] = {}
        # When something below a prefix changed, in each state of the store.
        self._changes: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        self._tables: dict[tuple[object, ...], Uses] = {}
        self._looked: dict[tuple[str, str], tuple[object, ...]] = {}
        self._wrote: defaultdict[str, deque[float]] = defaultdict(deque)
        self._ever: set[tuple[int, int, int, str]] = set()  # all that was accepted
        self._frozen: dict[tuple[str, int], int] = {}

    @property
    def in_force(self) -> Accepted | None:
        return self.accepted() if self.keys.accepted in self.rows else None

    def under(self, prefix: str) -> list[Row]:
        return [row for key, row in self.rows.items() if key.startswith(prefix)]

    def config(self) -> list[Row]:
        return self.under(self.keys.config_prefix)

    def fail(self, invariant: str, text: str) -> None:
        """The run ends behind this instant: whoever called must not catch it."""
        if self.world.clock.failure is None:
            story = "\n".join(self.world.history)
            self.world.clock.failure = Violated(
                f"{invariant}: {text}\nseed {self.world.seed}, step {self.world.clock.steps}, "
                f"{self.world.clock.now:.3f} s, {self.world.plan}\n{story}"
            )

    # -- the store

    def follow(self, store: ModelStore) -> set[str] | None:
        """What happened since the last call; the prefixes it happened below, None for all."""
        if store.epoch != self._epoch or not store.has_leader:
            if store.epoch != self._epoch:
                self._epoch = store.epoch
                self._seen = store.revision
                self.rows, self.revision = store.rows(), store.revision
                self._remember()
            return None
        touched: set[str] = set()
        if store.revision > self._seen:
            for batch in list(store.history("", self._seen + 1)):
                self._seen = batch.revision
                for event in batch.events:
                    touched.add(self.keys.root + self.keys.below(event.key).partition("/")[0] + "/")
                    self._note(batch.revision, event.key, event.row)
                for prefix in (self.keys.decided, self.keys.override):
                    if any(event.key.startswith(prefix) for event in batch.events):
                        self._changes[self._epoch, prefix].append(batch.revision)
                self.batch(batch)
                if any(event.key == self.keys.accepted for event in batch.events):
                    self.activations += 1
                    self._remember()
        return touched

    def _note(self, revision: int, key: str, row: Row | None) -> None:
        text = "vanished" if row is None else row.value.decode(errors="replace")[:160].replace("\n", " ")
        self.world.note(f"@{revision} {self.keys.below(key)} {text}")

    def _remember(self) -> None:
        if (accepted := self.in_force) is not None:
            self._ever.add(_mark(accepted))

    # -- what nodes ask of the store

    def asked(self, process: Process, transaction: Transaction) -> None:
        """A node's transaction that has just been carried out."""
        self._paced(process.name)
        for operation in transaction.then:
            if not isinstance(operation, Put | Delete) or operation.key == self.keys.coord:
                continue
            named = self.keys.named(operation.key)
            kind = None if named is None else named.kind
            if operation.key.startswith((self.keys.override, self.keys.config_prefix)):
                self.fail("I6", f"{process.id} writes {operation.key}")
            if kind in _OFFICE:
                holder = self.coordinator()
                if holder != process.id:
                    self.fail("I14", f"{process.id} writes {operation.key}, but {holder} holds the office")
            if kind in _OWN and named is not None and not named.names[-1].startswith(process.name):
                self.fail("I25", f"{process.id} writes {operation.key}")

    def _paced(self, name: str) -> None:
        """I9: a node's writes stay within its bucket."""
        times = self._wrote[name]
        times.append(self.world.clock.now)
        while times[0] < self.world.clock.now - _WINDOW_S:
            times.popleft()
        # A life more brings a bucket more; clocks run up to a tenth faster.
        if len(times) > 2 * (BURST + _COMING_AND_GOING) + 1.1 * WRITES_PER_SECOND * _WINDOW_S + 1:
            self.fail("I9", f"{name} wrote {len(times)} times in {_WINDOW_S} s")

    # -- the nodes

    def settled(self, process: Process) -> None:
        """After one step of a node."""
        if process.is_dead:
            return
        self._stability(process)
        if process.is_mixed:
            return
        self._monotonic(process)
        running = process.member.follower.running
        if running is None or process.house.settings is not process.member.settings:
            return  # nothing is routed by yet, or the node is changing over
        self._generation(process, running.accepted)
        for cluster, health in process.house.healths.items():
            self._table(process, cluster, health)

    def _monotonic(self, process: Process) -> None:
        """I5: what a node has applied never falls."""
        memory, keys = process.member.memory, self.keys
        applied = (
            memory.applied(keys.decided),
            memory.applied(keys.override),
            memory.applied(keys.live_prefix),
            memory.applied(keys.verdict_prefix),
            memory.applied(keys.config_prefix),
        )
        before = self._applied.get(process.id)
        if before == applied:
            return
        if before is not None and any(now < was for now, was in zip(applied, before, strict=True)):
            self.fail("I5", f"{process.id} went back from {before} to {applied}")
        self._applied[process.id] = applied

    def _stability(self, process: Process) -> None:
        """I19: another store, or an older one, changes nothing until an operator has accepted it."""
        store, memory = self.world.store, process.member.memory
        if process.origin.epoch == store.epoch or process.is_mixed:
            return
        known = self._frozen.setdefault((process.id, store.epoch), memory.revision) or memory.revision
        if memory.revision == known:
            self._frozen[process.id, store.epoch] = known
            return
        if self.keys.store in self.rows:
            process.origin = Identity(store.cluster_id, store.epoch)
            if process.disk is not None:
                process.disk.store = process.origin
            self._applied.pop(process.id, None)
        elif store.cluster_id != process.origin.cluster_id or store.revision < known:
            text = f"{process.id} took revision {memory.revision} of another store, it was at {known}"
            self.fail("I19", text)
        else:
            # Old and present state have met at one revision: nobody could tell them apart any more.
            process.is_mixed = True

    def _generation(self, process: Process, accepted: Accepted) -> None:
        """I11: a node goes by what was accepted once, as a whole, and never by what it found wrong itself."""
        member = process.member
        if _mark(accepted) not in self._ever:
            self.fail("I11", f"{process.id} goes by {accepted}, which was never accepted")
        nacked = member.follower.ack.nacked
        if nacked is not None and nacked.digest == digest_of(accepted.docs):
            self.fail("I11", f"{process.id} goes by what it found wrong: {accepted}")

    def _table(self, process: Process, cluster: str, health: ClusterHealth) -> None:
        """I4, I6 and I10: what is routed by follows from the rows, from no other way they came."""
        member, house, keys = process.member, process.house, self.keys
        memory = member.memory
        standings = health.standings()
        known = (memory.applied(keys.decided), memory.applied(keys.override))
        if not all(known):
            return  # an operator accepted another store, which is not listed yet
        mark = (known, id(standings), id(house.topology), house.tables.get(cluster))
        if self._looked.get((process.id, cluster)) == mark:
            return
        self._looked[process.id, cluster] = mark
        document = house.topology.clusters[cluster]
        said = overrides.read(memory.under(keys.override), keys, servers=(), pools=()).of_cluster(cluster)
        bans: dict[str, list[Ban]] = {}
        for held in bans_of(memory.under(keys.cluster_bans(cluster)), keys):
            bans.setdefault(held.server, []).append(held.ban)

        def table(opinions: Mapping[str, LocalOpinion]) -> Mapping[str, Use]:
            return effective(
                document,
                bans=bans,
                primary=health.roles.primary,
                overrides=said,
                zone=process.zone,
                opinions=opinions,
                ramps={},
            ).servers

        agreed = _uses(table({}))
        running = member.follower.running
        runs = None if running is None else _mark(running.accepted)
        # Before its first list a node goes by what was kept, which may be older than its revision.
        told = member.applied
        applied = tuple(
            self._since(process, prefix, told[prefix]) for prefix in (keys.decided, keys.override)
        )
        identity = (process.origin.epoch, cluster, applied, runs, process.zone, health.roles.primary)
        before = self._tables.setdefault(identity, agreed) if min(told.values()) else agreed
        reads = {server: use[0] for server, use in agreed.items()}
        if reads != {server: use[0] for server, use in before.items()}:
            self.fail("I4", f"{process.id} at {known} routes by {agreed}, another by {before}")
        routed = house.tables.get(cluster)
        if routed is None:
            return
        opinions = {
            server: LocalOpinion(
                reads=one.reads,
                writes=one.writes,
                wrong=server in health.roles.wrong,
                reason=one.reason,
            )
            for server, one in standings.items()
        }
        if (expected := _uses(table(opinions))) != _uses(routed.servers):
            self.fail("I10", f"{process.id} routes {cluster} by {routed.servers}, its rows say {expected}")
        for server, override in said.items():
            self._operator(process, cluster, server, override.action, routed.servers.get(server))

    def _since(self, process: Process, prefix: str, applied: int) -> int:
        """Since when what a node has applied stands: later revisions were of other prefixes."""
        changes = self._changes[process.origin.epoch, prefix]
        index = bisect_right(changes, applied)
        return changes[index - 1] if index else 0

    def _operator(self, process: Process, cluster: str, server: str, action: str, use: Use | None) -> None:
        """I6: an operator's word stands above all."""
        if use is None:
            return
        if action != "pin" and (use.reads or use.writes):
            self.fail("I6", f"{process.id} uses {cluster}/{server} in spite of {action}")
        if action == "pin" and "ban:" in use.reason:
            self.fail("I6", f"{process.id} does not read {cluster}/{server} in spite of a pin: {use.reason}")

    # -- at the end

    def at_the_end(self) -> None:
        """I7, I8 and I12: long after the last change, what is bad is avoided by all, and what is good is used."""
        company, world = self.company, self.world
        if not company.wanted_is_accepted():
            self.fail("I12", f"accepted is {self.in_force}, desired {sorted(company.desired)}")
        gen = self.in_force.gen if self.in_force is not None else 0
        for process in company.alive:
            running = process.member.follower.running
            if running is None or running.accepted.gen != gen or process.member.waits_for:
                why = process.member.waits_for or f"goes by {running and running.accepted.gen}, not {gen}"
                self.fail("I12", f"{process.id} {why}")
                return
        for (cluster, server), state in world.servers.items():
            if (cluster, server) in company.removed:
                continue
            uses = {one.id: one.house.tables[cluster].servers[server] for one in company.alive}
            if state.kind == "up":
                if out := [node for node, use in uses.items() if not use.reads]:
                    self.fail("I8", f"{cluster}/{server} is good, but not for {out}: {uses[out[0]]}")
            elif state.kind in ("down", "wrong", "hung"):
                others = [
                    other
                    for (own, other), one in world.servers.items()
                    if own == cluster
                    and other != server
                    and one.kind == "up"
                    and (own, other) not in company.removed
                ]
                least = company.alive[0].house.topology.clusters[cluster].min_healthy
                used = [node for node, use in uses.items() if use.reads]
                if used and len(others) >= least:
                    self.fail(
                        "I7", f"{cluster}/{server} is {state.kind}, but used by {used}: {uses[used[0]]}"
                    )


def _mark(accepted: Accepted) -> tuple[int, int, int, str]:
    return accepted.gen, accepted.from_rev, accepted.term, digest_of(accepted.docs)


_OFFICE = frozenset((Kind.ACCEPTED, *COORDINATED))
_OWN = frozenset((Kind.LIVE, Kind.ACK, Kind.VERDICT, Kind.SEAT))


def _uses(servers: Mapping[str, Use]) -> Uses:
    return {server: (use.reads, use.writes) for server, use in servers.items()}
