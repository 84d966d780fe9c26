"""A short share of the simulation; and that it fails as soon as a guard of the ban transaction is left out."""

from __future__ import annotations

import pytest

from tests.simulation.checks import Checks
from tests.simulation.fleet import Company
from tests.simulation.guards import GUARDS, Guard, race_plan
from tests.simulation.story import run
from tests.simulation.world import Plan
from tests.support.invariants import Violated

pytestmark = pytest.mark.once


@pytest.mark.parametrize("seed", range(1, 5))
def test_all_invariants_hold(seed: int) -> None:
    _, checks = run(seed, trouble_s=30.0)
    assert checks.revision > 10


def test_they_hold_in_a_race() -> None:
    assert sum(
        run(seed, plan=race_plan(seed), trouble_s=20.0, settle=False)[1].bans_put for seed in range(1, 6)
    )


def weakened(guard: Guard, seeds: int) -> None:
    for seed in range(1, seeds + 1):
        plan = race_plan(seed, guard.favoured)
        run(seed, plan=plan, weaken=guard.compares, trouble_s=10.0, settle=False)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", GUARDS)
def test_each_guard_is_needed(name: str) -> None:
    guard = GUARDS[name]
    with pytest.raises(Violated, match=r"^(I[12]|life of a ban): "):
        weakened(guard, seeds=1000)


def test_a_failure_names_its_seed_and_its_story() -> None:
    with pytest.raises(Violated, match=r"(?s)seed \d+, step \d+.*proposes ban fleet main/"):
        weakened(GUARDS["ban prefix"], seeds=1000)


@pytest.mark.parametrize(("nodes", "writes_max"), [(3, 5), (8, 10), (60, 12)])
def test_a_dead_replica_costs_few_writes_and_peace_none(nodes: int, writes_max: int) -> None:
    plan = Plan(nodes=nodes, zones=3, clusters={"main": 4}, jury=9, min_healthy=2, lag_share=0.0)
    company = Company(1, plan)
    company.run_until(15.0)
    before = company.checks.revision
    company.run_until(25.0)
    assert company.checks.revision == before
    company.world.servers["main", "r1"].turn("down", company.world.clock.now)
    company.run_until(27.0)
    assert company.checks.bans_put == 1
    assert company.checks.revision - before <= writes_max
    assert not any(actor.agreed["main"].servers["r1"].reads for actor in company.actors.values())


def test_a_run_can_be_repeated() -> None:
    def story() -> tuple[int, int, int]:
        steps, checks = run(3, trouble_s=10.0, settle=False)
        assert isinstance(checks, Checks)
        return steps, checks.revision, checks.bans_put

    assert story() == story()
