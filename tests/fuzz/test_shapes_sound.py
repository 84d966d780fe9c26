"""Two statements of one shape are the same to PostgreSQL's parser, but for the values of their constants.

Since the shape of a rendered shape is that shape, it is enough to compare each with its rendered shape.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter

import pgparse
import pytest

from pgcat_cluster.relay.shapes import Scanner, render, render_with_places
from tests.fuzz.mutations import mutated, seeds, with_other_blanks_and_case

# Exception 1: in these a constant is part of the grammar or of an option, and is in the fingerprint. The rest
# of the tree must be the same. Who decides by such a constant must know that a shape has lost it.
_CONSTANTS_COUNT = {
    f"{name}Stmt"
    for name in """
    AlterDatabase AlterEnum AlterExtension AlterFdw AlterForeignServer AlterOwner AlterRole AlterSeq
    AlterStats AlterSubscription AlterTable AlterTableSpaceOptions AlterUserMapping Cluster Comment
    Copy Create Createdb CreateConversion CreateEnum CreateExtension CreateFdw CreateForeignServer
    CreateForeignTable CreateOpClass CreateRange CreateRole CreateSeq CreateSubscription
    CreateTableAs CreateTableSpace CreateTrig CreateUserMapping Define Explain Fetch
    ImportForeignSchema Index Load Notify Reindex SecLabel Vacuum View
    """.split()
}
_VALUES = {
    *("sval", "ival", "fval", "bsval", "boolval", "str", "location", "stmt_location", "stmt_len", "howMany"),
    *("comment", "payload", "filename", "label", "conninfo", "newVal", "oldVal", "newValNeighbor", "number"),
    *("for_encoding_name", "to_encoding_name"),
}
# Exception 2: a constant whose contents are no value of its kind. PostgreSQL refuses the whole text.
_BAD_VALUE = re.compile(
    r"invalid Unicode|invalid byte sequence|precision for type float|INTERVAL\(\d*\) prec"
)
# Exception 3: the library takes comments for tokens, unlike PostgreSQL 17: no string goes on behind one, and
# no two keywords that are looked at together may have one between them.
_GOES_ON_BEHIND_COMMENT = re.compile(r"'\s*--[^\n\r]*[\n\r]")
_KEYWORD_BEFORE_COMMENT = re.compile(r"(format|not|nulls|with|without)\s*(--|/\*)", re.IGNORECASE)
# Exception 4: rows fold where MERGE takes only one, so one that fails has the shape of one that does not.
_MERGE = re.compile(r"merge.*values", re.IGNORECASE | re.DOTALL)
# What parses and has no shape all the same. `$1where` parses in the library alone, the others are rare.
_UNKNOWN = re.compile(r"uescape|\$\d+[^\W\d]|[\w$]\.\d", re.IGNORECASE)


class Judge:
    """Compares statements with their rendered shapes."""

    def __init__(self) -> None:
        self._scanner = Scanner()
        self.verdicts: Counter[str] = Counter()
        self.shapes: set[bytes] = set()

    def complaint(self, text: str) -> str | None:
        """What is wrong with the shape of a statement."""
        buffer = bytearray(text.encode())
        shape = self._scanner.scan(buffer, 0, len(buffer))
        strings = [
            buffer[self._scanner.starts[n] : self._scanner.ends[n]].decode()
            for n in range(min(self._scanner.constants, len(self._scanner.starts)))
        ]
        fingerprint, reason = fingerprint_of(text)
        if shape is None:
            self.verdicts["unknown"] += 1
            if fingerprint is not None and not _UNKNOWN.search(text):
                return "parses but has no shape"
            return None
        for n in range(min(self._scanner.constants, len(self._scanner.places))):
            place = self._scanner.places[n]
            if shape[place : place + 2] != bytes((0, self._scanner.kinds[n])):
                return f"no marker of constant {n} at {place} in the shape {shape!r}"
        rendered, places = render_with_places(shape)
        if not all(is_begun(rendered.encode(), shape, *pair) for pair in places.items()):
            return f"places {places} of constants in the rendered shape {rendered!r}"
        again = bytearray(rendered.encode())
        if self._scanner.scan(again, 0, len(again)) != shape:
            return f"shape {shape!r}, but of the rendered shape {self._scanner.scan(again, 0, len(again))!r}"
        expected, expected_reason = _cached_fingerprint_of(rendered)
        if fingerprint is None and expected is None:
            self.verdicts["fails as its shape does"] += 1
        elif fingerprint is None:
            self.verdicts["fails unlike its shape"] += 1
            excused = (
                _BAD_VALUE.search(reason)
                or any(map(_GOES_ON_BEHIND_COMMENT.search, strings))
                or _KEYWORD_BEFORE_COMMENT.search(text)
                or _MERGE.search(text)
            )
            if not excused:
                return f"fails ({reason}), but not its rendered shape {rendered!r}"
        elif expected is None:
            return f"parses, but not its rendered shape {rendered!r}: {expected_reason}"
        elif fingerprint == expected:
            self.verdicts["same"] += 1
            self.shapes.add(shape)
        else:
            self.verdicts["constants count"] += 1
            tree, other = pgparse.parse(text), pgparse.parse(rendered)
            kinds = {next(iter(statement["stmt"])) for statement in tree}
            if not kinds & _CONSTANTS_COUNT or without_values(tree) != without_values(other):
                return f"is another statement than its rendered shape {rendered!r}: {sorted(kinds)}"
        return None


def is_begun(rendered: bytes, shape: bytes, at: int, place: int) -> bool:
    """Whether what is rendered of a marker and all behind it begins there."""
    return shape[place] == 0 and rendered[at:] == render(shape[place:]).encode()


def fingerprint_of(text: str) -> tuple[str | None, str]:
    try:
        return pgparse.fingerprint(text), ""
    except pgparse.PGQueryError as error:
        return None, str(error)


_cached_fingerprint_of = functools.lru_cache(maxsize=50_000)(fingerprint_of)


def without_values(tree: object) -> object:
    """A parse tree without the values in it; lists are without repetition, for a shape folds lists."""
    if isinstance(tree, dict):
        return {key: without_values(value) for key, value in tree.items() if key not in _VALUES}
    if isinstance(tree, list):
        items = [without_values(item) for item in tree]
        return [item for index, item in enumerate(items) if item not in items[:index]]
    return tree


def test_real_statements_are_sound() -> None:
    judge = Judge()
    complaints = {text: complaint for text in seeds() if (complaint := judge.complaint(text))}
    assert complaints == {}
    assert judge.verdicts["unknown"] < 0.05 * len(seeds())


@pytest.mark.parametrize(
    ("count", "seed"),
    [(30_000, 1), *(pytest.param(100_000, seed, marks=pytest.mark.live_long) for seed in range(2, 12))],
)
@pytest.mark.timeout(600)
def test_equal_shapes_are_equal_statements(count: int, seed: int) -> None:
    judge = Judge()
    complaints = {text: complaint for text in mutated(count, seed) if (complaint := judge.complaint(text))}
    assert complaints == {}
    # The test says something only if many mutated statements still parse and many share a shape.
    assert judge.verdicts["same"] > 0.3 * count
    assert len(judge.shapes) < 0.6 * judge.verdicts["same"]


def test_blanks_comments_and_case_are_not_in_a_shape() -> None:
    chance = random.Random(1)
    scanner = Scanner()
    plain = [text for text in seeds() if not re.search(r"""['"$]|--|/\*""", text)]
    assert len(plain) > 300
    for text in plain:
        buffer = bytearray(text.encode())
        shape = scanner.scan(buffer, 0, len(buffer))
        for _ in range(10):
            other = bytearray(with_other_blanks_and_case(text, chance).encode())
            assert scanner.scan(other, 0, len(other)) == shape, other
