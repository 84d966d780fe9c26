"""Relays pass bytes on, hold them back and slow them down, and lose none."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.relays import Relays, Target

pytestmark = pytest.mark.once

WITHIN_S = 20.0


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data)


@contextlib.contextmanager
def echo() -> Iterator[Target]:
    """A server that sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield "127.0.0.1", int(server.server_address[1])
        server.shutdown()
    thread.join(WITHIN_S)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.05)
    try:
        client.recv(100)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        client.settimeout(WITHIN_S)


def test_what_a_cut_holds_back_arrives_when_it_is_mended() -> None:
    with echo() as target, Relays() as relays:
        port, other = relays.listen("px-1", "r1", target), relays.listen("px-2", "r1", target)
        with connected(port) as client:
            client.sendall(b"one")
            assert client.recv(100) == b"one"
            with relays.cut(("px-1", "r1")):
                client.sendall(b"two")
                assert is_silent(client)
            assert client.recv(100) == b"two"
            with relays.slowed(0.2, ("px-1", "r1")):
                began_s = time.monotonic()
                client.sendall(b"three")
                assert client.recv(100) == b"three"
                assert time.monotonic() - began_s >= 0.4
        with relays.cut(("px-1", "r1")), connected(other) as client, connected(port) as cut:
            client.sendall(b"four")
            assert client.recv(100) == b"four"
            cut.sendall(b"five")
            assert is_silent(cut)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells which process connects")
def test_who_connects_is_known_by_its_process(tmp_path: Path) -> None:
    names = {os.getpid(): "px-1"}
    with echo() as target, Relays() as relays:
        folder, port = relays.listen_for_processes(tmp_path / "r1", "r1", target, lambda pid: names[pid])
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN_S)
            client.connect(f"{folder}/.s.PGSQL.{port}")
            client.sendall(b"one")
            assert client.recv(100) == b"one"
            with relays.cut(("px-2", "r1")):
                client.sendall(b"two")
                assert client.recv(100) == b"two"
            with relays.cut(("px-1", "r1")):
                client.sendall(b"three")
                assert is_silent(client)


def test_where_nobody_listens_connections_are_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, gone = server.getsockname()
    with Relays() as relays, connected(relays.listen("px-1", "r1", (host, gone))) as client:
        assert client.recv(100) == b""
