"""The verdict on a smoke load: what each kind of evidence is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pgcat_cluster.demo.smoke import Counted, Evidence, judge

pytestmark = pytest.mark.once


class Server:
    """As much of a server as a verdict needs."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port


P1: Any = Server("p1", 1)
R1: Any = Server("r1", 2)
R2: Any = Server("r2", 3)


def counted(commits: int, inserted: int = 0, rollbacks: int = 0) -> Counted:
    return Counted(commits=commits, rollbacks=rollbacks, inserted=inserted)


def good() -> dict[str, Any]:
    return {
        "answers": {("read", 2): 60, ("read", 3): 40, ("write", 1): 10, ("in transaction", 1): 10},
        "counted": {"p1": counted(22, 20), "r1": counted(61), "r2": counted(40)},
        "rows": 20,
        "served": {"n1": 70, "n2": 50},
    }


def failing(evidence: Mapping[str, Any], replicas: list[Any]) -> list[str]:
    return [finding.claim for finding in judge(Evidence(**evidence), P1, replicas) if not finding.holds]


def test_a_good_split_holds_and_says_its_numbers() -> None:
    findings = judge(Evidence(**good()), P1, [R1, R2])
    assert [(finding.holds, finding.claim, finding.numbers) for finding in findings] == [
        (
            True,
            "reads reach r1",
            "60 of 100 answers came from r1; its pg_stat_database grew by 61 transactions",
        ),
        (
            True,
            "reads reach r2",
            "40 of 100 answers came from r2; its pg_stat_database grew by 40 transactions",
        ),
        (
            True,
            "no read reaches the primary",
            "0 of 100 answers came from p1; its pg_stat_database grew by 22 transactions for 20 that write",
        ),
        (
            True,
            "every write reaches the primary alone",
            "20 of 20 answers came from p1; its pg_stat_database counts 20 new rows",
        ),
        (True, "no server refused anything", "p1 rolled back 0, r1 rolled back 0, r2 rolled back 0"),
        (True, "every write happened exactly once", "the primary's table holds 20 rows after 20 inserts"),
        (True, "every node served", "n1 served 70 transactions, n2 served 50 transactions"),
    ]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"answers": {**good()["answers"], ("read", 3): 0}}, ["reads reach r2"]),
        ({"counted": {**good()["counted"], "r1": counted(59)}}, ["reads reach r1"]),
        ({"answers": {**good()["answers"], ("read", 1): 1}}, ["no read reaches the primary"]),
        ({"counted": {**good()["counted"], "p1": counted(122, 20)}}, ["no read reaches the primary"]),
        ({"answers": {**good()["answers"], ("write", 2): 1}}, ["every write reaches the primary alone"]),
        (
            {"counted": {**good()["counted"], "p1": counted(22, 19)}},
            ["every write reaches the primary alone"],
        ),
        ({"counted": {**good()["counted"], "r2": counted(40, 0, 1)}}, ["no server refused anything"]),
        ({"rows": 21}, ["every write happened exactly once"]),
        ({"served": {"n1": 120, "n2": 0}}, ["every node served"]),
    ],
)
def test_each_flaw_is_found(change: dict[str, Any], broken: list[str]) -> None:
    found = failing({**good(), **change}, [R1, R2])
    assert set(broken) <= set(found)


def test_without_replicas_the_primary_may_read() -> None:
    evidence = {
        "answers": {("read", 1): 100, ("write", 1): 10},
        "counted": {"p1": counted(110, 10)},
        "rows": 10,
        "served": {"n1": 110},
    }
    assert failing(evidence, []) == []
