"""What a node without a fleet may use each server for: by its own eyes and its operators' words."""

from __future__ import annotations

from collections.abc import Mapping

from pgcat_cluster.agreement.documents import ServerOverride
from pgcat_cluster.agreement.effective import LocalOpinion, Use, effective
from pgcat_cluster.health.cluster import ClusterHealth
from pgcat_cluster.topology.model import Cluster


def uses(
    cluster: Cluster, health: ClusterHealth, primary: str | None, own: Mapping[str, ServerOverride]
) -> dict[str, Use]:
    """By the function that nodes of a fleet use, without anything agreed."""
    opinions = {
        name: LocalOpinion(
            reads=not one.reason, writes=one.writes, wrong=name in health.roles.wrong, reason=one.reason
        )
        for name, one in health.standings().items()
    }
    found = effective(cluster, bans={}, primary=primary, overrides=own, zone="", opinions=opinions, ramps={})
    return dict(found.servers)
