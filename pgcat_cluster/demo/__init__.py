"""A real local stack from installable binaries: a primary, replicas, nodes. Used by `demo` and by tests."""
