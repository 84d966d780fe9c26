"""A node that goes by a file, seen as what it is: a fleet of one, which agrees with itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pgcat_cluster.admin.control import ControlPort
from pgcat_cluster.agreement.documents import DesiredStatus, Finding
from pgcat_cluster.agreement.orders import FleetFault, Obeyed, Place
from pgcat_cluster.agreement.overview import AcceptedView, NodeView, OverrideView, Overview, VerdictView
from pgcat_cluster.topology.model import Topology
from pgcat_cluster.topology.reading import Problem


class FileNode(Protocol):
    """What is known of the file: `generation` counts what was adopted, `rejected` says what is wrong since."""

    generation: int
    rejected: tuple[Problem, ...]

    @property
    def topology(self) -> Topology: ...


class Alone:
    """What all nodes are to do is what this one does. What is said by hand ends when it restarts."""

    is_alone = True
    paused: frozenset[str] = frozenset()

    def __init__(self, node: FileNode, control: ControlPort) -> None:
        self._node = node
        self._control = control

    async def overview(self) -> Overview:
        node, snapshot = self._node, self._control.snapshot(connections=False)
        gen = node.generation
        nack = tuple(Finding(key="file", path=one.path, msg=one.message) for one in node.rejected)
        overrides = [
            OverrideView(
                target=f"{cluster}/{server}", says=said.action, reason=said.reason, by=said.by, rev=gen
            )
            for cluster in node.topology.clusters
            for server, said in self._control.bans.overrides(cluster).items()
        ]
        overrides += [
            OverrideView(target=f"_pool/{database.name}", says="pause", reason="", by="", rev=gen)
            for database in snapshot.databases
            if database.is_paused
        ]
        return Overview(
            fleet="",
            revision=gen,
            accepted=AcceptedView(gen=gen, rev=gen, digest=""),
            desired=DesiredStatus(rev=gen, digest="", state="rejected" if nack else "accepted"),
            coordinator=snapshot.name,
            nodes=(
                NodeView(
                    node=snapshot.name,
                    state="draining" if snapshot.state == "draining" else "serving",
                    zone="",
                    host="",
                    addr=",".join(node.topology.node.listen),
                    version=snapshot.version,
                    is_valid=not nack,
                    active=gen,
                    is_lagging=False,
                    suspects_itself=False,
                    nack=nack,
                    unusable=(),
                    warn=(),
                ),
            ),
            lost_seats=(),
            bans=(),
            verdicts=tuple(
                VerdictView(
                    server=backend.name,
                    node=snapshot.name,
                    v="bad",
                    why=(backend.reason,),
                    since_rev=gen,
                    gen=gen,
                    zone="",
                )
                for backend in snapshot.backends
                if backend.opinion == "bad"
            ),
            overrides=tuple(overrides),
        )

    async def ban(self, servers: Sequence[Place], length_s: int | None, by: str) -> Obeyed:
        self._control.ban(servers, length_s, by)
        return self._obeyed()

    async def unban(self, servers: Sequence[Place]) -> Obeyed:
        if not self._control.unban(servers):
            raise FleetFault("that is not banned", hint="SHOW BANS shows what this node avoids and why.")
        return self._obeyed()

    async def pause(self, database: str | None, by: str) -> Obeyed:
        is_obeyed = False
        self._control.pause(database, None)
        try:
            await self._control.drained(database, None)
            is_obeyed = True
        finally:
            if not is_obeyed:
                self._control.resume(database, None)
        return self._obeyed()

    async def resume(self, database: str | None) -> Obeyed:
        self._control.resume(database, None)
        return self._obeyed()

    async def reconnect(self, database: str | None, by: str) -> Obeyed:
        self._control.reconnect(database)
        return self._obeyed()

    async def reload(self) -> Obeyed:
        await self._control.reload()
        return self._obeyed()

    def _obeyed(self) -> Obeyed:
        return Obeyed(nodes=(self._control.snapshot(connections=False).name,))
