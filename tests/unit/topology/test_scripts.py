"""Runs tests/scripts/config/*.change: edits of a document, and the changes or errors each one gives.

Flush left is what happens, indented is what it gives, in order and nothing more:

    file                      the lines that follow, each after "| ", are the whole document now
    set PATH = VALUE          one setting is put into the document
    unset PATH                one is taken out
    secret NAME = "TEXT"      the content of a secret changes
    # …                       a comment

A document that is refused changes nothing: the next edit starts from the last good one. PGCAT_REWRITE=1
records anew what is given; read the difference before it is committed.
"""

import copy
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcat_cluster.topology.cutover import refuse_cutovers
from pgcat_cluster.topology.diff import diff
from pgcat_cluster.topology.model import Topology, build
from pgcat_cluster.topology.reading import InvalidSettings, parse, read
from pgcat_cluster.topology.secrets import SecretReference, SecretUnavailable
from pgcat_cluster.topology.settings import Settings

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts" / "config").glob("*.change"))
SOURCE = "pgcat.toml"


class Player:
    """Holds the last good document, its topology, and the secrets as they are now."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.topology = build(Settings())
        self.secrets: dict[str, str] = {}

    def play(self, step: str) -> list[str]:
        """What one step gives."""
        verb, _, rest = step.partition("\n")[0].partition(" ")
        try:
            match verb:
                case "file":
                    text = "".join(
                        line.removeprefix("|").removeprefix(" ") + "\n" for line in step.splitlines()[1:]
                    )
                    topology = self.build(parse(text, SOURCE))
                    tree = tomllib.loads(text)
                case "set" | "unset":
                    tree = self.edited(rest, verb == "unset")
                    topology = self.build(read(tree, SOURCE))
                case "secret":
                    self.secrets.update(tomllib.loads('"' + rest.replace(" ", '" ', 1)))
                    topology, tree = self.build(read(self.tree, SOURCE)), self.tree
                case _:
                    raise ValueError(f"unknown verb: {step}")
            refuse_cutovers(self.topology, topology, SOURCE)
        except InvalidSettings as invalid:
            return list(invalid.lines())
        changes = [str(change) for change in diff(self.topology, topology)]
        self.tree, self.topology = tree, topology
        return changes

    def build(self, settings: Settings) -> Topology:
        return build(settings, self.secret, source=SOURCE)

    def secret(self, reference: SecretReference) -> str:
        try:
            return self.secrets[str(reference)]
        except KeyError:
            raise SecretUnavailable("there is none") from None

    def edited(self, edit: str, is_removal: bool) -> dict[str, Any]:
        path, _, text = edit.partition(" = ")
        tree = here = copy.deepcopy(self.tree)
        *tables, last = keys_of(path)
        for key in tables:
            here = here.setdefault(key, {})
        if is_removal:
            del here[last]
        else:
            here[last] = tomllib.loads(f"value = {text}")["value"]
        return tree


def keys_of(path: str) -> list[str]:
    """The keys of a dotted path, by TOML's own rules."""
    tree: Any = tomllib.loads(f"{path} = 0")
    keys = []
    while tree:
        [(key, tree)] = tree.items()
        keys.append(key)
    return keys


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each step of a script with its expected lines."""
    step: list[str] = []
    given: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            given.append(line[4:])
        elif line.startswith("|"):
            assert step[:1] == ["file"], f"a line of a file without its file: {line}"
            step.append(line)
        elif line and not line.startswith("#"):
            if step:
                yield "\n".join(step), given
            step, given = [line], []
    yield "\n".join(step), given


def rewritten(text: str) -> str:
    """The script with what is given now."""
    player = Player()
    recorded = iter([player.play(step) for step, _ in steps(text)])
    lines: list[str] = []
    is_open = False
    for line in [*text.splitlines(), ""]:
        if line.startswith("    "):
            continue
        if is_open and not line.startswith("|"):
            lines += ["    " + given for given in next(recorded)]
            is_open = False
        is_open = is_open or (bool(line) and not line.startswith(("#", "|")))
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    if os.environ.get("PGCAT_REWRITE") == "1":
        text = rewritten(text)
        script.write_text(text, encoding="utf-8")
    player = Player()
    played = [(step, player.play(step)) for step, _ in steps(text)]
    assert played == list(steps(text))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_line_shows_a_secret(script: Path) -> None:
    given = [line for _, lines in steps(script.read_text(encoding="utf-8")) for line in lines]
    assert given
    assert not [line for line in given if "hunter2" in line]


def test_a_refused_edit_changes_nothing() -> None:
    player = Player()
    assert player.play("set node.max_clients = 5") == ["node changed: max_clients"]
    assert player.play("set node.max_clients = 0") == [
        "pgcat.toml: node.max_clients: 0 is not allowed; allowed: a whole number, from 1 to 1000000"
    ]
    assert player.topology.node.max_clients == 5
