"""A configuration file with what it names: paths begin at the file, certificates are tried."""

from pathlib import Path

import pytest
import trustme

from pgcat_cluster.net.config_file import load, tls_contexts
from pgcat_cluster.topology.model import build
from pgcat_cluster.topology.reading import InvalidSettings, parse
from pgcat_cluster.topology.secrets import Secret

TEXT = """
[node]
secrets_dir = "secrets"
tls = { cert = "node.pem", key = "node.pem", client_ca = "ca.pem" }
[clusters.main]
servers = { r1 = { host = "127.0.0.1" } }
tls = { mode = "verify-full", ca = "ca.pem" }
[users.app]
secret = "file:app.secret"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "app.secret").write_text("hunter2\n")
    (tmp_path / "pgcat.toml").write_text(TEXT)
    return tmp_path / "pgcat.toml"


def test_paths_begin_at_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent.parent)
    topology = load(Path(file.parent.name) / file.name)
    assert topology.users["app"].password == Secret("hunter2")
    assert topology.clusters["main"].tls.ca == str(file.parent / "ca.pem")
    assert topology.node.tls.cert == str(file.parent / "node.pem")
    monkeypatch.chdir("/")
    contexts = tls_contexts(topology)
    assert contexts.incoming.mode == "prefer"
    assert contexts.outgoing["main"].mode == "verify-full"


def test_clusters_that_say_the_same_about_tls_share_a_context() -> None:
    """A fleet may have hundreds of them."""
    clusters = "".join(
        f'[clusters.{name}]\ntls = {{ mode = "{mode}" }}\nservers = {{ r1 = {{ host = "{name}" }} }}\n'
        for name, mode in (("a", "prefer"), ("b", "prefer"), ("c", "disable"))
    )
    outgoing = tls_contexts(build(parse(clusters, "test"))).outgoing
    assert outgoing["a"] is outgoing["b"]
    assert outgoing["c"] is not outgoing["a"]


def test_every_unusable_tls_file_is_named(file: Path) -> None:
    (file.parent / "ca.pem").write_text("nonsense")
    with pytest.raises(InvalidSettings) as caught:
        load(file)
    assert [problem.path for problem in caught.value.problems] == ["clusters.main.tls", "node.tls"]
    assert all(str(file.parent / "ca.pem") in problem.message for problem in caught.value.problems)


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(tmp_path)
    assert list(caught.value.lines()) == [f"{tmp_path}: Is a directory"]
