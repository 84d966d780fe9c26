"""The real relay and session between sockets whose far ends the test holds: no event loop, no time, no chance."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import msgspec

from pgcat_cluster.agreement.cancels import CancelKeys
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.errors import Fault, ShuttingDown, UnknownDatabase
from pgcat_cluster.net.front import Front
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool, Target
from pgcat_cluster.session.account import Account, Backend, ShardPlace, Source, Visitor
from pgcat_cluster.session.control import Control
from pgcat_cluster.session.login import Credential, LoggedIn, LoginPolicy
from pgcat_cluster.session.refusals import dismiss
from pgcat_cluster.topology.model import (
    Credentials,
    PoolKey,
    PoolSettings,
    ServerKey,
    Shard,
    Sharding,
    ShardMap,
)
from pgcat_cluster.topology.units import Address
from pgcat_cluster.topology.view import ClusterView, ServerView
from pgcat_cluster.wire import md5, scram
from pgcat_cluster.wire.startup import CancelRequest, Startup

CALLS_MAX = 100_000
PASSWORD = "pencil"
# How each user logs in; `stranger` is nobody.
USERS: Mapping[str, Credential] = {
    "test": Credential(method="trust", verifier=None),
    "md5": Credential(method="md5", verifier=md5.make_verifier("md5", PASSWORD)),
    "scram": Credential(
        method="scram-sha-256", verifier=scram.make_verifier(PASSWORD, 1, b"0123456789abcdef").to_text()
    ),
}


class Reactor:
    """An event loop that runs only when it is pumped."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
        assert fd not in self.readers
        self.readers[fd] = callback

    def remove_reader(self, fd: int, /) -> None:
        del self.readers[fd]

    def add_writer(self, fd: int, callback: Callable[[], None], /) -> None:
        assert fd not in self.writers
        self.writers[fd] = callback

    def remove_writer(self, fd: int, /) -> None:
        del self.writers[fd]

    def turn(self) -> bool:
        """Call back once for whatever is ready; whether anything was."""
        poll = select.poll()
        for fd in sorted(self.readers.keys() | self.writers.keys()):
            poll.register(
                fd,
                (select.POLLIN if fd in self.readers else 0) | (select.POLLOUT if fd in self.writers else 0),
            )
        ready = poll.poll(0)
        for fd, events in ready:
            # A callback may take another one away, or replace it.
            if events & ~select.POLLOUT and (call := self.readers.get(fd)):
                call()
            if events & ~select.POLLIN and (call := self.writers.get(fd)):
                call()
        return bool(ready)


class Far:
    """The far end of a link: what a client or a server has received of us, and whether we closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = bytearray()
        self.is_closed = False

    def send(self, data: bytes) -> int:
        """Send what fits; what is sent to nobody is lost."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    def collect(self) -> bool:
        """Take what has arrived; whether anything has."""
        before = len(self.received), self.is_closed
        try:
            while not self.is_closed and self.socket.fileno() >= 0:
                data = self.socket.recv(65536)
                self.received += data
                self.is_closed = not data
        except BlockingIOError:
            pass
        except ConnectionError:
            self.is_closed = True
        return before != (len(self.received), self.is_closed)

    def take(self) -> bytes:
        data = bytes(self.received)
        self.received.clear()
        return data


def _place(shard: Shard, servers: tuple[str, ...]) -> ShardPlace:
    """A shard of which all servers may be used; the one whose name begins with p is the primary."""
    keys = {name: ServerKey(shard.cluster, name, Address(host=name, port=5432)) for name in servers}
    primary = next((key for name, key in keys.items() if name.startswith("p")), None)
    view = ClusterView(
        name=shard.cluster,
        servers={name: ServerView(key=key, weight=100) for name, key in keys.items()},
        primary=primary,
        why_no_primary="" if primary else "none answers",
    )
    return ShardPlace(shard, view)


def _sharding(shards: int, options: Mapping[str, Any]) -> Sharding:
    """A pool's rules: tables are split by the hash of their column `id`, but for `countries`, whole everywhere."""
    said: dict[str, Any] = {"key": "id", "reference": frozenset({"countries"}), **options}
    if isinstance(said.get("tables"), str):
        # As scripts write it: public.note:data_id,other.note:id.
        said["tables"] = dict(rule.split(":") for rule in said["tables"].split(","))
    found = ShardMap(name="by-id", kind="hash", key_type="bigint", shards=shards)
    return msgspec.convert({"map": found, **said}, Sharding, strict=False)


class Scene:
    """One account with clients and server links by name; `calls` is what the session asked for.

    With several shards servers p1 and r1 have the first one, p2 and r2 the second, and so on.
    """

    def __init__(
        self,
        *,
        servers: tuple[str, ...] = ("p1", "r1"),
        options: Mapping[str, Any] = MappingProxyType({}),
        statement_bytes_max: int = 1 << 20,
        shards: int = 1,
        sharding: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.now = 1000.0
        self.calls: list[str] = []
        # When what was asked for is due, and what it is.
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.reactor = Reactor()
        self.scratch = bytearray(65536)
        self.clients: dict[str, Client] = {}
        self.links: dict[str, Server] = {}
        self.ends: dict[str, Far] = {}
        self.fronts: dict[Client, Front] = {}
        self.numbers = 0
        keys: CancelKeys[Client] = CancelKeys(self._counted, FleetKey([b"of this scene" * 3]), b"boot")
        self.control = Control(self, lambda: self.now, keys)
        self.settings = msgspec.convert(
            {
                "key": PoolKey("test", "test"),
                "shards": tuple(
                    Shard(number=number, cluster="main" if shards == 1 else f"s{number}", database="test")
                    for number in range(shards)
                ),
                "sharding": _sharding(shards, sharding) if shards > 1 else None,
                "login": Credentials(user="test"),
                **options,
            },
            PoolSettings,
            strict=False,
        )
        names = [servers] if shards == 1 else [(f"p{n}", f"r{n}") for n in range(1, shards + 1)]
        self.places = [_place(shard, own) for shard, own in zip(self.settings.shards, names, strict=True)]
        self.account = Account(self.settings, self.places)
        self.desk = self.account.desk = Desk(
            marks.BALANCE_LEAST if self.settings.balancing == "least_connections" else marks.BALANCE_RANDOM,
            1,
            self.control.supply.grow_for,
            self.account,
            control=self.control,
            clock=lambda: self.now,
            is_session_mode=self.settings.mode == "session",
            statement_bytes_max=statement_bytes_max,
            prepared_max=self.settings.prepared_statements_max,
            shards=shards,
        )
        self.account.steer()
        self.desk.keeps_positions = self.settings.consistency == "session"
        self.pools = {}
        for place in self.places:
            for server in place.view.servers.values():
                name = server.key.name
                pool = Pool(self.desk, name, self.settings.size, 100, Source(self.account, place, server.key))
                self.pools[name] = place.pools[server.key] = pool
            self.control.place(self.account, place)

    def close(self) -> None:
        for link in [*self.clients.values(), *self.links.values()]:
            link.close()
        for far in self.ends.values():
            far.socket.close()

    def _counted(self, count: int) -> bytes:
        """Keys that can be foretold: 1, 2, 3, …"""
        return self._number().to_bytes(count, "big")

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    def _pair(self, name: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.ends[name] = Far(theirs)
        return ours

    # -- what happens --------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(CALLS_MAX):
            turned = self.reactor.turn()
            heard = [far.collect() for far in self.ends.values()]
            if not turned and not any(heard):
                return
        raise AssertionError("the relay never comes to rest")

    def send(self, name: str, *chunks: bytes) -> None:
        """Chunks arrive, one after the other."""
        for chunk in chunks:
            while chunk:
                chunk = chunk[self.ends[name].send(chunk) :]
                self.settle()

    def leave(self, name: str) -> None:
        """A far end closes."""
        self.ends[name].socket.close()
        self.settle()

    def connect(self, name: str) -> Client:
        """A client that has said nothing yet."""
        front = Front(self, self.now + 15)
        client = Client(self._pair(name), self.reactor, self.scratch, front)
        client.detail = ("192.0.2.1", 4000)
        self.clients[name] = client
        self.fronts[client] = front
        client.start()
        return client

    def enter(self, name: str, parameters: Mapping[str, str] = MappingProxyType({})) -> Client:
        """A client that has proved who it is."""
        client = self.connect(name)
        client.is_starting = False
        self.admit(
            client, None, LoggedIn(user="test", database="test", parameters=dict(parameters), keys=None)
        )
        self.settle()
        return client

    def meet(self, name: str) -> Client:
        """A client that has logged in a while ago; what it was told is forgotten."""
        self.account.remember_greeting(self.control.catalogue.none, {})
        client = self.enter(name)
        self.ends[name].take()
        return client

    def open(self, server: str, reported: Mapping[str, str] = MappingProxyType({})) -> Server:
        """A link that was asked for is there: the next of its server."""
        pool = self.pools[server]
        number = 1 + sum(name.startswith(f"{server}.") for name in self.links)
        name = f"{server}.{number}"
        link = Server(self._pair(name), self.reactor, self.scratch, pool, self.control)
        self.links[name] = link
        life_s = self.settings.lifetime_s or float("inf")
        link.opened_at = self.now
        backend = Backend(self._number(), number, b"1234", dict(reported), self.now, self.now + life_s)
        self.control.linked(pool, link, backend)
        self.settle()
        return link

    def bring(self, server: str) -> Server:
        """A link that nobody asked for."""
        self.pools[server].opening += 1
        return self.open(server)

    def fail(self, server: str, text: str, *, is_overload: bool) -> None:
        """A link that was asked for can not be had."""
        self.control.supply.link_failed(
            self.pools[server], text, is_overload=is_overload, is_down=not is_overload
        )
        self.settle()

    def wait(self, span_s: float) -> None:
        self.now += span_s
        due = [call for at, call in self.timers if at <= self.now]
        self.timers = [(at, call) for at, call in self.timers if at > self.now]
        for call in due:
            call()
        self.control.upkeep.tick(self.account)
        self.settle()

    def pause(self) -> None:
        self.desk.paused = True
        self.renew()

    def renew(self) -> None:
        """All links there are must be replaced by new ones."""
        for pool in self.pools.values():
            pool.generation += 1
            for server in list(pool.idle):
                assert isinstance(server, Server)
                self.control.supply.retire(server)
        self.settle()

    def _place_all(self) -> None:
        for place in self.places:
            self.control.place(self.account, place)

    @property
    def place(self) -> ShardPlace:
        """The one shard."""
        (place,) = self.places
        return place

    def resume(self) -> None:
        self.desk.paused = False
        self.account.resumed_at = self.now
        self.desk.serve_waiters()
        self._place_all()
        self.settle()

    def lead(self, server: str | None, why_none: str = "") -> None:
        """Another server is the primary, or none is."""
        before, view = self.place.view.primary, self.place.view.with_primary(server, why_none)
        for key in (before, view.primary):
            if key is not None:
                self.place.pools[key].generation += 1
        self.place.view = view
        self._place_all()
        self.settle()

    def avoid(self, server: str, why: str) -> None:
        self.place.view = self.place.view.with_server(server, why)
        self._place_all()
        self.settle()

    def silence(self, server: str) -> None:
        """A server that is avoided already answers nobody."""
        self.control.supply.give_up(self.pools[server])
        self.settle()

    def dismiss(self, name: str) -> None:
        dismiss(self.clients[name], ShuttingDown())
        self.settle()

    def cancelled(self, name: str) -> None:
        """The cancel that was asked for has been sent."""
        self.control.supply.cancel_sent(self.links[name])
        self.settle()

    def name_of(self, link: object) -> str:
        return next(name for name, one in [*self.links.items(), *self.clients.items()] if one is link)

    # -- what always holds ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Every link is in one place, and every count is what it counts."""
        for pool in self.pools.values():
            links = [link for link in self.links.values() if link.pool is pool and not link.closed]
            assert pool.opened == len(links), f"{pool.key}: {pool.opened} counted, {len(links)} there"
            assert pool.opening >= 0
            assert set(pool.idle) == {link for link in links if link.resting}
            assert len(pool.idle) == len(set(pool.idle))
        for link in self.links.values():
            assert link.client is None or link.client.server is link
            assert not (link.resting and link.client is not None)
        for target in self.targets():
            waiting = sum(client.waiting for client in self.clients.values() if client.target is target)
            assert target.waiting == waiting, f"{target.waiting} counted, {waiting} wait"
        for client in self.clients.values():
            assert client.server is None or client.server.client is client
            assert not (client.waiting and client.server is not None)
            assert not (client.closed and (client in self.account.clients or client in self.fronts))
        assert self.account.servers == {link for link in self.links.values() if not link.closed}
        assert len(self.control.reception.keys) == len(
            [client for client in self.account.clients if _has_key(client)]
        )

    def targets(self) -> Iterator[Target]:
        yield from (*self.desk.targets, self.desk.behind, *self.control.consistency.targets(self.account))

    # -- House and Effects ---------------------------------------------------------------------------------

    def incoming_tls(self) -> SimpleNamespace:
        return SimpleNamespace(context=None, certificate_hash=None)

    def policy(self) -> LoginPolicy:
        return LoginPolicy(
            lookup=USERS.get,
            default_method="scram-sha-256",
            mock_secret=b"of this process",
            mock_iterations=1,
            random_bytes=lambda count: b"\7" * count,
        )

    def admit(self, client: Client, startup: Startup | None, logged_in: LoggedIn) -> None:
        if logged_in.database != "test":
            raise UnknownDatabase(f'database "{logged_in.database}" does not exist')
        del self.fronts[client]
        visitor = Visitor(self.account, self._number(), client.detail, self.now)
        if startup is not None:
            visitor.protocol_minor = startup.version[1]
        self.control.reception.enter(client, visitor, logged_in.parameters)

    def cancel(self, client: Client, request: CancelRequest) -> None:
        owner = self.control.reception.keys.find(request.pid, request.secret)
        if owner is not None:
            self.control.cancel_client(owner)
        client.close_after_flush()
        self.left(client)

    def refused(self, client: Client, fault: Fault) -> None:
        self.fronts.pop(client, None)

    def left(self, client: Client) -> None:
        self.fronts.pop(client, None)

    def open_link(self, account: Account, pool: Pool) -> None:
        self.calls.append(f"open {pool.key}")

    def cancel_server(self, server: Server) -> None:
        self.calls.append(f"cancel {self.name_of(server)}")

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now + delay_s, call))

    def link_lost(self, account: Account, pool: Pool, reason: str) -> None:
        self.calls.append(f"tell of {pool.key}: {reason}")

    def log_statement(self, client: Client, text: str) -> None:
        self.calls.append(f"log {text}")

    def prewarming_failed(self, pool: Pool, query: str, reason: str) -> None:
        self.calls.append(f"{query} failed: {reason}")


def _has_key(client: Client) -> bool:
    assert isinstance(client.detail, Visitor)
    return client.detail.key_pid != 0
