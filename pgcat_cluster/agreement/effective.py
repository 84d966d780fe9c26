"""The one function by which every node routes: what each server of a cluster may be used for, and why not more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from pgcat_cluster.agreement.documents import Ban, ServerOverride
from pgcat_cluster.agreement.jury import reaches
from pgcat_cluster.agreement.overrides import removes
from pgcat_cluster.topology.model import Cluster
from pgcat_cluster.topology.settings import OnAllBad

_RAMP_FROM = 0.1


class LocalOpinion(Struct, frozen=True, kw_only=True):
    """What this node found out by itself. `wrong` is about identity: no word of the fleet outweighs it."""

    reads: bool = True
    writes: bool = True
    wrong: bool = False
    reason: str = ""


class Use(Struct, frozen=True, kw_only=True):
    """What one server may be used for; `reason` says why not more.

    `drained`: what runs may end. `probed` is false for what an operator told us to ignore.
    """

    reads: bool
    writes: bool
    weight: float
    reason: str = ""
    drained: bool = False
    probed: bool = True


class Effective(Struct, frozen=True, kw_only=True):
    """A cluster as a node uses it. `on_all_bad` is set while no replica may be read, and says what reads do."""

    servers: Mapping[str, Use]
    on_all_bad: OnAllBad | None = None


def effective(
    cluster: Cluster,
    *,
    bans: Mapping[str, Sequence[Ban]],
    primary: str | None,
    overrides: Mapping[str, ServerOverride],
    zone: str,
    opinions: Mapping[str, LocalOpinion],
    ramps: Mapping[str, float],
) -> Effective:
    """Operator before wrong identity before fleet ban before local ejection.

    A ban concerns reads only: where writes go is not voted on. `zone` is the node's own; `ramps` are the shares
    of weight of servers on probation, from `ramp`. Without opinions the answer is what was agreed, the same on
    every node of a zone.
    """
    uses = {
        name: _use(
            server.weight,
            is_primary=name == primary,
            bans=[ban for ban in bans.get(name, ()) if reaches(ban.scope, zone)],
            override=overrides.get(name),
            opinion=opinions.get(name, LocalOpinion()),
            share=ramps.get(name, _RAMP_FROM),
        )
        for name, server in cluster.servers.items()
    }
    if any(use.reads for name, use in uses.items() if name != primary):
        return Effective(servers=uses)
    on_all_bad = cluster.read.on_all_bad
    if on_all_bad == "any":
        for name, use in uses.items():
            # Using anything beats using nothing, except what an operator removed and what is something else.
            if not removes(overrides.get(name)) and not opinions.get(name, LocalOpinion()).wrong:
                uses[name] = Use(reads=True, writes=use.writes, weight=use.weight, reason=use.reason)
    return Effective(servers=uses, on_all_bad=on_all_bad)


def ramp(since_s: float, now: float, ramp_s: float) -> float:
    """The share of its weight a server on probation takes: from a tenth to all of it."""
    if ramp_s <= 0:
        return 1.0
    return min(1.0, _RAMP_FROM + (1 - _RAMP_FROM) * max(0.0, now - since_s) / ramp_s)


def _use(
    weight: float,
    *,
    is_primary: bool,
    bans: Sequence[Ban],
    override: ServerOverride | None,
    opinion: LocalOpinion,
    share: float,
) -> Use:
    if override is not None and removes(override):
        return Use(
            reads=False,
            writes=False,
            weight=0,
            reason=_said(override),
            drained=override.action == "drain",
            probed=override.action != "ignore",
        )
    if opinion.wrong:
        return Use(reads=False, writes=False, weight=0, reason=opinion.reason)
    writes = is_primary and opinion.writes
    in_force = [] if override is not None else bans
    for ban in in_force:
        if ban.state == "banned":
            return Use(reads=False, writes=writes, weight=0, reason=f"{ban.scope} ban: {', '.join(ban.why)}")
    if not opinion.reads:
        return Use(reads=False, writes=writes, weight=0, reason=opinion.reason)
    return Use(
        reads=True,
        writes=writes,
        weight=weight * share if in_force else weight,
        reason="on probation" if in_force else opinion.reason,
    )


def _said(override: ServerOverride) -> str:
    who = f"operator {override.by}" if override.by else "operator"
    return f"{who}: {override.action}" + (f", {override.reason}" if override.reason else "")
