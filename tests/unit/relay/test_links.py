"""One link alone: order of bytes, back-pressure, the end of either side, TLS through memory."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest
import trustme

from pgcat_cluster.net.tls import TlsPipe
from pgcat_cluster.relay.links import Link
from tests.support.scene import Far, Reactor

# As in `links`, where it is a constant of C when compiled.
HIGH_WATER_BYTES = 262144


class Recorder(Link):
    """Consumes as much as it is allowed to, and keeps it."""

    def __init__(self, sock: socket.socket, reactor: Reactor, scratch_bytes: int = 65536) -> None:
        super().__init__(sock, reactor, bytearray(scratch_bytes))
        self.consumed = bytearray()
        self.allowed = 1 << 30
        self.reasons: list[str] = []
        self.drains = 0

    def consume(self, buffer: bytearray, start: int, end: int) -> int:
        stop = min(end, start + self.allowed)
        self.allowed -= stop - start
        self.consumed += buffer[start:stop]
        return stop

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.close()

    def drained(self) -> None:
        self.drains += 1


class Pair:
    """A link and the far end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.reactor = Reactor()
        self.link = Recorder(ours, self.reactor)
        self.far = Far(theirs)
        self.link.start()

    def turn(self) -> None:
        """All that can happen on our side, without the far end reading."""
        while self.link.fd in self.reactor.readers and self.reactor.turn():
            pass

    def exchange(self) -> None:
        while self.reactor.turn() or self.far.collect():
            pass


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.link.close()
    made.far.socket.close()


def test_what_is_not_used_waits_and_is_offered_again_first(pair: Pair) -> None:
    link = pair.link
    link.allowed = 3
    pair.far.send(b"abcdef")
    pair.turn()
    assert (link.consumed, link.pending) == (b"abc", b"def")
    pair.far.send(b"ghi")
    pair.turn()
    assert (link.consumed, link.pending) == (b"abc", b"defghi")
    link.allowed = 4
    link.replay()
    assert (link.consumed, link.pending) == (b"abcdefg", b"hi")
    link.allowed = 100
    link.replay()
    link.replay()
    assert (link.consumed, link.pending) == (b"abcdefghi", b"")
    assert link.bytes_received == 9


def test_a_replay_asked_for_while_consuming_happens_behind_it(pair: Pair) -> None:
    class Again(Recorder):
        def consume(self, buffer: bytearray, start: int, end: int) -> int:
            if end - start > 1:
                self.replay()
            self.consumed += buffer[start : start + 1]
            return start + 1

    pair.link.pause_reading()
    link = Again(pair.link.socket, pair.reactor)
    link.take(bytearray(b"abc"), 0, 3)
    assert (link.consumed, link.pending) == (b"abc", b"")


def test_too_much_input_that_nobody_uses_pauses_reading(pair: Pair) -> None:
    link = pair.link
    link.allowed = 0
    sent = 0
    while link.reading:
        count = pair.far.send(bytes(65536))
        assert count
        sent += count
        pair.turn()
    assert HIGH_WATER_BYTES < len(link.pending) <= HIGH_WATER_BYTES + len(link.scratch)
    assert link.fd not in pair.reactor.readers
    link.allowed = 1 << 30
    link.replay()
    assert link.reading
    pair.turn()
    assert len(link.consumed) == sent


def test_output_leaves_in_order_whatever_the_socket_takes(pair: Pair) -> None:
    link = pair.link
    expected = b""
    for number in range(40):
        part = bytes([number]) * 20000
        expected += part
        if number % 3:
            link.write(bytearray(part), 0, len(part))
        else:
            link.put_bytes(part)
            link.flush()
    assert link.unsent() > 0
    assert link.writing
    pair.exchange()
    assert pair.far.take() == expected
    assert (link.unsent(), link.writing, link.bytes_sent) == (0, False, len(expected))
    assert link.drains >= 1
    # A buffer that has grown is given back.
    assert link.out == b""


def test_put_alone_sends_nothing(pair: Pair) -> None:
    pair.link.put_bytes(b"ab")
    pair.link.put(bytearray(b"xcdx"), 1, 3)
    pair.exchange()
    assert pair.far.take() == b""
    pair.link.flush()
    pair.exchange()
    assert pair.far.take() == b"abcd"


def test_the_end_of_the_other_side_is_told_once_and_last(pair: Pair) -> None:
    pair.far.send(b"bye")
    pair.far.socket.close()
    pair.turn()
    assert pair.link.consumed == b"bye"
    assert pair.link.reasons == ["connection closed by peer"]
    assert not pair.reactor.readers
    assert not pair.reactor.writers


def test_a_failed_write_is_told_by_the_loop_and_not_by_write(pair: Pair) -> None:
    pair.far.socket.close()
    pair.link.write(bytearray(b"x"), 0, 1)
    assert pair.link.reasons == []
    assert pair.link.unsent() == 0
    pair.turn()
    assert len(pair.link.reasons) == 1


def test_closing_waits_for_what_is_unsent_and_hears_nothing_more(pair: Pair) -> None:
    link = pair.link
    link.put_bytes(bytes(2_000_000))
    link.flush()
    pair.far.send(b"too late")
    link.close_after_flush()
    assert not link.closed
    assert link.is_over()
    pair.exchange()
    assert link.closed
    assert (len(pair.far.take()), pair.far.is_closed) == (2_000_000, True)
    assert link.consumed == b""


def test_closing_with_nothing_unsent_is_at_once(pair: Pair) -> None:
    pair.link.close_after_flush()
    assert pair.link.closed
    pair.link.close()
    pair.link.close_after_flush()
    pair.link.flush()
    pair.link.resume_reading()
    pair.link.on_readable()
    pair.link.on_writable()
    assert not pair.reactor.readers
    assert pair.link.reasons == []


class TlsFar:
    """The client's side of a TLS session over a far end."""

    def __init__(self, pair: Pair, authority: trustme.CA) -> None:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        self.pair = pair
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def shuttle(self) -> None:
        data = self.outgoing.read()
        while data:
            data = data[self.pair.far.send(data) :]
            self.pair.exchange()
        self.pair.exchange()
        self.incoming.write(self.pair.far.take())

    def shake_hands(self) -> None:
        while True:
            try:
                self.object.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.shuttle()
        self.shuttle()

    def read_all(self) -> bytes:
        parts = []
        try:
            while part := self.object.read(1 << 20):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def encrypted(pair: Pair, authority: trustme.CA) -> TlsFar:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    pair.link.start_tls(TlsPipe(context, server_side=True))
    far = TlsFar(pair, authority)
    # What is said during the handshake waits for its end.
    pair.link.put_bytes(b"first")
    pair.link.flush()
    far.shake_hands()
    pair.link.flush()
    far.shuttle()
    return far


def test_tls_carries_both_ways(pair: Pair, encrypted: TlsFar) -> None:
    assert not pair.link.handshaking
    assert encrypted.read_all() == b"first"
    for size in (1, 20_000, 500_000):
        encrypted.object.write(bytes(size))
        encrypted.shuttle()
        assert len(pair.link.consumed) == size
        pair.link.consumed.clear()
        pair.link.write(bytearray(size), 0, size)
        encrypted.shuttle()
        assert encrypted.read_all() == bytes(size)
    assert pair.link.unsent() == 0
    assert pair.link.reasons == []


def test_tls_ends_when_the_other_side_says_so(pair: Pair, encrypted: TlsFar) -> None:
    assert encrypted.read_all() == b"first"
    encrypted.object.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        encrypted.object.unwrap()
    encrypted.shuttle()
    assert pair.link.consumed == b"last"
    assert pair.link.reasons == ["connection closed by peer"]


def test_what_is_no_tls_ends_the_link(pair: Pair, encrypted: TlsFar) -> None:
    pair.far.send(b"select 1; this was never encrypted")
    pair.turn()
    assert len(pair.link.reasons) == 1
    assert pair.link.reasons[0].startswith("TLS failed: ")
    assert pair.link.consumed == b""
