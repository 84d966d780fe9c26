"""A memory stays what the store is, through gaps, losses, stalls and other stores."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Batch, Delete, Put, Row, Transaction
from pgcat_cluster.fleet.following import Following
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.net.tasks import spawn
from tests.support.virtual import VirtualTime

PREFIXES = ("/d/", "/o/")
CONSENT = "/o/consent"


class Scene:
    """One node that follows a model store in virtual time."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.store = ModelStore()
        self.port = ModelPort(self.store, now_s=self.time.now_s, pause=self.time.pause)
        self.told: list[tuple[int, list[str]]] = []
        self.node = Following(
            self.port,
            PREFIXES,
            Memory(),
            chance=random.Random(7),
            changed=self.hear,
            audited=PREFIXES,
            consent=CONSENT,
            now_s=self.time.now_s,
            pause=self.time.pause,
        )

    def hear(self, batch: Batch) -> None:
        """Batches with events: keys that were put, and with a dash those that vanished."""
        keys = [event.key if event.row else f"-{event.key}" for event in batch.events]
        if keys:
            self.told.append((batch.revision, keys))

    def heard(self) -> list[tuple[int, list[str]]]:
        told, self.told = self.told, []
        return told

    def put(self, *keys: str) -> int:
        operations = tuple(Put(key=key, value=b"") for key in keys)
        return self.store.txn(Transaction(then=operations), self.time.now_s()).revision

    def delete(self, key: str) -> int:
        return self.store.txn(Transaction(then=(Delete(key=key),)), self.time.now_s()).revision

    async def until_in_doubt(self) -> None:
        """Let an audit find a difference, and be still waiting for the stream."""
        for _tenth in range(61):
            if self.node.doubted:
                return
            await self.time.run(0.1)
        raise AssertionError("no audit found anything")

    def is_current(self) -> bool:
        return all(
            tuple(self.node.memory.under(prefix)) == self.store.snapshot([prefix], self.time.now_s())[1]
            for prefix in PREFIXES
        )


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    scene.put("/d/1", "/d/2", "/o/1", "/elsewhere")
    following = spawn(scene.node.run(), "following")
    await scene.time.settle()
    yield scene
    following.cancel()
    await asyncio.wait({following})
    assert scene.port.statistics().applied == {}


async def test_it_begins_with_one_list_and_goes_on_with_events(scene: Scene) -> None:
    assert scene.node.listed.is_set()
    assert scene.heard() == [(2, ["/d/1", "/d/2"]), (2, ["/o/1"])]
    scene.put("/d/3", "/elsewhere")
    scene.delete("/d/1")
    scene.put("/o/1")
    await scene.time.settle()
    # Two watches have no order between them.
    assert sorted(scene.heard()) == [(3, ["/d/3"]), (4, ["-/d/1"]), (5, ["/o/1"])]
    assert scene.is_current()
    assert scene.node.state().applied == {"/d/": 5, "/o/": 5}


async def test_after_a_cut_it_resumes_without_a_new_list(scene: Scene) -> None:
    scene.heard()
    scene.port.faults.cut = True
    scene.port.stir()
    scene.put("/d/3")
    scene.delete("/d/3")
    await scene.time.run(30.0)
    assert "cut off" in scene.node.state().fault
    assert scene.heard() == []
    scene.port.faults.cut = False
    await scene.time.run(6.0)
    assert scene.heard() == [(3, ["/d/3"]), (4, ["-/d/3"])]
    assert (scene.node.state().lists, scene.node.state().fault) == (1, "")


async def test_what_was_forgotten_meanwhile_comes_as_differences(scene: Scene) -> None:
    scene.heard()
    scene.port.faults.cut = True
    scene.port.stir()
    scene.put("/d/3")
    scene.delete("/d/3")
    scene.delete("/d/1")
    scene.put("/d/2")
    scene.store.compact(scene.store.revision)
    scene.port.faults.cut = False
    await scene.time.run(6.0)
    # What came and went is not told, what stayed is not told, and nothing "was deleted" that was not.
    assert scene.heard() == [(6, ["-/d/1", "/d/2"])]
    assert scene.is_current()


@pytest.mark.parametrize("delays_s", [[6.0], [5.0, 5.0]])
async def test_of_two_lists_of_a_prefix_the_later_one_changes_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, delays_s: list[float]
) -> None:
    """Behind a compaction each prefix lists all; the answers come in either order, and a watch begins at the first."""
    snapshot, asked = scene.port.snapshot, 0

    async def list_slowly(prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        nonlocal asked
        delay_s = [*delays_s, 0.0][asked]
        asked += 1
        answer = await snapshot(prefixes)
        await scene.time.pause(delay_s)
        return answer

    monkeypatch.setattr(scene.port, "snapshot", list_slowly)
    scene.put("/d/3", "/o/2")
    scene.put("/d/3", "/o/2")
    scene.store.compact(scene.store.revision)
    for _tenth in range(100):
        scene.put("/d/3", "/o/2")
        await scene.time.run(0.1)
    assert asked == 2
    for key in ("/d/3", "/o/2"):
        told = [revision for revision, keys in scene.told if key in keys]
        assert told == sorted(told)
    assert scene.is_current()


async def test_a_stalled_stream_is_found_by_the_audit(scene: Scene) -> None:
    scene.heard()
    scene.port.faults.held_at["/d/"] = 2
    scene.put("/d/3")
    await scene.time.run(3.9)
    assert scene.heard() == []
    # At the latest 6 s after the last audit, and 1 s of patience.
    await scene.time.run(3.2)
    assert scene.heard() == [(3, ["/d/3"])]
    assert scene.node.state().losses == 1


async def test_a_stream_that_is_only_late_is_not_listed_again(scene: Scene) -> None:
    scene.port.faults.held_at["/d/"] = 2
    scene.put("/d/3")
    await scene.until_in_doubt()
    del scene.port.faults.held_at["/d/"]
    scene.port.stir()
    await scene.time.run(20.0)
    assert (scene.node.state().lists, scene.node.state().losses) == (1, 0)
    assert scene.is_current()


async def test_a_lost_event_is_found_as_soon_as_a_later_one_comes(scene: Scene) -> None:
    scene.heard()
    # As if the event of this key had never come.
    scene.node.memory.replace("/d/", scene.node.memory.under("/d/")[1:], 2)
    await scene.until_in_doubt()
    scene.put("/d/9")
    await scene.time.run(1.0)
    assert scene.heard() == [(3, ["/d/1", "/d/9"])]
    assert scene.is_current()
    await scene.time.run(20.0)
    assert scene.node.state().losses == 1


async def test_peace_asks_and_changes_nothing(scene: Scene) -> None:
    scene.heard()
    await scene.time.run(600.0)
    assert scene.heard() == []
    state = scene.node.state()
    assert (state.lists, state.losses, state.fault, state.estranged) == (1, 0, "", False)
    assert scene.store.revision == 2


async def test_an_older_state_is_not_believed_until_it_is_accepted(scene: Scene) -> None:
    restore = scene.store.backup()
    scene.put("/d/3")
    await scene.time.settle()
    scene.heard()
    restore()
    await scene.time.run(20.0)
    assert scene.node.state().estranged
    # Others write to it, until it is further than it ever was.
    for _ in range(9):
        scene.put("/elsewhere")
    await scene.time.run(20.0)
    assert scene.node.state().estranged
    assert scene.heard() == []
    assert [row.key for row in scene.node.memory.under("/d/")] == ["/d/1", "/d/2", "/d/3"]
    scene.put(CONSENT)
    await scene.time.run(6.0)
    # All of it at one revision.
    assert scene.heard() == [(12, ["-/d/3"]), (12, [CONSENT])]
    assert not scene.node.state().estranged
    assert (scene.is_current(), scene.node.memory.revision) == (True, 12)


async def test_a_word_from_the_backup_counts_for_nothing(scene: Scene) -> None:
    scene.put(CONSENT)
    restore = scene.store.backup()
    scene.put("/d/3")
    await scene.time.settle()
    restore()
    await scene.time.run(20.0)
    assert scene.node.state().estranged
    # Nor does one that a second backup brings.
    scene.put("/elsewhere")
    scene.put("/elsewhere")
    restore()
    await scene.time.run(20.0)
    assert scene.node.state().estranged
    scene.put(CONSENT)
    await scene.time.run(6.0)
    assert (scene.node.state().estranged, scene.is_current()) == (False, True)


async def test_another_store_is_not_believed(scene: Scene) -> None:
    scene.put("/d/3")
    await scene.time.settle()
    scene.heard()
    scene.store.cluster_id = 2
    scene.port.cancel()
    for number in range(9):
        scene.put(f"/d/new{number}")
    await scene.time.run(20.0)
    assert scene.node.state().estranged
    assert scene.node.stranger == 2
    assert scene.heard() == []
    # It was only for a while: an address that led astray, say.
    scene.store.cluster_id = 1
    await scene.time.run(6.0)
    assert not scene.node.state().estranged
    assert len(scene.heard()) == 9


async def test_one_stale_answer_is_no_old_store(scene: Scene) -> None:
    restore = scene.store.backup()
    scene.put("/d/3")
    await scene.time.settle()
    now = scene.store.backup()
    restore()
    await scene.time.run(0.5)
    assert (scene.node.state().estranged, scene.node.stranger) == (True, None)
    now()
    await scene.time.run(10.0)
    assert (scene.node.state().estranged, scene.node.state().lists) == (False, 1)


@pytest.mark.parametrize("stranger", [None, 1])
async def test_a_node_remembers_the_store_of_its_earlier_life(stranger: int | None) -> None:
    scene = Scene()
    scene.put("/d/1")
    accepted: list[int] = []
    node = Following(
        scene.port,
        PREFIXES,
        Memory(),
        chance=random.Random(7),
        consent=CONSENT,
        accepted=lambda: accepted.append(1),
        # What it did not believe in that life it does not believe in this one, however far that has come.
        revision=40 if stranger is None else 2,
        cluster_id=1,
        stranger=stranger,
        now_s=scene.time.now_s,
        pause=scene.time.pause,
    )
    following = spawn(node.run(), "following")
    await scene.time.run(20.0)
    assert node.state().estranged
    assert node.stranger == 1
    assert not node.listed.is_set()
    scene.put(CONSENT)
    await scene.time.run(6.0)
    assert node.listed.is_set()
    assert (node.state().estranged, node.stranger, accepted) == (False, None, [1])
    following.cancel()
    await asyncio.wait({following})
