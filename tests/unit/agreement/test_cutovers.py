"""A shard map in use, and the shards of a pool in force, stay as they are: nodes say so, and the coordinator too."""

from __future__ import annotations

import json

import pytest

from pgcat_cluster.agreement.documents import NodeFinding
from pgcat_cluster.topology.reading import Problem
from tests.support.edits import DOCUMENTS, KEYS, Fleet


def map_document(kind: str) -> bytes:
    return json.dumps({"kind": kind, "key": {"type": "bigint"}, "shards": 2}).encode()


def pool_document(**fields: object) -> bytes:
    shards = {"map": "m", "clusters": {"0": "main", "1": "other"}}
    return json.dumps({"users": {"app": {}}, "shards": shards} | fields).encode()


UNUSED = DOCUMENTS | {
    "clusters/other": b'servers = { r1 = { host = "c" } }',
    "shardmaps/m": map_document("hash"),
}
SHARDED = UNUSED | {"pools/sharded": pool_document()}
OTHER_MAP = {"shardmaps/m": map_document("modulo")}
USED = (
    'shard map "m" is used by pool "sharded": it can be changed when fleet-wide cut-over exists; '
    "make a new map for a new pool"
)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet("px-1", "px-2", "px-3", documents=SHARDED)


def kinds(fleet: Fleet) -> list[str]:
    running = [node.follower.running for node in fleet.nodes]
    return [one.settings.shardmaps["m"].kind for one in running if one is not None]


def agree(fleet: Fleet) -> None:
    """The operator's word for exactly what is wanted."""
    desired = fleet.status.desired
    fleet.override(KEYS.activate, json.dumps({"rev": desired.rev, "digest": desired.digest}))
    fleet.run(2.0)


def test_a_map_in_use_is_not_changed_and_every_node_says_why(fleet: Fleet) -> None:
    rev = fleet.put(OTHER_MAP)
    fleet.run(2.0)
    assert (fleet.generations, kinds(fleet)) == ([1, 1, 1], ["hash"] * 3)
    assert (fleet.status.desired.state, fleet.status.desired.rev) == ("rejected", rev)
    assert fleet.status.errors == tuple(
        NodeFinding(key="config/shardmaps/m", path="kind", node=node.id, msg=USED) for node in fleet.nodes
    )
    agree(fleet)
    assert (fleet.generations, fleet.status.desired.state) == ([1, 1, 1], "rejected")
    fleet.put({"shardmaps/m": SHARDED["shardmaps/m"]})
    fleet.run(2.0)
    assert (fleet.status.desired.state, fleet.status.errors) == ("accepted", ())


def test_the_shards_of_a_pool_in_force_do_not_move(fleet: Fleet) -> None:
    shards = {"map": "m", "clusters": {"0": "main", "1": "other"}, "databases": {"1": "elsewhere"}}
    fleet.put({"pools/sharded": pool_document(shards=shards)})
    fleet.run(2.0)
    error = fleet.status.errors[0]
    assert (error.key, error.path) == ("config/pools/sharded", "shards.databases.1")
    assert error.msg.startswith('shard 1 lies in database "sharded" of cluster other: ')


def test_a_map_that_no_pool_goes_by_and_the_rules_of_a_pool_are_free(fleet: Fleet) -> None:
    fleet.put({"shardmaps/spare": map_document("sha1")})
    fleet.run(2.0)
    fleet.put({"shardmaps/spare": map_document("modulo")})
    fleet.run(2.0)
    fleet.put({"pools/sharded": pool_document(sharding={"key": "id"}), "pools/more": pool_document()})
    fleet.run(2.0)
    assert (fleet.generations, fleet.status.desired.state) == ([4, 4, 4], "accepted")


def test_a_map_is_free_when_its_last_pool_is_gone() -> None:
    fleet = Fleet("px-1", "px-2", documents=SHARDED | {"fleet": b'allow_delete = ["pools/sharded"]'})
    fleet.delete("pools/sharded")
    fleet.run(2.0)
    fleet.put(OTHER_MAP)
    fleet.run(2.0)
    assert (fleet.generations, kinds(fleet)) == ([3, 3], ["modulo"] * 2)


def test_a_node_that_lags_behind_judges_again_when_it_has_caught_up() -> None:
    fleet = Fleet("px-1", "px-2", documents=SHARDED | {"fleet": b'allow_delete = ["pools/sharded"]'})
    late = next(node for node in fleet.nodes if not node.is_coordinator)
    late.trouble = (Problem("users.app.secret", "it is gone"),)
    fleet.delete("pools/sharded")
    fleet.run(2.0)
    fleet.put(OTHER_MAP | {"pools/sharded": pool_document()})
    fleet.run(2.0)
    # It still goes by the old map for this pool.
    assert fleet.status.desired.state == "rejected"
    assert {(error.node, error.path) for error in fleet.status.errors if error.msg == USED} == {
        (late.id, "kind")
    }
    late.trouble = ()
    fleet.run(10.0)
    assert (fleet.generations, kinds(fleet)) == ([3, 3], ["modulo"] * 2)


def test_the_coordinator_refuses_what_nodes_found_valid_beside_an_older_generation() -> None:
    fleet = Fleet("px-1", "px-2", documents=UNUSED)
    for node in fleet.nodes:
        node.trouble = (Problem("users.app.secret", "it is gone"),)
    fleet.put({"pools/sharded": SHARDED["pools/sharded"]})
    fleet.run(2.0)
    fleet.put(OTHER_MAP)
    fleet.run(1.0)
    assert (fleet.generations, fleet.status.nodes.valid) == ([1, 1], 2)
    for node in fleet.nodes:
        node.trouble = ()
    fleet.run(10.0)
    assert (fleet.generations, kinds(fleet)) == ([2, 2], ["hash"] * 2)
    assert (fleet.status.desired.state, fleet.status.desired.why) == ("refused", f"shardmaps.m.kind: {USED}")
    agree(fleet)
    assert (fleet.generations, fleet.status.desired.state) == ([2, 2], "refused")
