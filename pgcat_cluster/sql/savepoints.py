"""Finds in a statement string what it does to savepoints, and where the transaction ends that they belong to."""

from __future__ import annotations

import enum
from collections.abc import Iterator

from .tokens import NotUnderstood, cut

_NAME_BYTES_MAX = 63
_ENDS = frozenset({"commit", "end", "rollback", "abort"})


class Step(enum.Enum):
    """What one statement does."""

    SAVES = "sets a savepoint"
    RELEASES = "releases a savepoint, and those behind it"
    RETURNS = "goes back to a savepoint"
    ENDS = "ends the transaction"
    OTHER = "does nothing of these"


Steps = list[tuple[Step, str]]


def steps_of(text: str) -> Steps:
    """A step for each statement of a string, with the savepoint's name as PostgreSQL folds it.

    A string that the grammar refuses may give any.
    """
    steps: Steps = []
    for words in _statements(text):
        match words:
            case ["savepoint", name]:
                steps.append((Step.SAVES, _cut_name(name)))
            case ["release", "savepoint", name] | ["release", name]:
                steps.append((Step.RELEASES, _cut_name(name)))
            case (
                ["rollback", "to", "savepoint", name]
                | ["rollback", "to", name]
                | ["rollback", "work" | "transaction", "to", "savepoint", name]
                | ["rollback", "work" | "transaction", "to", name]
            ):
                steps.append((Step.RETURNS, _cut_name(name)))
            case [verb, *_] if verb in _ENDS:
                steps.append((Step.ENDS, ""))
            case [_, *_]:
                steps.append((Step.OTHER, ""))
    return steps


def _cut_name(name: str) -> str:
    return name.encode(errors="surrogateescape")[:_NAME_BYTES_MAX].decode(errors="surrogateescape")


def _statements(text: str) -> Iterator[list[str]]:
    """The words of each statement, as far as the string can be cut; what is no word is empty."""
    words: list[str] = []
    try:
        for token in cut(text):
            if token.text == ";":
                yield words
                words = []
            else:
                words.append(token.name)
    except NotUnderstood:
        return
    yield words
