"""A whole cluster's health: who may be used for what, and how much one node's doubts may take away."""

from __future__ import annotations

from typing import Any

import pytest

from pgcat_cluster.health.cluster import ClusterHealth, Restarted, UseChanged
from pgcat_cluster.health.detector import OpinionChanged, State
from pgcat_cluster.health.evidence import EvidenceClass, Sample, ServerFacts, Source
from pgcat_cluster.health.tilt import TICK_S
from pgcat_cluster.topology.settings import Health, Leadership, Read


class Cluster:
    """A ClusterHealth with a clock that ticks, and one word per look."""

    def __init__(self, *servers: str, **read: Any) -> None:
        self.now = 0.0
        self.health = ClusterHealth(
            servers=servers,
            leadership=Leadership(source="observe"),
            health=Health(),
            read=Read(**read),
            now=0.0,
        )
        for server in reversed(servers):
            self.answers(server, recovery=server != "p1")
        self.answers("p1", recovery=False)
        assert self.health.roles.primary == "p1"

    def look(self, server: str, sample: Sample) -> list[object]:
        self.now += TICK_S
        self.health.tick(self.now)
        return list(self.health.receive(server, sample, self.now))

    def answers(
        self,
        server: str,
        *,
        recovery: bool = True,
        timeline: int = 1,
        written: int = 100,
        replayed: int = 100,
        age_s: float = 0.0,
        started_at: str = "monday",
    ) -> list[object]:
        facts = ServerFacts(
            in_recovery=recovery,
            system_identifier="7",
            timeline=timeline,
            write_lsn=written,
            replay_lsn=replayed if recovery else None,
            replayed_age_s=age_s if recovery else None,
            started_at=started_at,
        )
        return self.look(server, Sample(source=Source.FRESH, duration_s=0.001, facts=facts))

    def fails(self, server: str, evidence: EvidenceClass, times: int = 3) -> None:
        for _ in range(times):
            self.look(server, Sample(source=Source.FRESH, duration_s=0.1, failure=evidence, detail="why"))

    def usable(self) -> tuple[set[str], set[str]]:
        """The servers that take reads, and those that take writes."""
        standings = self.health.standings().values()
        return {one.server for one in standings if one.reads}, {one.server for one in standings if one.writes}

    def reason(self, server: str) -> str:
        return self.health.standings()[server].reason


def test_everything_well() -> None:
    cluster = Cluster("p1", "r1", "r2")
    assert cluster.usable() == ({"p1", "r1", "r2"}, {"p1"})
    assert [cluster.reason(server) for server in ("p1", "r1", "r2")] == ["", "", ""]


def test_one_that_refuses_is_out_with_its_reason() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.fails("r1", EvidenceClass.REFUSED)
    assert cluster.usable() == ({"p1", "r2"}, {"p1"})
    assert cluster.reason("r1") == "bad, refused: why"


def test_a_lost_primary_takes_nothing_and_works_again_with_its_first_answer() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.fails("p1", EvidenceClass.REFUSED)
    assert cluster.usable() == ({"r1", "r2"}, set())
    assert cluster.reason("p1") == "bad, refused: why"
    cluster.answers("p1", recovery=False)
    assert cluster.usable() == ({"r1", "r2"}, {"p1"})


def test_doubts_take_at_most_half_and_the_first_ill_goes() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.fails("r2", EvidenceClass.SOFT)
    cluster.fails("r1", EvidenceClass.UNREACHABLE)
    assert cluster.usable()[0] == {"p1", "r1"}
    cluster.fails("r1", EvidenceClass.REFUSED)
    assert cluster.usable()[0] == {"p1"}, "who refuses is out without limit"


def test_a_bad_one_goes_before_one_that_recovers() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.fails("r2", EvidenceClass.SOFT)
    cluster.answers("r2")
    cluster.fails("r1", EvidenceClass.SOFT)
    assert cluster.usable()[0] == {"p1", "r2"}


def test_the_only_server_is_never_taken_out_by_doubt() -> None:
    cluster = Cluster("p1")
    cluster.fails("p1", EvidenceClass.SOFT)
    assert cluster.usable() == ({"p1"}, set())


def test_an_old_primary_never_serves_whatever_it_does_next() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.fails("p1", EvidenceClass.REFUSED)
    for _ in range(2):
        cluster.answers("r1", recovery=False, timeline=2)
    cluster.answers("r2", timeline=2)
    cluster.answers("p1", recovery=False)
    assert cluster.usable() == ({"r1", "r2"}, {"r1"})
    cluster.fails("p1", EvidenceClass.SOFT)
    cluster.fails("r2", EvidenceClass.SOFT)
    assert "p1" not in cluster.usable()[0]
    assert cluster.reason("p1") == "out of recovery on timeline 1, but r1 is primary"


def test_a_replica_that_did_not_follow_serves_no_reads() -> None:
    cluster = Cluster("p1", "r1", "r2")
    for _ in range(2):
        cluster.answers("r1", recovery=False, timeline=2)
    assert cluster.usable() == ({"r1"}, {"r1"})
    assert cluster.reason("r2") == "on timeline 1, the primary is on 2"
    assert cluster.answers("r2", timeline=2) == [UseChanged(server="r2", reads=True, writes=False, reason="")]
    assert cluster.usable() == ({"r1", "r2"}, {"r1"})


def test_a_replica_far_behind_is_out_until_it_caught_up() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.answers("p1", recovery=False, written=900)
    cluster.answers("r1", replayed=900)
    behind = {"replayed": 400, "age_s": 11.0}
    assert cluster.answers("r2", **behind) == cluster.answers("r2", **behind) == []
    reason = "lag: 500 bytes, 11.0 s"
    assert cluster.answers("r2", **behind) == [
        UseChanged(server="r2", reads=False, writes=False, reason=reason)
    ]
    assert cluster.usable()[0] == {"p1", "r1"}
    assert cluster.reason("r2") == reason
    assert cluster.answers("r2", replayed=900, age_s=11.0) == [
        UseChanged(server="r2", reads=True, writes=False, reason="")
    ]


def test_a_replica_too_many_bytes_behind_is_out_however_young_that_is() -> None:
    cluster = Cluster("p1", "r1", "r2", max_lag_bytes=300)
    cluster.answers("p1", recovery=False, written=900)
    for name in ("r1", "r2"):
        for _ in range(3):
            cluster.answers(name, replayed=100 if name == "r1" else 50, age_s=0.1)
    # All of them: the least behind stays.
    assert cluster.usable()[0] == {"p1", "r1"}
    assert cluster.reason("r2") == "lag: 850 bytes, 0.1 s"
    cluster.answers("r2", replayed=700, age_s=0.1)
    # Not yet below half of the limit, and now the least behind.
    assert cluster.usable()[0] == {"p1", "r2"}
    cluster.answers("r1", replayed=900, age_s=0.1)
    cluster.answers("r2", replayed=800, age_s=0.1)
    assert cluster.usable()[0] == {"p1", "r1", "r2"}


def test_nobody_is_behind_a_lost_primary() -> None:
    cluster = Cluster("p1", "r1", "r2")
    cluster.answers("p1", recovery=False, written=900)
    cluster.fails("p1", EvidenceClass.REFUSED)
    for _ in range(5):
        cluster.answers("r1", replayed=100, age_s=1000.0)
    assert cluster.usable()[0] == {"r1", "r2"}


def test_a_restart_between_two_answers_is_told() -> None:
    cluster = Cluster("p1", "r1")
    assert cluster.answers("r1", started_at="tuesday") == [Restarted(server="r1")]


def test_in_tilt_failures_change_nothing() -> None:
    cluster = Cluster("p1", "r1")
    cluster.now += 5.0
    cluster.fails("r1", EvidenceClass.REFUSED)
    assert cluster.health.standings()["r1"].opinion.state is State.OK
    cluster.now += TICK_S
    while cluster.health.standings()["r1"].opinion.state is State.OK:
        assert cluster.now < 10.0, "tilt ends after three good seconds"
        cluster.fails("r1", EvidenceClass.REFUSED, times=1)
    assert cluster.now > 8.0


def test_opinions_come_out_as_decisions() -> None:
    cluster = Cluster("p1", "r1")
    sample = Sample(source=Source.FRESH, duration_s=0.1, failure=EvidenceClass.REFUSED, detail="why")
    assert cluster.look("r1", sample)[0] == OpinionChanged(
        server="r1",
        before=State.OK,
        after=State.SUSPECT,
        evidence=EvidenceClass.REFUSED,
        reason="why",
    )
    assert cluster.health.probe_interval_s("r1") == 0.5
    assert cluster.health.timeout_s("r1", Source.KEPT) == 1.0


@pytest.mark.parametrize(
    ("failure", "duration_s", "is_late"),
    [
        (None, 0.6, True),  # in time only because the limit was stretched
        (None, 0.1, False),
        (EvidenceClass.SOFT, 0.6, True),
        (EvidenceClass.UNREACHABLE, 0.6, True),
        (EvidenceClass.UNREACHABLE, 0.1, False),  # no route: it took no time to learn that
        (EvidenceClass.REFUSED, 0.6, False),
    ],
)
def test_who_kept_us_waiting_is_named_once(
    failure: EvidenceClass | None, duration_s: float, is_late: bool
) -> None:
    cluster = Cluster("p1", "r1")
    assert cluster.health.take_late() == frozenset()
    cluster.look("r1", Sample(source=Source.KEPT, duration_s=duration_s, failure=failure))
    assert cluster.health.take_late() == ({"r1"} if is_late else frozenset())
    # Who is in doubt already tells nothing new of us.
    for _ in range(3):
        cluster.look("r1", Sample(source=Source.KEPT, duration_s=9.0, failure=EvidenceClass.SOFT))
    cluster.health.take_late()
    cluster.look("r1", Sample(source=Source.KEPT, duration_s=9.0, failure=EvidenceClass.SOFT))
    assert cluster.health.take_late() == frozenset()


def silence(evidence: EvidenceClass = EvidenceClass.SOFT) -> Sample:
    return Sample(source=Source.FRESH, duration_s=1.0, failure=evidence, is_silence=True)


@pytest.mark.parametrize("evidence", [EvidenceClass.SOFT, EvidenceClass.UNREACHABLE])
def test_silent_is_a_replica_that_is_bad_and_answered_nothing(evidence: EvidenceClass) -> None:
    cluster = Cluster("p1", "r1", "r2")
    told = []
    for _ in range(3):
        told.append(cluster.health.standings()["r1"].is_silent_replica)
        cluster.look("r1", silence(evidence))
    # Late once is not silent.
    assert told[:2] == [False, False]
    assert [name for name, one in cluster.health.standings().items() if one.is_silent_replica] == ["r1"]
    # That there is no way to it is no answer.
    cluster.fails("r1", EvidenceClass.UNREACHABLE, times=1)
    assert cluster.health.standings()["r1"].is_silent_replica
    cluster.answers("r1")
    assert not cluster.health.standings()["r1"].is_silent_replica
    for _ in range(3):
        cluster.look("p1", silence(evidence))
    assert cluster.reason("p1")
    assert not cluster.health.standings()["p1"].is_silent_replica


@pytest.mark.parametrize("evidence", [EvidenceClass.SOFT, EvidenceClass.REFUSED, EvidenceClass.GOING])
def test_who_answers_with_an_error_is_not_silent(evidence: EvidenceClass) -> None:
    cluster = Cluster("p1", "r1", "r2")
    for _ in range(30):
        cluster.fails("r1", evidence, times=1)
    assert cluster.reason("r1")
    assert not cluster.health.standings()["r1"].is_silent_replica


def test_who_lags_is_not_silent_though_one_look_was_late() -> None:
    cluster = Cluster("p1", "r1", "r2")
    for _ in range(3):
        cluster.answers("r1", replayed=50, age_s=60.0)
    cluster.look("r1", silence())
    assert cluster.reason("r1").startswith("lag")
    assert not cluster.health.standings()["r1"].is_silent_replica
