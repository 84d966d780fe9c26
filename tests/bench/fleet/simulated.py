"""The same of 200 simulated nodes: production's members on virtual time, so its times are the model's constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.simulation.fleet import Company
from tests.simulation.node import Process
from tests.simulation.world import Plan

CLUSTER = "main"
SERVERS = 4
ZONES = 3
_JOINED_S = 20.0
# A non-juror among 200 looks every 20 s.
_PEACE_S = 60.0
_FAILED_S = 5.0
# Long enough until people are told, and less than the shortest ban, whose end is a revision too.
_TOLD_S = 1.0
_RETURN_S = 120.0
_EDITED_S = 5.0
_STEP_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What 200 nodes wrote, and when the last one avoided the server, in milliseconds of virtual time."""

    nodes: int
    killed_ms: Sequence[float]
    frozen_ms: Sequence[float]
    writes_per_kill: Sequence[int]
    writes_per_freeze: Sequence[int]
    writes_in_peace: int
    writes_per_edit: int


class Simulation:
    """One company of nodes that meets one failure after the other."""

    def __init__(self, nodes: int, seed: int) -> None:
        plan = Plan(
            nodes=nodes,
            zones=ZONES,
            clusters={CLUSTER: SERVERS},
            jury=9,
            min_healthy=SERVERS // 2,
            lag_share=0.0,
        )
        self._company = Company(seed, plan)

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the nodes live, from when all have joined."""
        with self._company.open():
            self._company.run_until(_JOINED_S)
            yield

    def peace(self) -> int:
        """Revisions written while nothing happens."""
        before = self._revision
        self._company.run_until(self._now + _PEACE_S)
        return self._revision - before

    def failure(self, kind: str, server: str) -> tuple[float, int]:
        """A server fails and returns: when the last node avoids it, and what was written until the ban stood."""
        state = self._company.world.servers[CLUSTER, server]
        began_s, before = self._now, self._revision
        state.turn(kind, began_s)
        using = set(self._company.alive)
        while using:
            assert self._now < began_s + _FAILED_S, f"{len(using)} nodes still use {server}"
            self._company.run_until(self._now + _STEP_S)
            using = {process for process in using if self._uses(process, server)}
        avoided_s = self._now - began_s
        self._company.run_until(self._now + _TOLD_S)
        written = list(self._company.world.store.history("", before + 1))
        state.turn("up", self._now)
        deadline_s = self._now + _RETURN_S
        while any(row.startswith(self._verdicts) for row in self._rows) or self._is_banned():
            assert self._now < deadline_s, f"{server} is not forgiven"
            self._company.run_until(self._now + 1.0)
        self._company.run_until(self._now + _TOLD_S)
        return avoided_s * 1000, len(written)

    def edit(self) -> int:
        """Revisions of one edit of one document, the operator's put among them."""
        company, before = self._company, self._revision
        removed = frozenset({(CLUSTER, f"r{SERVERS - 1}")})
        assert company.put(company.documents(removed), removed)
        company.run_until(self._now + _EDITED_S)
        assert company.wanted_is_accepted()
        return self._revision - before

    @property
    def _now(self) -> float:
        return self._company.world.clock.now

    @property
    def _revision(self) -> int:
        return self._company.world.store.revision

    @property
    def _rows(self) -> Sequence[str]:
        return list(self._company.checks.rows)

    @property
    def _verdicts(self) -> str:
        return self._company.world.keys.verdict_prefix

    def _is_banned(self) -> bool:
        return any(row.startswith(self._company.world.keys.ban_prefix) for row in self._rows)

    @staticmethod
    def _uses(process: Process, server: str) -> bool:
        return process.house.tables[CLUSTER].servers[server].reads


def simulate(nodes: int, rounds: int, seed: int = 1) -> Simulated:
    """So many failures of either kind, one after the other, and one edit."""
    simulation = Simulation(nodes, seed)
    replicas = [f"r{index}" for index in range(1, SERVERS)]
    with simulation.open():
        peace = simulation.peace()
        killed, frozen = (
            [simulation.failure(kind, replicas[number % len(replicas)]) for number in range(rounds)]
            for kind in ("down", "hung")
        )
        edit = simulation.edit()
    return Simulated(
        nodes=nodes,
        killed_ms=[at_ms for at_ms, _ in killed],
        frozen_ms=[at_ms for at_ms, _ in frozen],
        writes_per_kill=[writes for _, writes in killed],
        writes_per_freeze=[writes for _, writes in frozen],
        writes_in_peace=peace,
        writes_per_edit=edit,
    )
