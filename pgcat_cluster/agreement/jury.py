"""Whose verdicts count for one server, and when they are enough."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct


class Voter(Struct, frozen=True, kw_only=True, order=True):
    """A serving node: `node` is its id, `host` what it shares its fate with."""

    node: str
    name: str
    host: str
    zone: str


class Jury(Struct, frozen=True, kw_only=True):
    """The jurors of one server in order of their rank, and what they need for a ban everywhere."""

    jurors: tuple[Voter, ...]
    need: int

    @property
    def zones(self) -> tuple[str, ...]:
        return tuple(sorted({juror.zone for juror in self.jurors}))

    def rank(self, node: str) -> int | None:
        """Its turn to propose, from 0; None for a node that is no juror."""
        return next((rank for rank, juror in enumerate(self.jurors) if juror.node == node), None)

    def of_zone(self, zone: str) -> tuple[Voter, ...]:
        return tuple(juror for juror in self.jurors if juror.zone == zone)

    def bans_everywhere(self, bad: Collection[str]) -> bool:
        """Rule Q: enough jurors of all, and in most zones a majority of the zone's."""
        if sum(juror.node in bad for juror in self.jurors) < self.need:
            return False
        zones = self.zones
        agreeing = [zone for zone in zones if _is_majority(self.of_zone(zone), bad)]
        return len(zones) < 2 or len(agreeing) >= len(zones) // 2 + 1

    def bans_in(self, zone: str, bad: Collection[str]) -> bool:
        """Rule Qz: a majority of the zone's jurors agrees (of two: both), and the fleet does not.

        It answers a break between zones; where there is only one, nothing is to be told apart.
        """
        is_agreed = len(self.zones) > 1 and _is_majority(self.of_zone(zone), bad)
        return is_agreed and not self.bans_everywhere(bad)

    def clears(self, scope: str, good: Collection[str]) -> bool:
        """Whether those who find the server good are enough to end a ban: a majority of all, or of the zone's."""
        members = [juror for juror in self.jurors if scope == FLEET or reaches(scope, juror.zone)]
        return _is_majority(members, good)


FLEET = "fleet"
_ZONE = "zone:"


def zone_scope(zone: str) -> str:
    """The scope of a ban that only the nodes of one zone obey."""
    return _ZONE + zone


def zone_of(scope: str) -> str | None:
    """The zone a scope is limited to."""
    return scope.removeprefix(_ZONE) if scope.startswith(_ZONE) else None


def reaches(scope: str, zone: str) -> bool:
    """Whether the nodes of a zone obey bans of this scope."""
    return scope in (FLEET, zone_scope(zone))


def voters(server: str, serving: Iterable[Voter]) -> tuple[Voter, ...]:
    """One node per host, since the nodes of a host fail together: the one that ranks highest for this server."""
    chosen: dict[str, Voter] = {}
    for voter in _ranked(server, serving):
        chosen.setdefault(voter.host, voter)
    return tuple(chosen.values())


def seat(server: str, serving: Iterable[Voter], size: int) -> Jury:
    """The jury of one server (`main/r1`) out of all serving nodes, the same whoever computes it.

    All voters if there are no more than `size`, who decide by majority. Else `size` of them, drawn zone by
    zone in turn, who need two thirds: those who were not drawn might have seen it differently.
    """
    return _seated(server, tuple(serving), size)


@lru_cache(maxsize=1 << 10)
def _seated(server: str, serving: tuple[Voter, ...], size: int) -> Jury:
    all_voters = voters(server, serving)
    if len(all_voters) <= size:
        return Jury(jurors=all_voters, need=len(all_voters) // 2 + 1)
    by_zone: defaultdict[str, list[Voter]] = defaultdict(list)
    for voter in all_voters:
        by_zone[voter.zone].append(voter)
    zones = sorted(by_zone, key=lambda zone: (-weight(server, zone), zone))
    drawn: list[Voter] = []
    turn = 0
    while len(drawn) < size:
        drawn += [by_zone[zone][turn] for zone in zones if turn < len(by_zone[zone])]
        turn += 1
    return Jury(jurors=_ranked(server, drawn[:size]), need=-(-2 * size // 3))


@lru_cache(maxsize=1 << 14)
def weight(*names: str) -> int:
    """Rendezvous hash: who has the highest for a subject is first for it; equal everywhere."""
    digest = blake2b("\0".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _ranked(server: str, some: Iterable[Voter]) -> tuple[Voter, ...]:
    return tuple(sorted(some, key=lambda voter: (-weight(server, voter.name), voter.node)))


def _is_majority(members: Sequence[Voter], agreeing: Collection[str]) -> bool:
    return bool(members) and sum(member.node in agreeing for member in members) > len(members) // 2
