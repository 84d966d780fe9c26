"""The script runner itself: it plays what is written, and no planted difference or loose end escapes it."""

from __future__ import annotations

import pytest

from tests.support import scripts
from tests.support.scripts import ScriptError

READ = """\
# A read borrows a replica.
links: p1.1 r1.1

# It asks.
c1: Query "select 1"
    c1 gets r1.1
    r1.1: Query "select 1"

r1.1: CommandComplete "SELECT 0"
r1.1: ReadyForQuery I
    r1.1 rests
    c1: CommandComplete "SELECT 0"
    c1: ReadyForQuery I
"""


def happened(text: str, chunks: scripts.Chunks = "whole") -> str:
    return scripts.play(scripts.parse("x", text), chunks)


@pytest.mark.parametrize("chunks", scripts.CHUNKS)
def test_a_true_script_is_told_as_it_is_written(chunks: scripts.Chunks) -> None:
    assert happened(READ, chunks) == READ


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (READ.replace("    r1.1 rests\n", ""), READ),
        (READ.replace('    c1: CommandComplete "SELECT 0"\n', '    c1: CommandComplete "SELECT 1"\n'), READ),
        (READ.replace("    c1 gets r1.1\n", "    c1 gets r1.1\n    p1.1 rests\n"), READ),
        (READ.replace("    c1 gets", "    # a remark of ours\n    c1 gets"), READ),
    ],
)
def test_what_is_not_so_is_found(planted: str, told: str) -> None:
    assert planted != told
    assert happened(planted) == told


def test_both_are_shown_side_by_side() -> None:
    assert scripts.mismatch("a\nbb\nc\n", "a\nx\ny\nc\n").splitlines() == [
        "expected   happened",
        "a          a",
        "bb       | x",
        "         | y",
        "c          c",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('links: p1.1\nc1: Query "x"\n', "begins with its story"),
        ("# Nothing.\n", "nothing happens"),
        ("# Early.\n    c1: Sync\n", "nothing has happened yet"),
        ("# Askew.\nc1: Sync\n  c1: ReadyForQuery I\n", "four blanks"),
        ("# Late.\nc1: Sync\nlinks: p1.1\n", "setup comes before"),
        ("# Unknown.\nit rains\n", "nobody knows how this happens"),
        ("# Unknown.\nr1.1: ReadyForQuery I\n", "r1.1"),
        ("# Nobody.\nsomebody: Sync\n", "neither a client nor a link"),
        ('# No message.\nc1: Inquiry "x"\n', "not a message of a frontend"),
        ("# Odd links.\nlinks: p1.2\nc1: Sync\n", "numbered from 1"),
        ("# Owed.\nlinks: r1.1\nc1: Query \"select 1\"\n", "c1 is owed an answer; r1.1 owes an answer"),
        ("# Waiting.\nc1: Query \"select 1\"\n", "r1 was asked to open; c1 waits"),
        ("# Half.\nlinks: p1.1\nc1: Parse \"\" \"select 1\"\n", "not finished"),
        ("# Half.\nc1: Sync\nc1: Packet \"Q\\x00\\x00\\x00\\x09\"\n", "not looked at"),
    ],
)  # fmt: skip
def test_what_can_not_be_played_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ScriptError, match=problem):
        happened(text)


def test_lines_of_one_sender_arrive_at_once_unless_something_stands_between() -> None:
    text = "# Story.\nc1: Sync\nc1: Sync\n\nc1: Sync\nc2: Sync\n    c2: ReadyForQuery I\nc2: Sync\n"
    script = scripts.parse("x", text)
    assert [event.lines for event in script.events] == [
        ("c1: Sync", "c1: Sync", ""), ("c1: Sync",), ("c2: Sync",), ("c2: Sync",)
    ]  # fmt: skip


def test_a_count_that_is_wrong_is_found() -> None:
    stage = scripts.Stage(scripts.parse("x", READ), "whole")
    try:
        stage.scene.pools["p1"].opened += 1
        with pytest.raises(ScriptError, match="p1: 2 counted, 1 there"):
            list(stage.play(stage.script.events[0]))
    finally:
        stage.scene.close()
