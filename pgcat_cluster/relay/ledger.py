"""The ledger of a server link: the replies it owes that matter, in order, each the client's or ours.

It lists ParseComplete, CloseComplete and ReadyForQuery, and in sharded pools ParameterDescription; the quiet ones are
swallowed, and so is RowDescription or NoData behind a quiet ParameterDescription. What runs in front of a client's
request is one entry, up to its CloseComplete: an error in it is the client's, the rest is swallowed. An ErrorResponse
strikes everything up to the next ReadyForQuery, as PostgreSQL does (protocol, "Extended Query").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcat_cluster.relay.flows import Flow, Statement

if TYPE_CHECKING:
    from pgcat_cluster.relay.desk import Errand

# Whatever is less than READY is struck by an error.
PARSED = 1
PARSED_QUIET = 2
CLOSED = 3
CLOSED_QUIET = 4
DESCRIBED = 5
DESCRIBED_QUIET = 6
COLUMNS_QUIET = 7
RUN_QUIET = 8
READY = 9
READY_QUIET = 10


class Owed:
    """One reply that a server owes.

    `name` is a client's name of the statement (the unnamed one is everybody's), `statement` what a Parse prepares,
    a Close evicts or a Describe asks about, `errand` who gets the answer to a question of ours.
    """

    __slots__ = ("errand", "kind", "name", "statement")

    def __init__(
        self,
        kind: int,
        name: bytes | None = None,
        statement: Statement | None = None,
        errand: Errand | None = None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.statement = statement
        self.errand = errand


# Those that carry nothing are shared.
OWED_READY = Owed(READY)
OWED_SYNC_QUIET = Owed(READY_QUIET)
OWED_CLOSE = Owed(CLOSED)
OWED_CLOSE_QUIET = Owed(CLOSED_QUIET)
OWED_RUN_QUIET = Owed(RUN_QUIET, b"")
OWED_PARSE_UNNAMED_QUIET = Owed(PARSED_QUIET, b"")
OWED_CLOSE_UNNAMED_QUIET = Owed(CLOSED_QUIET, b"")
OWED_COLUMNS_QUIET = Owed(COLUMNS_QUIET)
# Tells by its answer that all before it was answered, by its absence that something failed.
OWED_PROBE = Owed(CLOSED_QUIET)
# The unnamed statement of a server link that may have any: what should have changed it was passed over.
ANY_STATEMENT = Statement(b"", b"\0\0", Flow(0, 0, ""), b"")


class Ledger:
    """A queue of what is owed; the head is what comes next."""

    __slots__ = ("entries", "first")

    def __init__(self) -> None:
        self.entries: list[Owed] = []
        self.first = 0

    def __len__(self) -> int:
        return len(self.entries) - self.first

    def is_empty(self) -> bool:
        return len(self.entries) == self.first

    def append(self, owed: Owed) -> None:
        self.entries.append(owed)

    def kind(self) -> int:
        """The kind of the head, 0 if nothing is owed."""
        if len(self.entries) == self.first:
            return 0
        return self.entries[self.first].kind

    def head(self) -> Owed:
        return self.entries[self.first]

    def pass_ready(self) -> int:
        """Take the ReadyForQuery that must be the head; the kind of what comes behind it, -1 if it is not there."""
        entries = self.entries
        first = self.first
        if len(entries) == first or entries[first].kind != READY:
            return -1
        first += 1
        if len(entries) == first:
            entries.clear()
            self.first = 0
            return 0
        self.first = first
        return entries[first].kind

    def pop(self) -> Owed:
        """Take the head."""
        owed = self.entries[self.first]
        self.first += 1
        if self.first == len(self.entries):
            self.entries.clear()
            self.first = 0
        return owed
