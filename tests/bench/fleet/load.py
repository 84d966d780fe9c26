"""Clients that ask at a fixed rate, whatever becomes of the answers, and remember what became of them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.tasks import spawn
from tests.bench.crowd import Client, connect
from tests.support.player import Address, query

# It takes a while, so that some of them are at a server when that dies; a replica may answer it.
STATEMENT = "select inet_server_port(), pg_sleep(0.02)"
_AGAIN_S = 0.1


async def passing(duration_s: float) -> None:
    """Let time pass: here it is what is measured."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(duration_s, over.set)
    await over.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one statement, by the shared monotonic clock of this machine.

    `port` is the server's that answered; without one, `fault` is a SQLSTATE or what ended the connection, and
    `begun` tells whether the answer had begun to arrive before.
    """

    node: int
    due_s: float
    sent_s: float
    ended_s: float
    port: int = 0
    fault: str = ""
    begun: bool = False


class Load:
    """An open loop: each client asks at its own moments and not when an answer came; what it misses is not made up.

    Owns its clients' tasks. `pause` keeps them connected and silent.
    """

    def __init__(self, nodes: Sequence[Address], *, clients_each: int, rate: float) -> None:
        self.answers: list[Answer] = []
        self._speaks = asyncio.Event()
        self._speaks.set()
        count = len(nodes) * clients_each
        self._period_s = count / rate
        # Nodes take turns, so that the statements of each are spread evenly too.
        self._callers = [
            (number % len(nodes), nodes[number % len(nodes)], number / rate) for number in range(count)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        began_s = monotonic_s()
        self._tasks = [
            spawn(self._call(node, address, began_s + offset_s), f"client of node {node}")
            for node, address, offset_s in self._callers
        ]
        return self

    async def __aexit__(self, *_why: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pause(self) -> None:
        self._speaks.clear()

    def resume(self) -> None:
        self._speaks.set()

    async def _call(self, node: int, address: Address, due_s: float) -> None:
        client: Client | None = None
        try:
            while True:
                if not self._speaks.is_set():
                    await self._speaks.wait()
                missed = max(0, int((monotonic_s() - due_s) // self._period_s))
                due_s += missed * self._period_s
                await passing(due_s - monotonic_s())
                sent_s, said = monotonic_s(), _Said()
                try:
                    if client is None:
                        client = await connect(address)
                    await said.hear(client)
                except (OSError, asyncio.IncompleteReadError) as error:
                    said.fault = said.fault or type(error).__name__
                    if client is not None:
                        client.writer.close()
                    client = None
                    await passing(_AGAIN_S)
                self.answers.append(
                    Answer(
                        node=node,
                        due_s=due_s,
                        sent_s=sent_s,
                        ended_s=monotonic_s(),
                        port=said.port if not said.fault else 0,
                        fault=said.fault,
                        begun=said.begun,
                    )
                )
                due_s += self._period_s
        finally:
            if client is not None:
                with suppress(OSError):
                    client.writer.close()


class _Said:
    """The answer to one statement, as far as it came."""

    def __init__(self) -> None:
        self.port = 0
        self.fault = ""
        self.begun = False

    async def hear(self, client: Client) -> None:
        client.writer.write(query(STATEMENT))
        while (message := await client.message())[0] != b"Z":
            letter, body = message
            if letter == b"E":
                self.fault = _sqlstate(body)
            elif letter == b"D":
                (size,) = struct.unpack_from("!i", body, 2)
                self.port = int(body[6 : 6 + size])
            self.begun = self.begun or letter in b"TDC"


def _sqlstate(body: bytes) -> str:
    return next((field[1:].decode() for field in body.split(b"\0") if field[:1] == b"C"), "?")
