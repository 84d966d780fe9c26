"""The image builds, and the stack of docker-compose.yml pools and splits; skipped where no engine answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from pgcat_cluster.demo.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
COMPOSES = (("docker", "compose"), ("docker-compose",))
PROJECT = "pgcat-cluster-test"
BUILD_S = 900


def _answers(command: Sequence[str]) -> tuple[bool, str]:
    """Whether a command works here; if not, its own last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return False, f"{command[0]}: {error.strerror}"
    words = (done.stderr or done.stdout).strip().splitlines()
    return done.returncode == 0, words[-1] if words else f"exit code {done.returncode}"


@pytest.fixture(scope="module")
def compose() -> Sequence[str]:
    """The command that runs compose, if an engine answers."""
    answers, why = _answers(["docker", "version"])
    if not answers:
        pytest.skip(why)
    reasons = []
    for command in COMPOSES:
        answers, why = _answers([*command, "version"])
        if answers:
            return [*command, "--project-name", PROJECT]
        reasons.append(why)
    pytest.skip("; ".join(reasons))


@pytest.fixture(scope="module")
def stack(compose: Sequence[str]) -> Iterator[Sequence[str]]:
    """The stack, built and running; gone with its volumes afterwards."""
    try:
        subprocess.run([*compose, "up", "--build", "--detach"], cwd=ROOT, timeout=BUILD_S, check=True)
        yield compose
    finally:
        subprocess.run([*compose, "down", "--volumes", "--timeout", "5"], cwd=ROOT, timeout=120, check=True)


def _answer(user: str, database: str, query: str) -> object:
    passwords = {"test": os.environ.get("TEST_PASSWORD", "test"), "admin": "admin"}
    with psycopg.connect(
        host="127.0.0.1", port=6432, user=user, password=passwords[user], dbname=database, autocommit=True
    ) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def _is_replica() -> bool:
    try:
        return _answer("test", "test", "select pg_is_in_recovery()") is True
    except psycopg.OperationalError:
        return False


@pytest.mark.timeout(BUILD_S + 300)
def test_reads_reach_a_replica_and_writes_the_primary(stack: Sequence[str]) -> None:
    wait_until(_is_replica, within_s=120.0, what="a replica answers through the node")
    with psycopg.connect(
        "postgresql://test@127.0.0.1:6432/test", password=os.environ.get("TEST_PASSWORD", "test")
    ) as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (False,)
    assert "pgcat_cluster" in str(_answer("admin", "pgbouncer", "show version"))
