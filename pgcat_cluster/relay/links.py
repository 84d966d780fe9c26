"""A link: one non-blocking socket of ours with its unconsumed input, its unsent output and its optional TLS."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from socket import MSG_PEEK, socket
from typing import Protocol, cast

from pgcat_cluster.relay import octets, sockets

# recv_into and send_from answer a count, or one of these.
WOULD_BLOCK = -1

# A reader whose peer has this much unsent output stops reading until the output falls below the low mark.
HIGH_WATER_BYTES = 262144
LOW_WATER_BYTES = 65536
# A buffer that once grew beyond this is given back when it is empty.
KEEP_BUFFER_BYTES = 65536
TLS_READ_BYTES = 65536


class Reactor(Protocol):
    """What a link needs of an event loop."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...

    def add_writer(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_writer(self, fd: int, /) -> object: ...


class TlsPipe(Protocol):
    """A TLS session without a socket: ciphertext goes through the two memory buffers."""

    object: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class Link:
    """One connection: owns its socket, what came in and was not consumed, and what is to go out.

    A subclass consumes input (`consume`), is told of the end (`lost`) and of output that drained (`drained`).
    Always holds: bytes leave in the order they were put; nothing is read while reading is paused; after
    `close` no callback runs any more.
    """

    __slots__ = (
        "again", "bytes_received", "bytes_sent", "closed", "closing", "consuming", "fd", "handshaking", "out",
        "out_start", "peer", "pending", "plain", "reactor", "reading", "remaining", "scratch", "socket",
        "tls", "writing",
    )  # fmt: skip

    def __init__(self, sock: socket, reactor: Reactor, scratch: bytearray) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.reactor = reactor
        self.scratch = scratch
        self.pending = bytearray()
        self.out = bytearray()
        self.out_start = 0
        self.plain = bytearray()
        self.remaining = 0
        self.peer: Link | None = None
        self.tls: TlsPipe | None = None
        self.handshaking = False
        self.reading = False
        self.writing = False
        self.consuming = False
        self.again = False
        self.closing = False
        self.closed = False
        self.bytes_received = 0
        self.bytes_sent = 0

    # -- what a subclass does ------------------------------------------------------------------------------

    def consume(self, buffer: bytearray, start: int, end: int) -> int:
        """Use what can be used of buffer[start:end]; answer the offset of the first byte not used."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """The other side closed, or the socket failed."""
        raise NotImplementedError

    def drained(self) -> None:
        """The output fell below the low mark."""
        peer = self.peer
        if peer is not None:
            peer.resume_reading()

    # -- input ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen to the socket."""
        self.resume_reading()

    def pause_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.reactor.remove_reader(self.fd)

    def resume_reading(self) -> None:
        if not self.reading and not self.closed:
            self.reading = True
            self.reactor.add_reader(self.fd, self.on_readable)

    def on_readable(self) -> None:
        if self.closed:
            return
        scratch = self.scratch
        count = sockets.recv_into(self.fd, scratch, 0, len(scratch))
        if count > 0:
            self.bytes_received += count
            try:
                if self.tls is None:
                    self.take(scratch, 0, count)
                else:
                    self._receive_tls(count)
            except Exception:
                self._break_off()
                raise
        elif count != WOULD_BLOCK:
            self.lost("connection closed by peer" if count == 0 else "connection failed")

    def ahead(self) -> bytes | None:
        """The first byte that waits to be read, b"" at the end of the stream, None if nothing has come."""
        try:
            return self.socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _break_off(self) -> None:
        """A fault of ours: what the two links of a couple owe each other is no longer known, so both end."""
        for link in (self.peer, self):
            if link is not None:
                link.lost("internal error")

    def poke(self) -> None:
        """Look whether the peer is still there.

        libuv stops to watch a socket that reports an error. If data came in front of the error, reading them gives
        no error yet, and nobody would call again.
        """
        if self.reading and not self.closed and not self.consuming:
            self.on_readable()

    def _receive_tls(self, count: int) -> None:
        """Decrypt what arrived and take it; finish the handshake first."""
        pipe = self.tls
        assert pipe is not None
        pipe.incoming.write(memoryview(self.scratch)[:count])
        try:
            if self.handshaking and not self._shake_hands():
                return
            while not self.closed:
                # With a buffer it answers a count, whatever its declaration says.
                size = cast(int, pipe.object.read(TLS_READ_BYTES, self.scratch))
                if size == 0:
                    self.lost("connection closed by peer")
                    break
                self.take(self.scratch, 0, size)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.lost(f"TLS failed: {error.reason}")
            return
        # The session may answer by itself (key updates, alerts).
        self._send_answers()

    def _send_answers(self) -> None:
        pipe = self.tls
        if pipe is not None and pipe.outgoing.pending > 0 and not self.closed:
            self.out += pipe.outgoing.read()
            if not self.writing:
                self._send()

    def start_tls(self, pipe: TlsPipe) -> None:
        """Become one side of a TLS session. Whoever calls has made sure that no plain input waits."""
        self.tls = pipe
        self.handshaking = True

    def _shake_hands(self) -> bool:
        """Go on with the handshake; whether it is done."""
        pipe = self.tls
        assert pipe is not None
        try:
            pipe.object.do_handshake()
            self.handshaking = False
        except ssl.SSLWantReadError:
            pass
        finally:
            self._send_answers()
        return not self.handshaking

    def take(self, buffer: bytearray, start: int, end: int) -> None:
        """Consume new input behind what is pending; keep what can't be consumed yet."""
        if self.pending or self.consuming:
            octets.append(self.pending, buffer, start, end)
            if not self.consuming:
                self.replay()
            return
        self.consuming = True
        used = self.consume(buffer, start, end)
        self.consuming = False
        if used < end and not self.closed:
            octets.append(self.pending, buffer, used, end)
            if len(self.pending) > HIGH_WATER_BYTES:
                self.hold_back()
        if self.again:
            self.again = False
            self.replay()

    def replay(self) -> None:
        """Try again to consume what is pending: something it waited for has happened."""
        if self.consuming:
            self.again = True
            return
        if self.handshaking or self.is_over():
            return
        size = len(self.pending)
        if size == 0:
            return
        self.consuming = True
        # The buffer is set aside so that nothing can grow it while it is being read.
        buffer = self.pending
        self.pending = bytearray()
        used = self.consume(buffer, 0, size)
        self.consuming = False
        if self.closed:
            return
        if used < size:
            if used > 0:
                del buffer[:used]
            if len(self.pending) > 0:
                buffer += self.pending
            self.pending = buffer
        if len(self.pending) > HIGH_WATER_BYTES:
            self.hold_back()
        elif not self.reading:
            peer = self.peer
            if peer is None or peer.unsent() <= HIGH_WATER_BYTES:
                self.resume_reading()
        if self.again:
            self.again = False
            self.replay()

    def hold_back(self) -> None:
        """Too much input waits: a subclass may need more of a frame, else reading pauses."""
        self.pause_reading()

    # -- output --------------------------------------------------------------------------------------------

    def unsent(self) -> int:
        """Bytes put and not yet sent."""
        return len(self.out) - self.out_start + len(self.plain)

    def put(self, buffer: bytearray, start: int, end: int) -> None:
        """Append output; `flush` sends it."""
        octets.append(self.out if self.tls is None else self.plain, buffer, start, end)

    def put_bytes(self, data: bytes) -> None:
        """Append output; `flush` sends it."""
        if self.tls is None:
            self.out += data
        else:
            self.plain += data

    def write(self, buffer: bytearray, start: int, end: int) -> bool:
        """Send now what the socket takes, keep the rest; whether nothing is kept."""
        if not (self.out or self.tls is not None or self.closed):
            sent = sockets.send_from(self.fd, buffer, start, end)
            if sent > 0:
                self.bytes_sent += sent
                if sent == end - start:
                    return True
                start += sent
            elif sent != WOULD_BLOCK:
                self._failed()
                return True
        self.put(buffer, start, end)
        self.flush()
        return self.unsent() == 0

    def flush(self) -> None:
        """Send what is put; the event loop goes on with what the socket does not take."""
        if self.closed or self.handshaking:
            return
        if self.plain:
            self._seal()
        if not self.writing and len(self.out) > self.out_start:
            self._send()

    def _seal(self) -> None:
        """Encrypt what was put."""
        pipe = self.tls
        assert pipe is not None
        pipe.object.write(self.plain)
        self.plain.clear()
        self.out += pipe.outgoing.read()

    def _send(self) -> None:
        out = self.out
        size = len(out)
        start = self.out_start
        sent = sockets.send_from(self.fd, out, start, size)
        if sent > 0:
            self.bytes_sent += sent
            start += sent
            self.out_start = start
        elif sent != WOULD_BLOCK:
            self._failed()
            return
        if start == size:
            if size > KEEP_BUFFER_BYTES:
                self.out = bytearray()
            else:
                out.clear()
            self.out_start = 0
            if self.closing:
                self.close()
        elif not self.writing:
            self.writing = True
            self.reactor.add_writer(self.fd, self.on_writable)

    def on_writable(self) -> None:
        if self.closed:
            return
        self.writing = False
        self.reactor.remove_writer(self.fd)
        if self.out_start > HIGH_WATER_BYTES:
            del self.out[: self.out_start]
            self.out_start = 0
        self._send()
        if self.unsent() < LOW_WATER_BYTES and not self.is_over():
            self.drained()

    def _failed(self) -> None:
        """Sending failed. The loss is told by the reading side, from the event loop, so that no caller of
        `write` is called back in the middle of what it does."""
        self.out.clear()
        self.plain.clear()
        self.out_start = 0
        self.resume_reading()

    # -- the end -------------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Closed, or about to be: input is no longer looked at."""
        return self.closed or self.closing

    def close_after_flush(self) -> None:
        """Close as soon as all output has left; input is no longer looked at."""
        if self.closed:
            return
        self.closing = True
        self.pause_reading()
        self.pending.clear()
        if self.tls is not None and not self.handshaking:
            self._end_tls()
        if self.unsent() == 0:
            self.close()

    def _end_tls(self) -> None:
        """Tell the other side that nothing follows: an end without it might be an attacker's."""
        pipe = self.tls
        assert pipe is not None
        if len(self.plain) > 0:
            self._seal()
        # The other side's own end is not waited for.
        with contextlib.suppress(ssl.SSLError):
            pipe.object.unwrap()
        self._send_answers()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.reading:
            self.reading = False
            self.reactor.remove_reader(self.fd)
        if self.writing:
            self.writing = False
            self.reactor.remove_writer(self.fd)
        self.pending.clear()
        self.plain.clear()
        self.out.clear()
        self.out_start = 0
        self.socket.close()
