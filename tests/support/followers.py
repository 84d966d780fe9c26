"""Nodes that only agree on their configuration, over any store and in real time: the real machines, no servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pgcat_cluster.agreement.activation import Steward
from pgcat_cluster.agreement.bundles import Judge, Wrong
from pgcat_cluster.agreement.coordinator import Election
from pgcat_cluster.agreement.documents import Live, Seat, encode
from pgcat_cluster.agreement.effects import Commit, Effect, Fetch, Preflight, Run, Say
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.membership import join
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.pipeline import Follower
from pgcat_cluster.agreement.transactions import Put, Range, Rows, Transaction
from pgcat_cluster.fleet.following import Following
from pgcat_cluster.fleet.store import Store
from pgcat_cluster.net.clock import monotonic_s

# Nobody renews it: longer than any test.
TTL_S = 3600


class FollowingNode:
    """One node: `trial` is what its preflights find."""

    def __init__(self, store: Store, keys: Keys, name: str, boot: int) -> None:
        self.name = name
        self.id = f"{name}.{boot:08x}"
        self.lease = 0
        self.trial: Callable[[Preflight], tuple[Wrong, ...]] = lambda _: ()
        self._store = store
        self._keys = keys
        self._memory = Memory()
        judge = Judge()
        self._follower = Follower(keys, self.id, judge)
        self._steward = Steward(keys, self.id, "the-fleet", judge)
        self._election = Election(keys, self.id)
        self._live = Live(
            name=name,
            host=f"h-{name}",
            zone="a",
            state="joining",
            addr=f"{name}:6432",
            version="1.0",
            ttl=TTL_S,
        )
        self._stirred = asyncio.Event()

    async def run(self) -> None:
        keys = self._keys
        self.lease = self._election.lease = await self._store.grant(TTL_S)
        seat = Put(key=keys.seat(self.name), value=encode(Seat(node=self.id, host=self._live.host)))
        joined = await self._store.txn(join(keys, self.id, self._live, self.lease, [seat]))
        assert joined.succeeded
        prefixes = (
            keys.config_prefix, keys.override, keys.decided,
            keys.live_prefix, keys.ack_prefix, keys.seat_prefix,
        )  # fmt: skip
        following = Following(
            self._store,
            prefixes,
            self._memory,
            chance=random.Random(1),
            changed=lambda _batch: self._stirred.set(),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(following.run())
            await following.listed.wait()
            while True:
                await self._turn()

    async def _turn(self) -> None:
        self._stirred.clear()
        now = monotonic_s()
        term = self._election.term(self._memory)
        effects = self._election.step(self._memory, now)
        effects += self._steward.step(self._memory, term, self._follower.running, now)
        effects += self._follower.step(self._memory, now)
        for effect in effects:
            await self._perform(effect)
        if effects:
            return
        dues = (self._election.due_s, self._steward.due_s, self._follower.due_s)
        due_s = min((due for due in dues if due is not None), default=None)
        try:
            async with asyncio.timeout(None if due_s is None else max(0.0, due_s - now)):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _perform(self, effect: Effect) -> None:
        follower = self._follower
        match effect:
            case Commit(transaction=transaction):
                self._steward.done(effect, await self._store.txn(transaction), monotonic_s())
            case Say(key=key, value=value):
                await self._put(key, value)
            case Preflight(bundle=bundle):
                follower.preflighted(bundle, self.trial(effect))
            case Fetch(hashes=hashes):
                texts = tuple(Range(key=self._keys.doc(sha)) for sha in hashes)
                answers = (await self._store.txn(Transaction(then=texts))).answers
                rows = [row for answer in answers if isinstance(answer, Rows) for row in answer.rows]
                follower.fetched({row.key.removeprefix(self._keys.doc_prefix): row.value for row in rows})
            case Run(accepted=accepted, settings=settings):
                is_first = follower.running is None
                follower.ran(accepted, settings)
                if is_first:
                    await self.state("serving")

    async def state(self, state: str) -> None:
        live = Live(
            **{**{field: getattr(self._live, field) for field in Live.__struct_fields__}, "state": state}
        )
        await self._put(self._keys.live(self.id), encode(live))

    async def _put(self, key: str, value: bytes) -> None:
        await self._store.txn(Transaction(then=(Put(key=key, value=value, lease=self.lease),)))


@asynccontextmanager
async def following_nodes(store: Store, fleet: str, *names: str) -> AsyncIterator[dict[str, FollowingNode]]:
    """Nodes that run until the end."""
    nodes = {name: FollowingNode(store, Keys(fleet), name, boot) for boot, name in enumerate(names, 1)}
    tasks = [asyncio.get_running_loop().create_task(node.run(), name=node.id) for node in nodes.values()]
    try:
        yield nodes
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
