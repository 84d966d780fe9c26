"""What a statement is, never where it goes."""
