"""The house checks itself: what holds for every file, with messages that say what to do."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pgcat_cluster"
LINES_MAX = 900
TEXT = {"", ".py", ".pyx", ".pxd", ".toml", ".md", ".yml", ".yaml", ".service", ".ini", ".json", ".txt"}

# A module of such a name means that the thing is not understood yet.
VAGUE = {
    *("utils", "util", "common", "helpers", "helper", "core"),
    *("base", "manager", "misc", "handler", "handlers"),
}

# From the lowest floor to the highest; rooms on one floor do not know each other. pyproject.toml says the
# same to import-linter, which reads no .pxd.
FLOORS = [
    {"errors"},
    {"wire"},
    {"relay"},
    {"topology", "sql"},
    {"routing", "pool", "health", "agreement"},
    {"session"},
    {"telemetry"},
    {"net"},
    {"admin", "fleet", "probes"},
    {"node"},
    {"process"},
    {"fleet_node"},
    {"cli", "demo"},
]

# Call → what to use instead, and where it may stand.
BANNED = {
    "asyncio.create_task": ("net.tasks.spawn", "pgcat_cluster/net/tasks.py"),
    "asyncio.ensure_future": ("net.tasks.spawn", "pgcat_cluster/net/tasks.py"),
    "loop.create_task": ("net.tasks.spawn", "pgcat_cluster/net/tasks.py"),
    "time.time": ("the clock that is handed in", "pgcat_cluster/net/clock.py"),
    "datetime.now": ("the clock that is handed in", "pgcat_cluster/net/clock.py"),
}


@cache
def files() -> tuple[Path, ...]:
    """Everything that is or could be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / line for line in listed.stdout.splitlines())
    return tuple(sorted(path for path in paths if path.is_file()))


def modules(folder: Path = ROOT) -> list[Path]:
    return [path for path in files() if path.suffix == ".py" and path.is_relative_to(folder)]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Sight(NamedTuple):
    """What the rules look at in a module, which is read once."""

    docstring: str
    # With the line of each.
    classes: tuple[tuple[int, str], ...]
    calls: tuple[tuple[int, str], ...]


@cache
def seen(path: Path) -> Sight:
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    return Sight(
        docstring=ast.get_docstring(tree) or "",
        classes=tuple((node.lineno, node.name) for node in nodes if isinstance(node, ast.ClassDef)),
        calls=tuple(
            (node.lineno, ast.unparse(node.func))
            for node in nodes
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
        ),
    )


def report(broken: list[str], rule: str) -> None:
    assert not broken, "\n".join([rule, *broken])


def test_every_module_begins_with_its_responsibility() -> None:
    broken = []
    for path in modules():
        docstring = seen(path).docstring
        if not docstring or docstring.splitlines()[0][-1:] not in {".", "?"}:
            broken.append(f"  {name(path)}: {docstring.splitlines()[:1]}")
    report(broken, "The first line of a module is one sentence: its responsibility.")


def test_modules_stay_readable() -> None:
    broken = [
        f"  {name(path)}: {lines} lines"
        for path in modules()
        if (lines := len(path.read_text().splitlines())) > LINES_MAX
    ]
    report(broken, f"A module of more than {LINES_MAX} lines wants splitting.")


def test_names_say_something() -> None:
    broken = [f"  {name(path)}" for path in modules() if path.stem in VAGUE or path.parent.name in VAGUE]
    for path in modules(PACKAGE):
        broken += [
            f"  {name(path)}:{line}: {named}"
            for line, named in seen(path).classes
            if named.endswith(("Manager", "Handler", "Helper", "Utils"))
        ]
    report(broken, "Such a name means that the thing is not understood yet.")


def test_nothing_is_left_for_later() -> None:
    word = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    broken = [
        f"  {name(path)}:{number}"
        for path in files()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if word.search(line)
    ]
    report(broken, "What is to be done is an issue, not a comment.")


def test_no_test_sleeps() -> None:
    broken = [
        f"  {name(path)}:{line}: {call}"
        for path in modules(ROOT / "tests")
        for line, call in seen(path).calls
        # asyncio.sleep(0) lets others run and waits for nothing.
        if call in {"time.sleep", "sleep"}
        or (call == "asyncio.sleep" and "sleep(0)" not in path.read_text().splitlines()[line - 1])
    ]
    report(broken, "A test waits for a condition, never for a time.")


def test_banned_calls_are_replaced() -> None:
    broken = [
        f"  {name(path)}:{line}: {call} → {BANNED[call][0]}"
        for path in modules(PACKAGE)
        for line, call in seen(path).calls
        if call in BANNED and name(path) != BANNED[call][1]
    ]
    report(broken, "These calls have a better one here.")


def test_no_group_is_repeated_possessively() -> None:
    broken = [
        f"  {name(path)}:{number}: {line.strip()}"
        for path in modules(PACKAGE)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\)[*+?]\+", line)
    ]
    report(broken, "Before Python 3.11.5 the answers are wrong (gh-106052): use an atomic group, (?>(...)*).")


def test_no_path_belongs_to_one_machine() -> None:
    # Folders in which people and machines keep their own things.
    folders = "|".join(("home", "root", "work", "Users", "mnt", "workspace"))
    own = re.compile(rf"(?<![\w.])/(?:{folders})/\w")
    broken = [
        f"  {name(path)}:{number}: {line.strip()}"
        for path in files()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if own.search(line)
    ]
    report(broken, "A path of one machine does not work on another.")


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_cimports_keep_to_the_floors() -> None:
    broken = []
    for path in files():
        if path.suffix not in {".pxd", ".pyx"} or not path.is_relative_to(PACKAGE):
            continue
        here = path.relative_to(PACKAGE).parts[0]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r"\s*(?:from|cimport|import)\s+pgcat_cluster\.(\w+)", line)
            if match and match[1] != here and floor(match[1]) >= floor(here):
                broken.append(f"  {name(path)}:{number}: {line.strip()}")
    report(broken, "A lower room never knows a higher one.")


@pytest.mark.parametrize("path", [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()])
def test_every_room_has_a_floor(path: Path) -> None:
    assert any(path.name in rooms for rooms in FLOORS), f"{path.name} stands on no floor"
