"""What is measured of a real fleet, one round after the other: failures, edits, peace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.net.clock import monotonic_s
from tests.bench.fleet.history import Written
from tests.bench.fleet.load import passing
from tests.bench.fleet.machine import Busy
from tests.bench.fleet.rig import Rig, pool_of

Kind = Literal["kill_traffic", "kill_idle", "frozen"]
_BEFORE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One server's failure, in milliseconds from the signal.

    `avoided_ms`: the last node sends no new work there. `last_sent_ms`: the last statement that a client sent
    and that ended up there, None without one after the signal. `ban_ms`: the ban stands in the store.
    `obeyed_ms`: the last node has heard of the ban.
    """

    server: str
    avoided_ms: float
    first_avoided_ms: float
    last_sent_ms: float | None
    ban_ms: float
    obeyed_ms: float
    writes: Sequence[Written]
    return_writes: int
    false_alarms: int
    cpu_share: float
    slowest_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit, in milliseconds from the put: accepted by the coordinator, and run by the last node's word."""

    accepted_ms: float
    acked_ms: float
    writes: int
    cpu_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Peace:
    """A time without events: `keys` were written in it."""

    seconds: float
    writes: int
    keys: Sequence[str]
    cpu_share: float


async def failure(rig: Rig, kind: Kind, server: Postgres) -> Failure:
    """A server fails, is banned, returns and is forgiven."""
    (rig.load.pause if kind == "kill_idle" else rig.load.resume)()
    await rig.calm()
    busy = Busy()
    await passing(_BEFORE_S)
    name = server.name
    began_s = monotonic_s()
    await asyncio.to_thread(server.freeze if kind == "frozen" else server.kill)
    everybody = len(rig.logs)
    await rig.until(lambda: len(rig.avoided_at_s(name, began_s)) == everybody, f"all avoid {name}")
    await rig.until(lambda: len(rig.banned_at_s(name, began_s)) == everybody, f"all know the ban of {name}")
    await rig.silence()
    cpu_share = busy.share()
    avoided = [at_s - began_s for at_s in rig.avoided_at_s(name, began_s)]
    obeyed = [at_s - began_s for at_s in rig.banned_at_s(name, began_s)]
    writes = rig.history.since(began_s)
    is_ban = f"decided/ban/main/{name}/fleet"
    ban_s = next(one.heard_s for one in writes if is_ban in one.keys) - began_s
    returned_s = monotonic_s()
    await asyncio.to_thread(server.resume if kind == "frozen" else server.start)
    await rig.until(lambda: rig.ban(name) is None, f"{name} is forgiven")
    await rig.calm()
    return_writes = len(rig.history.since(returned_s))
    answers = [one for one in rig.load.answers if one.ended_s >= began_s]
    await rig.forgive(name)
    sent = [one.sent_s - began_s for one in answers if one.port == server.port and one.ended_s > returned_s]
    sent = [at_s for at_s in sent if 0 < at_s < returned_s - began_s]
    return Failure(
        server=name,
        avoided_ms=max(avoided) * 1000,
        first_avoided_ms=min(avoided) * 1000,
        last_sent_ms=max(sent) * 1000 if sent else None,
        ban_ms=ban_s * 1000,
        obeyed_ms=max(obeyed) * 1000,
        writes=writes,
        return_writes=return_writes,
        false_alarms=sum(
            one.event == "server.avoided" and one.server != name and one.at_s > began_s
            for log in rig.logs
            for one in log.sightings
        ),
        cpu_share=cpu_share,
        slowest_ms=max((one.ended_s - one.due_s for one in answers), default=0.0) * 1000,
    )


async def edit(rig: Rig, size: int) -> Edit:
    """A pool is made another size."""
    rig.load.resume()
    await rig.silence()
    busy = Busy()
    before = rig.generation()
    began_s = monotonic_s()
    await rig.put("pools/test", pool_of(size))
    accepted_s = 0.0
    while not (rig.generation() > before and rig.runs(rig.generation())):
        async with asyncio.timeout(60):
            await rig.history.news()
        if rig.generation() > before and not accepted_s:
            accepted_s = monotonic_s()
    ended_s = monotonic_s()
    await rig.silence()
    return Edit(
        accepted_ms=(accepted_s - began_s) * 1000,
        acked_ms=(ended_s - began_s) * 1000,
        writes=len(rig.history.since(began_s)),
        cpu_share=busy.share(),
    )


async def peace(rig: Rig, seconds: float) -> Peace:
    """Nothing happens, under load; what is written all the same, by the store's own count."""
    rig.load.resume()
    await rig.calm()
    busy = Busy()
    began_s, before = monotonic_s(), await rig.history.revision()
    await passing(seconds)
    writes = await rig.history.revision() - before
    keys = [key for one in rig.history.since(began_s) for key in one.keys]
    return Peace(seconds=seconds, writes=writes, keys=keys, cpu_share=busy.share())
