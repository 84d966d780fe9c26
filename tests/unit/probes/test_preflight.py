"""What a preflight tries of changed documents, and what it leaves alone since it is as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pgcat_cluster.net.config_file import tls_contexts
from pgcat_cluster.probes.preflight import Trial
from pgcat_cluster.topology.model import build
from pgcat_cluster.topology.reading import parse
from pgcat_cluster.topology.settings import Settings

pytestmark = pytest.mark.once

_DOCUMENTS = """
[users.app]
auth = "trust"
[clusters.main]
tls = {{ mode = "disable" }}
leadership = {{ source = "static", primary = "p1" }}
[clusters.main.servers]
p1 = {{ host = "127.0.0.1", port = {port} }}
[pools.app]
users = {{ app = {{}} }}
{pool}
"""


class Door:
    """A server's port: counts who knocks, and lets nobody in."""

    def __init__(self) -> None:
        self.port = 0
        self.knocks = 0

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._knocked, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _knocked(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocks += 1
        writer.close()

    def documents(self, pool: str, secret: str = "secret") -> Settings:
        users = f'server_user = "app"\nserver_secret = "env:{secret}"'
        text = _DOCUMENTS.format(port=self.port, pool=pool)
        return parse(text.replace('auth = "trust"', f'auth = "trust"\n{users}'), "test")


@pytest_asyncio.fixture
async def door() -> AsyncIterator[Door]:
    found = Door()
    async with await found.open():
        yield found


async def tried(door: Door, before: Settings, after: Settings) -> int:
    """How often the server was asked because of an edit of the pool."""
    in_force, topology = (
        build(settings, lambda reference: reference.name, source="test") for settings in (before, after)
    )
    loop = asyncio.get_running_loop()
    trial = Trial(after, topology, tls_contexts(topology).outgoing, loop, in_force=in_force)
    assert await trial.run(["pools/app"]) == ((), ())
    return door.knocks


async def test_a_pool_that_only_grows_logs_in_nowhere(door: Door) -> None:
    assert await tried(door, door.documents("size = 7"), door.documents("size = 8")) == 0


async def test_a_pool_of_another_database_is_tried(door: Door) -> None:
    assert await tried(door, door.documents(""), door.documents('server_database = "other"')) == 1


async def test_another_password_is_tried(door: Door) -> None:
    assert await tried(door, door.documents(""), door.documents("", "other")) == 1
