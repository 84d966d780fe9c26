"""The guards of the ban transaction, each of which can be left out to see that a run without it fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Compare
from tests.simulation.world import Plan

_KEYS = Keys("sim")


@dataclass(frozen=True)
class Guard:
    """The compares it is made of, and what must happen often for a run to fail without them."""

    compares: Callable[[Compare], bool]
    favoured: tuple[str, ...]


GUARDS = {
    "verdict compares": Guard(
        lambda compare: compare.key.startswith(_KEYS.verdict_prefix), ("server", "lag_of_a_prefix")
    ),
    "live prefix": Guard(lambda compare: compare.key == _KEYS.live_prefix, ("flap", "drain")),
    "juror compares": Guard(
        lambda compare: compare.key.startswith(_KEYS.live_prefix) and not compare.prefix,
        ("vacancy", "lag_of_a_prefix"),
    ),
    "ban prefix": Guard(
        lambda compare: compare.key.startswith(_KEYS.ban_prefix) and compare.prefix, ("many_servers",)
    ),
}


def race_plan(seed: int, favoured: tuple[str, ...] = ()) -> Plan:
    """A fleet in which much happens at once and news comes late."""
    chance = random.Random(f"race {seed}")
    return Plan(
        nodes=chance.choice((4, 4, 5)),
        zones=3,
        clusters={"main": 4},
        jury=3,
        min_healthy=3,
        lag_share=0.5,
        lag_s=2.0,
        favoured=favoured,
        pause_s=0.2,
    )
