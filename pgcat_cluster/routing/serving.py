"""Which servers of a shard serve which role, by the pool's policy and what is seen of them; or why not."""

from __future__ import annotations

from pgcat_cluster.relay import marks
from pgcat_cluster.topology.model import PoolSettings, Value
from pgcat_cluster.topology.settings import OnAllBad
from pgcat_cluster.topology.view import ClusterView, ServerView


class Candidate(Value, frozen=True, kw_only=True):
    """One server of a shard, for one role: whether statements may go there now, and what there is to say."""

    server: ServerView
    is_eligible: bool
    reason: str = ""


def candidates(
    view: ClusterView, role: int, settings: PoolSettings, on_all_bad: OnAllBad
) -> tuple[Candidate, ...]:
    """Every server of a shard, the primary first."""
    standbys = _standbys(view, on_all_bad)
    has_standby = any(one.is_eligible for one in standbys)
    leading = [
        _leader(server, role, settings, on_all_bad, has_standby)
        for server in view.servers.values()
        if server.key == view.primary
    ]
    why_no_replica = ""
    if role == marks.PRIMARY:
        why_no_replica = view.why_no_primary or "a replica"
    elif role == marks.REPLICA and settings.reads == "primary":
        why_no_replica = "reads stay on the primary by settings"
    if why_no_replica:
        standbys = [
            Candidate(server=one.server, is_eligible=False, reason=why_no_replica) for one in standbys
        ]
    return (*leading, *standbys)


def _standbys(view: ClusterView, on_all_bad: OnAllBad) -> list[Candidate]:
    """The replicas as such."""
    is_any = on_all_bad == "any" and not view.readable
    return [
        Candidate(server=server, is_eligible=not server.why_not or is_any, reason=server.why_not)
        for server in view.replicas
    ]


def _leader(
    server: ServerView, role: int, settings: PoolSettings, on_all_bad: OnAllBad, has_standby: bool
) -> Candidate:
    """The primary: whether it serves a role too."""
    if role in (marks.PRIMARY, marks.ANY):
        return Candidate(server=server, is_eligible=True)
    if role == marks.STANDBY:
        return Candidate(server=server, is_eligible=False, reason="the primary")
    policy = settings.reads_on_primary
    is_eligible = (
        settings.reads == "primary"
        or policy == "always"
        or (policy == "when_no_replica" and not has_standby and on_all_bad != "fail")
    )
    reason = "" if is_eligible else f'the primary, which takes reads "{policy}"'
    return Candidate(server=server, is_eligible=is_eligible, reason=reason)
