"""When a node believes that it is itself what is ill."""

from __future__ import annotations

import pytest

from pgcat_cluster.health.doubt import AskPeers, LocalScore, Look, LookAt, Place, Suspicion


def looks(
    silent: int, others: int, since_s: float = 10.0, doubted: int = 0, answered_s: float | None = 99.0
) -> dict[Place, Look]:
    """So many servers, each on a host of its own, that fell silent; others, of which some are late."""
    return {
        ("main", f"r{number}"): Look(
            host=f"h{number}",
            is_bad_in_silence=number < silent,
            since_s=since_s if number < silent else 0.0,
            is_doubted=number < silent + doubted,
            answered_s=None if number < silent + doubted else answered_s,
        )
        for number in range(silent + others)
    }


def places(count: int) -> frozenset[Place]:
    return frozenset(("main", f"r{number}") for number in range(count))


def test_each_sign_counts_one_and_a_quiet_second_takes_one() -> None:
    score = LocalScore(0.0)
    score.loop_was_late(0.1, 1.0)
    score.store_answered(0.4, 1.0)
    score.host_was_late("a", 1.0)
    assert score.value(1.0) == 0
    score.loop_was_late(0.3, 2.0)
    score.store_answered(0.6, 2.0)
    assert score.value(2.0) == 2
    assert [score.value(now) for now in (2.9, 3.0, 4.0, 9.0)] == [2, 1, 0, 0]
    for _ in range(20):
        score.loop_was_late(1.0, 10.0)
    assert score.value(10.0) == 7


def test_two_late_hosts_at_once_tell_of_us() -> None:
    score = LocalScore(0.0)
    score.host_was_late("a", 1.0)
    score.host_was_late("a", 1.1)
    assert score.value(1.1) == 0
    score.host_was_late("b", 1.2)
    assert score.value(1.2) == 1
    score.host_was_late("a", 5.0)
    assert score.value(5.0) == 0


@pytest.mark.parametrize(
    ("silent", "others", "asks"), [(2, 0, False), (1, 2, False), (2, 2, False), (2, 1, True), (3, 0, True)]
)
def test_more_than_half_of_three_hosts(silent: int, others: int, asks: bool) -> None:
    questions = Suspicion(0.5).look(looks(silent, others), 10.0)
    assert questions == ([AskPeers(question=1, servers=places(silent))] if asks else [])


def test_those_that_fell_silent_one_after_the_other_are_believed() -> None:
    suspicion = Suspicion(0.5)
    assert suspicion.look(looks(3, 1, since_s=4.0), 10.0) == []
    assert suspicion.may_tell(("main", "r0")) == "yes"


def test_what_peers_agree_with_is_told_and_the_rest_is_used() -> None:
    suspicion = Suspicion(0.5)
    suspicion.look(looks(3, 1), 10.0)
    assert suspicion.may_tell(("main", "r0")) == "later"
    assert suspicion.spared == frozenset()
    suspicion.answered(1, places(1))
    assert [suspicion.may_tell(("main", f"r{number}")) for number in range(4)] == ["yes", "no", "no", "yes"]
    assert suspicion.spared == {("main", "r1"), ("main", "r2")}


def test_it_asks_again_and_forgets_when_they_answer() -> None:
    suspicion = Suspicion(0.5)
    suspicion.look(looks(3, 1), 10.0)
    suspicion.answered(1, frozenset())
    assert suspicion.look(looks(3, 1), 14.0) == []
    [again] = suspicion.look(looks(3, 1), 15.0)
    assert again == AskPeers(question=2, servers=places(3))
    suspicion.answered(1, places(1))
    assert suspicion.may_tell(("main", "r0")) == "no", "an answer to an old question"
    assert suspicion.look(looks(2, 2), 16.0) == []
    assert suspicion.spared == frozenset()
    assert suspicion.may_tell(("main", "r0")) == "yes"


FIRST = ("main", "r0")


def test_one_that_falls_silent_among_others_that_answer_is_told_at_once() -> None:
    suspicion = Suspicion(0.5)
    assert suspicion.look(looks(0, 3, doubted=1, answered_s=8.9), 9.0) == []
    assert suspicion.look(looks(1, 2, answered_s=9.5), 10.0) == []
    assert (suspicion.may_tell(FIRST), suspicion.is_holding) == ("yes", False)


def test_the_first_of_many_that_fall_silent_is_not_told() -> None:
    suspicion = Suspicion(0.5)
    suspicion.look(looks(0, 3, doubted=1, answered_s=8.9), 9.0)
    # The others answered before, and may do so no more: that is found out now.
    assert suspicion.look(looks(1, 2, answered_s=8.9), 10.0) == [LookAt(servers=places(3) - {FIRST})]
    assert (suspicion.may_tell(FIRST), suspicion.is_holding) == ("later", True)
    assert suspicion.look(looks(1, 2, doubted=2), 10.3) == []
    assert suspicion.may_tell(FIRST) == "later"
    assert suspicion.look(looks(2, 1, doubted=1), 10.6) == [AskPeers(question=1, servers=places(2))]
    assert suspicion.may_tell(FIRST) == "later"
    suspicion.answered(1, frozenset())
    assert suspicion.may_tell(FIRST) == "no"


def test_what_is_held_back_is_told_when_the_others_answer() -> None:
    suspicion = Suspicion(0.5)
    suspicion.look(looks(0, 5, doubted=1, answered_s=8.9), 9.0)
    # As many as are needed to be sure are looked at, and no more.
    (look_at,) = suspicion.look(looks(1, 4, answered_s=8.9), 10.0)
    assert isinstance(look_at, LookAt)
    assert len(look_at.servers) == 3
    assert suspicion.look(looks(1, 4, answered_s=10.1), 10.1) == []
    assert (suspicion.may_tell(FIRST), suspicion.is_holding) == ("yes", False)
    # What was told is not taken back when one more is late.
    suspicion.look(looks(1, 4, doubted=3), 11.0)
    assert suspicion.may_tell(FIRST) == "yes"


def test_nothing_is_held_back_for_long_nor_where_hosts_are_few() -> None:
    suspicion = Suspicion(0.5)
    suspicion.look(looks(1, 2, doubted=1, answered_s=None), 10.0)
    assert suspicion.may_tell(FIRST) == "later"
    suspicion.look(looks(1, 2, doubted=1, answered_s=None), 15.1)
    assert suspicion.may_tell(FIRST) == "yes"
    suspicion = Suspicion(0.5)
    assert suspicion.look(looks(1, 1, doubted=1), 10.0) == []
    assert suspicion.may_tell(FIRST) == "yes"
