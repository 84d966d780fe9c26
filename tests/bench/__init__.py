"""Named loads, measured side by side: PostgreSQL itself, PgBouncer, and the node in both builds."""
