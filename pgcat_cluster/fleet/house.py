"""What a member of the fleet asks of the node it is part of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pgcat_cluster.agreement.bundles import Wrong
from pgcat_cluster.agreement.cancels import Neighbour
from pgcat_cluster.agreement.effects import Preflight
from pgcat_cluster.health.cluster import ClusterHealth
from pgcat_cluster.health.doubt import Place
from pgcat_cluster.topology.model import PoolKey, Topology
from pgcat_cluster.topology.settings import Settings

Findings = tuple[tuple[Wrong, ...], tuple[Wrong, ...]]


class FleetHouse(Protocol):
    """The node. `topology` is what it goes by now."""

    @property
    def topology(self) -> Topology: ...

    @property
    def healths(self) -> Mapping[str, ClusterHealth]:
        """What it sees of each cluster that it watches."""

    async def run(self, settings: Settings) -> None:
        """Go by these settings from now on. Raises InvalidSettings, or ConfigFault for a fault of the node's own, with
        all as it was."""

    async def preflight(self, effect: Preflight) -> Findings:
        """Try what the documents name: what makes them unusable, and what is only doubtful."""

    def heed(self, cluster: str) -> None:
        """What was agreed about a cluster is different now: look again what its servers may be used for."""

    def probe(self, cluster: str, server: str) -> None:
        """Look at a server at once, by a fresh connect."""

    def pause(self, pools: frozenset[PoolKey]) -> None:
        """Exactly these are paused by the fleet; what it paused before and is not among them goes on."""

    def reconnect(self, pools: frozenset[PoolKey]) -> None:
        """Each server link of these closes when it is released."""

    def lead(self, prefix: int) -> None:
        """Cancel keys begin with this prefix from now on."""

    async def ask_others(self, asked: tuple[Neighbour, ...], servers: frozenset[Place]) -> frozenset[Place]:
        """Those of the servers that these nodes together find bad; none where nobody can be asked."""

    def nudge(self, juror: Neighbour, cluster: str, server: str, evidence: str) -> None:
        """Let another node look at a server at once, if it can be told."""

    def is_drained(self, pools: frozenset[PoolKey]) -> bool:
        """None of these holds a server link."""
