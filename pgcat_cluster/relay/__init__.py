"""The data plane: links and lanes, shapes, flows, idle servers and waiters, coupling of a client and a server."""
