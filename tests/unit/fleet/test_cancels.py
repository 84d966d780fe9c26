"""The way of a cancel between nodes that really talk to each other, with clients that are only names."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from pgcat_cluster.agreement.cancels import SLOT_BITS, Answer, CancelKeys, Neighbour, PrefixTable
from pgcat_cluster.agreement.documents import Prefix
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.peer_frames import Cancel
from pgcat_cluster.fleet import cancels
from pgcat_cluster.fleet.cancels import Cancels
from pgcat_cluster.fleet.peers import Look, PeerLinks, PeerPort
from pgcat_cluster.topology.units import Address
from tests.support.waiting import until

OLD, NEW = b"old" * 11, b"new" * 11
KEY = FleetKey([OLD])
# Nobody listens there.
NOWHERE = "127.0.0.1:1"


class Peer:
    """One node: its keys, its table, its port; `cancelled` are the clients somebody cancelled for."""

    def __init__(self, number: int, zone: str) -> None:
        boot = bytes([number] * 4)
        self.number = number
        self.node, self.zone = f"px-{number}.{boot.hex()}", zone
        self.keys: CancelKeys[str] = CancelKeys(os.urandom, KEY, boot)
        self.keys.lead(number)
        self.table = PrefixTable(self.node)
        self.links = PeerLinks(KEY, fleet="shop", node=self.node)
        self.port = PeerPort(self, KEY, fleet="shop", node=self.node, address=Address("127.0.0.1", 0))
        self.neighbours: list[Neighbour] = []
        self.cancelled: list[str] = []
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancels = Cancels(
            self.keys,
            self.table,
            self._cancel,
            links=self.links,
            zone=zone,
            neighbours=lambda: self.neighbours,
        )

    async def _cancel(self, owner: str) -> Answer:
        self.cancelled.append(owner)
        await self.gate.wait()
        return "sent"

    async def cancel_here(self, question: Cancel, asker: str) -> Answer:
        self.asked.append(asker)
        return await self.cancels.asked(question, asker)

    async def probe_here(self, cluster: str, server: str, within_s: float) -> Look | None:
        return None

    def nudge_here(self, cluster: str, server: str, evidence: str) -> None: ...

    def applied(self) -> dict[str, int]:
        return {}

    @property
    def peer(self) -> str:
        return f"127.0.0.1:{self.port.port}"

    @property
    def outcome(self) -> Counter[str]:
        return self.cancels.counts


@pytest.fixture
async def fleet() -> AsyncIterator[list[Peer]]:
    """Three nodes that know each other: two in zone a, one in zone b."""
    peers = [Peer(1, "a"), Peer(2, "a"), Peer(3, "b")]
    for one in peers:
        await one.port.start()
    for one in peers:
        for other in peers:
            one.table.learn(other.number, Prefix(node=other.node, peer=other.peer))
            if other is not one:
                one.neighbours.append(Neighbour(node=other.node, peer=other.peer, zone=other.zone))
    yield peers
    for one in peers:
        await one.links.stop()
        await one.port.stop()


@pytest.mark.parametrize("minor", [0, 2])
async def test_a_cancel_at_any_node_reaches_its_client(fleet: list[Peer], minor: int) -> None:
    first, second, third = fleet
    first.keys.issue("bystander", minor)
    key = first.keys.issue("client", minor)
    for peer in fleet:
        await peer.cancels.requested(*key, "192.0.2.9")
    assert first.cancelled == ["client"] * 3
    assert first.asked == [second.node, third.node]
    assert [peer.outcome for peer in fleet] == [{"sent": 1}] * 3
    assert (second.cancelled, third.cancelled) == ([], [])


async def test_its_connection_is_kept_until_the_owner_has_seen_to_it(fleet: list[Peer]) -> None:
    first, second, _ = fleet
    key = first.keys.issue("client")
    first.gate.clear()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(second.cancels.requested(*key, "192.0.2.9"))
        await until(lambda: first.cancelled)
        assert not asking.done()
        first.gate.set()


async def test_a_node_of_another_zone_passes_on_what_can_not_be_brought(fleet: list[Peer]) -> None:
    first, second, third = fleet
    key = first.keys.issue("client", 2)
    second.table.learn(1, Prefix(node=first.node, peer=NOWHERE))
    await second.cancels.requested(*key, "192.0.2.9")
    assert (first.cancelled, first.asked, third.asked) == (["client"], [third.node], [second.node])
    assert (second.outcome, third.outcome) == ({"passed": 1}, {})


async def test_nothing_is_passed_on_twice_or_back(fleet: list[Peer]) -> None:
    first, second, third = fleet
    key = first.keys.issue("client")
    await first.port.stop()
    # Both believe that the other has it.
    second.table.learn(1, Prefix(node=third.node, peer=third.peer))
    third.table.learn(1, Prefix(node=second.node, peer=second.peer))
    await second.cancels.requested(*key, "192.0.2.9")
    assert (first.asked, second.asked, third.asked) == ([], [], [second.node])
    assert second.outcome == {"unknown": 1}


async def test_an_owner_that_is_gone_costs_two_questions_and_no_error(fleet: list[Peer]) -> None:
    first, second, third = fleet
    key = first.keys.issue("client")
    await first.port.stop()
    await second.cancels.requested(*key, "192.0.2.9")
    assert (first.cancelled, third.asked) == ([], [second.node])
    assert second.outcome == {"unknown": 1}
    third.table.learn(1, Prefix(node=first.node, peer=NOWHERE))
    await third.port.stop()
    await second.cancels.requested(*key, "192.0.2.9")
    assert second.outcome == {"unknown": 1, "unroutable": 1}


async def test_a_prefix_that_another_life_has_now_cancels_nobody(fleet: list[Peer]) -> None:
    first, second, third = fleet
    short, long = first.keys.issue("client"), first.keys.issue("client", 2)
    # The third node leased the prefix of the first, which is gone, and gave out the same slots.
    for peer in fleet:
        peer.table.learn(1, Prefix(node=third.node, peer=third.peer))
    third.keys.lead(1)
    assert [third.keys.issue("another")[0], third.keys.issue("another", 2)[0]] == [short[0], long[0]]
    await second.cancels.requested(*long, "192.0.2.9")
    assert (third.asked, second.outcome) == ([], {"unknown": 1})
    await second.cancels.requested(*short, "192.0.2.9")
    assert (third.asked, third.cancelled, second.outcome) == ([second.node], [], {"unknown": 2})


async def test_10000_bogus_cancels_touch_nobody(fleet: list[Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(cancels, "monotonic_s", lambda: now)
    first, second, _ = fleet
    first.gate.clear()
    keys = [first.keys.issue("client", minor) for minor in (0, 2) * 50]
    chance = random.Random(1)
    for number in range(10_000):
        pid, secret = chance.choice(keys)
        wrong = bytearray(secret)
        wrong[chance.randrange(len(wrong))] ^= chance.randrange(1, 256)
        if number % 3 == 0:
            pid ^= 1 << chance.randrange(SLOT_BITS + 4)
            wrong = bytearray(secret[:4]) if len(secret) > 4 else wrong
        await second.cancels.requested(pid & 0x7FFFFFFF, bytes(wrong), f"192.0.2.{number % 4}")
        now += 0.001
    assert [peer.cancelled for peer in fleet] == [[], [], []]
    # What was made up and long was seen through here; the rest was bounded: 4 × (100 + 10 s × 20/s).
    failed = {name: count for name, count in second.outcome.items() if name != "limited"}
    assert set(failed) == {"forged", "unknown", "unroutable"}
    assert 1000 < sum(failed.values()) <= 1204
    assert len(first.asked) < sum(failed.values()) - failed["forged"]
    # A true one from elsewhere is still heard.
    first.gate.set()
    await second.cancels.requested(*keys[0], "192.0.2.200")
    assert first.cancelled == ["client"]


async def test_only_so_many_are_under_way(fleet: list[Peer]) -> None:
    first, _, _ = fleet
    key = first.keys.issue("client")
    first.gate.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(cancels.UNDER_WAY_MAX + 3):
            group.create_task(first.cancels.requested(*key, "192.0.2.9"))
        await until(lambda: first.outcome["limited"] == 3)
        first.gate.set()
    assert first.outcome == {"limited": 3, "sent": cancels.UNDER_WAY_MAX}


async def test_keys_of_both_lines_are_understood_while_the_fleet_key_changes(fleet: list[Peer]) -> None:
    first, second, _ = fleet
    for step, (here, there) in enumerate(
        [([OLD, NEW], [OLD]), ([OLD, NEW], [OLD, NEW]), ([NEW, OLD], [OLD, NEW]), ([NEW], [NEW, OLD])], 1
    ):
        for peer, lines in ((first, there), (second, here)):
            key = FleetKey(lines)
            peer.keys.fleet_key = key
            peer.links.use(key)
            peer.port.use(key)
        for minor in (0, 2):
            await second.cancels.requested(*first.keys.issue("client", minor), "192.0.2.9")
        assert second.outcome == {"sent": 2 * step}


async def test_a_node_alone_cancels_for_its_own_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def cancel(owner: str) -> Answer:
        done.append(owner)
        return "idle"

    keys: CancelKeys[str] = CancelKeys(os.urandom, KEY, b"boot")
    alone = Cancels(keys, PrefixTable("n1"), cancel)
    await alone.requested(*keys.issue("client"), "192.0.2.9")
    await alone.requested(1, b"1234", "192.0.2.9")
    await alone.requested(7 << SLOT_BITS | 1, b"1234", "192.0.2.9")
    assert (done, alone.counts) == (["client"], {"idle": 1, "unknown": 1, "unroutable": 1})


async def test_a_slow_server_does_not_hold_the_request_longer(
    fleet: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancels, "WITHIN_S", 0.01)
    first, _, _ = fleet
    first.gate.clear()
    await first.cancels.requested(*first.keys.issue("client"), "192.0.2.9")
    assert (first.cancelled, first.outcome) == (["client"], {"sent": 1})
