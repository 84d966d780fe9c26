"""`pgcat-cluster config`: exit codes, exact lines, and that no secret is ever printed."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgcat_cluster.agreement.schemas import schemas
from pgcat_cluster.cli.config import config
from pgcat_cluster.cli.explain import explain
from pgcat_cluster.topology.model import build
from pgcat_cluster.topology.reading import parse

DEPLOY = Path(__file__).parents[3] / "deploy"
EXAMPLE = DEPLOY / "pgcat.example.toml"
SHARDED_EXAMPLE = DEPLOY / "sharded.example.toml"
VERIFIER = (
    "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2E=$/MOkWxRkE1K5+q7zFEs4Ee2JNvRFtJSQeKM3Cs8tXCM="
    ":AlgwsxxgVlkv4OCPiHTrW3QvJmwNCyfMBqOKkEDbVbk="
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(config, [str(argument) for argument in arguments])


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example as its reader would set it up."""
    return set_up(EXAMPLE, tmp_path)


def set_up(example: Path, tmp_path: Path) -> Path:
    file = tmp_path / "pgcat.toml"
    file.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "secrets").mkdir()
    for name in ("app", "report", "admin", "probe"):
        secret = tmp_path / "secrets" / f"{name}.secret"
        secret.write_text("hunter2\n", encoding="utf-8")
        secret.chmod(0o600)
    return file


def test_a_valid_file(example: Path) -> None:
    result = run("check", example)
    assert result.output == f"{example}: valid: 2 pools, 3 users, 1 cluster, 3 servers\n"
    assert result.exit_code == 0


def test_a_valid_file_of_sharded_pools(tmp_path: Path) -> None:
    file = set_up(SHARDED_EXAMPLE, tmp_path)
    result = run("check", file)
    assert result.output == f"{file}: valid: 3 pools, 2 users, 4 clusters, 8 servers, 3 shard maps\n"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("database", "statement", "route"),
    [
        ("shop", "select * from orders where customer_id = 7", "shard 7, replica"),
        ("shop", "delete from Customers where id = 7", "shard 7, primary"),
        ("shop", "select * from audit.entries where customer = 7", "shard 7, replica"),
        ("shop", "select * from countries", "shard any, replica"),
        ("countries", "select * from city where country = 'jp'", "shard 1, replica"),
        ("events", "select * from event where at = '2025-12-31 23:59:59Z'", "shard 0, replica"),
        ("events", "/* sharding_key: 2026-01-01 00:00:00+00 */ delete from event", "shard 1, primary"),
    ],
)
def test_the_sharded_pools_do_what_their_comments_say(database: str, statement: str, route: str) -> None:
    asked = ["--config", str(SHARDED_EXAMPLE), "--database", database, statement]
    result = CliRunner().invoke(explain, asked)
    assert result.output.splitlines()[0] == f"Route: {route}"
    assert result.exit_code == 0


def test_shard_maps_are_counted_where_there_are_any(tmp_path: Path) -> None:
    file = tmp_path / "pgcat.toml"
    file.write_text('[shardmaps.m]\nkind = "hash"\nkey.type = "uuid"\nshards = 4\n')
    assert run("check", file).output.endswith("0 clusters, 0 servers, 1 shard map\n")


def test_a_valid_file_as_json(example: Path) -> None:
    result = run("check", "--json", example)
    assert json.loads(result.output) == {"file": str(example), "valid": True, "errors": [], "warnings": []}


def test_an_invalid_file_says_everything_and_exits_78(tmp_path: Path) -> None:
    file = tmp_path / "pgcat.toml"
    file.write_text('[pools.app]\nsizee = 3\nusers = { app = { size = 0 } }\n[users.app]\nauth = "trust"\n')
    result = run("check", file)
    assert result.output == (
        f"{file}: pools.app.sizee: unknown key `sizee`; did you mean `size`?\n"
        f"{file}: pools.app.users.app.size: 0 is not allowed; allowed: a whole number, from 1 to 1000000\n"
        f'{file}: pools.app.cluster: cluster "main" does not exist; there are: none\n'
    )
    assert result.exit_code == 78
    as_json = run("check", "--json", file)
    assert as_json.exit_code == 78
    assert [error["path"] for error in json.loads(as_json.output)["errors"]] == [
        "pools.app.sizee",
        "pools.app.users.app.size",
        "pools.app.cluster",
    ]


def test_a_missing_file(tmp_path: Path) -> None:
    result = run("check", tmp_path / "no.toml")
    assert (result.output, result.exit_code) == (f"{tmp_path / 'no.toml'}: No such file or directory\n", 78)


def test_missing_secrets_and_certificates_are_errors(example: Path) -> None:
    (example.parent / "secrets" / "app.secret").unlink()
    result = run("check", example)
    path = example.parent / "secrets" / "app.secret"
    assert result.output == (
        f'{example}: users.app.secret: "file:app.secret" can not be read: {path}: No such file or directory\n'
    )
    path.write_text("hunter2")
    text = example.read_text(encoding="utf-8")
    example.write_text(text.replace("[node]", '[node]\ntls = { cert = "node.crt", key = "node.key" }'))
    result = run("check", example)
    assert (result.output, result.exit_code) == (
        f"{example}: node.tls: {example.parent / 'node.crt'}: No such file or directory\n",
        78,
    )


def test_a_secret_that_everybody_may_read_is_a_warning(example: Path) -> None:
    secret = example.parent / "secrets" / "app.secret"
    secret.chmod(0o644)
    result = run("check", example)
    assert result.exit_code == 0
    assert f"{example}: warning: {secret} can be read by every user of this machine" in result.output


def test_show_gives_the_settings_in_force_as_toml_that_reads_the_same(example: Path) -> None:
    result = run("show", example)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "pools.sales.users.report.size = 5" in lines
    assert 'pools.sales.users.app.checkout_timeout = "15s"' in lines
    assert "clusters.main.min_healthy = 2" in lines
    assert 'users.report.server_user = "Report Reader"' in lines
    shown = build(parse(result.output, "shown"), lambda reference: "x")
    original = build(parse(example.read_text(encoding="utf-8"), "original"), lambda reference: "x")
    assert (shown.pools, shown.clusters, shown.users, shown.fleet) == (
        original.pools,
        original.clusters,
        original.users,
        original.fleet,
    )
    assert json.loads(run("show", "--json", example).output) == tomllib.loads(result.output)


def test_show_hides_verifiers(tmp_path: Path) -> None:
    file = tmp_path / "pgcat.toml"
    file.write_text(
        f'users.app.verifier = "{VERIFIER}"\n'
        'users.old = { auth = "md5", verifier = "md5d41d8cd98f00b204e9800998ecf8427e" }\n'
    )
    result = run("show", file)
    assert [line for line in result.output.splitlines() if "verifier" in line] == [
        'users.app.verifier = "SCRAM-SHA-256$(hidden)"',
        'users.old.verifier = "(hidden)"',
    ]
    assert "c2FsdH" not in result.output + run("show", "--json", file).output


def test_show_refuses_an_invalid_file(tmp_path: Path) -> None:
    file = tmp_path / "pgcat.toml"
    file.write_text("x = 1")
    result = run("show", file)
    assert (
        result.output
        == f"{file}: x: unknown key `x`; allowed: node, fleet, clusters, pools, shardmaps, users\n"
    )
    assert result.exit_code == 78


def test_schema_prints_and_writes(tmp_path: Path) -> None:
    assert json.loads(run("schema").output) == schemas()
    assert json.loads(run("schema", "pool").output) == schemas()["pool"]
    assert run("schema", "--write", tmp_path).exit_code == 0
    assert {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()
    } == schemas()
