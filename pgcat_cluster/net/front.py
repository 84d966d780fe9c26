"""A client's way in: encryption, start-up packet, cancel requests, login; then to its account or to a console."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Protocol

from pgcat_cluster.errors import Fault, ProtocolViolation, WireError
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import IncomingTls, TlsPipe, client_names
from pgcat_cluster.relay.client import Client
from pgcat_cluster.session.exchange import Receive, Reply, Send, Step
from pgcat_cluster.session.login import LoggedIn, LoginPolicy, client_login
from pgcat_cluster.wire import messages
from pgcat_cluster.wire.startup import (
    STARTUP_BYTES_MAX,
    CancelRequest,
    GssRequest,
    SslRequest,
    Startup,
    parse_startup,
)

CONSOLE_FRAME_BYTES_MAX = 65536


class House(Protocol):
    """What a front asks of the node."""

    def incoming_tls(self) -> IncomingTls: ...

    def policy(self) -> LoginPolicy: ...

    def admit(self, client: Client, startup: Startup, logged_in: LoggedIn) -> None:
        """A client has proved who it is: give it an account or a console. Raises the fault that refuses it."""

    def cancel(self, client: Client, request: CancelRequest) -> None:
        """Somebody wants a statement cancelled; close this connection when that is done. Nothing is answered."""

    def refused(self, client: Client, fault: Fault) -> None:
        """A connection was refused before it was anybody's."""

    def left(self, client: Client) -> None:
        """A connection ended before it was admitted."""


class Front:
    """Receives a connection's frames until it is admitted.

    At most one request for TLS and one for GSS, in either order; then one packet that is a start-up or a cancel.
    """

    def __init__(self, house: House, deadline_s: float) -> None:
        self.house = house
        self.deadline_s = deadline_s
        self._asked: set[type[SslRequest] | type[GssRequest]] = set()
        self._login: Generator[Step, Reply, LoggedIn] | None = None
        self._startup: Startup | None = None
        self._step: Receive | None = None

    # -- what the relay calls ------------------------------------------------------------------------------

    def frame_bytes_max(self, kind: int) -> int:
        if self._login is None:
            return STARTUP_BYTES_MAX
        step = self._step
        if step is None or (step.kinds and kind not in step.kinds):
            return -1
        return step.body_bytes_max

    def refuse_length(self, client: Client, kind: int, length: int) -> None:
        if self._login is None:
            client.lost("not a start-up packet")
            return
        expected = self._step.expected if self._step is not None else "nothing"
        self.refuse(client, ProtocolViolation(f"expected {expected}, got message type {kind}"))

    def frame(self, client: Client, kind: int, body: bytes) -> None:
        try:
            if self._login is None:
                self._open(client, body)
            else:
                self._advance(client, (kind, body))
        except WireError as error:
            if self._login is None:
                # What speaks here may be no PostgreSQL client at all; PostgreSQL says nothing either.
                client.lost("not a start-up packet")
                return
            self.refuse(client, ProtocolViolation(str(error)))
        except Fault as fault:
            self.refuse(client, fault)

    def gone(self, client: Client) -> None:
        self.house.left(client)

    # -- the phases ----------------------------------------------------------------------------------------

    def _open(self, client: Client, packet: bytes) -> None:
        request = parse_startup(packet)
        if isinstance(request, CancelRequest):
            # Nothing more is read of it.
            client.settling = True
            self.house.cancel(client, request)
        elif isinstance(request, Startup):
            self._begin(client, request)
        else:
            self._negotiate(client, request)

    def _negotiate(self, client: Client, request: SslRequest | GssRequest) -> None:
        kind = type(request)
        if kind in self._asked or client.tls is not None:
            raise ProtocolViolation("encryption was already negotiated")
        self._asked.add(kind)
        if client.is_glued:
            raise ProtocolViolation(
                "received unencrypted data after SSL request"
                if kind is SslRequest
                else "received unencrypted data after GSSAPI encryption request"
            )
        context = self.house.incoming_tls().context if kind is SslRequest else None
        client.put_bytes(b"N" if context is None else b"S")
        client.flush()
        if context is not None:
            client.start_tls(TlsPipe(context, server_side=True))

    def _begin(self, client: Client, startup: Startup) -> None:
        client.is_starting = False
        self._startup = startup
        tls = self.house.incoming_tls()
        binding = tls.certificate_hash if client.tls is not None else None
        self._login = client_login(startup, self.house.policy(), channel_binding=binding)
        self._advance(client, None)

    def _advance(self, client: Client, reply: Reply) -> None:
        assert self._login is not None
        self._step = None
        try:
            while True:
                step = self._login.send(reply)
                reply = None
                if isinstance(step, Send):
                    client.put_bytes(step.data)
                elif isinstance(step, Receive):
                    self._step = step
                    client.flush()
                    return
                else:
                    reply = step.work()
        except StopIteration as end:
            self._admit(client, end.value)

    def _admit(self, client: Client, logged_in: LoggedIn) -> None:
        startup = self._startup
        assert startup is not None
        self.house.admit(client, startup, logged_in)

    def refuse(self, client: Client, fault: Fault) -> None:
        self.house.refused(client, fault)
        client.dismiss(messages.error_response(fault))


class ConsoleAnswer(Protocol):
    """What a console wants done about a frame; see `admin.console.Answer`."""

    @property
    def data(self) -> bytes: ...

    @property
    def action(self) -> Callable[[], Awaitable[bytes]] | None: ...

    @property
    def closes(self) -> bool: ...


class ConsolePort(Protocol):
    def receive(self, kind: int, body: bytes, /) -> ConsoleAnswer: ...

    def cancel(self) -> None: ...


class ConsoleFront:
    """Receives the frames of one console session and awaits its long commands, one at a time."""

    def __init__(self, console: ConsolePort, left: Callable[[Client], None]) -> None:
        self.console = console
        self._left = left
        self._task: asyncio.Task[None] | None = None

    def frame_bytes_max(self, kind: int) -> int:
        return CONSOLE_FRAME_BYTES_MAX

    def refuse_length(self, client: Client, kind: int, length: int) -> None:
        client.dismiss(messages.error_response(ProtocolViolation("command too long for the admin console")))

    def frame(self, client: Client, kind: int, body: bytes) -> None:
        answer = self.console.receive(kind, body)
        client.put_bytes(answer.data)
        client.flush()
        if answer.action is not None:
            client.settling = True
            self._task = spawn(self._await(client, answer.action, answer.closes), "console command")
        elif answer.closes:
            self._close(client)

    async def _await(self, client: Client, action: Callable[[], Awaitable[bytes]], closes: bool) -> None:
        data = await action()
        self._task = None
        if client.closed:
            return
        client.put_bytes(data)
        client.flush()
        client.settling = False
        if closes:
            self._close(client)
        else:
            client.replay()

    def _close(self, client: Client) -> None:
        client.close_after_flush()
        self.gone(client)

    def gone(self, client: Client) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._left(client)


def certificate_names(client: Client) -> list[str]:
    """The common names a client's verified certificate carries."""
    pipe = client.tls
    return client_names(pipe) if isinstance(pipe, TlsPipe) else []
