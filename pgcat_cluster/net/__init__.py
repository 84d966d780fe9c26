"""Listener, TLS contexts, tasks, clock, and the driver that performs a session's effects."""
