"""An operator's orders from one node: written at once or not at all, and answered when the others obey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
import pytest

from pgcat_cluster.agreement.documents import Ack, Active, Applied, Live, Seat, encode
from pgcat_cluster.agreement.keys import Keys, name_of
from pgcat_cluster.agreement.orders import FleetFault, Obeyed
from pgcat_cluster.agreement.overview import overview
from pgcat_cluster.agreement.transactions import Delete, Operation, Put, Transaction
from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.fleet.commands import Commands
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.fleet.operator import Operator
from pgcat_cluster.fleet.store import Denied
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.topology.reading import parse
from tests.support.followers import following_nodes
from tests.support.waiting import until

KEYS = Keys("eu")
N1, N2, N3 = "n1.00000001", "n2.00000002", "n3.00000003"
R1 = ("main", "r1")
SETTINGS = parse(
    """
    [clusters.main.servers]
    r1 = { host = "a" }
    [users.app]
    auth = "trust"
    [users.other]
    auth = "trust"
    [pools.app]
    users = { app = {} }
    [pools.more]
    database = "app"
    users = { other = {} }
    [pools.books]
    users = { app = {} }
    """,
    "test",
)


class World:
    """A store with three nodes that obey when the test says so, and the commands of one of them."""

    def __init__(self, answer_s: float = 20.0) -> None:
        loop = asyncio.get_running_loop()
        self.store = ModelStore()
        self.port = ModelPort(self.store, now_s=loop.time, pause=asyncio.sleep)
        self.applied: dict[str, int | None] = {}
        self.commands = Commands(
            self.port,
            KEYS,
            N1,
            settings=lambda: SETTINGS,
            paused=frozenset,
            ask_applied=self.ask_applied,
            chance=random.Random(1),
            answer_s=answer_s,
        )
        for node in (N1, N2, N3):
            self.come(node)

    async def ask_applied(self, node: str, peer: str) -> Mapping[str, int] | None:
        revision = self.applied.get(node)
        return None if revision is None else {KEYS.decided: revision}

    def txn(self, *then: Operation) -> int:
        return self.store.txn(Transaction(then=then), asyncio.get_running_loop().time()).revision

    def put(self, key: str, value: Any) -> int:
        data = value.encode() if isinstance(value, str) else encode(value)
        return self.txn(Put(key=KEYS.root + key, value=data))

    def come(self, node: str, peer: str = "peer") -> None:
        live = Live(name=name_of(node), host="h", state="serving", addr="a", peer=peer, version="1", ttl=6.0)
        self.put(f"live/{node}", live)
        self.put(f"seat/{name_of(node)}", Seat(node=node, host="h"))
        self.obey(node, 0)

    def obey(self, node: str, revision: int, **drained: int) -> None:
        applied = Applied(decided=0, override=revision)
        self.put(f"ack/{node}", Ack(active=Active(gen=1), applied=applied, drained=drained))

    def vanish(self, node: str) -> None:
        """Its lease ends; the seat stays."""
        self.txn(Delete(key=KEYS.live(node)), Delete(key=KEYS.ack(node)))

    def is_watched(self, prefix: str) -> bool:
        return any(watch.prefix == prefix for watch in self.port._watches)

    @property
    def overrides(self) -> dict[str, str]:
        rows = self.store.snapshot([KEYS.override], asyncio.get_running_loop().time())[1]
        return {row.key.removeprefix(KEYS.override): row.value.decode() for row in rows}

    @property
    def revision(self) -> int:
        return self.store.snapshot([KEYS.root], asyncio.get_running_loop().time())[0]

    async def ordered(self, order: Coroutine[Any, Any, Obeyed]) -> tuple[asyncio.Task[Obeyed], int]:
        """An order that stands in the store, and its revision."""
        before = self.revision
        task = spawn(order, "order")
        await until(lambda: self.revision > before or task.done())
        return task, self.revision


async def faulty(order: asyncio.Task[Obeyed] | Coroutine[Any, Any, Obeyed]) -> FleetFault:
    with pytest.raises(FleetFault) as caught:
        await order
    return caught.value


# -- who obeys


async def test_a_ban_is_answered_when_the_last_node_obeys() -> None:
    world = World()
    order, revision = await world.ordered(world.commands.ban([R1], None, "op on n1"))
    assert world.overrides == {"main/r1": '{"action":"ban","by":"op on n1"}'}
    world.obey(N1, revision)
    world.obey(N2, revision + 5)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not order.done()
    world.obey(N3, revision)
    assert await order == Obeyed(nodes=(N1, N2, N3))


async def test_a_ban_for_so_long_ends_with_its_lease() -> None:
    world = World()
    order, _ = await world.ordered(world.commands.ban([R1], 60, "op"))
    (row,) = world.store.snapshot([KEYS.override], 0.0)[1]
    assert row.lease
    assert world.store.refresh(row.lease, asyncio.get_running_loop().time()) == 60
    order.cancel()


async def test_a_pause_is_seen_and_then_drained() -> None:
    world = World()
    order, revision = await world.ordered(world.commands.pause("app", "op"))
    assert set(world.overrides) == {"_pool/app", "_pool/more"}
    for node in (N1, N2, N3):
        world.obey(node, revision, app=revision)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not order.done()
    for node in (N1, N2, N3):
        world.obey(node, revision, app=revision, more=revision)
    assert (await order).nodes == (N1, N2, N3)
    assert set(world.overrides) == {"_pool/app", "_pool/more"}
    resume, revision = await world.ordered(world.commands.resume(None))
    for node in (N1, N2, N3):
        world.obey(node, revision)
    await resume
    assert world.overrides == {}


async def test_a_long_transaction_may_last_longer_than_an_answer() -> None:
    world = World(answer_s=0.05)
    order, revision = await world.ordered(world.commands.pause("books", "op"))
    for node in (N1, N2, N3):
        world.obey(node, revision, **({} if node == N2 else {"books": revision}))
    await asyncio.wait([order], timeout=0.2)
    assert not order.done()
    world.obey(N2, revision, books=revision)
    assert (await order).nodes == (N1, N2, N3)


async def test_who_does_not_answer_is_named_and_a_ban_stays() -> None:
    world = World(answer_s=0.2)
    order, revision = await world.ordered(world.commands.ban([R1], None, "op"))
    world.obey(N1, revision)
    world.obey(N2, revision)
    fault = await faulty(order)
    assert fault.message == "main/r1 is banned, but not by every node"
    assert fault.detail == f"no answer within 0.2 s from {N3}"
    assert "UNBAN main/r1 FLEET takes it back" in (fault.hint or "")
    assert set(world.overrides) == {"main/r1"}


async def test_a_node_that_loses_its_lease_meanwhile_is_named_at_once() -> None:
    world = World()
    order, revision = await world.ordered(world.commands.reconnect("books", "op"))
    world.obey(N1, revision)
    world.obey(N2, revision)
    world.vanish(N3)
    fault = await faulty(order)
    assert fault.detail == f"no answer from {N3}, which lost its lease: dead or cut off"


@pytest.mark.parametrize("late", ["live", "seat"])
async def test_what_seems_so_between_two_watches_is_not_taken_for_true(late: str) -> None:
    world = World()
    order, revision = await world.ordered(world.commands.reconnect("books", "op"))
    world.obey(N1, revision)
    world.obey(N2, revision)
    prefix = {"live": KEYS.live_prefix, "seat": KEYS.seat_prefix}[late]
    await until(lambda: world.is_watched(prefix))
    world.port.faults.held_at[prefix] = world.revision
    if late == "live":
        # Its ack vanishes with its lease; for a moment it seems to be there and to have said nothing.
        world.vanish(N3)
        await asyncio.wait([order], timeout=0.1)
        world.port.faults.held_at.clear()
        world.port.stir()
        assert "lost its lease" in ((await faulty(order)).detail or "")
    else:
        # It leaves in order; for a moment it seems to be lost.
        world.txn(Delete(key=KEYS.seat("n3")))
        world.vanish(N3)
        assert await order == Obeyed(nodes=(N1, N2))


async def test_who_was_lost_before_is_told_and_who_leaves_is_not_waited_for() -> None:
    world = World()
    world.vanish(N3)
    order, revision = await world.ordered(world.commands.reconnect(None, "op"))
    assert set(world.overrides) == {"_pool/app", "_pool/more", "_pool/books"}
    world.obey(N1, revision)
    world.txn(Delete(key=KEYS.live(N2)), Delete(key=KEYS.ack(N2)), Delete(key=KEYS.seat("n2")))
    assert await order == Obeyed(nodes=(N1,), lost=(N3,))


# -- what is undone


async def test_a_pause_that_not_all_obey_is_undone() -> None:
    world = World(answer_s=0.05)
    world.put("override/_pool/books", '{"reconnect":7}')
    order, _ = await world.ordered(world.commands.pause("books", "op"))
    fault = await faulty(order)
    assert fault.message == "PAUSE books FLEET was not obeyed by every node and was undone"
    assert world.overrides == {"_pool/books": '{"reconnect":7}'}


async def test_a_pause_that_is_interrupted_is_undone() -> None:
    world = World()
    order, _ = await world.ordered(world.commands.pause("books", "op"))
    order.cancel()
    with pytest.raises(asyncio.CancelledError):
        await order
    assert world.overrides == {}


async def test_a_pause_that_somebody_takes_back_does_not_wait_for_ever() -> None:
    world = World()
    order, revision = await world.ordered(world.commands.pause("books", "op"))
    for node in (N1, N2, N3):
        world.obey(node, revision)
    world.txn(Delete(key=KEYS.pool_override("books")))
    assert (await faulty(order)).message == "somebody else changed the pause of books meanwhile"


async def test_a_pause_that_can_not_be_undone_says_that_it_stays() -> None:
    world = World(answer_s=0.2)
    order, _ = await world.ordered(world.commands.pause("books", "op"))
    world.port.faults.cut = True
    world.port.stir()
    fault = await faulty(order)
    assert "could not be undone" in fault.message
    assert "It stays in force until RESUME" in (fault.hint or "")
    assert set(world.overrides) == {"_pool/books"}


# -- the store


@pytest.mark.parametrize(
    "verb", ["ban", "ban for a while", "unban", "pause", "resume", "reconnect", "overview"]
)
async def test_without_the_store_nothing_is_done(verb: str) -> None:
    world = World()
    world.put("override/_pool/books", "pause")
    before = world.overrides
    world.port.faults.cut = True
    commands = world.commands
    orders: dict[str, Coroutine[Any, Any, Any]] = {
        "ban": commands.ban([R1], None, "op"),
        "ban for a while": commands.ban([R1], 5, "op"),
        "unban": commands.unban([R1]),
        "pause": commands.pause(None, "op"),
        "resume": commands.resume(None),
        "reconnect": commands.reconnect(None, "op"),
        "overview": commands.overview(),
    }
    fault = await faulty(orders.pop(verb))
    for order in orders.values():
        order.close()
    assert fault.message.startswith("etcd does not answer: ")
    assert "act on this node alone" in (fault.hint or "")
    assert world.overrides == before


async def test_a_lost_answer_is_looked_up() -> None:
    world = World()
    world.port.faults.answers_lost = 1
    order, revision = await world.ordered(world.commands.pause("books", "op"))
    for node in (N1, N2, N3):
        world.obey(node, revision, books=revision)
    assert (await order).nodes == (N1, N2, N3)


async def test_a_lost_request_was_not_carried_out() -> None:
    world = World()
    world.put("override/_pool/books", "pause")
    world.port.faults.requests_lost = 1
    fault = await faulty(world.commands.resume("books"))
    assert fault.message.endswith("nothing was written")
    assert world.overrides == {"_pool/books": "pause"}


async def test_a_node_that_may_not_write_says_what_an_operator_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()

    async def denied(transaction: Transaction) -> None:
        raise Denied("permission denied")

    monkeypatch.setattr(world.port, "txn", denied)
    fault = await faulty(world.commands.ban([R1], None, "op"))
    assert fault.message == "etcd does not permit this node to write that; nothing was written"
    assert """etcdctl put /pgcat/eu/override/main/r1 '{"action":"ban","by":"op"}'""" in (fault.hint or "")


async def test_a_store_without_room_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    full = msgspec.structs.replace(world.store.status(), alarms=("NOSPACE",))
    monkeypatch.setattr(world.store, "status", lambda: full)
    fault = await faulty(world.commands.ban([R1], None, "op"))
    assert fault.message == "the store reports NOSPACE: it is only read, and nothing was written"
    assert world.overrides == {}


async def test_a_node_that_is_not_there_speaks_for_nobody() -> None:
    world = World()
    world.vanish(N1)
    fault = await faulty(world.commands.ban([R1], None, "op"))
    assert fault.message == "this node is not there for the fleet now; nothing was written"
    assert world.overrides == {}


async def test_what_somebody_else_writes_at_the_same_moment_is_not_written_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    carry_out = world.port.txn

    async def late(transaction: Transaction) -> Any:
        world.put("override/main/r1", "pin")
        return await carry_out(transaction)

    monkeypatch.setattr(world.port, "txn", late)
    fault = await faulty(world.commands.ban([R1], None, "op"))
    assert fault.message.startswith("somebody else changed the same at this moment")
    assert world.overrides == {"main/r1": "pin"}


# -- unban


async def test_unban_waits_until_every_node_has_read_that_the_ban_is_gone() -> None:
    world = World()
    world.put("decided/ban/main/r1/fleet", "{}")
    world.come(N3, peer="")
    order, revision = await world.ordered(world.commands.unban([R1]))
    world.applied = {N1: revision - 1, N2: revision}
    await asyncio.wait([order], timeout=0.15)
    assert not order.done()
    # They are told in order of their names, whoever answered first.
    world.applied[N1] = revision
    assert await order == Obeyed(nodes=(N1, N2), unasked=(N3,))


async def test_unban_names_who_has_not_read_it() -> None:
    world = World(answer_s=0.05)
    world.put("decided/ban/main/r1/fleet", "{}")
    order, revision = await world.ordered(world.commands.unban([R1]))
    world.applied = {N1: revision, N2: revision}
    fault = await faulty(order)
    assert fault.message == "main/r1 is banned no longer, but not every node knows"
    assert fault.detail == f"no answer within 0.05 s from {N3}"


async def test_unban_of_what_is_not_banned_says_what_is() -> None:
    world = World()
    fault = await faulty(world.commands.unban([R1]))
    assert fault.message == "main/r1 is not banned by the fleet"
    world.put("override/main/r1", "drain")
    fault = await faulty(world.commands.unban([R1]))
    assert (
        fault.hint
        == "An operator's `drain` is in force; etcdctl del /pgcat/eu/override/main/r1 takes it back."
    )


# -- scopes


async def test_what_is_not_there_or_not_paused_is_refused() -> None:
    world = World()
    fault = await faulty(world.commands.pause("nowhere", "op"))
    assert fault.message == "no such database: nowhere"
    assert (await faulty(world.commands.resume("app"))).message == "database app is not paused by the fleet"
    assert (await faulty(world.commands.resume(None))).message == "nothing is paused by the fleet"
    assert world.overrides == {}


# -- overview and reload


async def test_the_console_sees_what_the_command_line_sees() -> None:
    store = ModelStore()
    loop = asyncio.get_running_loop()
    port = ModelPort(store, now_s=loop.time, pause=asyncio.sleep)
    operator = Operator(port, "eu", again_s=0.0)
    commands = Commands(
        port,
        KEYS,
        N1,
        settings=lambda: SETTINGS,
        paused=frozenset,
        ask_applied=World.ask_applied,  # type: ignore[arg-type]
        chance=random.Random(1),
    )
    documents = {
        "clusters/main": b'servers = { r1 = { host = "a" } }',
        "users/app": b'auth = "trust"',
        "pools/app": b"users = { app = {} }",
    }
    async with following_nodes(port, "eu", "n1", "n2"):
        await (await operator.look()).write(documents)
        obeyed = await commands.reload()
        assert len(obeyed.nodes) == 2
        await operator.look()
        await operator.write({"pools/app": b"users = { nobody = {} }"})
        with pytest.raises(
            ConfigFault, match=r'config/pools/app: users.nobody: user "nobody" does not exist'
        ):
            await commands.reload()
        seen = await commands.overview()
        await operator.look()
        assert seen == operator.view == overview(KEYS, operator.memory)
        assert [len(node.nack) for node in seen.nodes] == [1, 1]
