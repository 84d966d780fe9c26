"""Starts what stands in front of a stack's PostgreSQL: nodes configured for a test, PgBouncer, or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pgcat_cluster.demo.node import CONFIG, Node
from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.processes import Child, server_account, wait_until
from pgcat_cluster.demo.stack import Stack
from tests.support.player import Address

# The demo's configuration without its pool.
_NODE_TEMPLATE = CONFIG.partition("[pools.")[0]
_PGBOUNCER_TEMPLATE = Path(__file__).parents[1] / "bench" / "pgbouncer.ini"

# Pools by the database name that clients give; all of them are the servers' database `test`.
POOLS: Mapping[str, str] = {
    "transaction": 'mode = "transaction"\nreads = "primary"\nsize = 4',
    "session": 'mode = "session"\nreads = "primary"\nsize = 40',
    "split": 'mode = "transaction"\nreads = "replicas"\nsize = 4',
    "one": 'mode = "transaction"\nreads = "primary"\nsize = 1',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Something that a client connects to; `process` is what carries the load, None for PostgreSQL itself."""

    address: Address
    process: Child | Node | None = None
    node: Node | None = None

    def database(self, name: str) -> Address:
        """The address of one of its pools; PostgreSQL itself has but one database."""
        return self.address if self.process is None else replace(self.address, database=name)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        if isinstance(self.process, Node):
            self.process.stop()
        elif self.process is not None:
            self.process.stop(signal.SIGTERM, within_s=5.0)


def direct(stack: Stack) -> Front:
    """PostgreSQL itself: the front that every other one is compared to."""
    server = stack.primary
    return Front(
        address=Address(
            host=server.host, port=server.port, user="test", password=stack.passwords["test"], database="test"
        )
    )


_DATABASE = 'server_database = "test"\n'


def start_node(
    stack: Stack,
    *,
    pools: Mapping[str, str] = POOLS,
    node_settings: str = "",
    cluster_settings: str = "",
    environment: Mapping[str, str] | None = None,
) -> Front:
    """A node in front of all servers of the stack, with these pools; settings are lines of TOML.

    A pool is of the database `test` if it says nothing else.
    """
    tables = "\n".join(
        f"[pools.{pool}]\n{'' if 'server_database' in options else _DATABASE}{options}\nusers = {{ test = {{}} }}\n"
        for pool, options in pools.items()
    )
    head, servers = _NODE_TEMPLATE.split("[clusters.main.servers]")
    head = head.replace("[users.test]", f"{node_settings}\n\n[users.test]") + cluster_settings
    node = stack.add_node(
        config=f"{head}\n\n[clusters.main.servers]{servers}\n{tables}", environment=environment
    )
    address = Address(
        host=node.host,
        port=node.port,
        user="test",
        password=stack.passwords["test"],
        database=next(iter(pools)),
    )
    return Front(address=address, process=node._child, node=node)


def pgbouncer_path() -> str | None:
    """PgBouncer on PATH, or where Debian puts daemons, which PATH may not hold."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def start_pgbouncer(stack: Stack, pools: Mapping[str, str]) -> Front:
    """PgBouncer in front of the primary; `pools` are names with the options of its [databases] section."""
    path = pgbouncer_path()
    assert path is not None
    port, folder = free_port(), stack.folder / "pgbouncer"
    folder.mkdir(mode=0o755)
    password = stack.passwords["test"]
    databases = "\n".join(
        f"{name} = host={stack.primary.host} port={stack.primary.port} dbname=test {options}"
        for name, options in pools.items()
    )
    template = string.Template(_PGBOUNCER_TEMPLATE.read_text())
    config, users = folder / "pgbouncer.ini", folder / "users.txt"
    config.write_text(
        template.substitute(databases=databases, host=stack.primary.host, port=port, users=users)
    )
    users.write_text(f'"test" "{password}"\n')
    # The stack's own user must read them; they hold a password of this run alone.
    account = server_account()
    for file in (config, users):
        file.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(file, account.uid, account.gid)
    process = stack._household.spawn([path, config], log=stack.folder / "pgbouncer.log", account=account)

    def is_listening() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((stack.primary.host, port), timeout=1.0):
            return True
        return False

    wait_until(is_listening, within_s=60.0, what=f"PgBouncer listens (log: {process.log})")
    address = Address(
        host=stack.primary.host, port=port, user="test", password=password, database=next(iter(pools))
    )
    return Front(address=address, process=process)


def pgbench_path(stack: Stack) -> str | None:
    """pgbench of PATH, of the stack's own installation, or of the system."""
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return stack.client_program("pgbench") or (str(system[-1]) if system else None)
