"""Reads the corpus of statements with their expected role: `tests/corpus/routes/*.route`.

A statement stands flush left, over as many lines as it needs; indented below it, the role and `# reason`.
A line that begins with `# ` before any statement is the file's headline.
"""

from __future__ import annotations

import re
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
    return [route for path in sorted(FOLDER.glob("*.route")) for route in _read(path)]


def _read(path: Path) -> list[ExpectedRoute]:
    routes: list[ExpectedRoute] = []
    pending: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        expectation = _EXPECTATION.match(line)
        if expectation is not None and pending:
            role, reason = expectation.groups(default="reads")
            text = "\n".join(pending)
            routes.append(ExpectedRoute(file=path.stem, line=number, text=text, role=role, reason=reason))
            pending = []
        elif line.startswith(" "):
            raise ValueError(f"{path.name}:{number}: expected `    primary  # reason` or `    replica`")
        elif line and not (line.startswith("# ") and not routes and not pending):
            pending.append(line)
    if pending:
        raise ValueError(f"{path.name}: the last statement has no role")
    return routes
