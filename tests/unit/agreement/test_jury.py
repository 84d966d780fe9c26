"""Who is on a jury, and when its voices are enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.agreement.jury import (
    FLEET,
    Voter,
    reaches,
    seat,
    voters,
    zone_of,
    zone_scope,
)


def voter(name: str, zone: str = "a", host: str | None = None) -> Voter:
    return Voter(node=f"{name}.00000000", name=name, host=host or f"host-{name}", zone=zone)


def fleet(**zones: int) -> list[Voter]:
    """So many nodes in each zone, each on a host of its own."""
    return [voter(f"{zone}{index}", zone) for zone, count in zones.items() for index in range(count)]


@pytest.mark.parametrize(
    ("zones", "size", "jurors", "need"),
    [
        ({"a": 1}, 9, 1, 1),
        ({"a": 2}, 9, 2, 2),
        ({"a": 3}, 9, 3, 2),
        ({"a": 4, "b": 4}, 9, 8, 5),
        ({"a": 9}, 9, 9, 5),
        ({"a": 10}, 9, 9, 6),
        ({"a": 70, "b": 70, "c": 70}, 9, 9, 6),
        ({"a": 5}, 4, 4, 3),
    ],
)
def test_size_and_need(zones: dict[str, int], size: int, jurors: int, need: int) -> None:
    jury = seat("main/r1", fleet(**zones), size)
    assert (len(jury.jurors), jury.need) == (jurors, need)


def test_zones_are_drawn_from_in_turn() -> None:
    jury = seat("main/r1", fleet(a=50, b=2, c=50), 9)
    assert [len(jury.of_zone(zone)) for zone in "abc"] in ([4, 2, 3], [3, 2, 4])


def test_nodes_of_one_host_have_one_vote() -> None:
    nodes = [voter("a1", host="h"), voter("a2", host="h"), voter("b1")]
    assert len(voters("main/r1", nodes)) == 2
    seen = {
        next(one.name for one in voters(f"main/r{number}", nodes) if one.host == "h") for number in range(20)
    }
    assert seen == {"a1", "a2"}, "for each server it may be another"


@pytest.mark.parametrize(
    ("bad", "everywhere", "zones"),
    [
        ("", False, ""),
        ("a0", False, ""),
        ("a0 a1", False, "a"),
        ("a0 a1 a2", False, "a"),
        ("a0 a1 a2 b0", False, "a"),
        ("a0 a1 b0 b1", False, "ab"),
        ("a0 a1 b0 b1 c0", True, ""),
        ("a0 a1 a2 b0 c0", False, "a"),
        ("a0 a1 a2 b0 b1", True, ""),
        ("a0 a1 a2 b0 b1 b2 c0 c1 c2", True, ""),
    ],
)
def test_rules_of_nine_in_three_zones(bad: str, everywhere: bool, zones: str) -> None:
    jury = seat("main/r1", fleet(a=3, b=3, c=3), 9)
    voices = {f"{name}.00000000" for name in bad.split()}
    assert jury.bans_everywhere(voices) is everywhere
    assert "".join(zone for zone in "abc" if jury.bans_in(zone, voices)) == zones


def test_a_zone_bans_alone_only_where_there_are_others() -> None:
    assert not seat("s", fleet(a=12), 9).bans_in(
        "a", {juror.node for juror in seat("s", fleet(a=12), 9).jurors[:5]}
    )
    assert seat("s", fleet(a=1, b=1, c=1), 9).bans_in("a", {"a0.00000000"})


def test_clearing_takes_a_majority_of_those_it_concerns() -> None:
    jury = seat("main/r1", fleet(a=3, b=3), 9)
    of_a = {juror.node for juror in jury.of_zone("a")}
    assert not jury.clears(FLEET, of_a)
    assert jury.clears(zone_scope("a"), of_a)
    assert not jury.clears(zone_scope("b"), of_a)
    assert jury.clears(FLEET, of_a | {"b0.00000000"})
    assert not jury.clears(zone_scope("gone"), of_a)


def test_scopes() -> None:
    assert (reaches(FLEET, "a"), reaches("zone:a", "a"), reaches("zone:a", "b")) == (True, True, False)
    assert (zone_of(FLEET), zone_of("zone:a")) == (None, "a")


nodes = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 12), st.sampled_from("abcd")),
    min_size=1,
    max_size=25,
    unique_by=lambda node: node[0],
).map(lambda drawn: [voter(f"n{name}", zone, f"h{host}") for name, host, zone in drawn])


@given(nodes, st.randoms(use_true_random=False), st.integers(1, 9))
def test_the_order_of_nodes_does_not_matter(drawn: list[Voter], chance: object, size: int) -> None:
    shuffled = list(drawn)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert seat("main/r1", drawn, size) == seat("main/r1", shuffled, size)


@given(nodes, st.integers(1, 9), st.data())
def test_a_ban_everywhere_takes_a_majority(drawn: list[Voter], size: int, data: st.DataObject) -> None:
    jury = seat("main/r1", drawn, size)
    bad = data.draw(st.sets(st.sampled_from([one.node for one in drawn])))
    if jury.bans_everywhere(bad):
        jurors = {juror.node for juror in jury.jurors}
        assert 2 * len(bad & jurors) > len(jurors)
        assert not any(jury.bans_in(zone, bad) for zone in jury.zones)
        assert jury.bans_everywhere(bad | jurors), "more voices never make it less"
        assert not jury.clears(FLEET, jurors - bad)


@given(nodes, st.integers(1, 9))
def test_a_node_that_is_no_juror_may_leave(drawn: list[Voter], size: int) -> None:
    zones = {one.host: one.zone for one in drawn}
    drawn = [voter(one.name, zones[one.host], one.host) for one in drawn]
    jury = seat("main/r1", drawn, size)
    for gone in drawn:
        if gone not in jury.jurors:
            left = seat("main/r1", [one for one in drawn if one != gone], size)
            assert left.jurors == jury.jurors
            assert left.need <= jury.need
