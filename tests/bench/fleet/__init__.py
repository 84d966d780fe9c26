"""How fast a fleet avoids a dead server and takes in an edit, and what it writes: real nodes, and simulated ones."""
