"""Opens links to servers: name, socket, TLS and login in one time limit, or a failure with its class."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pgcat_cluster.errors import Fault, NotAdmitted, WireError
from pgcat_cluster.health.evidence import EvidenceClass, evidence_of_sqlstate
from pgcat_cluster.net.tls import OutgoingTls, TlsPipe, end_point_hash
from pgcat_cluster.session.exchange import Derive, Receive, Reply, Send
from pgcat_cluster.session.server_login import Secret, ServerReady, ServerRefused, server_login
from pgcat_cluster.topology.settings import Tcp
from pgcat_cluster.wire import messages

_READ_BYTES = 65536
_TCP = Tcp()
# An answer to a query of our own is small.
_ANSWER = Receive(body_bytes_max=1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Where a server listens. A host that begins with a slash is the folder of its Unix socket (libpq)."""

    host: str
    port: int = 5432

    @property
    def unix_path(self) -> str | None:
        return f"{self.host}/.s.PGSQL.{self.port}" if self.host.startswith("/") else None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.unix_path or f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedServer:
    """A server link that is logged in and idle; who takes it owns the socket.

    `leftover` are plain bytes already received behind ReadyForQuery.
    """

    sock: socket.socket
    tls: TlsPipe | None
    ready: ServerReady
    leftover: bytes


class OpenFailed(Exception):
    """A link could not be opened. `evidence` says what that means for the server's health."""

    evidence: EvidenceClass = EvidenceClass.SOFT
    sqlstate: str = "08001"
    is_silence = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConnectRefused(OpenFailed):
    """Nobody listens, or the link was reset before the login was done."""

    evidence = EvidenceClass.REFUSED


class ConnectUnreachable(OpenFailed):
    """No route, no such name, or no answer to the connection attempt in time."""

    evidence = EvidenceClass.UNREACHABLE


class ConnectTimeout(ConnectUnreachable):
    """No answer to the connection attempt in time."""

    is_silence = True


class OpenTimeout(OpenFailed):
    """Connected, but the login did not end in time: something listens and does not answer."""

    is_silence = True


class TlsRefused(OpenFailed):
    """TLS could not be agreed on, or the server's certificate does not hold."""

    evidence = EvidenceClass.CONFIG


class LoginRefused(OpenFailed):
    """The server, or our side of the login, said no."""

    def __init__(self, message: str, sqlstate: str, evidence: EvidenceClass) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.evidence = evidence


class ServerSpokeNonsense(OpenFailed):
    """What came was not the PostgreSQL protocol, or not at its place."""

    sqlstate = "08P01"


async def open_server(
    address: ServerAddress,
    *,
    tls: OutgoingTls,
    user: str,
    database: str,
    password: Secret | None,
    parameters: Mapping[str, str],
    timeout_s: float,
    loop: asyncio.AbstractEventLoop,
    tcp: Tcp = _TCP,
) -> OpenedServer:
    """Connect and log in within `timeout_s`, the resolver's time included. Raises OpenFailed.

    However it fails or is cancelled, the socket is closed.
    """
    link = _Link(address, tls, loop, tcp)
    try:
        async with asyncio.timeout(timeout_s):
            await link.connect(timeout_s)
            try:
                ready = await link.log_in(user, database, password, parameters)
            except ServerRefused as refused:
                # pg_hba.conf may admit only what is not encrypted. Another password would not be right plainly.
                if refused.sqlstate != NotAdmitted.sqlstate or not link.may_go_plain:
                    raise
                await link.connect_plainly(refused.message)
                ready = await link.log_in(user, database, password, parameters)
            leftover = link.take_leftover()
    except BaseException as error:
        link.close()
        if (failure := link.explained(error)) is None:
            raise
        raise failure from error
    assert link.sock is not None
    return OpenedServer(sock=link.sock, tls=link.pipe, ready=ready, leftover=leftover)


async def send_cancel(
    address: ServerAddress,
    *,
    tls: OutgoingTls,
    pid: int,
    secret: bytes,
    timeout_s: float,
    loop: asyncio.AbstractEventLoop,
    tcp: Tcp = _TCP,
) -> None:
    """Ask a server to cancel what `pid` runs, over a link of its own; returns when the server has closed it.

    The close is the proof that the request was handled, so a link may be reused after it. Raises OpenFailed.
    """
    link = _Link(address, tls, loop, tcp)
    try:
        async with asyncio.timeout(timeout_s):
            await link.connect(timeout_s)
            await link.send(messages.cancel_request(pid, secret))
            await link.wait_for_end()
    except BaseException as error:
        if (failure := link.explained(error)) is None:
            raise
        raise failure from error
    finally:
        link.close()


class _Link:
    """One attempt: the socket, its TLS half and what was received so far."""

    def __init__(
        self, address: ServerAddress, tls: OutgoingTls, loop: asyncio.AbstractEventLoop, tcp: Tcp = _TCP
    ) -> None:
        self.sock: socket.socket | None = None
        self.pipe: TlsPipe | None = None
        self._address = address
        self._tls = tls
        self._tls_failure = ""
        self._loop = loop
        self._tcp = tcp
        # Family and address of the socket, asked of nobody: the kernel forgets it when the peer resets the link.
        self._peer: tuple[int, Any] = (socket.AF_UNSPEC, None)
        self._phase = "resolving the name"
        self._buffer = bytearray()

    @classmethod
    def resumed(cls, opened: OpenedServer, address: ServerAddress, loop: asyncio.AbstractEventLoop) -> _Link:
        """The byte stream of a link that is already open."""
        stream = cls(address, OutgoingTls("disable"), loop)
        stream.sock, stream.pipe, stream._phase = opened.sock, opened.tls, "query"
        stream._buffer += opened.leftover
        return stream

    # -- the way to a byte stream

    async def connect(self, timeout_s: float) -> None:
        """A byte stream to the server, by the rules of the TLS mode."""
        await self._reach(timeout_s)
        # As in libpq, TLS is not for Unix sockets: the kernel already vouches for both ends.
        if self._tls.context is not None and self._address.unix_path is None:
            self._phase = "TLS"
            await self._request_tls(self._tls.context)
        if self.pipe is not None:
            try:
                await self._shake_hands(self.pipe)
            except (ssl.SSLError, ConnectionError) as failure:
                if not self.may_go_plain:
                    raise
                await self.connect_plainly(str(failure))
        self._phase = "login"

    @property
    def may_go_plain(self) -> bool:
        """Whether this link has TLS that is only preferred: then libpq tries again without."""
        return self.pipe is not None and not self._tls.is_required

    async def connect_plainly(self, failure: str) -> None:
        """Begin again at the same address without TLS, which failed so."""
        self.close()
        self.pipe = None
        self._buffer.clear()
        self._tls_failure = failure
        await self._connect_to(*self._peer)
        self._phase = "login"

    async def _reach(self, timeout_s: float) -> None:
        path = self._address.unix_path
        if path is not None:
            await self._connect_to(socket.AF_UNIX, path)
            return
        host, port = self._address.host, self._address.port
        candidates = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failures: list[OSError] = []
        deadline = self._loop.time() + timeout_s
        for tried, (family, _type, _protocol, _name, where) in enumerate(candidates):
            # An address that swallows packets may use up its share of the time, not that of the next one.
            share_s = (deadline - self._loop.time()) / (len(candidates) - tried)
            try:
                async with asyncio.timeout(share_s):
                    await self._connect_to(family, where)
                return
            except OSError as error:  # TimeoutError is one of them
                self.close()
                failures.append(error)
        # One silent address among refusing ones makes the evidence weak; one without a route does not.
        raise min(failures, key=_weakness)

    async def _connect_to(self, family: int, where: Any) -> None:
        self._phase = "connecting"
        self._peer = family, where
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        await self._loop.sock_connect(self.sock, where)
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(self.sock, self._tcp)

    async def _request_tls(self, context: ssl.SSLContext) -> None:
        await self.send(messages.ssl_request())
        answer = await self._receive_raw()
        if len(answer) > 1:
            # Whoever can write on the wire could make them look like the server's protected ones.
            raise ServerSpokeNonsense(f"{self._address} sent bytes behind its answer to the TLS request")
        if answer == b"N":
            if self._tls.is_required:
                raise TlsRefused(f"{self._address} offers no TLS, which is required")
            return
        if answer != b"S":
            # Not protected and not to be believed: the server's own text goes nowhere.
            raise ServerSpokeNonsense(f"{self._address} answered the TLS request with {answer!r}")
        self.pipe = TlsPipe(context, server_side=False, server_hostname=self._address.host)

    async def _shake_hands(self, pipe: TlsPipe) -> None:
        while True:
            try:
                pipe.object.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                pipe.incoming.write(await self._receive_raw())
            except ssl.SSLError:
                await self._flush()  # the alert that tells the server why
                raise
            else:
                await self._flush()
                return

    # -- bytes, plain whatever the wire carries

    async def send(self, data: bytes) -> None:
        if self.pipe is None:
            assert self.sock is not None
            await self._loop.sock_sendall(self.sock, data)
        else:
            self.pipe.object.write(data)
            await self._flush()

    async def _flush(self) -> None:
        assert self.sock is not None
        assert self.pipe is not None
        if data := self.pipe.outgoing.read():
            await self._loop.sock_sendall(self.sock, data)

    async def _receive_raw(self) -> bytes:
        assert self.sock is not None
        data = await self._loop.sock_recv(self.sock, _READ_BYTES)
        if not data:
            raise ConnectionResetError("closed by the server")
        return data

    async def receive(self) -> None:
        """Add at least one plain byte to the buffer; ConnectionResetError at the end of the stream."""
        if self.pipe is None:
            self._buffer += await self._receive_raw()
            return
        while not self._drain_tls():
            self.pipe.incoming.write(await self._receive_raw())

    def _drain_tls(self) -> int:
        """Move the plain bytes there are to the buffer; how many. ConnectionResetError at the end."""
        assert self.pipe is not None
        before = len(self._buffer)
        try:
            while data := self.pipe.object.read(_READ_BYTES):
                self._buffer += data
        except ssl.SSLWantReadError:
            return len(self._buffer) - before
        if len(self._buffer) == before:
            raise ConnectionResetError("TLS closed by the server")
        return len(self._buffer) - before

    async def frame(self, wanted: Receive) -> tuple[int, bytes]:
        buffer = self._buffer
        while len(buffer) < 5:
            await self.receive()
        kind, length = buffer[0], int.from_bytes(buffer[1:5], "big")
        wanted.admit(kind, length - 4)
        while len(buffer) <= length:
            await self.receive()
        body = bytes(buffer[5 : length + 1])
        del buffer[: length + 1]
        return kind, body

    def take_leftover(self) -> bytes:
        if self.pipe is not None:
            self._drain_tls()
        return bytes(self._buffer)

    async def wait_for_end(self) -> None:
        try:
            while True:
                await self._receive_raw()
        except ConnectionError:
            pass

    # -- the login

    async def log_in(
        self, user: str, database: str, secret: Secret | None, parameters: Mapping[str, str]
    ) -> ServerReady:
        certificate = self.pipe.object.getpeercert(binary_form=True) if self.pipe is not None else None
        binding = end_point_hash(certificate) if certificate else None
        exchange = server_login(
            user, database, secret, parameters, random_bytes=os.urandom, channel_binding=binding
        )
        reply: Reply = None
        while True:
            try:
                step = exchange.send(reply)
            except StopIteration as end:
                ready: ServerReady = end.value
                return ready
            match step:
                case Send(data):
                    await self.send(data)
                    reply = None
                case Receive():
                    reply = await self.frame(step)
                case Derive(work):
                    reply = await self._loop.run_in_executor(None, work)

    # -- the end

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def explained(self, error: BaseException) -> OpenFailed | None:
        """The typed form of what went wrong; None for what already has one, for cancellation and for bugs."""
        where = str(self._address)
        if self._tls_failure:
            where += f" (without TLS, which failed: {self._tls_failure})"
        match error:
            case OpenFailed():
                return None
            case ServerRefused():
                evidence = evidence_of_sqlstate(error.sqlstate)
                return LoginRefused(f"{where}: {error.message}", error.sqlstate, evidence)
            case Fault():
                return LoginRefused(
                    f"{where}: {error.detail or error.message}", error.sqlstate, EvidenceClass.CONFIG
                )
            case WireError():
                return ServerSpokeNonsense(f"{where}: {error}")
            case ssl.SSLCertVerificationError():
                return TlsRefused(f"{where}: certificate refused: {error.verify_message}")
            case ssl.SSLError():
                return TlsRefused(f"{where}: TLS failed: {error.reason or error}")
            case TimeoutError() if self._phase in ("TLS", "login", "query"):
                return OpenTimeout(f"{where}: no answer in time ({self._phase})")
            case TimeoutError():
                return ConnectTimeout(f"{where}: no answer in time ({self._phase})")
            case socket.gaierror():
                return ConnectUnreachable(f"{where}: name not resolved: {error.strerror}")
            case ConnectionError() | FileNotFoundError():
                return ConnectRefused(f"{where}: {_text(error)}")
            case OSError():
                return ConnectUnreachable(f"{where}: {_text(error)}")
        return None


def _text(error: OSError) -> str:
    # asyncio and uvloop replace the system's words by their own.
    return os.strerror(error.errno) if error.errno else str(error)


def _weakness(error: OSError) -> int:
    return 0 if isinstance(error, TimeoutError) else 1 if isinstance(error, ConnectionError) else 2


def keep_alive(sock: socket.socket, tcp: Tcp) -> None:
    """Notice a peer that vanished: on an idle link, and (Linux) while our bytes are not acknowledged."""
    if tcp.keepalive_idle_s:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "darwin":
            idle = socket.TCP_KEEPALIVE
        else:
            idle = socket.TCP_KEEPIDLE
        sock.setsockopt(socket.IPPROTO_TCP, idle, max(1, round(tcp.keepalive_idle_s)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(tcp.keepalive_interval_s)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, tcp.keepalive_count)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(tcp.user_timeout_s * 1000))


class SimpleConnection:
    """A link of our own for simple queries in text, as probes need it; every failure is an OpenFailed.

    Not for concurrent use. After a failure it is closed and stays so.
    """

    def __init__(self, opened: OpenedServer, address: ServerAddress, loop: asyncio.AbstractEventLoop) -> None:
        self._link = _Link.resumed(opened, address, loop)
        self._loop = loop

    async def query(self, sql: str, timeout_s: float) -> list[list[str | None]]:
        """The rows of all results, as text. Raises OpenFailed, for an error of the server as LoginRefused."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._rows(sql)
        except BaseException as error:
            self.close()
            if (failure := self._link.explained(error)) is None:
                raise
            raise failure from error

    def watch(self, on_readable: Callable[[], None]) -> None:
        """Call back once when something arrives between queries, be it the end of the link."""
        sock = self._link.sock
        assert sock is not None

        def arrived() -> None:
            self._loop.remove_reader(sock)
            on_readable()

        self._loop.add_reader(sock, arrived)

    def unwatch(self) -> None:
        """To be called before the next query."""
        if self._link.sock is not None:
            self._loop.remove_reader(self._link.sock)

    async def _rows(self, sql: str) -> list[list[str | None]]:
        link = self._link
        await link.send(messages.query(sql))
        rows: list[list[str | None]] = []
        refused: ServerRefused | None = None
        while True:
            kind, body = await link.frame(_ANSWER)
            match chr(kind):
                case "D":
                    row = messages.parse_data_row(body)
                    rows.append([None if value is None else value.decode(errors="replace") for value in row])
                case "E":
                    refused = ServerRefused(messages.fields_of_error(body))
                    if refused.fields.get("V") == "FATAL":
                        raise refused
                case "Z" if refused is not None:
                    raise refused
                case "Z":
                    return rows

    def close(self) -> None:
        self._link.close()
