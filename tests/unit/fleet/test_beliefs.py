"""What a fleet asks of a node's probes, and what the node may tell of what they found."""

from __future__ import annotations

import pytest

from pgcat_cluster.fleet.beliefs import belief, look
from pgcat_cluster.health.cluster import ClusterHealth, Duty
from pgcat_cluster.health.doubt import Suspicion
from pgcat_cluster.health.evidence import EvidenceClass, Sample, ServerFacts, Source
from pgcat_cluster.topology.settings import Health, Leadership, Read


class Watched:
    """A cluster of three whose clock ticks with every look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.suspicion = Suspicion(0.5)
        self.health = ClusterHealth(
            servers=("p0", "r1", "r2"),
            leadership=Leadership(source="static", primary="p0"),
            health=Health(),
            read=Read(),
            now=0.0,
        )

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            self.health.tick(self.now)

    def answers(
        self, server: str = "r1", source: Source = Source.FRESH, identifier: str = "7", age_s: float = 0.0
    ) -> None:
        self.wait(0.6)
        facts = ServerFacts(
            in_recovery=server != "p0",
            system_identifier=identifier,
            timeline=1,
            write_lsn=100,
            replay_lsn=90 if age_s else 100,
            replayed_age_s=age_s,
        )
        self.health.receive(server, Sample(source=source, duration_s=0.001, facts=facts), self.now)

    def fails(
        self, evidence: EvidenceClass = EvidenceClass.REFUSED, server: str = "r1", times: int = 3
    ) -> None:
        for _ in range(times):
            self.wait(0.1)
            sample = Sample(source=Source.FRESH, duration_s=0.01, failure=evidence, detail="why")
            self.health.receive(server, sample, self.now)

    def stance(self, server: str = "r1") -> str:
        return belief("main", server, self.health, self.suspicion, self.now).stance


@pytest.mark.parametrize(
    ("duty", "interval_s", "per_link"),
    [
        (Duty(), 1.0, 5),
        (Duty(is_juror=False, nodes=5), 1.0, 1),
        (Duty(is_juror=False, nodes=200), 20.0, 1),
        (Duty(banned=True, strikes=1), 2.0, 1),
        (Duty(banned=True, strikes=2), 4.0, 1),
        (Duty(banned=True, strikes=9), 10.0, 1),
        (Duty(is_juror=False, nodes=200, banned=True, strikes=1), 20.0, 1),
    ],
)
def test_cadence(duty: Duty, interval_s: float, per_link: int) -> None:
    health = Watched().health
    health.assign("r1", duty)
    assert (health.probe_interval_s("r1"), health.probes_per_link("r1")) == (interval_s, per_link)


def test_a_banned_server_that_answers_is_asked_sooner_until_it_is_proven() -> None:
    watched = Watched()
    assert not watched.health.assign("r1", Duty(banned=True, strikes=2))
    for _ in range(2):
        watched.answers()
        assert (watched.health.probe_interval_s("r1"), watched.stance()) == (0.5, "ok")
    watched.answers()
    assert (watched.health.probe_interval_s("r1"), watched.stance()) == (1.0, "proven")
    watched.fails(times=1)
    assert watched.stance() == "unsure"
    watched.answers()
    assert watched.stance() == "ok"


def test_kept_links_prove_nothing_about_a_ban() -> None:
    watched = Watched()
    watched.health.assign("r1", Duty(banned=True, strikes=1))
    for _ in range(5):
        watched.answers(source=Source.KEPT)
    assert watched.stance() == "ok"


def test_old_answers_do_not_count_for_a_new_ban() -> None:
    watched = Watched()
    for _ in range(5):
        watched.answers()
    assert watched.stance() == "proven"
    assert not watched.health.assign("r1", Duty(banned=True, strikes=1))
    assert watched.stance() == "ok"


def test_what_lags_or_is_another_is_never_proven() -> None:
    watched = Watched()
    watched.answers("p0")
    watched.answers("r2")
    for _ in range(4):
        watched.answers(age_s=60.0)
    assert belief("main", "r1", watched.health, watched.suspicion, watched.now).why == "lag"
    assert watched.stance() == "bad"
    for _ in range(4):
        watched.answers("r2", identifier="8")
    assert belief("main", "r2", watched.health, watched.suspicion, watched.now).why == "wrong"
    assert watched.stance("r2") == "bad"


def test_after_a_stall_an_opinion_is_confirmed_within_a_second_or_silent() -> None:
    watched = Watched()
    watched.fails()
    assert watched.stance() == "bad"
    watched.now += 5
    watched.health.tick(watched.now)
    assert watched.health.is_tilted(watched.now)
    assert watched.stance() == "unsure"
    watched.wait(1.1)
    assert watched.stance() == "silent"
    watched.fails(times=1)
    assert watched.stance() == "bad", "seen again, by a probe begun after the stall"


def test_a_node_that_suspects_itself_says_nothing_and_uses_all_it_has() -> None:
    watched = Watched()
    for server in ("r1", "r2"):
        watched.fails(EvidenceClass.SOFT, server)
    looks = {("main", server): look(server, watched.health, server) for server in ("p0", "r1", "r2")}
    [question] = watched.suspicion.look(looks, watched.now)
    assert {server: watched.stance(server) for server in ("r1", "r2")} == {"r1": "unsure", "r2": "unsure"}
    watched.suspicion.answered(question.question, frozenset())
    assert watched.stance() == "silent"
    assert sorted(name for name, one in watched.health.standings().items() if one.reads) == ["p0", "r2"]
    watched.health.spare(frozenset(server for _, server in watched.suspicion.spared))
    assert all(standing.reads for standing in watched.health.standings().values())
    watched.fails(EvidenceClass.REFUSED)
    assert not watched.health.standings()["r1"].reads, "who refuses is out all the same"


def test_a_slow_node_waits_longer() -> None:
    watched = Watched()
    before_s = watched.health.timeout_s("r1", Source.FRESH)
    watched.health.local_score = 2
    assert watched.health.timeout_s("r1", Source.FRESH) == 3 * before_s
