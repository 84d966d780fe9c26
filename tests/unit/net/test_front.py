"""The way in, frame by frame; what a console's session does with its long commands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from pgcat_cluster.net.front import ConsoleFront, Front
from pgcat_cluster.relay.client import Client
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.startup import STARTUP_BYTES_MAX, CancelRequest
from tests.support.scene import Far, Reactor, Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def said(scene: Scene, name: str = "c1") -> bytes:
    return scene.ends[name].take()


def test_nothing_but_a_start_up_packet_of_a_sane_length_is_waited_for(scene: Scene) -> None:
    for number, length in enumerate((0, 3, 7, STARTUP_BYTES_MAX + 5, 0x7FFFFFFF, 0xFFFFFFFF)):
        name = f"c{number}"
        client = scene.connect(name)
        scene.send(name, length.to_bytes(4, "big") + b"\0" * 4)
        assert client.closed, length
        assert said(scene, name) == b""
        assert client not in scene.fronts


def test_a_longest_start_up_packet_is_read(scene: Scene) -> None:
    filler = "x" * (
        STARTUP_BYTES_MAX - len(m.startup({"user": "md5", "database": "test", "application_name": ""})) + 4
    )
    packet = m.startup({"user": "md5", "database": "test", "application_name": filler})
    assert len(packet) == STARTUP_BYTES_MAX + 4
    scene.connect("c1")
    scene.send("c1", packet)
    assert said(scene) == m.authentication_md5(b"\7" * 4)


def test_a_message_that_is_not_expected_is_refused_by_its_header(scene: Scene) -> None:
    client = scene.connect("c1")
    scene.send("c1", m.startup({"user": "scram", "database": "test"}))
    said(scene)
    # The body never comes.
    scene.send("c1", b"Q\0\0\1\0")
    assert m.fields_of_error(said(scene)[5:])["M"] == "expected SASL response, got message type 81"
    assert client.closed


def test_a_password_that_is_too_long_is_refused_by_its_header(scene: Scene) -> None:
    client = scene.connect("c1")
    scene.send("c1", m.startup({"user": "scram", "database": "test"}))
    said(scene)
    scene.send("c1", b"p" + (4 + 1025).to_bytes(4, "big"))
    assert m.fields_of_error(said(scene)[5:])["C"] == "08P01"
    assert client.closed


@pytest.mark.parametrize("first", [m.ssl_request(), m.gss_request()])
@pytest.mark.parametrize("second", [m.ssl_request(), m.gss_request()])
def test_each_encryption_is_asked_for_once(scene: Scene, first: bytes, second: bytes) -> None:
    client = scene.connect("c1")
    scene.send("c1", first, second)
    if first == second:
        answer = said(scene)
        assert answer[:1] == b"N"
        assert m.fields_of_error(answer[6:])["M"] == "encryption was already negotiated"
        assert client.closed
    else:
        assert said(scene) == b"NN"
        scene.send("c1", m.startup({"user": "md5", "database": "test"}))
        assert said(scene) == m.authentication_md5(b"\7" * 4)


def test_a_cancel_request_is_never_answered(scene: Scene) -> None:
    asked: list[tuple[Client, CancelRequest]] = []
    scene.cancel = lambda *request: asked.append(request)  # type: ignore[method-assign]
    client = scene.connect("c1")
    # What follows it on the same connection is nobody's business, not even while it is seen to.
    scene.send(
        "c1", m.cancel_request(7, b"1234") + m.cancel_request(8, b"1234"), m.cancel_request(9, b"1234")
    )
    assert asked == [(client, CancelRequest(pid=7, secret=b"1234"))]
    assert (said(scene), client.closed) == (b"", False)
    client.close_after_flush()
    assert (said(scene), client.closed) == (b"", True)


def test_a_client_that_goes_is_no_longer_known(scene: Scene) -> None:
    for number, packets in enumerate(
        ([], [m.ssl_request()], [m.startup({"user": "scram", "database": "test"})])
    ):
        scene.connect(f"c{number}")
        scene.send(f"c{number}", *packets)
        scene.leave(f"c{number}")
        assert not scene.fronts


def test_nothing_is_expected_of_a_front_that_has_ended(scene: Scene) -> None:
    front = Front(scene, 0.0)
    assert front.frame_bytes_max(0) == STARTUP_BYTES_MAX
    front._login = iter(())  # type: ignore[assignment]
    assert front.frame_bytes_max(0x51) == -1


# -- consoles


@dataclass
class Answer:
    data: bytes = b""
    action: Callable[[], Awaitable[bytes]] | None = None
    closes: bool = False


class Console:
    """Answers with what it was given, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, bytes]] = []

    def receive(self, kind: int, body: bytes) -> Answer:
        self.asked.append((kind, body))
        return self.answers.pop(0)

    def cancel(self) -> None: ...


class Visit:
    """A client that talks to a console."""

    def __init__(self, *answers: Answer) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.far = Far(theirs)
        self.reactor = Reactor()
        self.console = Console(*answers)
        self.left: list[Client] = []
        self.front = ConsoleFront(self.console, self.left.append)
        self.client = Client(ours, self.reactor, bytearray(1000), self.front)
        self.client.is_starting = False
        self.client.start()

    def exchange(self, data: bytes = b"") -> bytes:
        self.far.send(data)
        while self.reactor.turn() or self.far.collect():
            pass
        return self.far.take()


async def test_a_console_answers_frame_by_frame() -> None:
    visit = Visit(Answer(b"one"), Answer(b"two"), Answer(b"bye", closes=True))
    assert visit.exchange(m.query("a") + m.query("b")) == b"onetwo"
    assert visit.console.asked == [(0x51, b"a\0"), (0x51, b"b\0")]
    assert visit.exchange(m.terminate()) == b"bye"
    assert visit.client.closed
    assert visit.left == [visit.client]


async def test_a_long_command_holds_back_what_is_sent_behind_it() -> None:
    done = asyncio.Event()

    async def action() -> bytes:
        await done.wait()
        return b"paused"

    visit = Visit(Answer(b"", action), Answer(b"shown"))
    assert visit.exchange(m.query("pause") + m.query("show")) == b""
    assert len(visit.console.asked) == 1
    done.set()
    await asyncio.gather(visit.front._task)
    assert visit.exchange() == b"pausedshown"
    visit.client.close()


async def test_a_console_that_is_left_gives_its_long_command_up() -> None:
    visit = Visit(Answer(b"", asyncio.Event().wait))  # type: ignore[arg-type]
    visit.exchange(m.query("wait_close"))
    task = visit.front._task
    assert task is not None
    visit.far.socket.close()
    while visit.reactor.turn():
        pass
    with pytest.raises(asyncio.CancelledError):
        await task
    assert visit.client.closed
    assert visit.left == [visit.client]


async def test_a_command_that_is_too_long_ends_the_console() -> None:
    visit = Visit()
    answer = visit.exchange(b"Q\0\2\0\0")
    assert m.fields_of_error(answer[5:])["M"] == "command too long for the admin console"
    assert visit.client.closed
    assert visit.console.asked == []
