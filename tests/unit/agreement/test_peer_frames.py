"""The peer protocol without a socket: who gets in, what is refused, and the published example byte by byte."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.agreement.cancels import prove
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.peer_frames import (
    FRAME_BYTES_MAX,
    Acceptor,
    Alive,
    Cancel,
    Cancelled,
    Channel,
    Declined,
    Dialer,
    Nudge,
    PeerViolation,
    Ping,
    Probe,
    Question,
    Reply,
    Seen,
    Strikes,
    encode,
    length_of,
    read_question,
    read_reply,
    with_length,
)

OLD, NEW = b"old" * 11, b"new" * 11
KEY = FleetKey([OLD])


def dialer(key: FleetKey = KEY, fleet: str = "shop") -> Dialer:
    return Dialer(key, fleet, "px-1.7f1a2b3c", b"d" * 32)


def acceptor(key: FleetKey = KEY, fleet: str = "shop") -> Acceptor:
    return Acceptor(key, fleet, "px-2.0c9d11ee", b"a" * 32)


def meet(here: Dialer, there: Acceptor) -> tuple[Channel, Channel]:
    there.admit(here.proof(there.welcome(here.hello())))
    assert here.channel is not None
    assert there.channel is not None
    return here.channel, there.channel


# -- handshake


def test_both_sides_know_each_other_afterwards() -> None:
    here, there = dialer(), acceptor()
    ours, theirs = meet(here, there)
    assert (here.peer, there.peer) == ("px-2.0c9d11ee", "px-1.7f1a2b3c")
    assert (here.peer_key, there.peer_key) == (KEY.peer[0], KEY.peer[0])
    for word in (b"{}", b'{"ask":"ping"}'):
        assert theirs.open(ours.seal(word)) == word
        assert ours.open(theirs.seal(word)) == word


@pytest.mark.parametrize(
    ("dialing", "accepting", "line"),
    [
        ([OLD], [OLD, NEW], OLD),
        ([OLD, NEW], [OLD], OLD),
        ([OLD, NEW], [NEW, OLD], NEW),
        ([NEW, OLD], [OLD, NEW], OLD),
        ([NEW], [NEW, OLD], NEW),
        ([NEW, OLD], [NEW], NEW),
    ],
)
def test_every_step_of_a_change_of_keys_understands_its_neighbours(
    dialing: list[bytes], accepting: list[bytes], line: bytes
) -> None:
    here, there = dialer(FleetKey(dialing)), acceptor(FleetKey(accepting))
    ours, theirs = meet(here, there)
    assert theirs.open(ours.seal(b"{}")) == b"{}"
    assert here.peer_key == there.peer_key == FleetKey([line]).peer[0]


def test_who_has_another_key_gets_nothing() -> None:
    here, there = dialer(FleetKey([NEW])), acceptor()
    with pytest.raises(PeerViolation, match="wrong MAC in the handshake"):
        here.proof(there.welcome(here.hello()))


def test_who_only_repeats_what_was_heard_is_not_admitted() -> None:
    here, there = dialer(), acceptor()
    proof = here.proof(there.welcome(here.hello()))
    # The same hello again, to a node that draws another nonce.
    again = Acceptor(KEY, "shop", "px-2.0c9d11ee", b"b" * 32)
    again.welcome(here.hello())
    with pytest.raises(PeerViolation, match="wrong MAC in the handshake"):
        again.admit(proof)
    # The acceptor's own MAC, sent back to it.
    mirror = acceptor()
    mac = json.loads(mirror.welcome(here.hello()))["mac"]
    with pytest.raises(PeerViolation, match="wrong MAC in the handshake"):
        mirror.admit(json.dumps({"mac": mac}).encode())


HELLO = {"v": 1, "fleet": "shop", "node": "px-1.7f1a2b3c", "nonce": "ZGRk" * 10 + "ZGQ="}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "version 2 is not spoken here"),
        ({"fleet": "other"}, "another fleet"),
        ({"nonce": ""}, "a nonce of the wrong size"),
        ({"nonce": "ZGRk"}, "a nonce of the wrong size"),
        ({"nonce": "?"}, "not a message: "),
        ({"node": ""}, "not a node id"),
        ({"node": "x" * 81}, "not a node id"),
        ({"node": "a\0b"}, "not a node id"),
        ({"more": 1}, "not a message: "),
        ({"v": "1"}, "not a message: "),
    ],
)
def test_a_hello_that_is_refused(change: dict[str, object], why: str) -> None:
    assert acceptor().welcome(json.dumps(HELLO).encode())
    with pytest.raises(PeerViolation, match=why):
        acceptor().welcome(json.dumps({**HELLO, **change}).encode())


@given(st.binary(max_size=200))
def test_nothing_but_a_violation_comes_of_noise(noise: bytes) -> None:
    _, theirs = meet(dialer(), acceptor())
    for read in (
        acceptor().welcome,
        acceptor().admit,
        dialer().proof,
        theirs.open,
        read_question,
        read_reply,
    ):
        with pytest.raises(PeerViolation):
            read(noise)  # type: ignore[operator]


# -- frames


@given(st.data())
def test_a_frame_that_was_altered_anywhere_is_refused(data: st.DataObject) -> None:
    ours, theirs = meet(dialer(), acceptor())
    frame = bytearray(ours.seal(b'{"ask":"ping","id":1}'))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PeerViolation, match="wrong MAC"):
        theirs.open(bytes(frame))


def test_a_frame_counts_once_in_its_order_and_direction() -> None:
    ours, theirs = meet(dialer(), acceptor())
    first, second = ours.seal(b"1"), ours.seal(b"2")
    with pytest.raises(PeerViolation, match="wrong number"):
        theirs.open(second)
    assert theirs.open(first) == b"1"
    with pytest.raises(PeerViolation, match="wrong number"):
        theirs.open(first)
    with pytest.raises(PeerViolation, match="wrong MAC"):
        ours.open(second)
    # Of another connection between the same nodes.
    other = Acceptor(KEY, "shop", "px-2.0c9d11ee", b"b" * 32)
    _, elsewhere = meet(dialer(), other)
    with pytest.raises(PeerViolation, match="wrong MAC"):
        elsewhere.open(first)


@pytest.mark.parametrize("length", [0, FRAME_BYTES_MAX + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_is_refused_before_anything_is_read(length: int) -> None:
    assert length_of(FRAME_BYTES_MAX.to_bytes(4, "big")) == FRAME_BYTES_MAX
    with pytest.raises(PeerViolation, match=f"a frame of {length} bytes"):
        length_of(length.to_bytes(4, "big"))


def test_we_send_no_frame_that_would_be_refused() -> None:
    assert with_length(b"x" * FRAME_BYTES_MAX)[:5] == b"\0\0\x10\0x"
    with pytest.raises(PeerViolation):
        with_length(b"x" * (FRAME_BYTES_MAX + 1))


# -- messages


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            Cancel(id=1, pid=5, nonce=b"n", proof=b"p", hops=1),
            '{"ask":"cancel","id":1,"pid":5,"nonce":"bg==","proof":"cA==","hops":1}',
        ),
        (
            Probe(id=2, cluster="main", server="r1", within_ms=500),
            '{"ask":"probe","id":2,"cluster":"main","server":"r1","within_ms":500}',
        ),
        (
            Nudge(cluster="main", server="r1", evidence="refused"),
            '{"ask":"nudge","id":0,"cluster":"main","server":"r1","class":"refused"}',
        ),
        (Ping(id=3), '{"ask":"ping","id":3}'),
        (Cancelled(id=1, result="sent"), '{"answer":"cancel","id":1,"result":"sent"}'),
        (
            Seen(id=2, evidence="ok", rtt_ms=1.5, age_ms=0.0),
            '{"answer":"probe","id":2,"class":"ok","rtt_ms":1.5,"age_ms":0.0}',
        ),
        (
            Alive(id=3, node="px-2.0c9d11ee", applied={"decided": 7}),
            '{"answer":"ping","id":3,"node":"px-2.0c9d11ee","applied":{"decided":7}}',
        ),
        (Declined(id=2, why="no such server"), '{"answer":"declined","id":2,"why":"no such server"}'),
    ],
)
def test_messages_as_they_are_written(message: Question | Reply, text: str) -> None:
    assert encode(message).decode() == text
    assert (read_question if text.startswith('{"ask"') else read_reply)(text.encode()) == message


@pytest.mark.parametrize(
    "text", ["{}", '{"ask":"ping","id":"1"}', '{"ask":"obey","id":1}', '{"ask":"ping","id":1,"more":2}', "[]"]
)
def test_a_question_that_is_none(text: str) -> None:
    with pytest.raises(PeerViolation):
        read_question(text.encode())


# -- strikes


def test_three_violations_within_ten_seconds_close_the_door_for_ten() -> None:
    strikes = Strikes()
    for now in (0.0, 9.0, 9.5):
        assert not strikes.refuses("a", now)
        strikes.strike("a", now)
    assert [strikes.refuses("a", now) for now in (9.5, 19.4, 19.5)] == [True, True, False]
    assert not strikes.refuses("b", 9.6)
    # Far enough apart they do not count together.
    for now in (30.0, 35.0, 40.0, 46.0):
        strikes.strike("b", now)
        assert not strikes.refuses("b", now)


def test_addresses_do_not_pile_up() -> None:
    strikes = Strikes()
    for number in range(Strikes.ADDRESSES_MAX + 5):
        strikes.strike(str(number), 1.0)
    assert len(strikes._struck) == Strikes.ADDRESSES_MAX


# -- the published example


def test_the_published_example_is_what_we_say() -> None:
    text = (Path(__file__).parents[3] / "proto" / "peer.md").read_text()
    blocks = dict(re.findall(r"^([A-Za-z0-9 ]+):\n\n```\n(.*?)```$", text, re.MULTILINE | re.DOTALL))
    shown = {
        name: bytes.fromhex("".join(lines.split())) for name, lines in blocks.items() if name != "Key file"
    }
    key = FleetKey.parse(blocks["Key file"])
    assert {name: shown[name] for name in ("Peer key", "Cancel key")} == {
        "Peer key": key.peer[0],
        "Cancel key": key.cancel[0],
    }
    here = Dialer(key, "shop", "px-1.7f1a2b3c", bytes(range(32)))
    there = Acceptor(key, "shop", "px-2.0c9d11ee", bytes(range(32, 64)))
    welcome = there.welcome(here.hello())
    proof = here.proof(welcome)
    there.admit(proof)
    assert here.channel is not None
    assert there.channel is not None
    nonce, secret, pid = bytes(range(64, 80)), bytes.fromhex("01020304"), 417 << 19 | 5
    question = Cancel(id=1, pid=pid, nonce=nonce, proof=prove(key, nonce, pid, secret), hops=1)
    said = {
        "Dialer says hello": here.hello(),
        "Acceptor answers": welcome,
        "Dialer proves": proof,
        "Dialer asks": here.channel.seal(encode(question)),
        "Acceptor replies": there.channel.seal(encode(Cancelled(id=1, result="sent"))),
    }
    assert shown == {
        "Peer key": key.peer[0],
        "Cancel key": key.cancel[0],
        **{name: with_length(content) for name, content in said.items()},
    }
    assert there.channel.open(shown["Dialer asks"][4:]) == encode(question)
