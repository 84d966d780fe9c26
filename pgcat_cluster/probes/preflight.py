"""Tries what changed documents name, before a fleet goes by them: logins, addresses, identities."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from pgcat_cluster.agreement.bundles import Wrong
from pgcat_cluster.health.evidence import EvidenceClass, ServerFacts
from pgcat_cluster.net.outgoing import OpenFailed, ServerAddress
from pgcat_cluster.net.tls import OutgoingTls
from pgcat_cluster.probes.prober import ProbeTarget, connecting, look_once
from pgcat_cluster.topology.model import Cluster, Credentials, PoolKey, PoolSettings, Server, Topology
from pgcat_cluster.topology.settings import Settings

WITHIN_S = 3.0
_AT_ONCE = 8

Findings = tuple[tuple[Wrong, ...], tuple[Wrong, ...]]
_Look = ServerFacts | OpenFailed


class Trial:
    """One try of some documents. What a server that answers refuses is wrong; one that is silent is doubtful.

    `in_force` is what the node goes by: a pool that logs in as it does now, to the same, is not tried again.
    """

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        tls: Mapping[str, OutgoingTls],
        loop: asyncio.AbstractEventLoop,
        *,
        in_force: Topology,
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._in_force = in_force
        self._tls = tls
        self._loop = loop
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._hard: list[Wrong] = []
        self._soft: list[Wrong] = []

    async def run(self, changed: Iterable[str]) -> Findings:
        """What is wrong with the documents of these names, and what is doubtful."""
        names = {tuple(name.split("/")) for name in changed}
        labels = [
            (label, user)
            for label, pool in self._settings.pools.items()
            for user in pool.users
            if ("pools", label) in names or ("users", user) in names
        ]
        tries = [
            self._try_cluster(one)
            for one in self._topology.clusters.values()
            if ("clusters", one.name) in names
        ]
        tries += [self._try_pool(label, user) for label, user in labels]
        try:
            async with asyncio.timeout(WITHIN_S):
                await asyncio.gather(*tries)
        except TimeoutError:
            self._soft.append(Wrong("fleet", "", f"not everything could be tried within {WITHIN_S:g} s"))
        return tuple(sorted(self._hard, key=_place)), tuple(sorted(self._soft, key=_place))

    async def _try_cluster(self, cluster: Cluster) -> None:
        name = f"clusters/{cluster.name}"
        if cluster.probe is None:
            return
        servers = list(cluster.servers.values())
        looks = await asyncio.gather(
            *(self._look(cluster, server, cluster.probe, cluster.probe.database) for server in servers)
        )
        facts: dict[str, ServerFacts] = {}
        for server, found in zip(servers, looks, strict=True):
            path = f"servers.{server.key.name}"
            if isinstance(found, ServerFacts):
                facts[server.key.name] = found
            elif found.evidence is EvidenceClass.CONFIG:
                self._hard.append(Wrong(name, path, f"refuses the login of probes: {found.message}"))
            else:
                self._soft.append(Wrong(name, path, f"does not answer: {found.message}"))
        primary = cluster.leadership.primary
        leaders = [one for one, fact in facts.items() if not fact.in_recovery]
        judge = primary if primary in facts else leaders[0] if leaders else next(iter(facts), None)
        if judge is None:
            return
        identifier = facts[judge].system_identifier
        for one, fact in facts.items():
            if fact.system_identifier != identifier:
                message = f"holds other data than {judge}: system identifier {fact.system_identifier}"
                self._hard.append(Wrong(name, f"servers.{one}", message))
        if primary in facts and facts[primary].in_recovery:
            self._soft.append(
                Wrong(name, "leadership.primary", f"{primary} is in recovery: it takes no writes now")
            )

    async def _try_pool(self, label: str, user: str) -> None:
        document = self._settings.pools[label]
        key = PoolKey(document.database or label, self._settings.users[user].user or user)
        pool = self._topology.pools[key]
        if pool.login.password is None or self._is_known(pool):
            # Only its client knows the password; or the servers know it already.
            return
        for shard in pool.shards:
            cluster = self._topology.clusters[shard.cluster]
            for server in cluster.servers.values():
                found = await self._look(cluster, server, pool.login, shard.database)
                if isinstance(found, ServerFacts):
                    break
                if found.evidence is EvidenceClass.CONFIG:
                    where = f"server {server.key} refuses the login"
                    self._hard.append(Wrong(f"pools/{label}", f"users.{user}", f"{where}: {found.message}"))
                    return

    def _is_known(self, pool: PoolSettings) -> bool:
        """Whether an edit leaves it as it is where and as whom this pool logs in."""
        known = self._in_force.pools.get(pool.key)
        return (
            known is not None
            and (known.login, known.shards) == (pool.login, pool.shards)
            and all(self._in_force.clusters[name] == self._topology.clusters[name] for name in pool.clusters)
        )

    async def _look(self, cluster: Cluster, server: Server, login: Credentials, database: str) -> _Look:
        target = ProbeTarget(
            address=ServerAddress(host=server.key.address.host, port=server.key.address.port),
            tls=self._tls[cluster.name],
            user=login.user,
            database=database,
            secret=login.password.reveal() if login.password else None,
        )
        async with self._places:
            try:
                return await look_once(target, WITHIN_S, connecting(self._loop))
            except OpenFailed as failure:
                return failure


def _place(wrong: Wrong) -> tuple[str, str]:
    return wrong.name, wrong.path
