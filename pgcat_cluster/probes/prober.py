"""Asks each server of a cluster how it is, over a link of its own, and produces samples."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pgcat_cluster.health.evidence import Sample, ServerFacts, Source
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.outgoing import OpenFailed, OpenTimeout, ServerAddress, SimpleConnection, open_server
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import OutgoingTls
from pgcat_cluster.session.server_login import Secret

# However often somebody asks, a server sees fewer than 20 probes per second; one more when it begins to fail.
_GAP_S = 0.05

# A primary's timeline is the one in the name of its current WAL file: the control file learns of it only with
# the next checkpoint. A replica's is the newest it has heard of; the receiver's is NULL without pg_monitor.
_QUESTION = """
select case when r then 't' else 'f' end,
    (select system_identifier from pg_control_system()),
    case when r then greatest(
            (select timeline_id from pg_control_checkpoint()),
            (select min_recovery_end_timeline from pg_control_recovery()),
            (select received_tli from pg_stat_wal_receiver))
        else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
    pg_wal_lsn_diff(case when r then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        else pg_current_wal_lsn() end, '0/0'),
    case when r then pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') end,
    case when r then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) end,
    (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8
from (select pg_is_in_recovery() as r) as here
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """How to reach one server and who logs in there; TLS is the same as for traffic."""

    address: ServerAddress
    tls: OutgoingTls
    user: str
    database: str
    secret: Secret | None


class ProbeGuide(Protocol):
    """Who says how often, how long a probe may take, and how many go over one link."""

    def timeout_s(self, server: str, source: Source) -> float: ...

    def probe_interval_s(self, server: str) -> float: ...

    def probes_per_link(self, server: str) -> int: ...


class ProbeLink(Protocol):
    """A link that answers questions; every failure is an OpenFailed."""

    async def query(self, sql: str, timeout_s: float) -> list[list[str | None]]: ...

    def watch(self, on_readable: Callable[[], None]) -> None: ...

    def unwatch(self) -> None: ...

    def close(self) -> None: ...


# Opens a link to a target within so many seconds. Raises OpenFailed.
Connect = Callable[[ProbeTarget, float], Awaitable[ProbeLink]]


class Prober:
    """One task per server; each sample goes to `on_sample` as soon as its probe ends."""

    def __init__(
        self,
        targets: Mapping[str, ProbeTarget],
        *,
        guide: ProbeGuide,
        on_sample: Callable[[str, Sample], None],
        connect: Connect,
        chance: random.Random | None = None,
        now_s: Callable[[], float] = monotonic_s,
    ) -> None:
        chance = chance or random.Random()
        self._rounds = {
            name: _Rounds(name, target, guide, on_sample, connect, chance, now_s)
            for name, target in targets.items()
        }
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [spawn(rounds.run(), f"probe {server}") for server, rounds in self._rounds.items()]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def nudge(self, server: str, *, after_s: float = 0.0, fresh: bool = True) -> None:
        """Probe this server sooner than its turn."""
        self._rounds[server].nudge(after_s, fresh)


class _Rounds:
    """The probes of one server, one after the other, with the link kept between them."""

    def __init__(
        self,
        server: str,
        target: ProbeTarget,
        guide: ProbeGuide,
        on_sample: Callable[[str, Sample], None],
        connect: Connect,
        chance: random.Random,
        now_s: Callable[[], float],
    ) -> None:
        self._server = server
        self._target = target
        self._guide = guide
        self._on_sample = on_sample
        self._connect = connect
        self._chance = chance
        self._now_s = now_s
        self._link: ProbeLink | None = None
        self._probes_left = 0  # over this link
        self._due_s = -math.inf
        self._sooner = asyncio.Event()

    def nudge(self, after_s: float, fresh: bool) -> None:
        self._due_s = min(self._due_s, self._now_s() + after_s)
        if fresh:
            self._probes_left = 0
        self._sooner.set()

    async def run(self) -> None:
        # Rounds that begin together do not go on together: many servers may come at once.
        share = self._chance.uniform(0.5, 1.0)
        has_failed = False
        try:
            while True:
                started_s = self._now_s()
                self._due_s = math.inf
                sample = await self._probe(started_s)
                self._on_sample(self._server, sample)
                interval_s = self._guide.probe_interval_s(self._server)
                self._due_s = min(self._due_s, started_s + share * interval_s)
                share = 1.0
                # A first failure may be looked into at once: the gap would double what a verdict takes.
                had_failed, has_failed = has_failed, sample.failure is not None
                await self._pause(started_s if has_failed and not had_failed else started_s + _GAP_S)
        finally:
            self._drop_link()

    async def _pause(self, earliest_s: float) -> None:
        if self._link is not None:
            # Nothing is owed to us now: what comes is the end of the link, or news to look into.
            self._link.watch(lambda: self.nudge(0.0, False))
        try:
            while (left_s := max(self._due_s, earliest_s) - self._now_s()) > 0:
                self._sooner.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._sooner.wait()
        finally:
            if self._link is not None:
                self._link.unwatch()

    async def _probe(self, started_s: float) -> Sample:
        source = Source.KEPT if self._link is not None and self._probes_left > 0 else Source.FRESH
        self._probes_left -= 1
        try:
            if source is Source.KEPT:
                try:
                    facts = await self._ask(self._guide.timeout_s(self._server, source))
                except OpenTimeout:
                    raise
                except OpenFailed:
                    # Somebody ended this one link; whether the server is ill, a new one shows.
                    source = Source.FRESH
                    facts = await self._ask_afresh(self._guide.timeout_s(self._server, source))
            else:
                facts = await self._ask_afresh(self._guide.timeout_s(self._server, source))
        except OpenFailed as failure:
            self._drop_link()
            return Sample(
                source=source,
                duration_s=self._now_s() - started_s,
                failure=failure.evidence,
                detail=failure.message,
                is_silence=failure.is_silence,
            )
        return Sample(source=source, duration_s=self._now_s() - started_s, facts=facts)

    async def _ask_afresh(self, timeout_s: float) -> ServerFacts:
        self._drop_link()
        deadline_s = self._now_s() + timeout_s
        self._link = await self._connect(self._target, timeout_s)
        self._probes_left = self._guide.probes_per_link(self._server) - 1
        return await self._ask(deadline_s - self._now_s())

    async def _ask(self, timeout_s: float) -> ServerFacts:
        assert self._link is not None
        return parse_facts(await self._link.query(_QUESTION, timeout_s))

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


async def look_once(
    target: ProbeTarget, timeout_s: float, connect: Connect, now_s: Callable[[], float] = monotonic_s
) -> ServerFacts:
    """Connect, log in, ask, and leave. Raises OpenFailed."""
    deadline_s = now_s() + timeout_s
    link = await connect(target, timeout_s)
    try:
        return parse_facts(await link.query(_QUESTION, deadline_s - now_s()))
    finally:
        link.close()


def connecting(loop: asyncio.AbstractEventLoop) -> Connect:
    """How a node reaches its servers."""
    return functools.partial(_connect, loop)


async def _connect(
    loop: asyncio.AbstractEventLoop, target: ProbeTarget, timeout_s: float
) -> SimpleConnection:
    opened = await open_server(
        target.address,
        tls=target.tls,
        user=target.user,
        database=target.database,
        password=target.secret,
        # Nobody who may create functions in that database shall answer in the server's place.
        parameters={"application_name": "pgcat_cluster probe", "search_path": "pg_catalog"},
        timeout_s=timeout_s,
        loop=loop,
    )
    return SimpleConnection(opened, target.address, loop)


def parse_facts(rows: list[list[str | None]]) -> ServerFacts:
    """The answer to the probe's question, as facts."""
    [[recovery, identifier, timeline, write_lsn, replay_lsn, replayed_age_s, started_at]] = rows
    return ServerFacts(
        in_recovery=recovery == "t",
        system_identifier=identifier or "",
        timeline=int(timeline or 0),
        write_lsn=int(write_lsn or 0),
        replay_lsn=None if replay_lsn is None else int(replay_lsn),
        # Another machine's clock set it: it may be ahead of the replica's.
        replayed_age_s=None if replayed_age_s is None else max(0.0, float(replayed_age_s)),
        started_at=started_at or "",
    )
