"""A fleet for failures: nodes in zones, a store of three members, and connections that can be cut."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.demo.etcd import Etcd, EtcdMember
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import DemoFault
from pgcat_cluster.demo.stack import Stack
from tests.support.fleets import Fleet, name_of
from tests.support.histories import DELETED, END, Recorded
from tests.support.nodes import eventually
from tests.support.recorder import Recorder
from tests.support.relays import Relays

KEYS = Keys("test")

_STOP_S = 10.0


class Rig(Fleet):
    """A fleet in which everything can go wrong: its servers, its nodes, its store, and what lies between them.

    Ends of connections go by the names of nodes in the fleet (`px-1`), of servers (`r1`) and of members (`e1`).
    Without relays all connections are direct ones, and can not be cut.
    """

    def __init__(self, etcd: Etcd, stack: Stack, relays: Relays | None = None, *, zones: int = 3) -> None:
        super().__init__(etcd, stack)
        self.relays = relays
        self.zones = [f"z{number}" for number in range(1, zones + 1)]
        self._places: dict[str, tuple[str, int]] = {}
        self._frozen: set[str] = set()
        self.recorder = Recorder(self.etcdctl, etcd.endpoints)

    # -- who is where

    def zone_of(self, number: int) -> str:
        return self.zones[(number - 1) % len(self.zones)]

    def name_of(self, node: Node) -> str:
        """What a node is called in the fleet."""
        return name_of(self.nodes.index(node) + 1)

    def nodes_in(self, zone: str) -> list[Node]:
        return [node for number, node in enumerate(self.nodes, 1) if self.zone_of(number) == zone]

    def endpoints_of(self, name: str) -> list[str]:
        if self.relays is None:
            return super().endpoints_of(name)
        ports = [
            self.relays.listen(name, member.name, ("127.0.0.1", member.port)) for member in self.etcd.members
        ]
        return [f"127.0.0.1:{port}" for port in ports]

    def place_of(self, server: Postgres) -> tuple[str, int]:
        if self.relays is None:
            return super().place_of(server)
        if server.name not in self._places:
            # A folder each, so that they are hosts of their own to a node that doubts itself.
            folder = Path(self.stack.folder) / "edges" / server.name
            self._places[server.name] = self.relays.listen_for_processes(
                folder, server.name, (server.host, server.port), self._who
            )
        return self._places[server.name]

    def _who(self, pid: int) -> str:
        return next((self.name_of(node) for node in self.nodes if node.is_running() and node.pid == pid), "")

    # -- the store, and its history

    @property
    def endpoints(self) -> list[str]:
        """Of the members that answer."""
        return [
            member.endpoint
            for member in self.etcd.members
            if member.is_running() and member.name not in self._frozen
        ]

    def ctl(self, *words: str, typed: str = "") -> str:
        """What etcdctl says, as soon as the store answers: an operator tries again."""
        said: list[str] = []

        def is_answered() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError):
                said.append(super(Rig, self).ctl(*words, typed=typed))
            return bool(said)

        eventually(is_answered, "the store answers")
        return said[0]

    def delete(self, key: str) -> None:
        """It is said that an operator does it."""
        key = KEYS.root + key
        self.ctl("txn", typed=f"\ndel {key}\nput {DELETED} {key}\n\n\n")

    @contextlib.contextmanager
    def marked(self, mark: str) -> Iterator[None]:
        """What may not happen meanwhile is written down beside what happens."""
        self.ctl("put", mark, "1")
        yield
        self.ctl("del", mark)

    def history(self) -> list[Recorded]:
        """All that happened until now."""
        self.ctl("put", END, "1")
        revision = json.loads(self.ctl("get", END, "-w", "json"))["kvs"][0]["mod_revision"]
        eventually(lambda: self.recorder.revision >= revision, "all of it is recorded")
        return list(self.recorder.history)

    def revision(self) -> int:
        """Of the newest change of anything."""
        return int(json.loads(self.ctl("get", END, "-w", "json"))["header"]["revision"])

    # -- what goes wrong, until the end of a block

    @contextlib.contextmanager
    def killed(self, *actors: Node | Postgres | EtcdMember) -> Iterator[None]:
        """They are dead, and start again."""
        for actor in actors:
            actor.kill()
        try:
            yield
        finally:
            self.etcd.restart(*(actor for actor in actors if isinstance(actor, EtcdMember)))
            others = [actor for actor in actors if not isinstance(actor, EtcdMember)]
            for actor in others:
                actor.launch()
            for actor in others:
                actor.wait_ready()

    @contextlib.contextmanager
    def frozen(self, *actors: Node | Postgres | EtcdMember) -> Iterator[None]:
        """They stand still."""
        self._frozen |= {actor.name for actor in actors}
        try:
            with frozen(*actors):
                yield
        finally:
            self._frozen -= {actor.name for actor in actors}

    @contextlib.contextmanager
    def cut(self, nodes: Sequence[Node], others: Sequence[Postgres | EtcdMember]) -> Iterator[None]:
        """Between these nodes and these servers or members nothing passes."""
        assert self.relays is not None
        with self.relays.cut(*self._edges(nodes, others)):
            yield

    @contextlib.contextmanager
    def slowed(
        self, delay_s: float, nodes: Sequence[Node], others: Sequence[Postgres | EtcdMember]
    ) -> Iterator[None]:
        """Between these nodes and these servers or members everything takes so much longer."""
        assert self.relays is not None
        with self.relays.slowed(delay_s, *self._edges(nodes, others)):
            yield

    def _edges(self, nodes: Sequence[Node], others: Sequence[Postgres | EtcdMember]) -> list[tuple[str, str]]:
        return [(self.name_of(node), other.name) for node in nodes for other in others]

    # -- the end

    def stop(self) -> None:
        """All nodes at the same time, whatever state they are in; they leave while the store answers."""
        running = [node for node in self.nodes if node.is_running()]
        for node in running:
            node.resume()
            node.signal(signal.SIGTERM)
        for node in running:
            with contextlib.suppress(DemoFault):
                node.wait(_STOP_S)
        self.recorder.close()


@contextlib.contextmanager
def frozen(*actors: Node | Postgres | EtcdMember) -> Iterator[None]:
    """They stand still, until the end of a block."""
    for actor in actors:
        actor.freeze()
    try:
        yield
    finally:
        for actor in actors:
            actor.resume()


@contextlib.contextmanager
def rig_of(
    nodes: int, *, zones: int = 3, members: int = 3, replicas: int = 2, relays: bool = True, **documents: str
) -> Iterator[Rig]:
    """A running one, all of it its own; `documents` as in `Fleet.load`."""
    if relays and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a relay which process connects")
    with contextlib.ExitStack() as closing:
        stack = closing.enter_context(Stack(replicas=replicas))
        etcd = closing.enter_context(Etcd(members=members, household=stack.household))
        network = closing.enter_context(Relays()) if relays else None
        rig = Rig(etcd, stack, network, zones=zones)
        closing.callback(rig.stop)
        rig.load(**documents)
        rig.add(nodes)
        eventually(lambda: len(rig.values("live/")) == nodes, "all are there")
        yield rig
