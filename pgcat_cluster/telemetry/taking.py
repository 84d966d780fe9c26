"""Takes the snapshot of a node: reads the counts where the relay and the session keep them, changes nothing.

A pool that nobody uses costs almost nothing here, since one snapshot is taken every second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from socket import socket
from typing import Literal

import msgspec

from pgcat_cluster.health.cluster import Standing
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import (
    Account,
    Visitor,
    backend_of,
    desk_of,
    source_of,
    visitor_of,
)
from pgcat_cluster.session.mirroring import Recorder
from pgcat_cluster.telemetry.redaction import redact
from pgcat_cluster.telemetry.snapshot import (
    Avoidance,
    BackendSnapshot,
    ClientCounts,
    ClientSnapshot,
    ClientState,
    DatabaseSnapshot,
    LinkCounts,
    LinkState,
    MirrorSnapshot,
    NodeSnapshot,
    NodeState,
    PoolServerSnapshot,
    PoolSnapshot,
    Role,
    ServerLinkSnapshot,
    Setting,
    Totals,
    UserSnapshot,
)
from pgcat_cluster.topology.model import PoolKey, ServerKey, Topology
from pgcat_cluster.topology.settings import Mirror
from pgcat_cluster.topology.view import NOT_SEEN, ClusterView


class ConsoleVisit:
    """One console session: what a snapshot tells of it."""

    __slots__ = ("address", "connected_at", "database", "number", "user")

    def __init__(
        self, number: int, database: str, user: str, address: tuple[str, int], connected_at: float
    ) -> None:
        self.number = number
        self.database = database
        self.user = user
        self.address = address
        self.connected_at = connected_at


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is at one instant: `now_s` by its monotonic clock, `taken_at_s` by the wall's."""

    name: str
    version: str
    build: Literal["compiled", "interpreted"]
    now_s: float
    taken_at_s: float
    uptime_s: float
    state: NodeState
    listen_port: int
    logins_pending: int
    log_lines_dropped: int
    topology: Topology
    settings: tuple[Setting, ...]
    accounts: Mapping[PoolKey, Account]
    views: Mapping[str, ClusterView]
    standings: Mapping[str, Mapping[str, Standing]]
    consoles: Mapping[Client, ConsoleVisit]
    avoidances: Mapping[tuple[str, str], Avoidance]
    waits_for: str = ""  # what a node of a fleet lacks before it can serve anybody


def take(facts: Facts, *, connections: bool) -> NodeSnapshot:
    """The snapshot; single connections only if they are asked for."""
    accounts = facts.accounts.values()
    desks = [desk for account in accounts if (desk := account.desk) is not None]
    pins: Counter[str] = Counter()
    for account in accounts:
        if account.pins:
            pins.update(account.pins)
    return NodeSnapshot(
        name=facts.name,
        version=facts.version,
        build=facts.build,
        taken_at_s=facts.taken_at_s,
        uptime_s=facts.uptime_s,
        state=facts.state,
        not_ready=_not_ready(facts),
        listen_port=facts.listen_port,
        max_clients=facts.topology.node.max_clients,
        console_clients=len(facts.consoles),
        logins_pending=facts.logins_pending,
        settings=facts.settings,
        databases=_databases(accounts),
        users=tuple(UserSnapshot(name=name) for name in facts.topology.users),
        pools=tuple(_pool(account, facts.now_s) for account in accounts),
        backends=_backends(facts),
        clients=_clients(facts) if connections else (),
        links=_links(facts) if connections else (),
        upcalls=sum(desk.upcalls for desk in desks),
        flows=sum(len(desk.flows.flows) for desk in desks),
        unknown_statements=sum(desk.unknown_statements for desk in desks),
        pins=pins,
        log_lines_dropped=facts.log_lines_dropped,
    )


def _not_ready(facts: Facts) -> tuple[str, ...]:
    reasons = ["the node is shutting down"] if facts.state == "draining" else []
    if facts.waits_for:
        reasons.append(facts.waits_for)
    for name, view in facts.views.items():
        if view.primary is None:
            reasons.append(f"no primary is known in cluster {name}: {view.why_no_primary}")
    return tuple(reasons)


# -- databases and pools


def _databases(accounts: Iterable[Account]) -> tuple[DatabaseSnapshot, ...]:
    by_name: dict[str, list[Account]] = {}
    for account in accounts:
        by_name.setdefault(account.settings.key.database, []).append(account)
    return tuple(_database(name, group) for name, group in by_name.items())


def _database(name: str, accounts: list[Account]) -> DatabaseSnapshot:
    """What the first user of a database has stands for the database; limits on clients are added up."""
    first = accounts[0].settings
    logins = {account.settings.login.user for account in accounts}
    limits = [account.settings.max_clients for account in accounts]
    keys = {source_of(pool).key: None for account in accounts for pool in account.pools()}
    return DatabaseSnapshot(
        name=name,
        server_database=first.shards[0].database,
        servers=tuple(map(str, keys)),
        mode=first.mode,
        size=first.size,
        min_size=first.min_size,
        lifetime_s=int(first.lifetime_s),
        force_user=first.login.user if len(logins) == 1 and first.login.user != first.key.user else None,
        max_clients=sum(limits) if all(limits) else 0,
        balancing=first.balancing,
        is_paused=all(desk_of(account).paused for account in accounts),
    )


class _Tally:
    """The links of one pool by what they do, and what they have moved."""

    __slots__ = (
        "active",
        "being_canceled",
        "bytes_received",
        "bytes_sent",
        "cancels",
        "idle",
        "queries",
        "query_s",
        "tested",
        "wait_s",
        "xact_s",
        "xacts",
    )

    def __init__(self) -> None:
        self.active = self.idle = self.tested = self.being_canceled = self.cancels = 0
        self.bytes_received = self.bytes_sent = self.xacts = self.queries = 0
        self.query_s = self.xact_s = self.wait_s = 0.0

    def add(self, server: Server) -> None:
        state = _state(server)
        if state == "active":
            self.active += 1
        elif state == "idle":
            self.idle += 1
        elif state == "tested":
            self.tested += 1
        else:
            self.being_canceled += 1
        self.cancels += server.cancels
        self.bytes_received += server.bytes_received
        self.bytes_sent += server.bytes_sent
        self.xacts += server.transactions
        self.queries += server.queries
        self.query_s += server.query_s
        self.xact_s += server.transaction_s
        self.wait_s += server.wait_s


def _state(server: Server) -> LinkState:
    """What a link does; one that is being made as new for the next client counts as tested."""
    if server.client is not None:
        return "active"
    if server.cancels > 0:
        return "being_canceled"
    return "tested" if server.ledger else "idle"


_UNUSED = _Tally()
_NO_CLIENTS = ClientCounts()
_NO_LINKS = LinkCounts()
_NOTHING = Totals()


def _pool(account: Account, now_s: float) -> PoolSnapshot:
    settings, desk = account.settings, desk_of(account)
    clients, totals, oldest_wait_us = _NO_CLIENTS, _NOTHING, 0
    tallies: dict[Pool, _Tally] = {}
    if _was_used(account, desk):
        for server in account.servers:
            tallies.setdefault(server.pool, _Tally()).add(server)
        active = sum(tally.active for tally in tallies.values())
        waiting = desk.waiting
        idle = max(0, len(account.clients) - active - waiting)
        clients = ClientCounts(active=active, idle=idle, waiting=waiting)
        totals = _totals(account, desk, tallies.values())
        oldest_wait_us = _oldest_wait_us(desk, now_s) if waiting else 0
    is_paused = desk.paused
    return PoolSnapshot(
        database=settings.key.database,
        user=settings.key.user,
        mode=settings.mode,
        size=settings.size,
        min_size=settings.min_size,
        is_paused=is_paused,
        clients=clients,
        oldest_wait_us=oldest_wait_us,
        totals=totals,
        commands=dict(account.commands),
        unplaced=dict(account.unplaced),
        behind=dict(account.behind) if desk.keeps_positions else None,
        behind_time_us=_us(account.behind_s),
        servers=tuple(
            [_part(pool, tallies.get(pool, _UNUSED), is_paused=is_paused) for pool in account.pools()]
        ),
        mirror=None if settings.mirror is None else _mirror(settings.mirror, desk),
    )


def _mirror(settings: Mirror, desk: Desk) -> MirrorSnapshot | None:
    recorder = desk.mirror
    if not isinstance(recorder, Recorder):
        return None
    counts = recorder.counts
    return MirrorSnapshot(
        host=settings.host,
        port=settings.port,
        links=sum(lane.is_linked for lane in recorder.lanes),
        queued=recorder.queued,
        held_bytes=recorder.held_bytes,
        mirrored=counts.mirrored,
        statements=counts.statements,
        dropped=counts.dropped,
        left_out=counts.left_out,
        failed=counts.failed,
        errors=dict(counts.errors),
        last_error=redact(recorder.last_error),
    )


def _was_used(account: Account, desk: Desk) -> bool:
    """Whether a client or a link has ever been there: before that, nothing is counted."""
    return bool(
        account.clients or account.servers or desk.client_bytes_received or desk.server_bytes_received
    )


def _oldest_wait_us(desk: Desk, now_s: float) -> int:
    heads = [target.head() for target in desk.targets]
    return _us(max((now_s - head.wait_since for head in heads if isinstance(head, Client)), default=0.0))


def _totals(account: Account, desk: Desk, tallies: Iterable[_Tally]) -> Totals:
    errors = account.faults + _by_sqlstate(desk.errors)
    tallied = list(tallies)
    clients = account.clients
    return Totals(
        xact_count=desk.transactions + sum(tally.xacts for tally in tallied),
        query_count=desk.queries + sum(tally.queries for tally in tallied),
        server_assignment_count=sum(pool.assigned for pool in account.pools()),
        client_bytes_received=desk.client_bytes_received + sum(client.bytes_received for client in clients),
        client_bytes_sent=desk.client_bytes_sent + sum(client.bytes_sent for client in clients),
        server_bytes_received=desk.server_bytes_received + sum(tally.bytes_received for tally in tallied),
        server_bytes_sent=desk.server_bytes_sent + sum(tally.bytes_sent for tally in tallied),
        xact_time_us=_us(desk.transaction_s + sum(tally.xact_s for tally in tallied)),
        query_time_us=_us(desk.query_s + sum(tally.query_s for tally in tallied)),
        wait_time_us=_us(desk.wait_s),
        client_parse_count=desk.client_parses,
        server_parse_count=desk.server_parses,
        bind_count=desk.binds,
        errors=errors,
    )


def _by_sqlstate(counts: Mapping[bytes, int]) -> Counter[str]:
    return Counter({sqlstate.decode("ascii", "replace"): count for sqlstate, count in counts.items()})


def _part(pool: Pool, tally: _Tally, *, is_paused: bool) -> PoolServerSnapshot:
    source = source_of(pool)
    links, totals = _NO_LINKS, _NOTHING
    if tally is not _UNUSED or pool.opening:
        links = LinkCounts(
            active=tally.active,
            idle=tally.idle,
            tested=tally.tested,
            login=pool.opening,
            active_cancel=tally.cancels,
            being_canceled=tally.being_canceled,
        )
    if tally is not _UNUSED or source.bytes_received:
        totals = Totals(
            xact_count=source.transactions + tally.xacts,
            query_count=source.queries + tally.queries,
            server_assignment_count=pool.assigned,
            server_bytes_received=source.bytes_received + tally.bytes_received,
            server_bytes_sent=source.bytes_sent + tally.bytes_sent,
            xact_time_us=_us(source.transaction_s + tally.xact_s),
            query_time_us=_us(source.query_s + tally.query_s),
            wait_time_us=_us(source.wait_s + tally.wait_s),
            errors=_by_sqlstate(pool.errors),
        )
    return PoolServerSnapshot(
        server=str(source.key),
        shard=source.shard.number,
        server_database=source.shard.database,
        size=pool.limit,
        is_paused=is_paused,
        links=links,
        totals=totals,
    )


# -- servers


def _backends(facts: Facts) -> tuple[BackendSnapshot, ...]:
    """Every server of the clusters, and those that only a pool still knows while settings are changing."""
    found: dict[str, BackendSnapshot] = {}
    for name, view in facts.views.items():
        standings = facts.standings.get(name, {})
        for server in view.servers.values():
            found[str(server.key)] = _backend(
                server.key,
                _role(view, server.key),
                standings.get(server.key.name),
                server.why_not,
                facts.avoidances.get((name, server.key.name)),
            )
    for account in facts.accounts.values():
        for pool in account.pools():
            key = source_of(pool).key
            if str(key) not in found:
                found[str(key)] = _backend(key, "unknown", None, "removed", None)
    return tuple(found.values())


def _role(view: ClusterView, key: ServerKey) -> Role:
    if key == view.primary:
        return "primary"
    return "unknown" if view.servers[key.name].why_not == NOT_SEEN else "replica"


def _backend(
    key: ServerKey, role: Role, standing: Standing | None, why_not: str, avoidance: Avoidance | None
) -> BackendSnapshot:
    own_reason = why_not if standing is None else standing.reason
    reason = own_reason if role == "primary" else why_not or own_reason
    lag = standing.lag if standing is not None else None
    return BackendSnapshot(
        name=str(key),
        cluster=key.cluster,
        host=key.address.host,
        port=key.address.port,
        role=role,
        opinion="unknown" if standing is None else standing.opinion.state.value,
        reason=reason or "",
        is_avoided=bool(why_not) if role != "primary" else standing is not None and not standing.writes,
        avoidance=avoidance,
        lag_bytes=None if lag is None else lag.lag_bytes,
        lag_s=None if lag is None else lag.lag_s,
    )


# -- single connections


def _clients(facts: Facts) -> tuple[ClientSnapshot, ...]:
    found = [
        _client(facts, account, client) for account in facts.accounts.values() for client in account.clients
    ]
    found += [_console(facts, client, visit) for client, visit in facts.consoles.items()]
    return tuple(sorted(found, key=lambda one: one.number))


def _client(facts: Facts, account: Account, client: Client) -> ClientSnapshot:
    visitor = visitor_of(client)
    state: ClientState = "waiting" if client.waiting else "idle" if client.server is None else "active"
    wait_s = facts.now_s - client.wait_since if client.waiting else 0.0
    local_address, local_port = _local_address(client.socket)
    return ClientSnapshot(
        number=visitor.number,
        database=account.settings.key.database,
        user=account.settings.key.user,
        state=state,
        address=visitor.address[0],
        port=visitor.address[1],
        local_address=local_address,
        local_port=local_port,
        connected_at_s=_wall_s(facts, visitor.connected_at),
        requested_at_s=_wall_s(facts, client.request_at or visitor.connected_at),
        wait_us=_us(wait_s),
        longest_wait_us=_us(max(client.longest_wait_s, wait_s)),
        link=None if client.server is None else backend_of(client.server).number,
        pin=", ".join(visitor.pins) or None if client.pinned else None,
        tls=_tls(client),
        application_name=visitor.application_name,
        prepared_statements=len(client.statements),
        xact_count=client.transactions,
        query_count=client.queries,
        error_count=client.errors,
    )


def _console(facts: Facts, client: Client, visit: ConsoleVisit) -> ClientSnapshot:
    local_address, local_port = _local_address(client.socket)
    connected_at_s = _wall_s(facts, visit.connected_at)
    return ClientSnapshot(
        number=visit.number,
        database=visit.database,
        user=visit.user,
        state="active",
        address=visit.address[0],
        port=visit.address[1],
        local_address=local_address,
        local_port=local_port,
        connected_at_s=connected_at_s,
        requested_at_s=connected_at_s,
        tls=_tls(client),
    )


def _links(facts: Facts) -> tuple[ServerLinkSnapshot, ...]:
    found = [
        _link(facts, account, server) for account in facts.accounts.values() for server in account.servers
    ]
    return tuple(sorted(found, key=lambda one: one.number))


def _link(facts: Facts, account: Account, server: Server) -> ServerLinkSnapshot:
    backend, source = backend_of(server), source_of(server.pool)
    key = source.key
    client = server.client
    visitor = None if client is None else client.detail
    local_address, local_port = _local_address(server.socket)
    return ServerLinkSnapshot(
        number=backend.number,
        server=str(key),
        shard=source.shard.number,
        database=account.settings.key.database,
        user=account.settings.key.user,
        state=_state(server),
        address=key.address.host,
        port=key.address.port,
        local_address=local_address,
        local_port=local_port,
        connected_at_s=_wall_s(facts, backend.opened_at),
        requested_at_s=_wall_s(facts, max(server.used_at, backend.opened_at)),
        close_needed=server.is_retired or server.generation != server.pool.generation,
        client=visitor.number if isinstance(visitor, Visitor) else None,
        process_id=backend.pid,
        tls=_tls(server),
        application_name=backend.reported.get("application_name", ""),
        prepared_statements=len(server.prepared),
        prepared_hits=server.prepared_hits,
        prepared_misses=server.prepared_misses,
        prepared_evictions=server.prepared_evictions,
        xact_count=server.transactions,
        query_count=server.queries,
        error_count=server.errors,
        bytes_received=server.bytes_received,
        bytes_sent=server.bytes_sent,
    )


def _local_address(sock: socket) -> tuple[str, int]:
    """Our end of a connection; nothing for one that is just being closed."""
    try:
        host, port = sock.getsockname()[:2]
    except OSError:
        return "", 0
    return host, port


def _tls(link: Link) -> str:
    if link.tls is None:
        return ""
    cipher = link.tls.object.cipher()
    return "" if cipher is None else f"{link.tls.object.version()}/{cipher[0]}"


def _wall_s(facts: Facts, at_s: float) -> float:
    """The Unix time of an instant of the monotonic clock."""
    return facts.taken_at_s - (facts.now_s - at_s)


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
