"""The demo as a person and a program meet it: one command, an honest check, nothing left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgcat_cluster.demo.binaries import find_binaries
from pgcat_cluster.demo.processes import wait_until

COMMAND = [sys.executable, "-m", "pgcat_cluster", "demo"]
PATIENCE_S = 120


def run_demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
        check=False,
    )


class RunningDemo:
    """A demo that was started with --json and has said what it is."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.description: dict[str, Any] = json.loads(line)

    def pids(self) -> list[int]:
        what = self.description
        members = what["fleet"]["etcd"] if what["fleet"] else []
        return [each["pid"] for each in (*what["nodes"], *what["servers"], *members)]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder that PostgreSQL's own user can walk to, with a path short enough for sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pgd-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def pool_size(node: dict[str, Any]) -> float:
    """Of the pool `test`, by the node's own metrics; 0 while it has none."""
    try:
        with urllib.request.urlopen(node["metrics"]) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    return sum(float(line.split()[-1]) for line in lines if line.startswith("pgcat_cluster_pool_size_links{"))


def shell(line: str) -> str:
    """What a line prints that was copied into a shell; it must succeed."""
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_everything_answers_and_nothing_is_left_behind(folder: Path, number: signal.Signals) -> None:
    demo = RunningDemo(folder)
    try:
        what = demo.description
        passwords = what["passwords"]
        with psycopg.connect(what["url"]) as connection:
            assert connection.execute("select current_user, current_database()").fetchone() == (
                "test",
                "test",
            )
        primary, *replicas = what["servers"]
        for server, user in ((primary, "postgres"), (replicas[0], "replicator")):
            with psycopg.connect(
                host=server["host"],
                port=server["port"],
                user=user,
                password=passwords[user],
                dbname="postgres",
            ) as connection:
                answer = connection.execute("select current_user, pg_is_in_recovery()").fetchone()
                assert answer == (user, server is not primary)
        assert [server["role"] for server in what["servers"]] == ["primary", "replica", "replica"]
        assert [(node["name"], node["zone"]) for node in what["nodes"]] == [
            ("n1", "a"),
            ("n2", "b"),
            ("n3", "c"),
        ]
        for node in what["nodes"]:
            with psycopg.connect(what["url"], port=node["port"]) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
    finally:
        demo.end(number)
    pids = demo.pids()
    wait_until(lambda: not any(map(is_alive, pids)), within_s=PATIENCE_S, what="all processes have ended")
    wait_until(lambda: not list(folder.iterdir()), within_s=PATIENCE_S, what="the folder is gone")


@pytest.mark.once
def test_the_printed_line_works_when_copied(folder: Path) -> None:
    demo = RunningDemo(folder, "--replicas", "0", "--no-etcd")
    try:
        assert demo.description["fleet"] is None
        assert shell(f"{demo.description['psql']} -Atc 'select 6 * 7'") == "42\n"
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.once
def test_the_printed_lines_edit_the_fleet(folder: Path) -> None:
    demo = RunningDemo(folder, "--replicas", "1", "--etcd-members", "3")
    try:
        nodes, fleet = demo.description["nodes"], demo.description["fleet"]
        assert [member["name"] for member in fleet["etcd"]] == ["e1", "e2", "e3"]
        assert [pool_size(node) for node in nodes] == [20, 20, 20]
        shell(fleet["edit"])
        wait_until(
            lambda: [pool_size(node) for node in nodes] == [40, 40, 40],
            within_s=PATIENCE_S,
            what="all nodes have the larger pool",
        )
        said = json.loads(shell(f"{fleet['status']} --json"))
        names = [node["node"].split(".")[0] for node in said["nodes"]]
        assert (said["accepted"]["gen"], names) == (2, ["n1", "n2", "n3"])
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.once
def test_shards_are_primaries_with_their_part_of_a_table(folder: Path) -> None:
    demo = RunningDemo(folder, "--shards", "2", "--replicas", "0", "--nodes", "1")
    try:
        what = demo.description
        assert [(server["name"], server["role"]) for server in what["servers"]] == [
            ("s0p1", "primary"),
            ("s1p1", "primary"),
        ]
        partitions = [
            psycopg.connect(
                host=server["host"],
                port=server["port"],
                user="test",
                password=what["passwords"]["test"],
                dbname="test",
            )
            .execute("select inhrelid::regclass::text from pg_inherits where inhparent = 'data'::regclass")
            .fetchall()
            for server in what["servers"]
        ]
        assert partitions == [[("data_0",)], [("data_1",)]]
        shell(what["fleet"]["edit"])
        wait_until(lambda: pool_size(what["nodes"][0]) > 20, within_s=PATIENCE_S, what="the pool is larger")
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.once
def test_a_cancel_finds_the_node_it_is_for(folder: Path) -> None:
    """It comes by a connection of its own, which the kernel hands to any node."""
    demo = RunningDemo(folder, "--replicas", "0")
    try:
        what = demo.description
        password, server = what["passwords"]["postgres"], what["servers"][0]
        place = {"host": server["host"], "port": server["port"], "user": "postgres", "password": password}
        running = (
            "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'"
        )
        with psycopg.connect(**place, autocommit=True) as primary:
            for _ in range(8):
                with psycopg.connect(what["url"]) as client:
                    client.pgconn.send_query(b"select pg_sleep(600)")
                    wait_until(
                        lambda: primary.execute(running).fetchone() == (1,),
                        within_s=PATIENCE_S,
                        what="it runs",
                    )
                    client.pgconn.get_cancel().cancel()
                    assert select.select([client], [], [], PATIENCE_S)[0], "it is not canceled"
                    result = client.pgconn.get_result()
                    assert result is not None
                    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
                    assert client.pgconn.get_result() is None
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.once
def test_what_is_killed_comes_back(folder: Path) -> None:
    demo = RunningDemo(folder, "--replicas", "0", "--nodes", "2")
    try:
        first, second = demo.description["nodes"]
        os.kill(first["pid"], signal.SIGKILL)
        wait_until(lambda: pool_size(first) == 0, within_s=PATIENCE_S, what="it is gone")
        with psycopg.connect(demo.description["url"]) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        wait_until(lambda: pool_size(first) == 20, within_s=PATIENCE_S, what="it is back")
        assert is_alive(second["pid"])
    finally:
        demo.end(signal.SIGTERM)
    assert list(folder.iterdir()) == []


def test_check_proves_the_split_and_that_all_nodes_serve() -> None:
    done = run_demo("--check", "--port", "0", "--json")
    assert (done.returncode, json.loads(done.stdout)["holds"]) == (0, True), done.stdout + done.stderr
    served = json.loads(done.stdout)["findings"][-1]
    assert served["claim"] == "every node served"
    assert [part.split()[0] for part in served["numbers"].split(", ")] == ["n1", "n2", "n3"]


@pytest.mark.once
def test_check_tells_a_person() -> None:
    done = run_demo("--check", "--port", "0", "--replicas", "1", "--no-etcd")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "the split works"


@pytest.mark.once
def test_passwords_can_be_given(folder: Path) -> None:
    demo = RunningDemo(
        folder, "--replicas", "0", "--no-etcd", "--password", "it's", "--password", "postgres=su per"
    )
    try:
        what = demo.description
        assert (what["passwords"]["test"], what["passwords"]["postgres"]) == ("it's", "su per")
        with psycopg.connect(what["url"]) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.once
def test_data_stays_in_a_folder_of_ones_own(folder: Path) -> None:
    own = folder / "own"
    for expected in ([], [(1,)]):
        demo = RunningDemo(folder, "--replicas", "1", "--data-dir", str(own))
        try:
            with psycopg.connect(demo.description["url"], autocommit=True) as connection:
                connection.execute("create table if not exists kept as select 1 as n where false")
                # Inside a read-write transaction: asked where it was written.
                with connection.transaction():
                    assert connection.execute("select n from kept").fetchall() == expected
                    connection.execute("insert into kept values (1)")
        finally:
            demo.end(signal.SIGTERM)
        assert not any(map(is_alive, demo.pids()))


@pytest.mark.once
@pytest.mark.parametrize("sign", ["p1/PG_VERSION", "e1.log", "n2.log"])
def test_stopped_half_way_it_leaves_nothing(folder: Path, sign: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    wait_until(lambda: bool(list(folder.glob(f"*/{sign}"))), within_s=PATIENCE_S, what=f"there is {sign}")
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE_S)
    assert said.splitlines()[-1] == "stopped; nothing is left running"
    assert list(folder.iterdir()) == []


@pytest.mark.once
def test_a_taken_port_is_one_line_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run_demo("--port", str(port))
    assert done.returncode == 1
    expected = f"Error: port {port}: Address already in use; choose another one with --port\n"
    assert (done.stdout, done.stderr) == ("", expected)


@pytest.mark.once
def test_a_missing_binary_is_one_line_with_the_remedy(folder: Path) -> None:
    done = run_demo("--port", "0", PGCAT_PG_BIN=str(folder))
    missing = "initdb, postgres, pg_basebackup, pg_ctl"
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"Error: PGCAT_PG_BIN: {folder} lacks {missing}\n",
    )


@pytest.mark.once
def test_a_start_that_fails_half_way_leaves_nothing(folder: Path) -> None:
    """This etcd says its version, and ends when it is started."""
    etcd = folder / "etcd"
    etcd.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "etcd Version: 3.5.1" || { echo "fatal: no"; exit 1; }\n'
    )
    etcd.chmod(0o755)
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o755)
    done = run_demo("--port", "0", "--replicas", "0", TMPDIR=str(temporary), PGCAT_ETCD_BIN=str(etcd))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: etcd e1 did not start: fatal: no"
    assert list(temporary.iterdir()) == []


@pytest.mark.once
def test_a_missing_etcd_is_one_line_before_anything_is_started(folder: Path) -> None:
    done = run_demo("--port", "0", PGCAT_ETCD_BIN=str(folder / "etcd"))
    expected = f"Error: PGCAT_ETCD_BIN: {folder}/etcd is not an etcd program: "
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(expected)


@pytest.mark.once
def test_several_nodes_need_etcd() -> None:
    done = run_demo("--no-etcd", "--nodes", "2")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: --no-etcd is for one node: several agree through etcd"
    done = run_demo("--check", "--shards", "2")
    assert "leave out --shards" in done.stderr


@pytest.mark.once
def test_a_folder_with_other_things_is_refused(folder: Path) -> None:
    (folder / "letter.txt").write_text("dear reader")
    done = run_demo("--port", "0", "--data-dir", str(folder))
    expected = f"Error: --data-dir {folder} holds something else; name a new or an empty folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
    assert [entry.name for entry in folder.iterdir()] == ["letter.txt"]


@pytest.mark.once
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide programs from PostgreSQL's user")
def test_programs_out_of_reach_are_copied(folder: Path) -> None:
    """As with a virtual environment inside root's own home."""
    found = find_binaries().folder.resolve()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    link = closed / "bin"
    link.mkdir()
    for program in found.iterdir():
        (link / program.name).symlink_to(program)
    done = run_demo("--port", "0", "--replicas", "0", "--no-etcd", "--check", PGCAT_PG_BIN=str(link))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PGCAT_PG_BIN, copied" in done.stderr
