"""Makes of what was measured one flat record, with each aim beside its figure, and a table for people."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table

from tests.bench.fleet.load import Answer
from tests.bench.fleet.rounds import Edit, Failure, Kind, Peace
from tests.bench.fleet.simulated import Simulated

Record = dict[str, int | float | str]

KINDS: Mapping[Kind, str] = {
    "kill_traffic": "killed under traffic",
    "kill_idle": "killed while idle",
    "frozen": "frozen under traffic",
}
# At most so much.
_AIMS = {
    "kill_traffic_p50_ms": 150,
    "kill_traffic_p99_ms": 500,
    "kill_idle_p50_ms": 1500,
    "frozen_p50_ms": 3500,
    "edit_p50_ms": 80,
    "edit_p99_ms": 250,
    "writes_in_peace": 0,
    "client_errors": 0,
    "sim_writes_per_failure": 12,
    "sim_writes_in_peace": 0,
}
_SMALL_FLEET = 9


def figures(
    failures: Mapping[Kind, Sequence[Failure]],
    edits: Sequence[Edit],
    peace: Peace,
    answers: Sequence[Answer],
    simulated: Simulated | None,
    *,
    nodes: int,
) -> Record:
    """All figures by their names."""
    found: Record = {}
    for kind, rounds in failures.items():
        found |= spread(kind, [one.avoided_ms for one in rounds])
        found |= {
            f"{kind}_first_node_p50_ms": middle(one.first_avoided_ms for one in rounds),
            f"{kind}_ban_p50_ms": middle(one.ban_ms for one in rounds),
            f"{kind}_last_node_obeys_p50_ms": middle(one.obeyed_ms for one in rounds),
            f"{kind}_writes": max(len(one.writes) for one in rounds),
            f"{kind}_return_writes": max(one.return_writes for one in rounds),
            f"{kind}_cpu_share": middle((one.cpu_share for one in rounds), 2),
            f"{kind}_rounds": len(rounds),
        }
    sent = [one.last_sent_ms for one in failures.get("frozen", ()) if one.last_sent_ms is not None]
    if sent:
        found["frozen_last_client_p50_ms"] = middle(sent)
    for kind in ("kill_traffic", "frozen"):
        found[f"{kind}_slowest_answer_p50_ms"] = middle(one.slowest_ms for one in failures[kind])
    found |= spread("edit", [one.acked_ms for one in edits])
    found |= {
        "edit_accepted_p50_ms": middle(one.accepted_ms for one in edits),
        "edit_writes": max(one.writes for one in edits),
        "edit_cpu_share": middle((one.cpu_share for one in edits), 2),
        "edit_rounds": len(edits),
        "writes_in_peace": peace.writes,
        "peace_s": round(peace.seconds),
        "peace_cpu_share": round(peace.cpu_share, 2),
    }
    everything = [one for rounds in failures.values() for one in rounds]
    faults = [answer for answer in answers if answer.fault]
    found |= {
        "writes_per_failure": max(len(one.writes) for one in everything),
        "false_alarms": sum(one.false_alarms for one in everything),
        "client_statements": len(answers),
        "client_errors": sum(not answer.begun for answer in faults),
        "client_errors_rows_begun": sum(answer.begun for answer in faults),
        "client_faults": ", ".join(f"{count} × {what}" for what, count in Counter(met(faults)).items()),
    }
    if simulated is not None:
        found |= {
            "sim_nodes": simulated.nodes,
            "sim_rounds": len(simulated.killed_ms),
            "sim_kill_p50_ms": middle(simulated.killed_ms),
            "sim_kill_worst_ms": round(max(simulated.killed_ms), 1),
            "sim_frozen_p50_ms": middle(simulated.frozen_ms),
            "sim_frozen_worst_ms": round(max(simulated.frozen_ms), 1),
            "sim_writes_per_failure": max((*simulated.writes_per_kill, *simulated.writes_per_freeze)),
            "sim_writes_in_peace": simulated.writes_in_peace,
            "sim_writes_per_edit": simulated.writes_per_edit,
        }
    return found | {f"aim_{name}": aim for name, aim in aims(nodes).items() if name in found}


def met(faults: Iterable[Answer]) -> Iterator[str]:
    """What clients met, each with how long it took from when it was to be sent."""
    for one in faults:
        took_s = one.ended_s - one.due_s
        yield f"{one.fault} at node {one.node + 1} after {'more than a second' if took_s > 1 else 'a moment'}"


def aims(nodes: int) -> Mapping[str, int]:
    """What the figures are to be at most; a small fleet's writes depend on its size."""
    return _AIMS | ({"writes_per_failure": nodes + 2} if nodes <= _SMALL_FLEET else {})


def missed(record: Record) -> list[str]:
    """The figures that are above their aims."""
    return [
        name
        for name in (one.removeprefix("aim_") for one in record if one.startswith("aim_"))
        if float(record[name]) > float(record[f"aim_{name}"])
    ]


def spread(name: str, values: Sequence[float]) -> Record:
    """Median, 99th percentile (the worst, of fewer than a hundred) and worst of some times."""
    ordered = sorted(values)
    return {
        f"{name}_p50_ms": middle(ordered),
        f"{name}_p99_ms": round(ordered[math.ceil(len(ordered) * 0.99) - 1], 1),
        f"{name}_worst_ms": round(ordered[-1], 1),
    }


def middle(values: Iterable[float], digits: int = 1) -> float:
    return round(statistics.median(values), digits)


def table(record: Record) -> Table:
    """The record as a person reads it."""
    shown = Table(title=f"{record['nodes']} nodes, {record['rounds']} rounds, in milliseconds")
    shown.add_column("", no_wrap=True)
    for column in ("p50", "p99", "worst", "aim", "aim p99", "writes", "CPU"):
        shown.add_column(column, justify="right")
    for name, words in (*KINDS.items(), ("edit", "edit, to the last ack")):
        times = (
            f"{name}_p50_ms",
            f"{name}_p99_ms",
            f"{name}_worst_ms",
            f"aim_{name}_p50_ms",
            f"aim_{name}_p99_ms",
        )
        shown.add_row(
            words,
            *(f"{float(record[one]):.0f}" if one in record else "" for one in times),
            str(record[f"{name}_writes"]),
            f"{float(record[f'{name}_cpu_share']):.0%}",
        )
    return shown


def remarks(record: Record) -> list[str]:
    """What stands beside the table."""
    lines = [
        f"peace: {record['writes_in_peace']} writes in {record['peace_s']} s",
        f"writes per failure: at most {record['writes_per_failure']}",
        f"clients: {record['client_errors']} errors and {record['client_errors_rows_begun']} after rows had begun, "
        f"of {record['client_statements']} statements at {record['offered_per_s']:g} a second"
        + (f" ({record['client_faults']})" if record["client_faults"] else ""),
        f"machine: {float(record['cpu_share_before']):.0%} busy before, load average "
        f"{record['load_average_before']}; "
        f"{float(record['cpu_share_load']):.0%} with the load",
    ]
    if "sim_nodes" in record:
        lines.append(
            f"{record['sim_nodes']} simulated nodes: {record['sim_writes_per_failure']} writes per failure, "
            f"{record['sim_writes_in_peace']} in peace, {record['sim_writes_per_edit']} per edit; in the model's time "
            f"killed {record['sim_kill_p50_ms']} ms, frozen {record['sim_frozen_p50_ms']} ms"
        )
    above = missed(record)
    lines.append("every aim is met" if not above else f"MISSED: {', '.join(above)}")
    return lines
