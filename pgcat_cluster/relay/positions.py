"""A position in a primary's log: what a client wrote lies before it."""

from __future__ import annotations


class Position:
    """`lsn` is a byte of the log of one `timeline`; bytes of two timelines can not be compared. Immutable."""

    __slots__ = ("lsn", "timeline")

    def __init__(self, timeline: int, lsn: int) -> None:
        self.timeline = timeline
        self.lsn = lsn

    def __repr__(self) -> str:
        return f"{self.timeline}:{self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:X}"
