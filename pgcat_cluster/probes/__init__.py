"""Asks each server how it is; produces samples."""
