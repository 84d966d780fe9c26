"""A fleet in front of a stack's servers: an etcd, and nodes that agree through it and share one port."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import string
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from pgcat_cluster.demo.documents import documents
from pgcat_cluster.demo.etcd import Etcd, find_etcd
from pgcat_cluster.demo.node import COMMAND, Node, command_environment
from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.processes import DemoFault, Started, wait_until
from pgcat_cluster.demo.stack import Stack

NAME = "demo"
NODES_MAX = 16
_ACCEPTED_S = 60
_DRAIN_S = 5.0
_KEY_BYTES = 48

# What a node must know before it can read etcd. One zone for each, so that two of three can ban.
NODE = """\
[node]
name = "$name"
listen = ["$listen", "{shared}"]
reuse_port = true
http = "$http"
secrets_dir = "$secrets"
admin_users = ["admin"]

[store]
endpoints = {endpoints}
fleet = "{fleet}"
zone = "{zone}"
host = "$name"
peer = "{peer}"
peer_key = "{peer_key}"
state_dir = "state"
allow_bad_version = true
"""

USERS = """\
# The fleet's documents. Edit, then `pgcat-cluster fleet apply` this file again.
[users.test]
secret = "file:test.secret"

[users.admin]
secret = "file:admin.secret"

"""


class Fleet(Started):
    """etcd and nodes, as a context manager; what they stand in front of must have started.

    Nodes stop while etcd still answers, so that they leave as they should; its data goes with it.
    """

    etcd: Etcd

    def __init__(
        self,
        stack: Stack,
        *,
        nodes: int,
        members: int,
        port: int,
        report: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.port = port or free_port()
        self._stack = stack
        self._zones = string.ascii_lowercase[:nodes]
        self._members = members
        self._report = report
        self._binary = find_etcd()

    @property
    def documents(self) -> Path:
        """The file that was applied."""
        return self._stack.folder / "documents.toml"

    def zone_of(self, node: Node) -> str:
        return self._zones[self._stack.nodes.index(node)]

    def command(self, *words: str) -> str:
        """`pgcat-cluster fleet …` as a line to copy into a shell."""
        return shlex.join([*_own_program(), "fleet", *words, *self._place()])

    def edit_line(self) -> str:
        """What makes the pool twice as large, by etcd's own client; a line to copy."""
        pool = tomllib.loads(self.documents.read_text())["pools"]["test"] | {"size": 40}
        endpoints = f"--endpoints={','.join(self.etcd.endpoints)}"
        key = f"/pgcat/{NAME}/config/pools/test"
        return shlex.join([self._binary.client, endpoints, "put", key, json.dumps(pool)])

    def _start(self) -> None:
        stack = self._stack
        self.etcd = Etcd(members=self._members, household=stack.household, binary=self._binary)
        self._closing.enter_context(self.etcd)
        version = ".".join(map(str, self._binary.version))
        for member in self.etcd.members:
            self._report(f"etcd {version} {member.name} on port {member.port}")
        self._closing.callback(self._stop_nodes)
        key = stack.folder / "fleet.key"
        key.touch(mode=0o600)
        key.write_text(secrets.token_urlsafe(_KEY_BYTES) + "\n")
        for zone in self._zones:
            config = NODE.format(
                shared=f"{Node.host}:{self.port}",
                endpoints=json.dumps(self.etcd.endpoints),
                fleet=NAME,
                zone=zone,
                peer=f"{Node.host}:{free_port()}",
                peer_key=key,
            )
            stack.launch_node(port=free_port(), config=config)
        self._apply()
        for node in stack.nodes:
            node.wait_ready()
            self._report(f"node {node.name} on ports {self.port} and {node.port}, zone {self.zone_of(node)}")

    def _apply(self) -> None:
        """Give the fleet its documents as a user does, while the nodes start."""
        self.documents.write_text(USERS + documents(self._stack.clusters, finds_primary=False))
        words = ["fleet", "apply", str(self.documents), "--wait", f"{_ACCEPTED_S}s", *self._place()]
        applying = self._stack.household.spawn(
            [*COMMAND, *words], log=self._stack.folder / "apply.log", environment=command_environment()
        )
        wait_until(
            # A node that has ended says so here, at once.
            lambda: (
                not [node for node in self._stack.nodes if not node.is_ready()] or not applying.is_running()
            ),
            within_s=_ACCEPTED_S,
            what="the nodes run the documents",
            explain=self._stack.nodes[0].last_words,
        )
        if applying.wait(_ACCEPTED_S):
            raise DemoFault(f"the fleet does not take its documents: {applying.last_words()}")
        self._report(f"documents accepted: {self.documents}")

    def _place(self) -> list[str]:
        return ["--etcd", ",".join(self.etcd.endpoints), "--fleet", NAME]

    def _stop_nodes(self) -> None:
        """All at the same time."""
        running = [node for node in self._stack.nodes if node.is_running()]
        for node in running:
            node.signal(signal.SIGTERM)
        for node in running:
            with contextlib.suppress(DemoFault):
                node.wait(_DRAIN_S)


def _own_program() -> Iterator[str]:
    """What to type for pgcat-cluster."""
    name = "pgcat-cluster"
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name):
        yield name
    elif os.access(beside, os.X_OK):
        yield str(beside)
    else:
        yield from COMMAND
