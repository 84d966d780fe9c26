"""The table of precedence: operator, wrong identity, fleet ban, local ejection."""

from __future__ import annotations

import pytest

from pgcat_cluster.agreement.documents import Ban, ServerOverride
from pgcat_cluster.agreement.effective import Effective, LocalOpinion, Use, effective, ramp
from pgcat_cluster.topology.model import Cluster, build
from pgcat_cluster.topology.reading import parse


def cluster(on_all_bad: str = "primary") -> Cluster:
    text = f"""
        [clusters.main]
        leadership = {{ source = "static", primary = "p0" }}
        read = {{ on_all_bad = "{on_all_bad}" }}
        [clusters.main.servers]
        p0 = {{ host = "p0" }}
        r1 = {{ host = "r1" }}
        r2 = {{ host = "r2", weight = 50 }}
    """
    return build(parse(text, "test")).clusters["main"]


def ban(scope: str = "fleet", state: str = "banned") -> Ban:
    return Ban(
        id="1", state=state, scope=scope, why=("refused",), votes=(), need=2, jury=3, zones=1, strikes=1, by=""
    )  # fmt: skip


def table(on_all_bad: str = "primary", **facts: object) -> Effective:
    given = {"bans": {}, "primary": "p0", "overrides": {}, "zone": "a", "opinions": {}, "ramps": {}} | facts
    return effective(cluster(on_all_bad), **given)  # type: ignore[arg-type]


def use_of_r1(**facts: object) -> Use:
    return table(**{name: {"r1": value} for name, value in facts.items()}).servers["r1"]


BAD = LocalOpinion(reads=False, writes=False, reason="bad, soft: timeout")
WRONG = LocalOpinion(reads=False, writes=False, wrong=True, reason="another system identifier")
BANNED = Use(reads=False, writes=False, weight=0, reason="fleet ban: refused")


def test_all_is_well() -> None:
    assert table() == Effective(
        servers={
            "p0": Use(reads=True, writes=True, weight=100),
            "r1": Use(reads=True, writes=False, weight=100),
            "r2": Use(reads=True, writes=False, weight=50),
        }
    )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"bans": [ban()]}, BANNED),
        ({"bans": [ban("zone:a")]}, Use(reads=False, writes=False, weight=0, reason="zone:a ban: refused")),
        ({"bans": [ban("zone:b")]}, Use(reads=True, writes=False, weight=100)),
        ({"bans": [ban(state="probation")]}, Use(reads=True, writes=False, weight=10, reason="on probation")),
        (
            {"bans": [ban(state="probation")], "ramps": 0.5},
            Use(reads=True, writes=False, weight=50, reason="on probation"),
        ),
        (
            {"bans": [ban(state="probation"), ban("zone:a")]},
            Use(reads=False, writes=False, weight=0, reason="zone:a ban: refused"),
        ),
        ({"bans": [ban()], "opinions": BAD}, BANNED),
        ({"opinions": BAD}, Use(reads=False, writes=False, weight=0, reason=BAD.reason)),
        ({"bans": [ban()], "opinions": WRONG}, Use(reads=False, writes=False, weight=0, reason=WRONG.reason)),
        ({"bans": [ban()], "overrides": ServerOverride(action="pin")}, Use(reads=True, writes=False, weight=100)),
        (
            {"opinions": BAD, "overrides": ServerOverride(action="pin")},
            Use(reads=False, writes=False, weight=0, reason=BAD.reason),
        ),
        (
            {"opinions": WRONG, "overrides": ServerOverride(action="ban", by="amy", reason="disk")},
            Use(reads=False, writes=False, weight=0, reason="operator amy: ban, disk"),
        ),
        (
            {"overrides": ServerOverride(action="drain")},
            Use(reads=False, writes=False, weight=0, reason="operator: drain", drained=True),
        ),
        (
            {"overrides": ServerOverride(action="ignore")},
            Use(reads=False, writes=False, weight=0, reason="operator: ignore", probed=False),
        ),
    ],
)  # fmt: skip
def test_precedence(facts: dict[str, object], expected: Use) -> None:
    assert use_of_r1(**facts) == expected


def test_a_ban_of_the_primary_leaves_its_writes_and_an_operator_does_not() -> None:
    banned = table(bans={"p0": [ban()]}).servers["p0"]
    assert (banned.reads, banned.writes) == (False, True)
    removed = table(overrides={"p0": ServerOverride(action="ban")}).servers["p0"]
    assert (removed.reads, removed.writes) == (False, False)


@pytest.mark.parametrize(
    ("on_all_bad", "readable"), [("primary", {"p0"}), ("fail", {"p0"}), ("any", {"p0", "r1"})]
)
def test_all_replicas_bad(on_all_bad: str, readable: set[str]) -> None:
    found = table(
        on_all_bad, bans={"r1": [ban()], "r2": [ban()]}, overrides={"r2": ServerOverride(action="ban")}
    )
    assert found.on_all_bad == on_all_bad
    assert {name for name, use in found.servers.items() if use.reads} == readable


def test_the_ramp() -> None:
    shares = [ramp(10.0, now, 10.0) for now in (9.0, 10.0, 15.0, 20.0, 99.0)]
    assert shares == pytest.approx([0.1, 0.1, 0.55, 1.0, 1.0])
    assert ramp(10.0, 10.0, 0.0) == 1.0
