"""When each node began or ceased to avoid a server, by its own log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgcat_cluster.net.clock import monotonic_s, wall_s

_LINE = re.compile(r"(?P<at>\S+Z) \w+ +(?P<event>server\.\w+) server=main/(?P<server>\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One line of one node's log; `at_s` by the monotonic clock that all processes of this machine share."""

    at_s: float
    event: str
    server: str


class NodeLog:
    """Reads what a node's log tells of servers, as it grows."""

    def __init__(self, path: Path) -> None:
        self.sightings: list[Sighting] = []
        self._path = path
        self._read_bytes = 0
        self._rest = ""

    def read(self) -> None:
        """Take in what is new."""
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            said = file.read()
        self._read_bytes += len(said)
        *lines, self._rest = (self._rest + said.decode()).split("\n")
        ahead_s = wall_s() - monotonic_s()
        for line in lines:
            if (found := _LINE.match(line)) is not None:
                at = datetime.fromisoformat(found["at"].replace("Z", "+00:00")).timestamp()
                self.sightings.append(
                    Sighting(at_s=at - ahead_s, event=found["event"], server=found["server"])
                )

    def last(self, server: str, *events: str, since_s: float = 0.0) -> Sighting | None:
        """The newest of some events about a server."""
        found = (
            one
            for one in reversed(self.sightings)
            if one.server == server and one.event in events and one.at_s >= since_s
        )
        return next(found, None)

    def avoided_at_s(self, server: str, since_s: float) -> float | None:
        """Since when the node sends no new work there; None while it does."""
        newest = self.last(server, "server.avoided", "server.restored", since_s=since_s)
        return newest.at_s if newest is not None and newest.event == "server.avoided" else None

    def is_used(self, server: str) -> bool:
        """Whether new work goes there, as far as the log tells."""
        newest = self.last(server, "server.avoided", "server.restored")
        return newest is None or newest.event == "server.restored"
