"""One pgbench run and what it cost: transactions, latencies, and the proxy's CPU time and upcalls."""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from pgcat_cluster.demo.processes import wait_until
from tests.support.fronts import Front
from tests.support.player import Address

WORKLOADS = {"select-only": 1, "tpcb": 7, "keyed": 1}  # statements per transaction
_SCRIPTS = {
    "select-only": ("-b", "select-only"),
    "tpcb": ("-b", "tpcb-like"),
    # The read of select-only, written as itself: the key is all that tells its shard.
    "keyed": ("-f", str(Path(__file__).with_name("keyed.sql"))),
}
_WARM_UP_S = 0.5
_SLACK_S = 0.5
_ATTEMPTS = 3
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UPCALLS = re.compile(r"^pgcat_cluster_upcalls_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class LoadFailed(Exception):
    """pgbench could not do its work; the message is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measurement. Fields of a proxy are None for PostgreSQL itself, upcalls for whatever has none."""

    target: str
    workload: str
    protocol: str
    clients: int
    tps: float
    p50_ms: float
    p99_ms: float
    cpu_user_us_per_query: float | None
    cpu_system_us_per_query: float | None
    upcalls_per_query: float | None
    rss_kb: int | None

    @property
    def cpu_us_per_query(self) -> float | None:
        if self.cpu_user_us_per_query is None or self.cpu_system_us_per_query is None:
            return None
        return self.cpu_user_us_per_query + self.cpu_system_us_per_query


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a proxy had used up at a moment of the wall clock, which pgbench's log is written in."""

    at_s: float
    user_s: float
    system_s: float
    upcalls: float | None


def read(front: Front) -> Reading:
    upcalls = _upcalls(front)
    user_s = system_s = 0.0
    if front.process is not None:
        # Fields 14 and 15; the name in parentheses may hold blanks.
        fields = Path(f"/proc/{front.pid}/stat").read_text().rpartition(")")[2].split()
        user_s, system_s = (int(ticks) / _TICKS_PER_S for ticks in fields[11:13])
    return Reading(at_s=time.time(), user_s=user_s, system_s=system_s, upcalls=upcalls)  # noqa: TID251


def rss_kb(front: Front) -> int | None:
    if front.process is None:
        return None
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{front.pid}/status").read_text(), re.MULTILINE)
    return int(match[1]) if match else None


def _upcalls(front: Front) -> float | None:
    if front.node is None:
        return None
    with urllib.request.urlopen(
        f"http://{front.node.host}:{front.node.http_port}/metrics", timeout=5
    ) as page:
        found = _UPCALLS.findall(page.read().decode())
    return sum(map(float, found)) if found else None


def prepare(pgbench: str, address: Address, scale: int) -> None:
    """Fills pgbench's tables."""
    done = subprocess.run(
        [pgbench, "-i", "-q", "-s", str(scale), *_login(address)],
        env=_environment(address), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LoadFailed(done.stderr.strip())


def measure(
    pgbench: str, front: Front, address: Address, *, target: str, workload: str, protocol: str, clients: int,
    seconds: float,
) -> Record:  # fmt: skip
    """Runs one load. Only what happens after all clients are connected and warm is counted."""
    command = [
        pgbench, "-n", *_SCRIPTS[workload], "-M", protocol, "-c", str(clients), "-j", "1",
        *_login(address),
    ]  # fmt: skip
    connecting_s = clients / 50
    # pgbench's time runs while the clients connect, and how long that takes is known only afterwards.
    for _ in range(_ATTEMPTS):
        duration_s = math.ceil(connecting_s + _WARM_UP_S + seconds + _SLACK_S)
        run = _run(command, front, address, duration_s, seconds)
        if run.is_covered:
            break
        connecting_s = max(2 * connecting_s, run.connecting_s + 1)
    if not run.is_covered or not run.latencies_ms:
        raise LoadFailed(f"the clients took too long to connect, or did nothing; {run.output}")
    first, last, latencies_ms = run.first, run.last, run.latencies_ms
    queries = len(latencies_ms) * WORKLOADS[workload]
    has_process = front.process is not None
    return Record(
        target=target,
        workload=workload,
        protocol=protocol,
        clients=clients,
        tps=len(latencies_ms) / (last.at_s - first.at_s),
        p50_ms=percentile(latencies_ms, 50),
        p99_ms=percentile(latencies_ms, 99),
        cpu_user_us_per_query=(last.user_s - first.user_s) * 1e6 / queries if has_process else None,
        cpu_system_us_per_query=(last.system_s - first.system_s) * 1e6 / queries if has_process else None,
        upcalls_per_query=(
            None
            if first.upcalls is None or last.upcalls is None
            else (last.upcalls - first.upcalls) / queries
        ),
        rss_kb=run.rss_kb,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one pgbench did between two readings; `is_covered` if it was at work all the time."""

    first: Reading
    last: Reading
    rss_kb: int | None
    latencies_ms: list[float]
    is_covered: bool
    connecting_s: float
    output: str


def _run(command: list[str], front: Front, address: Address, duration_s: int, seconds: float) -> _Run:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder)
        process = subprocess.Popen(
            [*command, "-T", str(duration_s), "-l", f"--log-prefix={log / 'log'}"],
            env=_environment(address), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            # The log begins when every client is connected.
            wait_until(
                lambda: process.poll() is not None or any(file.stat().st_size for file in log.iterdir()),
                within_s=duration_s + 10,
                what="pgbench begins",
            )
            _pause(process, _WARM_UP_S)
            first = read(front)
            _pause(process, seconds)
            last = read(front)
            is_covered = process.poll() is None
            memory_kb = rss_kb(front)
            output, _ = process.communicate(timeout=duration_s + 30)
        finally:
            process.kill()
            process.wait()
        if process.returncode or "aborted" in output:
            raise LoadFailed(output.strip()[-500:])
        connecting = re.search(r"initial connection time = ([0-9.]+) ms", output)
        return _Run(
            first=first,
            last=last,
            rss_kb=memory_kb,
            latencies_ms=_latencies_ms(log, first.at_s, last.at_s),
            is_covered=is_covered,
            connecting_s=float(connecting[1]) / 1000 if connecting else 0.0,
            output=output.strip()[-500:],
        )


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def _pause(process: subprocess.Popen[str], seconds: float) -> None:
    """Lets the load run; returns early if it ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _latencies_ms(log: Path, start_s: float, end_s: float) -> list[float]:
    """Latencies of the transactions that ended between two moments, in ascending order."""
    found = []
    for file in log.iterdir():
        for line in file.read_text().splitlines():
            # client, transaction, latency in µs, script, seconds, microseconds
            fields = line.split()
            if len(fields) >= 6 and start_s <= int(fields[4]) + int(fields[5]) / 1e6 < end_s:
                found.append(int(fields[2]) / 1000)
    return sorted(found)


def _login(address: Address) -> list[str]:
    return ["-h", address.host, "-p", str(address.port), "-U", address.user, address.database]


def _environment(address: Address) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # Nobody encrypts: the peers would be measured for their TLS libraries.
    return {**kept, "PGPASSWORD": address.password, "PGSSLMODE": "disable"}
