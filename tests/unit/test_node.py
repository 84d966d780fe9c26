"""What a node does with another topology: what changed is made anew, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.health.evidence import EvidenceClass, Sample, ServerFacts, Source
from pgcat_cluster.net.provisions import provide
from pgcat_cluster.node import Node
from pgcat_cluster.probes.watch import ClusterWatch
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.topology.model import PoolKey, PoolSettings, Topology, build
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
    assert node.view.clusters["a"] is view is accounts[PoolKey("a", "a")].shards[0].view
    assert node.provisions.credentials["a"] is credentials
    assert [pool.limit for pool in accounts[PoolKey("b", "b")].pools()] == [9]
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


def sizes(node: Node) -> dict[str, list[int]]:
    """The limits of every pool, by its database."""
    return {key.database: [pool.limit for pool in account.pools()] for key, account in node.accounts.items()}


Broken = Callable[[pytest.MonkeyPatch], Callable[[], bool]]


def broken(method: str, times: int) -> Broken:
    """The node is wrong there, so often; what is answered tells whether that was met."""

    def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
        left = [times]
        right = getattr(Node, method)

        def wrong(node: Node, *of: object, **how: object) -> object:
            if left[0]:
                left[0] -= 1
                raise KeyError("what nobody foresaw, and nobody is told")
            return right(node, *of, **how)

        monkeypatch.setattr(Node, method, wrong)
        return lambda: left[0] < times

    return breaks


@pytest.mark.parametrize(
    "method", ["_change_node", "_change_account", "_watch", "_add_account", "_remove_account"]
)
async def test_what_fails_midway_leaves_all_as_it_was(
    method: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, settings = node.provisions, {key: one.settings for key, one in node.accounts.items()}
    client_of = node.accounts[PoolKey("a", "a")]
    edit = build(
        parse(
            '[node]\nlisten = ["127.0.0.1:0"]\nhttp = ""\nlogin_timeout = "7s"\n'
            + TENANT.format("b", 9)
            + TENANT.format("c", 5),
            "test",
        )
    )
    was_met = broken(method, 1)(monkeypatch)
    with pytest.raises(ConfigFault, match="KeyError") as refused:
        await adopt(node, edit)
    assert was_met()
    assert "foresaw" not in str(refused.value)
    assert (node.provisions, node.generation) == (before, 1)
    assert sizes(node) == {"a": [5], "b": [5]}
    assert {key: one.settings for key, one in node.accounts.items()} == settings
    assert set(node.watches) == set(node.view.clusters) == {"a", "b"}
    assert all(
        shard.view is node.view.clusters[shard.view.name]
        for one in node.accounts.values()
        for shard in one.shards
    )
    # Who is told to go is told last.
    assert (node.accounts[PoolKey("a", "a")] is client_of) is (method != "_remove_account")
    # And it goes on: the same edit is taken whole when it can be.
    await adopt(node, edit)
    assert sizes(node) == {"b": [9], "c": [5]}
    assert set(node.watches) == set(node.view.clusters) == {"b", "c"}


async def test_what_can_not_be_put_back_is_made_whole_by_the_next_edit(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken("_watch", 2)(monkeypatch)
    with pytest.raises(ConfigFault, match="KeyError"):
        await adopt(node, topology('[fleet.health]\ninterval = "9s"', a=5, b=9))
    await adopt(node, topology(a=5, b=5))
    assert sizes(node) == {"a": [5], "b": [5]}
    assert set(node.watches) == set(node.view.clusters) == {"a", "b"}


async def test_who_orders_a_change_and_goes_leaves_no_half_of_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added = Node._add_account, asyncio.Event()

    def tells(node: Node, settings: PoolSettings) -> None:
        add(node, settings)
        added.set()

    monkeypatch.setattr(Node, "_add_account", tells)
    order = asyncio.get_running_loop().create_task(adopt(node, topology(b=9, c=5, d=5)))
    await added.wait()
    order.cancel()
    await asyncio.wait({order})
    assert order.cancelled()
    assert sizes(node) == {"a": [5], "b": [5]}
    assert set(node.watches) == set(node.view.clusters) == {"a", "b"}


@pytest.mark.parametrize("is_silence", [True, False])
async def test_reads_of_a_replica_that_is_out_of_use_are_given_up_if_it_is_silent(
    is_silence: bool, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of one server alone a node's own doubt takes nothing away.
    two = TENANT.format("a", 5).replace("[users", 'r1 = { host = "127.0.0.1", port = 2 }\n[users')
    await adopt(node, build(parse(f'[node]\nlisten = ["127.0.0.1:0"]\nhttp = ""\n{two}', "test")))
    given_up: list[Pool] = []
    monkeypatch.setattr(node.control.supply, "give_up", given_up.append)
    # As if probes had ended so.
    facts = ServerFacts(in_recovery=True, system_identifier="7", timeline=1, write_lsn=1, replay_lsn=1)
    nothing = Sample(source=Source.FRESH, duration_s=1.0, failure=EvidenceClass.SOFT, is_silence=is_silence)
    for sample in (Sample(source=Source.FRESH, duration_s=0.1, facts=facts), nothing, nothing):
        node.watches["a"]._receive("r1", sample)
    assert node.view.clusters["a"].servers["r1"].why_not.startswith("bad, soft")
    pools = node.accounts[PoolKey("a", "a")].pools()
    assert given_up == ([pool for pool in pools if pool.key == "r1"] if is_silence else [])
