"""Connections that a test can cut and slow down: relays between who connects and what it connects to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.net.tasks import spawn

_READ_BYTES = 65536
_END_S = 20.0
Target = tuple[str, int]


class _Edge:
    """The way from one end to another: what goes along it waits while it is cut, and a while when it is slow."""

    def __init__(self) -> None:
        self.is_cut = False
        self.delay_s = 0.0
        self._changed = asyncio.Event()

    def set(self, *, is_cut: bool, delay_s: float) -> None:
        self.is_cut, self.delay_s = is_cut, delay_s
        self._changed.set()
        self._changed = asyncio.Event()

    async def passable(self) -> None:
        """Wait as long as what has just arrived here must wait. Nothing is lost, as with TCP."""
        if self.delay_s and not self.is_cut:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.delay_s):
                    await self._changed.wait()
        while self.is_cut:
            await self._changed.wait()


class Relays:
    """A thread with relays, and the edges between named ends. Who connects is known by port, or by its process.

    A cut edge is silent: connections to it are accepted by the kernel, and nothing is answered, until it is mended.
    """

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)

    def __enter__(self) -> Relays:
        self._thread.start()
        return self

    def __exit__(self, *_why: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        self._loop.close()

    # -- being set up

    def listen(self, source: str, name: str, target: Target) -> int:
        """A port on which only `source` connects to what is called `name`."""
        port = free_port()

        async def start() -> asyncio.Server:
            return await asyncio.start_server(
                self._relay(target, lambda _: (source, name)), "127.0.0.1", port
            )

        self._servers.append(self._call(start()))
        return port

    def listen_for_processes(
        self, folder: Path, name: str, target: Target, who: Callable[[int], str]
    ) -> Target:
        """A Unix socket as a PostgreSQL server has it; `who` tells a source by its process id."""
        folder.mkdir(parents=True, exist_ok=True)

        def ends(sock: socket.socket) -> tuple[str, str]:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return who(struct.unpack("3i", credentials)[0]), name

        async def start() -> asyncio.Server:
            path = folder / f".s.PGSQL.{target[1]}"
            return await asyncio.start_unix_server(self._relay(target, ends), path)

        self._servers.append(self._call(start()))
        return str(folder), target[1]

    # -- being cut

    @contextlib.contextmanager
    def cut(self, *edges: tuple[str, str]) -> Iterator[None]:
        """Nothing passes between these ends, in either direction."""
        with self._changed(edges, is_cut=True):
            yield

    @contextlib.contextmanager
    def slowed(self, delay_s: float, *edges: tuple[str, str]) -> Iterator[None]:
        """Whatever passes between these ends takes so much longer, each way."""
        with self._changed(edges, delay_s=delay_s):
            yield

    @contextlib.contextmanager
    def _changed(
        self, edges: tuple[tuple[str, str], ...], *, is_cut: bool = False, delay_s: float = 0.0
    ) -> Iterator[None]:
        def apply(is_cut: bool, delay_s: float) -> None:
            for edge in edges:
                self._edge(*edge).set(is_cut=is_cut, delay_s=delay_s)

        self._loop.call_soon_threadsafe(apply, is_cut, delay_s)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(apply, False, 0.0)

    # -- within the thread

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_END_S)

    def _edge(self, source: str, name: str) -> _Edge:
        return self._edges.setdefault((source, name), _Edge())

    def _relay(
        self, target: Target, ends: Callable[[socket.socket], tuple[str, str]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            edge = self._edge(*ends(writer.get_extra_info("socket")))
            await edge.passable()
            try:
                far_reader, far_writer = await asyncio.open_connection(*target)
            except OSError:
                # As if nobody listened, as far as one can who has accepted already.
                writer.transport.abort()
                return
            one = spawn(_pump(reader, far_writer, edge), "relay there")
            other = spawn(_pump(far_reader, writer, edge), "relay back")
            try:
                await asyncio.wait((one, other), return_when=asyncio.FIRST_COMPLETED)
            finally:
                one.cancel()
                other.cancel()
                for end in (writer, far_writer):
                    end.close()

        return relay

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, edge: _Edge) -> None:
    """Pass on what comes from one side until it ends; its end waits as well where nothing passes."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_READ_BYTES):
            await edge.passable()
            writer.write(data)
            await writer.drain()
    await edge.passable()
