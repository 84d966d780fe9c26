"""The simulated part of the measurement, on a fleet so small that it takes a moment."""

from __future__ import annotations

import pytest

from tests.bench.fleet.simulated import simulate

pytestmark = pytest.mark.once


def test_a_small_fleet_is_measured() -> None:
    nodes = 5
    found = simulate(nodes, rounds=1)
    assert found.writes_in_peace == 0
    assert found.killed_ms[0] > 0
    assert found.frozen_ms[0] > found.killed_ms[0]
    for writes in (*found.writes_per_kill, *found.writes_per_freeze):
        # At least the ban and the votes for it.
        assert nodes // 2 + 2 <= writes <= nodes + 2
    assert found.writes_per_edit >= 2 * nodes + 2
