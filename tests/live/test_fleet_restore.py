"""An etcd that was restored from a backup: nodes keep what they know until an operator accepts it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgcat_cluster.demo.node import Node
from tests.support.fleets import Fleet, FleetMaker, size
from tests.support.nodes import backend, connect, eventually, get, lines, one

pytestmark = pytest.mark.once


def restore(fleet: Fleet, snapshot: Path) -> None:
    """Replace what the etcd holds by a backup of it."""
    (member,) = fleet.etcd.members
    member.stop()
    shutil.rmtree(member.data)
    fleet.ctl(
        *("snapshot", "restore", str(snapshot), f"--name={member.name}", f"--data-dir={member.data}"),
        *(f"--initial-cluster={member.name}={member.peer_url}",),
        f"--initial-advertise-peer-urls={member.peer_url}",
    )
    fleet.etcd.restart(member)


def test_a_restored_etcd_changes_nothing_until_an_operator_accepts_it(
    make_fleet: FleetMaker, tmp_path: Path
) -> None:
    fleet = make_fleet(nodes=2, pool="size = 5")
    first, second = fleet.nodes
    fleet.ctl("snapshot", "save", str(tmp_path / "backup"))
    fleet.put("config/pools/test", "users = { test = {} }\nsize = 7")
    fleet.put("override/main/r1", "drain")

    def is_as_before(node: Node) -> bool:
        return size(node) == 7 and bool(backend(node, "r1")["is_avoided"])

    eventually(lambda: is_as_before(first) and is_as_before(second), "both heed both")
    lost = fleet.revision()
    with connect(first) as client:
        restore(fleet, tmp_path / "backup")
        for node in fleet.nodes:
            eventually(lambda node=node: bool(lines(node, "fleet.alarm")), "it finds the store strange")
            (alarm,) = lines(node, "fleet.alarm")
            assert "pgcat-cluster fleet accept-store" in alarm
        # What lived in the backup ends there: nobody whom it knew refreshes it.
        eventually(lambda: fleet.keys("live/") == [], "nobody says anything in it")
        # Others have written more than was lost.
        while fleet.revision() <= lost:
            fleet.ctl("put", "/elsewhere", "")
        second.stop()
        second.launch()
        eventually(lambda: bool(lines(second, "begins with what was kept")), "it begins with what it knew")
        eventually(lambda: bool(lines(second, "fleet.alarm")), "it remembers")
        assert is_as_before(first)
        assert is_as_before(second)
        assert fleet.keys("live/") == fleet.keys("override/") == []
        # Who has just begun must look at its servers first.
        eventually(lambda: [get(node, "/ready")[0] for node in fleet.nodes] == [200, 200], "both serve")
        assert one(client, "select 1") == 1

        assert "revision" in fleet.operate("accept-store", "--reason", "a test")
        eventually(lambda: [size(node) for node in fleet.nodes] == [5, 5], "they go by what is there")
        eventually(lambda: not any(backend(node, "r1")["is_avoided"] for node in fleet.nodes), "it is used")
        eventually(lambda: len(fleet.values("live/")) == 2, "both take part again")
        fleet.put("config/pools/test", "users = { test = {} }\nsize = 9")
        eventually(lambda: [size(node) for node in fleet.nodes] == [9, 9], "edits are accepted again")
        assert one(client, "select 1") == 1
        assert "operator put override/_fleet/store accept" in fleet.operate("events")
    # What was accepted is what they know from now on.
    first.stop()
    first.start()
    assert size(first) == 9
