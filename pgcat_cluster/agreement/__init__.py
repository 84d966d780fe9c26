"""What the nodes of a fleet agree on, as pure machines: no store, clock, socket or log in here."""
