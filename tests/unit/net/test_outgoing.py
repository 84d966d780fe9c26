"""Opening server links against servers of the test's own making, on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from pgcat_cluster.errors import (
    AuthenticationFailed,
    NoServer,
    NotAdmitted,
    TooManyClients,
    UnknownDatabase,
)
from pgcat_cluster.health.evidence import EvidenceClass
from pgcat_cluster.net.outgoing import (
    ConnectRefused,
    ConnectUnreachable,
    LoginRefused,
    OpenedServer,
    OpenFailed,
    OpenTimeout,
    ServerAddress,
    ServerSpokeNonsense,
    SimpleConnection,
    TlsRefused,
    open_server,
    send_cancel,
)
from pgcat_cluster.net.tls import OutgoingTls, TlsMode
from pgcat_cluster.wire import messages

Talk = Callable[["Peer"], Awaitable[None]]
Run = Callable[[Coroutine[Any, Any, None]], None]

# Longer than anything takes that is not meant to fail.
LIMIT_S = 60.0

SSL_REQUEST = messages.ssl_request()
STARTUP = messages.startup({"user": "app", "database": "db", "application_name": "test"}, 0)
LOGGED_IN = (
    messages.authentication_ok()
    + messages.parameter_status("server_version", "17.0")
    + messages.backend_key_data(42, b"abcd")
    + messages.ready_for_query(b"I")
)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)

    return run


class Peer:
    """The server's end of one link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def expect(self, data: bytes) -> None:
        assert await self.reader.readexactly(len(data)) == data

    async def expect_end(self) -> None:
        assert await self.reader.read() == b""

    def say(self, data: bytes) -> None:
        self.writer.write(data)


@contextlib.asynccontextmanager
async def serving(*talks: Talk) -> AsyncIterator[ServerAddress]:
    """A server for one link per talk, in their order; what its side asserts, or one link more, fails the test."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    left = list(talks)
    uninvited = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal uninvited
        if not left:
            uninvited += 1
            writer.close()
            return
        try:
            await left.pop(0)(Peer(reader, writer))
        except BaseException as error:
            ended.set_exception(error)
        else:
            if not left:
                ended.set_result(None)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port: int = server.sockets[0].getsockname()[1]
        yield ServerAddress(host="127.0.0.1", port=port)
        await asyncio.wait_for(ended, LIMIT_S)
        assert not uninvited
    finally:
        server.close()


async def opening(
    address: ServerAddress,
    mode: TlsMode = "disable",
    *,
    ca: str | None = None,
    password: str | None = None,
    timeout_s: float = LIMIT_S,
    loop: Any = None,
) -> OpenedServer:
    return await open_server(
        address,
        tls=OutgoingTls(mode, ca=ca),
        user="app",
        database="db",
        password=password,
        parameters={"application_name": "test"},
        timeout_s=timeout_s,
        loop=loop or asyncio.get_running_loop(),
    )


async def failing(
    talk: Talk, mode: TlsMode = "disable", *, timeout_s: float = LIMIT_S, password: str | None = None
) -> OpenFailed:
    """How opening fails; the peer must see the end of the link, so nothing leaks."""

    async def talk_until_the_end(peer: Peer) -> None:
        await talk(peer)
        with contextlib.suppress(ConnectionError):
            await peer.reader.read()

    async with serving(talk_until_the_end) as address:
        with pytest.raises(OpenFailed) as caught:
            await opening(address, mode, timeout_s=timeout_s, password=password)
    return caught.value


# -- login


def test_a_login_and_what_stood_behind_it(run: Run) -> None:
    notice = messages.notice("NOTICE", "00000", "hello")

    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(LOGGED_IN + notice)
        await peer.expect(b"more")

    async def scene() -> None:
        async with serving(talk) as address:
            opened = await opening(address)
            assert (opened.ready.pid, opened.ready.secret) == (42, b"abcd")
            assert opened.ready.parameters == {"server_version": "17.0"}
            assert (opened.leftover, opened.tls) == (notice, None)
            assert opened.sock.getblocking() is False
            assert opened.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert opened.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            opened.sock.send(b"more")
            opened.sock.close()

    run(scene())


def test_a_login_in_single_bytes(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        for byte in LOGGED_IN:
            peer.say(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        await peer.expect_end()

    async def scene() -> None:
        async with serving(talk) as address:
            opened = await opening(address)
            assert (opened.ready.pid, opened.leftover) == (42, b"")
            opened.sock.close()

    run(scene())


@pytest.mark.parametrize(
    ("fault", "evidence"),
    [
        (NoServer("starting up"), EvidenceClass.GOING),
        (TooManyClients(), EvidenceClass.OVERLOAD),
        (UnknownDatabase(), EvidenceClass.CONFIG),
    ],
)
def test_the_server_says_no(run: Run, fault: Any, evidence: EvidenceClass) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(messages.error_response(fault))
        peer.writer.close()

    async def scene() -> None:
        failure = await failing(talk)
        assert isinstance(failure, LoginRefused)
        assert (failure.sqlstate, failure.evidence) == (fault.sqlstate, evidence)
        assert failure.message.endswith(f": {fault.message}")

    run(scene())


def test_no_password_for_a_server_that_wants_one(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(messages.authentication_md5(b"salt"))

    async def scene() -> None:
        failure = await failing(talk)
        assert isinstance(failure, LoginRefused)
        assert failure.evidence is EvidenceClass.CONFIG

    run(scene())


# -- servers that are not well


def test_nobody_listens(run: Run) -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(ConnectRefused) as caught:
            await opening(ServerAddress(host="127.0.0.1", port=port))
        assert caught.value.evidence is EvidenceClass.REFUSED
        assert caught.value.message == f"127.0.0.1:{port}: Connection refused"

    run(scene())


def test_no_socket_file(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        with pytest.raises(ConnectRefused) as caught:
            await opening(ServerAddress(host=str(tmp_path), port=5))
        assert caught.value.message == f"{tmp_path}/.s.PGSQL.5: No such file or directory"

    run(scene())


def test_no_such_name(run: Run) -> None:
    async def scene() -> None:
        with pytest.raises(ConnectUnreachable, match="name not resolved") as caught:
            await opening(ServerAddress(host="no-such-host.invalid"))
        assert caught.value.evidence is EvidenceClass.UNREACHABLE

    run(scene())


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_silence_ends_at_the_limit(run: Run, mode: TlsMode) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP if mode == "disable" else SSL_REQUEST)

    async def scene() -> None:
        failure = await failing(talk, mode, timeout_s=1.0)
        assert isinstance(failure, OpenTimeout)
        assert failure.evidence is EvidenceClass.SOFT

    run(scene())


@pytest.mark.parametrize("is_reset", [False, True])
def test_the_link_ends_during_login(run: Run, is_reset: bool) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(messages.authentication_ok())
        if is_reset:
            sock: socket.socket = peer.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.close()

    async def scene() -> None:
        failure = await failing(talk)
        assert isinstance(failure, ConnectRefused)
        assert failure.evidence is EvidenceClass.REFUSED

    run(scene())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\x7f\xff\xff\xff",
        b"R\x00\x00\x00\x03",
        messages.ready_for_query(b"I"),
    ],
)
def test_something_else_answers(run: Run, answer: bytes) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(answer)

    async def scene() -> None:
        assert isinstance(await failing(talk), ServerSpokeNonsense)

    run(scene())


def test_a_cancelled_opening_closes_the_link(run: Run) -> None:
    reached = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        reached.set()
        await peer.expect_end()

    async def scene() -> None:
        async with serving(talk) as address:
            task = asyncio.get_running_loop().create_task(opening(address))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(scene())


# -- several addresses


class Names:
    """A loop whose resolver gives what the test wants."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self._addresses = addresses

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (family[":" in host], socket.SOCK_STREAM, 6, "", (host, port)) for host, port in self._addresses
        ]


@contextlib.contextmanager
def swallowing() -> Any:
    """An address where connection attempts get no answer: a listener whose queue is full."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = closing.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def free_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        return host, port


@pytest.mark.parametrize("dead", ["refuses", "swallows", "has no route"])
def test_a_dead_address_leaves_time_for_the_next(run: Run, dead: str) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(LOGGED_IN)
        await peer.expect_end()

    async def scene() -> None:
        with swallowing() as silent:
            first = {"refuses": free_address(), "swallows": silent, "has no route": ("fe80::1", 5432)}[dead]
            async with serving(talk) as address:
                names = Names(first, (address.host, address.port))
                opened = await opening(ServerAddress(host="db"), loop=names, timeout_s=4.0)
                opened.sock.close()

    run(scene())


def test_the_evidence_of_several_addresses(run: Run) -> None:
    async def scene() -> None:
        with swallowing() as silent:
            no_route = ("fe80::1", 5432)
            for addresses, expected in [
                ([free_address(), free_address()], ConnectRefused),
                ([free_address(), no_route], ConnectRefused),
                ([free_address(), silent], ConnectUnreachable),
                ([silent, free_address()], ConnectUnreachable),
                ([no_route, no_route], ConnectUnreachable),
            ]:
                limit_s = 1.0 if silent in addresses else LIMIT_S
                with pytest.raises(expected):
                    await opening(ServerAddress(host="db"), loop=Names(*addresses), timeout_s=limit_s)

    run(scene())


# -- TLS


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"S" + messages.error_response(NoServer("do not believe me")), "sent bytes behind its answer"),
        (b"N" + messages.authentication_ok(), "sent bytes behind its answer"),
        (b"E", "answered the TLS request with b'E'"),
        (b"?", "answered the TLS request with b'?'"),
    ],
)
def test_what_may_not_answer_a_tls_request(run: Run, answer: bytes, words: str) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(SSL_REQUEST)
        peer.say(answer)

    async def scene() -> None:
        failure = await failing(talk, "prefer")
        assert isinstance(failure, ServerSpokeNonsense)
        assert words in failure.message
        assert "believe" not in failure.message

    run(scene())


def test_no_tls_where_it_is_required(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(SSL_REQUEST)
        peer.say(b"N")
        await peer.expect_end()

    async def scene() -> None:
        failure = await failing(talk, "require")
        assert isinstance(failure, TlsRefused)
        assert failure.evidence is EvidenceClass.CONFIG

    run(scene())


def test_no_tls_where_it_is_preferred(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(SSL_REQUEST)
        peer.say(b"N")
        await peer.expect(STARTUP)
        peer.say(LOGGED_IN)
        await peer.expect_end()

    async def scene() -> None:
        async with serving(talk) as address:
            opened = await opening(address, "prefer")
            assert opened.tls is None
            opened.sock.close()

    run(scene())


class Authority:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)

    async def start(self, peer: Peer) -> None:
        await peer.expect(SSL_REQUEST)
        peer.say(b"S")
        await peer.writer.start_tls(self.context)


def test_a_login_over_tls(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def talk(peer: Peer) -> None:
        await authority.start(peer)
        await peer.expect(STARTUP)
        peer.say(LOGGED_IN + b"left")
        await peer.expect_end()

    async def scene() -> None:
        async with serving(talk) as address:
            opened = await opening(address, "verify-full", ca=authority.ca)
            assert opened.tls is not None
            assert opened.tls.object.version() == "TLSv1.3"
            assert opened.leftover == b"left"
            opened.sock.close()

    run(scene())


def test_the_last_words_over_tls_are_heard(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def talk(peer: Peer) -> None:
        await authority.start(peer)
        await peer.expect(STARTUP)
        peer.say(messages.error_response(TooManyClients()))
        peer.writer.close()

    async def scene() -> None:
        failure = await failing(talk, "require")
        assert (type(failure), failure.evidence) == (LoginRefused, EvidenceClass.OVERLOAD)

    run(scene())


def test_a_certificate_of_nobody(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    stranger = Authority(other)

    async def talk(peer: Peer) -> None:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await authority.start(peer)

    async def scene() -> None:
        async with serving(talk) as address:
            with pytest.raises(TlsRefused, match="certificate refused: unable to get local issuer"):
                await opening(address, "verify-ca", ca=stranger.ca)

    run(scene())


# -- TLS that is only preferred: as in libpq, the link is tried once more without


def handshake_failing(how: str) -> Talk:
    async def talk(peer: Peer) -> None:
        await peer.expect(SSL_REQUEST)
        peer.say(b"S")
        await peer.reader.readexactly(1)
        match how:
            case "nonsense":
                peer.say(b"HTTP/1.1 400 Bad Request")
            case "an alert":
                peer.say(bytes.fromhex("15030300020228"))
            case "a reset":
                sock: socket.socket = peer.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.close()

    return talk


async def plain_login(peer: Peer) -> None:
    await peer.expect(STARTUP)
    peer.say(LOGGED_IN)
    await peer.expect_end()


HANDSHAKES = ["nonsense", "an alert", "the end", "a reset"]


@pytest.mark.parametrize("how", HANDSHAKES)
def test_prefer_goes_on_plainly_after_a_failed_handshake(run: Run, how: str) -> None:
    async def scene() -> None:
        async with serving(handshake_failing(how), plain_login) as address:
            opened = await opening(address, "prefer")
            assert (opened.tls, opened.ready.pid, opened.leftover) == (None, 42, b"")
            opened.sock.close()

    run(scene())


@pytest.mark.parametrize("how", HANDSHAKES)
def test_require_ends_with_a_failed_handshake(run: Run, how: str) -> None:
    async def scene() -> None:
        async with serving(handshake_failing(how)) as address:
            with pytest.raises((TlsRefused, ConnectRefused)):
                await opening(address, "require")

    run(scene())


def test_both_failures_are_told(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(messages.error_response(NotAdmitted("only with TLS")))

    async def scene() -> None:
        async with serving(handshake_failing("nonsense"), talk) as address:
            with pytest.raises(LoginRefused) as caught:
                await opening(address, "prefer")
        assert (caught.value.sqlstate, caught.value.evidence) == ("28000", EvidenceClass.CONFIG)
        assert caught.value.message.startswith(f"{address} (without TLS, which failed: ")
        assert "WRONG_VERSION_NUMBER" in caught.value.message.upper()
        assert caught.value.message.endswith("): only with TLS")

    run(scene())


@pytest.mark.parametrize(("mode", "links"), [("prefer", 2), ("require", 1)])
def test_a_server_that_admits_only_plain_links(run: Run, tmp_path: Path, mode: TlsMode, links: int) -> None:
    authority = Authority(tmp_path)

    async def refuse(peer: Peer) -> None:
        await authority.start(peer)
        await peer.expect(STARTUP)
        peer.say(messages.error_response(NotAdmitted("only without TLS")))
        peer.writer.close()

    async def scene() -> None:
        async with serving(*[refuse, plain_login][:links]) as address:
            if mode == "prefer":
                opened = await opening(address, mode)
                assert opened.tls is None
                opened.sock.close()
            else:
                with pytest.raises(LoginRefused, match=r": only without TLS$"):
                    await opening(address, mode)

    run(scene())


def test_what_is_wrong_over_tls_is_not_tried_plainly(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def refuse(peer: Peer) -> None:
        await authority.start(peer)
        await peer.expect(STARTUP)
        peer.say(messages.error_response(AuthenticationFailed()))
        peer.writer.close()

    async def scene() -> None:
        async with serving(refuse) as address:
            with pytest.raises(LoginRefused) as caught:
                await opening(address, "prefer")
        assert caught.value.sqlstate == "28P01"

    run(scene())


@pytest.mark.parametrize("how", HANDSHAKES)
def test_a_cancel_request_goes_the_same_way(run: Run, how: str) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(messages.cancel_request(42, b"abcd"))

    async def cancel(address: ServerAddress, mode: TlsMode) -> None:
        await send_cancel(
            address,
            tls=OutgoingTls(mode),
            pid=42,
            secret=b"abcd",
            timeout_s=LIMIT_S,
            loop=asyncio.get_running_loop(),
        )

    async def scene() -> None:
        async with serving(handshake_failing(how), talk) as address:
            await cancel(address, "prefer")
        async with serving(handshake_failing(how)) as address:
            with pytest.raises((TlsRefused, ConnectRefused)):
                await cancel(address, "require")

    run(scene())


# -- cancel


def test_a_cancel_request_waits_for_the_end(run: Run) -> None:
    handled: list[bool] = []

    async def talk(peer: Peer) -> None:
        await peer.expect(messages.cancel_request(42, b"abcd"))
        for _ in range(10):
            await asyncio.sleep(0)
        handled.append(True)

    async def scene() -> None:
        async with serving(talk) as address:
            await send_cancel(
                address,
                tls=OutgoingTls("disable"),
                pid=42,
                secret=b"abcd",
                timeout_s=LIMIT_S,
                loop=asyncio.get_running_loop(),
            )
            assert handled == [True]

    run(scene())


def test_a_cancel_request_that_nobody_ends(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(messages.cancel_request(42, b"abcd"))
        await peer.expect_end()

    async def scene() -> None:
        async with serving(talk) as address:
            with pytest.raises(OpenTimeout):
                await send_cancel(
                    address,
                    tls=OutgoingTls("disable"),
                    pid=42,
                    secret=b"abcd",
                    timeout_s=1.0,
                    loop=asyncio.get_running_loop(),
                )

    run(scene())


# -- queries of our own


def asking(answer: bytes, expected: list[list[str | None]] | type[OpenFailed], run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(LOGGED_IN)
        await peer.expect(messages.query("select"))
        peer.say(answer)
        await peer.expect_end()

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        async with serving(talk) as address:
            connection = SimpleConnection(await opening(address), address, loop)
            if isinstance(expected, list):
                assert await connection.query("select", LIMIT_S) == expected
            else:
                with pytest.raises(expected):
                    await connection.query("select", 0.2 if expected is OpenTimeout else LIMIT_S)
            connection.close()

    run(scene())


READY = messages.ready_for_query(b"I")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            messages.row_description([("a", 25, -1), ("b", 25, -1)])
            + messages.data_row([b"1", None])
            + messages.notice("NOTICE", "00000", "by the way")
            + messages.data_row([b"", b"\xff"])
            + messages.command_complete("SELECT 2")
            + READY,
            [["1", None], ["", "\ufffd"]],
        ),
        (messages.error_response(UnknownDatabase()), LoginRefused),
        (messages.error_response(NoServer()) + READY, LoginRefused),
        (messages.data_row([b"1"]), OpenTimeout),
    ],
)
def test_a_query(run: Run, answer: bytes, expected: Any) -> None:
    asking(answer, expected, run)


def test_the_end_of_an_idle_link_is_seen(run: Run) -> None:
    go = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.expect(STARTUP)
        peer.say(LOGGED_IN)
        await go.wait()

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        async with serving(talk) as address:
            connection = SimpleConnection(await opening(address), address, loop)
            connection.watch(seen.set)
            go.set()
            await asyncio.wait_for(seen.wait(), LIMIT_S)
            connection.unwatch()
            with pytest.raises(ConnectRefused):
                await connection.query("select", LIMIT_S)

    run(scene())


def test_addresses_in_words() -> None:
    assert [str(ServerAddress(host=host, port=5432)) for host in ("db", "::1", "/run/pg")] == [
        "db:5432",
        "[::1]:5432",
        "/run/pg/.s.PGSQL.5432",
    ]
