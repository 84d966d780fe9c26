"""Reads a connection's first packet: start-up, a request for encryption, or a cancel.

This is the most attacked code of a pooler: every step consumes input or fails, nothing is allocated because a
number says so, and identities are cut to 63 bytes once, here, so that one login never has two names.

Of a parameter given twice the last value counts, `user` included, as in PostgreSQL: that one user is
authenticated, and that one chooses the pool. In `options` only `-c name=value` and `--name=value` are taken;
the other switches of a server process are refused by name.
"""

from __future__ import annotations

import msgspec

from pgcat_cluster.errors import (
    NotAdmitted,
    ProtocolUnsupported,
    ProtocolViolation,
    StartupOptionInvalid,
    StartupParameterInvalid,
    StartupParameterUnknown,
    WireError,
)
from pgcat_cluster.wire.messages import (
    CANCEL_CODE,
    GSS_CODE,
    PROTOCOL_MAJOR,
    SECRET_BYTES_MAX,
    SECRET_BYTES_MIN,
    SSL_CODE,
)
from pgcat_cluster.wire.reader import Reader, to_text

# PostgreSQL's own limits: a packet without its length word, and a name.
STARTUP_BYTES_MIN = 4
STARTUP_BYTES_MAX = 10_000
IDENTIFIER_BYTES_MAX = 63
# The newest minor version we speak; a client that wants a newer one is told so and goes on with this one.
MINOR_VERSION_MAX = 2

_SPACES = b" \t\n\v\f\r"
# PostgreSQL's booleans: every beginning of a word that is not the beginning of another.
_TRUE_WORDS = {"1", "on", "t", "tr", "tru", "true", "y", "ye", "yes"}
_FALSE_WORDS = {"0", "of", "off", "f", "fa", "fal", "fals", "false", "n", "no"}


class Startup(msgspec.Struct, frozen=True, kw_only=True):
    """A client's StartupMessage.

    `parameters` are those of the packet (without user, database, options, replication), `settings` those of
    `options`; a packet's parameter wins over one in `options`. `unknown_options` are the `_pq_.` names.
    """

    version: tuple[int, int]
    user: str
    database: str
    parameters: dict[str, str]
    settings: dict[str, str]
    replication: str | None
    unknown_options: tuple[str, ...]

    @property
    def needs_negotiation(self) -> bool:
        return self.version[1] > MINOR_VERSION_MAX or bool(self.unknown_options)


class SslRequest(msgspec.Struct, frozen=True, kw_only=True):
    """May TLS begin?"""


class GssRequest(msgspec.Struct, frozen=True, kw_only=True):
    """May GSSAPI encryption begin?"""


class CancelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """End the running statement of the client that holds this key."""

    pid: int
    secret: bytes


def parse_startup(packet: bytes) -> Startup | SslRequest | GssRequest | CancelRequest:
    """Read a first packet without its length word.

    Raises WireError where PostgreSQL closes without a word (lengths that lie, a cancel of the wrong size),
    else a FATAL fault with PostgreSQL's own text.
    """
    if not STARTUP_BYTES_MIN <= len(packet) <= STARTUP_BYTES_MAX:
        raise WireError("invalid length of startup packet")
    reader = Reader(packet)
    code = reader.uint32()
    if code == CANCEL_CODE:
        return _cancel(reader)
    if code == SSL_CODE:
        reader.end()
        return SslRequest()
    if code == GSS_CODE:
        reader.end()
        return GssRequest()
    major, minor = code >> 16, code & 0xFFFF
    if major != PROTOCOL_MAJOR:
        raise ProtocolUnsupported(
            f"unsupported frontend protocol {major}.{minor}: "
            f"server supports {PROTOCOL_MAJOR}.0 to {PROTOCOL_MAJOR}.{MINOR_VERSION_MAX}"
        )
    return _startup((major, minor), reader)


def _cancel(reader: Reader) -> CancelRequest:
    pid, secret = reader.uint32(), reader.rest()
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise WireError("invalid length of cancel request")
    return CancelRequest(pid=pid, secret=secret)


def _startup(version: tuple[int, int], reader: Reader) -> Startup:
    pairs = _pairs(reader)
    user = _identifier(pairs.pop("user", b""))
    if not user:
        raise NotAdmitted("no PostgreSQL user name specified in startup packet")
    database = _identifier(pairs.pop("database", b"")) or user
    replication = _replication(to_text(pairs.pop("replication", b"false")))
    settings = parse_options(pairs.pop("options", b""))
    unknown = tuple(name for name in pairs if name.startswith("_pq_."))
    return Startup(
        version=version,
        user=user,
        database=database,
        parameters={name: to_text(value) for name, value in pairs.items() if name not in unknown},
        settings=settings,
        replication=replication,
        unknown_options=unknown,
    )


def _pairs(reader: Reader) -> dict[str, bytes]:
    pairs: dict[str, bytes] = {}
    try:
        while name := reader.string():
            pairs[name] = reader.string_bytes()
        reader.end()
    except WireError:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte") from None
    return pairs


def _identifier(name: bytes) -> str:
    return to_text(name[:IDENTIFIER_BYTES_MAX])


def _replication(value: str) -> str | None:
    """`"true"` for a physical, `"database"` for a logical replication link, None for an ordinary one."""
    if value == "database":
        return value
    word = value.lower()
    if word in _TRUE_WORDS:
        return "true"
    if word in _FALSE_WORDS:
        return None
    raise StartupParameterInvalid(
        f'invalid value for parameter "replication": "{value}"',
        hint='Valid values are: "false", 0, "true", 1, "database".',
    )


def parse_options(options: bytes) -> dict[str, str]:
    """The settings in a startup packet's `options`; the last of two equal names wins."""
    words = _split_options(options)
    settings: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == b"--":
            # Ends the switches; nothing may follow, for a server process takes no other arguments.
            break
        if word.startswith(b"--"):
            switch, assignment = "--", word[2:]
        elif word.startswith(b"-c"):
            switch, assignment = "-c ", word[2:]
            if not assignment:
                if position == len(words):
                    raise _not_an_option(word)
                assignment = words[position]
                position += 1
        else:
            raise _not_an_option(word)
        name, value = _assignment(switch, assignment)
        settings[name] = value
    if position < len(words):
        raise _not_an_option(words[position])
    return settings


def _assignment(switch: str, assignment: bytes) -> tuple[str, str]:
    name, equals, value = assignment.partition(b"=")
    if not equals:
        raise StartupOptionInvalid(f"{switch}{to_text(assignment)} requires a value")
    if not name:
        raise StartupParameterUnknown('unrecognized configuration parameter ""')
    return to_text(name).replace("-", "_"), to_text(value)


def _not_an_option(word: bytes) -> StartupOptionInvalid:
    return StartupOptionInvalid(
        f"invalid command-line argument for server process: {to_text(word)}",
        hint='Try "postgres --help" for more information.',
    )


def _split_options(options: bytes) -> list[bytes]:
    """Words between white space; a backslash takes the next byte as it is, and at the end nothing."""
    words: list[bytes] = []
    word: bytearray | None = None
    escaped = False
    for byte in options:
        if not escaped and byte in _SPACES:
            if word is not None:
                words.append(bytes(word))
                word = None
            continue
        if word is None:
            word = bytearray()
        if not escaped and byte == 0x5C:
            escaped = True
            continue
        word.append(byte)
        escaped = False
    if word is not None:
        words.append(bytes(word))
    return words
