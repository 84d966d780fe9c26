"""An operator's waiting and watching when the store goes away, forgets, or is slow to tell."""

from __future__ import annotations

import asyncio

from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.overview import Goal, Progress
from pgcat_cluster.agreement.transactions import Put, Transaction
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.fleet.operator import Operator, Told
from pgcat_cluster.net.tasks import spawn
from tests.support.followers import following_nodes

KEYS = Keys("eu")
DOCUMENTS = {
    "clusters/main": b'servers = { r1 = { host = "a" } }',
    "users/app": b'auth = "trust"',
    "pools/app": b"users = { app = {} }\nsize = 10",
}


def port_to(store: ModelStore) -> ModelPort:
    return ModelPort(store, now_s=asyncio.get_running_loop().time, pause=asyncio.sleep)


async def test_an_edit_is_waited_for_although_the_store_goes_away_meanwhile() -> None:
    store = ModelStore()
    port = port_to(store)
    operator = Operator(port, "eu", again_s=0.0)
    async with following_nodes(port_to(store), "eu", "n1", "n2"):
        written = await (await operator.look()).write(DOCUMENTS)
        assert written.names == ("clusters/main", "users/app", "pools/app")
        seen: list[Progress] = []

        def changed(progress: Progress) -> None:
            if len(seen) == 1:
                port.cancel()
            seen.append(progress)

        await operator.look()
        assert await operator.wait(Goal(digest=written.digest), 20.0, changed) == Progress(
            state="reached", text="accepted as generation 1; all 2 live nodes run it"
        )
        assert seen[0].state == "pending"


async def test_what_was_forgotten_while_waiting_is_listed_again() -> None:
    store = ModelStore()
    operator = Operator(port_to(store), "eu", again_s=0.0)
    async with following_nodes(port_to(store), "eu", "n1"):
        await operator.look()
        first = await operator.write(DOCUMENTS)
        await operator.look()
        await operator.wait(Goal(digest=first.digest), 20.0)
        late = Operator(port_to(store), "eu", again_s=0.0)
        await late.look()
        second = await operator.write({"pools/app": b"users = { app = {} }\nsize = 11"})
        await operator.look()
        await operator.wait(Goal(digest=second.digest), 20.0)
        store.compact(store.revision)
        assert (
            await late.wait(Goal(gen=2), 20.0)
        ).text == "accepted as generation 2; the one live node runs it"


async def test_an_edit_that_another_replaced_is_given_up() -> None:
    store = ModelStore()
    operator = Operator(port_to(store), "eu")
    await operator.look()
    mine = await operator.write(DOCUMENTS)
    await operator.look()
    assert await operator.wait(Goal(digest=mine.digest), 0.0) == Progress(
        state="pending", text="validating: no node is live"
    )
    await operator.write({"pools/app": b"size = 3"})
    assert await operator.wait(Goal(digest=mine.digest), 20.0) == Progress(
        state="failed", text="replaced by another edit before it was accepted"
    )


async def test_events_of_the_past_end_and_those_to_come_go_on() -> None:
    store = ModelStore()
    port = port_to(store)
    operator = Operator(port, "eu", again_s=0.0)
    await operator.look()
    await operator.write(DOCUMENTS)
    told = [(one.revision, one.text, one.is_new) async for one in operator.events()]
    assert told == [(2, f"operator created config/{name}", False) for name in DOCUMENTS]

    news = operator.events(None, follow=True)
    writing = spawn(_put(port, "fleet", b"jury = 5"), "an operator elsewhere")
    assert await anext(news) == Told(revision=3, text="operator created config/fleet", is_new=True)
    await writing
    port.cancel()
    await _put(port, "fleet", b"jury = 7")
    assert (await anext(news)).text == "operator put config/fleet: ~ fleet.jury = 5 -> 7"
    await news.aclose()


async def _put(port: ModelPort, name: str, text: bytes) -> None:
    await port.txn(Transaction(then=(Put(key=KEYS.config(name), value=text),)))
