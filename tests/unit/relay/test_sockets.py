"""Tests of recv and send: counts, the end of a stream, what would block, dead connections."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from pgcat_cluster.relay import sockets

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection over TCP, both ends without blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    here.setblocking(False)
    there.setblocking(False)
    with here, there:
        yield here, there


def readable(end: socket.socket) -> int:
    """The file descriptor, once something can be read from it."""
    end.settimeout(60)
    end.recv(1, socket.MSG_PEEK)
    end.setblocking(False)
    return end.fileno()


def test_bytes_go_from_and_into_the_middle_of_a_buffer(pair: Pair) -> None:
    here, there = pair
    assert sockets.send_from(here.fileno(), bytearray(b"..hello.."), 2, 7) == 5
    buffer = bytearray(b"_" * 10)
    assert sockets.recv_into(readable(there), buffer, 3, 10) == 5
    assert buffer == b"___hello__"
    buffer.append(0)  # nothing holds on to the memory of the buffer


def test_no_more_is_received_than_there_is_room(pair: Pair) -> None:
    here, there = pair
    here.send(b"hello")
    buffer = bytearray(b"_" * 6)
    assert sockets.recv_into(readable(there), buffer, 1, 4) == 3
    assert buffer == b"_hel__"
    assert sockets.recv_into(there.fileno(), buffer, 0, 6) == 2
    assert buffer == b"loel__"


def test_nothing_to_receive_and_no_room_to_send_would_block(pair: Pair) -> None:
    here, there = pair
    buffer = bytearray(1 << 20)
    assert sockets.recv_into(there.fileno(), buffer, 0, len(buffer)) == -1
    counts = [sockets.send_from(here.fileno(), buffer, 0, len(buffer))]
    while counts[-1] > 0:
        counts.append(sockets.send_from(here.fileno(), buffer, 0, len(buffer)))
    assert counts[0] > 0
    assert counts[-1] == -1


def test_a_closed_connection_is_the_end(pair: Pair) -> None:
    here, there = pair
    here.close()
    assert sockets.recv_into(readable(there), bytearray(9), 0, 9) == 0


def test_a_reset_connection_is_dead(pair: Pair) -> None:
    here, there = pair
    here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    here.close()
    with pytest.raises(ConnectionResetError):
        readable(there)
    there.setblocking(False)
    # The error was told once; what is sent afterwards raises no signal, and says that nobody listens.
    assert sockets.send_from(there.fileno(), bytearray(9), 0, 9) == -2


def test_a_descriptor_that_is_none_is_dead() -> None:
    assert sockets.recv_into(-1, bytearray(9), 0, 9) == -2
    assert sockets.send_from(-1, bytearray(9), 0, 9) == -2
