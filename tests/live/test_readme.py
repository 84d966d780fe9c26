"""Does what the README says, as a reader would, and compares what is printed.

A fenced block says by the words behind its language what is done with it: a file name is a file to write,
`console` are commands and what they print, in one folder from top to bottom. `…` stands for anything. Ports are
exchanged for free ones on the way in and back on the way out.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgcat_cluster import errors
from pgcat_cluster.demo.etcd import Etcd
from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.processes import wait_until
from pgcat_cluster.demo.stack import Stack
from tests.support import house

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PATIENCE_S = 120
_PROMPT = re.compile(r"\w+=[*!]?> ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: `word` is what stands behind the language."""

    language: str
    word: str
    text: str
    line: int


def _blocks() -> list[Block]:
    found = []
    for fence in re.finditer(r"^```(\w*) ?(.*)\n((?:.*\n)*?)```$", README, re.MULTILINE):
        line = README.count("\n", 0, fence.start()) + 1
        found.append(Block(language=fence[1], word=fence[2], text=fence[3], line=line))
    return found


BLOCKS = _blocks()


def block_of(word: str) -> Block:
    (block,) = (block for block in BLOCKS if block.word == word)
    return block


def script_of(text: str) -> tuple[str, str]:
    """What a shell is to run, and what it should print. Lines behind psql's prompt are psql's input."""
    script: list[str] = []
    printed: list[str] = []
    typed: list[str] = []

    def end_command() -> None:
        if typed:
            script[-1] += " <<'TYPED'\n" + "\n".join(typed) + "\nTYPED"
            typed.clear()

    for line in text.splitlines():
        if script and script[-1].endswith("\\"):
            script[-1] = script[-1][:-1] + line.lstrip()
        elif line.startswith("$ "):
            end_command()
            script.append(line[2:])
        elif prompt := _PROMPT.match(line):
            typed.append(line[prompt.end() :])
        else:
            printed.append(line)
    end_command()
    return "\n".join(script), "\n".join(printed)


def agrees(printed: str, expected: str) -> bool:
    """Whether a text is the expected one, with anything where that has `…` and spaces behind it."""
    pattern = re.sub("…(?:\\\\ )*", ".*?", re.escape(expected.strip()))
    lines = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch(pattern, lines, re.DOTALL) is not None


def vaguely(text: str) -> str:
    """A text without what differs from run to run: numbers, passwords, folders, and how a panel is laid out."""
    for pattern, word in (
        (r"from \S+ \([^)]*\)", "from FOLDER (SOURCE)"),
        (r"PGPASSWORD=\S+ \S+", "PGPASSWORD=… psql"),
        (r"pgcat-\w{8}/", "pgcat-…/"),
        (r"\d+(\.\d+)?", "0"),
        (r"[│─╭╮╰╯\s]+", " "),
    ):
        text = re.sub(pattern, word, text)
    return text.strip()


def environment(**more: str) -> dict[str, str]:
    """Like a reader's shell: our command is on PATH, and no make is above."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return {**inherited, "PATH": path, "COLUMNS": "80", **more}


class Reader:
    """Follows the README in a folder, in front of the servers of a stack."""

    def __init__(self, folder: Path, stack: Stack, etcd: Etcd) -> None:
        self.folder = folder
        self._stack = stack
        self._etcd = etcd
        servers = zip(("5432", "5433", "5434"), stack.servers, strict=True)
        self._ports = {port: str(server.port) for port, server in servers}
        self._ports["2379"] = etcd.endpoints[0].rpartition(":")[2]
        ours = ("6432", "6433", "6434", "7431", "7432", "9930", "9931", "9932")
        self._ports |= {port: str(free_port()) for port in ours}
        self._running: list[tuple[subprocess.Popen[str], Path]] = []

    def follow(self, block: Block) -> None:
        match block.language, block.word:
            case "console", "":
                self._run(block, self.folder)
            case "console", "checkout":
                self._run(block, ROOT)
            case "console", "runs":
                self._start(block)
            case _, name:
                (self.folder / name).write_text(self._ours(block.text))

    def _run(self, block: Block, folder: Path) -> None:
        script, expected = script_of(block.text)
        done = subprocess.run(
            ["bash", "-c", self._ours(script)],
            cwd=folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        printed = self._readers(done.stdout)
        assert agrees(printed, expected), f"README.md:{block.line}: it prints\n{printed}"

    def _start(self, block: Block) -> None:
        """A command that stays, as in a terminal of its own; returns when it has printed what it should."""
        script, expected = script_of(block.text)
        log = self.folder / f"line{block.line}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self._ours(script)}"],
                cwd=self.folder,
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._running.append((process, log))
        wait_until(
            lambda: process.poll() is None and agrees(log.read_text(), f"{expected}\n…"),
            within_s=PATIENCE_S,
            what=f"README.md:{block.line} prints what it should",
            explain=log.read_text,
        )

    def stop(self) -> None:
        for process, log in self._running:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        self._running.clear()

    def _environment(self) -> dict[str, str]:
        """Passwords are typed: those of the servers, and those that the reader chose."""
        psql = self._stack.client_program("psql")
        assert psql, "no psql here"
        passwords = self.folder / "typed-passwords"
        passwords.touch(mode=0o600)
        secrets = {file.stem: file.read_text().strip() for file in self.folder.glob("secrets/*.secret")}
        typed = {**secrets, "postgres": self._stack.passwords["postgres"]}
        passwords.write_text("".join(f"*:*:*:{user}:{password}\n" for user, password in typed.items()))
        return environment(
            PATH=os.pathsep.join(
                [
                    environment()["PATH"],
                    str(self._etcd.binary.path.parent),
                    *([str(Path(psql).parent)] if os.sep in psql else []),
                ]
            ),
            ETCDCTL_API="3",
            ETCDCTL_ENDPOINTS=self._etcd.endpoints[0],
            PGPASSFILE=str(passwords),
        )

    def _ours(self, text: str) -> str:
        return re.sub(r"\b\d{4}\b", lambda port: self._ports.get(port[0], port[0]), text)

    def _readers(self, text: str) -> str:
        back = {ours: readers for readers, ours in self._ports.items()}
        return re.sub(r"\b\d+\b", lambda port: back.get(port[0], port[0]), text)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Stack() as stack, Etcd() as etcd:
        # The reader makes this user.
        stack.primary.query("drop role pgcat_probe")
        reader = Reader(tmp_path, stack, etcd)
        try:
            yield reader
        finally:
            reader.stop()


def test_every_example_does_what_it_says(reader: Reader) -> None:
    own_tests = {"demo", "check", "map"}
    for block in BLOCKS:
        assert block.language, f"README.md:{block.line}: a block says what it is"
        if block.word not in own_tests:
            reader.follow(block)
    reader.stop()


def test_the_demo_prints_its_panel() -> None:
    script, expected = script_of(block_of("demo").text)
    last = vaguely(expected.splitlines()[-1])
    assert script == "make demo"
    recipe = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment()
    ).stdout
    assert recipe.split("\n")[-2].split() == [".venv/bin/pgcat-cluster", "demo"]
    process = subprocess.Popen(
        ["pgcat-cluster", "demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(TMPDIR="/tmp"),
    )
    assert process.stdout is not None
    printed = ""
    try:
        while last not in vaguely(printed):
            line = process.stdout.readline()
            assert line, printed
            printed += line
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert vaguely(printed) == vaguely(expected)
    assert (process.returncode, rest) == (0, "stopped; nothing is left running\n")


def test_the_check_prints_its_findings() -> None:
    script, expected = script_of(block_of("check").text)
    done = subprocess.run(
        [*script.split(), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert agrees(vaguely(done.stdout), vaguely(expected)), done.stdout


def test_the_map_is_that_of_the_house() -> None:
    assert block_of("map").text == house.rooms() + "\n", "put this in its place:\n" + house.rooms()


def test_every_target_exists() -> None:
    said = set(re.findall(r"`make ([\w-]+)", README))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert said - targets == set()


def test_every_file_exists() -> None:
    """But for results, which a run makes."""
    files = re.findall(r"`((?:deploy|tests|proto|pgcat_cluster|\.ci)/[\w./-]*)`", README)
    assert [file for file in files if "/results/" not in file and not (ROOT / file).exists()] == []


def test_the_faults_are_those_a_client_can_be_told() -> None:
    """A class in `errors` that nobody makes yet belongs to what is still to come."""
    made = set()
    for path in house.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                fault = getattr(errors, node.func.id, None)
                if isinstance(fault, type) and issubclass(fault, errors.Fault):
                    made.add((fault.sqlstate, fault.severity == "FATAL"))
    said = {
        (sqlstate, row[2] == "closes")
        for row in re.finditer(r"^\| ([0-9A-Z]{5}(?:, [0-9A-Z]{5})*) \| (closes)? *\|", README, re.MULTILINE)
        for sqlstate in row[1].split(", ")
    }
    assert said == made
