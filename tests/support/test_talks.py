"""Random conversations are those of their seed, can be said, and get shorter."""

from __future__ import annotations

import pytest

from tests.support import talks
from tests.support.player import message_of

pytestmark = pytest.mark.once


def test_a_seed_says_all() -> None:
    for seed in range(50):
        talk = talks.make(seed)
        assert talk == talks.make(seed)
        assert all(message_of(line) for turn in talk.turns for line in turn.lines)


def test_conversations_get_shorter() -> None:
    talk = talks.make(1)
    shorter = talks.without(talk, 0)
    assert shorter.turns == talk.turns[1:]
    at = next(at for at, turn in enumerate(talk.turns) if len(turn.lines) > 1)
    shorter = talks.without(talk, at, 1)
    assert shorter.turns[at].lines == talk.turns[at].lines[:1] + talk.turns[at].lines[2:]
