"""Asks other nodes to look at servers that went silent for this one, before it says so to the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from pgcat_cluster.agreement.cancels import Neighbour
from pgcat_cluster.agreement.peer_frames import Probe, Question, Reply
from pgcat_cluster.agreement.witnesses import confirmed
from pgcat_cluster.fleet.peers import PeerUnavailable

Server = tuple[str, str]
# A witness may use up its time; its answer still has to come back.
_WAY_S = 1.0


class Asking(Protocol):
    """The way to other nodes."""

    async def ask(self, peer: str, question: Question, timeout_s: float) -> Reply: ...


async def ask_witnesses(
    links: Asking, asked: Iterable[Neighbour], servers: Iterable[Server], within_s: float
) -> frozenset[Server]:
    """Those of the servers (cluster, name) that all of these nodes together find bad."""
    asked, servers = tuple(asked), tuple(servers)
    verdicts = await asyncio.gather(
        *(asyncio.gather(*(_look(links, one, server, within_s) for one in asked)) for server in servers)
    )
    return frozenset(server for server, replies in zip(servers, verdicts, strict=True) if confirmed(replies))


async def _look(links: Asking, witness: Neighbour, server: Server, within_s: float) -> Reply | None:
    question = Probe(cluster=server[0], server=server[1], within_ms=round(within_s * 1000))
    try:
        return await links.ask(witness.peer, question, within_s + _WAY_S)
    except PeerUnavailable:
        return None
