"""Draws a run from its seed: its plan, what befalls it, and when."""

from __future__ import annotations

import random
from collections.abc import Callable

from pgcat_cluster.agreement.transactions import Compare
from tests.simulation.checks import Checks
from tests.simulation.fleet import Company
from tests.simulation.world import STORE, Plan

# Long enough for the longest ban, its probation, and joining again after a lost lease.
SETTLE_S = 75.0


def plan_of(seed: int, nodes: int | None = None) -> Plan:
    """What a run is made of. Most are small: few nodes meet more often."""
    chance = random.Random(f"plan {seed}")
    count = nodes or chance.choice((2, 3, 3, 4, 5, 5, 6, 7, 8, 10, 12))
    servers = chance.choice((2, 3, 4, 5))
    return Plan(
        nodes=count,
        zones=chance.choice((1, 2, 3, 3)),
        clusters={"main": servers, **({"other": 2} if chance.random() < 0.3 else {})},
        jury=chance.choice((3, 5, 9)),
        min_healthy=max(1, chance.choice((servers // 2, servers - 1))),
        lag_share=chance.choice((0.0, 0.05, 0.3)),
        lag_s=chance.choice((0.1, 0.5, 3.0)),
        hosts_shared=chance.random() < 0.3,
        pause_s=chance.choice((0.3, 1.0, 3.0)),
    )


class Story:
    """Lets something happen every now and then, and undoes it later."""

    def __init__(self, company: Company, until_s: float) -> None:
        self.company = company
        self.world = company.world
        self.until_s = until_s
        self._happenings: list[tuple[float, Callable[[], None]]] = [
            (6, self._server),
            (2, self._flap),
            (2, self._many_servers),
            (2, self._kill),
            (2, self._leave),
            (1, self._drain),
            (2, self._pause),
            (2, self._cut_server),
            (1, self._cut_servers),
            (2, self._cut_store),
            (1, self._cut_node),
            (1, self._cut_zones),
            (1, self._lose_leader),
            (1, self._compact),
            (2, self._lose_answers),
            (1, self._lag),
            (1, self._lag_of_a_prefix),
            (1, self._vacancy),
            (1, self._override),
            (1, self._freeze),
            (1, self._edit),
        ]
        self._next()

    def _next(self) -> None:
        if self.world.clock.now >= self.until_s:
            return
        self.world.clock.after(self.world.chance.expovariate(1 / self.world.plan.pause_s), self._happen)

    def _happen(self) -> None:
        if self.world.clock.now < self.until_s:
            favoured = self.world.plan.favoured
            weights = [
                weight * (10 if happening.__name__.strip("_") in favoured else 1)
                for weight, happening in self._happenings
            ]
            [(_, happening)] = self.world.chance.choices(self._happenings, weights)
            happening()
        self._next()

    def _for_a_while(
        self, text: str, undo: Callable[[], None], low_s: float = 0.1, high_s: float = 12.0
    ) -> None:
        """Short times are as likely as long ones: races are short."""
        self.world.note(text)
        chance = self.world.chance
        self.world.clock.after(low_s * (high_s / low_s) ** chance.random(), undo)

    # -- servers

    def _place(self) -> tuple[str, str]:
        return self.world.chance.choice(list(self.world.servers))

    def _server(self) -> None:
        self._ill(self._place(), self._illness(), 0.3, 25.0)

    def _illness(self) -> str:
        return self.world.chance.choice(("down", "down", "hung", "hung", "slow", "wrong", "starting"))

    def _ill(self, place: tuple[str, str], kind: str, low_s: float, high_s: float) -> None:
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

    # -- nodes

    def _name(self) -> str:
        return self.world.chance.choice(list(self.company.actors) or ["n0"])

    def _again(self, name: str) -> None:
        if name in self.company.actors and self.company.actors[name].is_dead:
            self.world.note(f"node {name} starts")
            self.company.start(name)

    def _kill(self) -> None:
        name = self._name()
        if name in self.company.actors:
            self.company.actors[name].kill()
            self._for_a_while(f"node {name} is killed", lambda: self._again(name))

    def _leave(self) -> None:
        name = self._name()
        actor = self.company.actors.get(name)
        if actor is not None and not actor.is_dead and not actor.is_paused:
            actor.leave()
            self._for_a_while(f"node {name} stops", lambda: self._again(name))

    def _drain(self) -> None:
        name = self._name()
        actor = self.company.actors.get(name)
        if actor is not None and not actor.is_dead and not actor.is_paused:
            actor.drain()

            def stop() -> None:
                if not actor.is_dead and not actor.is_paused:
                    actor.leave()
                    self.world.clock.after(1.0, lambda: self._again(name))

            self._for_a_while(f"node {name} drains", stop, 0.1, 5.0)

    def _pause(self) -> None:
        actor = self.company.actors.get(self._name())
        if actor is not None and not actor.is_dead and not actor.is_paused:
            actor.pause()

            def resume() -> None:
                if not actor.is_dead:
                    actor.resume()

            self._for_a_while(f"node {actor.id} is frozen", resume)

    def _vacancy(self) -> None:
        """A node stops at the moment a server dies: the jury is another one."""
        self._leave()
        self._ill(self._place(), "down", 1.0, 10.0)

    # -- the network

    def _cut(self, one: str, other: str) -> None:
        ways = self.world.chance.choice([[(one, other)], [(other, one)], [(one, other), (other, one)]])
        self.world.cuts.update(ways)

        def mend() -> None:
            self.world.cuts.difference_update(ways)
            self.world.note(f"mended {ways}")

        self._for_a_while(f"cut {ways}", mend)

    def _cut_server(self) -> None:
        cluster, server = self._place()
        self._cut(self._name(), f"{cluster}/{server}")

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

    def _lose_leader(self) -> None:
        if self.world.store.has_leader:
            self.world.store.lose_leader()

            def elect() -> None:
                if not self.world.store.has_leader:
                    self.world.store.elect(self.world.clock.now)

            self._for_a_while("the store has no leader", elect, 0.2, 10.0)

    def _compact(self) -> None:
        store = self.world.store
        if store.revision > store.compacted + 1:
            store.compact(store.revision)
            self.world.note("the store is compacted")

    def _lose_answers(self) -> None:
        self.world.answers_lost += self.world.chance.randint(1, 3)

    def _lag(self) -> None:
        name = self._name()
        self.world.plan.lag_by_node[name] = self.world.chance.uniform(0.05, 2.0)
        self._for_a_while(
            f"watches of {name} lag", lambda: self.world.plan.lag_by_node.pop(name, None) and None
        )

    def _lag_of_a_prefix(self) -> None:
        """Watches have no order between them: one may tell long after the others."""
        keys = self.world.keys
        prefix = self.world.chance.choice(
            (keys.live_prefix, keys.verdict_prefix, keys.decided, keys.override)
        )
        self.world.lag_by_prefix[prefix] = self.world.chance.uniform(0.05, 2.0)
        self._for_a_while(
            f"watches of {prefix} lag", lambda: self.world.lag_by_prefix.pop(prefix, None) and None
        )

    # -- operators

    def _override(self) -> None:
        cluster, server = self._place()
        word = self.world.chance.choice(("ban", "drain", "pin", "ignore"))
        self.company.say(cluster, server, word)
        self._for_a_while(f"override {cluster}/{server}", lambda: self.company.say(cluster, server, None))

    def _freeze(self) -> None:
        self.company.say("_fleet", "", "on")
        self._for_a_while("freeze", lambda: self.company.say("_fleet", "", None))

    def _edit(self) -> None:
        place = self._place()
        if self.world.servers[place].is_primary:
            return
        self.company.change(self.company.removed ^ {place})
        self.world.note(f"edit: without {sorted(self.company.removed)}")


def run(
    seed: int,
    *,
    nodes: int | None = None,
    trouble_s: float = 60.0,
    weaken: Callable[[Compare], bool] | None = None,
    plan: Plan | None = None,
    settle: bool = True,
) -> tuple[int, Checks]:
    """One run. Answers its steps and what was checked; raises Violated."""
    company = Company(seed, plan or plan_of(seed, nodes))
    world = company.world
    world.weaken = weaken
    story = Story(company, 5.0 + trouble_s)
    company.run_until(story.until_s)
    if settle:
        company.heal()
        # One server stays ill, if it is to be, from before the end: it must be out at the end.
        for place, state in world.servers.items():
            if state.kind in ("slow", "starting") or state.is_primary:
                state.turn("up", world.clock.now)
            elif world.chance.random() < 0.2:
                state.turn(world.chance.choice(("down", "hung", "wrong")), world.clock.now)
            world.note(f"server {place} is {state.kind}")
        for key in [key for key in company.checks.rows if key.startswith(world.keys.override)]:
            named = world.keys.named(key)
            assert named is not None
            company.say(*(named.names if named.names else ("_fleet", "")), None)
        company.run_until(story.until_s + SETTLE_S)
        company.judge()
    return world.clock.steps, company.checks
