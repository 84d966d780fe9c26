"""How a node is seen: one snapshot of its statistics, and the metrics, averages and log lines made of it."""
