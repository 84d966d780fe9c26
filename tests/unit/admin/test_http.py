"""The HTTP endpoints, asked over a real socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from pgcat_cluster.admin.http import HttpEndpoints, build_application
from pgcat_cluster.telemetry.snapshot import PoolSnapshot
from tests.support.control import SECRETS, SNAPSHOT, FakeControl


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def client(control: FakeControl) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(build_application(control))) as client:
        yield client


async def test_live(client: TestClient) -> None:
    async with client.get("/live") as response:
        assert (response.status, await response.json()) == (200, {"live": True})
        assert response.headers["Cache-Control"] == "no-store"


async def test_ready_says_why_not(client: TestClient, control: FakeControl) -> None:
    async with client.get("/ready") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "reasons": []})
    control.now = msgspec.structs.replace(SNAPSHOT, not_ready=("no primary of cluster c",))
    async with client.get("/ready") as response:
        assert response.status == 503
        assert await response.json() == {"ready": False, "reasons": ["no primary of cluster c"]}


async def test_metrics(client: TestClient) -> None:
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        names = {family.name for family in text_string_to_metric_families(await response.text())}
    assert {"pgcat_cluster_queries", "pgcat_stats_total_query_count"} <= names


async def test_status_is_the_snapshot_without_secrets(client: TestClient) -> None:
    async with client.get("/status") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        text = await response.text()
    assert [secret for secret in SECRETS if secret in text] == []
    status = msgspec.json.decode(text)
    assert msgspec.convert(status["pools"], tuple[PoolSnapshot, ...]) == SNAPSHOT.pools
    assert status["backends"][2]["reason"] == "refused"
    assert {"key": "node.tls.key_file", "value": "node.key", "default": "", "changeable": True} in status[
        "settings"
    ]


@pytest.mark.parametrize("path", ["/", "/metrics/", "/status/../etc", "/favicon.ico"])
async def test_nothing_else_is_there(client: TestClient, path: str) -> None:
    async with client.get(path) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", ["/live", "/ready", "/metrics", "/status"])
async def test_nothing_can_be_changed(client: TestClient, path: str) -> None:
    async with client.post(path) as response:
        assert response.status == 405


async def test_endpoints_start_on_a_free_port_and_stop(control: FakeControl) -> None:
    endpoints = HttpEndpoints(control, host="127.0.0.1", port=0)
    port = await endpoints.start()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/live") as response:
        assert response.status == 200
    await endpoints.stop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))


async def test_a_taken_port_is_an_error_that_leaves_nothing_behind(control: FakeControl) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            await HttpEndpoints(control, host="127.0.0.1", port=taken.getsockname()[1]).start()
