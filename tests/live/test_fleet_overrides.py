"""What operators put under `override/` with etcdctl: each word does what it says, everywhere, as long as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from tests.support.fleets import PATIENT, Fleet, FleetMaker, size
from tests.support.nodes import backend, connect, eventually, lines, one, port, server_pids
from tests.support.stack import StackMaker

pytestmark = pytest.mark.once


def all_avoid(fleet: Fleet, server: str) -> bool:
    return all(backend(node, server)["is_avoided"] for node in fleet.nodes)


def all_use(fleet: Fleet, server: str) -> bool:
    return not any(backend(node, server)["is_avoided"] for node in fleet.nodes)


def is_read(node: Node, server: Postgres) -> bool:
    with connect(node) as client:
        return server.port in {port(client) for _ in range(20)}


def last_probe(server: Postgres) -> Any:
    """When it was looked at last."""
    asked = "select max(query_start) from pg_stat_activity where usename = 'pgcat_probe'"
    return server.query(asked)[0][0]


def is_left_alone(server: Postgres, other: Postgres) -> bool:
    """Whether it is not probed for as long as another is, more than once by each node."""
    before = last_probe(server)
    for _ in range(5):
        known = last_probe(other)
        eventually(lambda known=known: last_probe(other) != known, "the other one is probed")
    return bool(last_probe(server) == before)


def test_a_pinned_server_is_not_banned_and_an_ignored_one_not_probed(
    make_fleet: FleetMaker, make_stack: StackMaker
) -> None:
    stack = make_stack()
    fleet = make_fleet(nodes=2, stack=stack, fleet=PATIENT + '[bans]\nmin = "120s"\n')
    pinned, ignored = stack.replicas
    fleet.put("override/main/r1", "pin")
    fleet.put("override/main/r2", '{"action":"ignore","reason":"is copied to another disk"}')
    eventually(lambda: all_avoid(fleet, "r2"), "it is out of use")
    eventually(lambda: is_left_alone(ignored, pinned), "nobody looks at it any more")
    fleet.delete("override/main/r2")
    eventually(lambda: all_use(fleet, "r2"), "it is used again")

    pinned.kill()
    eventually(lambda: all_avoid(fleet, "r1"), "each node sees by itself that it is gone")
    eventually(lambda: len(fleet.keys("verdict/main/r1/")) == 2, "they say so")
    assert fleet.keys("decided/ban/") == []
    fleet.delete("override/main/r1")
    eventually(lambda: fleet.keys("decided/ban/") == ["decided/ban/main/r1/fleet"], "it is banned")
    # The ban has its time; the operator's word counts more, and no longer than it stands.
    pinned.start()
    fleet.put("override/main/r1", "pin")
    eventually(lambda: all_use(fleet, "r1"), "it is used in spite of the ban")
    assert fleet.keys("decided/ban/") == ["decided/ban/main/r1/fleet"]
    # Others serve until a link of its own is open.
    eventually(lambda: all(is_read(node, pinned) for node in fleet.nodes), "reads go there")
    fleet.delete("override/main/r1")
    eventually(lambda: all_avoid(fleet, "r1"), "the ban counts again")


def test_links_are_replaced_and_a_freeze_holds_edits(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2, pool="size = 3")
    first, second = fleet.nodes
    with connect(first) as one_client, connect(second) as other:
        assert one(one_client, "select 1") == one(other, "select 1") == 1
        before = {node: server_pids(node) for node in fleet.nodes}
        fleet.put("override/_pool/test", '{"reconnect":1}')
        for node in fleet.nodes:
            eventually(lambda node=node: not before[node] & server_pids(node), "no link of before is left")
        assert one(one_client, "select 1") == one(other, "select 1") == 1

    fleet.put("override/_fleet/freeze", "on")
    fleet.put("config/pools/test", "users = { test = {} }\nsize = 4")
    eventually(lambda: fleet.values("status/config")[0]["desired"]["state"] == "frozen", "the edit waits")
    assert [size(node) for node in fleet.nodes] == [3, 3]
    fleet.delete("override/_fleet/freeze")
    eventually(lambda: [size(node) for node in fleet.nodes] == [4, 4], "it goes on")

    # What names nothing is kept, and told.
    fleet.put("override/main/r9", "drain")
    eventually(lambda: all(lines(node, "override/main/r9") for node in fleet.nodes), "it does nothing")
    assert fleet.keys("override/") == ["override/_pool/test", "override/main/r9"]
