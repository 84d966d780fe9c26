"""Accepts client connections on own sockets, so that a node can stop and start to listen at will."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator

from pgcat_cluster.net.outgoing import keep_alive
from pgcat_cluster.topology.settings import Tcp
from pgcat_cluster.topology.units import Address

_BACKLOG = 4096
# Connections taken in one turn of the loop, so that those who are in get their turn too.
_ACCEPTS_PER_TURN = 64
_PAUSE_S = 0.1


class Listener:
    """One listening socket; `on_client` gets each accepted one, non-blocking, with its peer's address.

    `tcp` may be changed: it holds for who comes next. Raises OSError if the address can not be had.
    """

    def __init__(
        self,
        address: Address,
        *,
        reuse_port: bool,
        tcp: Tcp,
        on_client: Callable[[socket.socket, tuple[str, int]], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.address = address
        self.tcp = tcp
        self._on_client = on_client
        self._loop = loop
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._sock.bind((address.host, address.port))
            self._sock.listen(_BACKLOG)
            self._sock.setblocking(False)
        except OSError:
            self._sock.close()
            raise
        self.port: int = self._sock.getsockname()[1]
        self._is_open = True
        loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, peer = self._sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The backlog keeps them; asking again at once would only burn time.
                    self._loop.remove_reader(self._sock.fileno())
                    self._loop.call_later(_PAUSE_S, self._resume)
                return
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(client, self.tcp)
            self._on_client(client, (str(peer[0]), int(peer[1])))

    def _resume(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()


@contextlib.contextmanager
def naming(address: Address) -> Iterator[None]:
    """An OSError says which address can not be had."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{address}: {os.strerror(error.errno or 0)}") from error
