"""Being there: a node's keys and the leases they hang on, from its join until it leaves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from msgspec import structs

from pgcat_cluster.agreement import membership
from pgcat_cluster.agreement.activation import SCHEMA_VERSION
from pgcat_cluster.agreement.cancels import PrefixTable, claim
from pgcat_cluster.agreement.documents import Live, Prefix, Schema, Seat, Undecodable, decode, encode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Field,
    Put,
    Range,
    Row,
    Transaction,
)
from pgcat_cluster.fleet.leases import HeldLease
from pgcat_cluster.fleet.pacing import Backoff
from pgcat_cluster.fleet.state import State
from pgcat_cluster.fleet.store import Store, StoreFault
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.telemetry.logs import get_logger, lifecycle
from pgcat_cluster.topology.settings import Fleet

_LEAVE_S = 2.0
_TAKEN_S = 0.2


class Membership:
    """Owns both leases of a node and what says that it is there; begins again whenever that is lost.

    `live` is what it says of itself. `said` gives what else is to stand under the node's lease from its first
    moment on, and `joined` is told when it stands. `lead` is told the prefix of cancel keys, if `table` is there.
    `believed` waits until the store is the one that is known: in no other one is anything begun.
    """

    def __init__(
        self,
        store: Store,
        *,
        keys: Keys,
        node: str,
        live: Live,
        memory: Memory,
        state: State | None,
        table: PrefixTable | None,
        chance: random.Random,
        said: Callable[[], dict[str, bytes]],
        joined: Callable[[Mapping[str, bytes]], None],
        lead: Callable[[int], None],
        believed: Callable[[], Awaitable[object]],
        changed: Callable[[], None],
        now_s: Callable[[], float],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.live = live
        self.terms = Fleet()
        self.has_joined = False
        self.joined_rev = 0
        self.trouble = ""
        self._store = store
        self._keys = keys
        self._node = node
        self._memory = memory
        self._state = state
        self._table = table
        self._chance = chance
        self._said = said
        self._joined = joined
        self._lead = lead
        self._believed = believed
        self._changed = changed
        self._now_s = now_s
        self._pause = pause
        self._lease: HeldLease | None = None
        self._prefix = 0
        # Those that may live: what a life before left, and what we were granted.
        self._leases = state.leases() if state is not None else []
        self._long_lease: HeldLease | None = None
        self._lost = asyncio.Event()
        self._log = get_logger()

    @property
    def lease(self) -> int:
        """The node's lease as long as it may be relied on, else 0."""
        is_held = self._lease is not None and self._lease.is_held and not self._lost.is_set()
        return self._lease.id if self._lease is not None and is_held else 0

    def lose(self) -> None:
        """Our keys are gone, whoever removed them, or nothing of them counts: begin again."""
        self._lost.set()

    async def stay(self) -> None:
        """Be there, again and again."""
        backoff = Backoff(self._chance)
        while True:
            await self._believed()
            try:
                lease = await self._join()
            except (StoreFault, Undecodable) as fault:
                self.trouble = f"the node can not join: {fault}"
                await self._pause(backoff.next_s())
                continue
            if lease is None:
                await self._pause(_TAKEN_S)
                continue
            backoff.reset()
            self.trouble = ""
            await self._hold(lease)
            lifecycle(self._log, "fleet.lost", level="warning", node=self._node)

    async def _join(self) -> HeldLease | None:
        """A lease under which this node is there; None while another process has its name."""
        ours = set(self._leases)
        await self._revoke(self._leases)
        others = self._memory.under(self._keys.lives_of(self.live.name))
        if why := await self._why_refused([row for row in others if row.lease not in ours]):
            if why != self.trouble:
                self.trouble = why
                lifecycle(self._log, "fleet.refused", level="warning", node=self._node, reason=why)
            return None
        ttl_s = self.terms.ttl_s
        lease = await HeldLease.grant(self._store, ttl_s, now_s=self._now_s, pause=self._pause)
        self._leases.append(lease.id)
        self._keep_leases()
        said = self._said()
        more = [Put(key=self._keys.seat(self.live.name), value=self._seat())]
        more += [Put(key=key, value=value, lease=lease.id) for key, value in said.items()]
        self.live = structs.replace(self.live, ttl=ttl_s)
        outcome = await self._store.txn(membership.join(self._keys, self._node, self.live, lease.id, more))
        if not outcome.succeeded:
            # Memory will show who was faster.
            return None
        self._lost.clear()
        self.joined_rev = outcome.revision
        self.has_joined = True
        self._lease = lease
        self._joined(said)
        lifecycle(
            self._log, "fleet.joined", node=self._node, fleet=self._keys.fleet, revision=outcome.revision
        )
        return lease

    async def _why_refused(self, others: list[Row]) -> str:
        """Why this node may not join now; empty if it may."""
        if others:
            return f"another process has the name {self.live.name}: {others[0].key}"
        outcome = await self._store.txn(Transaction(then=(Range(key=self._keys.schema),)))
        for row in outcome.answers[0].rows if outcome.answers[0] is not None else ():
            needed = decode(row.key, row.value, Schema).min_reader
            if needed > SCHEMA_VERSION:
                return f"the documents need a node that reads schema {needed}, not {SCHEMA_VERSION}"
        return ""

    async def _hold(self, lease: HeldLease) -> None:
        holding = spawn(lease.hold(), "hold the node's lease")
        losing = spawn(self._lost.wait(), "lose the node's lease")
        try:
            await asyncio.wait({holding, losing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            holding.cancel()
            losing.cancel()
            self._lease = None
            self._changed()

    # -- the prefix of cancel keys

    async def keep_prefix(self) -> None:
        """Have a prefix that no other node has; its lease is long, so that a short absence changes nothing."""
        table = self._table
        if table is None:
            return
        backoff = Backoff(self._chance)
        while True:
            await self._believed()
            try:
                lease = await self._claim(table)
            except StoreFault:
                lease = None
            if lease is None:
                await self._pause(backoff.next_s())
                continue
            backoff.reset()
            await lease.hold()

    async def _claim(self, table: PrefixTable) -> HeldLease | None:
        if self._long_lease is not None and self._long_lease.id:
            await self._store.revoke(self._long_lease.id)
        prefix = table.choose(self._chance.getrandbits(64), self._prefix)
        if not prefix:
            return None
        terms = self.terms
        lease = await HeldLease.grant(self._store, terms.long_ttl_s, now_s=self._now_s, pause=self._pause)
        self._long_lease = lease
        self._keep_leases()
        holder = Prefix(node=self._node, peer=self.live.peer)
        outcome = await self._store.txn(claim(self._keys, prefix, holder, lease.id))
        if not outcome.succeeded:
            return None
        self._prefix = prefix
        self._lead(prefix)
        return lease

    # -- the end

    async def leave(self) -> None:
        """Give back what is ours, as far as the store answers."""
        with suppress(StoreFault, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                if self.has_joined:
                    seat = self._keys.seat(self.live.name)
                    ours = Compare(key=seat, field=Field.VALUE, operator="==", operand=self._seat())
                    await self._store.txn(Transaction(compares=(ours,), then=(Delete(key=seat),)))
                if self._long_lease is not None:
                    await self._store.revoke(self._long_lease.id)
                    self._long_lease = None
                await self._revoke(self._leases)
                self._keep_leases()

    async def _revoke(self, leases: list[int]) -> None:
        while leases:
            await self._store.revoke(leases[-1])
            leases.pop()

    def _keep_leases(self) -> None:
        if self._state is not None:
            long = [self._long_lease.id] if self._long_lease is not None else []
            self._state.keep_leases([*self._leases, *long])

    def _seat(self) -> bytes:
        return encode(Seat(node=self._node, peer=self.live.peer, host=self.live.host))
