"""A node asks others about several servers at once and hears which of them are bad for all."""

from __future__ import annotations

from contextlib import AsyncExitStack

from pgcat_cluster.agreement.cancels import Answer, Neighbour
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.peer_frames import Cancel
from pgcat_cluster.fleet.peers import Look, PeerLinks, PeerPort
from pgcat_cluster.fleet.witnesses import ask_witnesses
from pgcat_cluster.topology.units import Address

KEY = FleetKey([b"k" * 32])


class Witness:
    """Sees these servers; the others do not exist for it."""

    def __init__(self, **seen: str) -> None:
        self.seen = seen

    async def probe_here(self, cluster: str, server: str, within_s: float) -> Look | None:
        assert (cluster, within_s) == ("main", 5.0)
        return Look(self.seen[server], 0.001) if server in self.seen else None

    async def cancel_here(self, question: Cancel, asker: str) -> Answer:
        return "unknown"

    def nudge_here(self, cluster: str, server: str, evidence: str) -> None: ...

    def applied(self) -> dict[str, int]:
        return {}


async def test_only_what_is_bad_for_all_is_confirmed() -> None:
    seen = [
        Witness(r1="unreachable", r2="soft", r3="ok", r4="refused"),
        Witness(r1="unreachable", r2="ok", r3="ok", r4="refused"),
        Witness(r1="refused", r2="soft"),
    ]
    async with AsyncExitStack() as closing:
        asked = [Neighbour(node="gone", peer="127.0.0.1:1", zone="b")]
        for number, witness in enumerate(seen):
            port = PeerPort(witness, KEY, fleet="f", node=f"n{number}", address=Address("127.0.0.1", 0))
            await port.start()
            closing.push_async_callback(port.stop)
            asked.append(Neighbour(node=f"n{number}", peer=f"127.0.0.1:{port.port}", zone="a"))
        links = PeerLinks(KEY, fleet="f", node="me")
        closing.push_async_callback(links.stop)
        servers = [("main", name) for name in ("r1", "r2", "r3", "r4", "r5")]
        # One of four does not answer, and one knows nothing of r4: two of four are no majority.
        assert await ask_witnesses(links, asked, servers, 5.0) == {("main", "r1")}
        assert await ask_witnesses(links, asked[1:], servers, 5.0) == {("main", "r1"), ("main", "r4")}
