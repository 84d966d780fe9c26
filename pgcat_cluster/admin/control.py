"""What the consoles and the HTTP endpoints may ask of a node."""

from __future__ import annotations

from typing import Literal, Protocol

from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.snapshot import NodeSnapshot

ShutdownMode = Literal["drain", "wait_for_servers", "wait_for_clients", "immediate"]


class ControlPort(Protocol):
    """The node as its operators see it.

    A scope of `None` means all. The console has checked that names exist and that the state allows the
    command, in the same breath as it calls: what is synchronous here happens at once.
    """

    history: History

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

    def shutdown(self, mode: ShutdownMode) -> None:
        """Begins to end the node, and returns."""
        ...
