"""What a node does with another topology: what changed is made anew, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pgcat_cluster.net.provisions import provide
from pgcat_cluster.node import Node
from pgcat_cluster.probes.watch import ClusterWatch
from pgcat_cluster.topology.model import PoolKey, Topology, build
from pgcat_cluster.topology.reading import parse

# Nobody listens there: it is not about servers.
TENANT = """
[clusters.{0}.servers]
p1 = {{ host = "127.0.0.1", port = 1 }}
[users.{0}]
auth = "trust"
[pools.{0}]
cluster = "{0}"
users = {{ {0} = {{}} }}
size = {1}
"""


def topology(fleet: str = "", **sizes: int) -> Topology:
    tenants = "".join(TENANT.format(name, size) for name, size in sizes.items())
    return build(parse(f'[node]\nlisten = ["127.0.0.1:0"]\nhttp = ""\n{fleet}\n{tenants}', "test"))


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node(topology(a=5, b=5), Path(), asyncio.get_running_loop())
    await node.start()
    yield node
    await node.stop()


async def adopt(node: Node, changed: Topology) -> None:
    async with node.changing:
        await node.adopt(provide(changed, node.provisions))


async def test_an_edit_leaves_the_others_as_they_are(node: Node) -> None:
    watches, accounts = dict(node.watches), dict(node.accounts)
    view, credentials = node.view.clusters["a"], node.provisions.credentials["a"]
    await adopt(node, topology(a=5, b=9, c=5))
    assert set(node.watches) == {"a", "b", "c"}
    assert {name: node.watches[name] for name in watches} == watches
    assert node.view.clusters["a"] is view is accounts[PoolKey("a", "a")].view
    assert node.provisions.credentials["a"] is credentials
    assert [pool.limit for pool in accounts[PoolKey("b", "b")].pools.values()] == [9]
    assert node.accounts[PoolKey("a", "a")] is accounts[PoolKey("a", "a")]


async def test_servers_are_watched_anew_only_if_it_is_about_health(node: Node) -> None:
    before = node.watches["a"]
    await adopt(node, topology("[fleet]\njury = 5", a=5, b=5))
    assert node.watches["a"] is before
    await adopt(node, topology('[fleet.health]\ninterval = "9s"', a=5, b=5))
    assert node.watches["a"] is not before


async def test_what_leaves_is_forgotten(node: Node) -> None:
    await adopt(node, topology(b=5))
    assert set(node.watches) == set(node.view.clusters) == {"b"}
    assert set(node.accounts) == {PoolKey("b", "b")}
    assert set(node.provisions.credentials) == {"b"}


async def test_the_last_word_of_a_watch_that_is_stopped_is_passed_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, stop = node.watches["a"], ClusterWatch.stop

    async def speaks_before_it_ends(watch: ClusterWatch) -> None:
        if watch is last:
            watch._on_change([])
        await stop(watch)

    monkeypatch.setattr(ClusterWatch, "stop", speaks_before_it_ends)
    await adopt(node, topology(b=5))
    assert set(node.watches) == set(node.view.clusters) == {"b"}
