"""Logs a client in: from its startup packet to AuthenticationOk, in the order of the protocol's chapter.

The generator yields steps (see `exchange`) and returns LoggedIn, or raises a FATAL fault; there is one try.

    client                         us
    startup (read before)
                                   [NegotiateProtocolVersion]
                                   AuthenticationSASL | AuthenticationMD5Password | (trust: nothing)
    SASLInitialResponse | Password
                                   AuthenticationSASLContinue
    SASLResponse
                                   AuthenticationSASLFinal
                                   AuthenticationOk

At each of the client's places exactly one type of message, of bounded size, is legal; identity and database
come from the one startup packet alone. An unknown user goes through the same exchange with a verifier that no
password has, and fails where and as a wrong password does. What follows AuthenticationOk is the caller's.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pgcat_cluster.errors import AuthenticationFailed, ProtocolViolation, WireError
from pgcat_cluster.session.exchange import Receive, Reply, Send, Step, receive
from pgcat_cluster.wire import md5, messages, scram
from pgcat_cluster.wire.startup import MINOR_VERSION_MAX, Startup

# PostgreSQL's own limits for these messages.
SASL_BYTES_MAX = 1024
PASSWORD_BYTES_MAX = 65_535

_RECEIVE_PASSWORD = Receive(body_bytes_max=PASSWORD_BYTES_MAX, kinds=b"p", expected="password response")
_RECEIVE_SASL = Receive(body_bytes_max=SASL_BYTES_MAX, kinds=b"p", expected="SASL response")

Method: TypeAlias = Literal["scram-sha-256", "md5", "trust"]
LoginStep: TypeAlias = Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """How one user proves who it is. A verifier that does not fit the method lets nobody in."""

    method: Method
    verifier: str | None

    def __repr__(self) -> str:
        return f"Credential(method={self.method!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginPolicy:
    """How clients of one pool log in.

    `default_method` is asked of users that `lookup` does not know. `mock_secret` is the process's own secret
    behind their verifiers, `mock_iterations` the count that the known users' verifiers have.
    """

    lookup: Callable[[str], Credential | None]
    default_method: Method
    mock_secret: bytes
    random_bytes: Callable[[int], bytes]
    mock_iterations: int = scram.ITERATIONS_DEFAULT

    def __repr__(self) -> str:
        return f"LoginPolicy(default_method={self.default_method!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """Who logged in, and the parameters it set at start-up (those in `options` included).

    `keys` can log in to a server that keeps the same SCRAM verifier; None after md5 and trust.
    """

    user: str
    database: str
    parameters: dict[str, str]
    keys: scram.ScramKeys | None


def client_login(
    startup: Startup, policy: LoginPolicy, *, channel_binding: bytes | None = None
) -> Generator[LoginStep, Reply, LoggedIn]:
    """Log one client in. `channel_binding` is our certificate's tls-server-end-point hash, if TLS is up."""
    try:
        keys = yield from _authenticate(startup, policy, channel_binding)
    except WireError as error:
        raise ProtocolViolation(str(error)) from error
    return LoggedIn(
        user=startup.user,
        database=startup.database,
        parameters=startup.settings | startup.parameters,
        keys=keys,
    )


def _authenticate(
    startup: Startup, policy: LoginPolicy, channel_binding: bytes | None
) -> Generator[LoginStep, Reply, scram.ScramKeys | None]:
    if startup.needs_negotiation:
        yield Send(messages.negotiate_protocol_version(MINOR_VERSION_MAX, startup.unknown_options))
    credential = policy.lookup(startup.user)
    method = policy.default_method if credential is None else credential.method
    verifier = "" if credential is None or credential.verifier is None else credential.verifier
    if method == "scram-sha-256":
        proof = yield from _check_scram(startup.user, verifier, policy, channel_binding)
        yield Send(messages.authentication_sasl_final(proof.message) + messages.authentication_ok())
        return proof.keys
    if method == "md5":
        yield from _check_md5(startup.user, verifier, policy)
    elif credential is None:
        # Trust means that a known user needs no password; it makes nobody known.
        raise _failed(startup.user)
    yield Send(messages.authentication_ok())
    return None


def _check_scram(
    user: str, verifier_text: str, policy: LoginPolicy, binding: bytes | None
) -> Generator[LoginStep, Reply, scram.ServerProof]:
    offered = [scram.MECHANISM] if binding is None else [scram.MECHANISM_PLUS, scram.MECHANISM]
    yield Send(messages.authentication_sasl(offered))
    _, body = yield from receive(_RECEIVE_SASL)
    initial = messages.parse_sasl_initial(body)
    if initial.mechanism not in offered:
        raise WireError("client selected an invalid SASL authentication mechanism")
    client_first = initial.data
    if client_first is None:
        # A client may wait to be asked before it speaks.
        yield Send(messages.authentication_sasl_continue(b""))
        _, client_first = yield from receive(_RECEIVE_SASL)
    # Made for known users too, so that the time tells nothing.
    verifier = scram.mock_verifier(user, policy.mock_secret, policy.mock_iterations)
    with suppress(ValueError):
        verifier = scram.parse_verifier(verifier_text)
    server = scram.ScramServer(
        client_first,
        verifier=verifier,
        nonce=scram.make_nonce(policy.random_bytes(scram.NONCE_BYTES)),
        plus=initial.mechanism == scram.MECHANISM_PLUS,
        binding=binding,
    )
    yield Send(messages.authentication_sasl_continue(server.first))
    _, client_final = yield from receive(_RECEIVE_SASL)
    proof = server.finish(client_final)
    if proof is None:
        raise _failed(user)
    return proof


def _check_md5(user: str, verifier: str, policy: LoginPolicy) -> Generator[LoginStep, Reply, None]:
    mock = md5.mock_verifier(user, policy.mock_secret)
    salt = policy.random_bytes(md5.SALT_BYTES)
    yield Send(messages.authentication_md5(salt))
    _, body = yield from receive(_RECEIVE_PASSWORD)
    expected = md5.answer(verifier if md5.is_verifier(verifier) else mock, salt)
    if not hmac.compare_digest(messages.parse_password(body), expected):
        raise _failed(user)


def _failed(user: str) -> AuthenticationFailed:
    return AuthenticationFailed(f'password authentication failed for user "{user}"')
