"""Reads and re-records the corpus of statements for sharded pools: `tests/corpus/sharding/*.route`.

Below each statement stands where it goes among four shards, and by which columns:

    primary, shard 3  # by orders.customer_id
    replica, shards 0 3  # keys of several shards: what the pool's `otherwise` says
    replica, shard of $1  # decided by values that only a client knows, or that are no plain integers
    replica, any shard  # names no sharded table
    refused: why no shard can be told

`python -m tests.support.keyed_routes` writes what is true now; the difference is reviewed as a change of behaviour.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pgcat_cluster.routing import pg_bigint_hash
from pgcat_cluster.routing.role import role_for
from pgcat_cluster.sql.analysis import analyze
from pgcat_cluster.sql.keys import KeyRules, Keys, Term, Verdict, find_keys
from tests.fuzz.mutations import with_other_blanks_and_case
from tests.support.routes import statements

FOLDER = Path(__file__).parent.parent / "corpus" / "sharding"
SHARDS = 4
_EXPECTATION = re.compile(r"    ((?:primary|replica), .+|refused: .+)$")
_TOKEN = re.compile(r"\d[\w.]*|[eE]?'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_ARRAY = re.compile(r"'\{((?:-?\d+,? *)+)\}'")
_INTEGER = re.compile(r"[eE]?(?:'|\$\w*\$)?\s*(-?)(\d+)\s*(?:'|\$\w*\$)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRoute:
    """One statement of the corpus, and what its file says of it."""

    file: str
    line: int
    text: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@cache
def rules() -> KeyRules:
    """The rules that all files share."""
    found = tomllib.loads((FOLDER / "rules.toml").read_text())
    return KeyRules(found["key"], found["tables"], frozenset(found["reference"]))


def read_keyed_routes() -> list[KeyedRoute]:
    """Every statement of every file."""
    return [
        KeyedRoute(file=path.stem, line=line, text=text, expected=expectation[1])
        for path in sorted(FOLDER.glob("*.route"))
        for line, text, expectation in statements(path, _EXPECTATION)
    ]


def described(text: str) -> str:
    """What the corpus says of a statement, if it is right."""
    keys = find_keys(text, rules())
    if keys.verdict in (Verdict.NOWHERE, Verdict.UNREAD):
        return f"refused: {keys.reason}"
    role = role_for(analyze(text), "replicas").role
    return f"{role}, {_shards(text, keys)}  # {keys.reason}"


def _shards(text: str, keys: Keys) -> str:
    if keys.verdict is Verdict.ANYWHERE:
        return "any shard"
    values = dict.fromkeys(value for term in keys.terms for value in values_of(text, term))
    numbers = {pg_bigint_hash(value, SHARDS) for value in values if isinstance(value, int)}
    if any(isinstance(value, str) for value in values):
        return f"shard of {' '.join(map(str, values))}"
    return f"shard{'s' * (len(numbers) > 1)} {' '.join(map(str, sorted(numbers)))}"


def values_of(text: str, term: Term) -> list[int | str]:
    """The integers of an array where they are plain to see, else the one value."""
    value = value_of(text, term)
    if term.is_array and isinstance(value, str) and (array := _ARRAY.fullmatch(value)):
        return [int(integer) for integer in array[1].split(",")]
    return [value]


def value_of(text: str, term: Term) -> int | str:
    """An integer where it is plain to see, else the parameter or constant as written."""
    if term.parameter:
        return f"${term.parameter}"
    token = _TOKEN.match(text.encode()[term.location :].decode())
    assert token is not None, f"{text!r} has no constant at {term.location}"
    integer = _INTEGER.fullmatch(token[0])
    if integer is None:
        return f"-{token[0]}" if term.is_negative else token[0]
    sign, digits = integer.groups()
    return -int(digits) if bool(sign) != term.is_negative else int(digits)


# --- what changes nothing


def recast(text: str, chance: random.Random) -> str:
    """Some integers in parentheses, or with a cast that keeps them what they are."""

    def other(found: re.Match[str]) -> str:
        form = chance.choice(("{}", "{}", "({})", "(({}))", "{}::bigint", "cast({} as int8)"))
        return form.format(found[0])

    # Where a plain integer can only be a value: behind = or a comma, and not in a type or an array's bounds.
    return re.sub(r"(?<=[=,(] )\d+(?=[\s,);]|$)|(?<==)\d+(?=[\s,);]|$)", other, text)


def with_comments(text: str, chance: random.Random) -> str:
    """Between the words."""
    return re.sub(r" (?=[a-z])", lambda _: chance.choice((" ", " /* = 3 */ ", " -- id = 4\n")), text)


OTHER_WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "blanks and case": with_other_blanks_and_case,
    "comments": with_comments,
    "casts": recast,
}
# The library of the grammar does not parse NOT IN with a comment between the words; the relay leaves comments out.
_UNFIT = {
    "comments": r"['$]|--|/\*|\"O o\"|\bnot in\b",
    "blanks and case": r"['\"$]|--|/\*|\bnot in\b",
    "casts": r"['\"$]|--|/\*|\bnot in\b|\b(?:limit|fetch|set local)\b",
}


def rewritable(way: str, routes: Sequence[KeyedRoute]) -> list[KeyedRoute]:
    """Those that mean the same when they are written in another way."""
    return [route for route in routes if not re.search(_UNFIT[way], route.text, re.IGNORECASE)]


def main() -> None:
    for path in sorted(FOLDER.glob("*.route")):
        lines: list[str] = []
        pending: list[str] = []
        for line in [*path.read_text().split("\n"), ""]:
            if line.startswith("    "):
                continue
            if line and not (line.startswith("# ") and not lines and not pending):
                pending.append(line)
            elif pending:
                expectation = described("\n".join(pending))
                lines += [*pending, f"    {expectation}", ""]
                pending = []
            elif line:
                lines += [line, ""]
        path.write_text("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
