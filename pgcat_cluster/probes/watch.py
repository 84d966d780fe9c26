"""Watches one cluster: probes its servers, judges the samples, and tells what changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from pgcat_cluster.health.cluster import ClusterHealth, Decision
from pgcat_cluster.health.evidence import EvidenceClass, ProbeWanted, Sample, ServerFacts, Source
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.probes.prober import Connect, Prober, ProbeTarget


class ClusterWatch:
    """Owns the probes of one cluster and hands every sample, its own and traffic's, to the health machine.

    The machine's tick is the owner's to give: one for all clusters.

    `on_change` gets what moved, never empty and without wishes for probes: UseChanged for routing, the others
    say why. `on_facts` gets what each server said of itself, and since when it was asked.
    """

    def __init__(
        self,
        health: ClusterHealth,
        targets: Mapping[str, ProbeTarget],
        *,
        on_change: Callable[[list[Decision]], None],
        connect: Connect,
        on_facts: Callable[[str, ServerFacts, float], None] = lambda _server, _facts, _asked_at: None,
        chance: random.Random | None = None,
        now_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self.health = health
        self._targets = targets
        self._on_change = on_change
        self._on_facts = on_facts
        self._now_s = now_s
        self._prober = Prober(
            targets, guide=health, on_sample=self._receive, connect=connect, chance=chance, now_s=now_s
        )

    def start(self) -> None:
        self._prober.start()

    async def stop(self) -> None:
        await self._prober.stop()

    def target(self, server: str) -> ProbeTarget | None:
        """How a server is looked at; None if it is not of this cluster."""
        return self._targets.get(server)

    def probe(self, server: str) -> None:
        """Look at a server at once, by a fresh connect."""
        self._prober.nudge(server)

    def traffic_failed(self, server: str, evidence: EvidenceClass, detail: str) -> None:
        """A link of the pool could not be opened, or was lost: let a probe find out at once."""
        self._receive(server, Sample(source=Source.TRAFFIC, duration_s=0.0, failure=evidence, detail=detail))

    def _receive(self, server: str, sample: Sample) -> None:
        changes: list[Decision] = []
        now = self._now_s()
        for decision in self.health.receive(server, sample, now):
            if isinstance(decision, ProbeWanted):
                self._prober.nudge(decision.server, after_s=decision.after_s, fresh=decision.fresh)
            else:
                changes.append(decision)
        if changes:
            self._on_change(changes)
        if sample.facts is not None:
            # When all that follows from it is known.
            self._on_facts(server, sample.facts, now - sample.duration_s)
