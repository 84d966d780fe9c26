"""What the consoles and the HTTP endpoints may ask of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pgcat_cluster.admin.bans import LocalBans
from pgcat_cluster.agreement.orders import Obeyed, Place
from pgcat_cluster.agreement.overview import Overview
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.snapshot import NodeSnapshot

ShutdownMode = Literal["drain", "wait_for_servers", "wait_for_clients", "immediate"]


class FleetPort(Protocol):
    """All nodes, as an operator sees and commands them from one of them.

    A command answers when every node obeys, within bounded time. Each raises FleetFault: who did not obey, and
    what stands now. `by` says who orders it. A node that goes by a file is a fleet of one.
    """

    @property
    def is_alone(self) -> bool:
        """The node goes by a file."""
        ...

    @property
    def paused(self) -> frozenset[str]:
        """The databases that the fleet has paused."""
        ...

    async def overview(self) -> Overview:
        """How things are, by the store's word of now. Raises FleetFault if it gives none."""
        ...

    async def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> Obeyed:
        """Nobody uses these servers; for so long, or until that is taken back."""
        ...

    async def unban(self, servers: Sequence[Place]) -> Obeyed:
        """Take back bans by operators and by the fleet."""
        ...

    async def pause(self, database: str | None, by: str) -> Obeyed:
        """No transaction begins, and no server link is left when it answers; undone if that does not come."""
        ...

    async def resume(self, database: str | None) -> Obeyed: ...

    async def reconnect(self, database: str | None, by: str) -> Obeyed: ...

    async def reload(self) -> Obeyed:
        """Returns when every node runs what is desired. Raises ConfigFault if that is refused."""
        ...


class ControlPort(Protocol):
    """The node as its operators see it.

    A scope of `None` means all. The console has checked that names exist and that the state allows the
    command, in the same breath as it calls: what is synchronous here happens at once.
    """

    history: History
    bans: LocalBans

    @property
    def fleet(self) -> FleetPort: ...

    def snapshot(self, *, connections: bool, settings: bool = True) -> NodeSnapshot:
        """The statistics now; what is not asked for is empty: `connections` are `clients` and `links`."""
        ...

    def pause(self, database: str | None, user: str | None) -> None:
        """Hands out no more servers in the scope; each link closes when it is released."""
        ...

    async def drained(self, database: str | None, user: str | None) -> None:
        """Returns when the paused scope has no server link left, or is not paused any more."""
        ...

    def resume(self, database: str | None, user: str | None) -> None:
        """Undoes a pause of the scope, if there is one; clients that wait are served."""
        ...

    def reconnect(self, database: str | None) -> None:
        """Retires the server links of the scope: each closes when released, new ones replace them."""
        ...

    async def reload(self) -> None:
        """Reads the settings again. Raises ConfigFault, with everything as it was, if they are wrong."""
        ...

    def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> None:
        """This node uses these servers for nothing, for so long or until that is taken back."""
        ...

    def unban(self, servers: Sequence[Place]) -> list[Place]:
        """Take back what `ban` said; those it was said of."""
        ...

    def shutdown(self, mode: ShutdownMode) -> None:
        """Begins to end the node, and returns."""
        ...
