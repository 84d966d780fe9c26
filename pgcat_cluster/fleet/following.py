"""Keeps a memory of some prefixes current: list, then watch; list again and tell the differences after a gap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence

from msgspec import Struct, structs

from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Batch, Outcome, Range, Rows, Transaction, newest
from pgcat_cluster.fleet.pacing import Backoff
from pgcat_cluster.fleet.store import Compacted, Store, StoreFault, Watch
from pgcat_cluster.net.clock import monotonic_s

_AUDIT_S = 5.0
_AUDIT_SPREAD = 0.2
_DOUBT_S = 1.0
# A watch that lived so long was a success, although it ended.
_LONG_LIFE_S = 5.0
# An old revision that is seen once may be a stale answer; seen again so much later the store itself is old.
_CERTAIN_S = 1.0


class Estranged(StoreFault):
    """This is another store than before, or an older state of it. What is known stays in force."""


class FollowingState(Struct, frozen=True, kw_only=True):
    """What is shown of a following: `applied` is the newest complete revision by prefix, 0 before the first list.

    `fault` is why something is not followed now; `estranged`: nothing of what the store says is believed.
    """

    applied: dict[str, int]
    lists: int
    losses: int
    fault: str
    estranged: bool


class _Lost(StoreFault):
    """Events did not arrive although later ones did."""


class _Facts(Struct, frozen=True):
    count: int
    newest: int


class _Stranger(Struct, frozen=True, kw_only=True):
    """A store that is not believed, and its revision when it was met."""

    cluster_id: int
    revision: int
    met_s: float
    is_certain: bool = False


class Following:
    """One memory, several prefixes, one watch each.

    `changed` is called behind every batch that the memory has taken; the differences a new list shows come as one
    batch of the list's revision. Holds always: the memory never goes back behind a revision it has applied, unless
    an operator accepted the store; nothing is forgotten because the store is away.

    Another store, or one that went back, is not believed until the key `consent` is put in it, by an operator who
    saw it as it is: what stood there when it was met counts for nothing, for a backup may contain it. `accepted` is
    called before the first list of a store that was accepted; `believed` is set while this is the store we know.

    One that has an `elder` follows more of the same store into the same memory: which store that is and how far it
    has come is then the elder's knowledge, and so is whether it was accepted; it is ended before that.
    """

    def __init__(
        self,
        store: Store,
        prefixes: Sequence[str],
        memory: Memory,
        *,
        chance: random.Random,
        changed: Callable[[Batch], None] = lambda batch: None,
        audited: Collection[str] = (),
        elder: Following | None = None,
        consent: str = "",
        accepted: Callable[[], None] = lambda: None,
        cluster_id: int | None = None,
        revision: int = 0,
        stranger: int | None = None,
        now_s: Callable[[], float] = monotonic_s,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`cluster_id`, `revision` and `stranger` are what an earlier life of this node knew."""
        self.memory = memory
        self.cluster_id = cluster_id
        self.listed = asyncio.Event()
        self.believed = asyncio.Event()
        self.believed.set()
        self._store = store
        self._prefixes = tuple(prefixes)
        self._audited = tuple(prefix for prefix in prefixes if prefix in audited)
        self._eldest = self if elder is None else elder
        self._consent = consent
        self._chance = chance
        self._changed = changed
        self._accepted = accepted
        self._revision = revision
        self._known_stranger = stranger
        self._stranger: _Stranger | None = None
        self._now_s = now_s
        self._pause = pause
        self._applied = dict.fromkeys(prefixes, 0)
        self._stale = set(prefixes)
        self._watches: dict[str, Watch] = {}
        self._doubts: dict[str, tuple[int, _Facts]] = {}
        self._faults: dict[str, StoreFault] = {}
        self._lists = 0
        self._losses = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._begin(), name="first list")
            await self.listed.wait()
            for prefix in self._prefixes:
                group.create_task(self._follow(prefix), name=f"follow {prefix}")
            if self._audited:
                group.create_task(self._audit(), name="audit")

    @property
    def stranger(self) -> int | None:
        """The identity of the store that is certainly not believed; it may be that of the store we know."""
        return self._stranger.cluster_id if self._stranger is not None and self._stranger.is_certain else None

    @property
    def doubted(self) -> tuple[str, ...]:
        """Prefixes that an audit saw otherwise than the memory; their streams may only be late."""
        return tuple(self._doubts)

    def state(self) -> FollowingState:
        return FollowingState(
            applied=dict(self._applied),
            lists=self._lists,
            losses=self._losses,
            fault="; ".join(f"{what}: {fault}" for what, fault in sorted(self._faults.items())),
            estranged=not self.believed.is_set(),
        )

    # -- list, then watch

    async def _begin(self) -> None:
        """One list of all prefixes, so that they begin at one revision."""
        backoff = Backoff(self._chance)
        while not self.listed.is_set():
            try:
                await self._recognise()
                await self._list(self._prefixes)
            except StoreFault as fault:
                self._faults["list"] = fault
                await self._pause(backoff.next_s())
            else:
                self._faults.pop("list", None)
                self.listed.set()

    async def _follow(self, prefix: str) -> None:
        backoff = Backoff(self._chance)
        while True:
            began_s = self._now_s()
            try:
                await self._recognise()
                while prefix in self._stale:
                    # In a store that was accepted all begin at one revision.
                    await self._list([prefix] if self._stale < set(self._prefixes) else self._prefixes)
                await self._watch(prefix)
            except StoreFault as fault:
                self._faults[prefix] = fault
                if isinstance(fault, Compacted | _Lost):
                    self._stale.add(prefix)
            if self._now_s() - began_s > _LONG_LIFE_S:
                backoff.reset()
            await self._pause(backoff.next_s())

    async def _recognise(self) -> None:
        """Is it the store we know, and not an older state of it? If not, has an operator accepted it?"""
        if self._eldest is not self:
            await self._eldest._assure()
            return
        cluster_id = (await self._store.status()).cluster_id
        # What other watches bring while the answer is under way may be newer than it.
        before = self._revision
        question = (Range(key=self._consent),) if self._consent else ()
        outcome = await self._store.txn(Transaction(then=question))
        why = self._why_strange(cluster_id, outcome.revision, before)
        if why and self._is_accepted(cluster_id, outcome):
            await self._begin_again()
            why = ""
        if why:
            self.believed.clear()
            raise Estranged(why)
        self._stranger, self._known_stranger = None, None
        self.cluster_id = cluster_id
        self.believed.set()

    async def _assure(self) -> None:
        """Raises Estranged unless the store is believed, and what answers now is this store."""
        cluster_id, before = (await self._store.status()).cluster_id, self._revision
        revision = (await self._store.txn(Transaction())).revision
        why = self._why_strange(cluster_id, revision, before)
        if why or not self.believed.is_set():
            raise Estranged(why or "the store is not believed")

    def _why_strange(self, cluster_id: int, revision: int, known: int) -> str:
        if self.cluster_id not in (None, cluster_id):
            return f"the store is {cluster_id:x}, it was {self.cluster_id:x}"
        if revision < known:
            return f"the store is at revision {revision}, it was at {known}"
        if cluster_id in (self.stranger, self._known_stranger):
            # Others have written to it since.
            return f"the store went back behind revision {known}"
        return ""

    def _is_accepted(self, cluster_id: int, outcome: Outcome) -> bool:
        """Whether the operator's word came after this strange store was met."""
        now, met = self._now_s(), self._stranger
        if met is None or met.cluster_id != cluster_id or outcome.revision < met.revision:
            met = _Stranger(cluster_id=cluster_id, revision=outcome.revision, met_s=now)
        is_other = cluster_id != self.cluster_id or cluster_id == self._known_stranger
        is_certain = is_other or now - met.met_s >= _CERTAIN_S
        self._stranger = met if met.is_certain else structs.replace(met, is_certain=is_certain)
        rows = outcome.answers[0].rows if outcome.answers and outcome.answers[0] else ()
        return newest(rows) > met.revision

    async def _begin_again(self) -> None:
        """Revisions of the store before mean nothing in this one; what is known stays until the new list."""
        self._revision = 0
        self._applied = dict.fromkeys(self._prefixes, 0)
        self._stale.update(self._prefixes)
        self._doubts.clear()
        self.memory.begin_again()
        self._accepted()
        for watch in tuple(self._watches.values()):
            await watch.close()

    async def _list(self, prefixes: Sequence[str]) -> None:
        before = self._eldest._revision
        revision, rows = await self._store.snapshot(prefixes)
        _must_reach(revision, before)
        self._lists += 1
        for prefix in prefixes:
            if self._is_overtaken(prefix, revision):
                continue
            events = self.memory.replace(
                prefix, [row for row in rows if row.key.startswith(prefix)], revision
            )
            self._doubts.pop(prefix, None)
            self._stale.discard(prefix)
            self._took(prefix, Batch(revision=revision, events=events))

    def _is_overtaken(self, prefix: str, revision: int) -> bool:
        """Whether another list was faster, whose watch may have begun: to take this one would be to go back."""
        return prefix not in self._stale or revision < self._applied[prefix]

    async def _watch(self, prefix: str) -> None:
        watch = self._watches[prefix] = self._store.watch(prefix, self._applied[prefix] + 1)
        # What follows only waits; the watch itself says why when it can not be had.
        self._faults.pop(prefix, None)
        try:
            async for batch in watch:
                self._apply(prefix, batch)
                if prefix in self._stale:
                    return
        finally:
            del self._watches[prefix]
            await watch.close()

    def _apply(self, prefix: str, batch: Batch) -> None:
        doubted, told = self._doubts.get(prefix, (0, None))
        if told and batch.revision > doubted:
            self._settle(prefix)
        self.memory.apply(batch)
        self._took(prefix, batch)
        if told and batch.revision == doubted:
            self._settle(prefix)

    def _took(self, prefix: str, batch: Batch) -> None:
        self._applied[prefix] = batch.revision
        self._eldest._revision = max(self._eldest._revision, batch.revision)
        self._changed(batch)

    # -- audit

    async def _audit(self) -> None:
        """Find streams that stall and events that are lost, whatever the cause."""
        while True:
            await self._pause(_AUDIT_S * self._chance.uniform(1 - _AUDIT_SPREAD, 1 + _AUDIT_SPREAD))
            try:
                revision, told = await self._ask()
            except StoreFault as fault:
                self._faults["audit"] = fault
                if isinstance(fault, Estranged):
                    for watch in tuple(self._watches.values()):
                        await watch.close()
                continue
            self._faults.pop("audit", None)
            for prefix, facts in told.items():
                # Who is further than the answer can not be compared with it, and who is not there need not.
                is_comparable = prefix in self._watches and self._applied[prefix] <= revision
                if is_comparable and facts != self._known(prefix):
                    self._doubts[prefix] = (revision, facts)
            if self._doubts:
                await self._pause(_DOUBT_S)
            for prefix in tuple(self._doubts):
                # The stream did not pass the revision of the answer.
                await self._lose(prefix)

    async def _ask(self) -> tuple[int, dict[str, _Facts]]:
        question = tuple(
            Range(key=prefix, prefix=True, limit=1, keys_only=True, newest_first=True)
            for prefix in self._audited
        )
        before = self._eldest._revision
        outcome = await self._store.txn(Transaction(then=question))
        _must_reach(outcome.revision, before)
        answers = (answer for answer in outcome.answers if isinstance(answer, Rows))
        return outcome.revision, {
            prefix: _Facts(answer.count, newest(answer.rows))
            for prefix, answer in zip(self._audited, answers)
        }

    def _known(self, prefix: str) -> _Facts:
        return _Facts(len(self.memory.under(prefix)), self.memory.newest(prefix))

    def _settle(self, prefix: str) -> None:
        """The stream is exactly at the revision of the answer: now they can be compared."""
        _revision, told = self._doubts.pop(prefix)
        if self._known(prefix) != told:
            self._losses += 1
            raise _Lost(f"events below {prefix} were lost")

    async def _lose(self, prefix: str) -> None:
        del self._doubts[prefix]
        self._losses += 1
        self._stale.add(prefix)
        if prefix in self._watches:
            await self._watches[prefix].close()


def _must_reach(revision: int, known: int) -> None:
    if revision < known:
        raise Estranged(f"the store is at revision {revision}, it was at {known}")
