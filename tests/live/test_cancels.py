"""Cancels on real servers: at another node, late, in crowds, made up; each ends its own client's statement alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

import pgcat_cluster.node
from pgcat_cluster.agreement.cancels import CancelKeys, Neighbour, PrefixTable
from pgcat_cluster.agreement.documents import Prefix
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.peer_frames import Cancel
from pgcat_cluster.demo.node import Node as NodeActor
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.fleet.cancels import Cancels
from pgcat_cluster.fleet.peers import Look, PeerLinks, PeerPort
from pgcat_cluster.net.config_file import load
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.node import Node
from pgcat_cluster.topology.units import Address
from pgcat_cluster.wire import messages
from tests.support.nodes import config, connect, eventually, one
from tests.support.player import Address as Login
from tests.support.player import Line, fields_of, log_in, query
from tests.support.stack import NodeMaker
from tests.support.waiting import WITHIN_S, until

KEY = FleetKey([os.urandom(32)])
NOWHERE = "127.0.0.1:1"
POOL = 'reads = "primary"\nusers = { test = { size = 1 } }'
ONE_LINK = config('server_database = "test"').replace("users = { test = {} }", POOL)


# Enough for all clients of a test to wait at the same time.
_THREADS = ThreadPoolExecutor(40)


class Member:
    """A node of this process, as a member of a fleet: its keys name it, and others can ask it."""

    def __init__(self, number: int, zone: str, actor: NodeActor) -> None:
        self.number, self.zone, self.login = number, zone, login_of(actor)
        boot = bytes([number] * 4)
        self.id = f"px-{number}.{boot.hex()}"
        self.node = Node(load(actor.config, print), actor.config, asyncio.get_running_loop())
        keys: Any = CancelKeys(os.urandom, KEY, boot)
        keys.lead(number)
        self.node.control.reception.keys = keys
        self.table = PrefixTable(self.id)
        self.links = PeerLinks(KEY, fleet="test", node=self.id)
        self.port = PeerPort(self, KEY, fleet="test", node=self.id, address=Address("127.0.0.1", 0))
        self.neighbours: list[Neighbour] = []
        self.node.cancels = Cancels(
            keys,
            self.table,
            self.node.cancel_client,
            links=self.links,
            zone=zone,
            neighbours=lambda: self.neighbours,
        )

    async def start(self) -> None:
        await self.node.start()
        await self.port.start()

    async def stop(self) -> None:
        await self.links.stop()
        await self.port.stop()
        await self.node.stop()

    def know(self, others: list[Member]) -> None:
        for other in others:
            peer = f"127.0.0.1:{other.port.port}"
            self.table.learn(other.number, Prefix(node=other.id, peer=peer))
            if other is not self:
                self.neighbours.append(Neighbour(node=other.id, peer=peer, zone=other.zone))

    async def cancel_here(self, question: Cancel, asker: str) -> Any:
        return await self.node.cancels.asked(question, asker)

    async def probe_here(self, cluster: str, server: str, within_s: float) -> Look | None:
        return None

    def nudge_here(self, cluster: str, server: str, evidence: str) -> None: ...

    def applied(self) -> dict[str, int]:
        return {}


def login_of(actor: NodeActor) -> Login:
    return Login(
        host=actor.host, port=actor.port, user="test", password=actor.passwords["test"], database="test"
    )


def actor_of(stack: Stack, name: str, server: Any = None, template: str = ONE_LINK) -> NodeActor:
    """Configuration and secrets of a node that is not started as a process."""
    actor = NodeActor(name, household=stack._household, passwords=stack.passwords)
    actor.configure([server or stack.primary], template)
    return actor


@pytest.fixture
async def members(pg_stack: Stack) -> AsyncIterator[list[Member]]:
    fleet = [
        Member(number, zone, actor_of(pg_stack, f"member-{number}"))
        for number, zone in ((1, "a"), (2, "a"), (3, "b"))
    ]
    for member in fleet:
        await member.start()
    for member in fleet:
        member.know(fleet)
    yield fleet
    for member in fleet:
        await member.stop()


class Busy:
    """A client whose statement runs until it is cancelled; its methods block."""

    def __init__(self, login: Login, sql: str, stack: Stack) -> None:
        self.line = Line(login.host, login.port)
        body = next(message.body for message in log_in(self.line, login) if message.type == b"K")
        self.key = messages.parse_backend_key_data(body)
        self.line.send([query(sql)])
        running = f"select count(*) from pg_stat_activity where state = 'active' and query = $${sql}$$"
        eventually(lambda: stack.primary.query(running) == [(1,)], "the statement runs")

    def code(self) -> str:
        """With which error the statement ended; empty: with none."""
        self.line.read_until(b"Z", 1, limit_s=WITHIN_S)
        errors = [fields_of(message.body)["C"] for message in self.line.frames if message.type == b"E"]
        return "".join(errors)

    def close(self) -> None:
        self.line.__exit__()


def send_cancel(login: Login, key: tuple[int, bytes]) -> None:
    """As a client library does: the connection's end says that it was seen to."""
    with socket.create_connection((login.host, login.port), timeout=WITHIN_S) as sock:
        sock.sendall(messages.cancel_request(*key))
        assert sock.recv(1) == b""


async def blocking(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *arguments)


# -- between nodes


async def test_a_cancel_at_another_node_reaches_the_query(members: list[Member], pg_stack: Stack) -> None:
    owner = members[0]
    for number, other in enumerate(members, 1):
        busy = await blocking(Busy, owner.login, f"select pg_sleep(60), 'cross {number}'", pg_stack)
        await blocking(send_cancel, other.login, busy.key)
        assert await blocking(busy.code) == "57014"
        busy.close()
    assert [member.node.cancels.counts for member in members] == [{"sent": 1}] * 3


async def test_a_waiting_client_is_dequeued_from_another_node(members: list[Member], pg_stack: Stack) -> None:
    owner, other, _ = members
    busy = await blocking(Busy, owner.login, "select pg_sleep(60), 'holder'", pg_stack)
    waiting = Line(owner.login.host, owner.login.port)
    login = await blocking(log_in, waiting, owner.login)
    key = messages.parse_backend_key_data(next(one.body for one in login if one.type == b"K"))
    waiting.send([query("select 'waits'")])
    [account] = [one for one in owner.node.accounts.values() if one.settings.key.database == "test"]
    await until(lambda: any(client.waiting for client in account.clients))
    await blocking(send_cancel, other.login, key)
    await blocking(waiting.read_until, b"Z", 1)
    assert fields_of(waiting.frames[0].body)["C"] == "57014"
    assert other.node.cancels.counts == {"dequeued": 1}
    await blocking(send_cancel, other.login, busy.key)
    assert await blocking(busy.code) == "57014"
    # Who asks nothing has nothing to lose.
    await blocking(send_cancel, other.login, key)
    assert other.node.cancels.counts == {"dequeued": 1, "sent": 1, "idle": 1}
    waiting.__exit__()
    busy.close()


async def test_a_cancel_takes_the_way_over_another_zone(members: list[Member], pg_stack: Stack) -> None:
    owner, other, far = members
    other.table.learn(owner.number, Prefix(node=owner.id, peer=NOWHERE))
    busy = await blocking(Busy, owner.login, "select pg_sleep(60), 'relay'", pg_stack)
    await blocking(send_cancel, other.login, busy.key)
    assert await blocking(busy.code) == "57014"
    assert (other.node.cancels.counts, far.node.cancels.counts) == ({"passed": 1}, {})
    busy.close()


async def test_10000_bogus_cancels_open_no_connection_to_a_server(
    members: list[Member], pg_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    async def refuse(*arguments: object, **options: object) -> None:
        opened.append(arguments)

    monkeypatch.setattr(pgcat_cluster.net.server_links, "send_cancel", refuse)
    owner, other, _ = members
    busy = await blocking(Busy, owner.login, "select pg_sleep(2), 'bogus'", pg_stack)
    pid, secret = busy.key

    def flood() -> None:
        for number in range(10_000):
            wrong = os.urandom(32 if number % 2 else 4)
            assert wrong != secret
            login = (owner if number % 4 < 2 else other).login
            with socket.create_connection((login.host, login.port), timeout=WITHIN_S) as sock:
                sock.sendall(messages.cancel_request(pid ^ (number & 1), wrong))

    await blocking(flood)
    assert await blocking(busy.code) == ""
    busy.close()
    assert opened == []
    counted = owner.node.cancels.counts + other.node.cancels.counts
    assert counted["sent"] == counted["idle"] == counted["dequeued"] == counted["passed"] == 0
    assert counted["limited"] > 0


# -- late


class Gate:
    """Stands before a server and holds back cancel requests until they are let through."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.open = asyncio.Event()
        self.held = 0
        self.most = 0
        self._now = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = spawn(self._serve(reader, writer), "gate")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(8)
            if first == messages.ssl_request():
                writer.write(b"N")
                first = await reader.readexactly(8)
            there, back = await asyncio.open_connection(self.target.host, self.target.port)
            if struct.unpack("!I", first[4:])[0] == messages.CANCEL_CODE:
                self.held += 1
                self._now += 1
                self.most = max(self.most, self._now)
                await self.open.wait()
                self._now -= 1
            back.write(first)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def behind_gate(stack: Stack, name: str, size: int) -> AsyncIterator[tuple[Node, Login, Gate]]:
    """A node whose only server, with so many links, is behind a gate."""
    gate = Gate(stack.primary)
    await gate.start()
    server = SimpleNamespace(name=stack.primary.name, host="127.0.0.1", port=gate.port)
    actor = actor_of(stack, name, server, ONE_LINK.replace("size = 1", f"size = {size}"))
    node = Node(load(actor.config, print), actor.config, asyncio.get_running_loop())
    await node.start()
    try:
        await until(lambda: node.view.clusters["main"].primary is not None)
        yield node, login_of(actor), gate
    finally:
        await node.stop()
        await gate.stop()


async def test_a_late_cancel_never_meets_the_next_client(pg_stack: Stack) -> None:
    async with behind_gate(pg_stack, "late", 1) as (node, login, gate):
        keeper = await blocking(
            lambda: psycopg.connect(pg_stack.primary.dsn("test", "test"), autocommit=True)
        )
        keeper.execute("select pg_advisory_lock(77)")
        busy = await blocking(Busy, login, "select pg_advisory_xact_lock(77)", pg_stack)
        asking = [spawn(blocking(send_cancel, login, busy.key), "cancel") for _ in range(5)]
        await until(lambda: gate.held == 1)
        # The statement ends by itself, before the cancel has arrived.
        keeper.execute("select pg_advisory_unlock(77)")
        assert await blocking(busy.code) == ""
        next_one = Line(login.host, login.port)
        await blocking(log_in, next_one, login)
        next_one.send([query("select 'unharmed' from pg_sleep(0.2)")])
        [account] = [one for one in node.accounts.values() if one.settings.key.database == "test"]
        await until(lambda: any(client.waiting for client in account.clients))
        [server] = account.servers
        assert (server.client, server.resting, server.cancels) == (None, False, 1)
        gate.open.set()
        await asyncio.gather(*asking)
        await blocking(next_one.read_until, b"Z", 1)
        assert [message.type for message in next_one.frames] == [b"T", b"D", b"C", b"Z"]
        # The five requests were one on their way to the server, and the link is the same one.
        assert (gate.held, account.servers, node.cancels.counts) == (1, {server}, {"sent": 5})
        next_one.__exit__()
        busy.close()
        keeper.close()


async def test_a_server_gets_only_so_many_cancels_at_a_time(pg_stack: Stack) -> None:
    async with behind_gate(pg_stack, "many", 20) as (node, login, gate):
        crowd = [
            await blocking(Busy, login, f"select pg_sleep(60), 'crowd {number}'", pg_stack)
            for number in range(20)
        ]
        asking = [spawn(blocking(send_cancel, login, busy.key), "cancel") for busy in crowd]
        await until(lambda: gate.held == 16 and len(node.links.cancelling) == 20)
        gate.open.set()
        await asyncio.gather(*asking)
        assert [await blocking(busy.code) for busy in crowd] == ["57014"] * 20
        assert (gate.held, gate.most) == (20, 16)
        for busy in crowd:
            busy.close()


@pytest.fixture
def shared(start_node: NodeMaker) -> Iterator[NodeActor]:
    """A node of its own process, with one link for all."""
    return start_node(config=ONE_LINK)


def test_cancels_at_any_moment_hit_nobody_else(shared: NodeActor) -> None:
    over = threading.Event()
    with connect(shared) as victim, connect(shared) as bystander:
        cancelled = 0

        def fire() -> None:
            while not over.is_set():
                victim.cancel()

        thread = threading.Thread(target=fire)
        thread.start()
        try:
            for _ in range(200):
                try:
                    victim.execute("select pg_sleep(0.02)")
                except psycopg.errors.QueryCanceled:
                    cancelled += 1
                # Any of the victim's cancels here would be an error.
                assert one(bystander, "select 1") == 1
        finally:
            over.set()
            thread.join(WITHIN_S)
        assert cancelled > 0
