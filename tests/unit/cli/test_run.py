"""`pgcat-cluster run`: what options and a file make of the way to a fleet's store."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pgcat_cluster import fleet_node
from pgcat_cluster.cli.run import run
from pgcat_cluster.topology.settings import Local

IN_FLEET = ("--fleet", "eu", "--node", "n1")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Local]:
    """The nodes that would run."""
    locals_: list[Local] = []

    def run_node(local: Local, _directory: Path) -> int:
        locals_.append(local)
        return 0

    monkeypatch.setattr(fleet_node, "run", run_node)
    return locals_


def test_options_say_how_etcd_is_reached(started: list[Local]) -> None:
    words = ["--etcd", "https://a:2379,https://b:2379", "--etcd-ca", "ca.pem", "--etcd-cert", "c.pem"]
    words += ["--etcd-key", "k.pem", "--etcd-user", "node", "--etcd-secret", "file:etcd.secret"]
    assert CliRunner().invoke(run, [*words, *IN_FLEET]).exit_code == 0
    (local,) = started
    store = local.store
    assert store.endpoints == ["https://a:2379", "https://b:2379"]
    assert (store.ca, store.cert, store.key) == ("ca.pem", "c.pem", "k.pem")
    assert (store.user, store.secret) == ("node", "file:etcd.secret")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--etcd", "https://a:1,b:1"],
            "store.endpoints: are https:// in part; all members speak TLS, or none",
        ),
        (["--etcd", "http://a:1"], "store.endpoints"),
        (["--etcd", "a:1", "--etcd-user", "node"], "store.secret: is missing; it belongs to user"),
        (["--etcd", "a:1", "--etcd-cert", "c", "--etcd-key", "k"], "store.ca: is missing"),
        (["--etcd", "a:1", "--etcd-user", "n", "--etcd-secret", "pass"], "store.secret"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    started: list[Local], words: list[str], said: str
) -> None:
    answer = CliRunner().invoke(run, [*words, *IN_FLEET])
    assert (answer.exit_code, started) == (78, [])
    assert said in answer.output
    assert "pass" not in answer.output.replace("password", "")


def test_files_that_are_no_certificates_are_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.pem").write_text("junk")
    words = ["--etcd", "a:1", "--etcd-ca", str(tmp_path / "ca.pem"), *IN_FLEET]
    assert CliRunner().invoke(run, words).exit_code == 78
    missing = ["--etcd", "a:1", "--etcd-ca", str(tmp_path / "none.pem"), *IN_FLEET]
    assert CliRunner().invoke(run, missing).exit_code == 78
