"""Makes of the key that all nodes of a fleet share the keys they sign with: for peers, and for cancels."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

LINE_BYTES_MIN = 32
DIGEST_BYTES = 32
_PEER_LABEL = b"pgcat peer 1"
_CANCEL_LABEL = b"pgcat cancel 1"


class FleetKeyUnusable(ValueError):
    """The text of a fleet key is not one."""


class FleetKey:
    """The derived keys, one for each line: the first of them signs, each of them verifies.

    So a key changes without a stop: the new line is added below everywhere, then put first, then the old one goes.
    """

    __slots__ = ("cancel", "peer")

    def __init__(self, lines: Iterable[bytes]) -> None:
        lines = tuple(lines)
        if not lines:
            raise FleetKeyUnusable("holds no key")
        for number, line in enumerate(lines, 1):
            if len(line) < LINE_BYTES_MIN:
                raise FleetKeyUnusable(f"key {number} is shorter than {LINE_BYTES_MIN} bytes")
        self.peer = tuple(hkdf(line, b"", _PEER_LABEL) for line in lines)
        self.cancel = tuple(hkdf(line, b"", _CANCEL_LABEL) for line in lines)

    @classmethod
    def parse(cls, text: str) -> FleetKey:
        """The content of a key file; empty lines and spaces around a line do not count."""
        return cls(line.strip().encode() for line in text.splitlines() if line.strip())


def hkdf(secret: bytes, salt: bytes, label: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) for a key of 32 bytes, which takes one block of it."""
    extracted = hmac.digest(salt or bytes(DIGEST_BYTES), secret, "sha256")
    return hmac.digest(extracted, label + b"\1", "sha256")
