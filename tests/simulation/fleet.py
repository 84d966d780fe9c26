"""The nodes of a run together, what operators write, and whether all is well again at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pgcat_cluster.agreement.bundles import hash_of
from pgcat_cluster.agreement.cases import unban
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Delete, Operation, Put, Transaction
from pgcat_cluster.fleet.store import StoreFault
from tests.simulation.checks import Checks
from tests.simulation.node import Disk, Process
from tests.simulation.quiet import quiet
from tests.simulation.world import Place, Plan, World

_EXPIRY_S = 0.1
_INSIST_S = 7.0


class Company:
    """Owns the processes, alive and dead, and passes on what the store and the nodes tell."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.world = World(seed, plan)
        self.checks = Checks(self)
        self.processes: dict[str, Process] = {}
        self.disks: dict[str, Disk] = {}
        self.removed: frozenset[Place] = frozenset()  # by the newest good edit
        self.desired: dict[str, bytes] = {}
        self._rates: dict[str, float] = {}
        self._places: dict[str, tuple[str, str]] = {}
        chance = self.world.chance
        for index in range(plan.nodes):
            name, zone = f"n{index}", f"z{index % plan.zones}"
            # Two nodes of one host stand in one zone.
            host = f"h{index - plan.zones if plan.hosts_shared and index % 5 == 4 else index}"
            self.world.zones[name] = zone
            self._places[name] = (host, zone)
            self._rates[name] = chance.uniform(0.9, 1.1)
            self.disks[name] = Disk()
        self.world.clock.settled = self.checks.settled
        self.world.store.listen(self._committed)
        self.put(self.documents(frozenset()))
        for name in self._places:
            self.world.clock.after(chance.uniform(0, 0.5), lambda name=name: self.start(name))
        self._expire()

    def _committed(self) -> None:
        touched = self.checks.follow(self.world.store)
        for process in self.processes.values():
            for watch in tuple(process.store.watches):
                if touched is None or watch.prefix in touched:
                    watch.stir()

    def _expire(self) -> None:
        self.world.store.advance(self.world.clock.now)
        self.world.clock.after(_EXPIRY_S, self._expire)

    # -- nodes

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes.values() if not process.is_dead]

    def start(self, name: str) -> None:
        disk = self.disks[name] if self.world.plan.keeps_state else None
        with self.world.clock.entered():
            self.processes[name] = Process(
                self.world, self, name, self._places[name], self._rates[name], disk
            )

    def send(self, sender: str, peer: str, deliver: Callable[[Process], None]) -> None:
        """A message to a node's peer port, `name:port`."""
        name = peer.partition(":")[0]

        def arrive() -> None:
            process = self.processes.get(name)
            if process is not None and not process.is_dead and self.world.passes(sender, name):
                deliver(process)

        if name == sender or self.world.passes(sender, name):
            self.world.clock.after(self.world.chance.uniform(0.0005, 0.002), arrive)

    # -- operators

    def documents(self, removed: frozenset[Place]) -> dict[str, bytes]:
        """A whole good configuration without some servers."""
        plan = self.world.plan
        found = {
            "fleet": (
                f"v = 1\njury = {plan.jury}\n"
                'bans = { min = "3s", max = "12s", strike_decay = "30s", ramp = "4s" }\n'
            ),
            "users/app": 'v = 1\nauth = "trust"\n',
        }
        for cluster in plan.clusters:
            there = [
                name for own, name in self.world.servers if own == cluster and (own, name) not in removed
            ]
            servers = "\n".join(f'{name} = {{ host = "{cluster}-{name}" }}' for name in there)
            leadership = '{ source = "static", primary = "p0" }'
            if plan.source != "static":
                leadership = f'{{ source = "{plan.source}" }}'
            found[f"clusters/{cluster}"] = (
                f"v = 1\nmin_healthy = {min(plan.min_healthy, len(there))}\n"
                f"leadership = {leadership}\n[servers]\n{servers}\n"
            )
            found[f"pools/{cluster}"] = f'v = 1\ncluster = "{cluster}"\nusers = {{ app = {{}} }}\n'
        return {name: text.encode() for name, text in found.items()}

    def put(self, documents: Mapping[str, bytes], removed: frozenset[Place] | None = None) -> bool:
        """Desired documents; whether the store took them. What is the same already is not put again."""
        changed = {name: text for name, text in documents.items() if self.desired.get(name) != text}
        puts = tuple(Put(key=self.world.keys.config(name), value=text) for name, text in changed.items())
        if not puts or not self._carry_out(*puts):
            return False
        self.desired |= changed
        if removed is not None:
            self.removed = removed
        return True

    def withdraw(self, name: str) -> None:
        """A document that should not be there."""
        if name not in self.documents(frozenset()) and self._carry_out(
            Delete(key=self.world.keys.config(name))
        ):
            self.desired.pop(name, None)

    def delete_all(self) -> None:
        if self._carry_out(Delete(key=self.world.keys.config_prefix, prefix=True)):
            self.desired.clear()

    def say(self, key: str, value: bytes | None) -> None:
        """An override is written, or taken back."""
        if value is not None:
            self._carry_out(Put(key=key, value=value))
        elif key in self.checks.rows:
            self.checks.overrides_deleted += 1
            if not self._carry_out(Delete(key=key)):
                self.checks.overrides_deleted -= 1

    def unban(self, place: Place) -> None:
        """A server is forgiven."""
        memory, keys = Memory(), self.world.keys
        memory.replace(keys.root, self.checks.rows.values(), self.checks.revision)
        if (transaction := unban(memory, keys, *place)) is not None:
            self._carry_out(*transaction.then)

    def permit(self) -> None:
        """An operator agrees to exactly what is desired now."""
        newest = max((row.mod_revision for row in self.checks.config()), default=0)
        if newest:
            self._carry_out(Put(key=self.world.keys.activate, value=f'{{"rev":{newest}}}'.encode()))

    def _carry_out(self, *operations: Operation) -> bool:
        try:
            self.world.store.txn(Transaction(then=operations), self.world.clock.now)
        except StoreFault:
            return False
        return True

    def wanted_is_accepted(self) -> bool:
        """Whether the fleet accepted exactly what is desired."""
        accepted = self.checks.in_force
        docs = {name: hash_of(text) for name, text in self.desired.items()}
        return accepted is not None and accepted.docs == docs

    def run_until(self, time_s: float) -> None:
        self.world.clock.run_until(time_s)

    # -- at the end

    def heal(self) -> None:
        """Everything is set right; servers that are ill stay so."""
        world = self.world
        world.cuts.clear()
        world.zone_cuts.clear()
        world.answers_lost = 0
        world.store_delay_s = 0.0
        world.lag_by_prefix.clear()
        world.lag_by_node.clear()
        world.broken.clear()
        if not world.store.has_leader:
            world.store.elect(world.clock.now)
        for process in self.alive:
            if process.is_paused:
                world.clock.resume(process)
            if process.is_mixed:
                self.restart_without_state(process.name)
        for name in self._places:
            if name not in self.processes or self.processes[name].is_dead:
                self.start(name)
        for row in self.checks.under(world.keys.override):
            self.say(row.key, None)
        self._insist()
        good = self.documents(self.removed)
        for name in self.desired.keys() - good.keys():
            self.withdraw(name)
        self.put(good)
        self.permit()
        world.note("all faults are over")

    def accept_store(self) -> None:
        """An operator who saw the store says that it is right."""
        self.say(self.world.keys.store, b"accept")

    def _insist(self) -> None:
        """Until every node believes the store: each must have met it before the operator speaks."""
        if any(process.origin.epoch != self.world.store.epoch for process in self.alive):
            self.accept_store()
            self.world.clock.after(_INSIST_S, self._insist)

    def restart_without_state(self, name: str) -> None:
        """What an operator does who says that the store is right."""
        self.world.note(f"node {name} starts anew, by what the store says")
        self.processes[name].kill()
        self.disks[name] = Disk()
        self.start(name)

    def leave_some_ill(self) -> None:
        """Some servers stay ill, or fall ill now: they must be out at the end, and all others in."""
        world = self.world
        for place, state in world.servers.items():
            if state.kind in ("slow", "starting", "lagging") or state.is_primary:
                state.turn("up", world.clock.now)
            elif world.chance.random() < 0.2:
                state.turn(world.chance.choice(("down", "hung", "wrong")), world.clock.now)
            world.note(f"server {place} is {state.kind}")

    @contextmanager
    def open(self) -> Iterator[Company]:
        """For a run; nothing of it goes on afterwards."""
        clock = self.world.clock
        with quiet(clock):
            try:
                yield self
            finally:
                failure, clock.failure = clock.failure, None
                clock.settled = lambda _owner: None
                clock.end(self.alive)
                clock.failure = failure
            if failure is not None:
                raise failure
