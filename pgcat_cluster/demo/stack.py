"""A whole local stack: a primary and its streaming replicas, once for each shard, and nodes in front of them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgcat_cluster.demo.binaries import Binaries, find_binaries
from pgcat_cluster.demo.cluster import Cluster
from pgcat_cluster.demo.documents import documents
from pgcat_cluster.demo.node import CONFIG, Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import (
    Account,
    DemoFault,
    Household,
    Interruptions,
    Started,
    server_account,
)

# PostgreSQL users of every stack; `admin` exists in the nodes alone.
USERS = ("test", "postgres", "replicator", "pgcat_probe", "admin")
_SOCKET_PATH_BYTES_MAX = 80


def _ignore(_step: str) -> None:
    """The progress report of those who do not look."""


class Stack(Started):
    """A primary and replicas with nodes in front, as a context manager that leaves nothing behind.

    With shards there are as many primaries, each with its replicas and its part of a table `data`; `primary`
    and `replicas` are the first ones then. Without a folder of the caller's the data lies in a temporary one and
    goes with the stack. With one it stays; a later stack in the same folder takes the primaries up again and copies
    the replicas anew.
    """

    clusters: list[Cluster]
    primary: Postgres
    replicas: list[Postgres]
    nodes: list[Node]

    def __init__(
        self,
        *,
        replicas: int = 2,
        shards: int = 1,
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
        self._counts = (shards, replicas, nodes)
        self._node_port = node_port
        self._given_folder = folder
        self._settings = dict(settings or {})
        self._binaries = binaries
        self._report = report
        self._interruptions = interruptions

    @property
    def servers(self) -> list[Postgres]:
        return [server for cluster in self.clusters for server in cluster.servers]

    @property
    def primaries(self) -> list[Postgres]:
        return [cluster.primary for cluster in self.clusters]

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

        self._start_clusters(binaries, account)
        # A stack without shards has one cluster, and most of what uses a stack means that one.
        self.primary, self.replicas = self.clusters[0].primary, self.clusters[0].replicas

        self.nodes = []
        for number in range(self._counts[2]):
            node = self.add_node(port=self._node_port if number == 0 else 0)
            self._report(f"node {node.name} on port {node.port}")

    def _start_clusters(self, binaries: Binaries, account: Account) -> None:
        """All at the same time, so that four shards are there about as soon as one."""
        shards, replicas, _ = self._counts

        def server(name: str) -> Postgres:
            return Postgres(
                name, household=self._household, binaries=binaries, account=account, passwords=self.passwords
            )

        def cluster(number: int) -> Cluster:
            prefix = f"s{number}" if shards > 1 else ""
            return Cluster(
                prefix or "main",
                server(f"{prefix}p1"),
                [server(f"{prefix}r{replica}") for replica in range(1, replicas + 1)],
                settings=self._settings,
                roles=self._roles(),
                statements=_shard_tables(number, shards) if shards > 1 else (),
                report=self._report,
            )

        self.clusters = [cluster(number) for number in range(shards)]
        if shards == 1:
            self._closing.enter_context(self.clusters[0])
            return
        with ThreadPoolExecutor(shards) as starters:
            starts = [starters.submit(self._closing.enter_context, cluster) for cluster in self.clusters]
        for start in starts:
            start.result()

    def _config(self) -> str:
        """What a node of this stack has for its configuration; a template as in `demo.node`."""
        if len(self.clusters) == 1:
            return CONFIG
        return CONFIG.partition("[clusters.")[0] + documents(self.clusters, finds_primary=True)

    def add_node(
        self, *, port: int = 0, config: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Node:
        """Start one more node in front of the servers; `config` is a template as in `demo.node`."""
        node = self.launch_node(port=port, config=config, environment=environment)
        node.wait_ready()
        return node

    def launch_node(
        self, *, port: int = 0, config: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Node:
        """The same without waiting."""
        name = f"n{len(self.nodes) + 1}"
        node = Node(name, household=self._household, passwords=self.passwords, port=port)
        node.configure(self.servers, self._config() if config is None else config)
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


def _shard_tables(shard: int, shards: int) -> Sequence[str]:
    """A table of which this shard has its own part alone: a row of another shard is refused by PostgreSQL."""
    bound = f"for values with (modulus {shards}, remainder {shard})"
    return (
        "create table data (id bigint, value varchar) partition by hash (id)",
        f"create table data_{shard} partition of data {bound}",
        "alter table data owner to test",
        f"alter table data_{shard} owner to test",
    )


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
    if content and not any((folder / first / "PG_VERSION").exists() for first in ("p1", "s0p1")):
        raise DemoFault(f"--data-dir {folder} holds something else; name a new or an empty folder")
    if len(str(folder)) > _SOCKET_PATH_BYTES_MAX:
        raise DemoFault(f"--data-dir {folder} is too long a path for a socket in it; choose a shorter one")
    for stale in content:
        if re.fullmatch(r"n\d+|e\d+|postgresql", stale):
            shutil.rmtree(folder / stale, ignore_errors=True)
    return folder
