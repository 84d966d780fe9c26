"""Logs us in to a server: from our startup packet to its first ReadyForQuery.

The server is a possible attacker too: sizes, counts and the work it may order are bounded, a password
goes out in clear only where that is allowed, and after SCRAM the server must have proved that it knows
the password as well. Every field of an error is optional. The generator yields steps (see `exchange`)
and returns ServerReady, or raises ServerRefused (the server's own words), ServerUnreachable (ours) or
WireError (it broke the protocol).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pgcat_cluster.errors import ServerUnreachable, WireError
from pgcat_cluster.session.exchange import Receive, Reply, Send, Step, derive, receive
from pgcat_cluster.wire import md5, messages, scram
from pgcat_cluster.wire.reader import to_bytes

# Room for a long error text; far beyond every message of a login.
MESSAGE_BYTES_MAX = 128 * 1024
# A server reports a dozen or two parameters.
MESSAGES_MAX = 1000

_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
_RECEIVE = Receive(body_bytes_max=MESSAGE_BYTES_MAX)

Secret: TypeAlias = str | scram.ScramKeys


class ServerRefused(Exception):
    """The server's own ErrorResponse during login; any field may be missing."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = dict(fields)
        super().__init__(self.message)

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "XX000")

    @property
    def message(self) -> str:
        return self.fields.get("M", "the server gave no reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReady:
    """A server link that may be used.

    `pid` and `secret` are its cancel key (0 and empty: it gave none), `version` the minor protocol version in
    force.
    """

    pid: int
    secret: bytes
    parameters: dict[str, str]
    version: int

    def __repr__(self) -> str:
        return f"ServerReady(pid={self.pid}, version={self.version})"


def server_login(
    user: str,
    database: str,
    secret: Secret | None,
    parameters: Mapping[str, str],
    *,
    random_bytes: Callable[[int], bytes],
    minor: int = 0,
    channel_binding: bytes | None = None,
    allow_cleartext: bool = False,
) -> Generator[Step, Reply, ServerReady]:
    """Log in. `secret` None: only where the server asks for none.

    `channel_binding` is the server certificate's tls-server-end-point hash, if TLS is up.
    """
    exchange = _ServerLogin(minor)
    yield Send(messages.startup({"user": user, "database": database, **parameters}, minor))
    request = yield from exchange.receive_authentication()
    if request.code != _OK:
        if secret is None:
            raise ServerUnreachable(detail="the server asks for a password and none is configured")
        if request.code == _SASL:
            offered = messages.parse_mechanisms(request.data)
            yield from _prove_scram(exchange, secret, offered, random_bytes, channel_binding)
        else:
            yield Send(messages.password(_password_answer(request, user, secret, allow_cleartext)))
        if (yield from exchange.receive_authentication()).code != _OK:
            raise WireError("unexpected authentication request from server")
    return (yield from _collect(exchange))


class _ServerLogin:
    """Receives what a server sends, taking care of what may come at any time; counts its messages."""

    def __init__(self, minor: int) -> None:
        self.minor = minor
        self._messages_left = MESSAGES_MAX

    def receive(self) -> Generator[Step, Reply, tuple[int, bytes]]:
        while self._messages_left:
            self._messages_left -= 1
            kind, body = yield from receive(_RECEIVE)
            if kind == ord("E"):
                raise ServerRefused(messages.fields_of_error(body))
            if kind != ord("N"):
                return kind, body
        raise WireError("too many messages from server during login")

    def receive_authentication(self) -> Generator[Step, Reply, messages.Authentication]:
        kind, body = yield from self.receive()
        if kind == ord("v"):
            minor, _ = messages.parse_negotiate_protocol_version(body)
            if minor > self.minor:
                raise WireError("server negotiates a newer protocol than was asked for")
            self.minor = minor
            kind, body = yield from self.receive()
        if kind != ord("R"):
            raise _unexpected(kind)
        return messages.parse_authentication(body)

    def receive_sasl(self, code: int) -> Generator[Step, Reply, bytes]:
        request = yield from self.receive_authentication()
        if request.code != code:
            # Above all AuthenticationOk before the server has proved itself.
            raise WireError("unexpected authentication request from server")
        return request.data


def _password_answer(
    request: messages.Authentication, user: str, secret: Secret, allow_cleartext: bool
) -> bytes:
    if not isinstance(secret, str):
        raise ServerUnreachable(detail="SCRAM keys are configured, but the server asks for a password")
    if request.code == _MD5:
        if len(request.data) != md5.SALT_BYTES:
            raise WireError("invalid md5 challenge")
        return md5.answer(md5.make_verifier(user, secret), request.data)
    if request.code == _CLEARTEXT:
        if not allow_cleartext:
            raise ServerUnreachable(detail="the server asks for a password in clear text")
        return to_bytes(secret)
    raise ServerUnreachable(detail=f"the server asks for authentication method {request.code}")


def _prove_scram(
    exchange: _ServerLogin,
    secret: Secret,
    offered: list[str],
    random_bytes: Callable[[int], bytes],
    channel_binding: bytes | None,
) -> Generator[Step, Reply, None]:
    if scram.MECHANISM not in offered and (scram.MECHANISM_PLUS not in offered or channel_binding is None):
        raise ServerUnreachable(detail="the server offers no SASL mechanism that is supported")
    client = scram.ScramClient(
        scram.make_nonce(random_bytes(scram.NONCE_BYTES)),
        plus=scram.MECHANISM_PLUS in offered,
        binding=channel_binding,
    )
    yield Send(messages.sasl_initial(client.mechanism, client.first))
    challenge = client.challenge((yield from exchange.receive_sasl(_SASL_CONTINUE)))
    if isinstance(secret, str):
        keys = yield from derive(partial(scram.derive_keys, secret, challenge.salt, challenge.iterations))
    else:
        keys = secret
    yield Send(messages.sasl_response(client.final(challenge, keys)))
    if not client.verify((yield from exchange.receive_sasl(_SASL_FINAL))):
        raise ServerUnreachable(detail="the server could not prove that it knows the password")


def _collect(exchange: _ServerLogin) -> Generator[Step, Reply, ServerReady]:
    parameters: dict[str, str] = {}
    pid, key = 0, b""
    while True:
        kind, body = yield from exchange.receive()
        if kind == ord("S"):
            name, value = messages.parse_parameter_status(body)
            parameters[name] = value
        elif kind == ord("K"):
            pid, key = messages.parse_backend_key_data(body)
        elif kind == ord("Z"):
            if messages.parse_ready_for_query(body) != b"I":
                raise WireError("server is not idle after login")
            return ServerReady(pid=pid, secret=key, parameters=parameters, version=exchange.minor)
        else:
            raise _unexpected(kind)


def _unexpected(kind: int) -> WireError:
    return WireError(f"unexpected message type {kind} from server during login")
