"""Performs what agreement decided: the store and its adapters, membership, the peer port."""
