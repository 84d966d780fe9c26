"""Tests against real servers: all of them are marked `live`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.results import note

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "fleet.json"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("live")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    note(item, report, RESULTS)
    return report
