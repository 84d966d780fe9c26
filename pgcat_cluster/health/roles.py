"""Who is primary in one cluster, found from what the servers say of themselves.

Source `static`: the named server, unless it is seen in recovery or with another identity; never another.
Source `observe`: the only server out of recovery, on the highest timeline. What always holds:

1. A change is made only on the answer of a fresh connection, given after the candidate was first seen.
2. Never to another system identifier and never to a lower timeline than the highest a primary had.
3. Two servers out of recovery on one timeline change nothing: the primary known stays, or there is none.
4. Nobody is chosen the first time before every server was heard: a former primary may answer first.

A server that fails keeps the role it had: that it can not be reached is the detector's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pgcat_cluster.health.evidence import ProbeWanted, Sample, ServerFacts, Source

LeadershipSource = Literal["static", "observe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryChanged:
    """From now on writes go to `after`; None: to nobody. `reason` is what an operator reads."""

    before: str | None
    after: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityChanged:
    """The server turned wrong or right: with a reason, its links must not be used, not even for reads."""

    server: str
    reason: str | None


Decision = PrimaryChanged | ProbeWanted | IdentityChanged


class Roles:
    """The role machine of one cluster. Owns who is primary and which servers are not what they should be."""

    def __init__(self, source: LeadershipSource, servers: Sequence[str], primary: str | None = None) -> None:
        """`primary` is the configured one for `static`; `observe` starts without."""
        self.source = source
        self.servers = tuple(servers)
        self.primary = primary if source == "static" else None
        self.reason = "configured" if self.primary else "no server has answered yet"
        self.wrong: dict[str, str] = {}
        self._configured = primary
        self._system_identifier: str | None = None
        self.timeline = 0  # the highest a primary of this cluster had
        self._facts: dict[str, ServerFacts] = {}
        self._heard: set[str] = set()
        self._candidate: str | None = None

    def receive(self, server: str, sample: Sample) -> list[Decision]:
        """Take one probe's answer, or its failure, into account."""
        if sample.source is Source.TRAFFIC:
            return []
        self._heard.add(server)
        if sample.facts is None:
            self._facts.pop(server, None)
        else:
            self._facts[server] = sample.facts
        confirmed = server if sample.facts is not None and sample.source is Source.FRESH else None
        decisions = self._check_static() if self.source == "static" else self._observe(confirmed)
        return decisions + self._check_identities()

    # -- static

    def _check_static(self) -> list[Decision]:
        facts = self._facts.get(self._configured) if self._configured else None
        if facts is None:
            return []  # nothing known against it
        if self._system_identifier not in (None, facts.system_identifier):
            return self._set_primary(None, f"{self._configured} has another system identifier")
        if facts.in_recovery:
            return self._set_primary(None, f"{self._configured} is in recovery")
        self._system_identifier = facts.system_identifier
        self.timeline = max(self.timeline, facts.timeline)
        return self._set_primary(self._configured, "configured, and out of recovery")

    # -- observe

    def _observe(self, confirmed: str | None) -> list[Decision]:
        decisions: list[Decision] = []
        current = self._facts.get(self.primary) if self.primary else None
        if current is not None and current.in_recovery:
            decisions += self._set_primary(None, f"{self.primary} is in recovery")
        writable = {
            server: facts
            for server, facts in self._facts.items()
            if not facts.in_recovery
            and self._system_identifier in (None, facts.system_identifier)
            and facts.timeline >= self.timeline
        }
        highest = max((facts.timeline for facts in writable.values()), default=0)
        leading = [server for server, facts in writable.items() if facts.timeline == highest]
        candidate = leading[0] if len(leading) == 1 else None
        if candidate is None or candidate == self.primary:
            self._candidate = None
            self.timeline = max(self.timeline, highest)
            if len(leading) > 1:
                self.reason = f"{' and '.join(sorted(leading))} are out of recovery on timeline {highest}"
            return decisions
        is_first = self._system_identifier is None
        if is_first and not self._heard.issuperset(self.servers):
            return decisions
        if confirmed == candidate and (is_first or self._candidate == candidate):
            self._candidate = None
            facts = writable[candidate]
            self._system_identifier, self.timeline = facts.system_identifier, facts.timeline
            return decisions + self._set_primary(
                candidate, f"only server out of recovery on timeline {highest}"
            )
        if self._candidate != candidate:
            self._candidate = candidate
            reason = f"out of recovery on timeline {highest}"
            decisions.append(ProbeWanted(server=candidate, after_s=0.0, fresh=True, reason=reason))
        return decisions

    # -- both

    def _set_primary(self, server: str | None, reason: str) -> list[Decision]:
        before, self.primary, self.reason = self.primary, server, reason
        if server == before:
            return []
        return [PrimaryChanged(before=before, after=server, reason=reason)]

    def _check_identities(self) -> list[Decision]:
        decisions: list[Decision] = []
        for server, facts in self._facts.items():
            reason = self._wrongness(server, facts)
            if reason == self.wrong.get(server):
                continue
            if reason is None:
                del self.wrong[server]
            else:
                self.wrong[server] = reason
            decisions.append(IdentityChanged(server=server, reason=reason))
        return decisions

    def _wrongness(self, server: str, facts: ServerFacts) -> str | None:
        if self._system_identifier not in (None, facts.system_identifier):
            return f"system identifier {facts.system_identifier}, not {self._system_identifier}"
        if facts.in_recovery or server in (self.primary, self._candidate) or self.primary is None:
            return None
        return f"out of recovery on timeline {facts.timeline}, but {self.primary} is primary"
