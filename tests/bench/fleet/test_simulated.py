"""The simulated part of the measurement, on fleets so small that it takes a moment; and what 200 nodes write."""

from __future__ import annotations

import pytest

from tests.bench.fleet.simulated import simulate

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("nodes", "jurors"), [(5, 5), pytest.param(200, 9, marks=pytest.mark.live_long)])
@pytest.mark.timeout(1200)
def test_a_dead_replica_costs_few_writes_and_peace_none(nodes: int, jurors: int) -> None:
    found = simulate(nodes, rounds=1)
    assert found.writes_in_peace == 0
    assert found.killed_ms[0] > 0
    assert found.frozen_ms[0] > found.killed_ms[0]
    for writes in (*found.writes_per_kill, *found.writes_per_freeze):
        # At least the ban and the votes for it; at most a vote of each juror, the ban and what people are told.
        assert jurors // 2 + 2 <= writes <= jurors + 2
    # The document, its text, the generation, and of each node that it finds it valid and that it goes by it.
    assert 2 * nodes + 3 <= found.writes_per_edit <= 2 * nodes + 6
