"""A node of ours as an actor: configured, started as a child process, watched, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgcat_cluster.demo.postgres import Postgres, free_port
from pgcat_cluster.demo.processes import Child, DemoFault, Household, wait_until

_READY_S = 15.0
_DRAIN_S = 5.0


class Node:
    """One running proxy process with its configuration, its secrets and its log."""

    host = "127.0.0.1"

    def __init__(self, name: str, *, household: Household, port: int = 0) -> None:
        self.name = name
        self.port = port or free_port()
        self.http_port = free_port()
        self.folder = household.folder / name
        self.config = self.folder / "node.toml"
        self.log = household.folder / f"{name}.log"
        self.passwords: Mapping[str, str] = {}
        self._household = household
        self._child: Child | None = None

    def configure(
        self, primary: Postgres, replicas: Sequence[Postgres], passwords: Mapping[str, str]
    ) -> None:
        """Write the configuration of a node in front of these servers."""
        self.passwords = passwords
        secrets = self.folder / "secrets"
        secrets.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for user, file in (
            ("test", "test.secret"),
            ("admin", "admin.secret"),
            ("pgcat_probe", "probe.secret"),
        ):
            (secrets / file).write_text(passwords[user])
            (secrets / file).chmod(0o600)
        servers = "".join(
            f'{server.name} = {{ host = "{server.host}", port = {server.port} }}\n'
            for server in (primary, *replicas)
        )
        self.config.write_text(
            _CONFIG.format(
                host=self.host, port=self.port, http_port=self.http_port, secrets=secrets, servers=servers
            )
        )

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start, and wait until it takes connections."""
        self._child = self._household.spawn(
            [sys.executable, "-m", "pgcat_cluster", "run", "--config", self.config],
            log=self.log,
            environment={**os.environ, **_source_path(), **(environment or {})},
        )
        wait_until(self._is_ready, within_s=_READY_S, what=f"node {self.name} takes connections")

    def _is_ready(self) -> bool:
        assert self._child is not None
        if not self._child.is_running():
            raise DemoFault(f"node {self.name} did not start: {self._child.last_words()}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.http_port), timeout=1.0) as http,
        ):
            http.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            return http.recv(64).split(b" ")[1:2] == [b"200"]
        return False

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    def last_words(self) -> str:
        assert self._child is not None
        return self._child.last_words()

    def reload(self) -> None:
        """Let it read its configuration again."""
        assert self._child is not None
        self._child.signal(signal.SIGHUP)

    def stop(self) -> None:
        """Drain, and use force when that takes too long."""
        if self._child is not None:
            self._child.stop(signal.SIGTERM, within_s=_DRAIN_S)

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()

    def dsn(self, user: str = "test", database: str = "test") -> str:
        """A libpq connection string, password included."""
        password = self.passwords[user].replace("\\", "\\\\").replace("'", "\\'")
        return f"host={self.host} port={self.port} user={user} password='{password}' dbname={database}"


def _source_path() -> dict[str, str]:
    """Lets the child, which starts in another folder, import the package that we run."""
    package = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}


_CONFIG = """\
[node]
listen = ["{host}:{port}"]
http = "{host}:{http_port}"
secrets_dir = "{secrets}"
admin_users = ["admin"]

[users.test]
secret = "file:test.secret"

[users.admin]
secret = "file:admin.secret"

[clusters.main]
probe = {{ user = "pgcat_probe", secret = "file:probe.secret", database = "postgres" }}
leadership = {{ source = "observe" }}

[clusters.main.servers]
{servers}
[pools.test]
database = "test"
cluster = "main"
users = {{ test = {{ size = 20 }} }}
"""
