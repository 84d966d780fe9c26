"""A fleet of real nodes to measure: servers, three etcd members, nodes with ports of their own, and clients."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from pgcat_cluster.agreement.cases import unban
from pgcat_cluster.agreement.documents import Accepted, Ack, Ban, decode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Put, Transaction
from pgcat_cluster.demo.etcd import Etcd
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import DemoFault
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.fleet.etcd import EtcdSettings, EtcdStore
from pgcat_cluster.net.clock import monotonic_s
from tests.bench.fleet.history import History
from tests.bench.fleet.load import Load, passing
from tests.bench.fleet.sightings import NodeLog
from tests.support.fleets import Fleet
from tests.support.nodes import address

REPLICAS = 2
ETCD_MEMBERS = 3
ZONES = 3
# Enough that the rate holds while many of them wait for a frozen server.
CLIENTS_EACH = 16
_WITHIN_S = 90.0
_LOOK_S = 0.05
_CALM_S = 1.5
# Detection goes by the defaults; only the way back is shorter, so that rounds are.
_DOCUMENT = '[bans]\nmin = "3s"\nramp = "1s"\n'


@dataclass(kw_only=True)
class Rig:
    """Everything a round needs."""

    fleet: Fleet
    history: History
    load: Load
    logs: Sequence[NodeLog]

    @property
    def servers(self) -> Sequence[Postgres]:
        return self.fleet.stack.servers

    @property
    def replicas(self) -> Sequence[Postgres]:
        return self.fleet.stack.replicas

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return soon after the condition holds. Looks rarely: what is measured carries a time of its own."""
        deadline_s = monotonic_s() + _WITHIN_S
        while not condition():
            if monotonic_s() > deadline_s:
                raise DemoFault(f"{what}: not within {_WITHIN_S:g} s")
            await passing(_LOOK_S)

    def read_logs(self) -> None:
        for log in self.logs:
            log.read()

    def avoided_at_s(self, server: str, since_s: float) -> list[float]:
        """Since when each node avoids the server, of those that do."""
        self.read_logs()
        found = (log.avoided_at_s(server, since_s) for log in self.logs)
        return [at_s for at_s in found if at_s is not None]

    def banned_at_s(self, server: str, since_s: float) -> list[float]:
        """When each node heard of the ban, of those that did."""
        self.read_logs()
        found = (log.last(server, "server.banned", since_s=since_s) for log in self.logs)
        return [one.at_s for one in found if one is not None]

    def ban(self, server: str) -> Ban | None:
        row = self.history.memory.row(self.history.keys.ban("main", server, "fleet"))
        return decode(row.key, row.value, Ban) if row is not None else None

    async def silence(self) -> None:
        """Wait until nothing has been written for a while."""
        await self.until(
            lambda: not self.history.since(monotonic_s() - _CALM_S), "the fleet writes nothing more"
        )

    async def calm(self) -> None:
        """Wait until every server is used by every node and nobody has a word to say about it."""
        memory, keys = self.history.memory, self.history.keys

        def is_calm() -> bool:
            self.read_logs()
            return not (memory.under(keys.ban_prefix) or memory.under(keys.verdict_prefix)) and all(
                log.is_used(server.name) for log in self.logs for server in self.servers
            )

        await self.until(is_calm, "all is well again")
        await self.silence()

    async def forgive(self, server: str) -> None:
        """As an operator: bans of a server, and what it did before, count no more."""
        memory, keys = self.history.memory, self.history.keys
        transaction = unban(memory, keys, "main", server)
        if transaction is not None:
            await self.history.store.txn(transaction)
            await self.until(
                lambda: memory.row(keys.strikes("main", server)) is None, "we hear what we wrote"
            )

    def generation(self) -> int:
        row = self.history.memory.row(self.history.keys.accepted)
        return decode(row.key, row.value, Accepted).gen if row is not None else 0

    def runs(self, generation: int) -> bool:
        """Whether every node has said that it runs this generation."""
        memory, keys = self.history.memory, self.history.keys
        acks = [decode(row.key, row.value, Ack) for row in memory.under(keys.ack_prefix)]
        active = [ack.active.gen for ack in acks if ack.active is not None]
        return len(active) == len(self.logs) and all(one >= generation for one in active)

    async def put(self, name: str, text: str) -> None:
        """What `etcdctl put` does with a document."""
        put = Put(key=self.history.keys.config(name), value=text.encode())
        await self.history.store.txn(Transaction(then=(put,)))


class _Zoned(Fleet):
    """Nodes of three zones in turn."""

    def zone_of(self, number: int) -> str:
        return f"z{number % ZONES}"


def pool_of(size: int) -> str:
    """The pool's document."""
    return f'users = {{ test = {{}} }}\nreads = "replicas"\nsize = {size}\n'


@asynccontextmanager
async def rig(*, nodes: int, rate: float, report: Callable[[str], None]) -> AsyncIterator[Rig]:
    """A fleet at work; everything ends with the block."""
    with ExitStack() as closing:
        stack = closing.enter_context(Stack(replicas=REPLICAS, settings={"max_connections": "200"}))
        report(f"a primary and {REPLICAS} replicas run")
        etcd = closing.enter_context(Etcd(members=ETCD_MEMBERS))
        fleet = _Zoned(etcd, stack)
        fleet.load(fleet=_DOCUMENT, pool=pool_of(8).partition("\n")[2])
        for node in fleet.add(nodes):
            closing.callback(node.stop)
        report(f"{nodes} nodes and {ETCD_MEMBERS} etcd members run")
        settings = EtcdSettings(endpoints=tuple(etcd.endpoints), allow_bad_version=True)
        store = EtcdStore(settings, chance=random.Random(1))
        places = [address(node) for node in fleet.nodes]
        async with (
            History(store, Keys("test")) as history,
            Load(places, clients_each=CLIENTS_EACH, rate=rate) as load,
        ):
            yield Rig(
                fleet=fleet,
                history=history,
                load=load,
                logs=[NodeLog(node.log) for node in fleet.nodes],
            )
