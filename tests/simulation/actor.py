"""One node of the fleet on virtual time: it performs what the machines ask, as the real node does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgcat_cluster.agreement import jury, membership, overrides
from pgcat_cluster.agreement.bans import Bench, Decide, Nudge, ProbeNow, Publish, Withdraw, with_leases
from pgcat_cluster.agreement.cancels import Neighbour
from pgcat_cluster.agreement.cases import Court, Electorate, bans_of, departed, electorate
from pgcat_cluster.agreement.coordinator import Election, holds_term
from pgcat_cluster.agreement.documents import Accepted, Ban, Live, decode, encode
from pgcat_cluster.agreement.effective import Effective, LocalOpinion, effective
from pgcat_cluster.agreement.effects import Commit, Effect
from pgcat_cluster.agreement.jury import reaches
from pgcat_cluster.agreement.keys import node_id
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.peer_frames import Seen
from pgcat_cluster.agreement.pipeline import Bucket
from pgcat_cluster.agreement.transactions import Delete, Outcome, Put, Transaction, unchanged
from pgcat_cluster.agreement.witnesses import confirmed, witnesses
from pgcat_cluster.fleet.beliefs import belief, look
from pgcat_cluster.fleet.store import Compacted, Unavailable
from pgcat_cluster.health.cluster import ClusterHealth, Duty
from pgcat_cluster.health.doubt import AskPeers, LocalScore, Place, Suspicion
from pgcat_cluster.health.evidence import ProbeWanted, Source
from pgcat_cluster.topology.model import Topology
from tests.simulation.checks import BURST, WRITES_PER_SECOND
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.fleet import Company

TTL_S = 6
TICK_S = 0.4
PEERS_DEADLINE_S = 2.0


class Round:
    """The probes of one server, one after the other."""

    def __init__(self) -> None:
        self.due_s = 0.0
        self.started_s = -1.0
        self.turn = 0
        self.is_busy = False
        self.left_on_link = 0


class Actor:
    """One life of one node. What it may not share with others is its own clock, memory and machines."""

    def __init__(self, world: World, company: Company, name: str, host: str, zone: str, rate: float) -> None:
        self.world = world
        self.company = company
        self.name, self.host, self.zone, self.rate = name, host, zone, rate
        self.id = node_id(name, world.chance.randbytes(4))
        self.live = Live(name=name, host=host, zone=zone, state="serving", addr="", version="0", ttl=TTL_S)
        self.is_dead = False
        self.is_paused = False
        self.is_connected = False
        self.memory = Memory()
        self.topology: Topology | None = None
        self.generation = 0
        self.health: dict[str, ClusterHealth] = {}
        self.benches: dict[str, Bench] = {}
        self.rounds: dict[Place, Round] = {}
        self.electorate = Electorate(0, {}, (), frozenset())
        self.overrides = overrides.Overrides()
        self.election = Election(world.keys, self.id)
        self.score = LocalScore(0.0)
        self.suspicion = Suspicion(0.5)
        self.bucket = Bucket(WRITES_PER_SECOND, BURST)
        self.agreed: dict[str, Effective] = {}
        self.held: dict[str, dict[str, list[Ban]]] = {}
        self._born_s = world.clock.now
        self._backlog: list[Callable[[], None]] = []
        self._cursors: dict[str, int] = {}
        self._pulls: set[str] = set()
        self._outbox: dict[str, bytes | None] = {}
        self._writing: set[str] = set()
        self._decisions: list[tuple[str, Decide]] = []
        self._is_deciding = False
        self._is_cleaning = False
        self._is_joining = False
        self._confirmed_s = 0.0
        self._wakes_s = math.inf
        self._dirty = False
        self._last_tick_s = 0.0
        self.prefixes = (
            world.keys.decided,
            world.keys.override,
            world.keys.live_prefix,
            world.keys.verdict_prefix,
        )
        self._join()
        self._tick()

    @property
    def now(self) -> float:
        return (self.world.clock.now - self._born_s) * self.rate

    # -- time, and being stopped

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back after a time on this node's own clock."""
        self._receive_after(delay_s / self.rate, callback)

    def _receive_after(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.world.clock.after(delay_s, lambda: self._enter(callback))

    def _enter(self, callback: Callable[[], None]) -> None:
        if self.is_dead:
            return
        if self.is_paused:
            self._backlog.append(callback)
            return
        callback()
        self._attend()
        self.company.checks.after_step(self)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        backlog, self._backlog = self._backlog, []
        for callback in backlog:
            self._enter(callback)

    def kill(self) -> None:
        self.is_dead = True

    def leave(self) -> None:
        """A clean stop gives the lease back."""
        lease = self.election.lease
        self._ask(lambda: self.world.store.revoke(lease, self.world.clock.now), lambda _: None)
        self.is_dead = True

    def drain(self) -> None:
        row = self.memory.row(self.world.keys.live(self.id))
        if row is not None:
            self.live = decode(row.key, encode(self.live), Live)
            self._commit(membership.drain(row, self.live), lambda _: None)

    # -- the store

    def _ask(self, ask: Callable[[], object], answer: Callable[[object], None]) -> None:
        asked_s = self.now

        def answered(result: object) -> None:
            def take() -> None:
                self.score.store_answered(self.now - asked_s, self.now)
                answer(result)

            self._enter(take)

        self.world.call(self.name, ask, answered)

    def _commit(
        self, transaction: Transaction, answer: Callable[[object], None], counts: bool = False
    ) -> None:
        def carry_out() -> Outcome:
            before = self.world.store.revision
            outcome = self.world.commit(transaction)
            if counts and self.world.store.revision > before:
                self.company.checks.wrote(self.name)
            return outcome

        self._ask(carry_out, answer)

    def _join(self) -> None:
        if self._is_joining:
            return
        self._is_joining = True
        old, self.election.lease = self.election.lease, 0
        store, clock = self.world.store, self.world.clock
        asked_s = self.now

        def granted(lease: object) -> None:
            if not isinstance(lease, int):
                self.later(1.0, again)
                return
            self._confirmed_s = asked_s
            transaction = membership.join(self.world.keys, self.id, self.live, lease)
            self._commit(transaction, lambda outcome: joined(lease, outcome))

        def joined(lease: int, outcome: object) -> None:
            if not isinstance(outcome, Outcome) or not outcome.succeeded:
                self.later(0.5, again)
                return
            self._is_joining = False
            self.election.lease = lease
            self._dirty = True
            self.later(TTL_S / 3, lambda: self._refresh(lease))
            self._list()

        def again() -> None:
            self._is_joining = False
            self._join()

        def ask() -> int:
            if old:
                store.revoke(old, clock.now)
            return store.grant(TTL_S, clock.now)

        self._ask(ask, granted)

    def _refresh(self, lease: int) -> None:
        if self.election.lease != lease:
            return
        sent_s = self.now

        def answered(left_s: object) -> None:
            if self.election.lease != lease:
                return
            if left_s == 0 or self.now - self._confirmed_s > TTL_S:
                self._join()
                return
            if isinstance(left_s, int):
                self._confirmed_s = sent_s
            self.later(TTL_S / 3, lambda: self._refresh(lease))

        self._ask(lambda: self.world.store.refresh(lease, self.world.clock.now), answered)

    def _list(self) -> None:
        """Read everything at one revision, and watch from there."""

        def listed(result: object) -> None:
            if not isinstance(result, tuple):
                self._lose_stream()
                return
            revision, rows = result
            before = {name: dict(table.servers) for name, table in self.agreed.items()}
            changed: list[str] = []
            for prefix in self.prefixes:
                if revision < self.memory.applied(prefix):
                    continue
                found = [row for row in rows if row.key.startswith(prefix)]
                changed += [event.key for event in self.memory.replace(prefix, found, revision)]
                self._cursors[prefix] = revision + 1
            self.is_connected = True
            self._remember()
            self.company.checks.listed(self, before, changed)
            for prefix in self.prefixes:
                self.stir(prefix)

        self._ask(lambda: self.world.store.snapshot(self.prefixes, self.world.clock.now), listed)

    def stir(self, prefix: str) -> None:
        """Something happened below a prefix: it will be told."""
        if self.is_connected and prefix not in self._pulls:
            self._pulls.add(prefix)
            self._receive_after(self.world.delivery_s(self.name, prefix), lambda: self._pull(prefix))

    def _pull(self, prefix: str) -> None:
        self._pulls.discard(prefix)
        if not self.is_connected:
            return
        if not self.world.passes("store", self.name) or not self.world.store.has_leader:
            self._lose_stream()
            return
        try:
            batches = list(self.world.store.history(prefix, self._cursors[prefix]))
        except Compacted:
            self._lose_stream()
            return
        for batch in batches:
            self.memory.apply(batch)
            self._cursors[prefix] = batch.revision + 1
        if batches:
            self._remember()

    def _lose_stream(self) -> None:
        self.is_connected = False
        self.later(self.world.chance.uniform(0.3, 3.0), self._list)

    # -- what is known

    def _remember(self) -> None:
        """Memory changed: everything that follows from it is computed anew."""
        self._dirty = True
        world, memory = self.world, self.memory
        self.electorate = electorate(memory.under(world.keys.live_prefix), world.keys)
        row = memory.row(world.keys.accepted)
        if row is not None:
            accepted = decode(row.key, row.value, Accepted)
            if accepted.gen != self.generation:
                self._run(accepted.gen)
        if self.topology is None:
            return
        self.overrides = overrides.read(
            memory.under(world.keys.override),
            world.keys,
            servers={
                (name, server)
                for name, cluster in self.topology.clusters.items()
                for server in cluster.servers
            },
            pools=(),
        )
        for name in self.topology.clusters:
            self.held[name] = self._bans(name)
            self._assign(name)
            self.agreed[name] = self.table(name, alone=False)
        self.company.checks.table(self)

    def _bans(self, cluster: str) -> dict[str, list[Ban]]:
        found: dict[str, list[Ban]] = {}
        for held in bans_of(self.memory.under(self.world.keys.cluster_bans(cluster)), self.world.keys):
            found.setdefault(held.server, []).append(held.ban)
        return found

    def table(self, cluster: str, *, alone: bool) -> Effective:
        """What the servers may be used for: by what is agreed, and if asked also by what this node sees."""
        assert self.topology is not None
        opinions = {}
        if alone:
            for server, standing in self.health[cluster].standings().items():
                opinions[server] = LocalOpinion(
                    reads=standing.reads,
                    writes=standing.writes,
                    wrong=server in self.health[cluster].roles.wrong,
                    reason=standing.reason,
                )
        return effective(
            self.topology.clusters[cluster],
            bans=self.held[cluster],
            primary="p0",
            overrides=self.overrides.of_cluster(cluster),
            zone=self.zone,
            opinions=opinions,
            ramps={},
        )

    def _run(self, generation: int) -> None:
        """Go by another generation: clusters that changed are watched anew, as by the real node."""
        before, self.topology = self.topology, self.world.topologies[generation]
        self.generation = generation
        for name, cluster in self.topology.clusters.items():
            if before is not None and before.clusters.get(name) == cluster:
                continue
            self.health[name] = ClusterHealth(
                servers=list(cluster.servers),
                leadership=cluster.leadership,
                health=self.topology.fleet.health,
                read=cluster.read,
                now=self.now,
            )
            self.benches.setdefault(name, Bench(self.id, self.zone, self.world.keys))
            self.rounds = {place: turn for place, turn in self.rounds.items() if place[0] != name}
            for server in cluster.servers:
                self.rounds[name, server] = Round()
                self._due(name, server, self.world.chance.uniform(0, 0.2))

    def _assign(self, cluster: str) -> None:
        assert self.topology is not None
        held = self.held[cluster]
        health = self.health[cluster]
        for server in self.topology.clusters[cluster].servers:
            seat = jury.seat(f"{cluster}/{server}", self.electorate.serving, self.topology.fleet.jury)
            own = [ban for ban in held.get(server, ()) if reaches(ban.scope, self.zone)]
            duty = Duty(
                is_juror=seat.rank(self.id) is not None,
                nodes=len(self.electorate.rows),
                banned=any(ban.state == "banned" for ban in own),
                strikes=max((ban.strikes for ban in own), default=0),
            )
            if health.assign(server, duty):
                self._due(cluster, server, health.probe_interval_s(server))

    # -- probes

    def _due(self, cluster: str, server: str, delay_s: float, fresh: bool = False) -> None:
        """Probe within so long."""
        turn = self.rounds[cluster, server]
        if fresh:
            turn.left_on_link = 0
        due_s = max(self.now + delay_s, turn.started_s + 0.05)
        if turn.is_busy:
            turn.due_s = min(turn.due_s, due_s)
        elif not turn.turn or due_s < turn.due_s:
            turn.due_s = due_s
            turn.turn += 1
            number = turn.turn
            self.later(due_s - self.now, lambda: self._probe(cluster, server, turn, number))

    def _probe(self, cluster: str, server: str, turn: Round, number: int) -> None:
        if turn is not self.rounds.get((cluster, server)) or number != turn.turn or turn.is_busy:
            return
        health = self.health[cluster]
        if turn.left_on_link <= 0:
            source, turn.left_on_link = Source.FRESH, health.probes_per_link(server)
        else:
            source = Source.KEPT
        turn.left_on_link -= 1
        turn.is_busy, turn.started_s, turn.due_s = True, self.now, math.inf
        timeout_s = health.timeout_s(server, source)
        took_s, sample = self.world.probe(self.name, cluster, server, source, timeout_s)

        def ended() -> None:
            if turn is not self.rounds.get((cluster, server)):
                return
            turn.is_busy = False
            if sample.failure is not None:
                turn.left_on_link = 0
            decisions = health.receive(server, sample, self.now)
            interval_s = turn.started_s + health.probe_interval_s(server) - self.now
            wish_s, turn.due_s = turn.due_s - self.now, math.inf
            self._due(cluster, server, min(interval_s, wish_s))
            for decision in decisions:
                if isinstance(decision, ProbeWanted):
                    self._due(cluster, decision.server, decision.after_s, decision.fresh)
            if decisions or server in self.held[cluster]:
                self._dirty = True

        self._receive_after(took_s, ended)

    # -- deciding

    def _tick(self) -> None:
        now = self.now
        self.score.loop_was_late(now - self._last_tick_s - TICK_S, now)
        self._last_tick_s = now
        for health in self.health.values():
            health.tick(now)
            health.local_score = self.score.value(now)
            self._dirty |= health.is_tilted(now)
        self._dirty |= bool(self.suspicion.spared)
        if self.election.lease and now - self._confirmed_s > TTL_S:
            self._join()
        self.later(TICK_S, self._tick)

    def _attend(self) -> None:
        """Let the machines see what is new."""
        now = self.now
        if not self._dirty and now < self._wakes_s:
            return
        self._dirty = False
        self._wakes_s = math.inf
        if self.topology is None:
            self._elect(now)
            return
        looks = {
            (name, server): look(f"{name}-{server}", self.health[name], server)
            for name, cluster in self.topology.clusters.items()
            for server in cluster.servers
        }
        for question in self.suspicion.look(looks, now):
            self._ask_peers(question)
        for name, cluster in self.topology.clusters.items():
            health, bench = self.health[name], self.benches[name]
            spared = {server for own, server in self.suspicion.spared if own == name}
            health.spare(frozenset(spared))
            court = Court(
                keys=self.world.keys,
                cluster=cluster,
                fleet=self.topology.fleet,
                generation=self.generation,
                primary="p0",
                primary_reads=True,
                memory=self.memory,
                overrides=self.overrides,
            )
            beliefs = {
                server: belief(name, server, health, self.suspicion, now) for server in cluster.servers
            }
            for effect in bench.step(
                court, self.electorate, beliefs, is_tilted=health.is_tilted(now), now=now
            ):
                self._perform(name, effect)
            self._wake(bench.due_s)
        self._elect(now)
        self._clean()
        self._flush()

    def _wake(self, due_s: float | None) -> None:
        if due_s is not None and due_s < self._wakes_s:
            self._wakes_s = due_s
            self.later(due_s - self.now, lambda: None)

    def _perform(self, cluster: str, effect: Effect) -> None:
        match effect:
            case Publish(key=key, value=value):
                self._outbox[key] = value
            case Withdraw(key=key):
                self._outbox[key] = None
            case ProbeNow(server=server):
                self._due(cluster, server, 0.0, fresh=True)
            case Nudge(nodes=nodes, server=server):
                for node in nodes:
                    self.company.send(self, node, lambda peer: peer.nudged(cluster, server))
            case Decide():
                self.world.note(f"{self.id} proposes {effect.what} {cluster}/{effect.server}")
                self._decisions.append((cluster, effect))

    def nudged(self, cluster: str, server: str) -> None:
        if (cluster, server) in self.rounds:
            self._due(cluster, server, 0.0, fresh=True)

    def _flush(self) -> None:
        """Send what waits, one write per key and one decision at a time, as fast as the bucket allows."""
        lease = self.election.lease
        if not lease:
            self._outbox.clear()
        for key in [key for key in self._outbox if key not in self._writing]:
            if (at_s := self.bucket.take(self.now)) is not None:
                self._wake(at_s)
                return
            value = self._outbox.pop(key)
            operation = Delete(key=key) if value is None else Put(key=key, value=value, lease=lease)
            self._writing.add(key)
            self._commit(Transaction(then=(operation,)), lambda _, key=key: self._written(key), counts=True)
        if self._decisions and not self._is_deciding:
            if (at_s := self.bucket.take(self.now)) is not None:
                self._wake(at_s)
                return
            self._is_deciding = True
            self._decide(*self._decisions.pop(0))

    def _written(self, key: str) -> None:
        self._writing.discard(key)
        self._dirty = True

    def _decide(self, cluster: str, effect: Decide) -> None:
        granted: list[int] = []

        def next_lease() -> None:
            if len(granted) == len(effect.leases_s):
                self._commit(with_leases(effect.transaction, granted), done, counts=True)
                return
            ttl_s = math.ceil(effect.leases_s[len(granted)])
            self._ask(lambda: self.world.store.grant(ttl_s, self.world.clock.now), was_granted)

        def was_granted(lease: object) -> None:
            if isinstance(lease, int):
                granted.append(lease)
                next_lease()
            else:
                done(Unavailable("no lease"))

        def done(outcome: object) -> None:
            self._is_deciding = False
            self._dirty = True
            is_known = isinstance(outcome, Outcome)
            text = (
                ("done" if outcome.succeeded else "refused")
                if isinstance(outcome, Outcome)
                else repr(outcome)
            )
            self.world.note(f"{self.id} {effect.what} {cluster}/{effect.server}: {text}")
            self.benches[cluster].decided(outcome if is_known else None, self.now)  # type: ignore[arg-type]

        next_lease()

    # -- peers

    def _ask_peers(self, question: AskPeers) -> None:
        others = [
            Neighbour(node=voter.node, peer="", zone=voter.zone)
            for voter in self.electorate.serving
            if voter.node != self.id
        ]
        peers = witnesses(others, self.zone, self.world.chance.randrange(1000))
        replies: dict[Place, dict[str, Seen | None]] = {
            place: dict.fromkeys(peer.node for peer in peers) for place in question.servers
        }
        for peer in peers:
            self.company.send(self, peer.node, lambda other: other.asked(question.servers, self, take))

        def take(node: str, place: Place, seen: Seen) -> None:
            replies[place][node] = seen

        def conclude() -> None:
            agreed = {place for place, found in replies.items() if confirmed(list(found.values()))}
            self.suspicion.answered(question.question, frozenset(agreed))
            self._dirty = True

        self.later(PEERS_DEADLINE_S, conclude)

    def asked(
        self, places: frozenset[Place], asker: Actor, answer: Callable[[str, Place, Seen], None]
    ) -> None:
        """Another node doubts its own eyes: look for it."""
        for place in sorted(places & self.rounds.keys()):
            took_s, sample = self.world.probe(self.name, *place, Source.FRESH, 1.0)
            evidence = "ok" if sample.failure is None else sample.failure.value
            seen = Seen(id=0, evidence=evidence, rtt_ms=took_s * 1000, age_ms=0.0)

            def reply(place: Place = place, seen: Seen = seen) -> None:
                self.company.send(self, asker.id, lambda _: answer(self.id, place, seen))

            self._receive_after(took_s, reply)

    # -- the coordinator

    def _elect(self, now: float) -> None:
        is_tilted = any(health.is_tilted(now) for health in self.health.values())
        self.election.tilted_since = (self.election.tilted_since or now) if is_tilted else None
        for effect in self.election.step(self.memory, now):
            if isinstance(effect, Commit):
                self._commit(effect.transaction, lambda _: setattr(self, "_dirty", True))
        self._wake(self.election.due_s)

    def _clean(self) -> None:
        term = self.election.term(self.memory)
        if term is None or self._is_cleaning or self.topology is None:
            return
        servers = {name: tuple(cluster.servers) for name, cluster in self.topology.clusters.items()}
        row = self.memory.row(self.world.keys.accepted)
        if row is None or decode(row.key, row.value, Accepted).gen != self.generation:
            return
        transaction = departed(self.memory, self.world.keys, servers, term)
        if transaction is not None:
            self._is_cleaning = True
            self.later(1.0, lambda: setattr(self, "_is_cleaning", False))
            self.company.checks.coordinates(term, transaction)
            self._commit(transaction, lambda _: None)

    def activate(self, generation: int) -> bool:
        """As the coordinator: from now on the fleet goes by this generation."""
        term = self.election.term(self.memory)
        row = self.memory.row(self.world.keys.accepted)
        if term is None:
            return False
        accepted = Accepted(gen=generation, from_rev=0, term=term, docs={})
        compares = (holds_term(self.world.keys, term), *([unchanged(row)] if row is not None else []))
        put = Put(key=self.world.keys.accepted, value=encode(accepted))
        self._commit(Transaction(compares=compares, then=(put,)), lambda _: None)
        return True
