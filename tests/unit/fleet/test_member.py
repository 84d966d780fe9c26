"""One node's life in the fleet, with a model store, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from pgcat_cluster.agreement.cancels import Neighbour
from pgcat_cluster.agreement.documents import Live
from pgcat_cluster.agreement.effects import Preflight
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Delete, Event, Put, Row, Transaction
from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.fleet.house import Findings
from pgcat_cluster.fleet.leases import HeldLease
from pgcat_cluster.fleet.member import Member
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.fleet.state import Known, Occupied, StateDirectory
from pgcat_cluster.health.cluster import ClusterHealth
from pgcat_cluster.health.doubt import Place
from pgcat_cluster.health.evidence import EvidenceClass, Sample, ServerFacts, Source
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.topology.model import PoolKey, Topology, build
from pgcat_cluster.topology.settings import Health, Leadership, Read, Settings
from tests.support.edits import DOCUMENTS
from tests.support.virtual import VirtualTime
from tests.support.waiting import WITHIN_S

KEYS = Keys("test")


class House:
    """A node without servers: it only notes what it is told."""

    def __init__(self) -> None:
        self.runs: list[Settings] = []
        self.topology: Topology = build(Settings())
        self.healths: Mapping[str, ClusterHealth] = {}
        self.paused: frozenset[PoolKey] = frozenset()
        self.reconnected: list[frozenset[PoolKey]] = []
        self.fails_by: Exception | None = None
        self.tried = 0
        self.look_at: Callable[[str], None] = lambda _server: None

    async def run(self, settings: Settings) -> None:
        self.tried += 1
        if self.fails_by is not None:
            raise self.fails_by
        self.runs.append(settings)
        self.topology = build(settings)

    async def preflight(self, effect: Preflight) -> Findings:
        return (), ()

    def heed(self, cluster: str) -> None:
        pass

    def probe(self, cluster: str, server: str) -> None:
        self.look_at(server)

    def pause(self, pools: frozenset[PoolKey]) -> None:
        self.paused = pools

    def reconnect(self, pools: frozenset[PoolKey]) -> None:
        if pools:
            self.reconnected.append(pools)

    def lead(self, prefix: int) -> None:
        pass

    async def ask_others(self, asked: tuple[Neighbour, ...], servers: frozenset[Place]) -> frozenset[Place]:
        return frozenset()

    def nudge(self, juror: Neighbour, cluster: str, server: str, evidence: str) -> None:
        pass

    def is_drained(self, pools: frozenset[PoolKey]) -> bool:
        return True


class World:
    """A store, and time."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.store = ModelStore()

    def put(self, key: str, value: bytes) -> None:
        self.store.txn(Transaction(then=(Put(key=key, value=value),)), self.time.now_s())

    def delete(self, key: str) -> None:
        self.store.txn(Transaction(then=(Delete(key=key),)), self.time.now_s())

    def load(self) -> None:
        for name, text in DOCUMENTS.items():
            self.put(KEYS.config(name), text)

    def rows(self, prefix: str) -> tuple[Row, ...]:
        self.store.advance(self.time.now_s())
        return self.store.snapshot([KEYS.root + prefix], self.time.now_s())[1]

    def keys(self, prefix: str = "") -> list[str]:
        return [KEYS.below(row.key) for row in self.rows(prefix)]

    @contextlib.asynccontextmanager
    async def node(
        self, boot: int = 1, name: str = "px", state: StateDirectory | None = None
    ) -> AsyncIterator[Node]:
        node = Node(self, name, boot, state)
        yield node
        await node.stop()


class Node:
    """A member that runs, its house, and its way to the store."""

    def __init__(self, world: World, name: str, boot: int, state: StateDirectory | None) -> None:
        self.house = House()
        self.port = ModelPort(world.store, now_s=world.time.now_s, pause=world.time.pause)
        self.member = Member(
            self.port,
            self.house,
            keys=KEYS,
            node=f"{name}.{boot:08x}",
            live=Live(name=name, host=name, state="joining", addr="x:1", version="1", ttl=6),
            fleet_id="the-fleet",
            chance=random.Random(boot),
            state=state,
            now_s=world.time.now_s,
            pause=world.time.pause,
        )
        self.life = spawn(self.member.run(), "member")

    async def stop(self) -> None:
        """Cleanly, once."""
        if not self.life.done():
            self.life.cancel()
            await asyncio.wait({self.life})
            await self.member.leave()

    async def die(self) -> None:
        self.life.cancel()
        await asyncio.wait({self.life})


async def test_alone_it_accepts_the_first_documents_and_serves() -> None:
    world = World()
    async with world.node() as node:
        await world.time.run(2.0)
        assert node.house.runs == []
        assert node.member.waits_for == "the fleet has accepted no documents yet"
        (live,) = world.rows("live/")
        assert json.loads(live.value)["state"] == "joining"
        world.load()
        await world.time.run(2.0)
        assert len(node.house.runs) == 1
        assert node.member.waits_for == ""
        (live,) = world.rows("live/")
        assert (live.key, json.loads(live.value)["state"]) == (KEYS.live("px.00000001"), "serving")
        (ack,) = world.rows("ack/")
        assert json.loads(ack.value)["active"] == {"gen": 1}
        assert (ack.lease, live.lease) == (live.lease, live.lease)
        assert world.keys("seat/") == ["seat/px"]
        # In peace nothing is written.
        await world.time.run(2.0)
        before = world.store.revision
        await world.time.run(60.0)
        assert world.store.revision == before
    assert world.keys("live/") == world.keys("seat/") == world.keys("ack/") == []


async def test_what_is_wrong_is_told_to_who_waits() -> None:
    world = World()
    world.load()
    world.put(KEYS.config("pools/app"), b"users = { ap = {} }")
    async with world.node() as node:
        await world.time.run(3.0)
        assert node.member.waits_for == (
            "the fleet has accepted no documents yet: config/pools/app: users.ap: "
            'user "ap" does not exist; did you mean "app"?'
        )


async def test_a_lost_lease_is_followed_by_another_under_the_same_id() -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        (before,) = world.rows("live/")
        node.port.faults.cut = True
        node.port.stir()
        await world.time.run(10.0)
        assert world.keys("live/") == world.keys("ack/") == []
        assert node.member.waits_for == ""
        node.port.faults.cut = False
        await world.time.run(10.0)
        (after,) = world.rows("live/")
        assert after.key == before.key
        assert after.lease != before.lease
        assert json.loads(after.value)["state"] == "serving"
        assert [row.lease for row in world.rows("ack/")] == [after.lease]
        assert len(node.house.runs) == 1


async def test_keys_that_somebody_deleted_come_back() -> None:
    world = World()
    world.load()
    async with world.node():
        await world.time.run(3.0)
        (row,) = world.rows("live/")
        world.delete(row.key)
        await world.time.run(3.0)
        assert [one.key for one in world.rows("live/")] == [row.key]


async def test_of_two_processes_of_one_name_the_second_waits() -> None:
    world = World()
    world.load()
    async with world.node(1) as first, world.node(2) as second:
        await world.time.run(3.0)
        taken = world.keys("live/")
        waits = {node.member.waits_for for node in (first, second)}
        assert len(taken) == 1
        assert waits == {"", f"another process has the name px: {KEYS.root}{taken[0]}"}
        serving = first if first.member.waits_for == "" else second
        await serving.stop()
        await world.time.run(3.0)
        assert len(world.keys("live/")) == 1
        assert world.keys("live/") != taken


async def test_a_successor_ends_the_leases_of_the_life_before(tmp_path: Path) -> None:
    world = World()
    world.load()
    state = StateDirectory(tmp_path / "state")
    async with world.node(1, state=state) as first:
        await world.time.run(3.0)
        await first.die()
        assert len(world.keys("live/")) == 1
        async with world.node(2, state=state) as second:
            await world.time.run(1.0)
            assert world.keys("live/") == ["live/px.00000002"]
            assert second.member.waits_for == ""


async def test_it_begins_with_what_was_kept_while_the_store_is_away(tmp_path: Path) -> None:
    world = World()
    world.load()
    world.put(KEYS.pool_override("app"), b"pause")
    state = StateDirectory(tmp_path / "state")
    async with world.node(1, state=state):
        await world.time.run(3.0)
    known = state.known("test")
    assert known is not None
    assert (known.parted, known.accepted.gen) == (True, 1)
    assert known.texts == DOCUMENTS
    async with world.node(2, state=state) as node:
        node.port.faults.cut = True
        await world.time.run(5.0)
        assert len(node.house.runs) == 1
        assert node.member.waits_for == ""
        assert node.house.paused == {PoolKey("app", "app")}
        assert world.keys("live/") == []
        node.port.faults.cut = False
        world.delete(KEYS.pool_override("app"))
        await world.time.run(10.0)
        assert node.house.paused == frozenset()
        assert world.keys("live/") == ["live/px.00000002"]
        # Nothing was taken in again that was in force already.
        assert len(node.house.runs) == 1


async def test_the_last_word_on_the_disk_is_that_it_left(tmp_path: Path) -> None:
    class Slow(StateDirectory):
        """Takes its time to write, unless it is asked to write the last word meanwhile."""

        left = threading.Event()
        written: ClassVar[list[bool]] = []

        def keep(self, known: Known) -> None:
            if known.parted:
                self.left.set()
            else:
                self.left.wait(0.3)
            self.written.append(known.parted)

    world = World()
    world.load()
    async with world.node(1, state=Slow(tmp_path / "state")):
        await world.time.run(1.0)
    assert Slow.written[-1:] == [True]


async def kept(world: World, state: StateDirectory, holds: Callable[[Known], bool]) -> None:
    """Let time pass until this is written down; the disk has a time of its own."""
    async with asyncio.timeout(WITHIN_S):
        while (known := state.known("test")) is None or not holds(known):
            await world.time.run(0.5)


async def test_a_store_that_went_back_changes_nothing_until_an_operator_accepts_it(tmp_path: Path) -> None:
    world = World()
    world.load()
    state = StateDirectory(tmp_path / "state")
    async with world.node(state=state) as node:
        await world.time.run(3.0)
        restore = world.store.backup()
        world.put(KEYS.config("pools/app"), DOCUMENTS["pools/app"].replace(b"10", b"33"))
        world.put(KEYS.pool_override("app"), b"pause")
        await world.time.run(3.0)
        assert (len(node.house.runs), node.house.paused) == (2, {PoolKey("app", "app")})

        restore()
        await world.time.run(20.0)
        assert node.member.waits_for == ""
        before = world.store.revision
        # It says nothing there, and its lease of that time ends.
        assert world.keys("live/") == world.keys("ack/") == []
        await world.time.run(60.0)
        assert world.store.revision == before
        assert (len(node.house.runs), node.house.paused) == (2, {PoolKey("app", "app")})
        await kept(world, state, lambda known: known.stranger == world.store.status().cluster_id)

        world.put(KEYS.store, b"accept")
        await world.time.run(10.0)
        assert (len(node.house.runs), node.house.paused) == (3, frozenset())
        assert node.house.runs[2] == node.house.runs[0]
        assert [json.loads(row.value)["state"] for row in world.rows("live/")] == ["serving"]
        await kept(world, state, lambda known: (known.stranger, known.accepted.gen) == (None, 1))
        known = state.known("test")
        assert known is not None
        assert known.revision <= world.store.revision
        # It takes part as before.
        world.put(KEYS.config("pools/app"), DOCUMENTS["pools/app"].replace(b"10", b"44"))
        await world.time.run(3.0)
        assert [json.loads(row.value)["active"] for row in world.rows("ack/")] == [{"gen": 2}]


@pytest.mark.parametrize("other", [1, 2])
async def test_a_coordinator_hears_nobody_in_a_store_that_is_not_believed(other: int) -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        restore = world.store.backup()
        # What the coordinator alone follows comes late, as watches may: of this it has seen nothing yet.
        for prefix in (KEYS.ack_prefix, KEYS.seat_prefix):
            node.port.faults.held_at[prefix] = world.store.revision
        for number in (b"1", b"2", b"3"):
            world.put(KEYS.root + "decided/strikes/main/r1", b'{"n":' + number + b"}")
        await world.time.run(3.0)

        restore()
        node.port.faults.held_at.clear()
        world.store.cluster_id = other
        stranger = KEYS.ack("zz.00000002")
        world.put(stranger, b'{"suspect_self":true}')
        await world.time.run(20.0)
        memory = node.member.memory
        assert memory.row(stranger) is None
        assert KEYS.seat("px") in [row.key for row in memory.under(KEYS.seat_prefix)]

        world.put(KEYS.store, b"accept")
        await world.time.run(10.0)
        assert memory.row(stranger) is not None
        assert [json.loads(row.value)["active"] for row in world.rows("ack/px")] == [{"gen": 1}]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ConfigFault("KeyError while it was applied"), "KeyError while it was applied"),
        (KeyError("what nobody is told"), "KeyError: a fault of this node; its log says more"),
    ],
)
async def test_what_a_fault_of_its_own_keeps_it_from_is_told_and_seldom_tried(
    fault: Exception, told: str
) -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        node.house.fails_by, before = fault, node.house.tried
        world.put(KEYS.config("pools/app"), DOCUMENTS["pools/app"].replace(b"10", b"33"))
        await world.time.run(50.0)
        (ack,) = (json.loads(row.value) for row in world.rows("ack/"))
        assert (ack["active"], ack["unusable"]) == ({"gen": 1}, [{"key": "decided/accepted", "msg": told}])
        # For each attempt clients may pay.
        assert node.house.tried == before + 1
        node.member.judge_again()
        await world.time.run(1.0)
        assert node.house.tried == before + 2
        node.house.fails_by = None
        node.member.judge_again()
        await world.time.run(3.0)
        (ack,) = (json.loads(row.value) for row in world.rows("ack/"))
        assert (ack["active"], "unusable" in ack) == ({"gen": 2}, False)


async def test_a_fault_of_its_own_is_tried_again_by_itself() -> None:
    world = World()
    world.load()
    async with world.node() as node:
        node.house.fails_by = KeyError()
        await world.time.run(10.0)
        assert "a fault of this node" in node.member.waits_for
        node.house.fails_by = None
        await world.time.run(60.0)
        assert node.member.waits_for == ""


async def test_what_was_kept_and_meets_a_fault_does_not_end_the_node(tmp_path: Path) -> None:
    world = World()
    world.load()
    state = StateDirectory(tmp_path / "state")
    async with world.node(1, state=state):
        await world.time.run(3.0)
    async with world.node(2, state=state) as node:
        node.house.fails_by = KeyError()
        await world.time.run(1.0)
        node.house.fails_by = None
        await world.time.run(70.0)
        assert node.member.waits_for == ""


async def test_an_empty_store_is_founded_anew_by_those_who_serve() -> None:
    world = World()
    restore = world.store.backup()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        restore()
        await world.time.run(10.0)
        world.put(KEYS.store, b"accept")
        await world.time.run(10.0)
        assert (world.keys("live/"), world.keys("decided/accepted")) == (["live/px.00000001"], [])
        assert node.member.waits_for == ""
        world.load()
        await world.time.run(5.0)
        assert [json.loads(row.value)["active"] for row in world.rows("ack/")] == [{"gen": 1}]


def watched(world: World, node: Node, servers: tuple[str, ...] = ("r1", "r2")) -> ClusterHealth:
    """The node sees its cluster from now on."""
    health = ClusterHealth(
        servers=servers,
        leadership=Leadership(source="observe"),
        health=Health(),
        read=Read(),
        now=world.time.now_s(),
    )
    node.house.healths = {"main": health}
    return health


async def test_slow_answers_of_the_store_stretch_what_is_called_late() -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        health = watched(world, node)
        node.port.faults.delay_s = 0.6
        await world.time.run(20.0)
        assert health.local_score > 0
        node.port.faults.delay_s = 0.0
        await world.time.run(20.0)
        assert health.local_score == 0
        # Silence tells of the store, and not of us.
        node.port.faults.cut = True
        await world.time.run(20.0)
        assert health.local_score == 0


@pytest.mark.parametrize(("late", "score"), [(("r1", "r2"), 1), (("r1",), 0)])
async def test_two_late_hosts_stretch_what_is_called_late(late: tuple[str, ...], score: int) -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        health = watched(world, node)
        for server in late:
            sample = Sample(source=Source.FRESH, duration_s=0.6, failure=EvidenceClass.SOFT)
            health.tick(world.time.now_s())
            health.receive(server, sample, world.time.now_s())
        await world.time.run(0.5)
        assert health.local_score == score


THREE = {
    **DOCUMENTS,
    "clusters/main": b'v = 1\n[servers]\nr1 = { host = "a" }\nr2 = { host = "b" }\nr3 = { host = "c" }\n',
}


@pytest.mark.parametrize("is_cut", [True, False])
async def test_of_a_node_that_is_cut_from_all_servers_nobody_hears_a_verdict(is_cut: bool) -> None:
    world = World()
    for name, text in THREE.items():
        world.put(KEYS.config(name), text)
    async with world.node() as node:
        await world.time.run(3.0)
        servers = ("r1", "r2", "r3")
        health = watched(world, node, servers)

        def answers(server: str) -> None:
            facts = ServerFacts(in_recovery=True, system_identifier="7", timeline=1, write_lsn=1)
            sample = Sample(source=Source.FRESH, duration_s=0.0, facts=facts)
            health.receive(server, sample, world.time.now_s())

        def stays_silent(server: str) -> None:
            sample = Sample(source=Source.FRESH, duration_s=0.5, failure=EvidenceClass.SOFT)
            health.receive(server, sample, world.time.now_s())
            node.member.stir()

        node.house.look_at = answers if not is_cut else lambda _server: None
        for server in servers:
            answers(server)
        before = world.store.revision
        # Each is found silent in its own time; where nothing is cut the others go on to answer.
        for at, server in [(0, "r1"), (5, "r1"), (9, "r2"), (9, "r3"), (14, "r2"), (14, "r3")]:
            while world.time.now_s() < 4.0 + at / 10:
                health.tick(world.time.now_s())
                await world.time.run(0.1)
            if is_cut or server == "r1":
                stays_silent(server)
            else:
                answers(server)
            await world.time.run(0.0)
        for _ in range(5):
            health.tick(world.time.now_s())
            await world.time.run(0.1)
        told = [
            key for batch in world.store.history(KEYS.root, before + 1) for key in map(key_of, batch.events)
        ]
        assert [key for key in told if key.startswith(KEYS.verdict_prefix)] == (
            [] if is_cut else [KEYS.verdict("main", "r1", node.member.node)]
        )


def key_of(event: Event) -> str:
    return event.key


async def test_a_late_loop_stretches_what_is_called_late() -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        health = watched(world, node)
        world.time.stall(1.0)
        await world.time.run(0.1)
        assert health.local_score > 0


async def test_reconnect_is_done_once_for_each_number() -> None:
    world = World()
    world.load()
    async with world.node() as node:
        await world.time.run(3.0)
        for number in (b"1", b"1", b"2"):
            world.put(KEYS.pool_override("app"), b'{"reconnect":' + number + b"}")
            await world.time.run(1.0)
        assert node.house.reconnected == [{PoolKey("app", "app")}] * 2


def test_a_state_directory_is_one_processs(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path)
    with pytest.raises(Occupied):
        StateDirectory(tmp_path)
    first.close()
    StateDirectory(tmp_path).close()


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.known("test") is None
    (tmp_path / "known.json").write_text('{"digest":"x","known":{"fleet":"test"}}')
    assert state.known("test") is None
    assert state.leases() == []
    state.close()


async def test_a_lease_is_given_up_before_the_store_can_end_it() -> None:
    time, store = VirtualTime(), ModelStore()
    port = ModelPort(store, now_s=time.now_s, pause=time.pause)
    lease = await HeldLease.grant(port, 6, now_s=time.now_s, pause=time.pause)
    holding = spawn(lease.hold(), "hold")
    await time.run(19.0)
    assert lease.is_held
    port.faults.cut = True
    # The last refresh was sent at 18 s.
    await time.run(3.7)
    assert lease.is_held
    await time.run(0.2)
    assert not lease.is_held
    assert not holding.done()
    await time.run(2.0)
    assert holding.done()
    assert lease.id == 0
