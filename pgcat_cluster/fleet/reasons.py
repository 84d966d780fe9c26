"""Says in plain words why etcd could not be reached or refused us, and what to look at."""

from __future__ import annotations

import re

_Meanings = tuple[tuple[str, str], ...]

# What gRPC says of a connection that failed → what it means. The first that is found counts.
_WITH_TLS: _Meanings = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate can not be verified: is `ca` the authority that signed it?",
    ),
    ("Hostname Verification", "its certificate is for another name: name it as its certificate does"),
    (
        r"ALERT_(BAD_CERTIFICATE|CERTIFICATE|UNKNOWN_CA)|CERTIFICATE_REQUIRED",
        "it does not admit our certificate: are `cert` and `key` of an authority that it knows?",
    ),
    ("security handshaker", "the files of `ca`, `cert` and `key` can not be used"),
    (
        "Handshake read failed|WRONG_VERSION_NUMBER",
        "it does not speak TLS, as we were told by https:// or `ca`",
    ),
)
_WITHOUT_TLS: _Meanings = (
    ("Socket closed|reset by peer", "it ends the connection: if it speaks TLS, say https:// or `ca`"),
)
_ALWAYS: _Meanings = (("lookup failed|errors resolving", "its name can not be resolved"),)

_REFUSALS: _Meanings = (
    (
        "invalid user ID or password",
        "etcd does not know this user with this password: look at user and password",
    ),
    ("user name is empty", "etcd wants to know who we are: give a user and its password"),
    ("permission denied", "permission denied: the user's role may not do this"),
)


def why_unreachable(said: str, *, with_tls: bool) -> str:
    """From what gRPC says of an attempt to connect."""
    for pattern, meaning in (*(_WITH_TLS if with_tls else _WITHOUT_TLS), *_ALWAYS):
        if re.search(pattern, said):
            return meaning
    return said.rpartition(": ")[2]


def why_refused(said: str) -> str:
    """From what etcd says to who is not permitted."""
    return next((meaning for sign, meaning in _REFUSALS if sign in said), said)
