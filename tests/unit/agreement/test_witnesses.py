"""Witnesses: three in two zones as far as there are, and what they must say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.agreement.cancels import Neighbour
from pgcat_cluster.agreement.peer_frames import Declined, Reply, Seen
from pgcat_cluster.agreement.witnesses import confirmed, witnesses

BAD, GOOD = (Seen(id=1, evidence=evidence, rtt_ms=1.0, age_ms=0.0) for evidence in ("unreachable", "ok"))
NO = Declined(id=1, why="no result in time")


def neighbours(zones: str) -> list[Neighbour]:
    return [
        Neighbour(node=f"px-{number}.00000000", peer=f"{number}", zone=zone)
        for number, zone in enumerate(zones)
    ]


@pytest.mark.parametrize(
    ("zones", "draw", "asked"),
    [
        ("", 5, ""),
        ("a", 5, "0"),
        ("aaaa", 0, "012"),
        ("aaaa", 3, "301"),
        ("aab", 0, "201"),
        ("aabb", 0, "230"),
        ("aabb", 1, "321"),
        ("bbbb", 0, "012"),
        ("abbbb", 0, "120"),
        ("bbbc", 0, "013"),
        ("bcde", 2, "230"),
    ],
)
def test_who_is_asked(zones: str, draw: int, asked: str) -> None:
    assert "".join(one.peer for one in witnesses(neighbours(zones), "a", draw)) == asked


@given(st.text("abc", max_size=8), st.integers(0, 1 << 64))
def test_as_many_and_in_as_many_zones_as_there_are(zones: str, draw: int) -> None:
    asked = witnesses(neighbours(zones), "a", draw)
    assert len({one.node for one in asked}) == len(asked) == min(3, len(zones))
    assert len({one.zone for one in asked}) >= min(2, len(set(zones)))


@pytest.mark.parametrize(
    ("replies", "agreed"),
    [
        ([BAD, BAD, BAD], True),
        ([BAD, BAD, None], True),
        ([BAD, BAD, NO], True),
        ([BAD, BAD, GOOD], False),
        ([BAD, None, NO], False),
        ([BAD, None], False),
        ([BAD], True),
        ([None], False),
        ([GOOD, GOOD, GOOD], False),
        ([], False),
    ],
)
def test_they_agree_or_the_node_stays_silent(replies: list[Reply | None], agreed: bool) -> None:
    assert confirmed(replies) is agreed
