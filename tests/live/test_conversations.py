"""The same bytes to PostgreSQL and to a node: each conversation must be answered alike, byte by byte."""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import Callable

import psycopg
import pytest

from pgcat_cluster.demo.stack import Stack
from tests.support import fronts
from tests.support.fronts import Front
from tests.support.player import Conversation, Transcript, Writing, difference, play, read_conversations

CORPUS = pathlib.Path(__file__).parents[1] / "corpus" / "conversations"
CONVERSATIONS = [one for path in sorted(CORPUS.glob("*.wire")) for one in read_conversations(path)]
# Where each conversation is played, and how its bytes are cut.
PLAYS = {
    "transaction": tuple(Writing),
    "split": (Writing.WHOLE, Writing.BYTES, Writing.GLUED),
    "session": (Writing.WHOLE, Writing.RANDOM),
    "tls": (Writing.BYTES, Writing.RANDOM),
}

Expected = Callable[[Conversation], Transcript]


@pytest.fixture(scope="module")
def stage(wire_stack: Stack) -> psycopg.Connection:
    """A connection to the primary that puts everything back to its place before each play."""
    superuser = psycopg.connect(wire_stack.primary.dsn("postgres", "test"), autocommit=True)
    superuser.execute((CORPUS / "setup.sql").read_bytes())
    yield superuser
    superuser.close()


@pytest.fixture(scope="module")
def set_scene(stage: psycopg.Connection) -> Callable[[], None]:
    reset = (CORPUS / "reset.sql").read_bytes()

    def reset_all() -> None:
        # remote_apply: no replica shows the rows of the play before.
        stage.execute(b"begin; set local synchronous_commit = remote_apply; " + reset + b"; commit")

    return reset_all


@pytest.fixture(scope="module")
def expected(wire_stack: Stack, set_scene: Callable[[], None]) -> Expected:
    """What PostgreSQL itself answers, asked once per conversation."""
    known: dict[str, Transcript] = {}
    address = fronts.direct(wire_stack).address

    def ask(conversation: Conversation) -> Transcript:
        if conversation.source not in known:
            set_scene()
            known[conversation.source] = play(conversation, address)
        return known[conversation.source]

    return ask


def check(
    conversation: Conversation,
    front: Front,
    pool: str,
    writings: tuple[Writing, ...],
    expected: Expected,
    set_scene: Callable[[], None],
    tls: ssl.SSLContext | None = None,
) -> None:
    right = expected(conversation)
    assert right.ending == "closed", f"{conversation.source}: PostgreSQL itself never answers this"
    for seed, writing in enumerate(writings):
        set_scene()
        got = play(conversation, front.database(pool), writing, tls=tls, seed=seed)
        if found := difference(right, got, ("PostgreSQL", pool)):
            pytest.fail(
                f"{conversation.source} {conversation.title!r}, {writing.value}, seed {seed}\n{found}",
                pytrace=False,
            )


def by_title(conversation: Conversation) -> str:
    return conversation.title


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=by_title)
@pytest.mark.parametrize("pool", [name for name in PLAYS if name != "tls"])
def test_answered_like_postgresql(
    conversation: Conversation,
    pool: str,
    wire_front: Front,
    expected: Expected,
    set_scene: Callable[[], None],
) -> None:
    if "session" in conversation.needs and pool != "session":
        pytest.skip("means something in session mode alone")
    if "primary" in conversation.needs and pool == "split":
        pytest.skip("reads what it has just written, and a replica follows later")
    check(conversation, wire_front, pool, PLAYS[pool], expected, set_scene)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=by_title)
def test_answered_like_postgresql_over_tls(
    conversation: Conversation,
    wire_front: Front,
    client_tls: ssl.SSLContext,
    expected: Expected,
    set_scene: Callable[[], None],
) -> None:
    if "session" in conversation.needs:
        pytest.skip("means something in session mode alone")
    check(conversation, wire_front, "transaction", PLAYS["tls"], expected, set_scene, client_tls)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=by_title)
def test_postgresql_agrees_with_itself(
    conversation: Conversation, wire_stack: Stack, expected: Expected, set_scene: Callable[[], None]
) -> None:
    """Every conversation has one right answer, however its bytes are cut; else it could prove nothing."""
    writings = (Writing.BYTES, Writing.GLUED)
    check(conversation, fronts.direct(wire_stack), "test", writings, expected, set_scene)


def test_the_corpus_is_large_enough() -> None:
    assert len(CONVERSATIONS) >= 60
    assert len({one.title for one in CONVERSATIONS}) == len(CONVERSATIONS)
