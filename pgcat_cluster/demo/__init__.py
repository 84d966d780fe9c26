"""A real local stack from installable binaries: etcd, a primary, replicas, nodes. Used by `demo` and by tests."""
