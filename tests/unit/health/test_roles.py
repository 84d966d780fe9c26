"""Who is primary, told as scripts: one line per probe, and what follows from it."""

from __future__ import annotations

from pgcat_cluster.health.evidence import EvidenceClass, ProbeWanted, Sample, ServerFacts, Source
from pgcat_cluster.health.roles import IdentityChanged, PrimaryChanged, Roles


def look(kind: str, *, fresh: bool = True, identifier: str = "7") -> Sample:
    """`primary 2`, `replica 1`: role and timeline; or the name of an evidence class."""
    source = Source.FRESH if fresh else Source.KEPT
    role, _, timeline = kind.partition(" ")
    if role in ("primary", "replica"):
        facts = ServerFacts(
            in_recovery=role == "replica",
            system_identifier=identifier,
            timeline=int(timeline),
            write_lsn=100,
            replay_lsn=100 if role == "replica" else None,
        )
        return Sample(source=source, duration_s=0.001, facts=facts)
    return Sample(source=source, duration_s=0.001, failure=EvidenceClass(role), detail="why")


def confirm(server: str, timeline: int) -> ProbeWanted:
    return ProbeWanted(
        server=server, after_s=0.0, fresh=True, reason=f"out of recovery on timeline {timeline}"
    )


def only(server: str, before: str | None, timeline: int) -> PrimaryChanged:
    reason = f"only server out of recovery on timeline {timeline}"
    return PrimaryChanged(before=before, after=server, reason=reason)


def observing() -> Roles:
    """p1 with the replicas r1 and r2, found at the start."""
    roles = Roles("observe", ["p1", "r1", "r2"])
    assert roles.receive("p1", look("primary 1")) == []
    assert roles.receive("r1", look("replica 1")) == []
    assert roles.receive("r2", look("replica 1")) == [confirm("p1", 1)]
    assert roles.receive("p1", look("primary 1")) == [only("p1", None, 1)]
    return roles


def test_nobody_is_chosen_before_every_server_was_heard() -> None:
    roles = Roles("observe", ["old", "new"])
    for _ in range(10):
        assert roles.receive("old", look("primary 1")) == []
    assert roles.primary is None
    assert roles.receive("new", look("primary 2")) == [only("new", None, 2)] + [
        IdentityChanged(server="old", reason="out of recovery on timeline 1, but new is primary")
    ]


def test_a_server_that_fails_counts_as_heard() -> None:
    roles = Roles("observe", ["p1", "r1"])
    assert roles.receive("r1", look("refused")) == []
    assert roles.receive("p1", look("primary 1")) == [only("p1", None, 1)]


def test_a_kept_link_confirms_nothing() -> None:
    roles = Roles("observe", ["p1"])
    assert roles.receive("p1", look("primary 1", fresh=False)) == [confirm("p1", 1)]
    assert roles.receive("p1", look("primary 1", fresh=False)) == []
    assert roles.receive("p1", look("primary 1")) == [only("p1", None, 1)]


def test_a_promotion_is_followed_once_confirmed() -> None:
    roles = observing()
    assert roles.receive("p1", look("refused")) == []
    assert roles.primary == "p1"
    assert roles.receive("r1", look("primary 2")) == [confirm("r1", 2)], "the first sight confirms nothing"
    assert roles.receive("r2", look("replica 1")) == []
    assert roles.receive("r1", look("primary 2", fresh=False)) == []
    assert roles.receive("r1", look("primary 2")) == [only("r1", "p1", 2)]


def test_a_candidate_that_vanishes_is_confirmed_anew() -> None:
    roles = observing()
    assert roles.receive("r1", look("primary 2")) == [confirm("r1", 2)]
    assert roles.receive("r1", look("soft")) == []
    assert roles.receive("r1", look("primary 2")) == [confirm("r1", 2)]
    assert roles.receive("r1", look("primary 2")) == [
        only("r1", "p1", 2),
        IdentityChanged(server="p1", reason="out of recovery on timeline 1, but r1 is primary"),
    ]


def test_an_old_primary_that_returns_is_wrong_until_it_follows() -> None:
    roles = observing()
    roles.receive("p1", look("refused"))
    roles.receive("r1", look("primary 2"))
    roles.receive("r1", look("primary 2"))
    reason = "out of recovery on timeline 1, but r1 is primary"
    assert roles.receive("p1", look("primary 1")) == [IdentityChanged(server="p1", reason=reason)]
    assert roles.receive("p1", look("refused")) == []
    assert roles.wrong == {"p1": reason}, "a failure does not make it right"
    assert roles.receive("p1", look("replica 2")) == [IdentityChanged(server="p1", reason=None)]
    assert roles.primary == "r1"


def test_never_back_to_a_lower_timeline() -> None:
    roles = observing()
    roles.receive("p1", look("refused"))
    roles.receive("r1", look("primary 2"))
    roles.receive("r1", look("primary 2"))
    roles.receive("r1", look("refused"))
    for _ in range(3):
        roles.receive("p1", look("primary 1"))
    assert roles.primary == "r1"


def test_two_writable_on_one_timeline_change_nothing() -> None:
    roles = observing()
    reason = "out of recovery on timeline 1, but p1 is primary"
    assert roles.receive("r1", look("primary 1")) == [IdentityChanged(server="r1", reason=reason)]
    assert roles.primary == "p1"
    assert roles.reason == "p1 and r1 are out of recovery on timeline 1"


def test_two_writable_at_the_start_give_nobody() -> None:
    roles = Roles("observe", ["a", "b"])
    for server in ("a", "b", "a", "b"):
        assert roles.receive(server, look("primary 3")) == []
    assert (roles.primary, roles.reason) == (None, "a and b are out of recovery on timeline 3")


def test_a_demoted_primary_loses_its_role_at_once() -> None:
    roles = observing()
    assert roles.receive("p1", look("replica 1", fresh=False)) == [
        PrimaryChanged(before="p1", after=None, reason="p1 is in recovery")
    ]
    assert roles.receive("p1", look("primary 2")) == [confirm("p1", 2)]
    assert roles.receive("p1", look("primary 2")) == [only("p1", None, 2)]


def test_another_system_is_never_followed() -> None:
    roles = observing()
    roles.receive("p1", look("refused"))
    assert roles.receive("r1", look("primary 9", identifier="8")) == [
        IdentityChanged(server="r1", reason="system identifier 8, not 7")
    ]
    assert roles.receive("r1", look("primary 9", identifier="8")) == []
    assert roles.primary == "p1"


def test_static_is_checked_and_never_followed() -> None:
    roles = Roles("static", ["p1", "r1"], "p1")
    assert (roles.primary, roles.reason) == ("p1", "configured")
    assert roles.receive("p1", look("primary 1")) == []
    assert roles.receive("p1", look("refused")) == []
    assert roles.receive("r1", look("primary 2")) == [
        IdentityChanged(server="r1", reason="out of recovery on timeline 2, but p1 is primary")
    ]
    assert roles.receive("p1", look("replica 2")) == [
        PrimaryChanged(before="p1", after=None, reason="p1 is in recovery"),
        IdentityChanged(server="r1", reason=None),
    ]
    assert roles.receive("p1", look("primary 3")) == [
        PrimaryChanged(before=None, after="p1", reason="configured, and out of recovery"),
        IdentityChanged(server="r1", reason="out of recovery on timeline 2, but p1 is primary"),
    ]
    assert roles.receive("p1", look("primary 3", identifier="8"))[0] == PrimaryChanged(
        before="p1", after=None, reason="p1 has another system identifier"
    )


def test_traffic_says_nothing_about_roles() -> None:
    roles = observing()
    sample = Sample(source=Source.TRAFFIC, duration_s=0.0, failure=EvidenceClass.REFUSED)
    assert roles.receive("p1", sample) == []
