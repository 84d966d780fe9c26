"""The admin consoles (`pgcat`, `pgbouncer`) and the HTTP endpoints, all reading one snapshot."""
