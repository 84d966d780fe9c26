"""The invariants, checked at every revision of the store and after every step of a node."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgcat_cluster.agreement import jury, overrides
from pgcat_cluster.agreement.documents import Accepted, Ban, Live, Verdict, decode
from pgcat_cluster.agreement.effective import Effective, Use
from pgcat_cluster.agreement.jury import Jury, Voter
from pgcat_cluster.agreement.keys import Kind
from pgcat_cluster.agreement.transactions import Batch, Row, Transaction
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.actor import Actor

_WINDOW_S = 10.0
WRITES_PER_SECOND, BURST = 5, 20


class Violated(AssertionError):
    """An invariant does not hold; the text tells the seed and what happened last."""


class Checks:
    """Keeps the store's state as its history tells it, and judges every change."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[str, Row] = {}
        self.revision = 0
        self.bans_put = 0
        self.bans_lifted = 0
        self.overrides_deleted = 0
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

    def batch(self, batch: Batch) -> None:
        """One revision of the store."""
        before = dict(self.rows)
        for event in batch.events:
            if event.row is None:
                self.rows.pop(event.key, None)
            else:
                self.rows[event.key] = event.row
        self.revision = batch.revision
        for event in batch.events:
            named = self.world.keys.named(event.key)
            if named is None:
                continue
            text = "vanished" if event.row is None else event.row.value.decode()[:160]
            self.world.note(f"@{batch.revision} {self.world.keys.below(event.key)} {text}")
            if named.kind is Kind.BAN:
                if event.row is None:
                    self.bans_lifted += 1
                else:
                    was = before.get(event.key)
                    self._ban(named.names, decode(event.key, event.row.value, Ban), was)
            elif named.kind is Kind.ACCEPTED and event.row is not None:
                coord = self.rows.get(self.world.keys.coord)
                term = decode(event.key, event.row.value, Accepted).term
                if coord is None or coord.create_revision != term:
                    self.fail("I14", f"accepted was written in term {term}, but {coord} holds the office")
            elif event.row is None and event.key.startswith(self.world.keys.override):
                self.overrides_deleted -= 1
                if self.overrides_deleted < 0:
                    self.fail("I6", f"nobody deleted {event.key}")

    def coordinates(self, term: int, transaction: Transaction) -> None:
        """A coordinator's transaction names its term."""
        operands = [one.operand for one in transaction.compares if one.key == self.world.keys.coord]
        if operands != [term]:
            self.fail("I14", f"a transaction of term {term} compares {operands}")

    def _ban(self, names: tuple[str, ...], ban: Ban, was: Row | None) -> None:
        cluster, server, scope = names
        accepted = self._accepted()
        topology = self.world.topologies[accepted.gen]
        members, hosts = self._jury(cluster, server, topology.fleet.jury)
        said = self._said(cluster, server, members, accepted.gen)
        word = "bad" if ban.state == "banned" else "ok"
        voices = {node for node, verdict in said.items() if verdict.v == word}
        zone = jury.zone_of(scope)
        if ban.state == "probation":
            of_scope = [juror for juror in members.jurors if zone in (None, juror.zone)]
            if 2 * len(voices & {juror.node for juror in of_scope}) <= len(of_scope):
                self.fail("I1", f"{cluster}/{server} is on probation by {len(voices)} of {len(of_scope)}")
            return
        self.bans_put += 1
        if not self._holds(members, zone, voices, len(hosts) if zone is None else 0):
            self.fail(
                "I1",
                f"{cluster}/{server} is banned for {scope} by {sorted(voices)} of "
                f"{[(one.node, one.zone) for one in members.jurors]}, of whom {members.need} are needed",
            )
        if zone is None and len(hosts) >= 3 and len({hosts[node] for node in voices}) < 2:
            self.fail("I3", f"{cluster}/{server} is banned by one host: {voices}")
        if was is None:
            is_unanimous = len(voices) == len(members.jurors) and all(
                said[node].why == ("refused",) for node in voices
            )
            self._enough(cluster, zone, is_unanimous)

    @staticmethod
    def _holds(members: Jury, zone: str | None, bad: set[str], voters: int) -> bool:
        """The rules of a ban once more, in other words than the code's."""
        by_zone: defaultdict[str, list[bool]] = defaultdict(list)
        for juror in members.jurors:
            by_zone[juror.zone].append(juror.node in bad)
        agreeing = {name: sum(votes) > len(votes) / 2 for name, votes in by_zone.items()}
        if zone is not None:
            return agreeing.get(zone, False)
        size = len(members.jurors)
        count = sum(juror.node in bad for juror in members.jurors)
        enough = count > size / 2 if voters <= size else 3 * count >= 2 * size
        return enough and (len(by_zone) == 1 or sum(agreeing.values()) > len(by_zone) / 2)

    def _enough(self, cluster: str, scope_zone: str | None, is_unanimous: bool) -> None:
        """I2, for the zones that have nodes now."""
        keys = self.world.keys
        topology = self.world.topologies[self._accepted().gen].clusters[cluster]
        said = self._overrides(cluster)
        bans = []
        for key, row in self.rows.items():
            named = keys.named(key)
            if named is not None and named.kind is Kind.BAN and named.names[0] == cluster:
                bans.append((named.names[1], decode(key, row.value, Ban).scope))
        zones = {voter.zone for voter in self._alive()} if scope_zone is None else {scope_zone}
        for zone in zones:
            out = {server for server, scope in bans if jury.reaches(scope, zone)}
            healthy = [
                server
                for server in topology.servers
                if server not in out and not overrides.removes(said.servers.get((cluster, server)))
            ]
            if len(healthy) < topology.min_healthy and not is_unanimous:
                self.fail("I2", f"zone {zone} is left with {healthy} of {cluster}")

    def _accepted(self) -> Accepted:
        row = self.rows[self.world.keys.accepted]
        return decode(row.key, row.value, Accepted)

    def _overrides(self, cluster: str) -> overrides.Overrides:
        rows = [row for key, row in self.rows.items() if key.startswith(self.world.keys.override)]
        return overrides.read(rows, self.world.keys, servers=(), pools=())

    def _alive(self) -> list[Voter]:
        found = []
        for key, row in self.rows.items():
            if key.startswith(self.world.keys.live_prefix):
                live = decode(key, row.value, Live)
                node = key.removeprefix(self.world.keys.live_prefix)
                if live.state == "serving":
                    found.append(Voter(node=node, name=live.name, host=live.host, zone=live.zone))
        return found

    def _jury(self, cluster: str, server: str, size: int) -> tuple[Jury, dict[str, str]]:
        alive = self._alive()
        hosts = {voter.node: voter.host for voter in jury.voters(f"{cluster}/{server}", alive)}
        return jury.seat(f"{cluster}/{server}", alive, size), hosts

    def _said(self, cluster: str, server: str, members: Jury, generation: int) -> dict[str, Verdict]:
        found = {}
        for juror in members.jurors:
            row = self.rows.get(self.world.keys.verdict(cluster, server, juror.node))
            if row is not None:
                verdict = decode(row.key, row.value, Verdict)
                if verdict.gen == generation:
                    found[juror.node] = verdict
        return found

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
        memory, keys = actor.memory, self.world.keys
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
        relevant = [
            key for key in changed if key.startswith((self.world.keys.decided, self.world.keys.override))
        ]
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
