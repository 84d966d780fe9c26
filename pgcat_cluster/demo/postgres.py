"""A PostgreSQL server as an actor: created or copied, started, stopped, killed, frozen, promoted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pgcat_cluster.demo.binaries import Binaries
from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.processes import Account, Child, DemoFault, Household, wait_until

_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_READY_S = 60.0
_STOP_S = 30.0

# Throw-away data: nothing waits for a disk. Tests about losing power or WAL set fsync = on again.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "'127.0.0.1'",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "wal_keep_size": "256MB",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    "wal_retrieve_retry_interval": "200ms",
    "autovacuum_naptime": "10s",
    # In files below the data folder instead of /dev/shm, so that a killed server leaves nothing there.
    "dynamic_shared_memory_type": "mmap",
    "password_encryption": "'scram-sha-256'",
    "log_line_prefix": "'%m [%p] '",
}


# Not the one that tests seed.
def connection_string(host: str, port: int, user: str, password: str, database: str) -> str:
    """In libpq's own notation, quoted as it wants."""
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    return f"host={host} port={port} user={user} password='{quoted}' dbname={database}"


class Postgres:
    """One server with its data folder. Passwords are those of the stack: user name to password."""

    host = "127.0.0.1"

    def __init__(
        self,
        name: str,
        *,
        household: Household,
        binaries: Binaries,
        account: Account,
        passwords: Mapping[str, str],
    ) -> None:
        self.name = name
        self.port = free_port()
        self.binaries = binaries
        self.passwords = passwords
        self.data = household.folder / name
        self.log = household.folder / f"{name}.log"
        self._household = household
        self._account = account
        self._child: Child | None = None

    # Being created

    def create(self, *, settings: Mapping[str, str], statements: Sequence[str]) -> None:
        """Make a new data folder whose first owner has run these statements."""
        secret = self._household.folder / f"{self.name}.initial"
        self._write_file(secret, self.passwords["postgres"].encode())
        self._run(
            self.binaries.tool("initdb"),
            f"--pgdata={self.data}",
            "--username=postgres",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        secret.unlink()
        self.configure({**_SETTINGS, "unix_socket_directories": f"'{self._household.folder}'", **settings})
        self.prepare(statements)

    def prepare(self, statements: Sequence[str], database: str = "postgres") -> None:
        """Run statements as superuser while it is down: needs no client program, password or port."""
        script = self._household.folder / f"{self.name}.sql"
        # Single-user mode ends a statement at the end of its line.
        self._write_file(
            script, "".join(f"{' '.join(statement.split())}\n" for statement in statements).encode()
        )
        before = self.log.stat().st_size if self.log.exists() else 0
        with script.open("rb") as stdin:
            child = self._household.spawn(
                [self.binaries.tool("postgres"), "--single", "-D", self.data, database],
                log=self.log,
                account=self._account,
                environment=self._environment(),
                stdin=stdin,
            )
            code = child.wait(_READY_S)
        script.unlink()
        # Single-user mode goes on after an error, and ends well.
        with self.log.open("rb") as log:
            log.seek(before)
            errors = [line for line in log.read().decode(errors="replace").splitlines() if " ERROR: " in line]
        if code or errors:
            raise DemoFault(
                f"{self.name} could not be prepared: {errors[0] if errors else child.last_words()}"
            )

    def copy_from(self, primary: Postgres) -> Child:
        """Begin a base backup of a running primary, to start as its standby; `finish_copy` waits for it."""
        shutil.rmtree(self.data, ignore_errors=True)
        return self._spawn(
            self.binaries.tool("pg_basebackup"),
            f"--pgdata={self.data}",
            f"--dbname={primary.dsn('replicator', 'replication')} application_name={self.name}",
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            environment={"PGAPPNAME": self.name},
        )

    def finish_copy(self, copy: Child) -> None:
        if copy.wait(60.0):
            raise DemoFault(f"the base backup for {self.name} failed: {copy.last_words()}")

    # Living and dying

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self._child = self._spawn(self.binaries.tool("postgres"), "-D", self.data, "-p", str(self.port))

    def wait_ready(self) -> None:
        """Wait until it accepts connections; DemoFault with its own words when it ends instead."""
        wait_until(self._is_ready, within_s=_READY_S, what=f"{self.name} accepts connections")

    def _is_ready(self) -> bool:
        child = self._running()
        if not child.is_running():
            raise DemoFault(f"{self.name} did not start: {child.last_words()}")
        with contextlib.suppress(OSError, IndexError):
            # Line 8 is what pg_ctl reads. A standby says "standby" until it serves reads, then "ready".
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == child.pid and lines[7].strip() == "ready"
        return False

    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return self._running().pid

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut down in one of PostgreSQL's three ways; by force when that takes too long."""
        if self._child is not None:
            self._child.stop(_STOP_SIGNALS[mode], within_s=_STOP_S)

    def kill(self) -> None:
        """SIGKILL to the postmaster and everything it forked: no farewell to any client."""
        self._running().kill()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """Stop its processes: the kernel still accepts connections, and nothing is answered."""
        self._running().signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal_family(signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby a primary and wait until it takes writes."""
        self._run(self.binaries.tool("pg_ctl"), "promote", "-D", self.data, "-w", "-t", "30", "-s")

    def follow(self, primary: Postgres) -> None:
        """Let a running standby stream from another primary."""
        conninfo = f"{primary.dsn('replicator', 'replication')} application_name={self.name}".replace(
            "'", "''"
        )
        self.configure({"primary_conninfo": f"'{conninfo}'"}, file="postgresql.auto.conf")
        self.reload()

    def is_streaming(self) -> bool:
        """Whether a walreceiver of this standby streams, by the server's own word."""
        rows = self.query("select status from pg_stat_wal_receiver")
        return rows == [("streaming",)]

    def has_streamed(self) -> bool:
        """Whether the log says that streaming began; needs no driver."""
        return "started streaming WAL from primary" in self.log.read_text(errors="replace")

    # Being configured

    def configure(self, settings: Mapping[str, str], file: str = "postgresql.conf") -> None:
        """Append settings, written as the file wants them; `reload` or `restart` makes them count."""
        with (self.data / file).open("a") as configuration:
            configuration.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def admit(self, lines: Sequence[str]) -> None:
        """Put rules before all others in pg_hba.conf; `reload` makes them count."""
        rules = self.data / "pg_hba.conf"
        rules.write_text("\n".join([*lines, rules.read_text()]))

    def write(self, name: str, content: bytes) -> Path:
        """Put a file (a certificate, a key) into the data folder, private to the server."""
        self._write_file(self.data / name, content)
        return self.data / name

    def reload(self) -> None:
        self._running().signal(signal.SIGHUP)

    # Being talked to

    def dsn(self, user: str = "test", database: str = "test") -> str:
        """A libpq connection string, password included."""
        return connection_string(self.host, self.port, user, self.passwords[user], database)

    def query(self, sql: str, user: str = "postgres", database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, in autocommit; its rows, or none. Needs psycopg."""
        import psycopg

        with psycopg.connect(
            self.dsn(user, database), autocommit=True, connect_timeout=int(_READY_S)
        ) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    # Within

    def _running(self) -> Child:
        if self._child is None:
            raise DemoFault(f"{self.name} was never started")
        return self._child

    def _environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        # The user the server runs as may have no home, and must not look into ours.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {"HOME": str(self._household.folder), "LC_ALL": "C", "TZ": "UTC"} | dict(extra or {})

    def _spawn(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> Child:
        return self._household.spawn(
            command, log=self.log, account=self._account, environment=self._environment(environment)
        )

    def _run(self, *command: str | Path) -> None:
        child = self._spawn(*command)
        if child.wait(60.0):
            raise DemoFault(f"{Path(command[0]).name} failed for {self.name}: {child.last_words()}")

    def _write_file(self, path: Path, content: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
        if os.geteuid() != self._account.uid:
            os.chown(path, self._account.uid, self._account.gid)
