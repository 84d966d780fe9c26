"""SCRAM-SHA-256, both sides, without I/O, randomness or slow work of its own.

The server's part:  `ScramServer(client_first)` → its `first` is sent → `finish(client_final)`.
The client's part:  `ScramClient().first` is sent → `challenge(server_first)` → keys are derived (PBKDF2:
slow, by the caller, off the loop) → `final(challenge, keys)` is sent → `verify(server_final)`.

Messages have exactly the attributes they must have, in their order; extensions are refused. The user name
inside SCRAM is never used: the startup packet has named the user. Source: RFC 5802, RFC 7677, RFC 5929.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

import msgspec

from pgcat_cluster.errors import WireError
from pgcat_cluster.wire.reader import to_bytes
from pgcat_cluster.wire.saslprep import prepared

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 18
ITERATIONS_DEFAULT = 4096
# A server names the iterations, we do the work: about a third of a second at most.
ITERATIONS_MAX = 1_000_000

_BINDING_HEADER = b"p=tls-server-end-point,,"
_VERIFIER = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,9}):([^$:]+)\$([^$:]+):([^$:]+)")
_PRINTABLE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_ITERATIONS = re.compile(rb"[1-9][0-9]{0,9}")


class ScramVerifier(msgspec.Struct, frozen=True, kw_only=True):
    """What a server keeps instead of a password. Its `repr` shows no key."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return f"ScramVerifier(iterations={self.iterations})"

    def to_text(self) -> str:
        """As pg_authid keeps it."""
        parts = (self.salt, self.stored_key, self.server_key)
        salt, stored, server = (_encode(part).decode() for part in parts)
        return f"{MECHANISM}${self.iterations}:{salt}${stored}:{server}"


class ScramKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What lets one log in without the password, where salt and iterations are the same."""

    client_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return "ScramKeys()"


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """A server's first message, read."""

    message: bytes
    nonce: bytes
    salt: bytes
    iterations: int


class ServerProof(msgspec.Struct, frozen=True, kw_only=True):
    """The client knows the password: the server's last message, and the keys it has thereby shown."""

    message: bytes
    keys: ScramKeys


def parse_verifier(text: str) -> ScramVerifier:
    """Read a verifier as pg_authid keeps it; ValueError if it is none."""
    match = _VERIFIER.fullmatch(text)
    if match is None:
        raise ValueError("not a SCRAM-SHA-256 verifier")
    iterations, salt, stored_key, server_key = match.groups()
    verifier = ScramVerifier(
        iterations=int(iterations),
        salt=_decode(to_bytes(salt)),
        stored_key=_decode(to_bytes(stored_key)),
        server_key=_decode(to_bytes(server_key)),
    )
    if len(verifier.stored_key) != KEY_BYTES or len(verifier.server_key) != KEY_BYTES:
        raise ValueError("a SCRAM-SHA-256 key has 32 bytes")
    return verifier


def make_verifier(password: str, iterations: int, salt: bytes) -> ScramVerifier:
    """Slow: call it off the loop."""
    keys = derive_keys(password, salt, iterations)
    return ScramVerifier(
        iterations=iterations, salt=salt, stored_key=_hash(keys.client_key), server_key=keys.server_key
    )


def mock_verifier(user: str, secret: bytes, iterations: int = ITERATIONS_DEFAULT) -> ScramVerifier:
    """A verifier for a user who does not exist: the same salt each time, and keys no password has."""
    name = to_bytes(user)
    return ScramVerifier(
        iterations=iterations,
        salt=_hmac(secret, b"salt " + name)[:SALT_BYTES],
        stored_key=_hmac(secret, b"stored key " + name),
        server_key=_hmac(secret, b"server key " + name),
    )


def derive_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """Slow: call it off the loop."""
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)
    return ScramKeys(client_key=_hmac(salted, b"Client Key"), server_key=_hmac(salted, b"Server Key"))


def make_nonce(random: bytes) -> bytes:
    """A printable nonce from NONCE_BYTES of randomness."""
    return _encode(random)


class ScramServer:
    """The server's part of one exchange, from the client's first message on.

    `plus` says that the client chose SCRAM-SHA-256-PLUS; `binding` is our certificate's tls-server-end-point
    hash if PLUS was offered. Malformed messages are WireErrors.
    """

    __slots__ = ("_auth_prefix", "_binding", "_nonce", "_verifier", "first")

    def __init__(
        self,
        client_first: bytes,
        *,
        verifier: ScramVerifier,
        nonce: bytes,
        plus: bool = False,
        binding: bytes | None = None,
    ) -> None:
        header, bare = _split_header(client_first)
        self._binding = _encode(_checked_binding(header, plus=plus, binding=binding))
        _, client_nonce = _attributes(bare, b"nr")
        if not _PRINTABLE.fullmatch(client_nonce):
            raise WireError("non-printable characters in SCRAM nonce")
        self._verifier = verifier
        self._nonce = client_nonce + nonce
        self.first = b"r=%b,s=%b,i=%d" % (self._nonce, _encode(verifier.salt), verifier.iterations)
        self._auth_prefix = bare + b"," + self.first + b","

    def finish(self, client_final: bytes) -> ServerProof | None:
        """Check the client's last message; None if its proof is wrong."""
        binding, nonce, encoded_proof = _attributes(client_final, b"crp")
        if not hmac.compare_digest(binding, self._binding):
            raise WireError("unexpected SCRAM channel-binding attribute in client-final-message")
        if not hmac.compare_digest(nonce, self._nonce):
            raise WireError("invalid SCRAM response")
        proof = _decode(encoded_proof)
        if len(proof) != KEY_BYTES:
            raise WireError("malformed SCRAM message")
        auth_message = self._auth_prefix + client_final[: -len(b",p=" + encoded_proof)]
        client_key = _xor(proof, _hmac(self._verifier.stored_key, auth_message))
        if not hmac.compare_digest(_hash(client_key), self._verifier.stored_key):
            return None
        signature = _hmac(self._verifier.server_key, auth_message)
        return ServerProof(
            message=b"v=" + _encode(signature),
            keys=ScramKeys(client_key=client_key, server_key=self._verifier.server_key),
        )


class ScramClient:
    """The client's part of one exchange.

    `binding` is the hash of the server's certificate, if there is TLS; `plus` says that PLUS was offered.
    """

    __slots__ = ("_bare", "_binding", "_nonce", "_signature", "first", "mechanism")

    def __init__(self, nonce: bytes, *, plus: bool = False, binding: bytes | None = None) -> None:
        self.mechanism = MECHANISM
        header = cbind_input = b"n,,"
        if binding is not None and plus:
            self.mechanism = MECHANISM_PLUS
            header = _BINDING_HEADER
            cbind_input = header + binding
        elif binding is not None:
            # Tells a server that did offer PLUS that somebody in between took the offer away.
            header = cbind_input = b"y,,"
        self._nonce = nonce
        self._signature = b""
        # A name may not be empty and is not looked at: the startup packet has named the user.
        self._bare = b"n=*,r=" + nonce
        self.first = header + self._bare
        self._binding = _encode(cbind_input)

    def challenge(self, server_first: bytes) -> Challenge:
        nonce, salt, iterations = _attributes(server_first, b"rsi")
        is_extended = nonce.startswith(self._nonce) and len(nonce) > len(self._nonce)
        if not is_extended or not _PRINTABLE.fullmatch(nonce):
            raise WireError("invalid SCRAM challenge (nonce mismatch)")
        if not salt or not _ITERATIONS.fullmatch(iterations) or int(iterations) > ITERATIONS_MAX:
            raise WireError("invalid SCRAM challenge")
        return Challenge(message=server_first, nonce=nonce, salt=_decode(salt), iterations=int(iterations))

    def final(self, challenge: Challenge, keys: ScramKeys) -> bytes:
        without_proof = b"c=%b,r=%b" % (self._binding, challenge.nonce)
        auth_message = b",".join((self._bare, challenge.message, without_proof))
        proof = _xor(keys.client_key, _hmac(_hash(keys.client_key), auth_message))
        self._signature = _hmac(keys.server_key, auth_message)
        return without_proof + b",p=" + _encode(proof)

    def verify(self, server_final: bytes) -> bool:
        """Has the server shown that it knows the password, too?"""
        (encoded,) = _attributes(server_final, b"v")
        signature = _decode(encoded)
        return bool(self._signature) and hmac.compare_digest(signature, self._signature)


def _split_header(client_first: bytes) -> tuple[bytes, bytes]:
    """The GS2 header with its two commas, and the rest."""
    flag, comma, rest = client_first.partition(b",")
    authorization, second_comma, bare = rest.partition(b",")
    if not comma or not second_comma:
        raise WireError("malformed SCRAM message")
    if authorization:
        raise WireError("client uses authorization identity, but it is not supported")
    return flag + b",,", bare


def _checked_binding(header: bytes, *, plus: bool, binding: bytes | None) -> bytes:
    """What the client must repeat in its last message: the header, and the binding data behind `p`."""
    if header == b"n,," and not plus:
        return header
    if header == b"y,," and not plus:
        if binding is not None:
            raise WireError("SCRAM channel binding negotiation error")
        return header
    if header == _BINDING_HEADER and plus and binding is not None:
        return header + binding
    if header.startswith(b"p=") and plus:
        raise WireError("unsupported SCRAM channel-binding type")
    raise WireError("malformed SCRAM message")


def _attributes(message: bytes, names: bytes) -> list[bytes]:
    """Values of exactly these one-letter attributes, in this order."""
    parts = message.split(b",")
    if len(parts) != len(names) or 0 in message:
        raise WireError("malformed SCRAM message")
    for name, part in zip(names, parts, strict=True):
        if part[:2] != bytes((name, 0x3D)):
            raise WireError("malformed SCRAM message")
    return [part[2:] for part in parts]


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data)


def _decode(text: bytes) -> bytes:
    """Canonical base64 only, so that one value has one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise WireError("malformed SCRAM message") from None
    if _encode(data) != text:
        raise WireError("malformed SCRAM message")
    return data


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(KEY_BYTES, "big")
