"""When a node believes that it is itself what is ill."""

from __future__ import annotations

import pytest

from pgcat_cluster.health.doubt import AskPeers, LocalScore, Look, Place, Suspicion


def looks(silent: int, others: int, since_s: float = 10.0) -> dict[Place, Look]:
    """So many servers, each on a host of its own, that fell silent; and others that answer."""
    return {
        ("main", f"r{number}"): Look(
            host=f"h{number}", is_bad_in_silence=number < silent, since_s=since_s if number < silent else 0.0
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
