"""The player itself: it sends what a script says, and no planted difference escapes it."""

from __future__ import annotations

import random
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.support.player import (
    SYNC,
    TERMINATE,
    Address,
    Conversation,
    Frame,
    Send,
    Transcript,
    Until,
    Writing,
    bind,
    difference,
    frame,
    function_call,
    normal,
    pieces,
    play,
    query,
    read_conversations,
)

READY = frame(b"Z", b"I")
AUTHENTICATION_OK = frame(b"R", struct.pack("!I", 0))
STATUS_A, STATUS_B = frame(b"S", b"a\x001\0"), frame(b"S", b"b\x002\0")
ANSWER = frame(b"D", b"\0\1\0\0\0\x011") + frame(b"C", b"SELECT 1\0") + READY
LOGIN = AUTHENTICATION_OK + STATUS_B + STATUS_A + frame(b"K", b"12345678") + READY


class Server:
    """Lets anybody in, gives one canned answer as soon as it has heard enough, and keeps what it heard."""

    def __init__(self, answer: bytes, heard_bytes: int, *, login: bytes = LOGIN, closes: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heard = b""
        self._answer, self._heard_bytes, self._login, self._closes = answer, heard_bytes, login, closes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> Address:
        host, port = self.listener.getsockname()
        return Address(host=host, port=port, user="u", password="p", database="d")

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.listener.close()

    def _serve(self) -> None:
        link, _ = self.listener.accept()
        with link:
            size = struct.unpack("!I", self._exactly(link, 4))[0]
            self._exactly(link, size - 4)
            link.sendall(self._login)
            self.heard = self._exactly(link, self._heard_bytes)
            link.sendall(self._answer)
            if self._closes:
                end = self.heard[-len(TERMINATE) :]
                while end != TERMINATE:
                    end = (end + self._exactly(link, 1))[-len(TERMINATE) :]
            else:
                self._done.wait()

    @staticmethod
    def _exactly(link: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = link.recv(size - len(data))
            assert piece
            data += piece
        return data


def conversation(*steps: Send | Until) -> Conversation:
    return Conversation(title="t", needs=frozenset(), has_own_errors=False, steps=steps, source="t.wire:1")


ASK = query("select 1")
ONE_QUERY = conversation(Send(ASK), Until("ReadyForQuery", 1))


def played(answer: bytes, login: bytes = LOGIN) -> Transcript:
    with Server(answer, len(ASK) + len(TERMINATE), login=login) as server:
        # Glued: a faulty answer can not make the player wait.
        return play(ONE_QUERY, server.address, Writing.GLUED)


def test_equal_answers_are_equal() -> None:
    assert difference(played(ANSWER), played(ANSWER)) == ""


@pytest.mark.parametrize(
    "other",
    [
        ANSWER + b"\0",
        ANSWER + READY,
        ANSWER[:-1],
        ANSWER[: -len(READY)],
        b"",
        ANSWER.replace(b"SELECT 1", b"SELECT 2"),
        ANSWER.replace(b"\x011", b"\x012"),
        frame(b"C", b"SELECT 1\0") + frame(b"D", b"\0\1\0\0\0\x011") + READY,
        frame(b"N", b"SNOTICE\0\0") + ANSWER,
        ANSWER[:-1] + b"T",
        frame(b"S", b"a\x001\0") + ANSWER,
    ],
    ids=[
        "a byte behind", "one more", "cut", "one less", "nothing", "tag", "value", "order", "notice",
        "status", "parameter",
    ],
)  # fmt: skip
def test_a_planted_difference_is_shown(other: bytes) -> None:
    found = difference(played(ANSWER), played(other))
    assert "!" in found
    assert found == difference(played(ANSWER), played(other))


def test_every_single_changed_byte_is_a_difference() -> None:
    right = played(ANSWER)
    for at in range(len(ANSWER)):
        changed = bytearray(ANSWER)
        changed[at] ^= 0x01
        assert difference(right, played(bytes(changed))), f"byte {at}"


def test_parameters_at_login_count_but_not_their_order() -> None:
    reordered = AUTHENTICATION_OK + STATUS_A + STATUS_B + frame(b"K", b"abcdefgh") + READY
    assert difference(played(ANSWER), played(ANSWER, reordered)) == ""
    for login in (
        AUTHENTICATION_OK + STATUS_A + READY,
        LOGIN.replace(b"b\x002", b"b\x003"),
        AUTHENTICATION_OK + frame(b"N", b"SNOTICE\0\0") + LOGIN[len(AUTHENTICATION_OK) :],
    ):
        assert difference(played(ANSWER), played(ANSWER, login))
    standby = AUTHENTICATION_OK + frame(b"S", b"in_hot_standby\0on\0") + LOGIN[len(AUTHENTICATION_OK) :]
    assert difference(played(ANSWER), played(ANSWER, standby)) == ""


def test_silence_is_told_apart_from_an_end() -> None:
    with Server(ANSWER, len(ASK), closes=False) as server:
        silent = play(ONE_QUERY, server.address, silence_limit_s=0.2)
    assert silent.ending == "silent"
    assert difference(played(ANSWER), silent)


def test_process_ids_of_notifications_do_not_count() -> None:
    first, second = frame(b"A", b"\0\0\0\1ch\0x\0"), frame(b"A", b"\0\0\0\2ch\0x\0")
    assert difference(played(first + ANSWER), played(second + ANSWER)) == ""
    assert difference(played(first + ANSWER), played(first.replace(b"x", b"y") + ANSWER))


def test_places_of_errors_count_unless_told_otherwise() -> None:
    error = Frame(b"E", b"SERROR\0C08P01\0Mno\0Ffile.c\0L12\0Rroutine\0\0")
    assert normal(error) == error
    assert normal(error, without_places=True) == Frame(b"E", b"SERROR\0C08P01\0Mno\0\0")


@pytest.mark.parametrize("writing", Writing)
def test_the_server_hears_the_same_bytes_however_they_are_cut(writing: Writing) -> None:
    steps = (Send(query("select 1")), Send(bind("", "s", [b"x" * 10000])), Send(SYNC))
    whole = b"".join(step.data for step in steps)
    with Server(ANSWER, len(whole)) as server:
        play(conversation(*steps, Until("ReadyForQuery", 1)), server.address, writing)
    assert server.heard == whole
    assert b"".join(pieces(whole, writing, random.Random(1))) == whole


def test_one_byte_per_write_is_one_byte_per_write() -> None:
    assert list(pieces(b"abc", Writing.BYTES, random.Random(0))) == [b"a", b"b", b"c"]


def test_notation(tmp_path: Path) -> None:
    script = tmp_path / "x.wire"
    script.write_text(
        '# a comment\n== one\nQuery "a\\"b\\n\\x00ü"  # behind\nuntil ReadyForQuery 2\n\n'
        '== two [needs session locks]\nBind "p" "s" ["1" null x"00ff"] formats 0 1 results 1\n'
        '== three [own errors]\nRaw "ab"*3\nFunctionCall 177 ["1"] formats 1 results 1\nuntil close\n'
    )
    one, two, three = read_conversations(script)
    assert (one.title, one.needs, one.source) == ("one", frozenset(), "x.wire:2")
    assert one.steps == (Send(b'Q\0\0\0\x0ca"b\n\0\xc3\xbc\0'), Until("ReadyForQuery", 2))
    assert (two.title, two.needs, two.has_own_errors) == ("two", {"session", "locks"}, False)
    assert two.steps == (Send(bind("p", "s", [b"1", None, b"\x00\xff"], [0, 1], [1])),)
    assert (three.title, three.has_own_errors) == ("three", True)
    assert three.steps == (Send(b"ababab"), Send(function_call(177, [b"1"], [1], 1)), Until("close", 1))


@pytest.mark.parametrize(
    "line", ["Query", "Shout", "until Nothing", 'Query "open', 'Describe thing "x"', '"text"']
)
def test_a_script_that_can_not_be_read_names_its_line(tmp_path: Path, line: str) -> None:
    script = tmp_path / "bad.wire"
    script.write_text(f"== title\n{line}\n")
    with pytest.raises(ValueError, match=r"^bad\.wire:2: "):
        read_conversations(script)
