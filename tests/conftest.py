"""What every test run shares: the header that says compiled or interpreted, what is left out, the actors."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from pgcat_cluster.relay.build import build_kind

pytest_plugins = [
    "tests.support.etcd",
    "tests.support.fleets",
    "tests.support.front_fixtures",
    "tests.support.sharding",
    "tests.support.stack",
]

# How fast this machine is today says nothing about the code.
hypothesis.settings.register_profile(
    "house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")

# Rooms that know nothing of the data plane: what is true of them is so on both.
APART = frozenset({"agreement", "cli", "demo", "fleet", "health", "pool", "probes", "topology", "wire"})
UNIT = Path(__file__).parent / "unit"

IS_INTERPRETED_ON_PURPOSE = os.environ.get("PGCAT_PURE", "0") not in ("", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run what is marked live_long")
    parser.addoption("--counts-to", type=Path, help="write how many tests passed, failed, … to this file")
    parser.addoption("--counts-from", type=Path, help="add the counts of an earlier run to the last line")
    parser.addoption("--record", type=Path, help="write what became of tests marked live_long to this file")


def pytest_configure() -> None:
    """Children can be interrupted, also where a shell in the background made us ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where `rich` is installed structlog would draw every variable of every frame, which takes seconds.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


def pytest_report_header() -> str:
    return f"data plane: {build_kind()}{' (PGCAT_PURE)' if IS_INTERPRETED_ON_PURPOSE else ''}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(UNIT) and item.path.relative_to(UNIT).parts[0] in APART:
            item.add_marker("once")
    left_out = {name for name, applies in _LEFT_OUT.items() if applies(config)}
    chosen = [item for item in items if not left_out & {mark.name for mark in item.iter_markers()}]
    if len(chosen) < len(items):
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen


_LEFT_OUT = {
    "live_long": lambda config: not config.getoption("--long"),
    "once": lambda _config: IS_INTERPRETED_ON_PURPOSE,
}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield
    # After everything is reported and before the last line is made of what stands in `stats`.
    stats = terminalreporter.stats
    if target := config.getoption("--counts-to"):
        counts = {word: len(reports) for word, reports in stats.items() if word}
        target.write_text(json.dumps(counts))
    if target := config.getoption("--record"):
        _record(target, " ".join(config.invocation_params.args), stats)
    if (earlier := config.getoption("--counts-from")) and earlier.exists():
        for word, count in json.loads(earlier.read_text()).items():
            stats.setdefault(word, []).extend([object()] * count)


def _record(target: Path, arguments: str, stats: dict[str, list[Any]]) -> None:
    """One entry per long test, what `record_property` noted among it; those that did not run now stay."""
    entries = {one["test"]: one for one in json.loads(target.read_text())} if target.exists() else {}
    for outcome in ("passed", "failed", "error"):
        for report in stats.get(outcome, []):
            if "live_long" in report.keywords:
                entries[report.nodeid] = {
                    "test": report.nodeid,
                    "outcome": outcome,
                    "seconds": round(report.duration, 1),
                    "date": time.strftime("%Y-%m-%d", time.gmtime()),
                    "command": f"pytest {arguments}",
                    "data_plane": build_kind(),
                    "cores": os.cpu_count(),
                    **dict(report.user_properties),
                }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([entries[test] for test in sorted(entries)], indent=1) + "\n")
