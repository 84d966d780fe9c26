"""Hostile, broken and inconsiderate clients: each gets what it deserves, and a bystander notices nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from pgcat_cluster.demo.processes import wait_until
from pgcat_cluster.demo.stack import Stack
from tests.support import fronts
from tests.support.fronts import Front
from tests.support.machine import kept_waiting_s
from tests.support.player import (
    FLUSH,
    GSS_REQUEST,
    SSL_REQUEST,
    SYNC,
    Address,
    Line,
    Refused,
    Scram,
    Silent,
    answer_to,
    bind,
    execute,
    fields_of,
    frame,
    log_in,
    parse,
    query,
    startup,
    zero_ended,
)

CLOSE_LIMIT_S = 10.0  # soon: before the limit of a login (15 s) would end it
BYSTANDER_WAIT_MAX_S = 2.0
MEMORY_GROWTH_MAX_KB = 20_000
FRONTEND_TYPES = b"QPBDECSHXFdcf"
HUGE = (2**31 - 1, 2**31, 2**32 - 1)


# --- standing expectations


class Bystander(threading.Thread):
    """Runs SELECT 1 every ten milliseconds and keeps the longest wait for an answer.

    What the machine kept from those who take part in it (us, the node, our server) does not count: a node that
    computes or sleeps for too long is to blame, one that gets no processor is not.
    """

    def __init__(self, front: Front) -> None:
        super().__init__(daemon=True)
        self.connection = psycopg.connect(**front.database("session").keywords(), autocommit=True)
        row = self.connection.execute("select pg_backend_pid()").fetchone()
        assert row is not None
        self.longest_wait_s = 0.0
        self.failure: BaseException | None = None
        self._others = [row[0], *([front.pid] if front.process else [])]
        self._stop_asked = threading.Event()

    def run(self) -> None:
        try:
            while not self._stop_asked.wait(0.01):
                kept_s, began_s = kept_waiting_s("thread-self", *self._others), time.monotonic()
                assert self.connection.execute("select 1").fetchone() == (1,)
                took_s = time.monotonic() - began_s
                kept_s = kept_waiting_s("thread-self", *self._others) - kept_s
                self.longest_wait_s = max(self.longest_wait_s, took_s - kept_s)
        except BaseException as failure:
            self.failure = failure

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(10)
        self.connection.close()


@pytest.fixture(autouse=True)
def bystander(wire_front: Front) -> Iterator[Bystander]:
    """In every test: the process lives, others are served, no descriptor is lost."""
    watcher = Bystander(wire_front)
    before = descriptors(wire_front)
    watcher.start()
    yield watcher
    if wire_front.process is not None:
        assert wire_front.process.is_running()
        # Server links may have been opened meanwhile; clients must all be gone.
        wait_until(
            lambda: descriptors(wire_front) <= before + 8,
            within_s=60,
            what="descriptors return to the level before",
        )
    watcher.finish()
    assert watcher.failure is None
    assert watcher.longest_wait_s < BYSTANDER_WAIT_MAX_S


def descriptors(front: Front) -> int:
    return 0 if front.process is None else len(os.listdir(f"/proc/{front.pid}/fd"))


def rss_kb(front: Front) -> int:
    if front.process is None:
        return 0
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{front.pid}/status").read_text())
    assert match
    return int(match[1])


@pytest.fixture
def address(wire_front: Front) -> Address:
    return wire_front.database("transaction")


def needs_node(front: Front) -> None:
    if front.node is None:
        pytest.skip("asks more than the protocol does")


def outcome(line: Line, limit_s: float = CLOSE_LIMIT_S) -> str | None:
    """Waits for the close; the SQLSTATE of the last error before it, None if there was none."""
    line.read_to_close(limit_s=limit_s)
    errors = [fields_of(message.body) for message in line.frames if message.type == b"E"]
    return errors[-1]["C"] if errors else None


def logged_in(address: Address, parameters: dict[str, str] | None = None) -> Line:
    line = Line(address.host, address.port)
    log_in(line, address, parameters)
    return line


def raw(address: Address, data: bytes) -> Line:
    line = Line(address.host, address.port)
    line.send([data])
    return line


def packet(body: bytes) -> bytes:
    return struct.pack("!I", len(body) + 4) + body


def names(address: Address, **more: str) -> dict[str, str]:
    return {"user": address.user, "database": address.database, **more}


# --- 1. lengths that lie


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, *HUGE])
def test_startup_length_that_lies(address: Address, wire_front: Front, length: int) -> None:
    before_kb = rss_kb(wire_front)
    with raw(address, struct.pack("!I", length) + b"\0\3\0\0") as line:
        assert outcome(line) in (None, "08P01")
    assert rss_kb(wire_front) - before_kb < MEMORY_GROWTH_MAX_KB


@pytest.mark.parametrize("length", [0, 1, 3, *HUGE])
@pytest.mark.parametrize("letter", [bytes([letter]) for letter in FRONTEND_TYPES], ids=bytes.decode)
def test_length_that_lies_after_login(
    address: Address, wire_front: Front, letter: bytes, length: int
) -> None:
    before_kb = rss_kb(wire_front)
    with logged_in(address) as line:
        line.send([letter + struct.pack("!I", length) + b"\0" * 100])
        # PostgreSQL itself says nothing.
        allowed = {"08P01", "54000"} if wire_front.node else {None, "08P01", "54000"}
        assert outcome(line) in allowed
    assert rss_kb(wire_front) - before_kb < MEMORY_GROWTH_MAX_KB


@pytest.mark.parametrize("length", [0, 1, 3, 100_000, *HUGE])
def test_length_that_lies_in_a_password(address: Address, wire_front: Front, length: int) -> None:
    before_kb = rss_kb(wire_front)
    with raw(address, startup(names(address))) as line:
        line.read_until(b"R", 1)
        line.send([b"p" + struct.pack("!I", length) + b"SCRAM-SHA-256\0"])
        assert outcome(line) in (None, "08P01", "28P01", "54000")
    assert rss_kb(wire_front) - before_kb < MEMORY_GROWTH_MAX_KB


@pytest.mark.parametrize("letter", [b"y", b"\0", b"\xff", b"R", b"Z", b"p"])
def test_unknown_message_type(address: Address, letter: bytes) -> None:
    with logged_in(address) as line:
        line.send([frame(letter, b"body\0")])
        assert outcome(line) == "08P01"
        assert fields_of(line.frames[-1].body)["S"] == "FATAL"
        assert fields_of(line.frames[-1].body)["M"] == f"invalid frontend message type {letter[0]}"


# --- 2. bytes promised, never sent


@pytest.fixture(scope="module")
def impatient(wire_stack: Stack, wire_front: Front) -> Iterator[Front]:
    """A node that waits for a login only so long."""
    needs_node(wire_front)
    front = fronts.start_node(wire_stack, node_settings='login_timeout = "2s"')
    yield front
    front.stop()


@pytest.mark.parametrize(
    "sent", [b"", b"\0", struct.pack("!I", 300), struct.pack("!I", 300) + b"\0\3\0\0user\0"]
)
def test_half_a_startup_packet_is_closed_by_the_login_timeout(impatient: Front, sent: bytes) -> None:
    with raw(impatient.address, sent) as line:
        outcome(line, limit_s=60)


def test_half_a_scram_exchange_is_closed_by_the_login_timeout(impatient: Front) -> None:
    with raw(impatient.address, startup(names(impatient.address))) as line:
        line.read_until(b"R", 1)
        first = Scram("x").first()
        line.send([frame(b"p", zero_ended(b"SCRAM-SHA-256") + struct.pack("!I", len(first)) + first)])
        outcome(line, limit_s=60)


def test_many_half_startups_cost_little_memory(impatient: Front) -> None:
    before_kb = rss_kb(impatient)
    half = struct.pack("!I", 9000) + b"\0\3\0\0"
    with contextlib.ExitStack() as closing:
        lines = [closing.enter_context(raw(impatient.address, half)) for _ in range(300)]
        assert (rss_kb(impatient) - before_kb) / len(lines) < 64
        for line in lines:
            outcome(line, limit_s=60)


@pytest.mark.parametrize("name", ["", "long"])
def test_a_long_statement_passes_through(wire_front: Front, name: str) -> None:
    """A server that is busy and does not read holds the client back; nothing piles up between them."""
    address = wire_front.database("one")
    before_kb = rss_kb(wire_front)
    peak_kb = before_kb

    def watched(data: bytes) -> Iterator[bytes]:
        nonlocal peak_kb
        for at in range(0, len(data), 1 << 20):
            peak_kb = max(peak_kb, rss_kb(wire_front))
            yield data[at : at + (1 << 20)]

    with logged_in(address) as line:
        busy = parse("", "select pg_sleep(0.5)") + bind("", "") + execute()
        long = parse(name, f"select length('{'x' * 64_000_000}'), $1::int")
        ready = line.counts[b"Z"]
        line.send([busy])
        line.send(watched(long + bind("", name, [b"7"]) + execute() + SYNC))
        line.read_until(b"Z", ready + 1)
        assert [message.body[6:] for message in line.frames if message.type == b"D"][1:] == [
            b"64000000\0\0\0\1" + b"7"
        ]
    assert peak_kb - before_kb < MEMORY_GROWTH_MAX_KB


def test_a_write_behind_a_read_that_was_answered(wire_front: Front) -> None:
    """A batch stays on its replica once a Flush had part of it answered, and the replica refuses the write."""
    needs_node(wire_front)
    with logged_in(wire_front.database("split")) as line:
        line.ask(parse("", "select 1") + bind("", "") + execute() + FLUSH, b"C")
        write = parse("", "create table written_behind ()") + bind("", "") + execute() + SYNC
        answer = line.ask(write)
        assert [message.type for message in answer] == [b"1", b"2", b"E", b"Z"]
        assert fields_of(answer[2].body)["C"] == "25006"
        assert [message.type for message in line.ask(write)] == [b"1", b"2", b"C", b"Z"]
        line.ask(query("drop table written_behind"))


def test_a_gigabyte_announced_after_login(address: Address, wire_front: Front) -> None:
    before_kb = rss_kb(wire_front)
    with logged_in(address) as line:
        line.send([b"Q" + struct.pack("!I", 2**30 - 100) + b"select '" + b"x" * 100_000])
        with contextlib.suppress(Silent):
            line.read_to_close(limit_s=0.5)
        assert rss_kb(wire_front) - before_kb < MEMORY_GROWTH_MAX_KB


# --- 3, 4, 5. the startup packet


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A startup packet, filled up to a size if one is given, and the SQLSTATE that answers it ("": none)."""

    id: str
    body: bytes
    code: str
    size_bytes: int = 0


V3 = b"\0\3\0\0"
USER = b"user\0test\0database\0transaction\0"
LAST_VALUE = V3 + USER + b"application_name\0x\0\0"
LOGINS = [
    Login(id="code only", body=V3, code="08P01"),
    Login(id="no user", body=V3 + b"database\0transaction\0\0", code="28000"),
    Login(id="empty user", body=V3 + b"user\0\0database\0transaction\0\0", code="28000"),
    Login(id="no parameters", body=V3 + b"\0", code="28000"),
    Login(id="no final NUL", body=V3 + USER[:-1], code="08P01"),
    Login(id="no terminator", body=V3 + USER, code="08P01"),
    Login(id="odd strings", body=V3 + USER + b"application_name\0", code="08P01"),
    Login(id="bytes behind the terminator", body=V3 + USER + b"\0extra", code="08P01"),
    Login(id="10000 bytes", body=LAST_VALUE, code="", size_bytes=10_000),
    Login(id="10001 bytes", body=LAST_VALUE, code="close", size_bytes=10_001),
    Login(id="version 2", body=b"\0\2\0\0" + USER + b"\0", code="0A000"),
    Login(id="version 4", body=b"\0\4\0\0" + USER + b"\0", code="0A000"),
    Login(id="version 0", body=b"\0\0\0\0" + USER + b"\0", code="0A000"),
    Login(id="version 3.1", body=b"\0\3\0\1" + USER + b"\0", code=""),
    Login(id="version 3.99", body=b"\0\3\0\x63" + USER + b"\0", code=""),
    Login(id="unknown protocol option", body=V3 + USER + b"_pq_.x\0y\0\0", code=""),
    Login(id="options -c=", body=V3 + USER + b"options\0-c=\0\0", code="42601 42704"),
    Login(id="options -c", body=V3 + USER + b"options\0-c\0\0", code="42601"),
    Login(id="options -c x", body=V3 + USER + b"options\0-c x\0\0", code="42601"),
    Login(id="options -X", body=V3 + USER + b"options\0-X\0\0", code="42601"),
    Login(id="options --", body=V3 + USER + b"options\0--\0\0", code=""),
    Login(id="options wrong value", body=V3 + USER + b"options\0-c statement_timeout=abc\0\0", code="22023"),
    Login(id="options -c no_such=1", body=V3 + USER + b"options\0-c no_such=1\0\0", code="42704"),
    Login(id="unknown parameter", body=V3 + USER + b"no_such\x001\0\0", code="42704"),
    Login(id="options work_mem", body=V3 + USER + b"options\0-c work_mem=2MB --search_path=p\0\0", code=""),
]  # fmt: skip


@pytest.mark.parametrize("case", LOGINS, ids=lambda case: case.id)
def test_shape_of_the_startup_packet(address: Address, case: Login) -> None:
    """Some faults are PostgreSQL's before the password, some after it: what counts is that login ends so."""
    body = case.body.replace(b"database\0transaction\0", b"database\0" + address.database.encode() + b"\0")
    if case.size_bytes:
        body = body[:-2].ljust(case.size_bytes - 2, b"x") + b"\0\0"
    with raw(address, packet(body)) as line:
        scram = Scram(address.password)
        code, seen = None, 0
        while code is None and not line.is_closed:
            line._wait(time.monotonic() + CLOSE_LIMIT_S)
            for message in line.frames[seen:]:
                seen += 1
                if message.type == b"R" and (answer := answer_to(message.body, address, scram)):
                    line.send([answer])
                elif message.type == b"E":
                    code = fields_of(message.body)["C"]
                elif message.type == b"Z":
                    code = ""
        if code is None and line.received.startswith(b"E"):
            # To version 2 PostgreSQL answers in version 2: a text alone.
            code = "0A000"
        if case.code == "close":
            assert code in (None, "08P01", "54000")
        else:
            assert code is not None
            assert code in (case.code.split() or [""])
        if case.code:
            line.read_to_close(limit_s=CLOSE_LIMIT_S)
        else:
            assert [message.type for message in line.ask(query("select 1"))] == [b"T", b"D", b"C", b"Z"]


def test_newer_minor_versions_are_negotiated_down(address: Address) -> None:
    with Line(address.host, address.port) as line:
        wanted = {**names(address), "_pq_.one": "1", "_pq_.two": "2"}
        line.send([startup(wanted, version=(3 << 16) | 99)])
        line.read_until(b"v", 1)
        negotiated = next(message.body for message in line.frames if message.type == b"v")
        minor, count = struct.unpack_from("!II", negotiated)
        assert minor & 0xFFFF in (0, 2)
        assert negotiated[8:] == b"_pq_.one\0_pq_.two\0"
        assert count == 2


@pytest.mark.parametrize("value", [b"\xff\xfe", b"line\nbreak", b"\x1b[31m", b"a'b\"c\\"])
def test_odd_bytes_in_names(address: Address, wire_front: Front, value: bytes) -> None:
    for body in (
        V3 + b"user\0" + value + b"\0database\0" + address.database.encode() + b"\0\0",
        V3 + b"user\0test\0database\0" + value + b"\0\0",
    ):
        with raw(address, packet(body)) as line:
            # An unknown name is asked for a password like any other.
            while not line.frames:
                line._wait(time.monotonic() + CLOSE_LIMIT_S)
            assert line.frames[0].type == b"R" or fields_of(line.frames[0].body)["C"] in ("28000", "28P01")
    if wire_front.process is not None:
        assert b"\x1b[31m" not in wire_front.process.log.read_bytes()


def test_an_option_reaches_its_own_client_only(wire_front: Front) -> None:
    address = wire_front.database("one")
    with logged_in(address, {"options": "-c work_mem=3MB"}) as line:
        assert shown(line, "work_mem") == b"3MB"
    with logged_in(address) as line:
        assert shown(line, "work_mem") == b"4MB"


def shown(line: Line, parameter: str) -> bytes:
    row = next(message for message in line.ask(query(f"show {parameter}")) if message.type == b"D")
    return row.body[6:]


# --- 6. chains of negotiation, 7. plaintext around the TLS switch


def test_gss_is_refused_and_login_goes_on(
    address: Address, wire_front: Front, client_tls: ssl.SSLContext
) -> None:
    needs_node(wire_front)
    for tls in (None, client_tls):
        with Line(address.host, address.port) as line:
            line.send([GSS_REQUEST])
            line.socket.settimeout(CLOSE_LIMIT_S)
            assert line.socket.recv(1) == b"N"
            if tls is not None:
                line.socket.sendall(SSL_REQUEST)
                assert line.socket.recv(1) == b"S"
                line.socket = tls.wrap_socket(line.socket, server_hostname=address.host)
            line.socket.setblocking(False)
            log_in(line, address)
            assert [message.type for message in line.ask(query("select 1"))] == [b"T", b"D", b"C", b"Z"]


@pytest.mark.parametrize("request_", [SSL_REQUEST, GSS_REQUEST], ids=["ssl", "gss"])
def test_the_same_request_twice(address: Address, wire_front: Front, request_: bytes) -> None:
    """After `S` the second one is no TLS handshake, after `N` it is out of turn: the end comes soon."""
    needs_node(wire_front)
    with socket.create_connection((address.host, address.port), timeout=CLOSE_LIMIT_S) as link:
        answers = b""
        with contextlib.suppress(ConnectionError):
            for _ in range(4):
                link.sendall(request_)
                data = link.recv(1000)
                if not data:
                    return
                answers += data
    assert b"S" in answers or answers.count(b"N") <= 3


def test_bytes_behind_an_ssl_request_are_not_believed(address: Address, wire_front: Front) -> None:
    needs_node(wire_front)  # PostgreSQL waits for the handshake before it looks
    for smuggled in (startup(names(address)), query("select 1"), b"\x16"):
        with raw(address, SSL_REQUEST + smuggled) as line:
            line.read_to_close(limit_s=CLOSE_LIMIT_S)
            assert not line.frames or line.frames[0].type not in (b"R", b"Z")


def test_a_handshake_cut_at_every_byte(address: Address, client_tls: ssl.SSLContext) -> None:
    with socket.create_connection((address.host, address.port), timeout=CLOSE_LIMIT_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(SSL_REQUEST)):
            link.sendall(SSL_REQUEST[at : at + 1])
        assert link.recv(1) == b"S"
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_tls.wrap_bio(incoming, outgoing, server_hostname=address.host)

        def flush() -> None:
            for byte in outgoing.read():
                link.sendall(bytes([byte]))

        def call(action: Callable[[], object]) -> object:
            while True:
                try:
                    result = action()
                except ssl.SSLWantReadError:
                    flush()
                    incoming.write(link.recv(65536))
                else:
                    flush()
                    return result

        call(tls.do_handshake)
        call(lambda: tls.write(startup(names(address))))
        assert call(lambda: tls.read(9))[:1] == b"R"


# --- 8. strangers


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\x7f\0\0\1" * 2 + b"\0\1\0\2",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
        b"SSH-2.0-OpenSSH_9.0\r\n",
        random.Random(1).randbytes(1000),
        random.Random(2).randbytes(1000),
    ],
    ids=["http", "proxy", "proxy 2", "tls", "ssh", "random", "random 2"],
)
def test_a_stranger_is_shown_out(address: Address, data: bytes) -> None:
    with raw(address, data) as line:
        assert outcome(line) in (None, "08P01", "0A000", "28000")


def test_a_port_scan(address: Address) -> None:
    for _ in range(200):
        socket.create_connection((address.host, address.port), timeout=CLOSE_LIMIT_S).close()


# --- 9. messages out of place


def sasl_first(address: Address, scram: Scram) -> bytes:
    first = scram.first()
    return frame(b"p", zero_ended(b"SCRAM-SHA-256") + struct.pack("!I", len(first)) + first)


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("database", ["", "no_such_database"])
def test_a_second_startup_packet_during_scram(address: Address, rounds: int, database: str) -> None:
    other = startup({"user": "postgres", "database": database or address.database})
    with raw(address, startup(names(address))) as line:
        line.read_until(b"R", 1)
        if rounds:
            line.send([sasl_first(address, Scram(address.password))])
            line.read_until(b"R", 2)
        line.send([other])
        assert outcome(line) in (None, "08P01", "28P01")
        assert not any(message.type == b"Z" for message in line.frames)


@pytest.mark.parametrize(
    "message",
    [query("select 1"), parse("", "select 1"), SYNC, frame(b"X"), frame(b"d", b"x"), frame(b"p", b"\0")],
    ids=["Query", "Parse", "Sync", "Terminate", "CopyData", "empty password"],
)
def test_messages_before_login_is_complete(address: Address, message: bytes) -> None:
    with raw(address, startup(names(address))) as line:
        line.read_until(b"R", 1)
        line.send([message])
        assert outcome(line) in (None, "08P01", "28P01")
        assert {got.type for got in line.frames} <= {b"R", b"E"}


def test_an_md5_answer_where_scram_was_asked(address: Address) -> None:
    with raw(address, startup(names(address))) as line:
        line.read_until(b"R", 1)
        line.send([frame(b"p", b"md5" + b"0" * 32 + b"\0")])
        assert outcome(line) in ("08P01", "28P01")


def test_unknown_user_and_wrong_password_look_alike(address: Address) -> None:
    """Nothing before the answer tells whether the user exists; the answer is the same but for the name."""
    texts = []
    for user in (address.user, "nobody_at_all"):
        with pytest.raises(Refused) as refused, Line(address.host, address.port) as line:
            log_in(line, replace(address, user=user, password="wrong"))
        fields = refused.value.fields
        texts.append(
            (
                fields["S"],
                fields["C"],
                fields["M"].replace(user, "*"),
                [message.type for message in line.frames],
            )
        )
    assert texts[0] == texts[1]
    assert texts[0][:2] == ("FATAL", "28P01")


# --- 16. false cancels


def test_false_cancels_have_no_effect(address: Address) -> None:
    with Line(address.host, address.port) as line:
        login = log_in(line, address)
        pid, secret = struct.unpack("!I4s", next(m.body for m in login if m.type == b"K")[:8])
        wrong = bytes([secret[0] ^ 1]) + secret[1:]
        line.send([query("select 'unharmed' from pg_sleep(0.5)")])
        for body in (
            struct.pack("!II4s", 80877102, pid, wrong),
            struct.pack("!II4s", 80877102, pid ^ 1, secret),
            struct.pack("!II", 80877102, pid),
            struct.pack("!I", 80877102),
            struct.pack("!II4s", 80877102, pid, wrong) + b"x" * 300,
        ):
            with raw(address, packet(body)) as false:
                assert outcome(false) is None
                assert not false.frames
        line.read_until(b"Z", 1)
        assert [message.type for message in line.frames] == [b"T", b"D", b"C", b"Z"]


def test_a_true_cancel_ends_its_own_query_once(address: Address) -> None:
    with Line(address.host, address.port) as line:
        key = next(message.body for message in log_in(line, address) if message.type == b"K")
        line.ask(query("begin"))
        line.send([query("select pg_sleep(30)")])
        # Whether the query has begun can be asked nowhere: cancel until it ends.
        for _ in range(100):
            with raw(address, packet(struct.pack("!I", 80877102) + key)) as cancel:
                cancel.read_to_close()
            with contextlib.suppress(Silent):
                line.read_until(b"Z", 2, limit_s=0.1)
                break
        else:
            pytest.fail("no cancel had any effect")
        assert fields_of(line.frames[-2].body)["C"] == "57014"
        assert line.ask(query("rollback"))[-1].body == b"I"
        assert [message.type for message in line.ask(query("select 1"))] == [b"T", b"D", b"C", b"Z"]


# --- 18. settings that must not travel

SETTERS = {
    "SET": "set {name} = {value}",
    "SET LOCAL": "set local {name} = {value}",
    "set_config": "select set_config('{name}', {value}, false)",
    "set_config local": "select set_config('{name}', {value}, true)",
    "in DO": "do $$ begin perform set_config('{name}', {value}, false); end $$",
    "in EXECUTE": "do $$ begin execute 'set {name} = ' || quote_literal({value}); end $$",
    "multi": "select 1; set {name} = {value}; select 2",
    "with a comment": "/* x */ SeT /**/ {name} /* y */ TO {value} -- z",
    "after one by another name": "set statement_timeout = 5000; set {name} = {value}",
}
PLACES = {
    "top": "{0}",
    "committed": "begin | {0} | commit",
    "rolled back": "begin | {0} | rollback",
    "rolled back to": "begin | savepoint a | {0} | rollback to a | commit",
    "failed": "begin | {0} | select 1/0 | commit",
    "one query": "begin; {0}\n; commit",
    "through Parse": "parse {0}",
}
PARAMETERS = {
    "timezone": "'Asia/Tokyo'",
    "application_name": "'leaky'",
    "work_mem": "'3MB'",
    "search_path": "'leaky'",
    "my.custom": "'leaky'",
    "standard_conforming_strings": "'off'",
    "default_transaction_read_only": "'on'",
    "role": "'pg_monitor'",
}


@pytest.fixture(scope="module", autouse=True)
def a_role_to_become(wire_stack: Stack) -> None:
    wire_stack.primary.query("grant pg_monitor to test")
    wire_stack.primary.query("create schema if not exists play", database="test")
    wire_stack.primary.query("create table if not exists play.leak (id int primary key)", database="test")
    wire_stack.primary.query("grant all on schema play to public", database="test")
    wire_stack.primary.query("grant all on play.leak to public", database="test")


def run_steps(line: Line, steps: str) -> None:
    for step in steps.split(" | "):
        if step.startswith("parse "):
            line.ask(parse("", step[6:]) + bind("", "") + execute() + SYNC)
        else:
            line.ask(query(step))


def settings_of(line: Line) -> tuple[bytes, ...]:
    """Everything that differs from a fresh session would be seen here, and who one is."""
    names = ["timezone", "application_name", "work_mem", "search_path", "standard_conforming_strings",
             "default_transaction_read_only", "statement_timeout"]  # fmt: skip
    shown = ", ".join(f"current_setting('{name}')" for name in names)
    text = f"select {shown}, coalesce(current_setting('my.custom', true), ''), current_user, session_user"
    return tuple(message.body for message in line.ask(query(text)) if message.type in b"DE")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("setter", SETTERS)
def test_settings_do_not_travel(wire_front: Front, wire_stack: Stack, setter: str, place: str) -> None:
    """On one server link: others see a fresh session, the client itself what PostgreSQL would show it."""
    if place == "through Parse" and ";" in SETTERS[setter].split("$$")[0]:
        pytest.skip("several statements can not be parsed as one")
    address = wire_front.database("one")
    real = Address(
        host=wire_stack.primary.host, port=wire_stack.primary.port, user="test",
        password=address.password, database="test",
    )  # fmt: skip
    for name, value in PARAMETERS.items():
        steps = PLACES[place].format(SETTERS[setter].format(name=name, value=value))
        with logged_in(real) as reference, logged_in(address) as first, logged_in(address) as second:
            fresh = settings_of(reference)
            assert settings_of(second) == fresh
            run_steps(reference, steps)
            run_steps(first, steps)
            assert settings_of(second) == fresh, f"{steps}: seen by another client"
            assert settings_of(first) == settings_of(reference), f"{steps}: not what a direct session sees"
            assert settings_of(second) == fresh, f"{steps}: seen by another client later"


# --- 19. session objects: who comes after on the only server link finds nothing

_TEMPORARY = "select count(*) from pg_class where relname = 'leak' and relpersistence = 't'"
_LOCKS = "select count(*) from pg_locks where locktype = 'advisory'"
OBJECTS = {
    "temporary table": ("create temp table leak (a int)", _TEMPORARY),
    "hold cursor": (
        "declare leak cursor with hold for select 1",
        "select count(*) from pg_cursors where name = 'leak'",
    ),
    "listen": ("listen leak", "select count(*) from pg_listening_channels()"),
    "advisory lock": ("select pg_advisory_lock(99)", _LOCKS),
    "nested shared lock": ("select pg_advisory_lock_shared(99), pg_advisory_lock_shared(99)", _LOCKS),
    "prepared": (
        "prepare leak as select 1",
        "select count(*) from pg_prepared_statements where name = 'leak'",
    ),
    "open transaction": ("begin | insert into play.leak values (1)", "select count(*) from play.leak"),
    "failed transaction": ("begin | select 1/0", "select 0"),
    "session authorization": (
        "set session authorization test",
        "select (current_user <> session_user)::int",
    ),
    "large object": (
        "begin | select lo_open(lo_creat(-1), 131072)",
        "select count(*) from pg_largeobject_metadata",
    ),
    "hidden in DO": (
        "do $$ begin create temp table leak (a int); perform pg_advisory_lock(98); end $$",
        f"select ({_TEMPORARY}) + ({_LOCKS})",
    ),
}


@pytest.mark.parametrize("is_polite", [True, False], ids=["terminates", "vanishes"])
@pytest.mark.parametrize("object_", OBJECTS)
def test_session_objects_end_with_their_client(wire_front: Front, object_: str, is_polite: bool) -> None:
    address = wire_front.database("one")
    make, count = OBJECTS[object_]
    with logged_in(address) as first:
        run_steps(first, make)
        if is_polite:
            first.send([frame(b"X")])
            first.read_to_close()
    with logged_in(address) as second:
        # A link that was unclean is replaced; PostgreSQL may take a moment to end a session that vanished.
        def is_gone() -> bool:
            answer = second.ask(query(count))
            return [message.body[6:] for message in answer if message.type == b"D"] == [b"0"]

        wait_until(is_gone, within_s=60, what=f"the {object_} is gone")


# --- 20, 21. statements of others


@pytest.mark.parametrize(
    "text", ["discard all", "deallocate all", "DEALLOCATE /* */ ALL", "select 1; deallocate all", "reset all"]
)
def test_one_client_does_not_deallocate_for_another(wire_front: Front, text: str) -> None:
    address = wire_front.database("one")
    with logged_in(address) as first, logged_in(address) as second:
        for line, answer in ((first, "1"), (second, "2")):
            line.ask(parse("mine", f"select {answer} as x") + SYNC)
        use = bind("", "mine") + execute() + SYNC
        for _ in range(2):
            assert [message.type for message in second.ask(use)] == [b"2", b"D", b"C", b"Z"]
            first.ask(query(text))
        assert [message.body[6:] for message in second.ask(use) if message.type == b"D"] == [b"2"]
        if text == "reset all":
            assert [message.body[6:] for message in first.ask(use) if message.type == b"D"] == [b"1"]
        elif "select" not in text:
            assert fields_of(first.ask(use)[0].body)["C"] == "26000"


def test_one_name_of_many_clients(wire_front: Front) -> None:
    """Every client has its own statement of the same name, on one server link, used in turns."""
    address = wire_front.database("one")
    with contextlib.ExitStack() as closing:
        lines = [closing.enter_context(logged_in(address)) for _ in range(20)]
        for number, line in enumerate(lines):
            line.ask(parse("s", f"select {number}, $1::int") + SYNC)
        for turn, (number, line) in itertools.product(range(3), enumerate(lines)):
            row = line.ask(bind("", "s", [str(turn).encode()]) + execute() + SYNC)[1]
            assert row.body == b"\0\2" + packet_free(str(number)) + packet_free(str(turn))


def packet_free(text: str) -> bytes:
    return struct.pack("!I", len(text)) + text.encode()


# --- 22, 25. who vanishes


def test_a_client_that_vanishes_leaves_nothing_committed(wire_front: Front, wire_stack: Stack) -> None:
    address = wire_front.database("one")
    for steps in ("begin | insert into play.leak values (7)", "copy play.leak from stdin"):
        with logged_in(address) as line:
            for step in steps.split(" | "):
                line.ask(query(step), b"G" if step.startswith("copy") else b"Z")
            if steps.startswith("copy"):
                line.send([frame(b"d", b"8\n"), frame(b"d", b"9\n")])
            # Reset instead of an orderly end.
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with logged_in(address) as second:
            answer = second.ask(query("select count(*) from play.leak"), limit_s=60.0)
            assert [message.body[6:] for message in answer if message.type == b"D"] == [b"0"]


def test_a_client_that_vanishes_mid_message(address: Address) -> None:
    whole = parse("s", "select $1::text") + bind("", "s", [b"x" * 5000]) + execute() + SYNC
    for cut in [*range(1, 60, 7), 1000, len(whole) - 3]:
        with logged_in(address) as line:
            line.send([whole[:cut]])
        with logged_in(address) as line:
            assert [message.type for message in line.ask(whole)] == [b"1", b"2", b"D", b"C", b"Z"]


# --- 23. nobody reads


@pytest.mark.parametrize(
    ("message", "types", "times"),
    [
        (query("select 1"), [b"T", b"D", b"C", b"Z"], 10_000),
        (
            (parse("", "select 1") + bind("", "") + execute()) * 1000 + SYNC,
            [b"1", b"2", b"D", b"C"] * 1000 + [b"Z"],
            10,
        ),
        (
            query("select repeat('x', 100000) from generate_series(1, 20)"),
            [b"T", *[b"D"] * 20, b"C", b"Z"],
            30,
        ),
    ],
    ids=["simple", "extended", "large"],
)  # fmt: skip
def test_a_client_that_does_not_read(
    address: Address, wire_front: Front, message: bytes, types: list[bytes], times: int
) -> None:
    before_kb = rss_kb(wire_front)
    with logged_in(address) as line:
        line.socket.settimeout(60)
        sender = threading.Thread(target=line.socket.sendall, args=(message * times,))
        sender.start()
        # Long enough for every buffer on the way to fill.
        sender.join(1.0)
        assert rss_kb(wire_front) - before_kb < MEMORY_GROWTH_MAX_KB
        while line.counts[b"Z"] < times:
            assert line._receive(), "silence"
        sender.join(60)
        line.socket.setblocking(False)
        assert [got.type for got in line.frames] == types * times


def test_copy_out_with_a_reader_that_pauses(address: Address, wire_front: Front) -> None:
    before_kb = rss_kb(wire_front)
    with logged_in(address) as line:
        line.send([query("copy (select repeat('x', 1000) from generate_series(1, 60000)) to stdout")])
        line.read_until(b"d", 1)
        time_to_fill = threading.Event()
        time_to_fill.wait(0.5)
        assert rss_kb(wire_front) - before_kb < MEMORY_GROWTH_MAX_KB
        line.read_until(b"Z", 1, limit_s=60)
        assert line.counts[b"d"] == 60000
