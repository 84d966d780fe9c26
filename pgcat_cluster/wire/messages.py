"""The messages of both sides: builders that return whole frames, and decoders of bodies into values.

Strings are `str` (UTF-8, surrogateescape, so every byte comes back); what is data stays `bytes`.
Builders return a whole frame. Decoders take the body alone, check every inner length and raise WireError.
Source: PostgreSQL documentation, chapter "Message Formats".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from pgcat_cluster.errors import Fault, WireError
from pgcat_cluster.wire.reader import Reader, to_bytes

PROTOCOL_MAJOR = 3
CANCEL_CODE = 1234 << 16 | 5678
SSL_CODE = 1234 << 16 | 5679
GSS_CODE = 1234 << 16 | 5680
# Since 3.2 a cancel key may have any of these lengths; before, it has exactly the smallest.
SECRET_BYTES_MIN = 4
SECRET_BYTES_MAX = 256

Kind = Literal[b"S", b"P"]


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """One whole message: type byte, length (which counts itself), body."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def _string(text: str) -> bytes:
    data = to_bytes(text)
    if 0 in data:
        raise WireError("string contains a zero byte")
    return data + b"\0"


def _int16(number: int) -> bytes:
    return number.to_bytes(2, "big", signed=True)


def _uint16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _int32(number: int) -> bytes:
    return number.to_bytes(4, "big", signed=True)


def _uint32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _nullable(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else _int32(len(value)) + value


# -- to clients: login


def authentication_ok() -> bytes:
    return frame(b"R", _int32(0))


def authentication_cleartext() -> bytes:
    return frame(b"R", _int32(3))


def authentication_md5(salt: bytes) -> bytes:
    return frame(b"R", _int32(5) + salt)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    return frame(b"R", _int32(10) + b"".join(map(_string, mechanisms)) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return frame(b"R", _int32(11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return frame(b"R", _int32(12) + data)


def negotiate_protocol_version(minor: int, unknown: Sequence[str]) -> bytes:
    """The newest version spoken, and the `_pq_.` options that were not understood.

    The version is written whole (major and minor), as PostgreSQL does and libpq expects.
    """
    version = PROTOCOL_MAJOR << 16 | minor
    return frame(b"v", _int32(version) + _int32(len(unknown)) + b"".join(map(_string, unknown)))


def parameter_status(name: str, value: str) -> bytes:
    return frame(b"S", _string(name) + _string(value))


def backend_key_data(pid: int, secret: bytes) -> bytes:
    return frame(b"K", _uint32(pid) + secret)


def ready_for_query(status: bytes) -> bytes:
    """`status` is b"I", b"T" or b"E"."""
    return frame(b"Z", status)


# -- to clients: answers


def _report(kind: bytes, fields: Sequence[tuple[str, str | None]]) -> bytes:
    # A text of ours may quote a peer's; a zero byte in it must not cut the message short.
    parts = [name.encode() + _string(text.replace("\0", "?")) for name, text in fields if text is not None]
    return frame(kind, b"".join(parts) + b"\0")


def error_response(fault: Fault) -> bytes:
    return _report(
        b"E",
        (
            ("S", fault.severity),
            ("V", fault.severity),
            ("C", fault.sqlstate),
            ("M", fault.message),
            ("D", fault.detail),
            ("H", fault.hint),
            ("P", None if fault.position is None else str(fault.position)),
        ),
    )


def notice(severity: str, code: str, message: str, detail: str | None = None) -> bytes:
    return _report(b"N", (("S", severity), ("V", severity), ("C", code), ("M", message), ("D", detail)))


def row_description(columns: Sequence[tuple[str, int, int]], formats: Sequence[int] = ()) -> bytes:
    """Columns of no table: (name, type oid, type size or -1). `formats`: one each, or all are text."""
    parts = [
        _string(name)
        + _uint32(0)
        + _int16(0)
        + _uint32(type_oid)
        + _int16(type_size)
        + _int32(-1)
        + _int16(form)
        for (name, type_oid, type_size), form in zip(columns, formats or [0] * len(columns), strict=True)
    ]
    return frame(b"T", _uint16(len(parts)) + b"".join(parts))


def data_row(values: Sequence[bytes | None]) -> bytes:
    return frame(b"D", _uint16(len(values)) + b"".join(map(_nullable, values)))


def command_complete(tag: str) -> bytes:
    return frame(b"C", _string(tag))


def empty_query_response() -> bytes:
    return frame(b"I")


def parse_complete() -> bytes:
    return frame(b"1")


def bind_complete() -> bytes:
    return frame(b"2")


def close_complete() -> bytes:
    return frame(b"3")


def no_data() -> bytes:
    return frame(b"n")


def portal_suspended() -> bytes:
    return frame(b"s")


def parameter_description(types: Sequence[int]) -> bytes:
    return frame(b"t", _uint16(len(types)) + b"".join(map(_uint32, types)))


def notification(pid: int, channel: str, payload: str) -> bytes:
    return frame(b"A", _uint32(pid) + _string(channel) + _string(payload))


# -- to servers: first packets, which have no type byte


def _packet(code: int, body: bytes = b"") -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + _uint32(code) + body


def startup(parameters: Mapping[str, str], minor: int = 0) -> bytes:
    pairs = [_string(name) + _string(value) for name, value in parameters.items()]
    return _packet(PROTOCOL_MAJOR << 16 | minor, b"".join(pairs) + b"\0")


def ssl_request() -> bytes:
    return _packet(SSL_CODE)


def gss_request() -> bytes:
    return _packet(GSS_CODE)


def cancel_request(pid: int, secret: bytes) -> bytes:
    return _packet(CANCEL_CODE, _uint32(pid) + secret)


# -- to servers: login


def password(data: bytes) -> bytes:
    """An md5 or cleartext answer; the zero byte is added here."""
    return frame(b"p", data + b"\0")


def sasl_initial(mechanism: str, data: bytes) -> bytes:
    return frame(b"p", _string(mechanism) + _nullable(data))


def sasl_response(data: bytes) -> bytes:
    return frame(b"p", data)


# -- to servers: queries


def query(text: str) -> bytes:
    return frame(b"Q", _string(text))


def parse(name: str, text: str, types: Sequence[int] = ()) -> bytes:
    return frame(b"P", _string(name) + _string(text) + _uint16(len(types)) + b"".join(map(_uint32, types)))


def bind(
    portal: str,
    statement: str,
    values: Sequence[bytes | None] = (),
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    """`formats` and `result_formats`: empty (all text), one for all, or one each; 0 is text, 1 binary."""
    return frame(
        b"B",
        _string(portal)
        + _string(statement)
        + _uint16(len(formats))
        + b"".join(map(_int16, formats))
        + _uint16(len(values))
        + b"".join(map(_nullable, values))
        + _uint16(len(result_formats))
        + b"".join(map(_int16, result_formats)),
    )


def describe(kind: Kind, name: str) -> bytes:
    """`kind` is b"S" for a statement, b"P" for a portal."""
    return frame(b"D", kind + _string(name))


def close(kind: Kind, name: str) -> bytes:
    return frame(b"C", kind + _string(name))


def execute(portal: str, max_rows: int = 0) -> bytes:
    return frame(b"E", _string(portal) + _int32(max_rows))


def sync() -> bytes:
    return frame(b"S")


def flush() -> bytes:
    return frame(b"H")


def terminate() -> bytes:
    return frame(b"X")


def copy_data(data: bytes) -> bytes:
    return frame(b"d", data)


def copy_done() -> bytes:
    return frame(b"c")


def copy_fail(reason: str) -> bytes:
    return frame(b"f", _string(reason))


# -- decoders: what servers send


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    """One Authentication message: its code, and what follows it."""

    code: int
    data: bytes


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a RowDescription."""

    name: str
    table_oid: int
    attribute: int
    type_oid: int
    type_size: int
    type_modifier: int
    format: int


def parse_authentication(body: bytes) -> Authentication:
    reader = Reader(body)
    return Authentication(code=reader.int32(), data=reader.rest())


def parse_mechanisms(data: bytes) -> list[str]:
    """The names in an AuthenticationSASL message."""
    reader = Reader(data)
    names = []
    while name := reader.string():
        names.append(name)
    reader.end()
    return names


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    reader = Reader(body)
    name, value = reader.string(), reader.string()
    reader.end()
    return name, value


def parse_backend_key_data(body: bytes) -> tuple[int, bytes]:
    reader = Reader(body)
    pid, secret = reader.uint32(), reader.rest()
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise WireError("invalid length of cancel key")
    return pid, secret


def parse_negotiate_protocol_version(body: bytes) -> tuple[int, list[str]]:
    """The minor version and the options that were not understood."""
    reader = Reader(body)
    version, count = reader.int32(), reader.int32()
    if version >> 16 not in (0, PROTOCOL_MAJOR) or count < 0 or count > reader.remaining_bytes:
        raise WireError("invalid protocol negotiation")
    unknown = [reader.string() for _ in range(count)]
    reader.end()
    return version & 0xFFFF, unknown


def parse_ready_for_query(body: bytes) -> bytes:
    if body not in (b"I", b"T", b"E"):
        raise WireError("invalid transaction status")
    return bytes(body)


def fields_of_error(body: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or NoticeResponse by their letter; every one of them may be missing."""
    reader = Reader(body)
    fields: dict[str, str] = {}
    while letter := reader.uint8():
        fields[chr(letter)] = reader.string()
    reader.end()
    return fields


def parse_row_description(body: bytes) -> list[Column]:
    reader = Reader(body)
    columns = [
        Column(
            name=reader.string(),
            table_oid=reader.uint32(),
            attribute=reader.int16(),
            type_oid=reader.uint32(),
            type_size=reader.int16(),
            type_modifier=reader.int32(),
            format=reader.int16(),
        )
        for _ in range(reader.uint16())
    ]
    reader.end()
    return columns


def parse_data_row(body: bytes) -> list[bytes | None]:
    reader = Reader(body)
    values = [reader.nullable() for _ in range(reader.uint16())]
    reader.end()
    return values


def parse_command_complete(body: bytes) -> str:
    reader = Reader(body)
    tag = reader.string()
    reader.end()
    return tag


def parse_parameter_description(body: bytes) -> list[int]:
    reader = Reader(body)
    types = [reader.uint32() for _ in range(reader.uint16())]
    reader.end()
    return types


def parse_notification(body: bytes) -> tuple[int, str, str]:
    reader = Reader(body)
    pid, channel, payload = reader.uint32(), reader.string(), reader.string()
    reader.end()
    return pid, channel, payload


# -- decoders: what clients send


class Parse(msgspec.Struct, frozen=True, kw_only=True):
    """A statement to prepare; `types` may name fewer parameters than it has."""

    name: str
    text: str
    types: tuple[int, ...]


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """Values for a prepared statement."""

    portal: str
    statement: str
    values: tuple[bytes | None, ...]
    formats: tuple[int, ...]
    result_formats: tuple[int, ...]


class SaslInitial(msgspec.Struct, frozen=True, kw_only=True):
    """The mechanism a client chose; `data` is None when it sent no first message with it."""

    mechanism: str
    data: bytes | None


def parse_query(body: bytes) -> str:
    reader = Reader(body)
    text = reader.string()
    reader.end()
    return text


def parse_parse(body: bytes) -> Parse:
    reader = Reader(body)
    message = Parse(
        name=reader.string(),
        text=reader.string(),
        types=tuple(reader.uint32() for _ in range(reader.uint16())),
    )
    reader.end()
    return message


def parse_bind(body: bytes) -> Bind:
    reader = Reader(body)
    portal, statement = reader.string(), reader.string()
    formats = tuple(reader.int16() for _ in range(reader.uint16()))
    values = tuple(reader.nullable() for _ in range(reader.uint16()))
    result_formats = tuple(reader.int16() for _ in range(reader.uint16()))
    reader.end()
    return Bind(
        portal=portal, statement=statement, values=values, formats=formats, result_formats=result_formats
    )


def parse_describe(body: bytes) -> tuple[Kind, str]:
    """Describe or Close: b"S" or b"P", and the name."""
    reader = Reader(body)
    kind, name = reader.data(1), reader.string()
    reader.end()
    if kind == b"S":
        return b"S", name
    if kind == b"P":
        return b"P", name
    raise WireError(f"invalid message subtype {kind[0]}")


def parse_execute(body: bytes) -> tuple[str, int]:
    """Portal and row limit (0: all)."""
    reader = Reader(body)
    portal, max_rows = reader.string(), reader.int32()
    reader.end()
    return portal, max_rows


def parse_password(body: bytes) -> bytes:
    """A password message, which must be one string and nothing behind it."""
    reader = Reader(body)
    data = reader.string_bytes()
    if reader.remaining_bytes:
        raise WireError("invalid password packet size")
    return data


def parse_sasl_initial(body: bytes) -> SaslInitial:
    reader = Reader(body)
    message = SaslInitial(mechanism=reader.string(), data=reader.nullable())
    reader.end()
    return message
