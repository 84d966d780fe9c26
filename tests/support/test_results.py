"""Records of long runs: the newest of each name, in the order of names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.results import record

pytestmark = pytest.mark.once


def test_the_newest_record_of_each_name_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "results" / "fleet.json"
    for name, result, seconds in (("b", "failed", 1.5), ("a", "passed", 2.0), ("b", "passed", 3.0)):
        record(file, name, command="make live", result=result, figures={"seconds": seconds})
    kept = json.loads(file.read_text())
    assert [(one["name"], one["result"], one["figures"]) for one in kept] == [
        ("a", "passed", {"seconds": 2.0}),
        ("b", "passed", {"seconds": 3.0}),
    ]
    assert {one["command"] for one in kept} == {"make live"}
