"""The compiled and the interpreted scanner give the same answers, also to bytes that nobody should send."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pgcat_cluster.relay.build import build_kind
from pgcat_cluster.relay.shapes import Scanner
from tests.fuzz.mutations import mutated
from tests.fuzz.twins import assert_twins_agree

_HOSTILE = b"'\"$\\-/*;,.()[]eEbBxXnNuU&_01279aAinvalues \n\r\t\v\f\0\x80\xc3\xff+=<>:%"


def statements(count: int, seed: int) -> Iterator[bytes]:
    """Mutated statements, statements with bytes changed to anything, and heaps of hostile bytes."""
    chance = random.Random(seed)
    for text in mutated(count, seed):
        statement = bytearray(text.encode())
        yield bytes(statement)
        for _ in range(3):
            at = chance.randrange(len(statement) + 1)
            statement[at : at + chance.randrange(2)] = bytes([chance.randrange(256)])
        yield bytes(statement)
        yield bytes(chance.choices(_HOSTILE, k=chance.randrange(1, 60)))


def answers(count: int, seed: int) -> Iterator[str]:
    """Everything that the scanner of this process has to say."""
    scanner = Scanner()
    for statement in statements(count, seed):
        buffer = bytearray(b"'" + statement + b"1'")
        shape = scanner.scan(buffer, 1, 1 + len(statement))
        found: list[object] = [shape]
        if shape is not None:
            constants = min(scanner.constants, len(scanner.starts))
            comments = min(scanner.comments, len(scanner.comment_starts))
            found += [scanner.constants, scanner.comments]
            found += [
                list(places[:constants])
                for places in (scanner.starts, scanner.ends, scanner.kinds, scanner.places)
            ]
            found += [list(places[:comments]) for places in (scanner.comment_starts, scanner.comment_ends)]
        # Compiled, this is another scan; interpreted, it mostly is none.
        found.append(scanner.glance(buffer, 1, 1 + len(statement)))
        yield repr(found)


@pytest.mark.once
@pytest.mark.skipif(
    build_kind() != "compiled", reason="needs the compiled data plane beside the interpreted one"
)
@pytest.mark.parametrize(
    ("count", "seed"), [(10_000, 1), pytest.param(200_000, 2, marks=pytest.mark.live_long)]
)
@pytest.mark.timeout(600)
def test_both_scanners_give_the_same_answers(count: int, seed: int) -> None:
    told = assert_twins_agree(__name__, count, seed, statements(count, seed), answers(count, seed))
    assert told == 3 * count
