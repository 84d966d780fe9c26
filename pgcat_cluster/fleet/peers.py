"""The peer port: answers the questions of other nodes, and asks them over one kept connection each."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Hashable
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from pgcat_cluster.agreement.cancels import Answer
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.peer_frames import (
    LENGTH_BYTES,
    NONCE_BYTES,
    Acceptor,
    Alive,
    Cancel,
    Cancelled,
    Channel,
    Declined,
    Dialer,
    Nudge,
    PeerViolation,
    Ping,
    Probe,
    Question,
    Reply,
    Seen,
    Strikes,
    encode,
    length_of,
    read_question,
    read_reply,
    with_length,
)
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.telemetry.logs import RepeatLimit, get_logger, lifecycle
from pgcat_cluster.topology.units import Address, parse_address

HANDSHAKE_S = 2.0
IDLE_S = 60.0
# Who is asked waits a little longer than who asks, so that no question meets a closing connection.
_SLACK_S = 10.0
_CONNECTIONS_MAX = 1024
_QUESTIONS_MAX = 64
_STREAM_BYTES = 8192
_PROBE_SHARED_S = 0.2
_PROBE_MAX_S = 5.0
# A look at what is silent uses up all its time, and is an answer then: it must not be given up at that moment.
_LOOK_ENDS_S = 0.5

_Ended = (PeerViolation, TimeoutError, OSError, asyncio.IncompleteReadError)


class Look(NamedTuple):
    """What a fresh connect and start-up showed: `ok`, or the class of the failure; and how long it took."""

    evidence: str
    rtt_s: float


class PeerHouse(Protocol):
    """What the peer port asks of the node."""

    async def cancel_here(self, question: Cancel, asker: str) -> Answer:
        """Cancel for a client of this node, or pass the question on; `asker` is the node that asked."""

    async def probe_here(self, cluster: str, server: str, within_s: float) -> Look | None:
        """Connect to a server of the accepted generation; None: there is no such server."""

    def nudge_here(self, cluster: str, server: str, evidence: str) -> None:
        """Another node met a failure: probe at once, if this node is a juror of that server."""

    def applied(self) -> dict[str, int]:
        """The newest revision applied, for each prefix of the store."""


class _Stream:
    """Frames over a byte stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def receive(self) -> bytes:
        return await self.reader.readexactly(length_of(await self.reader.readexactly(LENGTH_BYTES)))

    def send(self, content: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(with_length(content))

    def close(self) -> None:
        self.writer.close()


# -- being asked


class PeerPort:
    """Listens for other nodes of the fleet. Who does not have the fleet key is heard no further."""

    def __init__(
        self,
        house: PeerHouse,
        fleet_key: FleetKey,
        *,
        fleet: str,
        node: str,
        address: Address,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.port = 0
        self._house = house
        self._fleet_key = fleet_key
        self._fleet = fleet
        self._node = node
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], Acceptor | None] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._strikes = Strikes()
        self._looks = _Looks(house)
        self._log = get_logger()
        self._repeats = RepeatLimit()

    async def start(self) -> None:
        """Listen. Raises OSError if the address can not be had."""
        self._server = await asyncio.start_server(
            self._accepted, self.address.host, self.address.port, ssl=self._tls, limit=_STREAM_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await _end([*self._tasks, *self._questions])

    def use(self, fleet_key: FleetKey) -> None:
        """The key file has changed: connections under a line that is gone end, the others go on."""
        self._fleet_key = fleet_key
        for task, acceptor in list(self._tasks.items()):
            if acceptor is not None and acceptor.peer_key not in fleet_key.peer:
                task.cancel()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str(writer.get_extra_info("peername")[0])
        if len(self._tasks) >= _CONNECTIONS_MAX or self._strikes.refuses(address, monotonic_s()):
            writer.transport.abort()
            return
        task = spawn(self._serve(_Stream(reader, writer), address), "peer")
        self._tasks[task] = None
        task.add_done_callback(lambda _: self._tasks.pop(task))

    async def _serve(self, stream: _Stream, address: str) -> None:
        acceptor = Acceptor(self._fleet_key, self._fleet, self._node, os.urandom(NONCE_BYTES))
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = acceptor
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                stream.send(acceptor.welcome(await stream.receive()))
                acceptor.admit(await stream.receive())
            await self._converse(stream, acceptor)
        except PeerViolation as violation:
            self._strikes.strike(address, monotonic_s())
            silent = self._repeats.admit("peer.refused", address, monotonic_s())
            if silent is not None:
                lifecycle(
                    self._log,
                    "peer.refused",
                    level="warning",
                    address=address,
                    reason=str(violation),
                    repeated=silent,
                )
        except _Ended:
            pass
        finally:
            # What was asked before the end is still seen to.
            stream.close()

    async def _converse(self, stream: _Stream, acceptor: Acceptor) -> None:
        channel = acceptor.channel
        assert channel is not None
        places = asyncio.Semaphore(_QUESTIONS_MAX)
        while True:
            await places.acquire()
            async with asyncio.timeout(IDLE_S + _SLACK_S):
                question = read_question(channel.open(await stream.receive()))
            task = spawn(self._reply(stream, channel, question, acceptor.peer), "answer a peer")
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
            task.add_done_callback(lambda _: places.release())

    async def _reply(self, stream: _Stream, channel: Channel, question: Question, asker: str) -> None:
        reply = await self._answer(question, asker)
        if reply is not None:
            stream.send(channel.seal(encode(reply)))

    async def _answer(self, question: Question, asker: str) -> Reply | None:
        house = self._house
        match question:
            case Cancel():
                return Cancelled(id=question.id, result=await house.cancel_here(question, asker))
            case Probe():
                return await self._looks.answer(question)
            case Nudge():
                house.nudge_here(question.cluster, question.server, question.evidence)
                return None
            case Ping():
                return Alive(id=question.id, node=self._node, applied=house.applied())


class _Looks:
    """Probes for others: at most one per server and 200 ms, whoever asks."""

    def __init__(self, house: PeerHouse) -> None:
        self._house = house
        # Begun at, the look, and when it ended.
        self._known: dict[Hashable, tuple[float, asyncio.Task[tuple[Look | None, float]]]] = {}

    async def answer(self, question: Probe) -> Reply:
        within_s = min(max(question.within_ms / 1000, 0.0), _PROBE_MAX_S)
        key = question.cluster, question.server
        now = monotonic_s()
        known = self._known.get(key)
        if known is None or (known[1].done() and now - known[0] >= _PROBE_SHARED_S):
            known = now, spawn(self._look(*key, within_s), "probe for a peer")
            self._known[key] = known
        _, task = known
        await asyncio.wait([task], timeout=within_s + _LOOK_ENDS_S)
        if not task.done():
            return Declined(id=question.id, why="no result in time")
        look, ended_at = task.result()
        if look is None:
            # Names of servers that do not exist are not remembered.
            self._known.pop(key, None)
            return Declined(id=question.id, why="no such server")
        age_ms = (monotonic_s() - ended_at) * 1000
        return Seen(
            id=question.id,
            evidence=look.evidence,
            rtt_ms=round(look.rtt_s * 1000, 3),
            age_ms=round(age_ms, 3),
        )

    async def _look(self, cluster: str, server: str, within_s: float) -> tuple[Look | None, float]:
        return await self._house.probe_here(cluster, server, within_s), monotonic_s()


# -- asking


class PeerUnavailable(Exception):
    """A node could not be asked, or has not answered in time."""


class PeerLinks:
    """Asks other nodes: one connection for each, opened when needed, closed when idle."""

    def __init__(
        self, fleet_key: FleetKey, *, fleet: str, node: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self.fleet_key = fleet_key
        self.fleet = fleet
        self.node = node
        self.tls = tls
        self._links: dict[str, _Link] = {}

    async def ask(self, peer: str, question: Question, timeout_s: float) -> Reply:
        """The answer of the node at this address (`host:port`). Raises PeerUnavailable."""
        link = self._link(peer)
        asked_at = monotonic_s()
        try:
            async with asyncio.timeout(timeout_s):
                return await link.ask(question)
        except TimeoutError:
            if link.heard_at <= asked_at:
                # Nobody may be there any more: the next question goes over a new connection.
                link.close("silent")
            raise PeerUnavailable(f"{peer}: no answer in time") from None

    async def tell(self, peer: str, news: Nudge, timeout_s: float) -> None:
        """Say something that has no answer. Raises PeerUnavailable."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._link(peer).tell(news)
        except TimeoutError:
            raise PeerUnavailable(f"{peer}: not reached in time") from None

    def use(self, fleet_key: FleetKey) -> None:
        """The key file has changed: connections under a line that is gone end, the others go on."""
        self.fleet_key = fleet_key
        for link in list(self._links.values()):
            if link.peer_key and link.peer_key not in fleet_key.peer:
                link.close("the fleet key has changed")

    async def stop(self) -> None:
        links = list(self._links.values())
        for link in links:
            link.close("the node stops")
        await _end([link.task for link in links])

    def __len__(self) -> int:
        return len(self._links)

    def _link(self, peer: str) -> _Link:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = _Link(self, peer)
        return link

    def forget(self, link: _Link) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]


class _Link:
    """One kept connection to one node, and the questions that wait for their answers."""

    def __init__(self, links: PeerLinks, peer: str) -> None:
        self.peer = peer
        self.peer_key = b""
        self.heard_at = 0.0
        self._links = links
        self._reason = ""
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._ready = asyncio.Event()
        self._stream: _Stream | None = None
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()
        self._idle = self._loop.call_later(IDLE_S, self._expire)
        self.task = spawn(self._run(), f"peer {peer}")

    async def ask(self, question: Question) -> Reply:
        if len(self._waiting) >= _QUESTIONS_MAX:
            raise PeerUnavailable(f"{self.peer}: too many questions under way")
        self._number += 1
        number = self._number
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[number] = answer
        try:
            await self.tell(replace(question, id=number))
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def tell(self, question: Question) -> None:
        self._idle.cancel()
        self._idle = self._loop.call_later(IDLE_S, self._expire)
        await self._ready.wait()
        if self._reason:
            raise PeerUnavailable(f"{self.peer}: {self._reason}")
        assert self._stream is not None
        assert self._channel is not None
        self._stream.send(self._channel.seal(encode(question)))

    def close(self, reason: str) -> None:
        self._over(reason)
        self.task.cancel()

    def _expire(self) -> None:
        if self._waiting:
            self._idle = self._loop.call_later(IDLE_S, self._expire)
        else:
            self.close("idle")

    async def _run(self) -> None:
        reason = "closed"
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                self._stream = await self._connect()
                self._channel = await self._shake_hands(self._stream)
            self._ready.set()
            while True:
                reply = read_reply(self._channel.open(await self._stream.receive()))
                self.heard_at = monotonic_s()
                waiting = self._waiting.get(reply.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except TimeoutError:
            reason = "no handshake in time"
        except asyncio.IncompleteReadError:
            reason = "closed by the other node"
        except (PeerViolation, OSError) as error:
            reason = str(error)
        finally:
            self._over(reason)

    async def _connect(self) -> _Stream:
        address = parse_address(self.peer)
        return _Stream(
            *await asyncio.open_connection(
                address.host, address.port, ssl=self._links.tls, limit=_STREAM_BYTES
            )
        )

    async def _shake_hands(self, stream: _Stream) -> Channel:
        links = self._links
        dialer = Dialer(links.fleet_key, links.fleet, links.node, os.urandom(NONCE_BYTES))
        stream.send(dialer.hello())
        stream.send(dialer.proof(await stream.receive()))
        self.peer_key = dialer.peer_key
        assert dialer.channel is not None
        return dialer.channel

    def _over(self, reason: str) -> None:
        """Nothing is asked over this link any more; who waits is told."""
        if self._reason:
            return
        self._reason = reason
        self._links.forget(self)
        self._idle.cancel()
        if self._stream is not None:
            self._stream.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(PeerUnavailable(f"{self.peer}: {reason}"))
                # Who asked may still wait for the connection, and hears of it there.
                answer.exception()
        self._ready.set()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
