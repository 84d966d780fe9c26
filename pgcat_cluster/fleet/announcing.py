"""Says in the log which bans came, changed and went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from structlog.typing import FilteringBoundLogger

from pgcat_cluster.agreement.documents import Ban
from pgcat_cluster.telemetry.logs import lifecycle

Bans = Mapping[str, Mapping[str, Iterable[Ban]]]  # by cluster and server


def announce(log: FilteringBoundLogger, before: Bans, after: Bans) -> None:
    """One line for each ban that is another than before."""
    known, now = _by_place(before), _by_place(after)
    for place, ban in now.items():
        if place not in known or known[place].state != ban.state:
            lifecycle(
                log,
                "server.banned" if ban.state == "banned" else "server.probation",
                server=f"{place[0]}/{place[1]}",
                scope=ban.scope,
                why=",".join(ban.why),
                votes=f"{len(ban.votes)} of {ban.jury}",
            )
    for cluster, server, scope in known.keys() - now.keys():
        lifecycle(log, "server.unbanned", server=f"{cluster}/{server}", scope=scope)


def _by_place(bans: Bans) -> dict[tuple[str, str, str], Ban]:
    return {
        (cluster, server, ban.scope): ban
        for cluster, by in bans.items()
        for server, own in by.items()
        for ban in own
    }
