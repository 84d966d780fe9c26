"""A short share of the simulation; and that it fails as soon as a guard of the ban transaction is left out."""

from __future__ import annotations

import pytest

from tests.simulation.checks import Checks, Violated
from tests.simulation.guards import GUARDS, Guard, race_plan
from tests.simulation.story import run

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
    with pytest.raises(Violated, match=r"^I[12]: "):
        weakened(guard, seeds=1000)


def test_a_failure_names_its_seed_and_its_story() -> None:
    with pytest.raises(Violated, match=r"(?s)seed \d+, step \d+.*proposes ban fleet main/"):
        weakened(GUARDS["ban prefix"], seeds=1000)


def test_a_run_can_be_repeated() -> None:
    def story() -> tuple[int, int, int]:
        steps, checks = run(3, trouble_s=10.0, settle=False)
        assert isinstance(checks, Checks)
        return steps, checks.revision, checks.bans_put

    assert story() == story()
