"""TLS on both sides of a real node: every mode, certificates that change, and what must never travel plain."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trustme

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import (
    Connection,
    answer,
    backend,
    change,
    config,
    connect,
    eventually,
    get,
    lines,
    one,
)
from tests.support.player import SSL_REQUEST, Line, fields_of, startup
from tests.support.stack import NodeMaker

VERSION = "select version from pg_stat_ssl where pid = pg_backend_pid()"
IS_ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
LARGE_BYTES = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Certificates and keys on disk: the node's, a client's, their authority, and an authority of strangers."""

    authority: Path
    stranger: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path
    other_cert: Path
    other_key: Path


def write(certificate: trustme.LeafCert, folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.cert_chain_pems[0].write_to_path(cert)
    key.touch(mode=0o600)  # libpq wants a client's key private
    certificate.private_key_pem.write_to_path(key)
    return cert, key


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = write(authority.issue_cert("127.0.0.1", "localhost"), folder, "node")
    client_cert, client_key = write(
        authority.issue_cert("test@example", common_name="test"), folder, "client"
    )
    other_cert, other_key = write(authority.issue_cert("eve@example", common_name="eve"), folder, "other")
    authority.cert_pem.write_to_path(folder / "authority.crt")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.crt")
    return Files(
        authority=folder / "authority.crt",
        stranger=folder / "stranger.crt",
        cert=cert,
        key=key,
        client_cert=client_cert,
        client_key=client_key,
        other_cert=other_cert,
        other_key=other_key,
    )


def offering(files: Files, mode: str, *, client_ca: bool = False) -> str:
    ca = f', client_ca = "{files.authority}"' if client_ca else ""
    return f'tls = {{ mode = "{mode}", cert = "{files.cert}", key = "{files.key}"{ca} }}'


# -- clients


def enters(node: Node, sslmode: str, **keywords: object) -> str:
    """How a client gets in: over TLS, plainly, or with the words that refuse it."""
    try:
        with connect(node, sslmode=sslmode, **keywords) as client:
            assert one(client, "select 1") == 1
            return "TLS" if client.pgconn.ssl_in_use else "plain"
    except psycopg.OperationalError as error:
        return str(error)


def test_a_node_without_a_certificate(pg_node: Node) -> None:
    assert enters(pg_node, "prefer") == "plain"
    assert "server does not support SSL" in enters(pg_node, "require")


def test_a_node_that_prefers_tls(start_node: NodeMaker, files: Files) -> None:
    node = start_node(config=config(node=offering(files, "prefer")))
    assert enters(node, "disable") == "plain"
    for mode in ("prefer", "require"):
        assert enters(node, mode) == "TLS"
    for mode in ("verify-ca", "verify-full"):
        assert enters(node, mode, sslrootcert=str(files.authority)) == "TLS"
        assert "certificate verify failed" in enters(node, mode, sslrootcert=str(files.stranger))
    with connect(node, "pgbouncer", "admin", sslmode="require") as admin:
        (row,) = admin.execute("SHOW CLIENTS").fetchall()
        assert any("TLSv1.3" in str(value) for value in row)


def test_a_node_that_requires_tls(start_node: NodeMaker, files: Files) -> None:
    node = start_node(config=config(node=offering(files, "require")))
    assert "connection requires TLS" in enters(node, "disable")
    assert enters(node, "require", channel_binding="require") == "TLS"


def test_a_pool_that_requires_tls(start_node: NodeMaker, files: Files) -> None:
    node = start_node(config=config("require_tls = true", node=offering(files, "prefer")))
    assert 'database "test" requires TLS' in enters(node, "disable")
    assert enters(node, "require") == "TLS"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_node_that_verifies_clients(start_node: NodeMaker, files: Files, mode: str) -> None:
    node = start_node(config=config(node=offering(files, mode, client_ca=True)))
    assert "connection requires TLS" in enters(node, "disable")
    assert enters(node, "require", sslcert=str(files.client_cert), sslkey=str(files.client_key)) == "TLS"
    assert "certificate required" in enters(node, "require", sslcert="", sslkey="")
    other = enters(node, "require", sslcert=str(files.other_cert), sslkey=str(files.other_key))
    if mode == "verify-ca":
        assert other == "TLS"
    else:
        assert 'the client certificate is not that of user "test"' in other


def test_a_certificate_that_is_replaced(start_node: NodeMaker, authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "node")
    node = start_node(config=config(node=f'tls = {{ cert = "{cert}", key = "{key}" }}'))
    with connect(node, sslmode="require") as client:
        before = shown(node)
        assert before == hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()
        write(authority.issue_cert("127.0.0.1"), tmp_path, "node")
        assert shown(node) == before
        change(node, "[node]", "[node] ")
        assert shown(node) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest() != before
        assert one(client, "select 1") == 1
        # What can not be used changes nothing.
        now = shown(node)
        key.write_text("nothing")
        assert "node.tls" in change(node, "[node] ", "[node]", event="config.rejected")
        assert shown(node) == now
        assert one(client, "select 1") == 1


def shown(node: Node) -> str:
    """The fingerprint of the certificate that a client is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Line(node.host, node.port, context) as line:
        assert isinstance(line.socket, ssl.SSLSocket)
        return hashlib.sha256(line.socket.getpeercert(binary_form=True) or b"").hexdigest()


def test_plain_bytes_behind_a_request_for_tls(start_node: NodeMaker, files: Files) -> None:
    node = start_node(config=config(node=offering(files, "prefer")))
    with Line(node.host, node.port) as line:
        line.send([SSL_REQUEST + startup({"user": "test", "database": "test"})])
        line.read_to_close()
        # An error in plain text and the end; no TLS, no login.
        assert [message.type for message in line.frames] == [b"E"]
        fields = fields_of(line.frames[0].body)
        assert (fields["C"], fields["M"]) == ("08P01", "received unencrypted data after SSL request")


# -- servers


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[Stack]:
    """Servers that let nobody in without TLS."""
    with Stack(replicas=1) as stack:
        for server in stack.servers:
            certificate = authority.issue_cert("127.0.0.1")
            server.write("server.crt", certificate.cert_chain_pems[0].bytes())
            server.write("server.key", certificate.private_key_pem.bytes())
            server.configure({"ssl": "on"})
            server.admit(["hostnossl all all all reject"])
            server.reload()
            eventually(lambda: server.query("show ssl") == [("on",)], "it speaks TLS")  # noqa: B023
        yield stack


def asking(files: Files, mode: str, ca: Path | None = None) -> str:
    return f'tls = {{ mode = "{mode}"' + (f', ca = "{ca}"' if ca else "") + " }"


def sleeps(server: Postgres) -> bool:
    """Whether a query sleeps there: only then can it be cancelled, for one that is on its way takes no notice."""
    asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    return server.query(asleep) == [(1,)]


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_links_probes_and_cancels_are_encrypted(secure: Stack, files: Files, mode: str) -> None:
    ca = files.authority if mode.startswith("verify") else None
    node = secure.add_node(config=config(node=offering(files, "require"), cluster=asking(files, mode, ca)))
    with connect(node) as client:
        assert one(client, VERSION) == "TLSv1.3"
        assert one(
            client, "select version from pg_stat_ssl where txid_current() > 0 and pid = pg_backend_pid()"
        )
        client.pgconn.send_query(b"select pg_sleep(60) from (select txid_current()) t")
        eventually(lambda: sleeps(secure.primary), "it runs")
        client.cancel_safe()
        assert answer(client) == (b"", "57014")
        probes = "select ssl from pg_stat_activity join pg_stat_ssl using (pid) where usename = 'pgcat_probe'"
        eventually(lambda: secure.primary.query(probes) != [], "there is a probe")
        assert set(secure.primary.query(probes)) <= {(True,)}
    node.stop()


def test_large_results_and_copies(secure: Stack, files: Files) -> None:
    node = secure.add_node(
        config=config(node=offering(files, "require"), cluster=asking(files, "verify-full", files.authority))
    )
    with connect(node) as client:
        assert len(one(client, f"select repeat('x', {LARGE_BYTES})")) == LARGE_BYTES
        assert (
            len(one(client, "select %s::text from (select txid_current()) t", "y" * LARGE_BYTES))
            == LARGE_BYTES
        )
        with client.transaction():
            client.execute("create temporary table copied (number int, filler text) on commit drop")
            with client.cursor().copy("copy copied from stdin") as copy:
                for number in range(100_000):
                    copy.write_row((number, "filler" * 10))
            assert one(client, "select count(*) from copied") == 100_000
            with client.cursor().copy("copy copied to stdout") as copy:
                assert sum(1 for _ in copy.rows()) == 100_000
    node.stop()


def why_not(client: Connection) -> str:
    """Why no server can be reached; a link from before may serve until it is given back."""
    refusals: list[psycopg.Error] = []

    def is_refused() -> bool:
        try:
            one(client, IS_ENCRYPTED)
        except psycopg.Error as error:
            refusals.append(error)
        return bool(refusals)

    eventually(is_refused, "no server can be reached")
    assert refusals[0].sqlstate in ("08001", "57P03")
    return str(refusals[0].diag.message_detail)


def test_an_authority_of_strangers_opens_nothing(secure: Stack, files: Files) -> None:
    node = secure.add_node(
        config=config(cluster=asking(files, "verify-ca", files.authority), pool="checkout_timeout = '5s'")
    )
    with connect(node) as client:
        assert one(client, IS_ENCRYPTED) is True
        change(node, str(files.authority), str(files.stranger))
        assert "certificate refused" in why_not(client)
        eventually(lambda: bool(lines(node, "certificate refused")), "the log says why")
        # That is our configuration's fault, not the server's illness.
        assert backend(node, "p1")["opinion"] == "ok"
        change(node, str(files.stranger), str(files.authority))
        eventually(lambda: get(node, "/ready")[0] == 200, "it is ready again")
        assert one(client, IS_ENCRYPTED) is True
    node.stop()


def test_a_server_without_tls(start_node: NodeMaker) -> None:
    node = start_node(config=config(cluster='tls = { mode = "prefer" }'))
    with connect(node) as client:
        assert one(client, IS_ENCRYPTED) is False
        change(node, 'mode = "prefer"', 'mode = "require"')
        assert "TLS" in why_not(client)


def test_plain_links_to_a_server_that_takes_none(secure: Stack, files: Files) -> None:
    node = secure.add_node(config=config(cluster=asking(files, "prefer")))
    with connect(node) as client:
        assert one(client, IS_ENCRYPTED) is True
        change(node, 'mode = "prefer"', 'mode = "disable"')
        assert "pg_hba.conf" in why_not(client)
    node.stop()


@pytest.fixture(scope="module")
def outdated(authority: trustme.CA) -> Iterator[Stack]:
    """A server that offers only versions of TLS that nobody takes any more."""
    with Stack(replicas=0) as stack:
        server = stack.primary
        certificate = authority.issue_cert("127.0.0.1")
        server.write("server.crt", certificate.cert_chain_pems[0].bytes())
        server.write("server.key", certificate.private_key_pem.bytes())
        versions = {"ssl_min_protocol_version": "TLSv1", "ssl_max_protocol_version": "TLSv1.1"}
        server.configure({"ssl": "on", **{name: f"'{value}'" for name, value in versions.items()}})
        server.reload()
        eventually(lambda: server.query("show ssl") == [("on",)], "it speaks TLS")
        yield stack


def test_prefer_goes_on_plainly_after_a_failed_handshake(outdated: Stack, files: Files) -> None:
    """Traffic, probes and cancels alike, as libpq does; `require` opens nothing."""
    primary = outdated.primary
    with psycopg.connect(primary.dsn("test", "test"), sslmode="prefer") as direct:
        assert direct.pgconn.ssl_in_use == 0
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        psycopg.connect(primary.dsn("test", "test"), sslmode="require")
    node = outdated.add_node(config=config(cluster=asking(files, "prefer")))
    with connect(node) as client:
        assert one(client, IS_ENCRYPTED) is False
        client.pgconn.send_query(b"select pg_sleep(60) from (select txid_current()) t")
        eventually(lambda: sleeps(primary), "it runs")
        client.cancel_safe()
        assert answer(client) == (b"", "57014")
        assert (get(node, "/ready")[0], backend(node, "p1")["opinion"]) == (200, "ok")
        change(node, 'mode = "prefer"', 'mode = "require"')
        assert "TLS failed" in why_not(client)
    node.stop()
