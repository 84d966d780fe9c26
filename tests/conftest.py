"""What every test run shares: the header that says compiled or interpreted, the long tests, the actors."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.support.stack", "tests.support.front_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run what is marked live_long")


def pytest_report_header(config: pytest.Config) -> str:
    return f"data plane: {data_plane()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    chosen = [item for item in items if item.get_closest_marker("live_long") is None]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("live_long")])
        items[:] = chosen


def data_plane() -> str:
    """`compiled` or `interpreted`, by the word of the package itself."""
    from pgcat_cluster.relay.build import build_kind

    forced = " (PGCAT_PURE=1)" if os.environ.get("PGCAT_PURE") == "1" else ""
    return f"{build_kind()}{forced}"
