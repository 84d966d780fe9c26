"""A node as the consoles and HTTP endpoints see it: one full snapshot, and a record of what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from pgcat_cluster.admin.console import Answer, Console
from pgcat_cluster.errors import Fault
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.snapshot import (
    BackendSnapshot,
    ClientCounts,
    ClientSnapshot,
    DatabaseSnapshot,
    LinkCounts,
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
                PoolServerSnapshot(server="r1", size=20, links=LinkCounts(active_cancel=6, being_canceled=7)),
                PoolServerSnapshot(server="r2", size=20, is_paused=True),
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


class FakeControl:
    """Answers with `now`, which a test may replace, and writes down every call that acts."""

    def __init__(self, now: NodeSnapshot = SNAPSHOT) -> None:
        self.now = now
        self.history = History()
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
