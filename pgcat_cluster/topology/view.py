"""What routing reads: per cluster who is primary, and which servers may be read or why not."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from msgspec import structs

from pgcat_cluster.topology.model import Cluster, ServerKey, Topology, Value


class ServerView(Value, frozen=True, kw_only=True):
    """One server as seen now. `why_not` says why it takes no reads as a replica; empty: it does."""

    key: ServerKey
    weight: int
    why_not: str = ""


class ClusterView(Value, frozen=True, kw_only=True):
    """A cluster as seen now: `primary` takes the writes; if there is none, `why_no_primary` says why."""

    name: str
    servers: Mapping[str, ServerView]
    primary: ServerKey | None = None
    why_no_primary: str = ""

    @property
    def replicas(self) -> tuple[ServerView, ...]:
        """Every server but the primary, eligible or not, in the order of the document."""
        return tuple(server for server in self.servers.values() if server.key != self.primary)

    @property
    def readable(self) -> tuple[ServerView, ...]:
        """The replicas that may be read now."""
        return tuple(server for server in self.replicas if not server.why_not)

    def refusals(self) -> str:
        """Why no replica serves, server by server: the detail of a fault."""
        return "; ".join(f"{server.key.name}: {server.why_not}" for server in self.replicas if server.why_not)

    def with_primary(self, name: str | None, why_none: str = "") -> "ClusterView":
        """Another server leads, or none does and `why_none` says why."""
        primary = None if name is None else self.servers[name].key
        return structs.replace(self, primary=primary, why_no_primary="" if name else why_none)

    def with_server(self, name: str, why_not: str) -> "ClusterView":
        """A server takes reads again (empty text), or not any more."""
        server = structs.replace(self.servers[name], why_not=why_not)
        return structs.replace(self, servers=MappingProxyType({**self.servers, name: server}))

    def with_weight(self, name: str, weight: int) -> "ClusterView":
        """A server takes another part of the reads."""
        server = structs.replace(self.servers[name], weight=weight)
        return structs.replace(self, servers=MappingProxyType({**self.servers, name: server}))


class View(Value, frozen=True, kw_only=True):
    """One snapshot of all clusters; `generation` grows with each change."""

    clusters: Mapping[str, ClusterView]
    generation: int = 0

    def with_cluster(self, cluster: ClusterView) -> "View":
        """The same view if nothing is different, else the next one."""
        if self.clusters.get(cluster.name) == cluster:
            return self
        clusters = MappingProxyType({**self.clusters, cluster.name: cluster})
        return View(clusters=clusters, generation=self.generation + 1)

    def with_topology(self, topology: Topology, changed: Collection[str]) -> "View":
        """Follow a topology in which these clusters changed: in them what stayed keeps its standing.

        The others stay the very same, and what is new begins as in `first_view`.
        """
        clusters = {
            name: _carried(self.clusters.get(name), cluster) if name in changed else self.clusters[name]
            for name, cluster in topology.clusters.items()
        }
        return View(clusters=MappingProxyType(clusters), generation=self.generation + 1)


def first_view(topology: Topology) -> View:
    """Before any probe: where the primary is static all are believed, where it is observed none is yet."""
    return View(clusters=MappingProxyType({name: _first(one) for name, one in topology.clusters.items()}))


NOT_SEEN = "not probed yet"


def _first(cluster: Cluster) -> ClusterView:
    primary = cluster.leadership.primary
    return ClusterView(
        name=cluster.name,
        servers=MappingProxyType(
            {
                name: ServerView(
                    key=server.key, weight=server.weight, why_not="" if primary is not None else NOT_SEEN
                )
                for name, server in cluster.servers.items()
            }
        ),
        primary=None if primary is None else cluster.servers[primary].key,
        why_no_primary="" if primary is not None else NOT_SEEN,
    )


def _carried(before: ClusterView | None, cluster: Cluster) -> ClusterView:
    first = _first(cluster)
    if before is None:
        return first
    standing = {server.key: server.why_not for server in before.servers.values()}
    servers = {
        name: structs.replace(server, why_not=standing.get(server.key, server.why_not))
        for name, server in first.servers.items()
    }
    view = structs.replace(first, servers=MappingProxyType(servers))
    if cluster.leadership.primary is not None:
        return view
    known = {server.key for server in servers.values()}
    if before.primary in known:
        return structs.replace(view, primary=before.primary, why_no_primary="")
    return view if before.primary is None else structs.replace(view, why_no_primary="the primary was removed")
