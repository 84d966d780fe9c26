"""Where a statement goes: role, shard, server."""
