"""Reads the corpus of statements with their expected role: `tests/corpus/routes/*.route`.

A statement stands flush left, over as many lines as it needs; indented below it, the role and `# reason`.
A line that begins with `# ` before any statement is the file's headline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "corpus" / "routes"
_EXPECTATION = re.compile(r"    (primary|replica)(?: +# (.+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRoute:
    """One statement of the corpus."""

    file: str
    line: int
    text: str
    role: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def read_routes() -> list[ExpectedRoute]:
    """Every statement of every file; ValueError for a line that is neither statement nor expectation."""
    return [
        ExpectedRoute(
            file=path.stem, line=line, text=text, role=expectation[1], reason=expectation[2] or "reads"
        )
        for path in sorted(FOLDER.glob("*.route"))
        for line, text, expectation in statements(path, _EXPECTATION)
    ]


def statements(path: Path, expected: re.Pattern[str]) -> Iterator[tuple[int, str, re.Match[str]]]:
    """Every statement of a file: its text, and below it, in that line, what is expected of it."""
    pending: list[str] = []
    has_begun = False
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        expectation = expected.match(line)
        if expectation is not None and pending:
            yield number, "\n".join(pending), expectation
            pending = []
            has_begun = True
        elif line.startswith(" "):
            raise ValueError(f"{path.name}:{number}: expected {expected.pattern}")
        elif line and not (line.startswith("# ") and not has_begun and not pending):
            pending.append(line)
    if pending:
        raise ValueError(f"{path.name}: nothing is expected of the last statement")
