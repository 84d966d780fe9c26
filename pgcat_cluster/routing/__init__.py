"""Where a statement goes: role, shard, server."""

from pgcat_cluster.routing.functions import pg_bigint_hash

__all__ = ["pg_bigint_hash"]
