"""Brings each cancel request to the node of the client it names, and counts what became of it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec.structs import replace

from pgcat_cluster.agreement.cancels import (
    NONCE_BYTES,
    Answer,
    CancelKeys,
    Drop,
    FailureLimit,
    Neighbour,
    PrefixTable,
    prove,
    relay_of,
)
from pgcat_cluster.agreement.peer_frames import Cancel, Cancelled
from pgcat_cluster.fleet.peers import PeerLinks, PeerUnavailable
from pgcat_cluster.net.clock import monotonic_s

Owner = TypeVar("Owner")

WITHIN_S = 2.0
# Two nodes may be asked, one after the other.
_ASK_S = 0.9
UNDER_WAY_MAX = 256
_HOPS = 1
_FAILURES = frozenset({"unknown", *(drop.value for drop in Drop)})


class Cancels(Generic[Owner]):
    """The cancels of one node. Without `links` only its own clients can be cancelled.

    `cancel_owner` cancels what a client of this node runs and returns when a server it had to tell has been told.
    `counts` says how many requests ended how: an `Answer`, the value of a `Drop`, or `limited`.
    """

    def __init__(
        self,
        keys: CancelKeys[Owner],
        table: PrefixTable,
        cancel_owner: Callable[[Owner], Awaitable[Answer]],
        *,
        links: PeerLinks | None = None,
        zone: str = "",
        neighbours: Callable[[], Sequence[Neighbour]] = tuple,
    ) -> None:
        self.keys = keys
        self.table = table
        self.counts: Counter[str] = Counter()
        self._cancel_owner = cancel_owner
        self._links = links
        self._zone = zone
        self._neighbours = neighbours
        self._limit = FailureLimit()
        self._under_way = 0

    async def requested(self, pid: int, secret: bytes, source: str) -> None:
        """A cancel request came in from `source`; when this returns, its connection may be closed."""
        if self._under_way >= UNDER_WAY_MAX or not self._limit.admits(source, monotonic_s()):
            self.counts["limited"] += 1
            return
        self._under_way += 1
        try:
            async with asyncio.timeout(WITHIN_S):
                result = await self._request(pid, secret)
        except TimeoutError:
            # A server of ours is slow, and what was begun goes on; or so are the nodes that were asked.
            is_ours = self.keys.find(pid, secret) is not None
            result = "sent" if is_ours else Drop.UNROUTABLE.value
        finally:
            self._under_way -= 1
        self.counts[result] += 1
        if result in _FAILURES:
            self._limit.failed(source, monotonic_s())

    async def _request(self, pid: int, secret: bytes) -> str:
        owner = self.keys.find(pid, secret)
        if owner is not None:
            return await self._cancel_owner(owner)
        holder = self.table.destination(self.keys.fleet_key, pid, secret)
        if isinstance(holder, Drop):
            return holder.value
        nonce = os.urandom(NONCE_BYTES)
        question = Cancel(
            pid=pid, nonce=nonce, proof=prove(self.keys.fleet_key, nonce, pid, secret), hops=_HOPS
        )
        answer = await self._ask(holder.peer, question)
        if answer is None:
            draw = int.from_bytes(nonce, "big")
            relay = relay_of(self._neighbours(), self._zone, holder, draw)
            if relay is not None:
                answer = await self._ask(relay.peer, question)
        return answer or Drop.UNROUTABLE.value

    async def asked(self, question: Cancel, asker: str) -> Answer:
        """Another node asks: cancel for a client of ours, or pass it on."""
        owner = self.keys.find_proven(question.pid, question.nonce, question.proof)
        if owner is not None:
            return await self._cancel_owner(owner)
        holder = self.table.next_hop(question.pid, question.hops, asker)
        if holder is None:
            return "unknown"
        answer = await self._ask(holder.peer, replace(question, hops=question.hops - 1))
        return "unknown" if answer in (None, "unknown") else "passed"

    async def _ask(self, peer: str, question: Cancel) -> Answer | None:
        """What the node there says; None if it could not be asked."""
        if self._links is None:
            return None
        try:
            reply = await self._links.ask(peer, question, _ASK_S)
        except PeerUnavailable:
            return None
        return reply.result if isinstance(reply, Cancelled) else None
