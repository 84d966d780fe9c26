"""What the record says of figures and aims, and what is read of a node's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.fleet.record import Record, aims, missed, spread
from tests.bench.fleet.sightings import NodeLog

pytestmark = pytest.mark.once


def test_the_worst_of_few_is_their_99th_percentile() -> None:
    few = spread("edit", [5.0, 1.0, 3.0])
    assert few == {"edit_p50_ms": 3.0, "edit_p99_ms": 5.0, "edit_worst_ms": 5.0}
    many = spread("edit", [float(value) for value in range(1, 201)])
    assert many == {"edit_p50_ms": 100.5, "edit_p99_ms": 198.0, "edit_worst_ms": 200.0}


def test_what_is_above_its_aim_is_named() -> None:
    record: Record = {
        "edit_p50_ms": 81.0,
        "aim_edit_p50_ms": 80,
        "writes_in_peace": 0,
        "aim_writes_in_peace": 0,
    }
    assert missed(record) == ["edit_p50_ms"]


def test_only_a_small_fleet_has_an_aim_by_its_size() -> None:
    assert aims(8)["writes_per_failure"] == 10
    assert "writes_per_failure" not in aims(10)


_AVOIDED = '2026-11-22T07:18:11.500000Z info    server.avoided server=main/r1 reason="bad, refused: r1: no"\n'
_BANNED = "2026-11-22T07:18:11.600000Z info    server.banned server=main/r1 scope=fleet why=refused\n"
_RESTORED = "2026-11-22T07:18:19.700000Z info    server.restored server=main/r1 reason=banned\n"


def test_a_log_tells_since_when_a_server_is_avoided(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    log = NodeLog(path)
    # A line that is not whole yet is read when it is.
    path.write_text(_AVOIDED + _BANNED[:-9])
    log.read()
    assert not log.is_used("r1")
    assert log.is_used("r2")
    assert log.last("r1", "server.banned") is None
    avoided_s = log.avoided_at_s("r1", -1e12)
    assert avoided_s is not None
    assert log.avoided_at_s("r1", avoided_s + 0.01) is None
    path.write_text(_AVOIDED + _BANNED + _RESTORED)
    log.read()
    banned = log.last("r1", "server.banned")
    assert banned is not None
    assert banned.at_s - avoided_s == pytest.approx(0.1, abs=0.05)
    assert log.is_used("r1")
    assert log.avoided_at_s("r1", -1e12) is None
