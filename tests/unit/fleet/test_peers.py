"""The peer port over real sockets: questions and answers, who is refused, what is kept, what a new key ends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trustme

from pgcat_cluster.agreement.cancels import Answer
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.peer_frames import (
    Alive,
    Cancel,
    Cancelled,
    Declined,
    Dialer,
    Nudge,
    Ping,
    Probe,
    Seen,
    encode,
    length_of,
    with_length,
)
from pgcat_cluster.fleet import peers
from pgcat_cluster.fleet.peers import Look, PeerLinks, PeerPort, PeerUnavailable
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.topology.units import Address
from tests.support.waiting import WITHIN_S, until

OLD, NEW = b"old" * 11, b"new" * 11
KEY = FleetKey([OLD])
HERE, THERE = "px-1.7f1a2b3c", "px-2.0c9d11ee"
CANCEL = Cancel(pid=5, nonce=b"n" * 16, proof=b"p" * 32, hops=1)


class House:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def cancel_here(self, question: Cancel, asker: str) -> Answer:
        self.asked.append((question, asker))
        await self.gate.wait()
        return "sent"

    async def probe_here(self, cluster: str, server: str, within_s: float) -> Look | None:
        self.asked.append((cluster, server, within_s))
        if server == "silent":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await asyncio.Event().wait()
            return Look("soft", within_s)
        await self.gate.wait()
        return Look("refused", 0.0015) if server == "r1" else None

    def nudge_here(self, cluster: str, server: str, evidence: str) -> None:
        self.asked.append((cluster, server, evidence))

    def applied(self) -> dict[str, int]:
        return {"decided": 7}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(peers, "monotonic_s", clock)
    return clock


@pytest.fixture
async def house() -> House:
    return House()


@contextlib.asynccontextmanager
async def port_of(
    house: House, key: FleetKey = KEY, tls: ssl.SSLContext | None = None
) -> AsyncIterator[PeerPort]:
    port = PeerPort(house, key, fleet="shop", node=THERE, address=Address("127.0.0.1", 0), tls=tls)
    await port.start()
    try:
        yield port
    finally:
        await port.stop()


@contextlib.asynccontextmanager
async def links_of(
    key: FleetKey = KEY, fleet: str = "shop", tls: ssl.SSLContext | None = None
) -> AsyncIterator[PeerLinks]:
    links = PeerLinks(key, fleet=fleet, node=HERE, tls=tls)
    try:
        yield links
    finally:
        await links.stop()
        assert len(links) == 0


@pytest.fixture
async def port(house: House) -> AsyncIterator[PeerPort]:
    async with port_of(house) as port:
        yield port


@pytest.fixture
async def links() -> AsyncIterator[PeerLinks]:
    async with links_of() as links:
        yield links


def at(port: PeerPort) -> str:
    return f"127.0.0.1:{port.port}"


# -- questions and answers


async def test_each_question_has_its_answer_over_one_connection(
    house: House, port: PeerPort, links: PeerLinks, clock: Clock
) -> None:
    assert await links.ask(at(port), Ping(), WITHIN_S) == Alive(id=1, node=THERE, applied={"decided": 7})
    assert await links.ask(at(port), CANCEL, WITHIN_S) == Cancelled(id=2, result="sent")
    seen = await links.ask(at(port), Probe(cluster="main", server="r1", within_ms=500), WITHIN_S)
    assert seen == Seen(id=3, evidence="refused", rtt_ms=1.5, age_ms=0.0)
    none = await links.ask(at(port), Probe(cluster="main", server="r2", within_ms=60_000), WITHIN_S)
    assert none == Declined(id=4, why="no such server")
    await links.tell(at(port), Nudge(cluster="main", server="r1", evidence="soft"), WITHIN_S)
    await until(lambda: len(house.asked) == 4)
    asked = Cancel(id=2, pid=5, nonce=b"n" * 16, proof=b"p" * 32, hops=1)
    assert house.asked == [(asked, HERE), ("main", "r1", 0.5), ("main", "r2", 5.0), ("main", "r1", "soft")]
    assert (len(links), len(port._tasks)) == (1, 1)


async def test_answers_come_in_any_order(house: House, port: PeerPort, links: PeerLinks) -> None:
    house.gate.clear()
    slow = spawn(links.ask(at(port), CANCEL, WITHIN_S), "ask")
    assert isinstance(await links.ask(at(port), Ping(), WITHIN_S), Alive)
    assert not slow.done()
    house.gate.set()
    assert isinstance(await slow, Cancelled)


async def test_a_look_serves_all_who_ask_within_200_ms(
    house: House, port: PeerPort, links: PeerLinks, clock: Clock
) -> None:
    question = Probe(cluster="main", server="r1", within_ms=5000)
    house.gate.clear()
    asking = [spawn(links.ask(at(port), question, WITHIN_S), "ask") for _ in range(5)]
    await until(lambda: len(house.asked) == 1)
    # A look that takes longer is still the same one.
    clock.now += 1
    asking.append(spawn(links.ask(at(port), question, WITHIN_S), "ask"))
    await links.ask(at(port), Ping(), WITHIN_S)
    house.gate.set()
    assert {type(answer) for answer in await asyncio.gather(*asking)} == {Seen}
    assert len(house.asked) == 1
    for age_s, looks, age_ms in ((1.0, 2, 0.0), (0.1, 2, 100.0), (0.09, 2, 190.0), (0.02, 3, 0.0)):
        clock.now += age_s
        answer = await links.ask(at(port), question, WITHIN_S)
        assert isinstance(answer, Seen)
        assert (len(house.asked), answer.age_ms) == (looks, age_ms)


async def test_a_look_that_takes_too_long_is_declined(house: House, port: PeerPort, links: PeerLinks) -> None:
    house.gate.clear()
    answer = await links.ask(at(port), Probe(cluster="main", server="r1", within_ms=1), WITHIN_S)
    assert answer == Declined(id=1, why="no result in time")


async def test_a_look_at_what_is_silent_uses_up_its_time_and_is_an_answer(
    port: PeerPort, links: PeerLinks
) -> None:
    answer = await links.ask(at(port), Probe(cluster="main", server="silent", within_ms=50), WITHIN_S)
    assert isinstance(answer, Seen)
    assert answer.evidence == "soft"


async def test_tls_may_lie_under_it(house: House) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with port_of(house, tls=server) as port, links_of(tls=client) as links:
        assert isinstance(await links.ask(at(port), Ping(), WITHIN_S), Alive)
        async with links_of() as plain:
            with pytest.raises(PeerUnavailable):
                await plain.ask(at(port), Ping(), WITHIN_S)


# -- who is refused


@pytest.mark.parametrize(("key", "fleet"), [(FleetKey([NEW]), "shop"), (KEY, "other")])
async def test_who_is_no_node_of_this_fleet_is_refused(
    house: House, port: PeerPort, clock: Clock, key: FleetKey, fleet: str
) -> None:
    async with links_of(key, fleet) as strangers:
        # Who has another key sees it first, and has nothing to say.
        reason = "wrong MAC in the handshake|closed by the other node"
        with pytest.raises(PeerUnavailable, match=reason):
            await strangers.ask(at(port), CANCEL, WITHIN_S)
    assert house.asked == []


async def test_three_strikes_close_the_door_for_ten_seconds(
    house: House, port: PeerPort, links: PeerLinks, clock: Clock
) -> None:
    async with links_of(KEY, "other") as strangers:
        for _ in range(3):
            with pytest.raises(PeerUnavailable, match="closed by the other node"):
                await strangers.ask(at(port), Ping(), WITHIN_S)
            await until(lambda: not port._tasks)
    with pytest.raises(PeerUnavailable):
        await links.ask(at(port), Ping(), WITHIN_S)
    clock.now += 10
    assert isinstance(await links.ask(at(port), Ping(), WITHIN_S), Alive)


class Raw:
    """A dialer whose frames a test can spoil."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def meet(cls, port: PeerPort) -> tuple[Raw, Dialer]:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port.port))
        dialer = Dialer(KEY, "shop", HERE, b"d" * 32)
        raw.writer.write(with_length(dialer.hello()))
        raw.writer.write(with_length(dialer.proof(await raw.frame())))
        return raw, dialer

    async def frame(self) -> bytes:
        return await self.reader.readexactly(length_of(await self.reader.readexactly(4)))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(WITHIN_S):
            rest = await self.reader.read()
        self.writer.close()
        return rest == b""


def altered(frame: bytes) -> bytes:
    return frame[:20] + bytes([frame[20] ^ 1]) + frame[21:]


@pytest.mark.parametrize(
    ("spoil", "asked"),
    [
        (lambda frame: with_length(altered(frame)), 0),
        (lambda frame: with_length(frame) * 2, 1),
        (lambda frame: (4097).to_bytes(4, "big") + bytes(4097), 0),
        (lambda frame: bytes(4), 0),
        (lambda frame: with_length(frame[:-1]), 0),
    ],
    ids=["altered", "replayed", "too large", "empty", "cut"],
)
async def test_a_spoiled_frame_ends_the_connection(
    house: House, port: PeerPort, spoil: Callable[[bytes], bytes], asked: int
) -> None:
    raw, dialer = await Raw.meet(port)
    assert dialer.channel is not None
    nudge = Nudge(cluster="main", server="r1", evidence="soft")
    raw.writer.write(spoil(dialer.channel.seal(encode(nudge))))
    assert await raw.is_closed()
    await until(lambda: len(house.asked) == asked)
    assert len(port._strikes._struck["127.0.0.1"]) == 1


async def test_who_only_connects_is_sent_away(
    house: House, port: PeerPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "HANDSHAKE_S", 0.01)
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port.port))
    assert await raw.is_closed()
    assert port._strikes._struck == {}


# -- what is kept


async def test_an_idle_connection_is_closed(
    port: PeerPort, links: PeerLinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "IDLE_S", 0.05)
    await links.ask(at(port), Ping(), WITHIN_S)
    await until(lambda: len(links) == 0 and not port._tasks)
    assert isinstance(await links.ask(at(port), Ping(), WITHIN_S), Alive)


async def test_who_asks_is_told_at_once_that_the_other_is_gone(
    house: House, port: PeerPort, links: PeerLinks
) -> None:
    house.gate.clear()
    asking = spawn(links.ask(at(port), CANCEL, WITHIN_S), "ask")
    await until(lambda: bool(house.asked))
    await port.stop()
    with pytest.raises(PeerUnavailable, match="closed by the other node"):
        await asking
    with pytest.raises(PeerUnavailable, match=r"[Cc]onnect"):
        await links.ask(at(port), CANCEL, WITHIN_S)


async def test_a_silent_node_costs_its_time_limit_and_the_connection(links: PeerLinks) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    peer = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    with pytest.raises(PeerUnavailable, match="no answer in time"):
        await links.ask(peer, CANCEL, 0.05)
    assert len(links) == 0
    silent.close()


async def test_a_slow_answer_does_not_end_the_connection(
    house: House, port: PeerPort, links: PeerLinks
) -> None:
    await links.ask(at(port), Ping(), WITHIN_S)
    house.gate.clear()
    asking = spawn(links.ask(at(port), CANCEL, 0.2), "ask")
    await until(lambda: bool(house.asked))
    await links.ask(at(port), Ping(), WITHIN_S)
    with pytest.raises(PeerUnavailable, match="no answer in time"):
        await asking
    assert len(port._tasks) == 1


async def test_only_so_many_questions_are_under_way(house: House, port: PeerPort, links: PeerLinks) -> None:
    house.gate.clear()
    asking = [spawn(links.ask(at(port), CANCEL, WITHIN_S), "ask") for _ in range(64)]
    await until(lambda: len(house.asked) == 64)
    with pytest.raises(PeerUnavailable, match="too many questions under way"):
        await links.ask(at(port), CANCEL, WITHIN_S)
    house.gate.set()
    assert len(await asyncio.gather(*asking)) == 64


# -- another key


async def test_a_key_changes_without_a_stop(house: House) -> None:
    async with port_of(house) as port, links_of() as links:
        asking = [lambda: links.ask(at(port), Ping(), WITHIN_S)]
        await asking[0]()
        for there, here in (
            ([OLD, NEW], [OLD]),
            ([OLD, NEW], [OLD, NEW]),
            ([NEW, OLD], [OLD, NEW]),
            ([NEW, OLD], [NEW, OLD]),
        ):
            port.use(FleetKey(there))
            links.use(FleetKey(here))
            # The connection that is there goes on, and a new one can be made.
            before = set(port._tasks)
            await asking[0]()
            assert set(port._tasks) == before
            async with links_of(FleetKey(here)) as others:
                await others.ask(at(port), Ping(), WITHIN_S)
            await until(lambda before=before: set(port._tasks) == before)  # type: ignore[misc]
        # It was made under the old line: it ends with it, on whichever side first.
        links.use(FleetKey([NEW]))
        assert len(links) == 0
        await asking[0]()
        assert len(links) == 1
        before = set(port._tasks)
        port.use(FleetKey([NEW]))
        await asking[0]()
        async with links_of() as strangers:
            with pytest.raises(PeerUnavailable):
                await strangers.ask(at(port), Ping(), WITHIN_S)
