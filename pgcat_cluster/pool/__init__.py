"""How many server links there may be: growth, limits, deadlines, pause, upkeep."""
