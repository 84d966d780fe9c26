"""Two thousand clients on forty links: what an idle client costs, and that nobody starves."""

from __future__ import annotations

import asyncio
import resource
import struct
import time
from dataclasses import dataclass

from tests.bench.measure import percentile, rss_kb
from tests.support.fronts import Front
from tests.support.player import Address, Scram, answer_to, frame, query, startup

_LOGINS_AT_ONCE = 50
_QUERIES_EACH = 10
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """The outcome: memory per idle client, and how long the queries of all of them at once took."""

    target: str
    clients: int
    idle_client_bytes: int
    served: int
    p50_ms: float
    p99_ms: float
    slowest_ms: float


class Client:
    """One connection that asks simple queries."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def message(self) -> tuple[bytes, bytes]:
        header = await self.reader.readexactly(5)
        letter, size = header[:1], struct.unpack("!I", header[1:])[0]
        return letter, await self.reader.readexactly(size - 4)

    async def receive(self) -> tuple[bytes, bytes]:
        letter, body = await self.message()
        if letter == b"E":
            raise ConnectionError(body)
        return letter, body

    async def log_in(self, address: Address) -> None:
        self.writer.write(startup({"user": address.user, "database": address.database}))
        scram = Scram(address.password)
        while (message := await self.receive())[0] != b"Z":
            if message[0] == b"R" and (answer := answer_to(message[1], address, scram)):
                self.writer.write(answer)

    async def ask(self, text: str) -> list[bytes]:
        self.writer.write(query(text))
        rows = []
        while (message := await self.receive())[0] != b"Z":
            if message[0] == b"D":
                rows.append(message[1][6:])
        return rows


async def _gather(front: Front, address: Address, target: str, clients: int) -> Crowd:
    first = await connect(address)
    before_kb = rss_kb(front) or 0
    gate = asyncio.Semaphore(_LOGINS_AT_ONCE)

    async def join() -> Client:
        async with gate:
            return await connect(address)

    crowd = await asyncio.gather(*(join() for _ in range(clients)))
    after_kb = rss_kb(front) or 0
    latencies_ms: list[float] = []

    async def work(number: int, client: Client) -> None:
        for step in range(_QUERIES_EACH):
            started_s = time.monotonic()
            # Whoever gets another one's answer is worse off than who gets none.
            assert await client.ask(f"select {number * 100 + step}") == [str(number * 100 + step).encode()]
            latencies_ms.append((time.monotonic() - started_s) * 1000)

    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*(work(number, client) for number, client in enumerate(crowd)))
    for client in (first, *crowd):
        client.writer.write(frame(b"X"))
        client.writer.close()
    latencies_ms.sort()
    return Crowd(
        target=target,
        clients=clients,
        idle_client_bytes=(after_kb - before_kb) * 1024 // clients,
        served=len(latencies_ms),
        p50_ms=percentile(latencies_ms, 50),
        p99_ms=percentile(latencies_ms, 99),
        slowest_ms=latencies_ms[-1],
    )


async def connect(address: Address) -> Client:
    client = Client(*await asyncio.open_connection(address.host, address.port))
    await client.log_in(address)
    return client


def gather(front: Front, address: Address, *, target: str, clients: int) -> Crowd:
    """Lets the crowd in, weighs it, then has everybody ask at once; TimeoutError if somebody starves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < clients + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, clients + 500), hard))
    return asyncio.run(_gather(front, address, target, clients))
