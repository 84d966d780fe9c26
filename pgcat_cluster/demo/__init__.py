"""A real local stack from installable binaries: a primary, replicas, nodes; used by the command, tests and benches."""
