"""One node's statistics at one instant, as values that consoles, metrics and the status answer all read.

How to fill it: counters are totals since the process started; what is not measured stays at its default.
Instants (`…_at_s`) are Unix times, durations carry their unit. Connections are numbered from **one**
sequence for clients and server links together, so that a number names one connection. A server that waits
for use appears in its pool's counts whether or not single connections were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

PoolMode = Literal["session", "transaction", "statement"]
Role = Literal["primary", "replica", "unknown"]
ClientState = Literal["active", "idle", "waiting", "active_cancel_req", "waiting_cancel_req"]
LinkState = Literal["new", "active", "idle", "used", "tested", "active_cancel", "being_canceled"]
NodeState = Literal["active", "paused", "draining"]


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What was done since the process started, for a pool (its clients' side) or for one of its servers.

    `query_time_us` is the time queries ran, `xact_time_us` the time a client was coupled in a transaction,
    `wait_time_us` the time clients waited, added when they get a server. `errors` counts ErrorResponses and
    our own faults by SQLSTATE.
    """

    xact_count: int = 0
    query_count: int = 0
    server_assignment_count: int = 0
    client_bytes_received: int = 0
    client_bytes_sent: int = 0
    server_bytes_received: int = 0
    server_bytes_sent: int = 0
    xact_time_us: int = 0
    query_time_us: int = 0
    wait_time_us: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0
    errors: Mapping[str, int] = {}

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())


COUNTED = tuple(name for name in Totals.__struct_fields__ if name != "errors")


class ClientCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's clients by what they do; `idle` means: nothing pending and no server."""

    active: int = 0
    idle: int = 0
    waiting: int = 0
    active_cancel_req: int = 0
    waiting_cancel_req: int = 0

    @property
    def all(self) -> int:
        return self.active + self.idle + self.waiting


class LinkCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Server links by state; `used` are idle ones that must be checked first, `login` those being opened."""

    active: int = 0
    idle: int = 0
    used: int = 0
    tested: int = 0
    login: int = 0
    active_cancel: int = 0
    being_canceled: int = 0

    @property
    def open(self) -> int:
        """Links that exist or are being opened; cancel connections do not count."""
        return self.active + self.idle + self.used + self.tested + self.login


class PoolServerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One server's part of a pool: the links of one (database, user, shard, server).

    `server_database` is the shard's name on the server; unset: as the pool's database.
    """

    server: str
    shard: int = 0
    server_database: str = ""
    size: int = 0
    is_paused: bool = False
    links: LinkCounts = LinkCounts()
    totals: Totals = Totals()


class MirrorSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the transactions of a pool that were chosen for its mirror.

    `dropped` did not fit into the queue, `left_out` can not be copied, `failed` were lost on their way. `errors` are
    those that the mirror answered, by SQLSTATE.
    """

    host: str
    port: int
    links: int = 0
    queued: int = 0
    held_bytes: int = 0
    mirrored: int = 0
    statements: int = 0
    dropped: int = 0
    left_out: int = 0
    failed: int = 0
    errors: Mapping[str, int] = {}
    last_error: str = ""


class PoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One (database, user): its clients, and its servers in the order of the settings.

    `commands` counts what the node answered itself, `unplaced` what it refused for want of a shard, by reason.
    `behind` counts the reads that found no server with what their client must see, by what became of them (None
    where the pool keeps no positions), and `behind_time_us` is how long they waited.
    """

    database: str
    user: str
    mode: PoolMode
    size: int
    min_size: int = 0
    is_paused: bool = False
    clients: ClientCounts = ClientCounts()
    oldest_wait_us: int = 0
    totals: Totals = Totals()
    commands: Mapping[str, int] = {}
    unplaced: Mapping[str, int] = {}
    behind: Mapping[str, int] | None = None
    behind_time_us: int = 0
    servers: tuple[PoolServerSnapshot, ...] = ()
    mirror: MirrorSnapshot | None = None


class DatabaseSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One database name that clients may ask for; limits of 0 mean unlimited.

    `server_database` is its name on the servers (of shard 0, if there are more), `servers` their names in the
    order of the settings, `force_user` the one user all clients become on the servers, if there is one.
    """

    name: str
    server_database: str
    servers: tuple[str, ...]
    mode: PoolMode
    size: int
    min_size: int = 0
    reserve_size: int = 0
    lifetime_s: int = 0
    force_user: str | None = None
    max_server_links: int = 0
    max_clients: int = 0
    balancing: str | None = None
    is_paused: bool = False
    is_disabled: bool = False


class UserSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One user that may log in. None: the database's own value holds; 0: there is no limit."""

    name: str
    size: int | None = None
    mode: PoolMode | None = None
    max_server_links: int = 0
    max_clients: int = 0


class Avoidance(msgspec.Struct, frozen=True, kw_only=True):
    """Since when clients are kept away from a server; for how long is known only of an operator's ban."""

    at_s: float
    length_s: int | None = None
    left_s: int | None = None


class BackendSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One PostgreSQL server: its role, and what this node thinks of it.

    `opinion` is the detector's word for it; `is_avoided` says whether clients are kept away, by whomever, and
    `reason` why, or what else is not well. `lag_…` is None where it is not known or has no meaning.
    """

    name: str
    cluster: str
    host: str
    port: int
    role: Role
    opinion: str
    reason: str = ""
    is_avoided: bool = False
    avoidance: Avoidance | None = None
    lag_bytes: int | None = None
    lag_s: float | None = None


class ClientSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One client connection, console sessions included (their `database` is the console's name).

    `link` is the number of the server link it is coupled with, `pin` the reason why it must keep it,
    `process_id` the client's own on a Unix socket, `tls` describes its TLS session (empty without).
    `wait_us` is how long it has been waiting now, `longest_wait_us` its longest wait so far.
    """

    number: int
    database: str
    user: str
    state: ClientState
    address: str
    port: int
    connected_at_s: float
    requested_at_s: float
    local_address: str = ""
    local_port: int = 0
    wait_us: int = 0
    longest_wait_us: int = 0
    link: int | None = None
    pin: str | None = None
    process_id: int = 0
    tls: str = ""
    application_name: str = ""
    prepared_statements: int = 0
    replication: Literal["none", "logical", "physical"] = "none"
    xact_count: int = 0
    query_count: int = 0
    error_count: int = 0


class ServerLinkSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One connection of ours to a server; `client` is the number of the client it is coupled with.

    `database` and `user` name the pool it belongs to. `prepared_…` describe its cache of prepared statements.
    """

    number: int
    server: str
    database: str
    user: str
    state: LinkState
    address: str
    port: int
    connected_at_s: float
    requested_at_s: float
    shard: int = 0
    local_address: str = ""
    local_port: int = 0
    close_needed: bool = False
    client: int | None = None
    process_id: int = 0
    tls: str = ""
    application_name: str = ""
    prepared_statements: int = 0
    prepared_hits: int = 0
    prepared_misses: int = 0
    prepared_evictions: int = 0
    xact_count: int = 0
    query_count: int = 0
    error_count: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of SHOW CONFIG; `default` is empty where there is none. Who shows it redacts secrets."""

    key: str
    value: str
    default: str = ""
    changeable: bool = True


class NodeSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one node says about itself at `taken_at_s`; `uptime_s` is measured by the monotonic clock.

    `clients` and `links` are empty unless single connections were asked for: the counts in `pools` are there
    always. `not_ready` names what keeps the node from serving, one short sentence each; empty means ready.
    `pins` counts the reasons since start, `unknown_statements` those that were not understood and so went to
    the primary, `upcalls` the requests the relay handed up, `flows` the decisions it remembers now.
    """

    name: str
    version: str
    build: Literal["compiled", "interpreted"]
    taken_at_s: float
    uptime_s: float
    state: NodeState = "active"
    not_ready: tuple[str, ...] = ()
    listen_port: int = 0
    max_clients: int = 0
    console_clients: int = 0
    logins_pending: int = 0
    settings: tuple[Setting, ...] = ()
    databases: tuple[DatabaseSnapshot, ...] = ()
    users: tuple[UserSnapshot, ...] = ()
    pools: tuple[PoolSnapshot, ...] = ()
    backends: tuple[BackendSnapshot, ...] = ()
    clients: tuple[ClientSnapshot, ...] = ()
    links: tuple[ServerLinkSnapshot, ...] = ()
    upcalls: int = 0
    flows: int = 0
    unknown_statements: int = 0
    pins: Mapping[str, int] = {}
    log_lines_dropped: int = 0


def sum_totals(parts: Iterable[Totals]) -> Totals:
    """The totals of several pools or servers as one."""
    counts = dict.fromkeys(COUNTED, 0)
    errors: dict[str, int] = {}
    for part in parts:
        for name in COUNTED:
            counts[name] += getattr(part, name)
        for sqlstate, count in part.errors.items():
            errors[sqlstate] = errors.get(sqlstate, 0) + count
    return Totals(**counts, errors=errors)
