"""`python -m tests.bench`: measures all targets in interleaved rounds, shows and keeps the results."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pgcat_cluster import __version__
from pgcat_cluster.demo.processes import DemoFault
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.relay.build import build_kind
from tests.bench import sharding
from tests.bench.crowd import Crowd, gather
from tests.bench.measure import WORKLOADS, LoadFailed, Record, measure, prepare
from tests.support import fronts
from tests.support.fronts import Front

# `sharded` is another pool of the node `compiled`.
TARGETS = ("direct", "pgbouncer", "compiled", "sharded", "interpreted")
PROTOCOLS = ("simple", "extended", "prepared")
CLIENTS = (1, 16, 200)
LINKS = 40
CROWD = 2000
SCALE = 10
RESULTS = Path(__file__).parent / "results"
# CPU per query compared with PgBouncer, select-only, from 16 clients up.
BUDGETS = {"compiled": 1.5, "interpreted": 3.0}

Case = tuple[str, str, int]  # workload, protocol, clients


@contextlib.contextmanager
def running(stack: Stack, wanted: set[str], console: Console) -> Iterator[dict[str, Front]]:
    """All wanted targets that this machine can start, by name; all but one are idle at any time."""
    found: dict[str, Front] = {}
    with contextlib.ExitStack() as closing:

        def add(name: str, front: Front) -> None:
            closing.callback(front.stop)
            found[name] = front

        if "direct" in wanted:
            add("direct", fronts.direct(stack))
        if "pgbouncer" in wanted:
            if fronts.pgbouncer_path():
                # Below 1.21 it knows no prepared statements in transaction mode.
                pools = {
                    "bench": f"pool_mode=transaction pool_size={LINKS}",
                    "bench_session": f"pool_mode=session pool_size={max(CLIENTS)}",
                }
                add("pgbouncer", fronts.start_pgbouncer(stack, pools))
            else:
                console.print("pgbouncer is not on PATH: measured without it")
        pool = 'mode = "transaction"\nreads = "replicas"\nsize = {}'
        pools = {
            "bench": pool.format(LINKS),
            "whole": f"{pool.format(LINKS)}\n{sharding.WHOLE}",
            "sharded": f"{pool.format(LINKS // sharding.SHARDS)}\n{sharding.SHARDED}",
        }
        for name in ("compiled", "interpreted"):
            if not wanted & {name, "sharded" if name == "compiled" else name}:
                continue
            if name == "compiled" and build_kind() != "compiled":
                console.print("the data plane is not compiled here: measured interpreted only")
                continue
            environment = {"PGCAT_PURE": "1" if name == "interpreted" else "0"}
            add(name, fronts.start_node(stack, pools=pools, environment=environment))
        if "compiled" in found:
            found["sharded"] = found["compiled"]
        yield found


def pgbouncer_version() -> tuple[int, ...]:
    path = fronts.pgbouncer_path()
    if path is None:
        return ()
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return tuple(int(part) for part in said[1].split("."))


def database_for(target: str, workload: str, protocol: str) -> str:
    if workload == "keyed":
        return "sharded" if target == "sharded" else "whole"
    needs_session = target == "pgbouncer" and protocol == "prepared" and pgbouncer_version() < (1, 21)
    return "bench_session" if needs_session else "bench"


def is_asked(target: str, workload: str, only_sharding: bool) -> bool:
    """Reads by key tell what shards cost, and nothing else; all other loads are for pools without shards."""
    if workload == "keyed":
        return target in ("compiled", "sharded")
    return target != "sharded" and not only_sharding


def median_of(records: list[Record]) -> Record:
    """The medians, field by field, of what rounds measured for one case."""
    numbers = {}
    for field in dataclasses.fields(Record)[4:]:
        values = [getattr(record, field.name) for record in records]
        known = [value for value in values if value is not None]
        numbers[field.name] = round(statistics.median(known), 3) if known else None
    if numbers["rss_kb"] is not None:
        numbers["rss_kb"] = int(numbers["rss_kb"])
    return dataclasses.replace(records[0], **numbers)


def results_table(records: list[Record]) -> Table:
    table = Table(title="medians; CPU is the proxy's, per query")
    for column in ("workload", "protocol", "clients", "target"):
        table.add_column(column)
    for column in ("tps", "p50 ms", "p99 ms", "user µs", "system µs", "upcalls", "rss MB"):
        table.add_column(column, justify="right")
    for record in records:
        is_session = database_for(record.target, record.workload, record.protocol) == "bench_session"
        table.add_row(
            record.workload,
            record.protocol,
            str(record.clients),
            record.target + (" (session mode)" if is_session else ""),
            f"{record.tps:.0f}",
            f"{record.p50_ms:.2f}",
            f"{record.p99_ms:.2f}",
            shown(record.cpu_user_us_per_query, ".1f"),
            shown(record.cpu_system_us_per_query, ".1f"),
            shown(record.upcalls_per_query, ".4f"),
            shown(record.rss_kb and record.rss_kb / 1024, ".1f"),
        )
    return table


def shown(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def ratio_table(records: list[Record]) -> Table | None:
    """CPU and throughput of the node's builds as multiples of PgBouncer's; None without PgBouncer."""
    peers = {(r.workload, r.protocol, r.clients): r for r in records if r.target == "pgbouncer"}
    table = Table(title="as multiples of PgBouncer")
    for column in ("workload", "protocol", "clients", "target"):
        table.add_column(column)
    for column in ("CPU", "tps", "budget"):
        table.add_column(column, justify="right")
    for record in records:
        peer = peers.get((record.workload, record.protocol, record.clients))
        if record.target not in BUDGETS or peer is None:
            continue
        own, other = record.cpu_us_per_query, peer.cpu_us_per_query
        if not own or not other:
            continue
        has_budget = record.workload == "select-only" and record.clients >= 16
        kept = own / other <= BUDGETS[record.target] and record.upcalls_per_query == 0
        budget = (
            f"{'kept' if kept else 'MISSED'} (≤ {BUDGETS[record.target]}, no upcalls)" if has_budget else ""
        )
        table.add_row(
            record.workload, record.protocol, str(record.clients), record.target,
            f"{own / other:.2f}", f"{record.tps / peer.tps:.2f}", budget,
        )  # fmt: skip
    return table if table.row_count else None


def crowd_table(crowds: list[Crowd]) -> Table:
    table = Table(title=f"{CROWD} clients on {LINKS} links; everybody was served")
    for column in ("target", "bytes per idle client", "queries", "p50 ms", "p99 ms", "slowest ms"):
        table.add_column(column, justify="right")
    for crowd in crowds:
        table.add_row(
            crowd.target, str(crowd.idle_client_bytes), str(crowd.served),
            f"{crowd.p50_ms:.1f}", f"{crowd.p99_ms:.1f}", f"{crowd.slowest_ms:.1f}",
        )  # fmt: skip
    return table


def conditions(command: str, rounds: int, seconds: float) -> str:
    """Under what the figures were taken, and how to take them again."""
    return (
        f"{datetime.date.today()}, {command} ({rounds} rounds of {seconds:g} s), pgcat_cluster {__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"PgBouncer {'.'.join(map(str, pgbouncer_version())) or 'missing'}"
    )


def save(name: str, records: list[Record] | list[Crowd]) -> None:
    RESULTS.mkdir(exist_ok=True)
    rows = ",\n ".join(json.dumps(dataclasses.asdict(record)) for record in records)
    (RESULTS / name).write_text(f"[{rows}]\n")


def run_rounds(
    pgbench: str, targets: Mapping[str, Front], cases: list[tuple[str, Case]], rounds: int, seconds: float,
    console: Console,
) -> tuple[list[Record], bool]:  # fmt: skip
    """Every case once per round, so that drift hits all targets alike; the medians, and if all went well."""
    measured: dict[tuple[str, Case], list[Record]] = {case: [] for case in cases}
    is_whole = True
    for number in range(rounds):
        if not console.is_terminal:
            console.print(f"round {number + 1} of {rounds}: {len(cases)} cases")
        for position, (target, case) in enumerate(cases, 1):
            workload, protocol, clients = case
            label = f"{target} {workload} {protocol} {clients}"
            front = targets[target]
            with console.status(f"round {number + 1} of {rounds}, {position} of {len(cases)}: {label}"):
                try:
                    record = measure(
                        pgbench, front, front.database(database_for(target, workload, protocol)), target=target,
                        workload=workload, protocol=protocol, clients=clients, seconds=seconds,
                    )  # fmt: skip
                except (LoadFailed, DemoFault, OSError) as failure:
                    console.print(f"[red]{label} failed[/red]: {failure}")
                    is_whole = False
                else:
                    measured[target, case].append(record)
    return [median_of(records) for records in measured.values() if records], is_whole


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often every case is measured.")
@click.option("--seconds", default=2.0, show_default=True, help="How long one measurement takes.")
@click.option(
    "--only", multiple=True, metavar="PATTERN", help="target/workload/protocol/clients, with * and ?."
)
@click.option(
    "--sharding", "only_sharding", is_flag=True, help="Only what shards cost; kept as results/sharding.*"
)
@click.option("--quick", is_flag=True, help="One round of half a second with 16 clients, and no crowd.")
def main(rounds: int, seconds: float, only: tuple[str, ...], only_sharding: bool, quick: bool) -> None:
    """Measure PostgreSQL, PgBouncer and the node side by side."""
    console = Console()
    is_part = quick or bool(only)
    clients = (16,) if quick else CLIENTS
    if quick:
        rounds, seconds = 1, 0.5
    cases = [
        (target, case)
        for case in itertools.product(WORKLOADS, PROTOCOLS, clients)
        for target in TARGETS
        if is_asked(target, case[0], only_sharding)
        and (
            not only or any(fnmatch.fnmatch("/".join(map(str, (target, *case))), pattern) for pattern in only)
        )
    ]
    settings = {"max_connections": "700", "shared_buffers": "'256MB'"}
    with Stack(replicas=1, settings=settings) as stack:
        pgbench = fronts.pgbench_path(stack)
        if pgbench is None:
            sys.exit("pgbench is missing: install PostgreSQL's client programs")
        with running(stack, {target for target, _ in cases}, console) as targets:
            prepare(pgbench, fronts.direct(stack).address, 1 if only_sharding else SCALE)
            if "sharded" in targets:
                sharding.prepare_shards(stack)
            cases = [(target, case) for target, case in cases if target in targets]
            records, is_whole = run_rounds(pgbench, targets, cases, rounds, seconds, console)
            crowds = []
            if not is_part and not only_sharding:
                for name, front in targets.items():
                    if front.process is not None and name != "sharded":
                        with console.status(f"{CROWD} clients on {name}"):
                            crowds.append(gather(front, front.database("bench"), target=name, clients=CROWD))
    made = (results_table(records), ratio_table(records), sharding.cost_table(records))
    tables = [table for table in made if table is not None]
    if crowds:
        tables.append(crowd_table(crowds))
    for table in tables:
        console.print(table)
    if is_part:
        console.print("A part was measured: results/ stays as it is.")
    else:
        name = "sharding" if only_sharding else "latest"
        save(f"{name}.json", records)
        if crowds:
            save("crowd.json", crowds)
        with (RESULTS / f"{name}.txt").open("w") as file:
            written = Console(file=file, width=140)
            arguments = ' ARGUMENTS="--sharding"' if only_sharding else ""
            written.print(conditions(f"make bench{arguments}", rounds, seconds))
            for table in tables:
                written.print(table)
    sys.exit(0 if is_whole else 1)


if __name__ == "__main__":
    main()
