"""A model of one PostgreSQL session: answers frames by the rules of the protocol, knows a dozen statements.

It is the measure: a client must get from us, byte for byte, what one of these would answer it directly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pgcat_cluster.wire import messages as m

INT4, TEXT = 23, 25
BAD_DATA = b"bad\n"
_IN_DOUBT = "current transaction is aborted, commands ignored until end of transaction block"
_SET_CONFIG = re.compile(r"pg_catalog\.set_config\(E'(\w+)',E'(\w*)',false\)")


class Refused(Exception):
    """An ErrorResponse."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.frame = m.frame(b"E", f"SERROR\0VERROR\0C{code}\0M{text}\0".encode() + b"\0")


@dataclass(slots=True)
class Prepared:
    text: str
    parameters: int


@dataclass(slots=True)
class Portal:
    statement: Prepared
    values: list[str]
    is_done: bool = False


@dataclass(slots=True)
class Backend:
    """Feed it what a client sends; it answers what the client gets. A standby refuses to write."""

    is_standby: bool = False
    is_read_only: bool = False
    status: bytes = b"I"
    received: bytearray = field(default_factory=bytearray)
    statements: dict[str, Prepared] = field(default_factory=dict)
    portals: dict[str, Portal] = field(default_factory=dict)
    skips: bool = False
    copying: str = ""  # "simple" or "extended"
    copied: int = 0
    work_mem: str = "4"
    saved: str = "4"
    is_over: bool = False

    def feed(self, data: bytes) -> bytes:
        self.received += data
        return b"".join(self._answers())

    def _answers(self) -> Iterator[bytes]:
        while len(self.received) >= 5 and not self.is_over:
            size = 1 + int.from_bytes(self.received[1:5], "big")
            if len(self.received) < size:
                return
            kind, body = chr(self.received[0]), bytes(self.received[5:size])
            del self.received[:size]
            if self.copying:
                yield from self._copy(kind, body)
            elif kind == "S":
                yield from self._sync()
            elif kind == "X":
                self.is_over = True
            elif not self.skips and kind not in "dcfH":
                yield from self._guarded(kind, body)

    def _guarded(self, kind: str, body: bytes) -> Iterator[bytes]:
        try:
            if not body:
                raise Refused("08P01", "invalid message format")
            yield from _CALLS[kind](self, body)
        except Refused as refused:
            yield refused.frame
            self._fail()
            self.skips = kind != "Q"
        if kind == "Q" and not self.copying:
            yield from self._ready()

    def _fail(self) -> None:
        if self.status == b"T":
            self.status = b"E"
        elif self.status == b"I":
            self.work_mem = self.saved

    def _ready(self) -> Iterator[bytes]:
        if self.status == b"I":
            self.portals.clear()
            self.saved = self.work_mem
        yield m.ready_for_query(self.status)

    def _sync(self) -> Iterator[bytes]:
        self.skips = False
        yield from self._ready()

    # -- COPY FROM STDIN -----------------------------------------------------------------------------------

    def _copy(self, kind: str, body: bytes) -> Iterator[bytes]:
        if kind in "HS":
            return
        if kind == "d" and body != BAD_DATA:
            self.copied += 1
            return
        is_simple, self.copying = self.copying == "simple", ""
        if kind == "c":
            yield m.command_complete(f"COPY {self.copied}")
        elif kind in "df":
            refused = Refused("57014", f"COPY from stdin failed: {body[:-1].decode()}")
            yield refused.frame if kind == "f" else Refused("22P02", "invalid input syntax").frame
            self._fail()
            self.skips = not is_simple
        else:
            yield Refused("08P01", f"unexpected message type 0x{ord(kind):02X} during COPY from stdin").frame
            yield m.frame(b"E", b"SFATAL\0VFATAL\0C08P01\0Mprotocol synchronization was lost\0\0")
            self.is_over = True
            return
        if is_simple:
            yield from self._ready()

    # -- queries -------------------------------------------------------------------------------------------

    def _query(self, body: bytes) -> Iterator[bytes]:
        text = body[:-1].decode()
        self.statements.pop("", None)
        self.portals.pop("", None)
        if text.startswith("SELECT 's', name"):
            if self.work_mem != "4":
                yield m.data_row([b"s", b"work_mem", self.work_mem.encode()])
            if "SELECT 'n', name" in text:
                for name in self.statements:
                    yield m.data_row([b"n", name.encode(), None])
            yield m.command_complete("SELECT 1")
            return
        for part in text.split(";"):
            if settings := _SET_CONFIG.findall(part):
                self.work_mem = settings[-1][1]
                yield m.data_row([value.encode() for _, value in settings])
                yield m.command_complete("SELECT 1")
                continue
            self._admit(part)
            yield from self._run(part, [], describes=True)

    def _admit(self, text: str) -> None:
        """What is refused as soon as it is parsed."""
        if text.startswith("selec "):
            raise Refused("42601", 'syntax error at or near "selec"')
        if self.status == b"E" and text not in ("", "commit", "rollback", "ROLLBACK"):
            raise Refused("25P02", _IN_DOUBT)

    def _run(self, text: str, values: list[str], *, describes: bool) -> Iterator[bytes]:
        verb, _, rest = text.partition(" ")
        for number, value in enumerate(values, 1):
            rest = rest.replace(f"${number}", value)
        if verb == "begin":
            if self.status == b"I":
                self.status, self.saved = b"T", self.work_mem
                self.is_read_only = rest == "read only"
            yield m.command_complete("BEGIN")
        elif verb in ("commit", "rollback", "ROLLBACK"):
            fails = verb != "commit" or self.status == b"E"
            if fails:
                self.work_mem = self.saved
            self.status, self.saved, self.is_read_only = b"I", self.work_mem, False
            self.portals.clear()
            yield m.command_complete("ROLLBACK" if fails else "COMMIT")
        elif verb == "DISCARD":
            if rest == "ALL":
                self.statements.clear()
                self.work_mem = self.saved = "4"
            yield m.command_complete(text)
        elif verb in ("DEALLOCATE", "deallocate"):
            self._deallocate(rest)
            yield m.command_complete("DEALLOCATE ALL" if rest.lower() == "all" else "DEALLOCATE")
        elif verb == "RESET":
            self.work_mem = "4"
            yield m.command_complete("RESET")
        elif verb == "set":
            self.work_mem = rest.split()[-1]
            yield m.command_complete("SET")
        elif verb == "insert":
            self._write("INSERT")
            yield m.command_complete("INSERT 0 1")
        elif verb == "copy":
            self.copying, self.copied = "simple" if describes else "extended", 0
            yield m.frame(b"G", b"\0\0\1\0\0")
        elif verb in ("select", "show"):
            if describes:
                yield _columns(text)
            if rest.startswith("1/"):
                raise Refused("22012", "division by zero")
            if rest.startswith("bump("):
                self._write("UPDATE")
                rest = rest[5:-1]
            yield m.data_row([(self.work_mem if verb == "show" else rest).encode()])
            yield m.command_complete("SHOW" if verb == "show" else "SELECT 1")
        else:
            assert not text, text
            yield m.empty_query_response()

    def _write(self, what: str) -> None:
        if self.is_standby or self.is_read_only:
            raise Refused("25006", f"cannot execute {what} in a read-only transaction")

    def _deallocate(self, name: str) -> None:
        if name.lower() == "all":
            self.statements.clear()
        elif self.statements.pop(name, None) is None:
            raise Refused("26000", f'prepared statement "{name}" does not exist')

    # -- the extended protocol -----------------------------------------------------------------------------

    def _parse(self, body: bytes) -> Iterator[bytes]:
        name, text = body.split(b"\0")[:2]
        if not name:
            self.statements.pop("", None)
        self._admit(text.decode())
        if name and name.decode() in self.statements:
            raise Refused("42P05", f'prepared statement "{name.decode()}" already exists')
        prepared = Prepared(text.decode(), text.count(b"$"))
        self.statements[name.decode()] = prepared
        yield m.parse_complete()

    def _find(self, name: str) -> Prepared:
        prepared = self.statements.get(name)
        if prepared is None:
            what = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise Refused("26000", f"{what} does not exist")
        return prepared

    def _bind(self, body: bytes) -> Iterator[bytes]:
        portal, name, rest = body.split(b"\0", 2)
        statement = self._find(name.decode())
        values = []
        count, position = int.from_bytes(rest[2:4], "big"), 4
        for _ in range(count):
            size = int.from_bytes(rest[position : position + 4], "big")
            values.append(rest[position + 4 : position + 4 + size].decode())
            position += 4 + size
        if count != statement.parameters:
            needs = f'prepared statement "{name.decode()}" requires {statement.parameters}'
            raise Refused("08P01", f"bind message supplies {count} parameters, but {needs}")
        if self.status == b"E" and statement.text not in ("commit", "rollback"):
            raise Refused("25P02", _IN_DOUBT)
        if portal and portal.decode() in self.portals:
            raise Refused("42P03", f'cursor "{portal.decode()}" already exists')
        self.portals[portal.decode()] = Portal(statement, values)
        yield m.bind_complete()

    def _describe(self, body: bytes) -> Iterator[bytes]:
        kind, name = body[:1], body[1:-1].decode()
        if kind == b"S":
            statement = self._find(name)
        elif name in self.portals:
            statement = self.portals[name].statement
        else:
            raise Refused("34000", f'portal "{name}" does not exist')
        returns = statement.text.startswith(("select", "show"))
        if self.status == b"E" and returns:
            raise Refused("25P02", _IN_DOUBT)
        if kind == b"S":
            yield m.parameter_description([INT4] * statement.parameters)
        yield _columns(statement.text) if returns else m.no_data()

    def _execute(self, body: bytes) -> Iterator[bytes]:
        name = body.split(b"\0")[0].decode()
        portal = self.portals.get(name)
        if portal is None:
            raise Refused("34000", f'portal "{name}" does not exist')
        text = portal.statement.text
        if self.status == b"E" and text not in ("commit", "rollback"):
            raise Refused("25P02", _IN_DOUBT)
        if portal.is_done and text.startswith("select"):
            yield m.command_complete("SELECT 0")
            return
        if portal.is_done:
            raise Refused("55000", f'portal "{name}" cannot be run')
        portal.is_done = True
        yield from self._run(text, portal.values, describes=False)

    def _close(self, body: bytes) -> Iterator[bytes]:
        name = body[1:-1].decode()
        (self.statements if body[:1] == b"S" else self.portals).pop(name, None)
        yield m.close_complete()


def _columns(text: str) -> bytes:
    return m.row_description([("work_mem" if text.startswith("show") else "n", TEXT, -1)])


_CALLS: dict[str, Callable[[Backend, bytes], Iterator[bytes]]] = {
    "Q": Backend._query,
    "P": Backend._parse,
    "B": Backend._bind,
    "D": Backend._describe,
    "E": Backend._execute,
    "C": Backend._close,
}
