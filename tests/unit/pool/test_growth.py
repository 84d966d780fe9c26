"""Whether a pool opens one more link: every reason, at its border."""

from __future__ import annotations

import pytest

from pgcat_cluster.pool.growth import BACKOFF_FIRST_S, BACKOFF_MAX_S, OPENING_MAX, Growth, backoff_s, grow

CALM = {"opened": 2, "opening": 0, "idle": 1, "limit": 10, "min_size": 0, "waiting": 0, "is_wanted": False}


@pytest.mark.parametrize(
    ("situation", "opens", "reason"),
    [
        ({}, False, "nobody waits"),
        ({"limit": 2, "waiting": 5}, False, "at its limit"),
        ({"opened": 1, "opening": 1, "limit": 2, "waiting": 5}, False, "at its limit"),
        ({"limit": 3, "waiting": 5}, True, "a client waits"),
        ({"opening": OPENING_MAX, "limit": 100, "waiting": 99}, False, "enough are on their way"),
        ({"opening": OPENING_MAX - 1, "limit": 100, "waiting": 99}, True, "a client waits"),
        ({"waiting": 1}, False, "nobody waits"),
        ({"waiting": 2}, True, "a client waits"),
        ({"waiting": 2, "opening": 1}, False, "nobody waits"),
        ({"min_size": 2}, False, "nobody waits"),
        ({"min_size": 3}, True, "below min_size"),
        ({"min_size": 3, "opening": 1}, False, "nobody waits"),
        ({"is_wanted": True}, False, "nobody waits"),
        ({"is_wanted": True, "idle": 0}, True, "a client would use this server"),
        ({"is_wanted": True, "idle": 0, "opening": 1}, False, "nobody waits"),
    ],
)
def test_one_decision(situation: dict[str, int], opens: bool, reason: str) -> None:
    given = CALM | situation
    numbers = {name: given[name] for name in ("opened", "opening", "idle", "limit", "waiting")}
    assert grow(**given) == Growth(opens=opens, reason=reason, **numbers)


def test_a_server_is_left_alone_for_longer_each_time() -> None:
    assert [backoff_s(failures) for failures in (0, 1, 2, 3, 4, 5, 6, 1000)] == [
        BACKOFF_FIRST_S, BACKOFF_FIRST_S, 0.2, 0.4, 0.8, 1.6, BACKOFF_MAX_S, BACKOFF_MAX_S
    ]  # fmt: skip
