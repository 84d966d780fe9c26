"""A whole local stack: one primary, its streaming replicas, and the nodes in front of them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pgcat_cluster.demo.binaries import Binaries, find_binaries
from pgcat_cluster.demo.node import CONFIG, Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import (
    Account,
    DemoFault,
    Household,
    Interruptions,
    Started,
    server_account,
    wait_until,
)

# PostgreSQL users of every stack; `admin` exists in the nodes alone.
USERS = ("test", "postgres", "replicator", "pgcat_probe", "admin")
_SOCKET_PATH_BYTES_MAX = 80


def _ignore(_step: str) -> None:
    """The progress report of those who do not look."""


class Stack(Started):
    """A primary and replicas with nodes in front, as a context manager that leaves nothing behind.

    Without a folder of the caller's the data lies in a temporary one and goes with the stack. With one it
    stays; a later stack in the same folder takes the primary up again and copies the replicas anew.
    """

    primary: Postgres
    replicas: list[Postgres]
    nodes: list[Node]

    def __init__(
        self,
        *,
        replicas: int = 2,
        nodes: int = 0,
        node_port: int = 0,
        folder: Path | None = None,
        passwords: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        binaries: Binaries | None = None,
        report: Callable[[str], None] = _ignore,
        interruptions: Interruptions | None = None,
    ) -> None:
        super().__init__()
        self.passwords = {user: secrets.token_hex(8) for user in USERS} | dict(passwords or {})
        self._counts = (replicas, nodes)
        self._node_port = node_port
        self._given_folder = folder
        self._settings = dict(settings or {})
        self._binaries = binaries
        self._report = report
        self._interruptions = interruptions

    @property
    def servers(self) -> list[Postgres]:
        return [self.primary, *self.replicas]

    @property
    def folder(self) -> Path:
        return self._household.folder

    @property
    def household(self) -> Household:
        """Who else belongs to the stack is started here."""
        return self._household

    def client_program(self, name: str) -> str | None:
        """What to type for psql or pgbench, and None where no installation has it."""
        return self._found.client_program(name)

    def _start(self) -> None:
        account = server_account()
        found = self._found = self._binaries or find_binaries()
        folder = _temporary_folder(account) if self._given_folder is None else _own_folder(self._given_folder)
        self._household = Household(
            folder, keep=self._given_folder is not None, interruptions=self._interruptions
        )
        self._closing.callback(self._household.close)
        if os.geteuid() != account.uid:
            os.chown(folder, account.uid, account.gid)
        if not account.can_reach(folder):
            raise DemoFault(f"the user {account.name} can not enter {folder}; choose another --data-dir")
        binaries = found.reachable_by(account, folder)
        self._report(f"PostgreSQL {binaries.major} from {binaries.folder} ({binaries.source})")

        def server(name: str) -> Postgres:
            return Postgres(
                name, household=self._household, binaries=binaries, account=account, passwords=self.passwords
            )

        self.primary = server("p1")
        if (self.primary.data / "PG_VERSION").exists():
            self.primary.prepare(self._roles())
        else:
            statements = [*self._roles(), "create database test owner test"]
            self.primary.create(settings=self._settings, statements=statements)
        # Replicas close first: a primary that stops fast waits for its standbys to have it all.
        self._closing.callback(self.primary.stop, "fast")
        self.primary.start()
        self._report(f"primary p1 on port {self.primary.port}")

        count, node_count = self._counts
        self.replicas = [server(f"r{number}") for number in range(1, count + 1)]
        copies = [replica.copy_from(self.primary) for replica in self.replicas]
        for replica, copy in zip(self.replicas, copies, strict=True):
            replica.finish_copy(copy)
            replica.launch()
            self._closing.callback(replica.stop, "immediate")
        for replica in self.replicas:
            replica.wait_ready()
            wait_until(replica.has_streamed, within_s=60.0, what=f"{replica.name} streams from the primary")
            self._report(f"replica {replica.name} on port {replica.port}, streaming")

        self.nodes = []
        for number in range(node_count):
            node = self.add_node(port=self._node_port if number == 0 else 0)
            self._report(f"node {node.name} on port {node.port}")

    def add_node(
        self, *, port: int = 0, config: str = CONFIG, environment: Mapping[str, str] | None = None
    ) -> Node:
        """Start one more node in front of the servers; `config` is a template as in `demo.node`."""
        node = self.launch_node(port=port, config=config, environment=environment)
        node.wait_ready()
        return node

    def launch_node(
        self, *, port: int = 0, config: str = CONFIG, environment: Mapping[str, str] | None = None
    ) -> Node:
        """The same without waiting."""
        name = f"n{len(self.nodes) + 1}"
        node = Node(name, household=self._household, passwords=self.passwords, port=port)
        node.configure(self.servers, config)
        self._closing.callback(node.stop)
        node.launch(environment)
        self.nodes.append(node)
        return node

    def _roles(self) -> list[str]:
        """What makes the users and gives them their passwords; harmless when they exist already."""
        attributes = {
            "postgres": "superuser login",
            "test": "login",
            "replicator": "login replication",
            "pgcat_probe": "login in role pg_monitor",
        }
        statements = []
        for user, words in attributes.items():
            statements.append(
                f"do $$ begin if not exists (select from pg_roles where rolname = '{user}') "
                f"then create role {user} {words}; end if; end $$"
            )
            password = self.passwords[user].replace("'", "''")
            statements.append(f"alter role {user} password '{password}'")
        return statements


def _temporary_folder(account: Account) -> Path:
    """A fresh folder that the servers' user can walk to, its path short enough for a socket inside it."""
    base = Path(tempfile.gettempdir())
    if not account.can_reach(base) or len(str(base)) > _SOCKET_PATH_BYTES_MAX - 20:
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="pgcat-", dir=base)).resolve()


def _own_folder(folder: Path) -> Path:
    """The caller's folder: new, empty, or of an earlier stack."""
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise DemoFault(f"--data-dir {folder}: {error.strerror}") from None
    if content and not (folder / "p1" / "PG_VERSION").exists():
        raise DemoFault(f"--data-dir {folder} holds something else; name a new or an empty folder")
    if len(str(folder)) > _SOCKET_PATH_BYTES_MAX:
        raise DemoFault(f"--data-dir {folder} is too long a path for a socket in it; choose a shorter one")
    for stale in content:
        if re.fullmatch(r"n\d+|e\d+|postgresql", stale):
            shutil.rmtree(folder / stale, ignore_errors=True)
    return folder
