"""Keeps what a long run showed as a record that can be committed: one JSON file, one entry for each name."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from pgcat_cluster import __version__

Figures = dict[str, float | str]
FIGURES = pytest.StashKey[Figures]()
_FAILED = pytest.StashKey[bool]()


def record(file: Path, name: str, *, command: str, result: str, figures: Mapping[str, float | str]) -> None:
    """Put in the place of an earlier one of this name."""
    kept = json.loads(file.read_text()) if file.exists() else []
    entry = {
        "name": name,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "cpus": os.cpu_count(),
        "result": result,
        "figures": dict(figures),
    }
    entries = sorted([one for one in kept if one["name"] != name] + [entry], key=lambda one: str(one["name"]))
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(entries, indent=2) + "\n")


def note(item: pytest.Item, report: pytest.TestReport, file: Path) -> None:
    """Record what a test with FIGURES came to, once all of it is over."""
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    figures = item.stash.get(FIGURES, None)
    if report.when == "teardown" and figures is not None:
        name = item.name.partition("[")[0].removeprefix("test_")
        result = "failed" if item.stash[_FAILED] else "passed"
        record(file, name, command="make live", result=result, figures=figures)
