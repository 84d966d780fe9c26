"""`pgcat-cluster explain`: what it says by a file alone, exit codes, standard input, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgcat_cluster.cli import main

FILE = """
[node]
statement_bytes_max = "2KiB"
[clusters.main]
leadership = { source = "static", primary = "p1" }
servers = { p1 = { host = "p1" }, r1 = { host = "r1", weight = 50 } }
[clusters.other]
servers = { o1 = { host = "o1" } }
[pools.app.users.app]
[pools.app.users.report]
parameters = { "pgcat.server_role" = "replica" }
[pools.observed]
cluster = "other"
users = { app = {} }
[users.app]
secret = "file:never-read.secret"
[users.report]
auth = "trust"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(FILE, encoding="utf-8")
    return file


def run(file: Path, *arguments: str, database: str = "app", input: str | None = None) -> Result:
    options = ["explain", "--config", str(file), "--database", database, *arguments]
    return CliRunner().invoke(main, options, input=input)


def test_a_read(file: Path) -> None:
    result = run(file, "SELECT * FROM t  WHERE id = 7")
    assert result.output == (
        "Route: shard 0, replica\n"
        "  Shard: 0 (the pool has one shard)\n"
        "  Role: replica (reads)\n"
        '  Server: main/p1 refused: the primary, which takes reads "when_no_replica"\n'
        "  Server: main/r1 eligible, weight 50\n"
        "  Shape: select * from t where id = <integer>\n"
        "  Flow: no node was asked\n"
    )
    assert result.exit_code == 0


def test_servers_that_only_probes_could_tell_apart(file: Path) -> None:
    result = run(file, "delete from t", database="observed")
    assert "  Role: primary (writes: delete)\n  Server: other/o1 weight 100, not asked\n" in result.output


def test_the_wishes_of_a_user_and_of_a_session(file: Path) -> None:
    assert (
        "Role: replica (the session's server_role)" in run(file, "--user", "report", "delete from t").output
    )
    said = run(file, "--set", "pgcat.server_role=primary", "select 1").output
    assert "Role: primary (the session's server_role)" in said
    said = run(file, "--set", "pgcat.shard=0", "--set", "pgcat.primary_reads=on", "select 1").output
    assert "Route: shard 0, any\n" in said


def test_a_statement_from_standard_input(file: Path) -> None:
    assert "Shape: update t set n = <integer>\n" in run(file, "-", input="\nupdate t\nset n = 1\n").output


@pytest.mark.parametrize(
    ("statement", "doubt"),
    [
        ("select 1 from from", "it does not parse"),
        ("select 'x", "constants or comments that do not end, or end in doubt"),
        ("select " + "x" * 3000, "longer than statement_bytes_max, 2048"),
    ],
)
def test_doubt(file: Path, statement: str, doubt: str) -> None:
    lines = run(file, statement).output.splitlines()
    assert lines[0] == "Route: shard 0, primary"
    assert lines[-1] == (
        f"  Doubt: {doubt}; what is not understood goes to the primary, and its server link is reset afterwards"
    )


def test_what_the_node_answers(file: Path) -> None:
    assert run(file, "show shard").output.startswith("Route: none, it is answered by the node\n")


def test_a_refusal_as_lines_and_as_json(file: Path) -> None:
    result = run(file, "begin; set shard to 1")
    assert result.output.startswith("Route: none, it is refused: SET SHARD must stand alone")
    assert result.exit_code == 1
    result = run(file, "--json", "begin; set shard to 1")
    assert json.loads(result.output)["refusal"].startswith("SET SHARD must stand alone")
    assert result.exit_code == 1


def test_json(file: Path) -> None:
    found = json.loads(run(file, "--json", "insert into t values (1, 'x'), (2, 'y')").output)
    assert found == {
        "statement": "insert into t values (1, 'x'), (2, 'y')",
        "refusal": "",
        "answered": "",
        "shard": {"value": "0", "reason": "the pool has one shard"},
        "role": {"value": "primary", "reason": "writes: insert"},
        "candidates": [
            {"shard": 0, "server": "main/p1", "weight": 100, "is_eligible": True, "reason": ""},
            {"shard": 0, "server": "main/r1", "weight": 50, "is_eligible": False, "reason": "a replica"},
        ],
        "shape": "insert into t values (<integer>, <text>)<more>",
        "flow": "no node was asked",
        "needs_constants": False,
        "doubt": "",
        "notes": [],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--user", "nobody", "select 1"), 'database "app" has no user "nobody"; there are: app, report'),
        ((" ",), "there is no statement"),
        (("--set", "shard=1", "select 1"), "--set takes NAME=VALUE with a name such as pgcat.shard"),
        (("--set", "pgcat.shard=1", "select 1"), "--set: shard 1 is not configured 1"),
        (("--set", "pgcat.shrd=1", "select 1"), '--set: unrecognized configuration parameter "pgcat.shrd"'),
    ],
)
def test_wrong_use(file: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(file, *arguments)
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_an_unknown_database_and_a_wrong_file(file: Path, tmp_path: Path) -> None:
    result = run(file, "select 1", database="apps")
    assert 'there is no pool of database "apps"; there are: app, observed' in result.output
    assert result.exit_code == 2
    file.write_text(FILE.replace("weight", "wait"))
    result = run(file, "select 1")
    assert (result.exit_code, "clusters.main.servers.r1.wait: unknown key" in result.output) == (78, True)
