"""A node as the consoles and HTTP endpoints see it: one full snapshot, and a record of what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pgcat_cluster.admin.bans import LocalBans
from pgcat_cluster.admin.console import Answer, Console
from pgcat_cluster.agreement.documents import DesiredStatus, Finding
from pgcat_cluster.agreement.orders import Obeyed, Place
from pgcat_cluster.agreement.overview import (
    AcceptedView,
    BanView,
    NodeView,
    OverrideView,
    Overview,
    VerdictView,
)
from pgcat_cluster.errors import Fault
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.snapshot import (
    Avoidance,
    BackendSnapshot,
    ClientCounts,
    ClientSnapshot,
    DatabaseSnapshot,
    LinkCounts,
    MirrorSnapshot,
    NodeSnapshot,
    PoolServerSnapshot,
    PoolSnapshot,
    ServerLinkSnapshot,
    Setting,
    Totals,
    UserSnapshot,
)

# 2026-01-02 03:04:05 UTC
TAKEN_AT_S = 1767323045.0
SECRETS = ("hunter2", "SCRAM-SHA-256$4096:c2FsdA==$stored:server", "s3cr3t", "md5" + "0123456789abcdef" * 2)


def node_view(node: str, **facts: Any) -> NodeView:
    """A node that runs generation 41."""
    return NodeView(
        **{
            "node": node,
            "state": "serving",
            "zone": "a",
            "host": "h",
            "addr": "10.0.0.9:6432",
            "version": "0.1.0",
            "active": 41,
            "is_lagging": False,
            "suspects_itself": False,
            "nack": (),
            "unusable": (),
            "warn": (),
            **facts,
        }
    )


SNAPSHOT = NodeSnapshot(
    name="n1",
    version="0.1.0",
    build="interpreted",
    taken_at_s=TAKEN_AT_S,
    uptime_s=100.0,
    listen_port=6432,
    max_clients=1000,
    console_clients=1,
    logins_pending=2,
    settings=(
        Setting(key="pools.app.users.app.password", value=SECRETS[0], default=""),
        Setting(key="pools.app.users.app.verifier", value=SECRETS[1]),
        Setting(key="pools.app.origin", value=f"postgresql://app:{SECRETS[2]}@db/app", default="none"),
        Setting(key="pools.app.note", value=f"was {SECRETS[3]}"),
        Setting(key="node.listen", value="0.0.0.0:6432", default="127.0.0.1:6432", changeable=False),
        Setting(key="node.tls.key_file", value="node.key"),
    ),
    databases=(
        DatabaseSnapshot(
            name="app",
            server_database="app_production",
            servers=("p1", "r1", "r2"),
            mode="transaction",
            size=20,
            min_size=2,
            reserve_size=1,
            lifetime_s=3600,
            max_server_links=60,
            max_clients=500,
            balancing="random",
        ),
        DatabaseSnapshot(
            name="Idle",
            server_database="idle",
            servers=("p1",),
            mode="session",
            size=5,
            is_paused=True,
            is_disabled=True,
            force_user="one",
        ),
    ),
    users=(UserSnapshot(name="bob", size=7, mode="session"), UserSnapshot(name="app", max_clients=9)),
    pools=(
        PoolSnapshot(
            database="app",
            user="app",
            mode="transaction",
            size=20,
            min_size=2,
            clients=ClientCounts(active=3, idle=4, waiting=5, active_cancel_req=1, waiting_cancel_req=2),
            oldest_wait_us=2_000_345,
            commands={"set": 24},
            unplaced={"no_key": 25},
            behind={"primary": 26},
            behind_time_us=27_000,
            totals=Totals(
                xact_count=11,
                query_count=12,
                server_assignment_count=13,
                client_bytes_received=14,
                client_bytes_sent=15,
                server_bytes_received=16,
                server_bytes_sent=17,
                xact_time_us=18_000,
                query_time_us=19_000,
                wait_time_us=20,
                client_parse_count=21,
                server_parse_count=22,
                bind_count=23,
                errors={"42601": 2, "57014": 1},
            ),
            servers=(
                PoolServerSnapshot(
                    server="p1",
                    server_database="app_production",
                    size=20,
                    links=LinkCounts(active=1, idle=2, used=3, tested=4, login=5),
                    totals=Totals(
                        xact_count=31,
                        query_count=32,
                        server_bytes_received=33,
                        server_bytes_sent=34,
                        xact_time_us=35_000,
                        query_time_us=36_000,
                        wait_time_us=37,
                        errors={"42601": 2},
                    ),
                ),
                PoolServerSnapshot(
                    server="r1",
                    server_database="app_production",
                    size=20,
                    links=LinkCounts(active_cancel=6, being_canceled=7),
                ),
                PoolServerSnapshot(server="r2", server_database="app_production", size=20, is_paused=True),
            ),
            mirror=MirrorSnapshot(
                host="m1",
                port=5433,
                links=1,
                queued=2,
                held_bytes=3,
                mirrored=4,
                statements=5,
                dropped=6,
                left_out=7,
                failed=8,
                errors={"23505": 9, "40001": 10},
                last_error="m1:5433: refused",
            ),
        ),
    ),
    backends=(
        BackendSnapshot(name="p1", cluster="c", host="10.0.0.1", port=5432, role="primary", opinion="good"),
        BackendSnapshot(
            name="r1",
            cluster="c",
            host="10.0.0.2",
            port=5433,
            role="replica",
            opinion="good",
            lag_bytes=10,
            lag_s=0.5,
        ),
        BackendSnapshot(
            name="r2",
            cluster="c",
            host="10.0.0.3",
            port=5434,
            role="replica",
            opinion="bad",
            reason="refused",
            is_avoided=True,
            avoidance=Avoidance(at_s=TAKEN_AT_S - 10),
        ),
    ),
    clients=(
        ClientSnapshot(
            number=0x2A,
            database="app",
            user="app",
            state="active",
            address="192.0.2.1",
            port=4000,
            connected_at_s=TAKEN_AT_S - 65,
            requested_at_s=TAKEN_AT_S - 5,
            local_address="192.0.2.9",
            local_port=6432,
            longest_wait_us=1_000_002,
            link=0x2B,
            pin="listens",
            tls="TLSv1.3",
            application_name="caf\udce9",
            prepared_statements=3,
            xact_count=4,
            query_count=5,
            error_count=6,
        ),
        ClientSnapshot(
            number=7,
            database="",
            user="",
            state="waiting",
            address="192.0.2.2",
            port=4001,
            connected_at_s=TAKEN_AT_S - 1,
            requested_at_s=TAKEN_AT_S,
            wait_us=1_000_003,
        ),
    ),
    links=(
        ServerLinkSnapshot(
            number=0x2B,
            server="p1",
            database="app",
            user="app",
            state="used",
            address="10.0.0.1",
            port=5432,
            connected_at_s=TAKEN_AT_S - 60,
            requested_at_s=TAKEN_AT_S - 5,
            close_needed=True,
            client=0x2A,
            process_id=999,
            application_name="app",
            prepared_statements=8,
            prepared_hits=9,
            prepared_misses=10,
            prepared_evictions=11,
            xact_count=12,
            query_count=13,
            bytes_received=14,
            bytes_sent=15,
        ),
    ),
    upcalls=41,
    flows=42,
    unknown_statements=43,
    pins={"listens": 44},
    log_lines_dropped=45,
)


# What all nodes are at one moment: n2 objects to what is desired, n3 is lost.
OVERVIEW = Overview(
    fleet="eu",
    revision=90,
    accepted=AcceptedView(gen=41, rev=80, digest="aa"),
    desired=DesiredStatus(rev=88, digest="bb", state="rejected", why="1 of 2 nodes"),
    coordinator="n1.00000001",
    nodes=(
        node_view(
            "n1.00000001", is_valid=True, warn=(Finding(key="config/pools/app", path="size", msg="is large"),)
        ),
        node_view(
            "n2.00000002",
            is_valid=False,
            nack=(Finding(key="config/clusters/c", path="servers.r2", msg=f"was {SECRETS[3]}"),),
        ),
    ),
    lost_seats=("n3",),
    bans=(
        BanView(
            server="c/r2",
            scope="fleet",
            state="banned",
            why=("refused",),
            votes=("n1.00000001", "n2.00000002"),
            need=2,
            jury=3,
            strikes=1,
            since_rev=70,
        ),
    ),
    verdicts=(
        VerdictView(
            server="c/r2", node="n1.00000001", v="bad", why=("refused",), since_rev=69, gen=41, zone="a"
        ),
    ),
    overrides=(
        OverrideView(target="c/r1", says="drain", reason="disk", by="on call", rev=60),
        OverrideView(target="_pool/app", says="pause", reason="", by="op on n1", rev=61),
        OverrideView(target="c/r9", says="", reason="", by="", rev=62, doubt="is no override"),
    ),
)


class FakeFleet:
    """Obeys with two nodes, or raises `fault`; writes down what was ordered."""

    def __init__(self, *, is_alone: bool = False) -> None:
        self.is_alone = is_alone
        self.calls: list[tuple[object, ...]] = []
        self.paused: frozenset[str] = frozenset()
        self.fault: Exception | None = None
        self.obeyed = Obeyed(nodes=("n1.00000001", "n2.00000002"))
        self.is_obeyed = asyncio.Event()
        self.is_obeyed.set()

    async def overview(self) -> Overview:
        if self.fault is not None:
            raise self.fault
        return OVERVIEW

    async def _order(self, *call: object) -> Obeyed:
        self.calls.append(call)
        if self.fault is not None:
            raise self.fault
        await self.is_obeyed.wait()
        return self.obeyed

    async def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> Obeyed:
        return await self._order("ban", list(servers), length_s, by)

    async def unban(self, servers: Sequence[Place]) -> Obeyed:
        return await self._order("unban", list(servers))

    async def pause(self, database: str | None, by: str) -> Obeyed:
        return await self._order("pause", database, by)

    async def resume(self, database: str | None) -> Obeyed:
        return await self._order("resume", database)

    async def reconnect(self, database: str | None, by: str) -> Obeyed:
        return await self._order("reconnect", database, by)

    async def reload(self) -> Obeyed:
        return await self._order("reload")


class FakeControl:
    """Answers with `now`, which a test may replace, and writes down every call that acts."""

    def __init__(self, now: NodeSnapshot = SNAPSHOT, fleet: FakeFleet | None = None) -> None:
        self.now = now
        self.history = History()
        self.bans = LocalBans()
        self.fleet = fleet or FakeFleet(is_alone=True)
        self.lifted: list[Place] = []
        self.calls: list[tuple[object, ...]] = []
        self.is_drained = asyncio.Event()
        self.is_waited_for = asyncio.Event()
        self.reload_fault: Fault | None = None

    def snapshot(self, *, connections: bool, settings: bool = True) -> NodeSnapshot:
        now = self.now if connections else msgspec.structs.replace(self.now, clients=(), links=())
        return now if settings else msgspec.structs.replace(now, settings=())

    def pause(self, database: str | None, user: str | None) -> None:
        self.calls.append(("pause", database, user))

    async def drained(self, database: str | None, user: str | None) -> None:
        self.is_waited_for.set()
        await self.is_drained.wait()

    def resume(self, database: str | None, user: str | None) -> None:
        self.calls.append(("resume", database, user))

    def reconnect(self, database: str | None) -> None:
        self.calls.append(("reconnect", database))

    async def reload(self) -> None:
        self.calls.append(("reload",))
        if self.reload_fault is not None:
            raise self.reload_fault

    def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> None:
        self.calls.append(("ban", list(servers), length_s, by))

    def unban(self, servers: Sequence[Place]) -> list[Place]:
        self.calls.append(("unban", list(servers)))
        return self.lifted

    def shutdown(self, mode: str) -> None:
        self.calls.append(("shutdown", mode))


def cut(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames of some bytes: type and body."""
    while data:
        end = 1 + int.from_bytes(data[1:5], "big")
        yield data[0], data[5:end]
        data = data[end:]


def answers(console: Console, frames: bytes) -> Iterator[Answer]:
    """The answer to each frame, which is handed in when the one before has been dealt with."""
    for kind, body in cut(frames):
        yield console.receive(kind, body)


async def converse(console: Console, frames: bytes) -> tuple[bytes, bool]:
    """What a client reads after sending frames, and whether the connection closes behind it."""
    sent = b""
    for answer in answers(console, frames):
        sent += answer.data
        if answer.action is not None:
            sent += await answer.action()
        if answer.closes:
            return sent, True
    return sent, False
