"""Positions in a server's log: what a server says of them, and tokens that carry them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.errors import InvalidParameter
from pgcat_cluster.relay.positions import Position
from pgcat_cluster.session.positions import NOWHERE, Told, later, make_token, read_answer, read_token

PAGE, FILE = 8192, 16 << 20
CLUSTERS = ("s00", "s01", "other-one")

positions = st.builds(
    Position,
    st.integers(min_value=1, max_value=(1 << 32) - 1),
    st.integers(min_value=0, max_value=(1 << 63) - 2),
)


def answer(
    lsn: int, *, in_recovery: bool = False, timeline: str | None = "0000000A"
) -> list[list[bytes | None]]:
    recovery = b"t" if in_recovery else b"f"
    return [
        [
            recovery,
            b"17",
            None if timeline is None else timeline.encode(),
            *(b"%d" % one for one in (lsn, PAGE, FILE)),
        ]
    ]


def test_what_servers_say() -> None:
    assert read_answer(answer(FILE + 5000)) == Told(False, "17", 10, FILE + 5000)
    assert read_answer(answer(FILE + 5000, in_recovery=True, timeline=None)) == Told(
        True, "17", 0, FILE + 5000
    )
    # Nothing replayed yet; no answer at all.
    assert read_answer([[b"t", b"17", None, None, b"8192", b"16777216"]]) is None
    assert read_answer([]) is None


@pytest.mark.parametrize(
    ("lsn", "end"),
    [
        (FILE + 3 * PAGE, FILE + 3 * PAGE),
        (FILE + 3 * PAGE + 24, FILE + 3 * PAGE),  # behind the header of an empty page
        (FILE + 3 * PAGE + 40, FILE + 3 * PAGE + 40),  # a record goes on from the page before, and ends here
        (FILE + 40, FILE),  # behind the header of an empty file
        (FILE + 48, FILE + 48),
    ],
)
def test_no_record_ends_in_a_header(lsn: int, end: int) -> None:
    told = read_answer(answer(lsn))
    assert told is not None
    assert told.lsn == end


def value(position: Position | None) -> tuple[int, int] | None:
    return None if position is None else (position.timeline, position.lsn)


def test_the_later_position() -> None:
    early, late, next_timeline = Position(1, 500), Position(1, 900), Position(2, 300)
    assert later(None, early) is early
    assert later(early, late) is later(late, early) is late
    assert later(late, next_timeline) is later(next_timeline, late) is next_timeline
    # Of a write nobody could tell the position of, nothing but another timeline is later.
    assert later(Position(1, NOWHERE.lsn), late).lsn == NOWHERE.lsn


@given(st.dictionaries(st.integers(min_value=0, max_value=2), positions))
def test_a_token_carries_all_positions(held: dict[int, Position]) -> None:
    read = read_token(make_token(held, CLUSTERS), CLUSTERS)
    assert {shard: value(one) for shard, one in read.items()} == {
        shard: value(one) for shard, one in held.items()
    }


TOKEN = make_token({0: Position(1, 0x3000148), 2: Position(7, 5)}, CLUSTERS)


def test_a_token_is_one_word() -> None:
    assert TOKEN.isascii()
    assert all(character.isalnum() or character in ".-_" for character in TOKEN)
    assert "s00" not in TOKEN


@given(st.integers(min_value=0, max_value=len(TOKEN) - 1), st.sampled_from("aZ0-_.='; \0é"))
def test_a_token_with_one_other_character_is_none(at: int, character: str) -> None:
    text = TOKEN[:at] + character + TOKEN[at + 1 :]
    if text == TOKEN:
        return
    with pytest.raises(InvalidParameter):
        read_token(text, CLUSTERS)


@given(st.integers(min_value=0, max_value=len(TOKEN) - 1))
def test_a_part_of_a_token_is_none(length: int) -> None:
    with pytest.raises(InvalidParameter):
        read_token(TOKEN[:length], CLUSTERS)


@given(st.text())
def test_no_text_is_taken_for_a_token(text: str) -> None:
    with pytest.raises(InvalidParameter):
        read_token(text, CLUSTERS)


def test_a_token_of_another_pool() -> None:
    with pytest.raises(InvalidParameter, match="of another pool") as caught:
        read_token(TOKEN, ("s00", "s01", "another"))
    assert caught.value.detail == "It tells of shard 2 in cluster other-one."
    with pytest.raises(InvalidParameter, match="of another pool"):
        read_token(TOKEN, ("s00",))


@pytest.mark.parametrize("position", [Position(0, 5), Position(1, NOWHERE.lsn)])
def test_a_token_of_no_position(position: Position) -> None:
    with pytest.raises(InvalidParameter):
        read_token(make_token({0: position}, CLUSTERS), CLUSTERS)
