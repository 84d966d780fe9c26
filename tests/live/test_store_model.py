"""The model of etcd's rules answers as etcd itself does, whatever is asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from pgcat_cluster.agreement.transactions import (
    Batch,
    Compare,
    Delete,
    Event,
    Field,
    Operation,
    Outcome,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.fleet.etcd import EtcdStore
from pgcat_cluster.fleet.model import ModelStore
from pgcat_cluster.fleet.store import Compacted, StoreFault
from tests.support.etcd import EtcdMaker, StoreMaker, compact

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

PREFIXES = ("/a/", "/a/b/", "/c/", "/")
KEYS = ("/a/1", "/a/2", "/a/3", "/a/b/1", "/a/b/2", "/a/b/3", "/c/1", "/c/2", "/cc")
VALUES = (b"", b"x", b"y", b"\x00\xff")
TTL_S = 3000


class Pair:
    """The same things done to both stores; leases are named by their number in the model."""

    def __init__(self, real: EtcdStore, endpoint: str, seed: int) -> None:
        self.real = real
        self.endpoint = endpoint
        self.model = ModelStore()
        self.chance = random.Random(seed)
        self.real_leases: dict[int, int] = {0: 0}
        self.model_leases: dict[int, int] = {0: 0}
        self.compacted = 0

    # -- what to ask

    def some_lease(self) -> int:
        return self.chance.choice(list(self.model_leases.values())[-6:])

    def compare(self) -> Compare:
        chance = self.chance
        is_prefix = chance.random() < 0.4
        key = chance.choice(PREFIXES if is_prefix else KEYS)
        field = chance.choice(list(Field))
        operator = chance.choice(("==", "!=", "<", ">"))
        operand: int | bytes
        if field is Field.VALUE:
            operand = chance.choice(VALUES)
        elif field is Field.LEASE:
            # Numbers of leases have an order in neither store.
            operand = self.some_lease() if operator in ("==", "!=") else 0
        else:
            known = list(self.model.history("/", self.model.compacted))
            near = chance.choice(known).revision if known else 0
            operand = chance.choice((0, near, near + 1, self.model.revision))
        return Compare(key=key, field=field, operator=operator, operand=operand, prefix=is_prefix)

    def operation(self) -> Operation:
        chance = self.chance
        kind = chance.random()
        if kind < 0.5:
            lease = self.some_lease() if chance.random() < 0.4 else 0
            return Put(key=chance.choice(KEYS), value=chance.choice(VALUES), lease=lease)
        is_prefix = chance.random() < 0.3
        key = chance.choice(PREFIXES[:3] if is_prefix else KEYS)
        if kind < 0.7:
            return Delete(key=key, prefix=is_prefix)
        return Range(
            key=key,
            prefix=is_prefix,
            limit=chance.choice((0, 0, 1, 2)),
            keys_only=chance.random() < 0.3,
            newest_first=chance.random() < 0.3,
        )

    def transaction(self) -> Transaction:
        chance = self.chance
        return Transaction(
            compares=tuple(self.compare() for _ in range(chance.choice((0, 0, 1, 1, 2, 3)))),
            then=tuple(self.operation() for _ in range(chance.choice((0, 1, 1, 2, 3, 5)))),
            otherwise=tuple(self.operation() for _ in range(chance.choice((0, 0, 1, 2)))),
        )

    # -- asking both

    async def step(self) -> None:
        kind = self.chance.random()
        if kind < 0.9:
            await self.do_transaction(self.transaction())
        elif kind < 0.94:
            real, model = await self.real.grant(TTL_S), self.model.grant(TTL_S, 0.0)
            self.real_leases[model], self.model_leases[real] = real, model
        elif kind < 0.97:
            lease = self.some_lease()
            if lease:
                await self.real.revoke(self.real_leases[lease])
                self.model.revoke(lease, 0.0)
        elif kind < 0.99:
            lease = self.some_lease()
            answers = await self.real.refresh(self.real_leases[lease]), self.model.refresh(lease, 0.0)
            assert answers[0] == answers[1]
        elif self.model.revision - self.compacted > 300:
            self.compacted = self.model.revision - self.chance.randrange(1, 100)
            await compact(self.endpoint, self.compacted)
            self.model.compact(self.compacted)

    async def do_transaction(self, transaction: Transaction) -> None:
        expected: Outcome | type[StoreFault]
        try:
            expected = self.model.txn(transaction, 0.0)
        except StoreFault as fault:
            expected = type(fault)
        assert _settled(transaction, await self.real_outcome(transaction)) == _settled(
            transaction, expected
        ), transaction

    async def real_outcome(self, transaction: Transaction) -> Outcome | type[StoreFault]:
        try:
            found = await self.real.txn(self.for_real(transaction))
        except StoreFault as fault:
            return type(fault)
        answers = tuple(
            Rows(rows=tuple(map(self.from_real, part.rows)), count=part.count) if part else None
            for part in found.answers
        )
        return structs.replace(found, answers=answers)

    async def check(self) -> None:
        """Both hold the same, and tell the same history from any revision on."""
        assert await self.real_snapshot() == self.model.snapshot(["/"], 0.0)
        await self.do_transaction(
            Transaction(then=(Put(key="/a/b/end", value=b""), Put(key="/c/end", value=b"")))
        )
        for prefix in PREFIXES:
            revision = self.chance.randrange(max(1, self.compacted - 50), self.model.revision)
            if revision == self.compacted:
                # Old versions have lost the deletions of this one revision.
                revision += 1
            expected: list[Batch] | int
            try:
                expected = list(self.model.history(prefix, revision))
            except Compacted as fault:
                expected = fault.revision
            assert await self.real_history(prefix, revision) == expected, (prefix, revision)

    async def real_snapshot(self) -> tuple[int, tuple[Row, ...]]:
        revision, rows = await self.real.snapshot(["/"])
        return revision, tuple(map(self.from_real, rows))

    async def real_history(self, prefix: str, from_revision: int) -> list[Batch] | int:
        watch = self.real.watch(prefix, from_revision)
        try:
            return await self.up_to_now(watch)
        except Compacted as fault:
            return fault.revision
        finally:
            await watch.close()

    async def up_to_now(self, watch: Any) -> list[Batch]:
        found: list[Batch] = []
        async with asyncio.timeout(20.0):
            async for batch in watch:
                if batch.events:
                    events = tuple(
                        Event(key=event.key, row=event.row and self.from_real(event.row))
                        for event in batch.events
                    )
                    found.append(Batch(revision=batch.revision, events=events))
                if batch.revision >= self.model.revision:
                    break
        return found

    # -- names of leases

    def from_real(self, row: Row) -> Row:
        return structs.replace(row, lease=self.model_leases[row.lease])

    def for_real(self, transaction: Transaction) -> Transaction:
        def compare(part: Compare) -> Compare:
            is_lease = part.field is Field.LEASE
            return structs.replace(part, operand=self.real_leases[part.operand]) if is_lease else part

        def operation(part: Operation) -> Operation:
            return (
                structs.replace(part, lease=self.real_leases[part.lease]) if isinstance(part, Put) else part
            )

        return Transaction(
            compares=tuple(map(compare, transaction.compares)),
            then=tuple(map(operation, transaction.then)),
            otherwise=tuple(map(operation, transaction.otherwise)),
        )


def _settled(transaction: Transaction, outcome: Outcome | type[StoreFault]) -> Outcome | type[StoreFault]:
    """etcd leaves open in which order keys of one revision come when the newest come first."""
    if isinstance(outcome, type):
        return outcome

    def settle(operation: Operation, answer: Rows | None) -> Rows | None:
        if answer is None or not isinstance(operation, Range) or not operation.newest_first:
            return answer
        if operation.limit:
            nameless = Row(key="", value=b"", create_revision=0, mod_revision=0)
            rows = [structs.replace(nameless, mod_revision=row.mod_revision) for row in answer.rows]
        else:
            rows = sorted(answer.rows, key=lambda row: (-row.mod_revision, row.key))
        return Rows(rows=tuple(rows), count=answer.count)

    operations = transaction.then if outcome.succeeded else transaction.otherwise
    settled = (
        settle(operation, answer) for operation, answer in zip(operations, outcome.answers, strict=True)
    )
    return structs.replace(outcome, answers=tuple(settled))


@pytest.fixture
def make_pair(make_etcd: EtcdMaker, open_store: StoreMaker) -> Callable[[int], Pair]:
    def make(seed: int) -> Pair:
        etcd = make_etcd()
        return Pair(open_store(etcd, call_s=10.0), etcd.endpoints[0], seed)

    return make


async def compared(pair: Pair, operations: int) -> None:
    written: list[Batch] = []
    pair.model.listen(lambda: written.extend(pair.model.history("/", pair.model.revision)))
    live = pair.real.watch("/", 2)
    for number in range(1, operations + 1):
        await pair.step()
        if number % 250 == 0:
            await pair.check()
            assert await pair.up_to_now(live) == written
            written.clear()
    await live.close()


async def test_model_and_etcd_agree(make_pair: Callable[[int], Pair]) -> None:
    await compared(make_pair(20261122), 2000)


@pytest.mark.live_long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(4))
async def test_model_and_etcd_agree_for_long(make_pair: Callable[[int], Pair], seed: int) -> None:
    await compared(make_pair(seed), 25_000)
