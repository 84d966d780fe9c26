"""What nodes must know of a stack: its clusters, and its pool, which has shards where there are several clusters."""

from __future__ import annotations

from collections.abc import Sequence

from pgcat_cluster.demo.cluster import Cluster

_CLUSTER = """\
[clusters.{name}]
probe = {{ user = "pgcat_probe", secret = "file:probe.secret", database = "postgres" }}
leadership = {{ {leadership} }}

[clusters.{name}.servers]
{servers}
"""

_POOL = """\
[pools.test]
database = "test"
{place}
size = 20
users = {{ test = {{}} }}
"""


def documents(clusters: Sequence[Cluster], *, finds_primary: bool) -> str:
    """TOML. A node without a fleet finds the primary by looking; a fleet is told, by its documents alone."""
    places = [cluster_document(cluster, finds_primary=finds_primary) for cluster in clusters]
    return "\n".join([*places, _pool(clusters)])


def cluster_document(cluster: Cluster, *, finds_primary: bool) -> str:
    """The one table of a cluster and the one of its servers."""
    told = f'source = "static", primary = "{cluster.primary.name}"'
    return _CLUSTER.format(
        name=cluster.name,
        leadership='source = "observe"' if finds_primary else told,
        servers="\n".join(
            f'{server.name} = {{ host = "{server.host}", port = {server.port} }}'
            for server in cluster.servers
        ),
    )


def _pool(clusters: Sequence[Cluster]) -> str:
    if len(clusters) == 1:
        return _POOL.format(place=f'cluster = "{clusters[0].name}"')
    places = ", ".join(f'{number} = "{cluster.name}"' for number, cluster in enumerate(clusters))
    return _POOL.format(place=f'shards = {{ clusters = {{ {places} }} }}\nsharding = {{ key = "id" }}')
