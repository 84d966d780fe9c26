"""Who serves which role, by policy and by what is seen: what EXPLAIN tells is whom the relay asks."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from pgcat_cluster.relay import marks
from pgcat_cluster.routing.serving import candidates
from pgcat_cluster.topology.model import PoolSettings
from pgcat_cluster.topology.settings import OnAllBad, Reads, ReadsOnPrimary
from pgcat_cluster.topology.view import ClusterView
from tests.support.scene import Scene


def scene_of(reads: Reads, on_primary: ReadsOnPrimary, on_all_bad: OnAllBad) -> Scene:
    scene = Scene(servers=("p1", "r1", "r2"), options={"reads": reads, "reads_on_primary": on_primary})
    for shard in scene.account.shards:
        shard.on_all_bad = on_all_bad
    return scene


def expected(scene: Scene, role: int, is_led: bool, good: set[str]) -> set[str]:
    """Who serves a role, told once more in other words."""
    settings, on_all_bad = scene.settings, scene.place.on_all_bad
    writers = {"p1"} if is_led else set()
    replicas = {"r1", "r2"} if is_led else {"p1", "r1", "r2"}
    standbys = replicas & good
    if not standbys and on_all_bad == "any":
        standbys = replicas
    if role == marks.PRIMARY or (role == marks.REPLICA and settings.reads == "primary"):
        return writers
    policy = settings.reads_on_primary
    steps_in = policy == "when_no_replica" and not standbys and on_all_bad != "fail"
    if role == marks.ANY or (role == marks.REPLICA and (policy == "always" or steps_in)):
        return writers | standbys
    return standbys


@pytest.mark.parametrize("on_all_bad", get_args(OnAllBad))
@pytest.mark.parametrize("on_primary", get_args(ReadsOnPrimary))
@pytest.mark.parametrize("reads", get_args(Reads))
def test_who_is_eligible_is_who_is_asked(
    reads: Reads, on_primary: ReadsOnPrimary, on_all_bad: OnAllBad
) -> None:
    scene = scene_of(reads, on_primary, on_all_bad)
    try:
        for primary, is_bad1, is_bad2 in itertools.product(("p1", None), (False, True), (False, True)):
            scene.lead(primary, "" if primary else "none answers")
            scene.avoid("r1", "banned" if is_bad1 else "")
            scene.avoid("r2", "lags" if is_bad2 else "")
            good = {"p1", *(() if is_bad1 else ("r1",)), *(() if is_bad2 else ("r2",))}
            for role in range(marks.ROLES):
                told = {
                    one.server.key.name
                    for one in candidates(scene.place.view, role, scene.settings, on_all_bad)
                    if one.is_eligible
                }
                asked = {str(pool.key) for pool in scene.desk.targets[role].pools}
                wanted = expected(scene, role, primary is not None, good)
                assert told == asked == wanted, (primary, is_bad1, is_bad2, role)
    finally:
        scene.close()


def reasons(view: ClusterView, role: int, settings: PoolSettings) -> dict[str, str]:
    return {one.server.key.name: one.reason for one in candidates(view, role, settings, "primary")}


def test_reasons() -> None:
    scene = scene_of("replicas", "when_no_replica", "primary")
    try:
        scene.avoid("r2", "lags")
        (shard,) = scene.account.shards
        found = [reasons(shard.view, role, scene.settings) for role in range(marks.ROLES)]
        assert found == [
            {"p1": "", "r1": "a replica", "r2": "a replica"},
            {"p1": 'the primary, which takes reads "when_no_replica"', "r1": "", "r2": "lags"},
            {"p1": "", "r1": "", "r2": "lags"},
            {"p1": "the primary", "r1": "", "r2": "lags"},
        ]
        scene.lead(None, "none answers")
        assert reasons(shard.view, marks.PRIMARY, scene.settings) == dict.fromkeys(
            ("p1", "r1", "r2"), "none answers"
        )
    finally:
        scene.close()
