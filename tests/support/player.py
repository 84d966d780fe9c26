"""Plays scripted conversations to whatever speaks PostgreSQL's protocol; compares the answers byte for byte.

It shares no code with the proxy, so a mistake of the proxy can not hide in its own test.

Notation of a `.wire` file (one message or expectation per line, `#` starts a comment):

    == title of a conversation [needs session]         starts a conversation; what it needs to be comparable
    == another title [own errors]                      source file and line of its errors are not compared
    Query "select 1"                                   strings take Python's escapes, `"ab"*9` repeats
    Bind "" "s" ["1" null] formats 0 results 1         parameters in brackets; `x"00ff"` is written in hex
    until ReadyForQuery 2                              wait until two more ReadyForQuery have arrived
    until close                                        wait until the server closes
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import difflib
import enum
import functools
import hashlib
import hmac
import os
import pathlib
import random
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator

BACKEND_NAMES = {
    b"R": "Authentication",
    b"K": "BackendKeyData",
    b"2": "BindComplete",
    b"3": "CloseComplete",
    b"C": "CommandComplete",
    b"d": "CopyData",
    b"c": "CopyDone",
    b"G": "CopyInResponse",
    b"H": "CopyOutResponse",
    b"W": "CopyBothResponse",
    b"D": "DataRow",
    b"I": "EmptyQueryResponse",
    b"E": "ErrorResponse",
    b"V": "FunctionCallResponse",
    b"v": "NegotiateProtocolVersion",
    b"n": "NoData",
    b"N": "NoticeResponse",
    b"A": "NotificationResponse",
    b"t": "ParameterDescription",
    b"S": "ParameterStatus",
    b"1": "ParseComplete",
    b"s": "PortalSuspended",
    b"Z": "ReadyForQuery",
    b"T": "RowDescription",
}
BACKEND_TYPES = {name: letter for letter, name in BACKEND_NAMES.items()}
CLOSE = "close"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)
PROTOCOL_3_0 = 196608
SILENCE_LIMIT_S = 60.0


class Writing(enum.Enum):
    """How the bytes of a conversation are cut into writes."""

    WHOLE = "one write per message"
    BYTES = "one byte per write"
    RANDOM = "cut at random"
    GLUED = "everything in one write"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where and as whom to log in."""

    host: str
    port: int
    user: str
    password: str
    database: str

    def url(self, driver: str = "postgresql") -> str:
        return f"{driver}://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"

    def keywords(self) -> dict[str, str | int]:
        """The address as psycopg's connect arguments."""
        return {"host": self.host, "port": self.port, "user": self.user, "password": self.password,
                "dbname": self.database}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """One frontend message, as bytes."""

    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Until:
    """Waits for `count` more messages of a type, or for the end of the connection."""

    name: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A script: what a client sends, and what it waits for in between."""

    title: str
    needs: frozenset[str]
    has_own_errors: bool
    steps: tuple[Send | Until, ...]
    source: str

    @property
    def size_bytes(self) -> int:
        return sum(len(step.data) for step in self.steps if isinstance(step, Send))


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One backend message; `type` is empty for trailing bytes that are no whole message."""

    type: bytes
    body: bytes

    @property
    def name(self) -> str:
        return BACKEND_NAMES.get(self.type, repr(self.type))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Everything a server said: its parameters at login (sorted), the messages after it, and how it ended."""

    parameters: tuple[str, ...]
    frames: tuple[Frame, ...]
    ending: str

    def lines(self) -> list[str]:
        return [*(f"login: {line}" for line in self.parameters), *map(describe, self.frames), self.ending]


# --- frontend messages


def frame(letter: bytes, body: bytes = b"") -> bytes:
    return letter + struct.pack("!I", len(body) + 4) + body


def zero_ended(*texts: bytes) -> bytes:
    return b"".join(text + b"\0" for text in texts)


def startup(parameters: dict[str, str], version: int = PROTOCOL_3_0) -> bytes:
    body = struct.pack("!I", version)
    body += b"".join(zero_ended(name.encode(), value.encode()) for name, value in parameters.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def query(text: str | bytes) -> bytes:
    return frame(b"Q", zero_ended(text.encode() if isinstance(text, str) else text))


def parse(name: str, text: str, *types: int) -> bytes:
    return frame(
        b"P", zero_ended(name.encode(), text.encode()) + struct.pack(f"!H{len(types)}I", len(types), *types)
    )


def bind(
    portal: str,
    statement: str,
    values: list[bytes | None] | None = None,
    formats: list[int] | None = None,
    results: list[int] | None = None,
) -> bytes:
    values, formats, results = values or [], formats or [], results or []
    body = zero_ended(portal.encode(), statement.encode())
    body += struct.pack(f"!H{len(formats)}H", len(formats), *formats) + struct.pack("!H", len(values))
    body += b"".join(sized(value) for value in values)
    return frame(b"B", body + struct.pack(f"!H{len(results)}H", len(results), *results))


def sized(value: bytes | None) -> bytes:
    return struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value


def describe_statement(name: str) -> bytes:
    return frame(b"D", b"S" + zero_ended(name.encode()))


def describe_portal(name: str) -> bytes:
    return frame(b"D", b"P" + zero_ended(name.encode()))


def execute(portal: str = "", rows_max: int = 0) -> bytes:
    return frame(b"E", zero_ended(portal.encode()) + struct.pack("!I", rows_max))


def close_statement(name: str) -> bytes:
    return frame(b"C", b"S" + zero_ended(name.encode()))


def close_portal(name: str) -> bytes:
    return frame(b"C", b"P" + zero_ended(name.encode()))


def function_call(oid: int, values: list[bytes | None], formats: list[int], result: int) -> bytes:
    body = struct.pack(f"!IH{len(formats)}H", oid, len(formats), *formats) + struct.pack("!H", len(values))
    return frame(b"F", body + b"".join(map(sized, values)) + struct.pack("!H", result))


SYNC, FLUSH, TERMINATE, COPY_DONE = frame(b"S"), frame(b"H"), frame(b"X"), frame(b"c")


# --- reading scripts

_TOKEN = re.compile(
    r"""\s*(?:(?P<hex>x?)"(?P<text>(?:[^"\\]|\\.)*)"(?:\*(?P<times>\d+))?|(?P<mark>[\[\]])|(?P<word>[^\s"\[\]#]+)|\#.*)"""
)


def _tokens(line: str) -> list[bytes | str]:
    """Strings become bytes, everything else stays a word."""
    found: list[bytes | str] = []
    at = 0
    while at < len(line.rstrip()):
        match = _TOKEN.match(line, at)
        if match is None:
            raise ValueError(f"can not read {line[at:]!r}")
        at = match.end()
        if match["text"] is not None:
            text = match["text"]
            data = bytes.fromhex(text) if match["hex"] else _unescaped(text)
            found.append(data * int(match["times"] or 1))
        elif match["mark"] or match["word"]:
            found.append(match["mark"] or match["word"])
    return found


def _unescaped(text: str) -> bytes:
    """Python's escapes, where \\xNN is one byte and other characters are UTF-8."""
    return re.sub(
        rb"\\(x[0-9a-fA-F]{2}|.)",
        lambda match: (
            bytes.fromhex(match[1][1:].decode())
            if len(match[1]) == 3
            else {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0"}.get(match[1], match[1])
        ),
        text.encode(),
    )


def message_of(line: str) -> bytes:
    """The frontend message that one line of a script names."""
    word, *rest = _tokens(line)
    assert isinstance(word, str), line
    return _message(word, rest)


def _message(word: str, rest: list[bytes | str]) -> bytes:
    texts = [item for item in rest if isinstance(item, bytes)]
    words = [item for item in rest if isinstance(item, str)]
    match word:
        case "Query":
            return query(texts[0])
        case "Parse":
            types = [int(oid) for oid in words]
            return frame(
                b"P", zero_ended(texts[0], texts[1]) + struct.pack(f"!H{len(types)}I", len(types), *types)
            )
        case "Bind":
            values, options = _values_and_options(rest[2:])
            return bind(texts[0].decode(), texts[1].decode(), values, options["formats"], options["results"])
        case "Describe" | "Close":
            kind = {"statement": b"S", "portal": b"P"}[words[0]]
            return frame(b"D" if word == "Describe" else b"C", kind + zero_ended(texts[0]))
        case "Execute":
            return execute(texts[0].decode(), int(words[0]) if words else 0)
        case "FunctionCall":
            values, options = _values_and_options(rest[1:])
            return function_call(int(words[0]), values, options["formats"], (options["results"] or [0])[0])
        case "Sync" | "Flush" | "Terminate" | "CopyDone":
            return {"Sync": SYNC, "Flush": FLUSH, "Terminate": TERMINATE, "CopyDone": COPY_DONE}[word]
        case "CopyData":
            return frame(b"d", texts[0])
        case "CopyFail":
            return frame(b"f", zero_ended(texts[0]))
        case "Frame":
            return frame(texts[0], texts[1])
        case "Raw":
            return texts[0]
    raise ValueError(f"no frontend message is called {word}")


def _values_and_options(rest: list[bytes | str]) -> tuple[list[bytes | None], dict[str, list[int]]]:
    values: list[bytes | None] = []
    options: dict[str, list[int]] = {"formats": [], "results": []}
    current = ""
    for item in rest:
        if item in ("[", "]"):
            current = ""
        elif item == "null":
            values.append(None)
        elif isinstance(item, bytes):
            values.append(item)
        elif item in options:
            current = item
        else:
            options[current].append(int(item))
    return values, options


def read_conversations(path: pathlib.Path) -> list[Conversation]:
    """All conversations of one file; raises ValueError with file and line for what can not be read."""
    found: list[Conversation] = []
    title, needs, has_own_errors, steps, source = "", frozenset[str](), False, list[Send | Until](), ""

    def finish() -> None:
        if title:
            found.append(
                Conversation(
                    title=title, needs=needs, has_own_errors=has_own_errors, steps=tuple(steps), source=source
                )
            )

    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            if heading := re.fullmatch(r"==\s+(.*?)(?:\s+\[needs (.*)\])?(\s+\[own errors\])?\s*", line):
                finish()
                title, needs, steps = heading[1], frozenset((heading[2] or "").split()), []
                has_own_errors = heading[3] is not None
                source = f"{path.name}:{number}"
            elif tokens := _tokens(line):
                word, *rest = tokens
                if not title or not isinstance(word, str):
                    raise ValueError("expected `== title` or a message")
                if word == "until":
                    name = str(rest[0])
                    if name != CLOSE and name not in BACKEND_TYPES:
                        raise ValueError(f"no backend message is called {name}")
                    steps.append(Until(name, int(rest[1]) if len(rest) > 1 else 1))  # type: ignore[arg-type]
                else:
                    steps.append(Send(_message(word, rest)))
        except (ValueError, KeyError, IndexError) as problem:
            raise ValueError(f"{path.name}:{number}: {problem}") from problem
    finish()
    return found


# --- talking


class Silent(TimeoutError):
    """The other side neither answered nor closed in time."""


class Refused(Exception):
    """Login ended in an ErrorResponse; `fields` are its fields by letter."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.fields = fields


class Line:
    """One connection that sends and receives at the same time, so that neither side can block the other."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket: socket.socket = socket.create_connection((host, port), timeout=SILENCE_LIMIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket.sendall(SSL_REQUEST)
            answer = self.socket.recv(1)
            if answer != b"S":
                raise ConnectionError(f"TLS asked for, {answer!r} answered")
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self.socket.setblocking(False)
        self.received = bytearray()
        self.frames: list[Frame] = []
        self.counts: collections.Counter[bytes] = collections.Counter()
        self.is_closed = False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, pieces: Iterator[bytes] | list[bytes]) -> None:
        """Writes each piece by a call of its own; reads what arrives meanwhile."""
        deadline = time.monotonic() + SILENCE_LIMIT_S
        for piece in pieces:
            view = memoryview(piece)
            while view and not self.is_closed:
                try:
                    view = view[self.socket.send(view) :]
                    deadline = time.monotonic() + SILENCE_LIMIT_S
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    self._wait(deadline, writing=True)
                except OSError:
                    # The other side closed; what it said before is still to be read.
                    return

    def read_until(self, letter: bytes, total: int, *, limit_s: float = SILENCE_LIMIT_S) -> None:
        """Reads until `total` messages of a type have arrived since login, or the connection is closed."""
        deadline = time.monotonic() + limit_s
        while self.counts[letter] < total and not self.is_closed:
            self._wait(deadline)

    def read_to_close(self, *, limit_s: float = SILENCE_LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not self.is_closed:
            self._wait(deadline)

    def read_while(self, condition: Callable[[], bool], *, limit_s: float = SILENCE_LIMIT_S) -> None:
        """Reads as long as the condition holds, which is asked anew when something has come, or until the close."""
        deadline = time.monotonic() + limit_s
        while condition() and not self.is_closed:
            self._wait(deadline)

    def ask(self, data: bytes, letter: bytes = b"Z", *, limit_s: float = SILENCE_LIMIT_S) -> list[Frame]:
        """Sends and returns every message up to the next one of that type, or to the close."""
        start = len(self.frames)
        total = self.counts[letter] + 1
        self.send([data])
        self.read_until(letter, total, limit_s=limit_s)
        return self.frames[start:]

    def _wait(self, deadline: float, *, writing: bool = False) -> None:
        if not self._receive():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Silent
            select.select([self.socket], [self.socket] if writing else [], [], left_s)

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
        self.received += data
        self._cut()
        return True

    def _cut(self) -> None:
        at = 0
        while len(self.received) - at >= 5:
            end = at + 1 + struct.unpack_from("!I", self.received, at + 1)[0]
            if end > len(self.received):
                break
            letter = bytes(self.received[at : at + 1])
            self.frames.append(Frame(letter, bytes(self.received[at + 5 : end])))
            self.counts[letter] += 1
            at = end
        del self.received[:at]


def log_in(
    line: Line, address: Address, parameters: dict[str, str] | None = None, writing: Writing = Writing.WHOLE
) -> list[Frame]:
    """Logs in by whatever method is asked for; returns what follows AuthenticationOk, ReadyForQuery last."""
    chance = random.Random(0)
    names = {"user": address.user, "database": address.database, **(parameters or {})}
    line.send(pieces(startup(names), writing, chance))
    scram = Scram(address.password)
    seen = 0
    while True:
        line.read_until(b"R", line.counts[b"R"] + (1 if seen == len(line.frames) else 0))
        for message in line.frames[seen:]:
            seen += 1
            if message.type == b"E":
                raise Refused(fields_of(message.body))
            if message.type != b"R":
                continue
            answer = answer_to(message.body, address, scram)
            if answer:
                line.send(pieces(answer, writing, chance))
            elif message.body == struct.pack("!I", 0):
                line.read_until(b"Z", 1)
                if line.is_closed:
                    raise Refused(fields_of(line.frames[-1].body))
                after = line.frames[seen:]
                line.frames.clear()
                line.counts.clear()
                return after
        if line.is_closed and seen == len(line.frames):
            raise ConnectionError("closed during login")


def answer_to(body: bytes, address: Address, scram: Scram) -> bytes | None:
    """What to send for an Authentication message, if anything."""
    code = struct.unpack_from("!I", body)[0]
    match code:
        case 3:
            return frame(b"p", zero_ended(address.password.encode()))
        case 5:
            inner = hashlib.md5((address.password + address.user).encode()).hexdigest()
            outer = hashlib.md5(inner.encode() + body[4:8]).hexdigest()
            return frame(b"p", zero_ended(b"md5" + outer.encode()))
        case 10:
            first = scram.first()
            return frame(b"p", zero_ended(b"SCRAM-SHA-256") + struct.pack("!I", len(first)) + first)
        case 11:
            return frame(b"p", scram.final(body[4:]))
    return None


class Scram:
    """The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding."""

    def __init__(self, password: str) -> None:
        self.password = password.encode()
        self.bare = b"n=,r=" + base64.b64encode(os.urandom(18))

    def first(self) -> bytes:
        return b"n,," + self.bare

    def final(self, server_first: bytes) -> bytes:
        attributes = dict(item.split(b"=", 1) for item in server_first.split(b","))
        salt, iterations = base64.b64decode(attributes[b"s"]), int(attributes[b"i"])
        without_proof = b"c=biws,r=" + attributes[b"r"]
        salted = _salted(self.password, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signed = b",".join((self.bare, server_first, without_proof))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(left ^ right for left, right in zip(client_key, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)


@functools.lru_cache
def _salted(password: bytes, salt: bytes, iterations: int) -> bytes:
    """The slow part of a login; tests log in thousands of times as the same user."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


def pieces(data: bytes, writing: Writing, chance: random.Random) -> Iterator[bytes]:
    """Cuts data into writes. Of long data only both ends go byte by byte: all borders are there."""
    edge_bytes = 2048
    at = 0
    while at < len(data):
        if writing is Writing.BYTES:
            is_edge = at < edge_bytes or at >= len(data) - edge_bytes
            size = 1 if is_edge else len(data) - edge_bytes - at
        elif writing is Writing.RANDOM:
            size = chance.choice((1, 2, 3, 5, 8, 30, 200, 5000, 70000))
        else:
            size = len(data)
        yield data[at : at + size]
        at += size


def play(
    conversation: Conversation,
    address: Address,
    writing: Writing = Writing.WHOLE,
    *,
    tls: ssl.SSLContext | None = None,
    seed: int = 0,
    silence_limit_s: float = SILENCE_LIMIT_S,
) -> Transcript:
    """Plays a conversation, ends it with Terminate and returns all that was answered."""
    chance = random.Random(seed)
    with Line(address.host, address.port, tls) as line:
        login = log_in(line, address, writing=writing)
        ending = "closed"
        try:
            for data, expected in _batches(conversation, writing):
                line.send(pieces(data, writing, chance))
                for name, total in expected.items():
                    if name == CLOSE:
                        line.read_to_close(limit_s=silence_limit_s)
                    else:
                        line.read_until(BACKEND_TYPES[name], total, limit_s=silence_limit_s)
            line.send([TERMINATE])
            line.read_to_close(limit_s=silence_limit_s)
        except Silent:
            ending = "silent"
        rest = [Frame(b"", bytes(line.received))] if line.received else []
        frames = tuple(normal(message, conversation.has_own_errors) for message in line.frames + rest)
        return Transcript(parameters=_normal_parameters(login), frames=frames, ending=ending)


def _batches(conversation: Conversation, writing: Writing) -> Iterator[tuple[bytes, dict[str, int]]]:
    """What to write, and the totals to wait for after it."""
    totals: collections.Counter[str] = collections.Counter()
    held = b""
    for step in conversation.steps:
        if isinstance(step, Send):
            held += step.data
            if writing is Writing.WHOLE:
                yield held, {}
                held = b""
        else:
            totals[step.name] += step.count
            if writing is not Writing.GLUED:
                yield held, {step.name: totals[step.name]}
                held = b""
    # Who waits for the end has not said goodbye.
    yield held, {CLOSE: 1} if totals[CLOSE] else {}


# --- comparing


def normal(message: Frame, without_places: bool = False) -> Frame:
    """The message without what two runs may differ in: the process id that notified, and places if asked."""
    if message.type == b"A":
        return Frame(b"A", b"\0\0\0\0" + message.body[4:])
    if message.type == b"E" and without_places:
        kept = [field for field in message.body.rstrip(b"\0").split(b"\0") if field[:1] not in b"FLR"]
        return Frame(b"E", zero_ended(*kept) + b"\0")
    return message


def _normal_parameters(login: list[Frame]) -> tuple[str, ...]:
    """What came at login, sorted: order means nothing, and the server's role is routing's affair."""
    pairs = [message.body.split(b"\0") for message in login if message.type == b"S"]
    others = [describe(message) for message in login if message.type not in b"SK"]
    statuses = [
        f"{name.decode()} = {value.decode()}" for name, value, _ in pairs if name != b"in_hot_standby"
    ]
    return (*sorted(statuses), *others)


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letter."""
    parts = body.rstrip(b"\0").split(b"\0")
    return {part[:1].decode(errors="replace"): part[1:].decode(errors="replace") for part in parts if part}


def describe(message: Frame) -> str:
    """One readable line; a long body is cut, with a digest so that lines differ if bodies do."""
    body = message.body
    match message.type:
        case b"E" | b"N":
            text = " ".join(f"{letter}={value}" for letter, value in fields_of(body).items())
        case b"Z" | b"C" | b"S":
            text = body.rstrip(b"\0").replace(b"\0", b"=").decode(errors="replace")
        case b"D":
            text = " ".join(_columns(body))
        case _:
            text = repr(body)[2:-1]
    if len(text) > 300:
        text = f"{text[:200]}... ({len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()[:12]})"
    return f"{message.name} {text}".rstrip()


def _columns(body: bytes) -> Iterator[str]:
    at = 2
    while at + 4 <= len(body):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        yield "null" if size < 0 else repr(body[at : at + size])[1:]
        at += max(size, 0)


def difference(left: Transcript, right: Transcript, names: tuple[str, str] = ("left", "right")) -> str:
    """Both transcripts side by side where they differ; empty if they are equal."""
    if left == right:
        return ""
    a, b = left.lines(), right.lines()
    rows: list[str] = [f"  {names[0]:<60.60}   {names[1]}"]
    for tag, a_start, a_end, b_start, b_end in difflib.SequenceMatcher(
        None, a, b, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            run = a[a_start:a_end]
            shown = run if len(run) <= 4 else [*run[:2], f"... {len(run) - 4} equal", *run[-2:]]
            rows += [f"  {line:<60.60}   {line}" for line in shown]
            continue
        for index in range(max(a_end - a_start, b_end - b_start)):
            one = a[a_start + index] if a_start + index < a_end else ""
            other = b[b_start + index] if b_start + index < b_end else ""
            rows.append(f"! {one:<60}\n{'':60} ! {other}" if len(one) > 60 else f"! {one:<60} ! {other}")
    if a == b:
        rows += [f"! {one!r} | {other!r}" for one, other in zip(left.frames, right.frames) if one != other]
    return "\n".join(rows)
