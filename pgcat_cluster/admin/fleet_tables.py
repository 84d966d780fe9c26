"""The fleet's tables: whatever `pgcat-cluster fleet status` shows, column by column, from the same overview."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pgcat_cluster.admin.rows import Column, Row, columns
from pgcat_cluster.agreement.documents import Finding
from pgcat_cluster.agreement.overview import NodeView, Overview
from pgcat_cluster.telemetry.redaction import redact


class FleetTable(msgspec.Struct, frozen=True, kw_only=True):
    """One SHOW command about all nodes: its columns, and its rows in any order."""

    columns: tuple[Column, ...]
    rows: Callable[[Overview], list[Row]]


def _fleet(view: Overview) -> list[Row]:
    """What each node says about what is desired; a node has a row more for each thing that it objects to."""
    accepted, desired = view.accepted, view.desired
    head = (
        view.fleet,
        accepted.gen if accepted else None,
        accepted.rev if accepted else None,
        desired.state,
        desired.rev,
        desired.why,
    )
    rows: list[Row] = [(*head, node.node, node.active, *said) for node in view.nodes for said in _said(node)]
    rows += [(*head, name, None, "lost", "", "", LOST) for name in view.lost_seats]
    return rows or [(*head, "", None, "", "", "", "")]


LOST = "dead or cut off; `pgcat-cluster fleet forget NAME` if dead"


def _said(node: NodeView) -> Iterable[tuple[str, str, str, str]]:
    """A node's word, and where it applies key, path and message."""
    if not node.nack:
        yield "accepted" if node.is_valid else "silent", "", "", ""
    for word, findings in (("nacked", node.nack), ("unusable", node.unusable), ("warned", node.warn)):
        for finding in findings:
            yield word, *_place(finding)


def _place(finding: Finding) -> tuple[str, str, str]:
    return finding.key, finding.path, redact(finding.msg)


def _nodes(view: Overview) -> list[Row]:
    rows: list[Row] = [
        (
            node.node,
            node.state,
            node.zone,
            node.host,
            node.addr,
            node.version,
            _yes(node.node == view.coordinator),
            node.active,
            _yes(node.is_lagging),
            _yes(node.suspects_itself),
        )
        for node in view.nodes
    ]
    return rows + [(name, "lost", "", "", "", "", "no", None, "yes", "no") for name in view.lost_seats]


def _bans(view: Overview) -> list[Row]:
    """What the fleet agreed, and what operators said about single servers, which counts for more."""
    rows: list[Row] = [
        (
            ban.server,
            "vote",
            ban.scope,
            ban.state,
            ", ".join(ban.why),
            "",
            ", ".join(ban.votes),
            ban.need,
            ban.jury,
            ban.strikes,
            ban.since_rev,
        )
        for ban in view.bans
    ]
    for said in view.overrides:
        if not said.target.startswith("_") and not said.doubt:
            rows.append(
                (
                    said.target,
                    "operator",
                    "fleet",
                    said.says,
                    said.reason,
                    said.by,
                    "",
                    *3 * (None,),
                    said.rev,
                )
            )
    return rows


def _overrides(view: Overview) -> list[Row]:
    return [(one.target, one.says, one.reason, one.by, one.doubt, one.rev) for one in view.overrides]


def _verdicts(view: Overview) -> list[Row]:
    return [
        (one.server, one.node, one.v, ", ".join(one.why), one.zone, one.gen, one.since_rev)
        for one in view.verdicts
    ]


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


TABLES: dict[str, FleetTable] = {
    "FLEET": FleetTable(
        columns=columns(
            "fleet generation accepted_rev desired desired_rev why node runs says key path message",
            "sqqsqssqssss",
        ),
        rows=_fleet,
    ),
    "FLEET BANS": FleetTable(
        columns=columns("server source scope state why by votes need jury strikes since_rev", "sssssssiiiq"),
        rows=_bans,
    ),
    "FLEET OVERRIDES": FleetTable(
        columns=columns("target says reason by but since_rev", "sssssq"), rows=_overrides
    ),
    "NODES": FleetTable(
        columns=columns(
            "node state zone host addr version coordinator generation lagging suspects_itself", "sssssssqss"
        ),
        rows=_nodes,
    ),
    "VERDICTS": FleetTable(
        columns=columns("server node verdict why zone generation since_rev", "sssssqq"), rows=_verdicts
    ),
}
