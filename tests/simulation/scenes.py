"""Scenes: what is done to a small fleet in which all is well, step by step, until it is where somebody wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pgcat_cluster.agreement import jury
from pgcat_cluster.agreement.documents import Ack, Ban, Coord, Live, decode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Operation, Put, Transaction
from tests.simulation.fleet import Company
from tests.simulation.node import Process
from tests.simulation.world import Place, Plan

_JOINED_S = 8.0
_PATIENCE_S = 40.0
_LOOK_S = 0.001

KEYS = Keys("sim")
R1: Place = ("main", "r1")
# Three nodes, a jury of all of them, and one server of four that may be missing.
_PLAN = Plan(nodes=3, zones=3, clusters={"main": 4}, jury=5, min_healthy=3, lag_share=0.0)

Scene = Callable[[Company], None]


@contextmanager
def small_fleet(plan: Mapping[str, Any]) -> Iterator[Company]:
    """A fleet like `_PLAN`, but for what `plan` says. Raises Violated."""
    company = Company(1, replace(_PLAN, **plan))
    with company.open():
        wait(company, _JOINED_S)
        yield company


def wait(company: Company, duration_s: float) -> None:
    company.run_until(company.world.clock.now + duration_s)


def until(company: Company, condition: Callable[[], bool]) -> None:
    end_s = company.world.clock.now + _PATIENCE_S
    while not condition():
        assert company.world.clock.now < end_s, "it never came so far\n" + "\n".join(company.world.history)
        wait(company, _LOOK_S)


def some(wanted: Callable[[Operation], bool]) -> Callable[[Transaction], bool]:
    """Whether a transaction does something like that."""
    return lambda transaction: any(map(wanted, transaction.then))


activates = some(lambda one: isinstance(one, Put) and one.key == KEYS.accepted)


def nothing(_company: Company) -> None:
    pass


def say(key: str, value: bytes | None) -> Scene:
    """An operator overrides something, or takes it back."""
    return lambda company: company.say(key, value)


def unban(company: Company) -> None:
    company.unban(R1)


# -- servers


def turn(kind: str, server: str = "r1") -> Scene:
    return lambda company: company.world.servers["main", server].turn(kind, company.world.clock.now)


def cut(*nodes: str, server: str = "r1") -> Scene:
    """Some nodes do not reach it any more."""
    edges = [edge for node in nodes for edge in ((node, f"main/{server}"), (f"main/{server}", node))]
    return lambda company: company.world.cuts.update(edges)


def _is(company: Company, state: str, strikes: int = 1) -> bool:
    """Whether r1 is banned, or on probation."""
    bans = [decode(row.key, row.value, Ban) for row in company.checks.under(KEYS.server_bans(*R1))]
    return any((ban.state, ban.strikes) == (state, strikes) for ban in bans)


def _verdicts(company: Company) -> int:
    return len(company.checks.under(KEYS.server_verdicts(*R1)))


def two_fail(company: Company) -> None:
    turn("hung", "r2")(company)
    wait(company, 0.5)
    turn("hung", "r1")(company)


def is_banned(company: Company) -> None:
    until(company, lambda: _is(company, "banned"))


def comes_back_banned(company: Company) -> None:
    turn("down")(company)
    is_banned(company)
    turn("up")(company)


def on_probation(company: Company) -> None:
    comes_back_banned(company)
    until(company, lambda: _is(company, "probation"))


def fails_on_probation(company: Company) -> None:
    on_probation(company)
    turn("down")(company)


def is_banned_again(company: Company) -> None:
    turn("down")(company)
    until(company, lambda: _is(company, "banned", strikes=2))


def fails_under_a_pin(company: Company) -> None:
    say(KEYS.server_override(*R1), b"pin")(company)
    turn("down")(company)


def verdicts_are_withdrawn(company: Company) -> None:
    turn("up")(company)
    until(company, lambda: _verdicts(company) < 2)


def praise_is_withdrawn(company: Company) -> None:
    turn("down")(company)
    until(company, lambda: _verdicts(company) < 2)


def one_host_cannot_reach_its_own(company: Company) -> None:
    """Two nodes of one host, and the server for which they rank before all others."""
    names = [process.name for process in company.alive]
    for _cluster, server in company.world.servers:
        ranked = sorted(names, key=lambda name: -jury.weight(f"main/{server}", name))
        if set(ranked[:2]) == {"n3", "n4"}:
            cut("n3", "n4", server=server)(company)


def all_replicas_hang(company: Company) -> None:
    for server in ("r1", "r2", "r3"):
        turn("hung", server)(company)


# -- nodes


def _node(company: Company, name: str) -> Process:
    return next(process for process in company.alive if process.name == name)


def _serving(company: Company) -> set[str]:
    lives = (decode(row.key, row.value, Live) for row in company.checks.under(KEYS.live_prefix))
    return {live.name for live in lives if live.state == "serving"}


def one_leaves(company: Company) -> None:
    _node(company, "n2").leave()
    until(company, lambda: "n2" not in _serving(company))


def two_leave(company: Company) -> None:
    for name in ("n3", "n4"):
        _node(company, name).leave()
    until(company, lambda: len(_serving(company)) == 3)


def two_join(company: Company) -> None:
    for name in ("n3", "n4"):
        company.start(name)
    until(company, lambda: len(_serving(company)) == 5)


def two_of_three_cannot_reach(company: Company) -> None:
    two_leave(company)
    cut("n0", "n1")(company)


def two_of_three_find_it_good(company: Company) -> None:
    two_leave(company)
    turn("down")(company)
    is_banned(company)
    cut("n2")(company)
    turn("up")(company)


# -- the coordinator


def _holder(company: Company) -> str:
    row = company.checks.rows.get(KEYS.coord)
    return "" if row is None else decode(row.key, row.value, Coord).node


def _coordinator(company: Company) -> Process:
    return next(process for process in company.alive if process.id == _holder(company))


def another_is_elected(company: Company) -> None:
    before = _coordinator(company)
    before.kill()
    until(company, lambda: _holder(company) not in ("", before.id))


def coordinator_leaves(company: Company) -> None:
    _coordinator(company).leave()


def others_ask_too(company: Company) -> None:
    wait(company, 0.3)


def only_the_coordinator_is_awake(company: Company) -> None:
    for process in company.alive:
        process.is_paused = process is not _coordinator(company)
    edit(company)


# -- edits


def _generation(company: Company) -> int:
    return 0 if company.checks.in_force is None else company.checks.in_force.gen


def _objects(company: Company, name: str) -> bool:
    acks = company.checks.under(f"{KEYS.ack_prefix}{name}.")
    return any(decode(row.key, row.value, Ack).nacked for row in acks)


def edit(company: Company, *removed: str) -> None:
    """Some servers are removed, r3 if none is named."""
    places = frozenset(("main", server) for server in removed or ("r3",))
    assert company.put(company.documents(places), places)


def another_edit(company: Company) -> None:
    edit(company, "r2")


def loses_servers(company: Company) -> None:
    edit(company, "r1", "r2", "r3")


def may_lose_servers(company: Company) -> None:
    loses_servers(company)
    company.permit()


def another_generation(company: Company) -> None:
    """What nodes learn of it comes late."""
    company.world.lag_by_prefix[KEYS.decided] = 2.0
    edit(company)
    until(company, lambda: _generation(company) == 2)


def departs(company: Company) -> None:
    turn("down")(company)
    is_banned(company)
    edit(company, "r1")


def is_part_of_it_again(company: Company) -> None:
    edit(company, "r3")
    until(company, lambda: _generation(company) == 3)


def one_objects(company: Company) -> None:
    node = _node(company, "n1")
    company.world.broken.add(node.name)
    node.context.run(node.member.judge_again)
    until(company, lambda: _objects(company, "n1"))


def one_that_does_not_serve_objects(company: Company) -> None:
    """It lacks what the accepted documents need, and the desired ones too. Its word does not count."""
    company.world.broken.add("n2")
    company.restart_without_state("n2")
    company.say(KEYS.freeze, b"on")
    edit(company)
    until(company, lambda: _objects(company, "n2"))
    assert "n2" not in _serving(company)
    company.say(KEYS.freeze, None)


def it_serves(company: Company) -> None:
    """By the accepted documents; what it says of the others has not changed."""
    world, keeps = company.world, company.world.keeps
    tells = some(lambda one: isinstance(one, Put) and one.key.startswith(KEYS.ack_prefix))
    world.keeps = lambda transaction, go: tells(transaction) or keeps(transaction, go)
    world.broken.discard("n2")
    until(company, lambda: "n2" in _serving(company))


def two_stay_behind(company: Company) -> None:
    """They find an edit good, but can not go by it; then a server fails."""
    another_generation(company)
    company.world.broken.update(("n0", "n1"))
    wait(company, 3.0)
    turn("down")(company)


def coordinator_misses_a_generation(company: Company) -> None:
    """A pool is added, of which it learns nothing; then the pool is taken away again."""
    world, keeps = company.world, company.world.keeps

    def lose_the_answer(transaction: Transaction, _go: Callable[[], None]) -> bool:
        if activates(transaction):
            world.answers_lost = 1
            world.lag_by_prefix[KEYS.decided] = 30.0
        return False

    world.keeps = lose_the_answer
    assert company.put({"pools/more": company.documents(frozenset())["pools/main"]})
    until(company, lambda: _generation(company) == 2)
    world.keeps = keeps
    company.withdraw("pools/more")
    edit(company)


# -- the store


def is_restored(company: Company) -> None:
    """Away for a while, then there again as another, as it was before an edit; and others write to it."""
    store = company.world.store
    restore = store.backup()
    edit(company)
    until(company, lambda: _generation(company) == 2)
    store.lose_leader()
    wait(company, 4.0)
    store.cluster_id += 1
    restore()
    store.elect(company.world.clock.now)
    for _ in range(20):
        company.say(KEYS.freeze, b"on")
        wait(company, 0.2)
        company.say(KEYS.freeze, None)
