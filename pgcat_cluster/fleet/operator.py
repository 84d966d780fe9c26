"""What an operator does to a fleet: edits, rollbacks, waiting and watching, over the port to the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from typing import TypeVar

from msgspec import Struct

from pgcat_cluster.agreement.bundles import Texts, Wants, Wrong, digest_of, edit, hash_of, judge_beside
from pgcat_cluster.agreement.documents import (
    Accepted,
    History,
    Live,
    StoreOverride,
    Undecodable,
    decode,
    encode,
)
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.overview import Goal, Overview, Progress, overview, progress
from pgcat_cluster.agreement.story import sentences
from pgcat_cluster.agreement.transactions import (
    Batch,
    Compare,
    Delete,
    Field,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
    newest,
    unchanged,
)
from pgcat_cluster.fleet.stamps import written_at
from pgcat_cluster.fleet.store import Compacted, Denied, Store, Unavailable, Unknown

_Value = TypeVar("_Value")

_AGAIN_S = 0.3
# A watch of the past begins late, and then tells everything at once.
_PAST_QUIET_S = 0.5


class Impossible(Exception):
    """What was asked for can not be done; the message says why, and what can be done instead."""


class Written(Struct, frozen=True, kw_only=True):
    """What an edit wrote: the names of the documents, and what stands under config/ with them."""

    revision: int
    names: tuple[str, ...]
    digest: str


class Told(Struct, frozen=True, kw_only=True):
    """One thing that happened; `at` is when, by the clock of the node that wrote it, if one did.

    `is_new` if it happened while we watched.
    """

    revision: int
    text: str
    is_new: bool
    at: datetime | None = None


class Operator:
    """One person's, or one program's, hold on one fleet. `look` before anything else."""

    def __init__(self, store: Store, fleet: str, *, again_s: float = _AGAIN_S) -> None:
        self.keys = Keys(fleet)
        self.memory = Memory()
        self._store = store
        self._again_s = again_s

    async def look(self) -> Operator:
        """Read all there is of the fleet, at one revision."""
        revision, rows = await self._store.snapshot((self.keys.root,))
        self.memory.replace(self.keys.root, rows, revision)
        return self

    async def must_exist(self) -> Operator:
        """As `look`. Raises Impossible when nothing is there."""
        await self.look()
        if not self.memory.under(self.keys.root):
            raise Impossible(f"there is no fleet `{self.keys.fleet}` in this etcd; {await self._fleets()}")
        return self

    async def _fleets(self) -> str:
        everything = Range(key="/pgcat/", prefix=True, keys_only=True)
        try:
            (found,) = (await self._store.txn(Transaction(then=(everything,)))).answers
        except Denied:
            return "`fleet apply FILE` founds one"
        rows = found.rows if isinstance(found, Rows) else ()
        names = sorted({row.key.split("/")[2] for row in rows})
        there_are = f"there are: {', '.join(names)}" if names else "there is none at all"
        return f"{there_are}. `fleet apply FILE` founds one"

    # -- what there is

    @property
    def desired(self) -> dict[str, bytes]:
        return {self.keys.document(row.key): row.value for row in self.memory.under(self.keys.config_prefix)}

    @property
    def accepted(self) -> dict[str, bytes]:
        """The documents in force. Raises Impossible."""
        row = self.memory.row(self.keys.accepted)
        if row is None:
            raise Impossible("nothing is accepted yet")
        return self._texts(_decoded(row, Accepted).docs)

    def wrong_with(self, texts: Texts) -> tuple[Wrong, ...]:
        """All that is wrong with some documents, if they were all that is desired: as the nodes will say."""
        accepted: Texts = {}
        with suppress(Impossible):
            accepted = self.accepted
        return judge_beside(accepted, texts)

    @property
    def history(self) -> list[History]:
        """What was in force, the newest first, as far as it is kept."""
        rows = self.memory.under(self.keys.history_prefix)
        return [_decoded(row, History) for row in reversed(rows)]

    @property
    def view(self) -> Overview:
        return overview(self.keys, self.memory)

    def generation(self, generation: int) -> dict[str, bytes]:
        """The documents of a generation. Raises Impossible."""
        row = self.memory.row(self.keys.history(generation))
        if row is None:
            kept = sorted(one.gen for one in self.history)
            there_are = f"kept are {kept[0]} to {kept[-1]}" if kept else "none was ever accepted"
            raise Impossible(f"generation {generation} is not kept; {there_are}")
        return self._texts(_decoded(row, History).docs)

    def _texts(self, docs: Mapping[str, str]) -> dict[str, bytes]:
        texts = {}
        for name, sha in docs.items():
            row = self.memory.row(self.keys.doc(sha))
            if row is None or hash_of(row.value) != sha:
                raise Impossible(f"the text of {name} as it was accepted is not in the store, or is another")
            texts[name] = row.value
        return texts

    # -- what is changed

    async def write(self, texts: Texts, *, prune: bool = False) -> Written:
        """Put documents, all at once as long as the store takes them so; with `prune` delete the others.

        Raises Impossible if somebody else changed them meanwhile.
        """
        rows = self.memory.under(self.keys.config_prefix)
        names: list[str] = []
        revision = self.memory.revision
        for transaction in edit(self.keys, rows, texts, prune=prune):
            revision = await self._carry_out(transaction, names)
            changed = (one.key for one in transaction.then if isinstance(one, Put | Delete))
            names += (self.keys.document(key) for key in changed)
        standing = {} if prune else {name: hash_of(text) for name, text in self.desired.items()}
        standing |= {name: hash_of(text) for name, text in texts.items()}
        return Written(revision=revision, names=tuple(names), digest=digest_of(standing))

    async def _carry_out(self, transaction: Transaction, done: list[str]) -> int:
        try:
            outcome = await self._store.txn(transaction)
        except Unknown:
            # The answer was lost. What stands there now tells.
            await self.look()
            if all(self._is_done(operation) for operation in transaction.then):
                return self.memory.revision
            raise
        if not outcome.succeeded:
            written = f"written before: {', '.join(done)}" if done else "nothing was written"
            raise Impossible(f"somebody else changed the same documents at this moment; {written}. Try again")
        return outcome.revision

    def _is_done(self, operation: object) -> bool:
        match operation:
            case Put(key=key, value=value):
                row = self.memory.row(key)
                return row is not None and row.value == value
            case Delete(key=key):
                return self.memory.row(key) is None
        return True

    async def forget(self, name: str) -> None:
        """Delete the seat of a node that will not come back. Raises Impossible if it is there."""
        keys = self.keys
        seat = self.memory.row(keys.seat(name))
        if seat is None:
            seats = [row.key.removeprefix(keys.seat_prefix) for row in self.memory.under(keys.seat_prefix)]
            raise Impossible(f"no node `{name}` has a seat; there are: {', '.join(seats) or 'none'}")
        nobody = Compare(key=keys.lives_of(name), field=Field.CREATE, operator="==", operand=0, prefix=True)
        outcome = await self._store.txn(
            Transaction(
                compares=(unchanged(seat), nobody),
                then=(Delete(key=seat.key),),
                otherwise=(Range(key=keys.lives_of(name), prefix=True),),
            )
        )
        if outcome.succeeded:
            return
        (found,) = outcome.answers
        if isinstance(found, Rows) and found.rows:
            row = found.rows[0]
            node, state = row.key.removeprefix(keys.live_prefix), _decoded(row, Live).state
            raise Impossible(f"`{name}` is live as {node} ({state}); stop it first: then it leaves by itself")
        raise Impossible(f"the seat of `{name}` changed at this moment; try again")

    async def accept_store(self, reason: str) -> int:
        """Let nodes that knew another store, or this one further on, go on with it as it is; the revision."""
        word = encode(StoreOverride(reason=reason))
        return (await self._store.txn(Transaction(then=(Put(key=self.keys.store, value=word),)))).revision

    # -- what happens

    async def wait(
        self, goal: Goal, timeout_s: float, changed: Callable[[Progress], None] = lambda _: None
    ) -> Progress:
        """Until it is reached, or can not be; `pending` if the time is over."""
        before = progress(self.view, goal)
        changed(before)
        try:
            async with (
                asyncio.timeout(timeout_s),
                aclosing(self._follow(self.memory.revision + 1)) as batches,
            ):
                while before.state == "pending":
                    self.memory.apply(await anext(batches), self.keys.root)
                    now = progress(self.view, goal)
                    if now != before:
                        changed(now)
                    before = now
        except TimeoutError:
            pass
        return before

    def goal(self) -> Goal:
        """That what stands under config/ is accepted."""
        return Goal(digest=Wants(self.keys).seen(self.memory).bundle.digest)

    async def _follow(self, from_revision: int) -> AsyncGenerator[Batch, None]:
        """What happens from a revision on; etcd may go away meanwhile. What was forgotten comes as one batch."""
        while True:
            watch = self._store.watch(self.keys.root, from_revision)
            try:
                async for batch in watch:
                    from_revision = batch.revision + 1
                    yield batch
            except Compacted:
                known = Memory()
                known.replace(self.keys.root, self.memory.under(self.keys.root), self.memory.revision)
                revision, rows = await self._store.snapshot((self.keys.root,))
                from_revision = revision + 1
                yield Batch(revision=revision, events=known.replace(self.keys.root, rows, revision))
            except Unavailable:
                await asyncio.sleep(self._again_s)
            finally:
                await watch.close()

    async def events(self, since: int | None = 1, *, follow: bool = False) -> AsyncGenerator[Told, None]:
        """What happened since a revision, as far as the store remembers; and what happens, with `follow`.

        None: nothing of the past.
        """
        await self.look()
        end, now, self.memory = self.memory.revision, self.memory, Memory()
        last = newest(now.under(self.keys.root))
        # All of it is read, whatever is told: what a change means depends on what was there before.
        if since is not None:
            try:
                async for told in self._past(1, last, end):
                    if told.revision >= since:
                        yield told
            except Compacted as compacted:
                if compacted.revision > since:
                    text = f"etcd remembers nothing before revision {compacted.revision}"
                    yield Told(revision=compacted.revision, text=text, is_new=False)
                async for told in self._past(compacted.revision, last, end):
                    if told.revision >= since:
                        yield told
        self.memory = now
        if follow:
            async for batch in self._follow(end + 1):
                for told in self._told(batch, is_new=True):
                    yield told

    async def _past(self, from_revision: int, last: int, end: int) -> AsyncGenerator[Told, None]:
        """What happened up to `end`; there is something at `last`, and behind it there may be deletions."""
        while from_revision <= end:
            watch = self._store.watch(self.keys.root, from_revision)
            try:
                while from_revision <= end:
                    async with asyncio.timeout(None if from_revision <= last else _PAST_QUIET_S):
                        batch = await anext(aiter(watch))
                    from_revision = batch.revision + 1
                    if batch.revision <= end:
                        for told in self._told(batch, is_new=False):
                            yield told
            except Unavailable:
                await asyncio.sleep(self._again_s)
            except TimeoutError:
                return
            finally:
                await watch.close()

    def _told(self, batch: Batch, *, is_new: bool) -> list[Told]:
        texts = sentences(self.keys, batch, self.memory)
        self.memory.apply(batch)
        at = written_at(self.keys, batch)
        return [Told(revision=batch.revision, text=text, is_new=is_new, at=at) for text in texts]


def _decoded(row: Row, kind: type[_Value]) -> _Value:
    try:
        return decode(row.key, row.value, kind)
    except Undecodable as error:
        raise Impossible(f"a key can not be read: {error}") from None
