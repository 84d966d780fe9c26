"""A short share of the simulation; and that it fails as soon as a guard is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.guards import FLAWS
from tests.simulation.races import RACES
from tests.simulation.story import run
from tests.support.invariants import Violated

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", [1, 2])
def test_all_invariants_hold(seed: int) -> None:
    _, checks = run(seed, nodes=4, trouble_s=20.0)
    assert checks.revision > 10


@pytest.mark.parametrize("name", RACES)
def test_each_compare_of_a_decision_is_needed(name: str) -> None:
    RACES[name].run(is_guarded=True)
    with pytest.raises(Violated, match=f"^{RACES[name].breaks}: "):
        RACES[name].run(is_guarded=False)


@pytest.mark.parametrize("name", FLAWS)
def test_each_guard_of_a_node_is_needed(name: str) -> None:
    FLAWS[name].run()
    with FLAWS[name].planted(), pytest.raises(Violated, match=f"^{FLAWS[name].breaks}: "):
        FLAWS[name].run()


def search(seeds: int) -> None:
    for seed in range(1, seeds + 1):
        run(seed, nodes=4, trouble_s=20.0, settle=False)


def test_a_failure_names_its_seed_and_its_story() -> None:
    """What befalls a fleet by chance finds a guard that is missing, too."""
    told = r"(?s)seed \d+, step \d+.*decided/ban/main/"
    with FLAWS["quorum"].planted(), pytest.raises(Violated, match=told):
        search(seeds=100)


STORY = """
from tests.simulation.story import run
steps, checks = run(3, nodes=3, trouble_s=10.0, settle=False)
print(steps, checks.revision, *checks.world.history, sep="\\n")
"""


def test_a_run_can_be_repeated_in_another_process() -> None:
    """What is found on one machine must be found on another: nothing hangs on hashes or on time."""
    told = {
        subprocess.run(
            [sys.executable, "-c", STORY],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
