"""What an edit may not do without an operator's word, and how a fleet goes on when one node can not follow."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest

from pgcat_cluster.demo.node import Node
from tests.support.fleets import Fleet, FleetMaker
from tests.support.nodes import connect, eventually, get, one

pytestmark = pytest.mark.once

LONELY = 'server_database = "test"\nusers = { test = {} }'
OTHER_SECRET = 'secret = "file:other.secret"'


def desired(fleet: Fleet) -> dict[str, Any]:
    """What the coordinator says of what operators want."""
    (status,) = fleet.values("status/config")
    return dict(status["desired"])


def ack_of(fleet: Fleet, name: str) -> dict[str, Any]:
    (ack,) = fleet.values(f"ack/{name}.")
    return dict(ack)


def learn_secret(node: Node) -> None:
    secret = node.folder / "secrets" / "other.secret"
    secret.touch(mode=0o600)
    secret.write_text(node.passwords["test"])


def test_a_pool_goes_only_with_an_operators_word(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2)
    fleet.put("config/pools/lonely", LONELY)
    eventually(lambda: fleet.runs({"pools/lonely": LONELY}), "it is there")
    fleet.delete("config/pools/lonely")
    eventually(lambda: desired(fleet)["state"] == "refused", "nobody meant that")
    why = desired(fleet)["why"]
    assert why.startswith("pools/lonely is removed; to agree, put override/_fleet/activate ")
    with connect(fleet.nodes[0], "lonely") as client:
        assert one(client, "select 1") == 1
    # Typed as it stands there.
    match = re.search(r"(override/_fleet/activate) (\{.*?\})", why)
    assert match is not None
    fleet.put(match[1], match[2])
    eventually(lambda: fleet.runs({"pools/lonely": None}), "it was meant")
    eventually(lambda: desired(fleet)["state"] == "accepted", "it is said")
    assert fleet.values("status/command/_fleet")[0]["result"] == "done"


def shard_map(kind: str) -> str:
    return f'kind = "{kind}"\nkey = {{ column = "id", type = "bigint" }}\nshards = 2\n'


def test_a_shard_map_in_use_stays_and_any_other_is_free(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(nodes=2)
    place = 'clusters = { 0 = "main", 1 = "main" }, databases = { 0 = "test", 1 = "postgres" }'
    sharded = {
        "shardmaps/by-id": shard_map("hash"),
        "shardmaps/spare": shard_map("hash"),
        "pools/sharded": f'shards = {{ map = "by-id", {place} }}\nusers = {{ test = {{}} }}',
    }
    fleet.edit(sharded)
    eventually(lambda: fleet.runs(sharded), "the nodes go by it")

    fleet.put("config/shardmaps/by-id", shard_map("modulo"))
    eventually(lambda: desired(fleet)["state"] == "rejected", "a map that is used")
    told = " ".join(fleet.operate("status").split())
    for node in ("px-1", "px-2"):
        assert re.search(rf"{node}\.[0-9a-f]+ .*config/shardmaps/by-id", told), told
    assert (
        'shard map "by-id" is used by pool "sharded": it can be changed when fleet-wide cut-over exists; '
        "make a new map for a new pool"
    ) in told

    fleet.put("config/shardmaps/by-id", sharded["shardmaps/by-id"])
    fleet.put("config/shardmaps/spare", shard_map("modulo"))
    # Both at once: a map that nobody used, and a pool that goes by it from its first moment.
    more = {"pools/more": sharded["pools/sharded"].replace("by-id", "spare")}
    fleet.edit(more)
    eventually(lambda: fleet.runs(more | {"shardmaps/spare": shard_map("modulo")}), "that is free")
    fleet.put("config/shardmaps/spare", shard_map("sha1"))

    def objected() -> set[str]:
        (status,) = fleet.values("status/config")
        return (
            {error["key"] for error in status["errors"]}
            if status["desired"]["state"] == "rejected"
            else set()
        )

    eventually(lambda: objected() == {"config/shardmaps/spare"}, "now it is used")


def test_a_fleet_goes_on_without_a_node_that_can_not_follow(make_fleet: FleetMaker) -> None:
    fleet = make_fleet()
    broken = fleet.nodes[2]
    before = fleet.values("decided/accepted")
    for node in fleet.nodes[:2]:
        learn_secret(node)
    fleet.put("config/users/test", OTHER_SECRET)
    eventually(lambda: desired(fleet)["state"] == "rejected", "one word against it is enough")
    (error,) = fleet.values("status/config")[0]["errors"]
    assert (error["node"].partition(".")[0], error["key"], error["path"]) == (
        "px-3",
        "config/users/test",
        "secret",
    )
    assert "other.secret: No such file or directory" in error["msg"]
    assert fleet.values("decided/accepted") == before

    fleet.put("override/_fleet/activate", json.dumps({"rev": desired(fleet)["rev"], "without": ["px-3"]}))
    eventually(lambda: fleet.values("decided/accepted") != before, "the others go on")
    generation = fleet.values("decided/accepted")[0]["gen"]
    eventually(
        lambda: all(ack_of(fleet, name)["active"]["gen"] == generation for name in ("px-1", "px-2")),
        "they go by it",
    )
    eventually(
        lambda: (
            [name.partition(".")[0] for name in fleet.values("status/config")[0]["nodes"]["lagging"]]
            == ["px-3"]
        ),
        "who does not is named",
    )
    # It serves by what it has, and says why.
    assert ack_of(fleet, "px-3")["active"] == {"gen": before[0]["gen"]}
    with connect(broken) as client:
        assert one(client, "select 1") == 1

    # Who begins with nothing can not: it serves nobody and does not vote, until it can.
    broken.kill()
    (broken.folder / "state" / "known.json").unlink()
    broken.launch()

    def says(reason: str) -> bool:
        try:
            return reason in get(broken, "/ready")[1]
        except OSError:
            return False

    eventually(
        lambda: says("the accepted documents can not be used here: config/users/test: secret"), "it says why"
    )
    assert get(broken, "/ready")[0] == 503
    eventually(lambda: bool(ack_of(fleet, "px-3").get("unusable")), "it tells the fleet")
    eventually(
        lambda: [live["state"] for live in fleet.values("live/px-3.")] == ["joining"], "it has no vote"
    )
    learn_secret(broken)
    broken.signal(signal.SIGHUP)
    broken.wait_ready()
    eventually(lambda: ack_of(fleet, "px-3").get("active") == {"gen": generation}, "it goes by it too")
    with connect(broken) as client:
        assert one(client, "select 1") == 1
