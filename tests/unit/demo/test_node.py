"""Configurations that are written for a person: the demo's and the compose file's are valid."""

from __future__ import annotations

import tomllib
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import cast

import pytest

from pgcat_cluster.agreement.bundles import documents_of, judge
from pgcat_cluster.demo.binaries import Binaries
from pgcat_cluster.demo.cluster import Cluster
from pgcat_cluster.demo.documents import documents
from pgcat_cluster.demo.fleet import NODE, USERS
from pgcat_cluster.demo.node import CONFIG
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import Account, Household
from pgcat_cluster.net.config_file import load, read_local

ROOT = Path(__file__).resolve().parents[3]


def test_the_configuration_of_the_demo(tmp_path: Path) -> None:
    for name in ("test", "admin", "probe"):
        (tmp_path / f"{name}.secret").touch(mode=0o600)
        (tmp_path / f"{name}.secret").write_text("secret")
    servers = 'p1 = { host = "127.0.0.1", port = 5001 }\nr1 = { host = "127.0.0.1", port = 5002 }'
    file = tmp_path / "node.toml"
    file.write_text(
        Template(CONFIG).substitute(
            listen="127.0.0.1:6432", http="127.0.0.1:9930", secrets=tmp_path, servers=servers
        )
    )
    warnings: list[str] = []
    load(file, warnings.append)
    assert warnings == []


@pytest.mark.parametrize("shards", [1, 4])
def test_the_documents_and_the_node_of_a_fleet(tmp_path: Path, shards: int) -> None:
    household = cast(Household, SimpleNamespace(folder=tmp_path))
    account = cast(Account, None)
    binaries = cast(Binaries, None)

    def server(name: str) -> Postgres:
        return Postgres(name, household=household, binaries=binaries, account=account, passwords={})

    clusters = [
        Cluster(
            f"s{number}",
            server("p1"),
            [server("r1")],
            settings={},
            roles=(),
            statements=(),
            report=lambda step: None,
        )
        for number in range(shards)
    ]
    text = USERS + documents(clusters, finds_primary=False)
    assert judge(documents_of(tomllib.loads(text))).wrong == ()
    file = tmp_path / "node.toml"
    template = NODE.format(
        shared="127.0.0.1:6432",
        endpoints='["127.0.0.1:2379"]',
        fleet="demo",
        zone="a",
        peer="127.0.0.1:6434",
        peer_key="fleet.key",
    )
    places = {"listen": "127.0.0.1:6433", "http": "127.0.0.1:9930", "secrets": tmp_path}
    file.write_text(Template(template).substitute(name="n1", **places))
    local = read_local(file, {})
    assert local.node.listen == ["127.0.0.1:6433", "127.0.0.1:6432"]
    assert (local.store.host, local.store.zone, local.store.fleet) == ("n1", "a", "demo")


def test_the_configuration_of_the_compose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEST_PASSWORD", "ADMIN_PASSWORD", "PROBE_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    warnings: list[str] = []
    load(ROOT / "deploy/compose/node.toml", warnings.append)
    assert warnings == []
