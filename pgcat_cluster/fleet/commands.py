"""What an operator orders from a node's console: looks at the whole fleet, writes the order, waits until all obey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct

from pgcat_cluster.agreement import orders
from pgcat_cluster.agreement.documents import Live, Undecodable, decode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.orders import FleetFault, Obeyed, Order, Place, RollCall, lost_seats, roll_call
from pgcat_cluster.agreement.overview import Goal, Overview, overview, progress
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Field,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.fleet.following import Following
from pgcat_cluster.fleet.store import Denied, Store, StoreFault, Unknown
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.topology.settings import Settings

# A node that is gone is known to be lost when its lease ends, 6.5 s later by default.
ANSWER_S = 10.0
_RELOAD_ANSWERS = 2  # judging what is desired and running it are an answer each
_AGAIN_S = 0.1

AskApplied = Callable[[str, str], Awaitable[Mapping[str, int] | None]]
"""How far a node with this peer address has read, by prefix; None if it can not be asked, or does not answer."""


class _Done(Struct, frozen=True, kw_only=True):
    """An order that stands in the store: since when, and who was there at that moment."""

    order: Order
    revision: int
    live: tuple[Row, ...]
    seats: tuple[Row, ...]

    def nodes(self, keys: Keys) -> tuple[str, ...]:
        return tuple(row.key.removeprefix(keys.live_prefix) for row in self.live)


class Commands:
    """One node's way to command all. What it writes is an operator's, and outlives the node.

    `node` is its own id; `settings` are those of the generation this node runs.
    """

    is_alone = False

    def __init__(
        self,
        store: Store,
        keys: Keys,
        node: str,
        *,
        settings: Callable[[], Settings | None],
        paused: Callable[[], frozenset[str]],
        ask_applied: AskApplied,
        chance: random.Random,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._store = store
        self._keys = keys
        self._node = node
        self._settings = settings
        self._paused = paused
        self._ask_applied = ask_applied
        self._chance = chance
        self._answer_s = answer_s

    @property
    def paused(self) -> frozenset[str]:
        return self._paused()

    # -- what there is

    async def overview(self) -> Overview:
        keys = self._keys
        memory = await self._look(
            *(keys.config_prefix, keys.override, keys.decided, keys.live_prefix, keys.ack_prefix),
            *(keys.seat_prefix, keys.verdict_prefix, keys.status_config),
        )
        return overview(keys, memory)

    async def _look(self, *prefixes: str) -> Memory:
        try:
            revision, rows = await self._store.snapshot(prefixes)
        except StoreFault as fault:
            raise FleetFault(
                f"etcd does not answer: {fault}",
                hint="Traffic goes on by what was agreed last. SHOW BANS and SHOW DATABASES tell what this node goes "
                "by; BAN, PAUSE and RESUME without FLEET act on this node alone.",
            ) from None
        memory = Memory()
        for prefix in prefixes:
            memory.replace(prefix, [row for row in rows if row.key.startswith(prefix)], revision)
        return memory

    # -- orders about servers

    async def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> Obeyed:
        memory = await self._look(self._keys.override)
        lease = 0
        if length_s is not None:
            lease = await self._granted(length_s)
        try:
            done = await self._carry_out(orders.ban(memory, self._keys, servers, by, lease))
        except FleetFault:
            if lease:
                spawn(self._revoke(lease), "a lease that nothing stands under")
            raise
        names = _listed(f"{cluster}/{server}" for cluster, server in servers)
        stays = (
            f"The ban stays, and nodes obey it as soon as they hear of it. UNBAN {names} FLEET takes it back."
        )
        return await self._until_obeyed(done, f"{names} is banned, but not by every node", stays)

    async def _granted(self, length_s: int) -> int:
        try:
            return await self._store.grant(length_s)
        except StoreFault as fault:
            raise FleetFault(f"etcd gives no lease for the ban: {fault}; nothing was written") from None

    async def _revoke(self, lease: int) -> None:
        try:
            await self._store.revoke(lease)
        except StoreFault:
            pass  # it ends by itself

    async def unban(self, servers: Sequence[Place]) -> Obeyed:
        memory = await self._look(self._keys.override, self._keys.decided)
        names = _listed(f"{cluster}/{server}" for cluster, server in servers)
        order = orders.unban(memory, self._keys, servers)
        if order is None:
            raise FleetFault(f"{names} is not banned by the fleet", hint=self._other_words(memory, servers))
        done = await self._carry_out(order)
        stays = "It stays so, and nodes obey as soon as they hear of it."
        text = f"{names} is banned no longer, but not every node knows"
        obeyed = await self._until_obeyed(done, text, stays) if order.before else None
        if len(order.then) == len(order.before):
            assert obeyed is not None
            return obeyed
        return await self._until_applied(done, text, stays)

    def _other_words(self, memory: Memory, servers: Sequence[Place]) -> str:
        """What else an operator said of these servers, that only an operator takes back."""
        for server in servers:
            said = orders.server_override(memory, self._keys, server)
            if said is not None:
                key = self._keys.server_override(*server)
                return f"An operator's `{said.action}` is in force; etcdctl del {key} takes it back."
        return "SHOW FLEET BANS shows what is banned by all nodes, SHOW BANS what this node avoids and why."

    # -- orders about pools

    async def pause(self, database: str | None, by: str) -> Obeyed:
        pools = self._pools(database)
        memory = await self._look(self._keys.override)
        order = orders.pause(memory, self._keys, pools, by)
        # Who interrupts it must not leave behind what is being written.
        writing = spawn(self._tried(order), "write a pause")
        is_obeyed = False
        try:
            done = await asyncio.shield(writing)
            if isinstance(done, FleetFault):
                raise done
            text = f"PAUSE {_listed(pools)} FLEET was not obeyed by every node and was undone"
            obeyed = await self._until_obeyed(done, text, "", dict.fromkeys(pools, done.revision))
            is_obeyed = True
            return obeyed
        finally:
            if not is_obeyed:
                await asyncio.wait([writing])
                if isinstance(written := writing.result(), _Done):
                    await self._undo(written, pools)

    async def _tried(self, order: Order) -> _Done | FleetFault:
        try:
            return await self._carry_out(order)
        except FleetFault as fault:
            return fault

    async def _undo(self, done: _Done, pools: Sequence[str]) -> None:
        try:
            outcome = await self._store.txn(done.order.undone(done.revision))
        except StoreFault as fault:
            raise FleetFault(
                f"the pause of {_listed(pools)} was not obeyed by every node, and could not be undone: {fault}",
                hint="It stays in force until RESUME … FLEET, when etcd answers again.",
            ) from None
        if not outcome.succeeded:
            raise FleetFault(
                f"somebody else changed the pause of {_listed(pools)} meanwhile",
                hint="SHOW FLEET OVERRIDES shows what is in force.",
            )

    async def resume(self, database: str | None) -> Obeyed:
        pools = self._pools(database)
        memory = await self._look(self._keys.override)
        order = orders.resume(memory, self._keys, pools)
        if order is None:
            raise FleetFault(
                "nothing is paused by the fleet"
                if database is None
                else f"database {database} is not paused by the fleet",
                hint="RESUME without FLEET takes back what was paused on this node alone.",
            )
        done = await self._carry_out(order)
        return await self._until_obeyed(
            done,
            f"RESUME {_listed(pools)} FLEET was not obeyed by every node",
            "It stays so, and nodes obey as soon as they hear of it.",
        )

    async def reconnect(self, database: str | None, by: str) -> Obeyed:
        pools = self._pools(database)
        memory = await self._look(self._keys.override)
        done = await self._carry_out(orders.reconnect(memory, self._keys, pools, by))
        return await self._until_obeyed(
            done,
            f"RECONNECT {_listed(pools)} FLEET was not obeyed by every node",
            "It stays so, and nodes obey as soon as they hear of it.",
        )

    def _pools(self, database: str | None) -> list[str]:
        settings = self._settings()
        if settings is None:
            raise FleetFault("this node has no documents to go by yet", hint="SHOW FLEET tells why.")
        found = [
            label
            for label, pool in settings.pools.items()
            if database is None or (pool.database or label) == database
        ]
        if not found:
            raise FleetFault(
                "there is no pool" if database is None else f"no such database: {database}",
                hint="SHOW DATABASES lists those there are.",
            )
        if len(found) > orders.KEYS_PER_ORDER_MAX:
            raise FleetFault(
                f"{len(found)} pools are more than the {orders.KEYS_PER_ORDER_MAX} that can be changed at once",
                hint="Name one database after the other.",
            )
        return found

    # -- writing

    async def _carry_out(self, order: Order) -> _Done:
        """Write it, all or nothing. Raises FleetFault, which says what stands now."""
        keys = self._keys
        asked = (Range(key=keys.live_prefix, prefix=True), Range(key=keys.seat_prefix, prefix=True))
        # One that is not there, or found another store than the others know, speaks for nobody.
        own = keys.live(self._node)
        is_there = Compare(key=own, field=Field.CREATE, operator=">", operand=0)
        transaction = Transaction(
            compares=(is_there, *order.compares), then=(*order.then, *asked), otherwise=(Range(key=own),)
        )
        try:
            if why_not := (await self._store.status()).why_read_only():
                raise FleetFault(f"{why_not}: it is only read, and nothing was written")
            outcome = await self._store.txn(transaction)
        except Unknown as fault:
            return await self._found_out(order, fault)
        except Denied:
            raise FleetFault(
                "etcd does not permit this node to write that; nothing was written",
                hint="Permit the nodes to write below "
                f"{keys.override} or do it yourself: {'; '.join(map(_by_hand, order.then))}",
            ) from None
        except StoreFault as fault:
            raise FleetFault(f"etcd does not answer: {fault}; nothing was written") from None
        if not outcome.succeeded:
            (here,) = outcome.answers
            if not (isinstance(here, Rows) and here.rows):
                raise FleetFault(
                    "this node is not there for the fleet now; nothing was written",
                    hint="SHOW NODES tells which are. Try again there, or when this one is.",
                )
            raise FleetFault("somebody else changed the same at this moment; nothing was written. Try again")
        live, seats = (found.rows if isinstance(found, Rows) else () for found in outcome.answers[-2:])
        return _Done(order=order, revision=outcome.revision, live=live, seats=seats)

    async def _found_out(self, order: Order, fault: StoreFault) -> _Done:
        """The answer was lost. What stands there now tells."""
        keys = self._keys
        try:
            memory = await self._look(keys.override, keys.decided, keys.live_prefix, keys.seat_prefix)
        except FleetFault:
            raise FleetFault(
                f"nobody knows whether it was written: {fault}",
                hint="When etcd answers again SHOW FLEET OVERRIDES tells; the command can be repeated.",
            ) from None
        rows = [memory.row(operation.key) for operation in order.then]
        is_done = all(
            (row is None)
            if isinstance(operation, Delete)
            else (
                row is not None
                and isinstance(operation, Put)
                and row.value == operation.value
                and row != order.before.get(operation.key)
            )
            for operation, row in zip(order.then, rows, strict=True)
        )
        if not is_done:
            raise FleetFault(f"etcd does not answer: {fault}; nothing was written")
        revision = max((row.mod_revision for row in rows if row is not None), default=memory.revision)
        live, seats = memory.under(keys.live_prefix), memory.under(keys.seat_prefix)
        return _Done(order=order, revision=revision, live=tuple(live), seats=tuple(seats))

    # -- waiting

    @asynccontextmanager
    async def _followed(self, *prefixes: str) -> AsyncIterator[tuple[Following, asyncio.Event]]:
        """Some prefixes as they change; the event is set at each change."""
        heard = asyncio.Event()
        following = Following(
            self._store, prefixes, Memory(), chance=self._chance, changed=lambda _batch: heard.set()
        )
        task = spawn(following.run(), "wait for nodes")
        try:
            yield following, heard
        finally:
            task.cancel()

    async def _until_obeyed(
        self, done: _Done, failed: str, hint: str, pauses: Mapping[str, int] | None = None
    ) -> Obeyed:
        """Wait for every node that was there; how long links may take to end is bounded by who asks."""
        keys, paused = self._keys, pauses or {}
        asked = done.nodes(keys)
        call = RollCall(silent=asked)
        deadline_s = monotonic_s() + self._answer_s
        prefixes = keys.live_prefix, keys.ack_prefix, keys.seat_prefix, keys.override
        async with self._followed(*prefixes) as (following, heard):
            while not call.is_over:
                try:
                    async with asyncio.timeout(deadline_s - monotonic_s() if call.silent else None):
                        await heard.wait()
                except TimeoutError:
                    break
                heard.clear()
                if following.listed.is_set():
                    memory = following.memory
                    call = await self._call(prefixes, memory, asked, done.revision, paused)
                    if gone := [one for one in paused if not orders.is_paused(memory, keys, one)]:
                        raise FleetFault(f"somebody else changed the pause of {_listed(gone)} meanwhile")
            fault = following.state().fault
        if call.silent or call.lost:
            raise FleetFault(failed, detail=_who(call, self._answer_s, fault), hint=hint or None)
        return Obeyed(nodes=call.obeyed, lost=lost_seats(done.seats, asked))

    async def _call(
        self,
        prefixes: Sequence[str],
        memory: Memory,
        asked: Sequence[str],
        revision: int,
        pauses: Mapping[str, int],
    ) -> RollCall:
        """What `memory` says, and when that is all, what one look at the store says.

        Its prefixes are watched each for itself: a lease that ends takes an ack with it before the node, or a node
        before its seat, as it seems.
        """
        call = roll_call(self._keys, memory, asked, revision, pauses)
        if call.is_over:
            try:
                call = roll_call(self._keys, await self._look(*prefixes), asked, revision, pauses)
            except FleetFault:
                return RollCall(silent=tuple(asked))
        return call

    async def _until_applied(self, done: _Done, failed: str, hint: str) -> Obeyed:
        """Wait until every node has read what was decided; without a peer port it can not be asked."""
        keys, ask = self._keys, self._ask_applied
        waiting = {row.key.removeprefix(keys.live_prefix): _peer(row) for row in done.live}
        asked = tuple(waiting)
        unasked: list[str] = []
        deadline_s = monotonic_s() + self._answer_s
        while waiting:
            told = await asyncio.gather(*(ask(node, peer) for node, peer in waiting.items()))
            for node, applied in zip(tuple(waiting), told, strict=True):
                if not waiting[node] and applied is None:
                    unasked.append(node)
                elif applied is None or applied.get(keys.decided, 0) < done.revision:
                    continue
                del waiting[node]
            if waiting and monotonic_s() >= deadline_s:
                call = RollCall(silent=tuple(waiting))
                raise FleetFault(failed, detail=_who(call, self._answer_s), hint=hint)
            if waiting:
                await asyncio.sleep(_AGAIN_S)
        obeyed = tuple(node for node in asked if node not in unasked)
        return Obeyed(nodes=obeyed, lost=lost_seats(done.seats, asked), unasked=tuple(unasked))

    async def reload(self) -> Obeyed:
        """Wait until every live node reports the accepted generation, and that is what is desired."""
        keys = self._keys
        prefixes = keys.config_prefix, keys.decided, keys.live_prefix, keys.ack_prefix, keys.seat_prefix
        view: Overview | None = None
        asked: tuple[str, ...] = ()
        async with self._followed(*prefixes, keys.status_config) as (following, heard):
            try:
                async with asyncio.timeout(_RELOAD_ANSWERS * self._answer_s):
                    await following.listed.wait()
                    while True:
                        heard.clear()
                        view = overview(keys, following.memory)
                        asked = asked or tuple(node.node for node in view.nodes)
                        now = progress(view, Goal(digest=view.desired.digest))
                        if now.state != "pending":
                            break
                        await heard.wait()
            except TimeoutError:
                if view is None:
                    raise FleetFault(f"etcd does not answer: {following.state().fault}") from None
                raise FleetFault(f"too late: {now.text}", detail=_objections(view) or None) from None
        # The prefixes are followed each by its own watch: the coordinator's word may be heard before the acks
        # that it goes by.
        memory = await self._look(*prefixes)
        if now.state == "failed":
            raise ConfigFault(": ".join(filter(None, (now.text, _objections(overview(keys, memory))))))
        call = roll_call(keys, memory, asked, 0, {})
        if call.lost:
            raise FleetFault("not every node runs what is desired", detail=_who(call, self._answer_s))
        return Obeyed(nodes=tuple(node.node for node in view.nodes), lost=view.lost_seats)


def _objections(view: Overview) -> str:
    """Which nodes object, and to what."""
    return "; ".join(
        f"{node.node}: {finding.key}: {finding.path}: {finding.msg}"
        for node in view.nodes
        for finding in (*node.nack, *node.unusable)
    )


def _who(call: RollCall, answer_s: float, fault: str = "") -> str:
    parts = []
    if call.silent:
        parts.append(f"no answer within {answer_s:g} s from {_listed(call.silent)}")
    if call.lost:
        parts.append(f"no answer from {_listed(call.lost)}, which lost its lease: dead or cut off")
    if fault:
        parts.append(f"etcd: {fault}")
    return "; ".join(parts)


def _peer(row: Row) -> str:
    try:
        return decode(row.key, row.value, Live).peer
    except Undecodable:
        return ""


def _by_hand(operation: Put | Delete | Range) -> str:
    if isinstance(operation, Put):
        return f"etcdctl put {operation.key} '{operation.value.decode()}'"
    return f"etcdctl del {operation.key}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
