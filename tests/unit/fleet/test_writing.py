"""What a node says of itself, over a store that loses answers: the newest word stays."""

from __future__ import annotations

import asyncio

import pytest

from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Outcome, Transaction
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.fleet.store import Unknown
from pgcat_cluster.fleet.writing import Writing
from pgcat_cluster.topology.settings import Limits
from tests.support.waiting import until

pytestmark = pytest.mark.once

KEY = "/pgcat/f/ack/n1.0"


class Losing(ModelPort):
    """Loses the answer to the first transactions: carried out (`True`) or left lying (`False`), to be done later."""

    def __init__(self, *fates: bool) -> None:
        super().__init__(ModelStore(), now_s=lambda: 0.0, pause=asyncio.sleep)
        self.fates = list(fates)
        self.lying: list[Transaction] = []

    async def txn(self, transaction: Transaction) -> Outcome:
        if not self.fates:
            return await super().txn(transaction)
        if self.fates.pop(0):
            await super().txn(transaction)
        else:
            self.lying.append(transaction)
        raise Unknown("the answer was lost")

    async def wake(self) -> None:
        """What lay there is carried out."""
        for transaction in self.lying:
            await super().txn(transaction)

    def value(self) -> bytes | None:
        _revision, rows = self.model.snapshot([KEY], 0.0)
        return rows[0].value if rows else None


class Says:
    """One node's writing; `memory` hears nothing unless it is told to."""

    def __init__(self, store: Losing) -> None:
        self.store = store
        self.memory = Memory()
        self.now_s = 0.0
        self.writing = Writing(
            store, Limits(), row=self.memory.row, done=lambda: None, now_s=lambda: self.now_s
        )
        self.writing.lease = store.model.grant(60, 0.0)

    async def until(self, value: bytes) -> None:
        def stands() -> bool:
            self.now_s += 1.0
            self.writing.flush(self.now_s)
            return self.store.value() == value

        await until(stands)


@pytest.mark.parametrize("fates", [(False,), (True,), (False, False), (True, False), (False, True)])
async def test_what_was_said_before_does_not_come_back(fates: tuple[bool, ...]) -> None:
    store = Losing(*fates)
    says = Says(store)
    says.writing.say(KEY, b"first")
    says.writing.flush(0.0)
    await says.until(b"first")
    says.writing.say(KEY, b"second")
    await says.until(b"second")
    await store.wake()
    assert store.value() == b"second"
