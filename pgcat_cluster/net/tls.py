"""TLS contexts of both sides, built from files and built again when the files changed."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


class TlsFilesUnusable(ValueError):
    """A certificate, key or CA file can not be used; the text names the file."""


class _WatchedContext:
    """A context and the files it was made of; a rebuild that fails leaves the last good one in force."""

    def __init__(self, mode: TlsMode, files: Sequence[str | None]) -> None:
        self.mode: TlsMode = mode
        self._files = [name for name in files if name and mode != "disable"]
        self._seen = self._stamps()
        self.context: ssl.SSLContext | None = self._build()

    @property
    def is_required(self) -> bool:
        return self.mode not in ("disable", "prefer")

    def _stamps(self) -> list[tuple[int, int, int]]:
        stamps = []
        for name in self._files:
            try:
                status = os.stat(name)
            except OSError as error:
                raise TlsFilesUnusable(f"{name}: {error.strerror}") from None
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return stamps

    def reload(self) -> bool:
        """Rebuild if a file changed; whether it did. Raises TlsFilesUnusable and keeps the old context."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self.context = self._build()
        self._seen = stamps
        return True

    def _build(self) -> ssl.SSLContext | None:
        raise NotImplementedError


class OutgoingTls(_WatchedContext):
    """How we speak TLS to servers.

    The modes are libpq's. `prefer` protects from nobody who can write on the wire: where TLS is not offered, its
    handshake fails or the server does not admit the link with it, the link goes on without. `require` with a CA
    checks the chain, as libpq does when it finds a root file.
    """

    def __init__(
        self, mode: TlsMode, *, ca: str | None = None, cert: str | None = None, key: str | None = None
    ) -> None:
        self._ca, self._cert, self._key = ca, cert, key
        super().__init__(mode, [ca, cert, key])

    def _build(self) -> ssl.SSLContext | None:
        if self.mode == "disable":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.mode == "verify-full"
        if self.mode in ("verify-ca", "verify-full") or (self.mode == "require" and self._ca):
            context.verify_mode = ssl.CERT_REQUIRED
            _load_ca(context, self._ca)
        else:
            context.verify_mode = ssl.CERT_NONE
        if self._cert:
            _load_pair(context, self._cert, self._key)
        return context


class IncomingTls(_WatchedContext):
    """How clients speak TLS to us.

    `prefer` takes both kinds of link, `require` and above refuse plain ones; `verify-ca` and above
    ask each client for a certificate of `client_ca` (`verify-full`: with its user as name, `client_names`).
    `certificate_hash` is the channel binding data tls-server-end-point (RFC 5929), or None.
    """

    def __init__(
        self,
        mode: TlsMode,
        *,
        cert: str | None = None,
        key: str | None = None,
        client_ca: str | None = None,
    ) -> None:
        self.certificate_hash: bytes | None = None
        self._cert, self._key, self._client_ca = cert, key, client_ca
        super().__init__(mode, [cert, key, client_ca])

    def _build(self) -> ssl.SSLContext | None:
        if self.mode == "disable":
            return None
        if not self._cert:
            raise TlsFilesUnusable(f"mode {self.mode} needs a certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(context, self._cert, self._key)
        if self.mode in ("verify-ca", "verify-full"):
            if not self._client_ca:
                raise TlsFilesUnusable(f"mode {self.mode} needs a client CA")
            context.verify_mode = ssl.CERT_REQUIRED
        elif self._client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
        if self._client_ca:
            _load_ca(context, self._client_ca)
        self.certificate_hash = end_point_hash(_first_certificate(self._cert))
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsChange:
    """What a reload did to one side: rebuilt, or kept because of an error."""

    side: str
    error: str | None = None


class TlsContexts:
    """All contexts of a node: one for clients, one per cluster for servers."""

    def __init__(self, *, incoming: IncomingTls, outgoing: Mapping[str, OutgoingTls]) -> None:
        self.incoming = incoming
        self.outgoing = dict(outgoing)

    def reload(self) -> list[TlsChange]:
        """Rebuild what changed on disk; links that are open keep what they have."""
        changes = []
        sides: list[tuple[str, _WatchedContext]] = [("clients", self.incoming), *self.outgoing.items()]
        for side, watched in sides:
            try:
                if watched.reload():
                    changes.append(TlsChange(side=side))
            except TlsFilesUnusable as error:
                changes.append(TlsChange(side=side, error=str(error)))
        return changes


class TlsPipe:
    """The TLS half of a link without a socket: an SSLObject between two memory buffers."""

    __slots__ = ("incoming", "object", "outgoing")

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
        )


def client_names(pipe: TlsPipe) -> list[str]:
    """The common names in the verified certificate a client showed; empty when it showed none."""
    certificate = pipe.object.getpeercert() or {}
    subject: tuple[tuple[tuple[str, str], ...], ...] = certificate.get("subject", ())  # type: ignore[assignment]
    return [value for group in subject for name, value in group if name == "commonName"]


def end_point_hash(certificate_der: bytes) -> bytes | None:
    """The tls-server-end-point data of a certificate: its hash by the algorithm of its own signature.

    RFC 5929 §4.1: MD5 and SHA-1 count as SHA-256. None for signatures without a hash (Ed25519, PSS).
    """
    certificate, _ = _der_content(certificate_der, 0)
    _, after_body = _der_content(certificate_der, certificate)
    algorithm, _ = _der_content(certificate_der, after_body)
    identifier, end = _der_content(certificate_der, algorithm)
    name = _SIGNATURE_HASHES.get(certificate_der[identifier:end])
    return hashlib.new(name, certificate_der).digest() if name else None


# DER bodies of the object identifiers 1.2.840.113549.1.1.x (RSA) and 1.2.840.10045.4.x (ECDSA).
_RSA = bytes.fromhex("2a864886f70d0101")
_ECDSA = bytes.fromhex("2a8648ce3d04")
_SIGNATURE_HASHES = {
    _RSA + b"\x04": "sha256",
    _RSA + b"\x05": "sha256",
    _RSA + b"\x0b": "sha256",
    _RSA + b"\x0c": "sha384",
    _RSA + b"\x0d": "sha512",
    _ECDSA + b"\x01": "sha256",
    _ECDSA + b"\x03\x02": "sha256",
    _ECDSA + b"\x03\x03": "sha384",
    _ECDSA + b"\x03\x04": "sha512",
}


def _der_content(data: bytes, start: int) -> tuple[int, int]:
    """Where the content of the DER element at `start` begins and ends."""
    length = data[start + 1]
    begin = start + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
    return begin, begin + length


def _first_certificate(path: str) -> bytes:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    with open(path, encoding="ascii", errors="replace") as file:
        text = file.read()
    block = text[text.index(begin) : text.index(end) + len(end)]
    return ssl.PEM_cert_to_DER_cert(block)


def _load_pair(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    def refuse_passphrase() -> str:
        # Without this OpenSSL would ask on the terminal and stop the whole node.
        raise TlsFilesUnusable(f"{key or cert}: the key must not need a passphrase")

    try:
        context.load_cert_chain(cert, key, password=refuse_passphrase)
    except OSError as error:
        raise TlsFilesUnusable(f"{cert}, {key or cert}: {error}") from None


def _load_ca(context: ssl.SSLContext, ca: str | None) -> None:
    if ca is None:
        context.load_default_certs()
        return
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise TlsFilesUnusable(f"{ca}: {error}") from None
