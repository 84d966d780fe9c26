"""What operators may do to a node, and what it says about itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from pgcat_cluster import __version__
from pgcat_cluster.admin.alone import Alone
from pgcat_cluster.admin.bans import LocalBan, LocalBans
from pgcat_cluster.admin.control import FleetPort, ShutdownMode
from pgcat_cluster.agreement.orders import Place
from pgcat_cluster.health.cluster import ClusterHealth
from pgcat_cluster.net.clock import monotonic_s, wall_s
from pgcat_cluster.relay.build import build_kind
from pgcat_cluster.relay.client import Client
from pgcat_cluster.session.account import Account, desk_of
from pgcat_cluster.session.control import Control
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.logs import LineWriter, get_logger, lifecycle
from pgcat_cluster.telemetry.snapshot import Avoidance, NodeSnapshot, NodeState, Setting
from pgcat_cluster.telemetry.taking import ConsoleVisit, Facts, take
from pgcat_cluster.topology.diff import BOUND_AT_START
from pgcat_cluster.topology.model import PoolKey, Topology
from pgcat_cluster.topology.reading import Path, Problem, dotted
from pgcat_cluster.topology.showing import parts_in_force, rows_in_force
from pgcat_cluster.topology.view import View

OBSERVE_S = 1.0


class Watch(Protocol):
    """What is asked of the watch of one cluster."""

    health: ClusterHealth


class Door(Protocol):
    """What is asked of a listener."""

    @property
    def port(self) -> int: ...


class Fellow(Protocol):
    """What is asked of a node's part in a fleet."""

    @property
    def commands(self) -> FleetPort: ...


class NodePort(Protocol):
    """What is asked of the node itself."""

    name: str
    is_draining: bool
    generation: int
    rejected: tuple[Problem, ...]
    view: View
    control: Control

    @property
    def fleet(self) -> Fellow | None: ...

    @property
    def topology(self) -> Topology: ...

    @property
    def waits_for(self) -> str: ...

    @property
    def accounts(self) -> Mapping[PoolKey, Account]: ...

    @property
    def watches(self) -> Mapping[str, Watch]: ...

    @property
    def fronts(self) -> Mapping[Client, object]: ...

    @property
    def consoles(self) -> Mapping[Client, ConsoleVisit]: ...

    @property
    def listeners(self) -> Sequence[Door]: ...

    def heed(self, cluster: str) -> None: ...

    async def reload(self) -> list[str]: ...

    def shutdown(self, mode: ShutdownMode) -> None: ...


class Operations:
    """The node as consoles and HTTP endpoints see it (`ControlPort`).

    Whether a pool is paused is kept at its desk; beside that only whether the node as a whole was paused.
    """

    def __init__(self, node: NodePort) -> None:
        self.node = node
        self.history = History()
        self.bans = LocalBans()
        self.writer: LineWriter | None = None
        self.log = get_logger()
        self._build = build_kind()
        self._began_s = monotonic_s()
        self._is_paused = False
        self._observed_s = 0.0
        self._shown: tuple[Topology, tuple[Setting, ...]] | None = None
        self._rows: dict[Path, tuple[Struct, tuple[Setting, ...]]] = {}
        self._ticks: list[asyncio.Future[None]] = []
        self._avoided_at: dict[Place, float] = {}
        self._alone = Alone(node, self)

    @property
    def fleet(self) -> FleetPort:
        """All nodes; a node that goes by a file is all there are."""
        return self._alone if self.node.fleet is None else self.node.fleet.commands

    def tick(self, now: float) -> None:
        """Called by the node every 50 ms."""
        waiters, self._ticks = self._ticks, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for place in self.bans.expired(now):
            self.unban([place])
        if now - self._observed_s >= OBSERVE_S:
            self._observed_s = now
            self.history.observe(self.snapshot(connections=False, settings=False))

    # -- what the node says --------------------------------------------------------------------------------

    def snapshot(self, *, connections: bool, settings: bool = True) -> NodeSnapshot:
        node, now_s = self.node, monotonic_s()
        facts = Facts(
            name=node.name,
            version=__version__,
            build=self._build,
            now_s=now_s,
            taken_at_s=wall_s(),
            uptime_s=now_s - self._began_s,
            state=self._state(),
            listen_port=node.listeners[0].port if node.listeners else 0,
            logins_pending=len(node.fronts),
            log_lines_dropped=0 if self.writer is None else self.writer.dropped,
            topology=node.topology,
            settings=self._settings() if settings else (),
            accounts=node.accounts,
            views=node.view.clusters,
            standings={name: watch.health.standings() for name, watch in node.watches.items()},
            consoles=node.consoles,
            waits_for=node.waits_for,
            avoidances=self._avoidances(now_s),
        )
        return take(facts, connections=connections)

    def _avoidances(self, now_s: float) -> dict[Place, Avoidance]:
        clusters = self.node.topology.clusters
        for gone in [
            (c, s) for c, s in self._avoided_at if c not in clusters or s not in clusters[c].servers
        ]:
            del self._avoided_at[gone]
        found = {}
        for place, at_s in self._avoided_at.items():
            ban = self.bans.of(place)
            length_s = None if ban is None else ban.length_s
            left_s = None if ban is None or length_s is None else max(0, round(ban.until_s - now_s))
            found[place] = Avoidance(at_s=at_s, length_s=length_s, left_s=left_s)
        return found

    def _state(self) -> NodeState:
        return "draining" if self.node.is_draining else "paused" if self._is_paused else "active"

    def _settings(self) -> tuple[Setting, ...]:
        """What is in force. There are thousands of them in a large node, and few change at a time."""
        topology = self.node.topology
        if self._shown is None or self._shown[0] is not topology:
            known, self._rows = self._rows, {}
            for path, part in parts_in_force(topology):
                before = known.get(path)
                is_same = before is not None and before[0] == part
                self._rows[path] = before if before and is_same else (part, _rows_of(path, part))
            self._shown = (topology, tuple(row for _, rows in self._rows.values() for row in rows))
        return self._shown[1]

    # -- pause and resume ----------------------------------------------------------------------------------

    def pause(self, database: str | None, user: str | None) -> None:
        if database is None:
            self._is_paused = True
        for account in self._scope(database, user):
            desk_of(account).paused = True
            self._retire(account)
        lifecycle(self.log, "pool.paused", pool=_scope_text(database, user))

    async def drained(self, database: str | None, user: str | None) -> None:
        while any(desk_of(account).paused and _has_links(account) for account in self._scope(database, user)):
            waiter = asyncio.get_running_loop().create_future()
            self._ticks.append(waiter)
            await waiter

    def resume(self, database: str | None, user: str | None) -> None:
        if database is None:
            self._is_paused = False
        now_s = monotonic_s()
        for account in self._scope(database, user):
            desk = desk_of(account)
            if desk.paused:
                desk.paused = False
                account.resumed_at = now_s
                desk.serve_waiters()
                for shard in account.shards:
                    self.node.control.place(account, shard)
        lifecycle(self.log, "pool.resumed", pool=_scope_text(database, user))

    def begins_paused(self, key: PoolKey) -> bool:
        """Whether a pool that is new is paused from its beginning: so is its whole database, or the node."""
        others = self._scope(key.database, None)
        return self._is_paused or (bool(others) and all(desk_of(other).paused for other in others))

    # -- bans of this node alone ---------------------------------------------------------------------------

    def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> None:
        until_s = monotonic_s() + length_s if length_s is not None else math.inf
        for place in servers:
            self.bans.put(place, LocalBan(length_s=length_s, until_s=until_s, by=by))
            lifecycle(
                self.log, "server.banned", server="/".join(place), scope="node", by=by, length_s=length_s
            )
        self._heed(servers)

    def unban(self, servers: Sequence[Place]) -> list[Place]:
        lifted = [place for place in servers if self.bans.lift(place)]
        for place in lifted:
            lifecycle(self.log, "server.unbanned", server="/".join(place), scope="node")
        self._heed(lifted)
        return lifted

    def avoids(self, server: Place, is_avoided: bool) -> None:
        """Clients are kept away from a server, or not any more; since when is told."""
        if is_avoided:
            self._avoided_at.setdefault(server, wall_s())
        else:
            self._avoided_at.pop(server, None)

    def _heed(self, servers: Sequence[Place]) -> None:
        for cluster in {cluster for cluster, _ in servers}:
            self.node.heed(cluster)

    # -- everything else -----------------------------------------------------------------------------------

    def reconnect(self, database: str | None) -> None:
        for account in self._scope(database, None):
            self._retire(account)
        lifecycle(self.log, "pool.reconnected", pool=_scope_text(database, None))

    async def reload(self) -> None:
        await self.node.reload()

    def shutdown(self, mode: ShutdownMode) -> None:
        self.node.shutdown(mode)

    def _scope(self, database: str | None, user: str | None) -> list[Account]:
        return [
            account
            for key, account in self.node.accounts.items()
            if database in (None, key.database) and user in (None, key.user)
        ]

    def _retire(self, account: Account) -> None:
        """Links that rest close now, the others when they are released."""
        for pool in account.pools():
            self.node.control.supply.renew(pool)


def _rows_of(path: Path, part: Struct) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            key=dotted(leaf),
            value=value,
            default=default,
            changeable=not (leaf[0] == "node" and leaf[1] in BOUND_AT_START),
        )
        for leaf, value, default in rows_in_force(path, part)
    )


def _has_links(account: Account) -> bool:
    return bool(account.servers) or any(pool.opening for pool in account.pools())


def _scope_text(database: str | None, user: str | None) -> str:
    return "all" if database is None else database if user is None else f"{database}/{user}"
