"""PostgreSQL's MD5 password hashes: the stored verifier and the salted answer to a challenge."""

from __future__ import annotations

import hashlib
import hmac
import re

from pgcat_cluster.wire.reader import to_bytes

SALT_BYTES = 4
_VERIFIER = re.compile(r"md5[0-9a-f]{32}")


def make_verifier(user: str, password: str) -> str:
    """What pg_authid keeps: `md5` and 32 hexadecimal digits."""
    return "md5" + _hash(to_bytes(password) + to_bytes(user))


def is_verifier(text: str) -> bool:
    return _VERIFIER.fullmatch(text) is not None


def mock_verifier(user: str, secret: bytes) -> str:
    """A verifier for a user who does not exist: no password has it."""
    return "md5" + hmac.digest(secret, b"md5 " + to_bytes(user), "sha256").hex()[:32]


def answer(verifier: str, salt: bytes) -> bytes:
    """What a client sends that holds the password behind `verifier`."""
    return b"md5" + _hash(verifier[3:].encode() + salt).encode()


def _hash(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
