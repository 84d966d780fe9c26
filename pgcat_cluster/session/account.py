"""What one (database, user) owns: its desk, its pools by server, who is connected, what clients are told at login."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.routing.placement import placement_of
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.session.plugins import plugins_of
from pgcat_cluster.session.savepoints import Saved, Savepoints, followed
from pgcat_cluster.session.wishes import NO_WISHES, Wishes, role_mark
from pgcat_cluster.sql.savepoints import Steps
from pgcat_cluster.sql.volatility import UNKNOWN as NOT_ASKED
from pgcat_cluster.topology.model import PoolSettings, ServerKey, Shard
from pgcat_cluster.topology.settings import OnAllBad
from pgcat_cluster.topology.view import ClusterView
from pgcat_cluster.wire.scram import ScramKeys

GREETINGS_MAX = 1000
_IDLE = 0x49


class Visitor:
    """What is known of one logged-in client beside what the relay keeps."""

    __slots__ = (
        "account",
        "address",
        "application_name",
        "connected_at",
        "key_pid",
        "number",
        "path",
        "path_moved",
        "path_saved",
        "pins",
        "protocol_minor",
        "refusal",
        "refused_at",
        "role_set_at",
        "savepoints",
        "secret",
        "startup",
        "steps",
        "wished_in",
        "wishes",
        "wishes_at_start",
        "wishes_now",
    )

    def __init__(self, account: Account, number: int, address: tuple[str, int], connected_at: float) -> None:
        self.account = account
        self.number = number
        self.address = address
        self.connected_at = connected_at
        self.startup: Parameters | None = None
        self.application_name = ""
        self.pins: tuple[str, ...] = ()
        self.protocol_minor = 0
        self.key_pid = 0
        self.secret = b""
        # The client's `path` outside transactions; whether the one in progress may have changed it, and has a savepoint
        # from before that.
        self.path = b""
        self.path_moved = False
        self.path_saved = False
        self.wishes_at_start = self.wishes = self.wishes_now = NO_WISHES
        # In which of the client's transactions `wishes_now` holds instead of `wishes`; -1 for none.
        self.wished_in = -1
        # Savepoints of a transaction in which something was wished; what the last request did to them, and how they and
        # the wishes were before.
        self.savepoints: Savepoints = ()
        self.steps: tuple[Savepoints, Saved, Steps] | None = None
        # How many queries the client had run when its role was set, and when a request was last refused, and why.
        self.role_set_at = 0
        self.refused_at = -1
        self.refusal = ""

    def wishes_in_force(self, client: Client) -> Wishes:
        """What the session wishes now, wishes of its transaction included."""
        is_local = client.status != _IDLE and self.wished_in == client.transactions
        return self.wishes_now if is_local else self.wishes

    def wish(self, client: Client, wishes: Wishes, lasting: Wishes | None = None) -> None:
        """From now on these are in force, and behind the transaction those that last; None: the same as before."""
        if client.status == _IDLE:
            self.savepoints = ()
        elif not self.savepoints:
            self.savepoints = (Saved(lasting=self.wishes, now=self.wishes),)
        self._put_into_force(client, wishes, self.wishes if lasting is None else lasting)

    def save(self, client: Client, steps: Steps) -> None:
        """The request in progress does this to savepoints, unless it fails."""
        self.steps = None
        if not self.savepoints:
            return
        current = Saved(lasting=self.wishes, now=self.wishes_in_force(client))
        self.steps = (self.savepoints, current, steps)
        self.savepoints, current = followed(self.savepoints, current, steps)
        self._put_into_force(client, current.now, current.lasting)

    def save_not(self, client: Client, completed: int) -> None:
        """That request has failed behind so many of its steps."""
        if self.steps is None:
            return
        savepoints, current, steps = self.steps
        self.savepoints, current = followed(savepoints, current, steps[:completed])
        self._put_into_force(client, current.now, current.lasting)

    def _put_into_force(self, client: Client, wishes: Wishes, lasting: Wishes) -> None:
        self.wishes, self.wishes_now = lasting, wishes
        client.wishes_end = bool(self.savepoints) or self.path_moved
        self.wished_in = client.transactions if client.wishes_end else -1
        client.shard_wish = -1 if wishes.shard is None else wishes.shard
        client.role_wish = role_mark(wishes)
        client.reads_wish = -1 if wishes.reads is None else int(wishes.reads)


class Backend:
    """What is known of one server link beside what the relay keeps: its cancel key, what it last reported."""

    __slots__ = ("expires_at", "number", "opened_at", "pid", "reported", "secret", "warm_by")

    def __init__(
        self,
        number: int,
        pid: int,
        secret: bytes,
        reported: dict[str, str],
        opened_at: float,
        expires_at: float,
    ) -> None:
        self.number = number
        self.pid = pid
        self.secret = secret
        self.reported = reported
        self.opened_at = opened_at
        self.expires_at = expires_at
        # When the prewarmer must be done, 0 for nothing to warm.
        self.warm_by = 0.0


class Source:
    """A pool's server: its key and shard, how opening links to it has gone lately, what links did that are gone."""

    __slots__ = (
        "account",
        "asked",
        "asked_at",
        "bytes_received",
        "bytes_sent",
        "failures",
        "key",
        "last_error",
        "led",
        "linked_at",
        "queries",
        "query_s",
        "retry_at",
        "shard",
        "started_at",
        "transaction_s",
        "transactions",
        "wait_s",
    )

    def __init__(self, account: Account, shard: ShardPlace, key: ServerKey) -> None:
        self.account = account
        self.shard = shard
        self.key = key
        self.failures = 0
        self.last_error = ""
        self.retry_at = 0.0
        # What consistency goes by: when the server began as a probe knows, if it led, when its newest link was
        # opened, when it was asked last how far it is, and over which link, until that has answered.
        self.started_at = ""
        self.led = False
        self.linked_at = 0.0
        self.asked_at = 0.0
        self.asked: Server | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.transactions = 0
        self.queries = 0
        self.query_s = 0.0
        self.transaction_s = 0.0
        self.wait_s = 0.0

    def add(self, server: Server) -> None:
        """Keep what a link did that is gone now."""
        self.bytes_received += server.bytes_received
        self.bytes_sent += server.bytes_sent
        self.transactions += server.transactions
        self.queries += server.queries
        self.query_s += server.query_s
        self.transaction_s += server.transaction_s
        self.wait_s += server.wait_s


class ShardPlace:
    """Where one shard of an account's data is: its cluster as it is seen now, and a pool for each of its servers."""

    __slots__ = ("database", "number", "on_all_bad", "pools", "view")

    def __init__(self, shard: Shard, view: ClusterView, on_all_bad: OnAllBad = "primary") -> None:
        self.number = shard.number
        self.database = shard.database
        self.view = view
        self.on_all_bad = on_all_bad
        self.pools: dict[ServerKey, Pool] = {}


class Account:
    """One (database, user). `desk` is the relay's side of it; `shards` are in order of their numbers.

    `greetings` remembers what a server reports under a set of start-up parameters, so that a login needs no server.
    """

    def __init__(self, settings: PoolSettings, shards: list[ShardPlace]) -> None:
        self.settings = settings
        self.plugins = plugins_of(settings.plugins, settings.key)
        self.placement = placement_of(settings)
        self.shards = shards
        self.desk: Desk | None = None
        self.clients: set[Client] = set()
        self.servers: set[Server] = set()
        self.greetings: dict[Parameters, dict[str, str]] = {}
        self.pins: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        # What the node answered itself, by command; what it refused for want of a shard, by reason; reads that found
        # no server with what their client must see, by what became of them, and how long they waited.
        self.commands: Counter[str] = Counter()
        self.unplaced: Counter[str] = Counter()
        self.behind: Counter[str] = Counter()
        self.behind_s = 0.0
        self.is_removed = False
        # When links in use, and all of them, were last looked at; see `relay.links.Link.poke`.
        self.looked_at = 0.0
        self.swept_at = 0.0
        # Somebody is about to look again for who waits behind.
        self.is_followed = False
        # What servers say of their functions, where the pool goes by that.
        self.catalog = NOT_ASKED
        # Waiters of a pause begin to count when it ends.
        self.resumed_at = 0.0
        # What a client's own login proved, for users whose password only the servers know.
        self.scram_keys: ScramKeys | None = None

    def steer(self) -> None:
        """Put into force what the settings say of how statements find their way."""
        settings, desk = self.settings, self.desk
        assert desk is not None
        self.plugins = plugins_of(settings.plugins, settings.key)
        self.placement = placement_of(settings)
        desk.default_shard = -1
        desk.hears = marks.HEARS_COMMENTS
        sharding = settings.sharding
        if sharding is None:
            return
        if sharding.shard_id_regex or sharding.sharding_key_regex:
            desk.hears = marks.HEARS_ALL
        if sharding.otherwise == "default_shard" and isinstance(sharding.default_shard, int):
            desk.default_shard = sharding.default_shard

    def pools(self) -> Iterator[Pool]:
        """Every pool of every shard."""
        for shard in self.shards:
            yield from shard.pools.values()

    def warming(self, pool: Pool) -> int:
        """How many links of a pool nobody may have yet, since the prewarmer's queries run on them."""
        plugins = self.settings.plugins
        if plugins is None or not plugins.prewarmer.enabled:
            return 0
        return sum(
            server.pool is pool and isinstance(server.detail, Backend) and server.detail.warm_by > 0
            for server in self.servers
        )

    def remember_greeting(self, parameters: Parameters, reported: dict[str, str]) -> None:
        if len(self.greetings) >= GREETINGS_MAX:
            self.greetings.clear()
        self.greetings[parameters] = reported


# What the relay keeps for the session, as what it is.


def visitor_of(client: Client) -> Visitor:
    visitor = client.detail
    assert isinstance(visitor, Visitor)
    return visitor


def account_of(client: Client) -> Account:
    return visitor_of(client).account


def backend_of(server: Server) -> Backend:
    backend = server.detail
    assert isinstance(backend, Backend)
    return backend


def source_of(pool: Pool) -> Source:
    source = pool.detail
    assert isinstance(source, Source)
    return source


def desk_of(account: Account) -> Desk:
    desk = account.desk
    assert desk is not None
    return desk
