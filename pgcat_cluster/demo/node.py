"""A node of ours as an actor: configured, started as a child process, watched, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.postgres import Postgres, connection_string
from pgcat_cluster.demo.processes import Child, DemoFault, Household, said_over_http, wait_until

_READY_S = 60.0
_DRAIN_S = 5.0
# Our own command as a child process.
COMMAND = (sys.executable, "-m", "pgcat_cluster")
_SECRETS = {"test": "test.secret", "admin": "admin.secret", "pgcat_probe": "probe.secret"}

CONFIG = """\
[node]
listen = ["$listen"]
http = "$http"
secrets_dir = "$secrets"
admin_users = ["admin"]

[users.test]
secret = "file:test.secret"

[users.admin]
secret = "file:admin.secret"

[clusters.main]
probe = { user = "pgcat_probe", secret = "file:probe.secret", database = "postgres" }
leadership = { source = "observe" }

[clusters.main.servers]
$servers

[pools.test]
database = "test"
cluster = "main"
users = { test = { size = 20 } }
"""


class Node:
    """One running proxy process with its configuration, its secrets and its log."""

    host = "127.0.0.1"

    def __init__(
        self, name: str, *, household: Household, passwords: Mapping[str, str], port: int = 0
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self.http_port = free_port()
        self.passwords = passwords
        self.folder = household.folder / name
        self.config = self.folder / "node.toml"
        self.log = household.folder / f"{name}.log"
        self._household = household
        self._child: Child | None = None

    def configure(self, servers: Sequence[Postgres], template: str = CONFIG) -> None:
        """Write secrets and configuration; fills in the template's $name, $listen, $http, $secrets, $servers."""
        secrets = self.folder / "secrets"
        secrets.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for user, file in _SECRETS.items():
            (secrets / file).touch(mode=0o600)
            (secrets / file).write_text(self.passwords[user])
        entries = [
            f'{server.name} = {{ host = "{server.host}", port = {server.port} }}' for server in servers
        ]
        self.config.write_text(
            Template(template).substitute(
                name=self.name,
                listen=f"{self.host}:{self.port}",
                http=f"{self.host}:{self.http_port}",
                secrets=secrets,
                servers="\n".join(entries),
            )
        )

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start, and wait until it is ready."""
        self.launch(environment)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it serves; DemoFault with its own words when it ends instead."""
        wait_until(
            self.is_ready,
            within_s=_READY_S,
            what=f"node {self.name} is ready",
            explain=self.last_words,
        )

    def launch(self, environment: Mapping[str, str] | None = None) -> None:
        """Start without waiting."""
        self._child = self._household.spawn(
            [*COMMAND, "run", "--config", self.config],
            log=self.log,
            environment={**command_environment(), **(environment or {})},
        )

    def is_ready(self) -> bool:
        """Whether it serves; DemoFault when it has ended."""
        if not self.is_running():
            raise DemoFault(f"node {self.name} did not start: {self.last_words()}")
        with contextlib.suppress(OSError):
            self.said("/ready")
            return True
        return False

    def said(self, page: str) -> bytes:
        """A page of its HTTP endpoint; OSError if there is none now."""
        return said_over_http((self.host, self.http_port), page)

    @property
    def pid(self) -> int:
        return self._running().pid

    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    def last_words(self) -> str:
        """The line of its log that says best why it ended."""
        return self._running().last_words()

    def signal(self, number: signal.Signals) -> None:
        """SIGHUP: read the configuration again; SIGTERM: drain."""
        self._running().signal(number)

    def wait(self, within_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self._running().wait(within_s)

    def stop(self) -> None:
        """Drain, and use force when that takes too long."""
        if self._child is not None:
            self._child.stop(signal.SIGTERM, within_s=_DRAIN_S)

    def kill(self) -> None:
        self._running().kill()

    def freeze(self) -> None:
        """The kernel still accepts connections, and nothing is answered."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal(signal.SIGCONT)

    def dsn(self, user: str = "test", database: str = "test") -> str:
        """A libpq connection string, password included."""
        return connection_string(self.host, self.port, user, self.passwords[user], database)

    def _running(self) -> Child:
        if self._child is None:
            raise DemoFault(f"{self.name} was never started")
        return self._child


def command_environment() -> dict[str, str]:
    """Lets a child, which starts in another folder, import the package that we run."""
    package = str(Path(__file__).resolve().parents[2])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
