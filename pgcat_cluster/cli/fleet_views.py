"""What `pgcat-cluster fleet` prints: tables and lines for people."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pgcat_cluster.agreement.documents import Finding, History
from pgcat_cluster.agreement.overview import NodeView, Overview

# Wide enough for node ids beside each other where no terminal says how wide it is.
_WIDTH = 160

_STATES = {"accepted": "green", "validating": "yellow"}


def plain(text: str) -> str:
    """One line that does nothing to a terminal, whatever somebody wrote into a key."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)


def finding(one: Finding) -> str:
    return plain(": ".join(filter(None, (one.key, one.path, one.msg))))


def node_lines(nodes: Sequence[NodeView], *, is_in_force: bool) -> Iterator[str]:
    """What each node says about an edit; about one that is in force anyway they need not say anything."""
    for node in nodes:
        silent = "" if is_in_force else "said nothing about it; "
        word = "found it wrong; " if node.nack else "found it valid; " if node.is_valid else silent
        runs = f"runs generation {node.active}" if node.active is not None else "runs nothing yet"
        yield f"  {node.node}  {word}{runs}"
        for one in (*node.nack, *node.unusable):
            yield f"    {finding(one)}"


def show_status(view: Overview) -> None:
    console = _console()
    accepted, desired = view.accepted, view.desired
    generation = f"generation {accepted.gen} (revision {accepted.rev})" if accepted else "nothing yet"
    top = Table.grid(padding=(0, 2))
    top.add_row(Text("fleet", "bold"), plain(view.fleet))
    top.add_row(Text("accepted", "bold"), generation)
    state = Text(desired.state, _STATES.get(desired.state, "red"))
    why = f": {plain(desired.why)}" if desired.why else ""
    top.add_row(Text("desired", "bold"), Text.assemble(state, f" (revision {desired.rev}){why}"))
    top.add_row(Text("coordinator", "bold"), view.coordinator or "none")
    if view.lost_seats:
        lost = f"{', '.join(view.lost_seats)} (dead or cut off; `fleet forget NAME` if dead)"
        top.add_row(Text("lost seats", "bold red"), plain(lost))
    console.print(top)
    if view.nodes:
        console.print(_nodes(view))
    for node in view.nodes:
        for word, style, found in (
            ("wrong", "red", node.nack),
            ("can not run", "red", node.unusable),
            ("warning", "yellow", node.warn),
        ):
            for one in found:
                console.print(Text.assemble(f"{node.node} ", (word, style), f" {finding(one)}"))
    if view.bans:
        rows = [
            (one.server, one.scope, one.state, ", ".join(one.why), _votes(one.votes, one.jury, one.need),
             str(one.strikes), str(one.since_rev))
            for one in view.bans
        ]  # fmt: skip
        headings = ("banned server", "scope", "state", "why", "votes", "strikes", "since revision")
        console.print(_table(headings, rows))
    if view.verdicts:
        judged = [
            (one.server, one.v, ", ".join(one.why), one.node, one.zone, str(one.since_rev))
            for one in view.verdicts
        ]
        console.print(_table(("server", "verdict", "why", "of node", "zone", "since revision"), judged))
    if view.overrides:
        said = [
            (one.target, one.says or "(nothing)", one.reason, one.by, one.doubt, str(one.rev))
            for one in view.overrides
        ]
        console.print(_table(("override", "says", "reason", "by", "but", "revision"), said))


def _votes(votes: Sequence[str], jury: int, need: int) -> str:
    return f"{len(votes)} of {jury}, {need} needed: {', '.join(votes)}"


def _nodes(view: Overview) -> Table:
    rows = [
        (
            node.node,
            node.state + (", suspects itself" if node.suspects_itself else ""),
            node.zone,
            node.host,
            node.addr,
            node.version,
            "no" if node.nack else "yes" if node.is_valid else "",
            "" if node.active is None else str(node.active) + (" (behind)" if node.is_lagging else ""),
        )
        for node in view.nodes
    ]
    headings = ("node", "state", "zone", "host", "address", "version", "desired valid", "runs generation")
    return _table(headings, rows)


def show_history(history: Sequence[History], in_force: int | None) -> None:
    rows = [
        (
            f"{one.gen}{' (in force)' if one.gen == in_force else ''}",
            str(one.at_rev),
            one.by,
            ", ".join(one.changed),
        )
        for one in history
    ]
    _console().print(_table(("generation", "revision", "accepted by", "changed"), rows))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Columns that say nothing in any row are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown = [index for index in range(len(headings)) if any(row[index] for row in rows)]
    for index in shown:
        table.add_column(headings[index], overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(row[index])) for index in shown))
    return table


def _console() -> Console:
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH)
