"""Draws a run from its seed: its plan, what befalls it, and when."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.simulation.checks import Checks
from tests.simulation.fleet import Company
from tests.simulation.node import Process
from tests.simulation.world import STORE, Place, Plan

# Long enough for the longest ban, its probation, and joining again after a lost lease.
SETTLE_S = 75.0

_BROKEN = (
    ("pools/main", b"v = 1\nusers = { ap = {} }\n"),
    ("pools/main", b"v = 1\nusers = [\n"),
    ("clusters/main", b'v = 1\n[servers]\np0 = { host = "x", prot = 1 }\n'),
    ("fleet", b"v = 1\njury = 0\n"),
    ("fleet", b"\xff\xfe"),
    ("colour/blue", b"v = 1\n"),
)

# What can befall a fleet (the method of `Story` with this name), and how often.
_HAPPENINGS: dict[str, float] = {
    "server": 6,
    "flap": 2,
    "many_servers": 2,
    "promote": 1,
    "kill": 2,
    "leave": 2,
    "drain": 1,
    "pause": 2,
    "cold_start": 0.5,
    "cut_server": 2,
    "cut_servers": 1,
    "cut_store": 2,
    "cut_node": 1,
    "cut_zones": 1,
    "lose_leader": 1,
    "lose_store": 0.5,
    "slow_store": 1,
    "compact": 1,
    "restore": 0.3,
    "lose_answers": 2,
    "lag": 1,
    "lag_of_a_prefix": 1,
    "override": 1,
    "unban": 1,
    "freeze": 1,
    "edit": 2,
    "bad_edit": 1,
    "break_node": 1,
    "delete_all": 0.5,
    "permit": 0.7,
}


def plan_of(seed: int, nodes: int | None = None) -> Plan:
    """What a run is made of. Most are small: few nodes meet more often; one in forty is large. Half have a theme."""
    chance = random.Random(f"plan {seed}")
    few = (2, 3, 3, 4, 5, 5, 6, 7, 8, 10, 12)
    count = nodes or (chance.choice((60, 120, 200)) if chance.random() < 0.025 else chance.choice(few))
    servers = chance.choice((2, 3, 4, 5))
    return Plan(
        nodes=count,
        zones=chance.choice((1, 2, 3, 3)),
        clusters={"main": servers, **({"other": 2} if chance.random() < 0.3 else {})},
        jury=chance.choice((3, 5, 9)),
        min_healthy=max(1, chance.choice((servers // 2, servers - 1))),
        source=chance.choice(("static", "observe")),
        lag_share=chance.choice((0.0, 0.05, 0.3, 0.5)),
        lag_s=chance.choice((0.1, 0.5, 3.0)),
        hosts_shared=chance.random() < 0.3,
        keeps_state=chance.random() < 0.8,
        pause_s=chance.choice((0.2, 1.0, 3.0)),
        favoured=tuple(chance.sample([*_HAPPENINGS], 3)) if chance.random() < 0.5 else (),
    )


class Story:
    """Lets something happen every now and then, and undoes it later."""

    def __init__(self, company: Company, until_s: float) -> None:
        self.company = company
        self.world = company.world
        self.until_s = until_s
        favoured = self.world.plan.favoured
        self._weights = [weight * (10 if name in favoured else 1) for name, weight in _HAPPENINGS.items()]
        self._backup = self.world.store.backup()
        self._backed_up_s = self.world.clock.now
        self._next()

    def _next(self) -> None:
        if self.world.clock.now >= self.until_s:
            return
        self.world.clock.after(self.world.chance.expovariate(1 / self.world.plan.pause_s), self._happen)

    def _happen(self) -> None:
        if self.world.clock.now < self.until_s:
            [name] = self.world.chance.choices([*_HAPPENINGS], self._weights)
            getattr(self, f"_{name}")()
        self._next()

    def _for_a_while(
        self, text: str, undo: Callable[[], object], low_s: float = 0.1, high_s: float = 12.0
    ) -> None:
        """Short times are as likely as long ones: races are short."""
        self.world.note(text)
        chance = self.world.chance
        self.world.clock.after(low_s * (high_s / low_s) ** chance.random(), undo)

    # -- servers

    def _place(self) -> Place:
        return self.world.chance.choice(list(self.world.servers))

    def _server(self) -> None:
        self._ill(self._place(), self._illness(), 0.3, 25.0)

    def _illness(self) -> str:
        return self.world.chance.choice(
            ("down", "down", "hung", "hung", "slow", "wrong", "starting", "lagging")
        )

    def _ill(self, place: Place, kind: str, low_s: float, high_s: float) -> None:
        state = self.world.servers[place]
        if kind == "wrong" and state.is_primary:
            kind = "down"
        state.slow_s = self.world.chance.uniform(0.05, 3.0)
        state.turn(kind, self.world.clock.now)

        def recover() -> None:
            state.turn("up", self.world.clock.now)
            self.world.note(f"server {place} is up")

        self._for_a_while(f"server {place} is {kind}", recover, low_s, high_s)

    def _many_servers(self) -> None:
        """Several at the same moment: the limits are met."""
        cluster = self.world.chance.choice(list(self.world.plan.clusters))
        kind = self._illness()
        for place in self.world.servers:
            if place[0] == cluster and self.world.chance.random() < 0.7:
                self._ill(place, kind, 4.0, 20.0)

    def _flap(self) -> None:
        place = self._place()
        period_s = self.world.chance.choice((0.25, 0.5, 1.5, 4.0))
        for index in range(int(8 / period_s)):
            kind = "up" if index % 2 else "down"
            self.world.clock.after(
                index * period_s,
                lambda kind=kind: self.world.servers[place].turn(kind, self.world.clock.now),
            )
        self.world.clock.after(10, lambda: self.world.servers[place].turn("up", self.world.clock.now))
        self.world.note(f"server {place} flaps every {period_s} s")

    def _promote(self) -> None:
        """Somebody outside makes a replica the primary."""
        place = self._place()
        if self.world.servers[place].kind == "up" and self.world.plan.source == "observe":
            self.world.promote(place)
            self.world.note(f"server {place} is the primary")

    # -- nodes

    def _process(self) -> Process | None:
        alive = self.company.alive
        return self.world.chance.choice(alive) if alive else None

    def _name(self) -> str:
        return self.world.chance.choice(list(self.company.processes) or ["n0"])

    def _again(self, name: str) -> None:
        if self.company.processes[name].is_dead:
            self.world.note(f"node {name} starts")
            self.company.start(name)

    def _kill(self) -> None:
        if (process := self._process()) is not None:
            process.kill()
            self._for_a_while(f"node {process.name} is killed", lambda: self._again(process.name))

    def _leave(self) -> None:
        process = self._process()
        if process is not None and not process.is_paused:
            process.leave()
            self._for_a_while(f"node {process.name} leaves", lambda: self._again(process.name))

    def _drain(self) -> None:
        process = self._process()
        if process is not None and not process.is_paused:
            process.context.run(process.member.drain)

            def restart() -> None:
                if not process.is_dead:
                    process.kill()
                    self._again(process.name)

            self._for_a_while(f"node {process.name} drains", restart, 2.0)

    def _pause(self) -> None:
        process = self._process()
        if process is not None and not process.is_paused:
            process.is_paused = True

            def resume() -> None:
                if process.is_paused:
                    self.world.note(f"node {process.name} wakes")
                    self.world.clock.resume(process)

            self._for_a_while(f"node {process.name} is stopped", resume, high_s=60.0)

    def _cold_start(self) -> None:
        """The whole fleet at once, perhaps while the store is away."""
        if self.world.chance.random() < 0.5 and self.world.plan.keeps_state:
            self._lose_store()
        for process in self.company.alive:
            process.kill()
            delay_s = self.world.chance.uniform(0.1, 2.0)
            self.world.clock.after(delay_s, lambda name=process.name: self._again(name))
        self.world.note("every node starts anew")

    # -- the network

    def _cut(self, one: str, other: str) -> None:
        """In one direction, or in both."""
        edges = [(one, other), (other, one)]
        chosen = edges if self.world.chance.random() < 0.6 else [self.world.chance.choice(edges)]
        self.world.cuts.update(chosen)
        self._stir()

        def mend() -> None:
            self.world.cuts.difference_update(chosen)
            self.world.note(f"mended {chosen}")

        self._for_a_while(f"cut {chosen}", mend, high_s=20.0)

    def _stir(self) -> None:
        """Streams that can tell nothing any more are found out."""
        for process in self.company.alive:
            for watch in tuple(process.store.watches):
                watch.stir()

    def _cut_server(self) -> None:
        self._cut(self._name(), "/".join(self._place()))

    def _cut_servers(self) -> None:
        """One node loses all its databases."""
        name = self._name()
        for cluster, server in self.world.servers:
            self._cut(name, f"{cluster}/{server}")

    def _cut_store(self) -> None:
        self._cut(self._name(), STORE)

    def _cut_node(self) -> None:
        self._cut(self._name(), self._name())

    def _cut_zones(self) -> None:
        chance, zones = self.world.chance, self.world.plan.zones
        if zones > 1:
            one, other = (f"z{index}" for index in chance.sample(range(zones), 2))
            self.world.zone_cuts.add((one, other))

            def mend() -> None:
                self.world.zone_cuts.discard((one, other))
                self.world.note(f"mended {one} to {other}")

            self._for_a_while(f"cut from {one} to {other}", mend)

    # -- the store

    def _lose_leader(self, low_s: float = 0.2, high_s: float = 10.0) -> None:
        if self.world.store.has_leader:
            self.world.store.lose_leader()

            def elect() -> None:
                if not self.world.store.has_leader:
                    self.world.store.elect(self.world.clock.now)

            self._for_a_while("the store has no leader", elect, low_s, high_s)

    def _lose_store(self) -> None:
        """For longer than any lease."""
        self._lose_leader(10.0, 40.0)

    def _slow_store(self) -> None:
        self.world.store_delay_s = self.world.chance.uniform(0.1, 2.0)

        def mend() -> None:
            self.world.store_delay_s = 0.0

        self._for_a_while("the store is slow", mend)

    def _compact(self) -> None:
        store = self.world.store
        if store.revision > store.compacted + 1:
            store.compact(store.revision)
            self.world.note("the store is compacted")

    def _restore(self) -> None:
        """An old state of the store, as another store or as itself; then an operator says that it is right."""
        world, store = self.world, self.world.store
        if not store.has_leader or world.clock.now - self._backed_up_s < 5.0:
            return
        if not all(process.member.memory.revision for process in self.company.alive):
            return  # who has heard nothing yet belongs to neither state
        if world.chance.random() < 0.5:
            store.cluster_id += 1
        self._backup()
        world.note(f"the store is restored as of {self._backed_up_s:.1f} s, at revision {store.revision}")
        self.company.desired = {
            world.keys.document(row.key): row.value for row in self.company.checks.config()
        }
        self._back_up()
        names = [process.name for process in self.company.alive]

        def agree() -> None:
            if world.chance.random() < 0.7:
                self.company.accept_store()
                return
            for name in names:
                self.company.restart_without_state(name)

        self._for_a_while("an operator looks at it", agree, 3.0, 15.0)

    def _back_up(self) -> None:
        self._backup = self.world.store.backup()
        self._backed_up_s = self.world.clock.now

    def _lose_answers(self) -> None:
        self.world.answers_lost += self.world.chance.randint(1, 3)

    def _lag(self) -> None:
        name = self._name()
        self.world.lag_by_node[name] = self.world.chance.uniform(0.05, 2.0)
        self._for_a_while(f"watches of {name} lag", lambda: self.world.lag_by_node.pop(name, None))

    def _lag_of_a_prefix(self) -> None:
        """Watches have no order between them: one may tell long after the others."""
        keys = self.world.keys
        prefix = self.world.chance.choice(
            (keys.live_prefix, keys.verdict_prefix, keys.decided, keys.override)
            + (keys.config_prefix, keys.ack_prefix)
        )
        self.world.lag_by_prefix[prefix] = self.world.chance.uniform(0.05, 2.0)
        self._for_a_while(f"watches of {prefix} lag", lambda: self.world.lag_by_prefix.pop(prefix, None))

    # -- operators

    def _override(self) -> None:
        cluster, server = self._place()
        word = self.world.chance.choice(("ban", "drain", "pin", "ignore"))
        key = self.world.keys.server_override(cluster, server)
        self.company.say(key, word.encode())
        self._for_a_while(f"override {cluster}/{server}", lambda: self.company.say(key, None))

    def _unban(self) -> None:
        self.company.unban(self._place())

    def _freeze(self) -> None:
        self.company.say(self.world.keys.freeze, b"on")
        self._for_a_while("freeze", lambda: self.company.say(self.world.keys.freeze, None))

    def _edit(self) -> None:
        """A server leaves, or comes back."""
        place = self._place()
        if place[1] == "p0":
            return
        removed = self.company.removed ^ {place}
        if self.company.put(self.company.documents(removed), removed):
            self.world.note(f"edit: without {sorted(removed)}")

    def _bad_edit(self) -> None:
        name, text = self.world.chance.choice(_BROKEN)
        if self.company.put({name: text}):
            self.world.note(f"bad edit of {name}")

            def mend() -> None:
                self.company.withdraw(name)
                self.company.put(self.company.documents(self.company.removed))

            self._for_a_while("until somebody sees it", mend)

    def _break_node(self) -> None:
        """Something outside the documents is missing on one node."""
        name = self._name()
        self.world.broken.add(name)

        def mend() -> None:
            self.world.broken.discard(name)
            process = self.company.processes.get(name)
            if process is not None and not process.is_dead:
                process.context.run(process.member.judge_again)

        self._for_a_while(f"node {name} can use no new documents", mend)

    def _delete_all(self) -> None:
        self.company.delete_all()

        def mend() -> None:
            self.company.put(self.company.documents(self.company.removed))

        self._for_a_while("everything under config/ is deleted", mend)

    def _permit(self) -> None:
        """Much is taken away, and an operator says that it is meant so."""
        replicas = [place for place in self.world.servers if place[1] != "p0"]
        removed = frozenset(place for place in replicas if self.world.chance.random() < 0.7)
        if self.company.put(self.company.documents(removed), removed):
            self.world.note(f"edit: without {sorted(removed)}")
            self.world.clock.after(self.world.chance.uniform(0, 2.0), self.company.permit)


def run(
    seed: int,
    *,
    nodes: int | None = None,
    trouble_s: float = 60.0,
    plan: Plan | None = None,
    settle: bool = True,
) -> tuple[int, Checks]:
    """One run. Answers its steps and what was checked; raises Violated."""
    company = Company(seed, plan or plan_of(seed, nodes))
    world = company.world
    with company.open():
        story = Story(company, 5.0 + trouble_s)
        company.run_until(story.until_s)
        if settle:
            company.heal()
            company.leave_some_ill()
            company.run_until(story.until_s + SETTLE_S)
            company.checks.at_the_end()
    return world.clock.steps, company.checks
