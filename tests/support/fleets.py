"""Nodes of one fleet as processes, in front of shared servers, with an etcd of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pgcat_cluster.demo.etcd import Etcd
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.stack import Stack
from tests.support.nodes import PATIENT_HEALTH, eventually, status

_NODE = """\
[node]
name = "{name}"
listen = ["$listen"]
http = "$http"
secrets_dir = "$secrets"
admin_users = ["admin"]

[store]
endpoints = [{endpoints}]
fleet = "test"
zone = "{zone}"
host = "{name}"
state_dir = "state"
peer = "{peer}"
peer_key = "{peer_key}"
allow_bad_version = true
{store}
"""

_ROOT = "/pgcat/test/"
_OPERATIONS_MAX = 120  # of etcd's 128
# On a busy machine a server is late, and not ill: what refuses is found all the same.
PATIENT = PATIENT_HEALTH.replace("[fleet.health]", "[health]")
SHORT_BANS = '[bans]\nmin = "2s"\nramp = "1s"\n'


class Fleet:
    """An etcd with the documents of one fleet, and its nodes; operators use etcdctl."""

    def __init__(self, etcd: Etcd, stack: Stack) -> None:
        self.etcd = etcd
        self.stack = stack
        self.nodes: list[Node] = []
        self.etcdctl = _etcdctl(etcd.binary.path)
        self.store = ""  # more lines of each node's [store]
        self.peer_key = stack.folder / "peer.key"
        self.peer_key.write_text("a key that is long enough for all of them\n")

    @property
    def endpoints(self) -> list[str]:
        """Where operators find the store."""
        return self.etcd.endpoints

    def ctl(self, *words: str, typed: str = "") -> str:
        """What etcdctl says; `typed` is what it reads. Bytes that are no UTF-8 are surrogates."""
        command = [self.etcdctl, f"--endpoints={','.join(self.endpoints)}", *words]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        options: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "check": True}
        return subprocess.run(command, env=environment, input=typed, capture_output=True, **options).stdout

    def operate(self, *words: str) -> str:
        """What `pgcat-cluster fleet` prints."""
        place = {"PGCAT_ETCD": ",".join(self.endpoints), "PGCAT_FLEET": "test"}
        command = [sys.executable, "-m", "pgcat_cluster", "fleet", *words]
        environment = {**os.environ, **place}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def put(self, key: str, value: str) -> None:
        self.ctl("put", _ROOT + key, "--", value)

    def delete(self, key: str) -> None:
        self.ctl("del", _ROOT + key)

    def edit(self, documents: Mapping[str, str | None]) -> None:
        """Many documents at once: None deletes one. As few transactions as etcd allows."""
        lines = [
            f"del {_ROOT}config/{name}" if text is None else f"put {_ROOT}config/{name} -- {json.dumps(text)}"
            for name, text in documents.items()
        ]
        for start in range(0, len(lines), _OPERATIONS_MAX):
            # etcdctl reads what is compared, what is done then, and what is done otherwise.
            typed = "\n" + "\n".join(lines[start : start + _OPERATIONS_MAX]) + "\n\n\n"
            self.ctl("txn", typed=typed)

    def runs(self, documents: Mapping[str, str | None]) -> bool:
        """Whether every node goes by these documents, and by none that is None."""
        accepted: list[Any] = self.values("decided/accepted")
        docs = accepted[0]["docs"] if accepted else {}
        return all(
            docs.get(name) == (None if text is None else sha256(text.encode()).hexdigest())
            for name, text in documents.items()
        ) and [ack.get("active") for ack in self.values("ack/")] == [{"gen": accepted[0]["gen"]}] * len(
            self.nodes
        )

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix, without the fleet's root."""
        found = self.ctl("get", "--prefix", "--keys-only", _ROOT + prefix).split()
        return [key.removeprefix(_ROOT) for key in found]

    def values(self, prefix: str) -> list[Any]:
        """What nodes wrote below a prefix."""
        text = self.ctl("get", "--prefix", "--print-value-only", _ROOT + prefix)
        return [json.loads(line) for line in text.splitlines() if line]

    def revision(self) -> int:
        """How far the store has come."""
        return int(json.loads(self.ctl("get", "--write-out=json", "/"))["header"]["revision"])

    def load(self, *, fleet: str = PATIENT + SHORT_BANS, cluster: str = "", pool: str = "") -> None:
        """The first documents: one cluster, one pool, two users."""
        places = {server.name: self.place_of(server) for server in self.stack.servers}
        servers = "\n".join(f'{name} = {{ host = "{at[0]}", port = {at[1]} }}' for name, at in places.items())
        probe = '{ user = "pgcat_probe", secret = "file:probe.secret", database = "postgres" }'
        self.put("config/fleet", fleet)
        self.put("config/clusters/main", f"{cluster}\nprobe = {probe}\n[servers]\n{servers}\n")
        self.put("config/users/test", 'secret = "file:test.secret"')
        self.put("config/users/admin", 'secret = "file:admin.secret"')
        self.put("config/pools/test", f"users = {{ test = {{}} }}\n{pool}")

    def add(self, count: int) -> Sequence[Node]:
        """So many more nodes, each with a host of its own, ready to serve."""
        for node in self.launch(count):
            node.wait_ready()
        return self.nodes

    def launch(self, count: int) -> Sequence[Node]:
        """The same without waiting; only the new ones."""
        added = []
        for number in range(len(self.nodes) + 1, len(self.nodes) + count + 1):
            name = name_of(number)
            config = _NODE.format(
                name=name,
                zone=self.zone_of(number),
                endpoints=", ".join(f'"{endpoint}"' for endpoint in self.endpoints_of(name)),
                peer=f"127.0.0.1:{free_port()}",
                peer_key=self.peer_key,
                store=self.store,
            )
            added.append(self.stack.launch_node(config=config))
        self.nodes += added
        return added

    # What is different in a fleet whose connections can be cut.

    def zone_of(self, number: int) -> str:
        """The zone of the n-th node: one of its own."""
        return f"z{number}"

    def endpoints_of(self, _name: str) -> list[str]:
        """Where a node finds the store."""
        return self.etcd.endpoints

    def place_of(self, server: Postgres) -> tuple[str, int]:
        """Where nodes find a server."""
        return server.host, server.port


def name_of(number: int) -> str:
    """What the n-th node is called in its fleet."""
    return f"px-{number}"


def size(node: Node) -> int:
    """How large the pool is by the node's own word."""
    (database,) = [one for one in status(node)["databases"] if one["name"] == "test"]
    return int(database["size"])


def _etcdctl(etcd: Path) -> str:
    beside = etcd.with_name("etcdctl")
    found = str(beside) if beside.exists() else shutil.which("etcdctl")
    assert found is not None, "etcdctl is neither beside etcd nor on PATH"
    return found


FleetMaker = Callable[..., Fleet]


@pytest.fixture
def make_fleet(pg_stack: Stack) -> Iterator[FleetMaker]:
    """`make_fleet(nodes=3)`: nodes that serve; `make_fleet(stack=…)` takes servers of the test's own."""
    with ExitStack() as closing:

        def make(*, nodes: int = 3, stack: Stack | None = None, **documents: str) -> Fleet:
            fleet = Fleet(closing.enter_context(Etcd()), stack or pg_stack)
            fleet.load(**documents)
            for node in fleet.add(nodes):
                closing.callback(node.stop)
            eventually(lambda: len(fleet.values("live/")) == nodes, "all are there")
            return fleet

        yield make
