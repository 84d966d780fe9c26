"""Server links to real servers: TLS in every mode, channel binding, cancel, and a server that is not well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import wait_until
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.health.evidence import EvidenceClass
from pgcat_cluster.net.outgoing import (
    ConnectRefused,
    LoginRefused,
    OpenedServer,
    OpenFailed,
    OpenTimeout,
    ServerAddress,
    SimpleConnection,
    TlsRefused,
    open_server,
    send_cancel,
)
from pgcat_cluster.net.tls import OutgoingTls, TlsMode
from tests.support.nodes import WITHIN_S
from tests.support.stack import StackMaker

pytestmark = pytest.mark.once

PLAIN = OutgoingTls("disable")


async def opening(server: Postgres, tls: OutgoingTls = PLAIN, **changed: Any) -> OpenedServer:
    arguments = {
        "user": "test",
        "database": "test",
        "password": server.passwords["test"],
        "parameters": {"application_name": "net", "search_path": "pg_catalog"},
        "timeout_s": WITHIN_S,
        **changed,
    }
    address = arguments.pop("address", ServerAddress(host=server.host, port=server.port))
    return await open_server(address, tls=tls, loop=asyncio.get_running_loop(), **arguments)


@contextlib.asynccontextmanager
async def connected(
    server: Postgres, tls: OutgoingTls = PLAIN, **changed: Any
) -> AsyncIterator[tuple[OpenedServer, SimpleConnection]]:
    opened = await opening(server, tls, **changed)
    address = ServerAddress(host=server.host, port=server.port)
    connection = SimpleConnection(opened, address, asyncio.get_running_loop())
    try:
        yield opened, connection
    finally:
        connection.close()


async def test_a_plain_link(pg_stack: Stack) -> None:
    async with connected(pg_stack.primary) as (opened, connection):
        rows = await connection.query(
            "select pg_backend_pid(), current_setting('search_path'), null", WITHIN_S
        )
        assert rows == [[str(opened.ready.pid), "pg_catalog", None]]
        assert opened.ready.parameters["application_name"] == "net"
        assert opened.leftover == b""


async def test_a_unix_socket(pg_stack: Stack) -> None:
    """TLS is not for Unix sockets, even where it is required: as in libpq."""
    address = ServerAddress(host=str(pg_stack.folder), port=pg_stack.primary.port)
    async with connected(pg_stack.primary, OutgoingTls("require"), address=address) as (opened, connection):
        assert opened.tls is None
        assert await connection.query("select inet_client_addr()", WITHIN_S) == [[None]]


async def test_what_the_server_refuses(pg_stack: Stack) -> None:
    for changed, sqlstate in [({"password": "wrong"}, "28P01"), ({"database": "nowhere"}, "3D000")]:
        with pytest.raises(LoginRefused) as caught:
            await opening(pg_stack.primary, **changed)
        assert (caught.value.sqlstate, caught.value.evidence) == (sqlstate, EvidenceClass.CONFIG)


async def test_a_cancel_request_reaches_the_query(pg_stack: Stack) -> None:
    server = pg_stack.primary
    async with connected(server) as (opened, connection):
        asleep = asyncio.get_running_loop().create_task(connection.query("select pg_sleep(60)", WITHIN_S))

        def is_asleep() -> bool:
            wait = f"select wait_event from pg_stat_activity where pid = {opened.ready.pid}"
            return server.query(wait) == [("PgSleep",)]

        await asyncio.to_thread(wait_until, is_asleep, within_s=WITHIN_S, what="the query sleeps")
        address = ServerAddress(host=server.host, port=server.port)
        pid, secret = opened.ready.pid, opened.ready.secret
        loop = asyncio.get_running_loop()
        await send_cancel(address, tls=PLAIN, pid=pid, secret=secret, timeout_s=WITHIN_S, loop=loop)
        with pytest.raises(LoginRefused) as caught:
            await asleep
        assert caught.value.sqlstate == "57014"


async def test_a_frozen_server_and_a_killed_one(make_stack: StackMaker) -> None:
    server = make_stack(replicas=0).primary
    server.freeze()
    try:
        with pytest.raises(OpenTimeout) as hung:
            await opening(server, timeout_s=1.0)
    finally:
        server.resume()
    assert hung.value.evidence is EvidenceClass.SOFT
    server.kill()
    with pytest.raises(ConnectRefused):
        await opening(server)


@dataclass
class Protected:
    """A server with TLS, and who vouches for it and for its clients."""

    server: Postgres
    authority: trustme.CA
    ca: str
    client_cert: str
    client_key: str


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    with Stack(replicas=0) as stack:
        server = stack.primary
        if not server.query("show ssl_library")[0][0]:
            pytest.skip(f"{server.binaries.tool('postgres')} is built without TLS")
        authority = trustme.CA()
        folder = tmp_path_factory.mktemp("tls")
        files = [str(folder / name) for name in ("ca.pem", "client.pem", "client.key")]
        authority.cert_pem.write_to_path(files[0])
        client = authority.issue_cert("test", common_name="test")
        client.cert_chain_pems[0].write_to_path(files[1])
        client.private_key_pem.write_to_path(files[2])
        leaf = authority.issue_cert("localhost", common_name="localhost")
        server.write("server.crt", leaf.cert_chain_pems[0].bytes())
        server.write("server.key", leaf.private_key_pem.bytes())
        server.write("root.crt", authority.cert_pem.bytes())
        server.configure({"ssl": "on", "ssl_ca_file": "'root.crt'"})
        # Who calls itself a certificate's name must show that certificate.
        server.admit(["hostssl all certified all cert map=names", "hostnossl all test 127.0.0.1/32 reject"])
        (server.data / "pg_ident.conf").write_text("names test certified\n")
        server.query("create role certified login")
        server.reload()
        wait_until(
            lambda: server.query("show ssl") == [("on",)], within_s=WITHIN_S, what="the server speaks TLS"
        )
        yield Protected(server, authority, *files)


WHO = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_every_mode_with_the_right_authority(protected: Protected, mode: TlsMode) -> None:
    server = protected.server
    address = ServerAddress(host="localhost", port=server.port)
    async with connected(server, OutgoingTls(mode, ca=protected.ca), address=address) as (_, connection):
        assert await connection.query(WHO, WITHIN_S) == [["t", "TLSv1.3"]]
        # More than one TLS record, and more than one read.
        assert await connection.query("select repeat('x', 300000)", WITHIN_S) == [["x" * 300000]]


async def test_the_wrong_authority_and_the_wrong_name(protected: Protected, tmp_path: Path) -> None:
    stranger = str(tmp_path / "stranger.pem")
    trustme.CA().cert_pem.write_to_path(stranger)
    for mode, ca, words in [
        ("verify-ca", stranger, "self-signed certificate in certificate chain"),
        ("verify-full", protected.ca, "IP address mismatch"),
    ]:
        with pytest.raises(TlsRefused, match=words) as caught:
            await opening(protected.server, OutgoingTls(mode, ca=ca))
        assert caught.value.evidence is EvidenceClass.CONFIG


async def test_no_tls_where_the_server_wants_it(protected: Protected) -> None:
    with pytest.raises(LoginRefused) as caught:
        await opening(protected.server, PLAIN)
    assert caught.value.sqlstate == "28000"


async def test_a_client_certificate(protected: Protected) -> None:
    with_it = OutgoingTls("require", cert=protected.client_cert, key=protected.client_key)
    who = {"user": "certified", "password": None}
    async with connected(protected.server, with_it, **who) as (_, connection):
        assert await connection.query("select current_user", WITHIN_S) == [["certified"]]
    with pytest.raises(OpenFailed, match="requires a valid client certificate"):
        await opening(protected.server, OutgoingTls("require"), **who)


async def test_a_cancel_request_over_tls(protected: Protected) -> None:
    server = protected.server
    address = ServerAddress(host=server.host, port=server.port)
    tls = OutgoingTls("require")
    async with connected(server, tls) as (opened, _):
        await send_cancel(
            address,
            tls=tls,
            pid=opened.ready.pid,
            secret=opened.ready.secret,
            timeout_s=WITHIN_S,
            loop=asyncio.get_running_loop(),
        )
