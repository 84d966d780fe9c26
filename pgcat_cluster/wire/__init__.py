"""The PostgreSQL protocol as values: messages, startup packets, SCRAM, passwords, a readable trace."""
