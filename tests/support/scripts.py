"""Plays scripts of the wire: flush left is what happens; indented is everything we do about it, and nothing more.

    # A read borrows a replica and gives it back as soon as the server is idle.
    links: r1.1
    c1: Query "select 1"
        c1 gets r1.1
        r1.1: Query "select 1"
    r1.1: CommandComplete "SELECT 1"
    r1.1: ReadyForQuery I
        r1.1 rests
        c1: CommandComplete "SELECT 1"
        c1: ReadyForQuery I

First come the story and the setup: `servers: p1 r1`, `pool: size=1 mode=session` (fields of PoolSettings),
`plugins:` as JSON, `shards: 2` with `sharding:` (fields of Sharding), `links:` that rest already, `chunks: whole`. A
client is one of `c1`, `c2`, …: whose first message is a start-up packet logs in with it, any other has logged in
before. A link is `p1.1`, the first of server `p1`.

What happens besides messages stands in `_HAPPENINGS`. Messages of one sender on adjacent lines arrive at once;
`r1.1: and leaves` behind them says that it had closed before they were looked at.
What we do is told in one order: what is asked of the outside; who waits, gets a link, or gives it back; what links
are sent; what clients are sent; `closed`. Each script is played three times: in whole messages, byte by byte, and in
pieces of random length; all three must tell the same.

`PGCAT_REWRITE=1` writes down what happened instead of comparing.
"""

from __future__ import annotations

import difflib
import json
import random
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pgcat_cluster.errors import WireError
from pgcat_cluster.relay.server import Server
from pgcat_cluster.session.parameters import state_query
from pgcat_cluster.wire.trace import format_frame, parse_frame
from tests.support.scene import Scene

FOLDER = Path(__file__).parents[1] / "scripts" / "wire"
INDENT = "    "
Chunks = Literal["whole", "bytes", "random"]
CHUNKS: tuple[Chunks, ...] = get_args(Chunks)

_SETUP = ("servers", "pool", "plugins", "shards", "sharding", "links", "chunks", "statement_bytes_max")
_PACKETS = ("StartupMessage", "SSLRequest", "GSSENCRequest", "CancelRequest", "Packet")
_CLIENT = re.compile(r"c\d+")
_LINK = re.compile(r"\w+\.\d+")
_NAMED = re.compile(r"current_setting\(E'([^']*)', true\)")
# Asked by the session itself; too long to read each time.
_STATE = state_query("test", ()).decode().partition(" UNION ")[0]

_HAPPENINGS: tuple[tuple[str, Callable[..., object]], ...] = (
    (r"(c\d+) enters((?: \S+=\S*)*)", lambda scene, name, said: scene.enter(name, _pairs(said))),
    (r"(c\d+|\w+\.\d+) leaves", Scene.leave),
    (r"(c\d+) is dismissed", Scene.dismiss),
    (r"(\w+) opens((?: \S+=\S*)*)", lambda scene, server, said: scene.open(server, _pairs(said))),
    (r'(\w+) refuses "(.*)"', lambda scene, server, text: scene.fail(server, text, is_overload=False)),
    (r'(\w+) is full "(.*)"', lambda scene, server, text: scene.fail(server, text, is_overload=True)),
    (r"cancel of (\S+) is sent", Scene.cancelled),
    (r"after ([\d.]+)s", lambda scene, span: scene.wait(float(span))),
    (r"pause", Scene.pause),
    (r"resume", Scene.resume),
    (r"reconnect", Scene.renew),
    (r"(\w+) is the primary", Scene.lead),
    (r'there is no primary "(.*)"', lambda scene, why: scene.lead(None, why)),
    (r'(\w+) is avoided "(.*)"', Scene.avoid),
    (r"(\w+) is silent", Scene.silence),
    (r"(\w+) is fine", lambda scene, server: scene.avoid(server, "")),
)


class ScriptError(ValueError):
    """A script that can not be read, or that is not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happens: one or more lines that are one event, and the lines below that must follow."""

    lines: tuple[str, ...]
    line_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script as read; `head` is everything before the first event, word for word."""

    name: str
    text: str
    head: tuple[str, ...]
    setup: dict[str, str]
    events: tuple[Event, ...]


def read(path: Path) -> Script:
    return parse(path.stem, path.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Script:
    head: list[str] = []
    setup: dict[str, str] = {}
    events: list[list[str]] = []
    numbers: list[int] = []
    is_open = False
    for number, line in enumerate(text.splitlines(), 1):
        key, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#") or (colon and key in _SETUP):
            if events and colon and key in _SETUP and not line.startswith("#"):
                raise ScriptError(f"{name}:{number}: the setup comes before all that happens")
            if events:
                events[-1].append(line)
                is_open = False
            else:
                head.append(line)
                if colon and key in _SETUP:
                    setup[key] = value.strip()
        elif line.startswith(INDENT):
            if not events:
                raise ScriptError(f"{name}:{number}: nothing has happened yet")
            is_open = False
        elif line.startswith(" "):
            raise ScriptError(f"{name}:{number}: what we do stands four blanks to the right")
        elif is_open and _sender(line) and _sender(line) == _sender(events[-1][-1]):
            events[-1].append(line)
        else:
            events.append([line])
            numbers.append(number)
            is_open = True
    if not any(line.startswith("# ") for line in head):
        raise ScriptError(f"{name}: a script begins with its story")
    if not events:
        raise ScriptError(f"{name}: nothing happens")
    return Script(
        name=name,
        text=text,
        head=tuple(head),
        setup=setup,
        events=tuple(Event(lines=tuple(lines), line_number=number) for lines, number in zip(events, numbers)),
    )


def _sender(line: str) -> str:
    sender, colon, _ = line.partition(": ")
    return sender if colon and " " not in sender else ""


def play(script: Script, chunks: Chunks) -> str:
    """The script's text as it happened. Raises ScriptError if it leaves something unfinished."""
    stage = Stage(script, chunks)
    try:
        lines = list(script.head)
        for event in script.events:
            lines += stage.play(event)
        stage.end()
        return "\n".join(lines) + "\n"
    finally:
        stage.scene.close()


def _plugins(said: str) -> dict[str, Any]:
    return {"plugins": json.loads(said)} if said else {}


def mismatch(expected: str, happened: str) -> str:
    """Both texts side by side, `|` where they differ."""
    rows: list[tuple[str, str, str]] = []
    left, right = expected.splitlines(), happened.splitlines()
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for offset in range(max(i2 - i1, j2 - j1)):
            one = left[i1 + offset] if i1 + offset < i2 else ""
            other = right[j1 + offset] if j1 + offset < j2 else ""
            rows.append((one, " " if tag == "equal" else "|", other))
    width = max(len(one) for one, _, _ in [("expected", "", ""), *rows])
    return "\n".join(
        f"{one:<{width}} {mark} {other}" for one, mark, other in [("expected", " ", "happened"), *rows]
    )


class Stage:
    """One playing of one script."""

    def __init__(self, script: Script, chunks: Chunks) -> None:
        setup = script.setup
        self.script = script
        self.chunks = setup.get("chunks", chunks)
        self.random = random.Random(script.name)
        self.scene = Scene(
            servers=tuple(setup.get("servers", "p1 r1").split()),
            options=_pairs(setup.get("pool", "")) | _plugins(setup.get("plugins", "")),
            statement_bytes_max=int(setup.get("statement_bytes_max", 1 << 20)),
            shards=int(setup.get("shards", 1)),
            sharding=_pairs(setup.get("sharding", "")),
        )
        for name in setup.get("links", "").split():
            link = self.scene.bring(name.partition(".")[0])
            if self.scene.name_of(link) != name:
                raise ScriptError(f"{script.name}: links of a server are numbered from 1")
        self.before = self._places()
        self.closed: set[str] = set()

    def play(self, event: Event) -> Iterator[str]:
        """The event's lines, and below them everything that came of it."""
        self.scene.calls.clear()
        try:
            sender = _sender(event.lines[0])
            if sender:
                self._send(sender, [line for line in event.lines if _sender(line)])
            else:
                self._happen(event.lines[0])
        except (KeyError, WireError) as error:
            raise ScriptError(f"{self.script.name}:{event.line_number}: {error}") from error
        try:
            self.scene.check()
        except AssertionError as error:
            raise ScriptError(f"{self.script.name}:{event.line_number}: {error}") from error
        spoken = [line for line in event.lines if line.strip() and not line.startswith("#")]
        yield from spoken
        for line in self._consequences():
            yield INDENT + line
        # Comments and blank lines behind an event belong to the next one.
        yield from (line for line in event.lines if not line.strip() or line.startswith("#"))

    def _send(self, sender: str, lines: list[str]) -> None:
        scene = self.scene
        is_client = _CLIENT.fullmatch(sender) is not None
        if not is_client and not _LINK.fullmatch(sender):
            raise KeyError(f"{sender} is neither a client nor a link")
        texts = [line.partition(": ")[2] for line in lines]
        leaves = texts[-1] == "and leaves"
        if leaves:
            texts.pop()
        data = b"".join(parse_frame("frontend" if is_client else "backend", text) for text in texts)
        if is_client and sender not in scene.clients:
            if texts[0].startswith(_PACKETS):
                scene.connect(sender)
            else:
                scene.meet(sender)
                self.before = self._places()
        if leaves:
            # All of it is there when the link is looked at for the first time.
            scene.ends[sender].send(data)
            scene.leave(sender)
        else:
            scene.send(sender, *self._cut(data))

    def _cut(self, data: bytes) -> Iterator[bytes]:
        position = 0
        while position < len(data):
            sizes = {
                "whole": len(data),
                "bytes": 1,
                "random": self.random.choice((1, 2, 4, 5, 6, 11, 30, 200)),
            }
            yield data[position : position + sizes[self.chunks]]
            position += sizes[self.chunks]

    def _happen(self, line: str) -> None:
        for pattern, call in _HAPPENINGS:
            if match := re.fullmatch(pattern, line):
                call(self.scene, *match.groups())
                return
        raise KeyError(f"nobody knows how this happens: {line}")

    def _places(self) -> dict[str, str]:
        """Where each client and each link is now. A link that was taken again is in another place."""
        places = {}
        for name, client in self.scene.clients.items():
            server: Server | None = client.server
            if server is not None:
                places[name] = f"gets {self.scene.name_of(server)} {server.serial}"
            else:
                places[name] = "waits" if client.waiting else ""
        for name, link in self.scene.links.items():
            places[name] = "rests" if link.resting and not link.closed else ""
        return places

    def _consequences(self) -> Iterator[str]:
        scene = self.scene
        yield from scene.calls
        before, self.before = self.before, self._places()
        for wanted in ("rests", "waits", "gets"):
            for name, place in sorted(self.before.items()):
                if place.startswith(wanted) and before.get(name, "") != place:
                    yield " ".join([name, *place.split()[:2]])
        for name in [*sorted(scene.links), *sorted(scene.clients)]:
            far = scene.ends[name]
            direction: Literal["frontend", "backend"] = "frontend" if name in scene.links else "backend"
            for text in _told(direction, far.take()):
                yield f"{name}: {text}"
            if far.is_closed and name not in self.closed:
                self.closed.add(name)
                yield f"{name}: closed"

    def end(self) -> None:
        """Nothing is left open."""
        scene = self.scene
        left = [f"{pool.key} was asked to open" for pool in scene.pools.values() if pool.opening]
        for name, client in scene.clients.items():
            if client.closed:
                continue
            left += [f"{name} waits"] * client.waiting + [f"{name} is owed an answer"] * client.awaiting
            left += [f"{name} is in the middle of a batch"] * client.unsynced
            left += [f"{name} is being settled"] * client.settling
            left += [f"{name} has sent what was not looked at"] * bool(client.pending or client.remaining)
        for name, link in scene.links.items():
            if link.closed:
                continue
            left += [f"{name} owes an answer"] * bool(link.ledger) + [
                f"{name} is being cancelled"
            ] * link.cancels
            left += [f"{name} is in the middle of a message"] * bool(link.pending or link.remaining)
        if left:
            raise ScriptError(f"{self.script.name} is not finished: {'; '.join(left)}")


def _pairs(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in shlex.split(text))


def _told(direction: Literal["frontend", "backend"], data: bytes) -> Iterator[str]:
    """The frames of a piece of stream, as text."""
    while data:
        if direction == "backend" and data[:1] in (b"N", b"S") and (len(data) == 1 or data[1] != 0):
            # The answer to a request for encryption has no length.
            yield f"answers {data[:1].decode()}"
            data = data[1:]
            continue
        size = 1 + int.from_bytes(data[1:5], "big")
        if len(data) < 5 or len(data) < size:
            yield f"a part of a message: {data!r}"
            return
        yield _abridged(format_frame(direction, data[:size]))
        data = data[size:]


def _abridged(text: str) -> str:
    """A question of the session about what a client left is told as `AskState`, with the names it asks for."""
    if not text.startswith(f'Query "{_STATE}'):
        return text
    names = list(dict.fromkeys(_NAMED.findall(text)))
    for is_spelled in (False, True):
        asked = state_query("test", names, is_spelled=is_spelled)
        if text == f'Query "{asked.decode()}"':
            return " ".join(["AskState", *names, *["and names"] * is_spelled])
    return text
