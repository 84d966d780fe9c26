"""Probes of real servers that are killed, stopped, promoted and cut off: what a node thinks, and how soon."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pgcat_cluster.demo import guard
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.health.cluster import ClusterHealth, Decision, PrimaryChanged, Restarted
from pgcat_cluster.health.evidence import EvidenceClass, Sample, Source
from pgcat_cluster.health.tilt import TICK_S
from pgcat_cluster.net.clock import monotonic_s, tick
from pgcat_cluster.net.outgoing import ServerAddress
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import OutgoingTls
from pgcat_cluster.probes.prober import Prober, ProbeTarget, connecting
from pgcat_cluster.probes.watch import ClusterWatch
from pgcat_cluster.topology.settings import Health, Leadership, Read
from tests.support.stack import StackMaker

pytestmark = pytest.mark.once

# Longer than anything takes here, so that only what never happens fails.
WITHIN_S = 60.0


def targets(stack: Stack, **changed: Any) -> dict[str, ProbeTarget]:
    return {
        server.name: ProbeTarget(
            address=ServerAddress(host=server.host, port=server.port),
            tls=OutgoingTls("prefer"),
            **{
                "user": "pgcat_probe",
                "database": "postgres",
                "secret": stack.passwords["pgcat_probe"],
                **changed,
            },
        )
        for server in stack.servers
    }


class Counted(ClusterHealth):
    """Counts the looks at each server; what a stall of our own made worthless does not count."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.looks: collections.Counter[str] = collections.Counter()
        self.looked = asyncio.Event()

    def receive(self, server: str, sample: Sample, now: float) -> list[Decision]:
        if self._tilt.is_on(now):
            self.looks.clear()
        elif sample.source is not Source.TRAFFIC:
            self.looks[server] += 1
        self.looked.set()
        return super().receive(server, sample, now)


class Watched:
    """A stack under watch.

    Time is told by the rounds of probes: a well server is asked once a second, as its own loop counts it. So a
    slow machine slows the clock too. The middle server is the clock: one that is ill is asked more or less often.
    """

    def __init__(
        self, stack: Stack, health: Health | None = None, read: Read | None = None, **changed: Any
    ) -> None:
        self.changes: list[Decision] = []
        self.health = Counted(
            servers=[server.name for server in stack.servers],
            leadership=Leadership(source="observe"),
            health=health or Health(),
            read=read or Read(max_lag_s=0.5),
            now=monotonic_s(),
        )
        self.watch = ClusterWatch(
            self.health,
            targets(stack, **changed),
            on_change=self.changes.extend,
            connect=connecting(asyncio.get_running_loop()),
        )

    @property
    def rounds(self) -> int:
        counts = sorted(self.health.looks[server] for server in self.health.standings())
        return counts[len(counts) // 2]

    async def until(self, is_reached: Callable[[], bool], rounds: int, *, of: str = "") -> None:
        """Wait for a state of health. Fails when more rounds end before it than a sound node needs.

        What takes several answers of one server is told by the looks at that server (`of`).
        """
        self.health.looks.clear()
        async with asyncio.timeout(WITHIN_S):
            while not is_reached():
                # One may have been under way at the beginning.
                ended = self.health.looks[of] if of else self.rounds
                assert ended <= rounds + 1, (self.health.standings(), self.health.looks)
                self.health.looked.clear()
                await self.health.looked.wait()

    async def pass_by(self, rounds: int) -> None:
        """Let so many rounds end."""
        self.health.looks.clear()
        async with asyncio.timeout(WITHIN_S):
            while self.rounds < rounds:
                self.health.looked.clear()
                await self.health.looked.wait()

    def hang_rounds(self, server: str) -> int:
        """So many until two probes have run out of time, which slow answers before make longer."""
        timeout_s = max(self.health.timeout_s(server, source) for source in (Source.KEPT, Source.FRESH))
        return 1 + math.ceil(1.0 + 2 * max(1.0, timeout_s))

    def reads(self) -> set[str]:
        return {one.server for one in self.health.standings().values() if one.reads}

    def writes(self) -> set[str]:
        return {one.server for one in self.health.standings().values() if one.writes}


@contextlib.asynccontextmanager
async def watching(stack: Stack, health: Health | None = None, **changed: Any) -> AsyncIterator[Watched]:
    watched = Watched(stack, health, **changed)
    ticker = spawn(tick(TICK_S, watched.health.tick), "tilt tick")
    watched.watch.start()
    try:
        await watched.until(lambda: watched.writes() == {stack.primary.name}, 5)
        yield watched
    finally:
        ticker.cancel()
        await watched.watch.stop()


async def holds(server: Postgres, condition: str) -> None:
    """Wait until it is true by the server's own word: what it needs for that is none of the node's time."""
    async with asyncio.timeout(WITHIN_S):
        while await asyncio.to_thread(server.query, f"select coalesce({condition}, false)") != [(True,)]:
            pass


def writers(server: Postgres) -> set[int]:
    """The processes of a server that write WAL without being asked."""
    asked = "('background writer', 'checkpointer', 'autovacuum launcher')"
    return {pid for (pid,) in server.query(f"select pid from pg_stat_activity where backend_type in {asked}")}


def named(stack: Stack) -> tuple[str, str, str]:
    return stack.primary.name, stack.replicas[0].name, stack.replicas[1].name


async def test_facts_of_every_server(pg_stack: Stack) -> None:
    """One look at each, as an unprivileged user too: nothing in the question needs a privilege."""
    loop = asyncio.get_running_loop()
    for user in ("pgcat_probe", "test"):
        samples: dict[str, Sample] = {}
        everybody = asyncio.Event()

        def take(
            server: str,
            sample: Sample,
            samples: dict[str, Sample] = samples,
            everybody: asyncio.Event = everybody,
        ) -> None:
            samples.setdefault(server, sample)
            if len(samples) == 3:
                everybody.set()

        guide = Watched(pg_stack).health
        who = {"user": user, "secret": pg_stack.passwords[user]}
        prober = Prober(targets(pg_stack, **who), guide=guide, on_sample=take, connect=connecting(loop))
        prober.start()
        try:
            async with asyncio.timeout(WITHIN_S):
                await everybody.wait()
        finally:
            await prober.stop()
        identifier = pg_stack.primary.query("select system_identifier::text from pg_control_system()")[0][0]
        for server in pg_stack.servers:
            facts = samples[server.name].facts
            assert facts is not None, samples[server.name].detail
            is_replica = server is not pg_stack.primary
            assert (facts.in_recovery, facts.system_identifier, facts.timeline) == (is_replica, identifier, 1)
            assert facts.write_lsn > 0
            assert (facts.replay_lsn is not None) is is_replica
            assert facts.started_at
            assert samples[server.name].source is Source.FRESH


async def test_probes_keep_one_link_per_server(make_stack: StackMaker) -> None:
    """Of its own stack, since nodes of other tests probe the shared one; a fresh link comes and goes beside it."""
    stack = make_stack()

    def links() -> list[tuple[object, ...]]:
        return stack.primary.query(
            "select count(*) from pg_stat_activity where application_name = 'pgcat_cluster probe'"
        )

    async with watching(stack) as watched:
        await watched.until(lambda: links() == [(1,)], 8)


async def test_a_killed_replica_is_out_within_a_second(make_stack: StackMaker) -> None:
    stack = make_stack()
    primary, first, second = named(stack)
    async with watching(stack) as watched:
        stack.replicas[0].kill()
        await watched.until(lambda: watched.reads() == {primary, second}, 1)
        assert "refused" in watched.health.standings()[first].reason
        await asyncio.to_thread(stack.replicas[0].start)
        await watched.until(lambda: watched.reads() == {primary, first, second}, 8)
        assert Restarted(server=first) in watched.changes


async def test_a_stopped_replica_is_out_within_three_and_a_half_seconds(make_stack: StackMaker) -> None:
    stack = make_stack()
    primary, first, second = named(stack)
    async with watching(stack) as watched:
        stack.replicas[1].freeze()
        await watched.until(lambda: watched.reads() == {primary, first}, watched.hang_rounds(second))
        assert watched.health.standings()[second].opinion.evidence is EvidenceClass.SOFT
        stack.replicas[1].resume()
        await watched.until(lambda: watched.reads() == {primary, first, second}, 8)


async def test_a_promotion_is_followed_and_the_old_primary_kept_out(make_stack: StackMaker) -> None:
    stack = make_stack()
    old, new, other = named(stack)
    # What the old primary wrote after the fork, its replica could not take back.
    silenced = writers(stack.primary)
    async with watching(stack) as watched:
        stack.primary.freeze()
        await watched.until(lambda: watched.writes() == set(), watched.hang_rounds(old))
        await asyncio.to_thread(stack.replicas[0].promote)
        await watched.until(lambda: watched.writes() == {new}, 3)
        reason = "only server out of recovery on timeline 2"
        assert PrimaryChanged(before=old, after=new, reason=reason) in watched.changes
        # The other replica still streams from the old primary, which goes on as if nothing had happened.
        guard.tell(sorted(set(guard.family(stack.primary.pid)) - silenced), signal.SIGCONT)
        await watched.until(lambda: old in watched.health.roles.wrong, 8)
        assert (watched.reads(), watched.writes()) == ({new}, {new})
        assert watched.health.standings()[other].reason == "on timeline 1, the primary is on 2"
        await asyncio.to_thread(stack.replicas[1].follow, stack.replicas[0])
        await holds(stack.replicas[1], "(select received_tli = 2 from pg_stat_wal_receiver)")
        await watched.until(lambda: watched.reads() == {new, other}, 8, of=other)


async def test_a_fast_shutdown_is_seen_at_once(make_stack: StackMaker) -> None:
    stack = make_stack()
    primary, _, second = named(stack)
    async with watching(stack) as watched:
        stack.replicas[0].stop("fast")
        await watched.until(lambda: watched.reads() == {primary, second}, 1)


async def test_one_ended_probe_link_is_no_illness(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=0)
    async with watching(stack) as watched:
        before = len(watched.changes)
        pid = "select pid from pg_stat_activity where application_name = 'pgcat_cluster probe'"
        [(old,)] = stack.primary.query(pid)
        stack.primary.query(f"select pg_terminate_backend({old})")

        async def is_replaced() -> None:
            while (pids := await asyncio.to_thread(stack.primary.query, pid)) in ([], [(old,)]):
                assert len(pids) < 2

        await asyncio.wait_for(is_replaced(), WITHIN_S)
        assert watched.changes[before:] == []


async def test_a_wrong_password_is_no_illness(pg_stack: Stack) -> None:
    samples: list[Sample] = []
    enough = asyncio.Event()
    guide = Watched(pg_stack).health

    def take(server: str, sample: Sample) -> None:
        assert guide.receive(server, sample, monotonic_s()) == []
        samples.append(sample)
        if len(samples) >= 9:
            enough.set()

    loop = asyncio.get_running_loop()
    prober = Prober(targets(pg_stack, secret="wrong"), guide=guide, on_sample=take, connect=connecting(loop))
    prober.start()
    try:
        async with asyncio.timeout(WITHIN_S):
            await enough.wait()
    finally:
        await prober.stop()
    assert {sample.failure for sample in samples} == {EvidenceClass.CONFIG}
    assert all(one.reads for one in guide.standings().values())


async def test_failed_traffic_asks_for_a_probe_at_once(make_stack: StackMaker) -> None:
    """A server that answers its probes is not ill, whatever happened to one link of the pool."""
    stack = make_stack(replicas=0)
    server: Postgres = stack.primary
    async with watching(stack) as watched:
        before = len(watched.changes)
        logins = "select sessions from pg_stat_database where datname = 'postgres'"
        [(earlier,)] = server.query(logins)
        for _ in range(100):
            watched.watch.traffic_failed(server.name, EvidenceClass.REFUSED, "lost")

        async def is_probed() -> None:
            while (await asyncio.to_thread(server.query, logins))[0][0] <= earlier:
                pass

        await asyncio.wait_for(is_probed(), WITHIN_S)
        assert watched.changes[before:] == []


@pytest.mark.parametrize(
    ("has_replayed", "read"),
    [
        pytest.param(True, Read(max_lag_s=0.5), id="seconds"),
        pytest.param(False, Read(max_lag_s=0.5), id="seconds of no transaction"),
        pytest.param(
            *(True, Read(max_lag_s=0.0, max_lag_bytes=200)), id="bytes", marks=pytest.mark.live_long
        ),
    ],
)
async def test_a_paused_replay_is_lag_and_an_idle_primary_is_none(
    make_stack: StackMaker, has_replayed: bool, read: Read
) -> None:
    """Also of a replica that has replayed no transaction yet, and so can not say how old its last one is."""
    stack = make_stack()
    primary, first, second = named(stack)
    if has_replayed:
        stack.primary.query("create table t (n int)")
        await holds(stack.replicas[0], "pg_last_xact_replay_timestamp() is not null")
    # While another replica is slow to answer, the one that lags stays in service.
    async with watching(stack, Health(timeout_min_s=10.0, timeout_max_s=10.0), read=read) as watched:
        await asyncio.to_thread(stack.replicas[0].query, "select pg_wal_replay_pause()")
        await asyncio.to_thread(stack.primary.query, "create table u (n int)")
        await holds(stack.replicas[0], "pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()")
        assert await asyncio.to_thread(
            stack.replicas[0].query, "select pg_last_xact_replay_timestamp() is not null"
        ) == [(has_replayed,)]
        # The primary may be looked at after it: its goal is known with the look behind that.
        await watched.until(lambda: watched.reads() == {primary, second}, 5, of=first)
        assert watched.health.standings()[first].reason.startswith("lag: ")
        lag = watched.health.standings()[first].lag
        assert lag is not None
        assert lag.lag_bytes is not None
        assert lag.lag_bytes > 0
        await asyncio.to_thread(stack.replicas[0].query, "select pg_wal_replay_resume()")
        await holds(stack.replicas[0], "pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()")
        # Nothing is written any more, and the last transaction grows old: that is no lag.
        await watched.until(lambda: watched.reads() == {primary, first, second}, 3, of=first)
        before = len(watched.changes)
        await watched.pass_by(4)
        assert watched.changes[before:] == []
