"""The nodes of a run together, what befalls them, and whether all is well again at the end."""

from __future__ import annotations

from collections.abc import Callable

from pgcat_cluster.agreement import overrides
from pgcat_cluster.agreement.transactions import Delete, Put, Transaction
from tests.simulation.actor import Actor
from tests.simulation.checks import Checks
from tests.simulation.world import Plan, World


class Company:
    """Owns the nodes, alive and dead, and passes on what the store and the nodes tell."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.world = World(seed, plan)
        self.checks = Checks(self.world)
        self.actors: dict[str, Actor] = {}
        self.generation = 1
        self.removed: frozenset[tuple[str, str]] = frozenset()
        self._seen = 1
        self._rates: dict[str, float] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self.world.topology(1)
        self.world.store.listen(self._committed)
        chance = self.world.chance
        for index in range(plan.nodes):
            name, zone = f"n{index}", f"z{index % plan.zones}"
            # Two nodes of one host stand in one zone.
            host = f"h{index - plan.zones if plan.hosts_shared and index % 5 == 4 else index}"
            self.world.zones[name] = zone
            self._places[name] = (host, zone)
            self._rates[name] = chance.uniform(0.9, 1.1)
        for name in self._places:
            self.world.clock.after(chance.uniform(0, 0.5), lambda name=name: self.start(name))
        self._expire()
        self.activate()

    def _committed(self) -> None:
        store, keys = self.world.store, self.world.keys
        batches = list(store.history("", self._seen + 1)) if store.revision > self._seen else []
        touched = set()
        for batch in batches:
            self._seen = batch.revision
            self.checks.batch(batch)
            touched |= {key.key.removeprefix(keys.root).split("/")[0] + "/" for key in batch.events}
        for actor in self.actors.values():
            if not actor.is_dead:
                for prefix in touched:
                    if keys.root + prefix in actor.prefixes:
                        actor.stir(keys.root + prefix)

    def _expire(self) -> None:
        self.world.store.advance(self.world.clock.now)
        self.world.clock.after(0.1, self._expire)

    def start(self, name: str) -> None:
        host, zone = self._places[name]
        self.actors[name] = Actor(self.world, self, name, host, zone, self._rates[name])

    def activate(self) -> None:
        """Somebody who holds the office accepts the newest generation, as soon as there is somebody."""
        row = self.checks.rows.get(self.world.keys.accepted)
        if row is not None and f'"gen":{self.generation},'.encode() in row.value:
            return
        for actor in self.actors.values():
            if not actor.is_dead and not actor.is_paused and actor.activate(self.generation):
                break
        self.world.clock.after(0.5, self.activate)

    def change(self, removed: frozenset[tuple[str, str]]) -> None:
        """An edit: these servers are gone, all others are there."""
        row = self.checks.rows.get(self.world.keys.accepted)
        if row is None or f'"gen":{self.generation},'.encode() not in row.value:
            return
        self.generation += 1
        self.removed = removed
        self.world.topology(self.generation, removed)
        self.activate()

    def send(self, sender: Actor, node: str, deliver: Callable[[Actor], None]) -> None:
        """A message to another node's peer port."""
        name = node.rpartition(".")[0]
        if not self.world.passes(sender.name, name):
            return
        peer = self.actors[name]
        if peer.id == node:
            peer._receive_after(self.world.chance.uniform(0.0005, 0.002), lambda: deliver(peer))

    def say(self, cluster: str, server: str, word: str | None) -> None:
        """An operator writes an override, or takes it back."""
        key = (
            self.world.keys.freeze
            if cluster == "_fleet"
            else self.world.keys.server_override(cluster, server)
        )
        if word is None:
            if key not in self.checks.rows:
                return
            self.checks.overrides_deleted += 1
        operation = Delete(key=key) if word is None else Put(key=key, value=word.encode())
        if self.world.store.has_leader:
            self.world.store.txn(Transaction(then=(operation,)), self.world.clock.now)
        elif word is None:
            self.checks.overrides_deleted -= 1

    def run_until(self, time_s: float) -> None:
        while self.world.clock.now < time_s:
            self.world.clock.step()

    # -- at the end

    def heal(self) -> None:
        """Everything is set right; servers that are ill stay so."""
        world = self.world
        world.cuts.clear()
        world.zone_cuts.clear()
        world.answers_lost = 0
        world.lag_by_prefix.clear()
        if not world.store.has_leader:
            world.store.elect(world.clock.now)
        for actor in self.actors.values():
            if actor.is_paused:
                actor.resume()
        for name in self._places:
            if name not in self.actors or self.actors[name].is_dead:
                self.start(name)
        world.note("all faults are over")

    def judge(self) -> None:
        """I7, I8 and I12: long after the last change, what is bad is avoided by all, and what is good is used."""
        world, checks = self.world, self.checks
        for actor in self.actors.values():
            if not actor.is_connected or actor.generation != self.generation:
                checks.fail("I12", f"{actor.id} is at {actor.generation}, not at {self.generation}")
        actor = next(iter(self.actors.values()))
        assert actor.topology is not None
        is_frozen = world.keys.freeze in checks.rows
        for (cluster, server), state in world.servers.items():
            if (cluster, server) in self.removed:
                continue
            said = actor.overrides.servers.get((cluster, server))
            tables = {one.id: one.table(cluster, alone=False).servers[server] for one in self.actors.values()}
            if state.kind == "up" and said is None:
                out = [node for node, use in tables.items() if not use.reads]
                if out:
                    checks.fail("I8", f"{cluster}/{server} is good, but not for {out}: {tables[out[0]]}")
            elif state.kind in ("down", "wrong", "hung") and said is None and not is_frozen:
                others = [
                    name
                    for name in actor.topology.clusters[cluster].servers
                    if name != server
                    and world.servers[cluster, name].kind == "up"
                    and not overrides.removes(actor.overrides.servers.get((cluster, name)))
                ]
                used = [node for node, use in tables.items() if use.reads]
                if used and len(others) >= actor.topology.clusters[cluster].min_healthy:
                    checks.fail("I7", f"{cluster}/{server} is {state.kind}, but used by {used}")
