"""Opinions about servers: detector, lag, trust in oneself."""
