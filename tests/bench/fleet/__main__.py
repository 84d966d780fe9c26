"""`python -m tests.bench.fleet`: how fast a fleet of real nodes reacts, at a fixed load, and what it writes.

How each figure is observed, by what the processes write anyway, so that looking does not disturb:

- A server's end is the moment before the signal is sent to its processes.
- A node's last checkout of it is at the latest when the node says `server.avoided` in its log: in that step of its loop
  the server leaves the list that checkouts choose from. So this is an upper bound, and it is known without traffic too;
  the last node's counts. All processes share one machine and its clocks.
- Of a frozen server there is a second view: statements that ended up there are answered after it was woken, with its
  port, and their clients know when they sent them (`frozen_last_client_p50_ms`).
- An edit begins before the put is sent to etcd, over a connection that is open (starting `etcdctl` takes about as
  long as the edit), and ends when a watcher of its own has heard the last node's ack of the new generation.
- Writes are revisions of the store: of a failure from the signal until nothing more was written for a while, with the
  server still dead; in peace by the store's own count.
- Clients are an open loop: they ask at fixed moments, whatever becomes of the answers.

Health is judged by the defaults; bans are shorter than by default and strikes are forgiven, so that rounds are short.
etcd's data is thrown away, and it does not wait for a disk. Times of simulated nodes are constants of the model.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import structlog
from rich.console import Console

from pgcat_cluster import __version__
from pgcat_cluster.relay.build import build_kind

# Before gRPC is imported: it has much to say about children that are started beside it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests.bench.fleet import rounds as measure
from tests.bench.fleet.load import passing
from tests.bench.fleet.machine import Busy
from tests.bench.fleet.record import KINDS, Record, figures, missed, remarks, table
from tests.bench.fleet.rig import ETCD_MEMBERS, REPLICAS, ZONES, rig
from tests.bench.fleet.simulated import Simulated, simulate

RESULTS = Path(__file__).parents[1] / "results"
_LOOK_S = 5.0
# Two sizes of the pool, in turn.
_SIZES = (7, 8)


async def measured(
    *, nodes: int, rounds: int, edits: int, peace_s: float, rate: float, simulated: Simulated | None,
    report: Callable[[str], None],
) -> Record:  # fmt: skip
    """Everything that is measured of real nodes, and the conditions."""
    waiting, quiet = os.getloadavg()[0], Busy()
    await passing(_LOOK_S)
    before = quiet.share()
    async with rig(nodes=nodes, rate=rate, report=report) as one:
        await one.calm()
        loaded = Busy()
        await passing(_LOOK_S)
        load = loaded.share()
        edited = [await measure.edit(one, _SIZES[number % 2]) for number in range(edits)]
        report(f"{edits} edits are done")
        failures: dict[measure.Kind, list[measure.Failure]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            for kind, found in failures.items():
                found.append(await measure.failure(one, kind, one.replicas[number % REPLICAS]))
            last = ", ".join(f"{kind} {found[-1].avoided_ms:.0f}" for kind, found in failures.items())
            report(f"round {number + 1} of {rounds}, ms: {last}")
        report(f"peace for {peace_s:g} s")
        peace = await measure.peace(one, peace_s)
        if peace.writes:
            report(f"written in peace: {', '.join(peace.keys)}")
        answers = one.load.answers
    conditions: Record = {
        "date": f"{datetime.date.today()}",
        "version": __version__,
        "build": build_kind(),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
        "nodes": nodes,
        "etcd_members": ETCD_MEMBERS,
        "zones": min(ZONES, nodes),
        "servers": 1 + REPLICAS,
        "rounds": rounds,
        "offered_per_s": rate,
        "load_average_before": round(waiting, 1),
        "cpu_share_before": round(before, 2),
        "cpu_share_load": round(load, 2),
    }
    return conditions | figures(failures, edited, peace, answers, simulated, nodes=nodes)


@click.command()
@click.option("--nodes", default=8, show_default=True, help="Real nodes.")
@click.option("--rounds", default=24, show_default=True, help="How often each kind of failure is measured.")
@click.option("--edits", default=60, show_default=True, help="How many edits are measured.")
@click.option("--peace", "peace_s", default=600.0, show_default=True, help="Seconds of peace.")
@click.option("--rate", default=80.0, show_default=True, help="Statements per second, of all clients.")
@click.option("--simulated", default=200, show_default=True, help="Simulated nodes; 0 for none.")
@click.option("--simulated-rounds", default=5, show_default=True, help="Failures of each kind among them.")
@click.option("--quick", is_flag=True, help="3 nodes, 2 rounds, 4 edits, 10 s of peace; nothing is kept.")
def main(
    nodes: int, rounds: int, edits: int, peace_s: float, rate: float, simulated: int, simulated_rounds: int,
    quick: bool,
) -> None:  # fmt: skip
    """Measure how soon all nodes of a fleet avoid a dead server and run an edit, and what they write."""
    if quick:
        nodes, rounds, edits, peace_s, simulated, simulated_rounds = 3, 2, 4, 10.0, 30, 1
    console = Console()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    model = None
    if simulated:
        console.print(f"simulating {simulated} nodes")
        model = simulate(simulated, simulated_rounds)
    record = asyncio.run(
        measured(
            nodes=nodes, rounds=rounds, edits=edits, peace_s=peace_s, rate=rate, simulated=model,
            report=console.print,
        )
    )  # fmt: skip
    record["command"] = _command(sys.argv[1:])
    record["missed"] = ", ".join(missed(record))
    console.print(table(record))
    for line in remarks(record):
        console.print(line)
    if quick:
        console.print("A trial: results/ stays as it is.")
    else:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "fleet.json").write_text(json.dumps(record, indent=1) + "\n")


def _command(arguments: Sequence[str]) -> str:
    return " ".join(["make bench-fleet", *([f'ARGUMENTS="{" ".join(arguments)}"'] if arguments else [])])


if __name__ == "__main__":
    main()
