"""Servers that an operator bans from a console: which are meant, and which this node alone avoids until when."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from pgcat_cluster.admin.rows import Row
from pgcat_cluster.agreement.documents import ServerOverride
from pgcat_cluster.agreement.orders import Place
from pgcat_cluster.telemetry.places import places
from pgcat_cluster.telemetry.snapshot import BackendSnapshot, NodeSnapshot
from pgcat_cluster.topology.units import Address


class LocalBan(msgspec.Struct, frozen=True, kw_only=True):
    """Without `length_s` it ends with the node or by an operator's word; `until_s` is by the monotonic clock."""

    length_s: int | None
    until_s: float
    by: str


class LocalBans:
    """What operators forbid this node alone to use; each ends by itself, all of them when the node ends."""

    def __init__(self) -> None:
        self._bans: dict[Place, LocalBan] = {}

    def put(self, place: Place, ban: LocalBan) -> None:
        self._bans[place] = ban

    def lift(self, place: Place) -> bool:
        """Whether it was banned."""
        return self._bans.pop(place, None) is not None

    def of(self, place: Place) -> LocalBan | None:
        return self._bans.get(place)

    def overrides(self, cluster: str) -> Mapping[str, ServerOverride]:
        """As operators' words about the servers of a cluster."""
        return {
            server: ServerOverride(action="ban", by=ban.by, reason="on this node alone")
            for (own, server), ban in self._bans.items()
            if own == cluster
        }

    def expired(self, now: float) -> list[Place]:
        return [place for place, ban in self._bans.items() if now >= ban.until_s]


def meant(snapshot: NodeSnapshot, word: str) -> list[BackendSnapshot]:
    """The servers of an address, with or without port, or of a name, with or without its cluster."""
    return [
        one
        for one in snapshot.backends
        if word in (one.name, place_of(one)[1], one.host, str(Address(one.host, one.port)))
    ]


def place_of(backend: BackendSnapshot) -> Place:
    return backend.cluster, backend.name.removeprefix(f"{backend.cluster}/")


def rows_of(snapshot: NodeSnapshot, servers: Iterable[Place]) -> list[Row]:
    """The pools of some servers: db, user, role, host."""
    chosen: Collection[Place] = set(servers)
    return [
        (place.pool.database, place.pool.user, place.backend.role, place.backend.host)
        for place in places(snapshot)
        if place_of(place.backend) in chosen
    ]
