"""Holds a conversation with a node and with plain PostgreSQL, and tells where the answers or the rows differ.

The node is asked first. What it refuses in its own words is replaced by something that fails, before PostgreSQL is
asked: a refusal must be no more and no less than a statement that failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support import talks
from tests.support.player import (
    SILENCE_LIMIT_S,
    TERMINATE,
    Address,
    Frame,
    Line,
    Silent,
    Writing,
    describe,
    fields_of,
    log_in,
    message_of,
    pieces,
)
from tests.support.talks import Kind, Talk, Turn

# By the first word of a line: the types of the message that ends the answer to it.
LAST = {
    "Query": b"Z",
    "Sync": b"Z",
    "Parse": b"1",
    "Bind": b"2",
    "Close": b"3",
    "Describe": b"Tn",
    "Execute": b"CIs",
}
# What the node says in its own words of what it can not place: then no server was asked. It is said of a batch as a
# whole, so that its first message is told what the last may have wrong.
REFUSALS = frozenset({"0A000", "22P02", "22003", "42601"})
FAILED = "25P02"
ENDS = re.compile(r'^(?:Query|Parse "\w*") "(?:commit|rollback|end|abort)"')
CANCEL_REQUEST = 80877102


@dataclass(slots=True)
class Step:
    """A line that was said, and what has been answered to it."""

    line: str
    answers: list[Frame] = dataclasses.field(default_factory=list)
    # Said in a transaction that has failed, and not to end it alone. If no server had it, all of this is refused
    # (session/DECISIONS.md, "a failed transaction describes …"); PostgreSQL lets some of it through.
    is_late: bool = False

    @property
    def word(self) -> str:
        return self.line.split()[0]

    @property
    def refusal(self) -> str:
        """The SQLSTATE of a refusal by the node itself, which names no place in PostgreSQL's source."""
        for frame in self.answers:
            if frame.type == b"E":
                fields = fields_of(frame.body)
                is_refusal = fields.get("C") in REFUSALS or (fields.get("C") == FAILED and self.is_late)
                if is_refusal and "R" not in fields:
                    return fields["C"]
        return ""

    def failing(self) -> str:
        """Something of the same kind that fails on any server."""
        if self.word == "Query":
            return 'Query "refused"'
        if self.word == "Parse":
            return f'{self.line.split(" ", 2)[0]} {self.line.split(" ", 2)[1]} "refused"'
        return 'Execute "refused"'


class Talker:
    """A client: knows which of its messages have been answered, by the rules of the protocol."""

    def __init__(self, address: Address, parameters: dict[str, str]) -> None:
        self.address = address
        self.line = Line(address.host, address.port)
        self.steps: list[Step] = []
        self.told: dict[str, str] = {}
        self.status = "I"
        # The first step that is not answered yet, and the first frame that is not heard yet.
        self.at = 0
        self.heard = 0
        # A batch has failed, and its Sync has not come.
        self.is_skipped = False
        for frame in log_in(self.line, address, parameters):
            if frame.type == b"K":
                self.key = frame.body
            self._note(frame)
        self.heard = len(self.line.frames)

    def say(self, lines: list[str], writing: Writing, chance: random.Random) -> None:
        self.steps += [Step(line) for line in lines]
        messages = [message_of(line) for line in lines]
        if writing is not Writing.WHOLE:
            messages = [b"".join(messages)]
        self.line.send([piece for one in messages for piece in pieces(one, writing, chance)])

    def is_owed(self) -> bool:
        """Whether something that was said is not answered yet."""
        frames = self.line.frames
        while self.heard < len(frames):
            self._hear(frames[self.heard])
            self.heard += 1
        self._pass_silent()
        return self.at < len(self.steps)

    def settle(self, limit_s: float) -> None:
        self.line.read_while(self.is_owed, limit_s=limit_s)

    def settle_meanwhile(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Listen until everything is answered or the condition holds."""
        deadline = time.monotonic() + limit_s
        while self.is_owed() and not condition():
            if time.monotonic() > deadline:
                raise Silent
            with contextlib.suppress(Silent):
                self.line.read_while(self.is_owed, limit_s=0.02)

    def taken(self) -> list[Step]:
        """The steps since they were taken the last time."""
        found, self.steps, self.at = self.steps, [], 0
        return found

    def cancel(self) -> None:
        """Returns when the cancel was handed on."""
        request = struct.pack("!ii", len(self.key) + 8, CANCEL_REQUEST) + self.key
        with socket.create_connection((self.address.host, self.address.port), SILENCE_LIMIT_S) as sock:
            sock.sendall(request)
            with contextlib.suppress(ConnectionError):
                sock.recv(1)

    def close(self) -> None:
        self.line.send([TERMINATE])
        self.line.socket.close()

    def _hear(self, frame: Frame) -> None:
        self._pass_silent()
        has_failed = self.status == "E"
        self._note(frame)
        if frame.type == b"S":
            return
        if self.at == len(self.steps):
            # Nobody asked for it: an answer to nothing, which no PostgreSQL has given.
            self.steps.append(Step("Nothing"))
        step = self.steps[self.at]
        step.answers.append(frame)
        if frame.type == b"E":
            step.is_late = has_failed and not ENDS.search(step.line)
        if step.word == "Nothing" or frame.type in LAST[step.word]:
            self.at += 1
        elif frame.type == b"E" and step.word not in ("Query", "Sync"):
            self.is_skipped = True
            self.at += 1

    def _pass_silent(self) -> None:
        """Flush and what belongs to a COPY have no answer of their own; behind an error only Sync has one."""
        while self.at < len(self.steps):
            word = self.steps[self.at].word
            if word == "Sync" or (word in LAST and not self.is_skipped):
                return
            self.at += 1

    def _note(self, frame: Frame) -> None:
        if frame.type == b"Z":
            self.status = frame.body.decode()
            self.is_skipped = False
        elif frame.type == b"S":
            name, value, _ = frame.body.split(b"\0")
            self.told[name.decode()] = value.decode()


@dataclass(slots=True)
class Stand:
    """Both sides, and what a conversation needs of them besides."""

    node: Callable[[str], Address]
    plain: Address
    # The statements that run on either side, and rows by a condition, once for the node and once for PostgreSQL.
    running: Callable[[bool], bool]
    rows: Callable[[bool, str], list[tuple[object, ...]]]
    clear: Callable[[str], None]
    silence_limit_s: float = 30.0
    # What was said, and what of it was refused.
    said: int = 0
    refused: int = 0


class Difference(Exception):
    """The two sides are not alike; `essence` is what makes it the same difference in a shorter conversation."""

    def __init__(self, text: str, essence: object) -> None:
        super().__init__(text)
        self.essence = essence


def hold(talk: Talk, stand: Stand) -> Difference | None:
    """What differed first."""
    pairs: list[_Pair] = []
    try:
        for parameters in talk.parameters:
            pairs.append(_Pair(talk, stand, parameters))
        for number, turn in enumerate(talk.turns):
            pairs[turn.client].take(turn, random.Random(f"{talk.seed} {number}"))
        ours, theirs = stand.rows(True, talk.condition), stand.rows(False, talk.condition)
        if ours != theirs:
            text = f"rows on the shards\n{_listed(ours)}\nin PostgreSQL\n{_listed(theirs)}"
            raise Difference(text, "rows")
    except Difference as difference:
        return difference
    else:
        return None
    finally:
        for pair in pairs:
            pair.close()


class _Pair:
    """One client, which talks to both sides."""

    def __init__(self, talk: Talk, stand: Stand, parameters: dict[str, str]) -> None:
        self.talk, self.stand = talk, stand
        kept = {name: value for name, value in parameters.items() if name != "options"}
        self.ours = Talker(stand.node(talk.pool), parameters)
        self.theirs = Talker(stand.plain, kept)

    def take(self, turn: Turn, chance: random.Random) -> None:
        if not turn.lines:
            # Nothing runs, so nothing is cancelled.
            if not self.ours.steps:
                self.ours.cancel()
                self.theirs.cancel()
            return
        # PostgreSQL hears a turn that was left open together with the next one, when all is answered.
        self.ours.say(list(turn.lines), turn.writing, chance)
        if turn.is_open:
            return
        self._settle(self.ours, turn.is_cancelled, "the node")
        steps = self.ours.taken()
        lines = [step.failing() if step.refusal else step.line for step in steps if step.word != "Nothing"]
        self.stand.said += len(steps)
        self.stand.refused += sum(bool(step.refusal) for step in steps)
        self.theirs.say(lines, Writing.WHOLE, chance)
        self._settle(self.theirs, turn.is_cancelled, "PostgreSQL")
        known = self.theirs.taken()
        for step, other in zip(steps, [*known, *[Step("Nothing")] * (len(steps) - len(known))], strict=True):
            got, expected = _normal(step.answers), _normal(other.answers)
            if step.refusal and self._may_refuse(step):
                got, expected = _without_errors(got), _without_errors(expected)
            if got != expected:
                said = [_listed([describe(frame) for frame in one.answers]) for one in (step, other)]
                text = f"{step.line}\n  the node:\n{said[0]}\n  PostgreSQL:\n{said[1]}"
                raise Difference(text, (step.word, _codes(got), _codes(expected)))
        if self.ours.status == "I" and self._known(self.ours) != self._known(self.theirs):
            ours, theirs = self._known(self.ours).items(), self._known(self.theirs).items()
            raise Difference(f"told parameters {ours - theirs}, in PostgreSQL {theirs - ours}", "parameters")

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def _may_refuse(self, step: Step) -> bool:
        return self.talk.kind is Kind.ROAMING or step.refusal != "0A000"

    def _settle(self, talker: Talker, is_cancelled: bool, name: str) -> None:
        try:
            if is_cancelled:
                talker.settle_meanwhile(
                    lambda: self.stand.running(talker is self.ours), self.stand.silence_limit_s
                )
                talker.cancel()
            talker.settle(self.stand.silence_limit_s)
        except Silent:
            owed = [step.line for step in talker.steps[talker.at :]]
            said = [f"{step.line}: {', '.join(map(describe, step.answers))}" for step in talker.steps]
            raise Difference(f"{name} never answers {owed[0]}\n{_listed(said)}", "silent") from None
        if talker.line.is_closed:
            said = [describe(frame) for frame in talker.line.frames[-3:]]
            raise Difference(f"{name} has closed the connection\n{_listed(said)}", "closed")

    def _known(self, talker: Talker) -> dict[str, str]:
        # Which server has answered last is routing's affair.
        return {name: value for name, value in talker.told.items() if name != "in_hot_standby"}


def _listed(lines: list[object]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    nothing"


def _normal(answers: list[Frame]) -> list[str]:
    """What must be alike: of errors and notices the code, of columns what does not name a table's number."""
    found = []
    for frame in answers:
        if frame.type in b"EN":
            fields = fields_of(frame.body)
            found.append(f"{frame.name} {fields.get('S')} {fields.get('C')}")
        elif frame.type == b"T":
            found.append(f"{frame.name} {' '.join(_columns(frame.body))}")
        else:
            found.append(describe(frame))
    return found


def _codes(lines: list[str]) -> list[str]:
    """What stays the same if other rows are found."""
    return [line if line.startswith("ErrorResponse") else line.split()[0] for line in lines]


def _without_errors(lines: list[str]) -> list[str]:
    return ["ErrorResponse" if line.startswith("ErrorResponse") else line for line in lines]


def _columns(body: bytes) -> Iterator[str]:
    (count,) = struct.unpack_from("!H", body)
    at = 2
    for _ in range(count):
        end = body.index(b"\0", at)
        _table, _column, oid, _size, _modifier, form = struct.unpack_from("!IHIhiH", body, end + 1)
        yield f"{body[at:end].decode()}:{oid}:{form}"
        at = end + 19


def shrunk(talk: Talk, essence: object, stand: Stand, within_s: float = 60.0) -> Talk:
    """A shorter conversation that differs as well: turns and lines go as long as it still does."""
    deadline = time.monotonic() + within_s
    stand.silence_limit_s = 3.0
    at = len(talk.turns) - 1
    while at >= 0 and time.monotonic() < deadline:
        for line in [None, *reversed(range(len(talk.turns[at].lines)))]:
            shorter = talks.without(talk, at, line)
            stand.clear(talk.condition)
            if time.monotonic() < deadline and getattr(hold(shorter, stand), "essence", None) == essence:
                talk = shorter
                if line is None:
                    break
        at -= 1
    return talk
