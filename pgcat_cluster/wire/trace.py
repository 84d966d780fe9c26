"""A readable notation of messages, for scripts and mismatches: bytes to text and back.

    Query "select 1"
    Parse "s1" "select $1" 23
    Bind "" "s1" "7" null                      values, all in text
    Bind "" "s1" (1) ("\\x00\\x07" null) (1)     formats, values, result formats
    RowDescription ("a" 23 4) ("b" 25 -1)      no table, text; else all seven numbers: ("a" 1259 1 23 4 -1 0)
    DataRow "1" null
    CommandComplete "SELECT 1"
    ReadyForQuery I
    ErrorResponse ERROR 26000 "text" D "detail"    further fields by their letters
    StartupMessage 3.0 "user" "test"

A quoted value is bytes: UTF-8 as it is, anything unprintable as `\\xNN`. Whatever a message's own notation
can not give back exactly is written as type and body, `Frame "Q" "no zero byte"`: every frame survives.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from pgcat_cluster.errors import WireError
from pgcat_cluster.wire import messages
from pgcat_cluster.wire.reader import Reader, to_bytes, to_text

Direction = Literal["frontend", "backend"]

# A message's values: quoted (bytes), bare (a word or a number), null, or a group in parentheses.
Token: TypeAlias = "bytes | str | list[Token] | None"

_BARE = re.compile(r"[A-Za-z0-9]+")
_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([()])|([^\s()"]+))', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_ESCAPED = {value: "\\" + name for name, value in _ESCAPES.items()}


class _Form(msgspec.Struct, frozen=True):
    """How one message is written: name, type byte (none: a first packet), constant beginning, field codes."""

    name: str
    kind: bytes
    fields: str = ""
    prefix: bytes = b""

    def values(self, body: bytes) -> list[Token]:
        if not body.startswith(self.prefix):
            raise WireError(f"not a {self.name}")
        reader = Reader(body[len(self.prefix) :])
        values = [value for code in self.fields for value in _READ[code](reader)]
        reader.end()
        return values

    def frame(self, values: Sequence[Token]) -> bytes:
        left = deque(values)
        body = self.prefix + b"".join([_WRITE[code](left) for code in self.fields])
        if left:
            raise WireError(f"{_text_of(left[0])} is one value too many")
        return self.kind + (len(body) + 4).to_bytes(4, "big") + body


def format_frame(direction: Direction, frame: bytes) -> str:
    """One whole frame, with type and length, as a line."""
    if len(frame) < 5 or int.from_bytes(frame[1:5], "big") != len(frame) - 1:
        raise WireError("not one whole frame")
    for form in _FORMS[direction].values():
        if form.kind == frame[:1] and (line := _line_if_exact(form, frame, frame[5:])) is not None:
            return line
    return _line("Frame", [frame[:1], frame[5:]])


def format_packet(packet: bytes) -> str:
    """One whole first packet of a client, with its length, as a line."""
    for form in _PACKETS.values():
        if (line := _line_if_exact(form, packet, packet[4:])) is not None:
            return line
    return _line("Packet", [packet])


def parse_frame(direction: Direction, line: str) -> bytes:
    """The bytes of one line; of a client also those of a first packet. WireError names what is wrong."""
    name, _, rest = line.strip().partition(" ")
    values = _tokens(rest)
    forms: Mapping[str, _Form] = _FORMS[direction]
    if direction == "frontend":
        forms = {**forms, **_PACKETS}
    try:
        if name == "Frame":
            kind, body = values
            if len(_data(kind)) != 1:
                raise WireError("a message type is one byte")
            return messages.frame(_data(kind), _data(body))
        if name == "Packet":
            (packet,) = values
            return _data(packet)
        if name in forms:
            return forms[name].frame(values)
    except (IndexError, ValueError, OverflowError) as error:
        raise WireError(f"{line.strip()!r}: {error}") from error
    raise WireError(f"{name!r} is not a message of a {direction}")


def _line_if_exact(form: _Form, frame: bytes, body: bytes) -> str | None:
    """The line, if reading it again gives the same bytes."""
    try:
        line = _line(form.name, form.values(body))
        rest = line.removeprefix(form.name)
        return line if form.frame(_tokens(rest)) == frame else None
    except (IndexError, ValueError, OverflowError):
        return None


# -- values and text


def _line(name: str, values: Sequence[Token]) -> str:
    return " ".join((name, *map(_text_of, values)))


def _text_of(value: Token) -> str:
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return '"' + "".join(map(_escaped, to_text(value))) + '"'
    if isinstance(value, list):
        return "(" + " ".join(map(_text_of, value)) + ")"
    return value


def _escaped(char: str) -> str:
    if char in _ESCAPED:
        return _ESCAPED[char]
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in to_bytes(char))


def _unescaped(text: str) -> bytes:
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        parts.append(to_bytes(text[end : match.start()]))
        number, letter = match.groups()
        if number is None and letter not in _ESCAPES:
            raise WireError(f"unknown escape \\{letter}")
        parts.append(bytes((int(number, 16),)) if number is not None else to_bytes(_ESCAPES[letter]))
        end = match.end()
    return b"".join((*parts, to_bytes(text[end:])))


def _tokens(text: str) -> list[Token]:
    groups: list[list[Token]] = [[]]
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise WireError(f"can not read {text[position:]!r}")
        position = match.end()
        quoted, parenthesis, word = match.groups()
        if quoted is not None:
            groups[-1].append(_unescaped(quoted))
        elif parenthesis == "(":
            groups.append([])
        elif parenthesis == ")":
            if len(groups) == 1:
                raise WireError("a parenthesis too many")
            group = groups.pop()
            groups[-1].append(group)
        else:
            groups[-1].append(None if word == "null" else word)
    if len(groups) != 1:
        raise WireError("a parenthesis is not closed")
    return groups[0]


def _data(value: Token) -> bytes:
    if not isinstance(value, bytes):
        raise WireError(f"{_text_of(value)} should be quoted")
    return value


def _word(value: Token) -> str:
    if not isinstance(value, str):
        raise WireError(f"{_text_of(value)} should be a bare word")
    return value


def _group(value: Token) -> list[Token]:
    if not isinstance(value, list):
        raise WireError(f"{_text_of(value)} should be in parentheses")
    return value


def _bare(data: bytes) -> str:
    text = to_text(data)
    if not _BARE.fullmatch(text):
        raise WireError("not to be written without quotes")
    return text


# -- fields: each code reads its values from a body, and writes them from a line's values
#
#   s string   b all bytes left   n nullable value   c one letter   k uint8   h int16   i int32   u uint32
#   o oids   f formats   v values   r columns   e error fields   z strings to the empty one
#   y strings behind a count   a arguments of Bind   p parameters of a startup packet   m its version


def _read_values(reader: Reader) -> list[Token]:
    return [reader.nullable() for _ in range(reader.uint16())]


def _read_numbers(read: Callable[[Reader], int]) -> Callable[[Reader], list[Token]]:
    return lambda reader: [str(read(reader)) for _ in range(reader.uint16())]


def _read_columns(reader: Reader) -> list[Token]:
    columns: list[Token] = []
    for _ in range(reader.uint16()):
        name = reader.string_bytes()
        table, attribute = reader.uint32(), reader.int16()
        type_of = [reader.uint32(), reader.int16()]
        rest = [reader.int32(), reader.int16()]
        is_plain = (table, attribute, *rest) == (0, 0, -1, 0)
        numbers = type_of if is_plain else [table, attribute, *type_of, *rest]
        columns.append([name, *map(str, numbers)])
    return columns


def _read_report(reader: Reader) -> list[Token]:
    fields: list[tuple[str, bytes]] = []
    while letter := reader.uint8():
        fields.append((_bare(bytes((letter,))), reader.string_bytes()))
    head: list[Token] = []
    if [letter for letter, _ in fields[:4]] == list("SVCM") and fields[0][1] == fields[1][1]:
        head = [_bare(fields[0][1]), _bare(fields[2][1]), fields[3][1]]
        fields = fields[4:]
    return [*head, *(value for field in fields for value in field)]


def _read_strings(reader: Reader) -> list[Token]:
    strings: list[Token] = []
    while text := reader.string_bytes():
        strings.append(text)
    return strings


def _read_counted_strings(reader: Reader) -> list[Token]:
    count = reader.uint32()
    if count > reader.remaining_bytes:
        raise WireError("insufficient data left in message")
    return [reader.string_bytes() for _ in range(count)]


def _read_arguments(reader: Reader) -> list[Token]:
    formats, values = _READ["f"](reader), _read_values(reader)
    result_formats = _READ["f"](reader)
    return [formats, values, result_formats] if formats or result_formats else values


def _read_pairs(reader: Reader) -> list[Token]:
    pairs: list[Token] = []
    while name := reader.string_bytes():
        pairs += [name, reader.string_bytes()]
    return pairs


_READ: dict[str, Callable[[Reader], list[Token]]] = {
    "s": lambda reader: [reader.string_bytes()],
    "b": lambda reader: [reader.rest()],
    "n": lambda reader: [reader.nullable()],
    "c": lambda reader: [_bare(reader.data(1))],
    "k": lambda reader: [str(reader.uint8())],
    "h": lambda reader: [str(reader.int16())],
    "i": lambda reader: [str(reader.int32())],
    "u": lambda reader: [str(reader.uint32())],
    "m": lambda reader: [f"{reader.uint16()}.{reader.uint16()}"],
    "o": _read_numbers(Reader.uint32),
    "f": _read_numbers(Reader.int16),
    "v": _read_values,
    "r": _read_columns,
    "e": _read_report,
    "z": _read_strings,
    "y": _read_counted_strings,
    "a": _read_arguments,
    "p": _read_pairs,
}


Values: TypeAlias = "deque[Token]"


def _write_number(size_bytes: int, *, signed: bool) -> Callable[[Values], bytes]:
    return lambda left: int(_word(left.popleft())).to_bytes(size_bytes, "big", signed=signed)


def _write_all(write: Callable[[Values], bytes]) -> Callable[[Values], bytes]:
    """All values left, behind their 16-bit count."""

    def write_counted(left: Values) -> bytes:
        count = len(left).to_bytes(2, "big")
        return count + b"".join(_until_empty(write, left))

    return write_counted


def _until_empty(write: Callable[[Values], bytes], left: Values) -> list[bytes]:
    parts = []
    while left:
        parts.append(write(left))
    return parts


def _write_string(left: Values) -> bytes:
    data = _data(left.popleft())
    if 0 in data:
        raise WireError("a string holds no zero byte")
    return data + b"\0"


def _write_nullable(left: Values) -> bytes:
    value = left.popleft()
    if value is None:
        return b"\xff\xff\xff\xff"
    return len(_data(value)).to_bytes(4, "big") + _data(value)


def _write_letter(left: Values) -> bytes:
    letter = to_bytes(_word(left.popleft()))
    if len(letter) != 1:
        raise WireError(f"{to_text(letter)} should be one letter")
    return letter


def _write_column(left: Values) -> bytes:
    column = deque(_group(left.popleft()))
    name = _write_string(column)
    if len(column) == 2:
        column = deque(["0", "0", *column, "-1", "0"])
    numbers = b"".join([_WRITE[code](column) for code in "uhuhih"])
    if column:
        raise WireError("a column has a name and two or six numbers")
    return name + numbers


def _write_report(left: Values) -> bytes:
    head = b""
    # A head begins with two words; a field with its letter and a quoted value.
    if len(left) >= 3 and isinstance(left[1], str):
        severity, code = to_bytes(_word(left.popleft())), to_bytes(_word(left.popleft()))
        head = b"S%b\0V%b\0C%b\0M%b" % (severity, severity, code, _write_string(left))
    fields = _until_empty(lambda left: _write_letter(left) + _write_string(left), left)
    return head + b"".join(fields) + b"\0"


def _write_arguments(left: Values) -> bytes:
    groups: list[list[Token]] = [[], list(left), []]
    if left and isinstance(left[0], list):
        groups = [_group(value) for value in left]
    left.clear()
    formats, values, result_formats = map(deque, groups)
    return _WRITE["f"](formats) + _WRITE["v"](values) + _WRITE["f"](result_formats)


def _write_counted_strings(left: Values) -> bytes:
    count = len(left).to_bytes(4, "big")
    return count + b"".join(_until_empty(_write_string, left))


def _write_strings(left: Values) -> bytes:
    return b"".join(_until_empty(_write_string, left)) + b"\0"


def _write_version(left: Values) -> bytes:
    major, minor = _word(left.popleft()).split(".")
    return int(major).to_bytes(2, "big") + int(minor).to_bytes(2, "big")


_WRITE: dict[str, Callable[[Values], bytes]] = {
    "s": _write_string,
    "b": lambda left: _data(left.popleft()),
    "n": _write_nullable,
    "c": _write_letter,
    "k": _write_number(1, signed=False),
    "h": _write_number(2, signed=True),
    "i": _write_number(4, signed=True),
    "u": _write_number(4, signed=False),
    "m": _write_version,
    "o": _write_all(_write_number(4, signed=False)),
    "f": _write_all(_write_number(2, signed=True)),
    "v": _write_all(_write_nullable),
    "r": _write_all(_write_column),
    "e": _write_report,
    "z": _write_strings,
    "y": _write_counted_strings,
    "a": _write_arguments,
    "p": _write_strings,
}


# -- the tables. Where two messages share a type byte, the first that gives the bytes back exactly is taken.


def _named(*forms: _Form) -> dict[str, _Form]:
    return {form.name: form for form in forms}


_BOTH = (_Form("CopyData", b"d", "b"), _Form("CopyDone", b"c"))

_FORMS: dict[Direction, dict[str, _Form]] = {
    "backend": _named(
        _Form("AuthenticationOk", b"R", "", b"\0\0\0\0"),
        _Form("AuthenticationCleartextPassword", b"R", "", b"\0\0\0\x03"),
        _Form("AuthenticationMD5Password", b"R", "b", b"\0\0\0\x05"),
        _Form("AuthenticationSASL", b"R", "z", b"\0\0\0\x0a"),
        _Form("AuthenticationSASLContinue", b"R", "b", b"\0\0\0\x0b"),
        _Form("AuthenticationSASLFinal", b"R", "b", b"\0\0\0\x0c"),
        _Form("BackendKeyData", b"K", "ub"),
        _Form("BindComplete", b"2"),
        _Form("CloseComplete", b"3"),
        _Form("CommandComplete", b"C", "s"),
        *_BOTH,
        # The first value is the format of the whole, the others those of the columns.
        _Form("CopyInResponse", b"G", "kf"),
        _Form("CopyOutResponse", b"H", "kf"),
        _Form("CopyBothResponse", b"W", "kf"),
        _Form("DataRow", b"D", "v"),
        _Form("EmptyQueryResponse", b"I"),
        _Form("ErrorResponse", b"E", "e"),
        _Form("FunctionCallResponse", b"V", "n"),
        _Form("NegotiateProtocolVersion", b"v", "my"),
        _Form("NoData", b"n"),
        _Form("NoticeResponse", b"N", "e"),
        _Form("NotificationResponse", b"A", "uss"),
        _Form("ParameterDescription", b"t", "o"),
        _Form("ParameterStatus", b"S", "ss"),
        _Form("ParseComplete", b"1"),
        _Form("PortalSuspended", b"s"),
        _Form("ReadyForQuery", b"Z", "c"),
        _Form("RowDescription", b"T", "r"),
    ),
    "frontend": _named(
        _Form("Bind", b"B", "ssa"),
        _Form("Close", b"C", "cs"),
        *_BOTH,
        _Form("CopyFail", b"f", "s"),
        _Form("Describe", b"D", "cs"),
        _Form("Execute", b"E", "si"),
        _Form("Flush", b"H"),
        _Form("Parse", b"P", "sso"),
        _Form("PasswordMessage", b"p", "s"),
        _Form("SASLInitialResponse", b"p", "sn"),
        _Form("SASLResponse", b"p", "b"),
        _Form("Query", b"Q", "s"),
        _Form("Sync", b"S"),
        _Form("Terminate", b"X"),
    ),
}

_PACKETS = _named(
    _Form("CancelRequest", b"", "ub", messages.CANCEL_CODE.to_bytes(4, "big")),
    _Form("SSLRequest", b"", "", messages.SSL_CODE.to_bytes(4, "big")),
    _Form("GSSENCRequest", b"", "", messages.GSS_CODE.to_bytes(4, "big")),
    _Form("StartupMessage", b"", "mp"),
)
