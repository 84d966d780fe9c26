"""What a node says of itself and what operators may do to it: real accounts, links that end in the test."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pgcat_cluster.admin.operations import Operations
from pgcat_cluster.agreement.cancels import CancelKeys
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.orders import FleetFault
from pgcat_cluster.errors import ServerUnreachable
from pgcat_cluster.net.clock import monotonic_s, wall_s
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import Account, Backend, ShardPlace, Source, Visitor
from pgcat_cluster.session.control import Control
from pgcat_cluster.telemetry.snapshot import (
    BackendSnapshot,
    ClientCounts,
    DatabaseSnapshot,
    LinkCounts,
    Setting,
    Totals,
    UserSnapshot,
)
from pgcat_cluster.telemetry.taking import ConsoleVisit
from pgcat_cluster.topology.model import PoolKey, ServerKey, Topology, build
from pgcat_cluster.topology.reading import Problem, parse
from pgcat_cluster.topology.view import View, first_view
from pgcat_cluster.wire import messages

PASSWORD = "hunter2 and more"
SETTINGS = b"""
[node]
listen = ["127.0.0.1:6000"]
admin_users = ["op"]
max_clients = 77
[users.app]
secret = "file:app"
[users.other]
secret = "file:other"
server_user = "one"
[users.op]
verifier = "md5%s"
auth = "md5"
[clusters.main]
leadership = { source = "static", primary = "p1" }
probe = { user = "prober", secret = "file:probe" }
servers = { p1 = { host = "10.0.0.1" }, r1 = { host = "10.0.0.2", port = 5433 } }
[pools.shop]
cluster = "main"
users = { app = { size = 3, checkout_timeout = "1s" } }
[pools.books]
cluster = "main"
server_database = "library"
max_clients = 5
users = { other = { size = 2, mode = "session" } }
""" % (b"0123456789abcdef" * 2)
SHOP = PoolKey("shop", "app")
BOOKS = PoolKey("books", "other")


class Reactor:
    """An event loop that never calls back: the test calls what it wants to happen."""

    def add_reader(self, fd: int, callback: object, /) -> None: ...

    def remove_reader(self, fd: int, /) -> None: ...

    def add_writer(self, fd: int, callback: object, /) -> None: ...

    def remove_writer(self, fd: int, /) -> None: ...


class House:
    """A node without sockets or servers; it records what it was asked for."""

    def __init__(self, text: bytes = SETTINGS) -> None:
        self.name = "n1"
        self.is_draining = False
        self.waits_for = ""
        self.fleet = None
        self.generation = 1
        self.rejected: tuple[Problem, ...] = ()
        self.topology: Topology = build(parse(text, "node.toml"), lambda reference: PASSWORD)
        self.view: View = first_view(self.topology)
        self.control = Control(
            self, monotonic_s, CancelKeys(random.Random(1).randbytes, FleetKey([bytes(32)]), b"boot")
        )
        self.accounts: dict[PoolKey, Account] = {}
        self.watches: dict[str, Any] = {}
        self.fronts: dict[Client, object] = {}
        self.consoles: dict[Client, ConsoleVisit] = {}
        self.listeners = [SimpleNamespace(port=6000)]
        self.asked: list[object] = []
        self.numbers = 0
        self.ends: list[socket.socket] = []
        for settings in self.topology.pools.values():
            self.add_account(settings)
        self.operations = Operations(self)

    def add_account(self, settings: Any) -> Account:
        shards = [ShardPlace(shard, self.view.clusters[shard.cluster]) for shard in settings.shards]
        account = Account(settings, shards)
        account.desk = Desk(
            marks.BALANCE_RANDOM,
            1,
            self.control.supply.grow_for,
            account,
            control=self.control,
            clock=monotonic_s,
            is_session_mode=settings.mode == "session",
            statement_bytes_max=1000,
            prepared_max=10,
        )
        for place in shards:
            for server in self.topology.clusters[place.view.name].servers.values():
                source = Source(account, place, server.key)
                place.pools[server.key] = Pool(account.desk, server.key.name, settings.size, 100, source)
        self.accounts[settings.key] = account
        for place in shards:
            self.control.place(account, place)
        return account

    def pair(self) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as door:
            theirs = socket.create_connection(door.getsockname())
            ours, _ = door.accept()
        ours.setblocking(False)
        self.ends += [ours, theirs]
        return ours

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def client(self, key: PoolKey = SHOP) -> Client:
        """Logged in, so that it needs no server for it."""
        account = self.accounts[key]
        account.remember_greeting(self.control.catalogue.none, {"application_name": "till"})
        client = Client(self.pair(), Reactor(), bytearray(65536), SimpleNamespace())
        client.is_starting = False
        visitor = Visitor(account, self.next_number(), ("192.0.2.1", 4000), monotonic_s())
        self.control.reception.enter(client, visitor, {})
        return client

    def link(self, key: PoolKey = SHOP, server: str = "p1") -> Server:
        """A link that was opened and rests."""
        account = self.accounts[key]
        pool = next(pool for pool in account.pools() if pool.key == server)
        link = Server(self.pair(), Reactor(), bytearray(65536), pool, self.control)
        pool.opening += 1
        now = monotonic_s()
        self.control.linked(pool, link, Backend(self.next_number(), 4711, b"1234", {}, now, now + 3600))
        return link

    # What Control and Operations ask for.

    def open_link(self, account: Account, pool: Pool) -> None:
        self.asked.append(("open", str(account.settings.key), pool.key))

    def cancel_server(self, server: Server) -> None:
        self.asked.append("cancel")

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.asked.append("later")

    def link_lost(self, account: Account, pool: Pool, reason: str) -> None:
        self.asked.append("lost")

    def log_statement(self, client: Client, text: str) -> None:
        self.asked.append(f"log {text}")

    def prewarming_failed(self, pool: Pool, query: str, reason: str) -> None:
        self.asked.append(f"{query} failed: {reason}")

    async def reload(self) -> list[str]:
        self.asked.append("reload")
        return []

    def heed(self, cluster: str) -> None:
        self.asked.append(("heed", cluster))

    def shutdown(self, mode: str) -> None:
        self.asked.append(mode)

    def pool(self, key: PoolKey = SHOP) -> Any:
        snapshot = self.operations.snapshot(connections=False)
        return next(pool for pool in snapshot.pools if (pool.database, pool.user) == (key.database, key.user))


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    for end in made.ends:
        end.close()


def ask(client: Client, text: str) -> None:
    data = messages.query(text)
    client.take(bytearray(data), 0, len(data))


def answer(server: Server) -> None:
    """What a server says to a simple statement outside a transaction."""
    data = messages.command_complete("SELECT 0") + messages.ready_for_query(b"I")
    server.take(bytearray(data), 0, len(data))


# -- the snapshot


def test_what_nobody_uses_is_all_zeros(house: House) -> None:
    snapshot = house.operations.snapshot(connections=True)
    assert (snapshot.name, snapshot.state, snapshot.not_ready) == ("n1", "active", ())
    assert (snapshot.listen_port, snapshot.max_clients, snapshot.console_clients) == (6000, 77, 0)
    assert snapshot.databases == (
        DatabaseSnapshot(
            name="shop",
            server_database="shop",
            servers=("main/p1", "main/r1"),
            mode="transaction",
            size=3,
            lifetime_s=3600,
            balancing="random",
        ),
        DatabaseSnapshot(
            name="books",
            server_database="library",
            servers=("main/p1", "main/r1"),
            mode="session",
            size=2,
            lifetime_s=3600,
            force_user="one",
            max_clients=5,
            balancing="random",
        ),
    )
    assert snapshot.users == tuple(UserSnapshot(name=name) for name in ("app", "other", "op"))
    assert [(pool.clients, pool.totals, pool.oldest_wait_us) for pool in snapshot.pools] == [
        (ClientCounts(), Totals(), 0)
    ] * 2
    assert [(part.server, part.size, part.links, part.totals) for part in snapshot.pools[0].servers] == [
        ("main/p1", 3, LinkCounts(), Totals()),
        ("main/r1", 3, LinkCounts(), Totals()),
    ]
    assert snapshot.backends == (
        BackendSnapshot(
            name="main/p1", cluster="main", host="10.0.0.1", port=5432, role="primary", opinion="unknown"
        ),
        BackendSnapshot(
            name="main/r1", cluster="main", host="10.0.0.2", port=5433, role="replica", opinion="unknown"
        ),
    )
    assert (snapshot.clients, snapshot.links, snapshot.pins) == ((), (), {})
    assert (snapshot.upcalls, snapshot.flows, snapshot.unknown_statements) == (0, 0, 0)


def test_links_and_clients_are_counted_by_what_they_do(house: House) -> None:
    working, waiting, _idle = house.client(), house.client(), house.client()
    link = house.link()
    ask(working, "update t set a = 1")
    ask(waiting, "update t set a = 2")
    house.link(server="r1")
    canceled = house.link(server="r1")
    link.pool.idle.clear()
    canceled.cancels = 1
    house.link(server="r1").order(b"DISCARD ALL", None)
    pool = house.pool()
    assert pool.clients == ClientCounts(active=1, idle=1, waiting=1)
    assert pool.oldest_wait_us >= 0
    assert [part.links for part in pool.servers] == [
        LinkCounts(active=1, login=link.pool.opening),
        LinkCounts(idle=1, tested=1, active_cancel=1, being_canceled=1),
    ]


def test_single_connections_are_told_only_when_asked_for(house: House) -> None:
    client, link = house.client(), house.link()
    ask(client, "insert into t values (1)")
    console = Client(house.pair(), Reactor(), bytearray(10), SimpleNamespace())
    house.consoles[console] = ConsoleVisit(9, "pgcat", "op", ("192.0.2.7", 5000), monotonic_s())
    assert house.operations.snapshot(connections=False).clients == ()
    snapshot = house.operations.snapshot(connections=True)
    first, second = snapshot.clients
    assert (first.number, first.link, first.state, first.address, first.port) == (
        1,
        2,
        "active",
        "192.0.2.1",
        4000,
    )
    assert (first.database, first.user, first.application_name, first.query_count) == (
        "shop",
        "app",
        "till",
        1,
    )
    assert abs(first.connected_at_s - wall_s()) < 60
    assert (second.number, second.database, second.user, second.address) == (9, "pgcat", "op", "192.0.2.7")
    assert snapshot.console_clients == 1
    assert (first.local_address, first.local_port) == client.socket.getsockname()
    (shown,) = snapshot.links
    assert (shown.number, shown.client, shown.state, shown.process_id) == (2, 1, "active", 4711)
    assert (shown.server, shown.address, shown.port, shown.close_needed) == (
        "main/p1",
        "10.0.0.1",
        5432,
        False,
    )
    link.is_retired = True
    assert house.operations.snapshot(connections=True).links[0].close_needed


def test_totals_keep_what_closed_links_did(house: House) -> None:
    client, link = house.client(), house.link()
    ask(client, "insert into t values (1)")
    answer(link)
    client.bytes_received, link.bytes_received = 100, 1000
    before = house.pool()
    assert (before.totals.xact_count, before.totals.query_count) == (1, 1)
    assert (before.totals.client_bytes_received, before.totals.server_bytes_received) == (100, 1000)
    sent = link.bytes_sent
    assert before.totals.server_bytes_sent == sent > 0
    assert before.servers[0].totals == Totals(
        xact_count=1,
        query_count=1,
        server_assignment_count=1,
        server_bytes_received=1000,
        server_bytes_sent=sent,
        xact_time_us=before.totals.xact_time_us,
        query_time_us=before.totals.query_time_us,
    )
    house.control.supply.retire(link)
    client.lost("terminated")
    after = house.pool()
    assert after.clients == ClientCounts()
    assert after.servers[0].links == LinkCounts()
    assert after.totals.client_bytes_received == 100
    assert after.totals.client_bytes_sent == before.totals.client_bytes_sent > 0
    assert after.totals.server_bytes_received == 1000
    # With the Terminate that closed it.
    assert after.totals.server_bytes_sent == sent + 5
    counted = before.servers[0].totals
    assert after.servers[0].totals == msgspec.structs.replace(counted, server_bytes_sent=sent + 5)


def test_a_lost_link_stays_counted_too(house: House) -> None:
    link = house.link()
    link.bytes_received = 7
    link.lost("connection closed by peer")
    assert house.pool().totals.server_bytes_received == 7


def test_errors_of_servers_and_faults_of_ours_by_sqlstate(house: House) -> None:
    house.client()
    account = house.accounts[SHOP]
    account.desk.errors[b"42601"] = 2
    account.desk.errors[b"57014"] = 1
    account.faults["57014"] += 3
    assert dict(house.pool().totals.errors) == {"42601": 2, "57014": 4}


def test_pins_and_upcalls_are_sums_over_all_pools(house: House) -> None:
    for number, account in enumerate(house.accounts.values(), 1):
        account.pins["listens"] += number
        account.desk.upcalls = number
        account.desk.unknown_statements = 10 * number
    snapshot = house.operations.snapshot(connections=False)
    assert (snapshot.pins, snapshot.upcalls, snapshot.unknown_statements) == ({"listens": 3}, 3, 30)


def test_without_a_primary_or_draining_it_is_not_ready_and_says_why(house: House) -> None:
    cluster = house.view.clusters["main"].with_primary(None, "p1 and r1 lead on timeline 2")
    house.view = house.view.with_cluster(cluster)
    house.is_draining = True
    snapshot = house.operations.snapshot(connections=False)
    assert snapshot.state == "draining"
    assert snapshot.not_ready == (
        "the node is shutting down",
        "no primary is known in cluster main: p1 and r1 lead on timeline 2",
    )


def test_a_server_that_only_a_pool_still_knows_is_named(house: House) -> None:
    account = house.accounts[SHOP]
    place = account.shards[0]
    gone = ServerKey("old", "p9", next(iter(place.pools)).address)
    place.pools[gone] = Pool(account.desk, "p9", 1, 100, Source(account, place, gone))
    snapshot = house.operations.snapshot(connections=False)
    names = {backend.name for backend in snapshot.backends}
    assert {part.server for pool in snapshot.pools for part in pool.servers} == names
    assert snapshot.backends[-1].reason == "removed"


def test_settings_in_force_with_defaults_and_without_secrets(house: House) -> None:
    rows = {row.key: row for row in house.operations.snapshot(connections=False).settings}
    assert rows["pools.shop.users.app.size"] == Setting(
        key="pools.shop.users.app.size", value="3", default="20"
    )
    assert rows["node.max_clients"] == Setting(key="node.max_clients", value="77", default="10000")
    assert rows["node.listen"] == Setting(
        key="node.listen", value='["127.0.0.1:6000"]', default='["127.0.0.1:6432"]', changeable=False
    )
    assert rows["pools.books.users.other.server_database"].value == "library"
    assert rows["clusters.main.servers.r1.port"].value == "5433"
    assert rows["users.other.server_user"].value == "one"
    text = msgspec.json.encode(house.operations.snapshot(connections=True)).decode()
    assert PASSWORD not in text
    assert "0123456789abcdef" not in text


# -- pause, resume, reconnect


async def test_a_pause_waits_for_the_links_that_work_and_resume_serves_who_waited(house: House) -> None:
    client, late = house.client(), house.client()
    busy = house.link()
    ask(client, "update t set a = 1")
    resting = house.link()
    operations = house.operations
    operations.pause("shop", None)
    assert (resting.closed, busy.closed) == (True, False)
    assert [database.is_paused for database in operations.snapshot(connections=False).databases] == [
        True,
        False,
    ]
    drained = spawn(operations.drained("shop", None), "drained")
    ask(late, "update t set a = 2")
    operations.tick(monotonic_s())
    await asyncio.sleep(0)
    assert not drained.done()
    answer(busy)
    assert busy.closed
    operations.tick(monotonic_s())
    await asyncio.wait_for(drained, 60)
    assert late.waiting
    house.asked.clear()
    house.control.upkeep.tick(house.accounts[SHOP])
    assert house.asked == []
    operations.resume("shop", None)
    assert house.asked == [("open", "shop/app", "p1")]
    house.link()
    assert not late.waiting


async def test_drained_returns_when_the_pause_ends(house: House) -> None:
    client, _link = house.client(), house.link()
    ask(client, "update t set a = 1")
    house.operations.pause(None, None)
    drained = spawn(house.operations.drained(None, None), "drained")
    await asyncio.sleep(0)
    house.operations.resume(None, None)
    house.operations.tick(monotonic_s())
    await asyncio.wait_for(drained, 60)


def test_a_link_that_was_being_opened_closes_when_it_comes(house: House) -> None:
    house.operations.pause(None, None)
    assert house.link().closed
    assert house.accounts[SHOP].servers == set()


def test_pausing_all_is_a_state_and_new_pools_begin_so(house: House) -> None:
    operations = house.operations
    operations.pause("shop", "app")
    assert operations.snapshot(connections=False).state == "active"
    assert operations.begins_paused(PoolKey("shop", "new"))
    assert not operations.begins_paused(PoolKey("books", "new"))
    assert not operations.begins_paused(PoolKey("new", "new"))
    operations.pause(None, None)
    assert operations.snapshot(connections=False).state == "paused"
    assert operations.begins_paused(PoolKey("new", "new"))
    operations.resume("shop", "app")
    assert [pool.is_paused for pool in operations.snapshot(connections=False).pools] == [False, True]
    operations.resume(None, None)
    snapshot = operations.snapshot(connections=False)
    assert (snapshot.state, [pool.is_paused for pool in snapshot.pools]) == ("active", [False, False])


def test_who_waited_through_a_pause_is_not_timed_out_when_it_ends(house: House) -> None:
    client = house.client()
    house.operations.pause(None, None)
    ask(client, "update t set a = 1")
    client.wait_since -= 100
    house.control.upkeep.tick(house.accounts[SHOP])
    house.operations.resume(None, None)
    house.control.upkeep.tick(house.accounts[SHOP])
    assert client.waiting
    house.accounts[SHOP].resumed_at -= 100
    house.control.upkeep.tick(house.accounts[SHOP])
    assert not client.waiting
    assert house.accounts[SHOP].faults == {ServerUnreachable.sqlstate: 1}


def test_while_paused_nobody_is_told_that_there_is_no_server(house: House) -> None:
    client = house.client()
    house.operations.pause(None, None)
    house.view = house.view.with_cluster(house.view.clusters["main"].with_primary(None, "gone"))
    account = house.accounts[SHOP]
    account.shards[0].view = house.view.clusters["main"]
    house.control.place(account, account.shards[0])
    ask(client, "update t set a = 1")
    house.control.upkeep.tick(account)
    assert client.waiting
    house.operations.resume(None, None)
    assert not client.waiting


def test_reconnect_replaces_links_within_its_scope(house: House) -> None:
    client = house.client()
    busy = house.link()
    ask(client, "update t set a = 1")
    resting, elsewhere = house.link(), house.link(BOOKS)
    house.operations.reconnect("shop")
    assert (busy.closed, resting.closed, elsewhere.closed) == (False, True, False)
    answer(busy)
    assert busy.closed
    house.operations.reconnect(None)
    assert elsewhere.closed


async def test_reload_and_shutdown_are_the_nodes(house: House) -> None:
    await house.operations.reload()
    house.operations.shutdown("wait_for_clients")
    assert house.asked == ["reload", "wait_for_clients"]


def test_history_observes_once_a_second(house: House) -> None:
    class Spy:
        observed = 0

        def observe(self, snapshot: object) -> None:
            self.observed += 1

    spy = house.operations.history = Spy()  # type: ignore[assignment]
    for tenths in range(31):
        house.operations.tick(1000 + tenths / 10)
    assert spy.observed == 4


def test_primary_and_replica_are_asked_by_role(house: House) -> None:
    """The house of these tests places its pools as a node does."""
    desk = house.accounts[SHOP].desk
    assert [pool.key for pool in desk.targets[marks.PRIMARY].pools] == ["p1"]
    assert [pool.key for pool in desk.targets[marks.REPLICA].pools] == ["r1"]


# -- bans of this node alone, and the fleet of one


def test_a_ban_of_this_node_counts_until_its_time_is_up(house: House) -> None:
    operations = house.operations
    operations.ban([("main", "r1")], 60, "op")
    assert {server: one.action for server, one in operations.bans.overrides("main").items()} == {"r1": "ban"}
    assert operations.bans.overrides("other") == {}
    now = monotonic_s()
    operations.avoids(("main", "r1"), True)
    operations.avoids(("main", "gone"), True)
    (r1,) = [one for one in operations.snapshot(connections=False).backends if one.name == "main/r1"]
    assert r1.avoidance is not None
    assert (r1.avoidance.length_s, r1.avoidance.left_s) in ((60, 60), (60, 59))
    operations.tick(now + 59)
    assert operations.bans.overrides("main") != {}
    operations.tick(now + 61)
    assert operations.bans.overrides("main") == {}
    assert house.asked == [("heed", "main"), ("heed", "main")]
    assert operations.unban([("main", "r1")]) == []
    assert house.asked == [("heed", "main"), ("heed", "main")]


async def test_a_node_that_goes_by_a_file_is_a_fleet_of_one(house: House) -> None:
    fleet = house.operations.fleet
    view = await fleet.overview()
    (node,) = view.nodes
    assert (node.node, node.state, node.active, node.is_valid, node.addr) == (
        *("n1", "serving", 1, True),
        "127.0.0.1:6000",
    )
    assert (view.coordinator, view.desired.state, view.overrides) == ("n1", "accepted", ())
    house.rejected = (Problem("pools.shop.size", "is wrong"),)
    await fleet.ban([("main", "r1")], None, "op on n1")
    await fleet.pause("books", "op on n1")
    view = await fleet.overview()
    assert view.desired.state == "rejected"
    assert [(one.key, one.path, one.msg) for one in view.nodes[0].nack] == [
        ("file", "pools.shop.size", "is wrong")
    ]
    assert [(one.target, one.says, one.by) for one in view.overrides] == [
        ("main/r1", "ban", "op on n1"),
        ("_pool/books", "pause", ""),
    ]
    assert (await fleet.unban([("main", "r1")])).nodes == ("n1",)
    with pytest.raises(FleetFault, match="that is not banned"):
        await fleet.unban([("main", "r1")])
    await fleet.resume(None)
    assert (await fleet.overview()).overrides == ()
    await fleet.reload()
    assert house.asked[-1] == "reload"


async def test_a_fleet_of_one_undoes_a_pause_that_is_interrupted(house: House) -> None:
    client, _link = house.client(), house.link()
    ask(client, "update t set a = 1")
    pausing = spawn(house.operations.fleet.pause("shop", "op"), "pause")
    await asyncio.sleep(0)
    assert house.pool().is_paused
    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pausing
    assert not house.pool().is_paused
