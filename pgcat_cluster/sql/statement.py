"""What is known of one statement string: the values that analysis gives, and nothing that finds them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class TransactionVerb(enum.Enum):
    """What a statement string does to the transaction block."""

    NONE = "none"
    BEGIN = "begin"
    BEGIN_READ_ONLY = "begin read only"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    OTHER = "other"
    """Savepoints, SET TRANSACTION, two-phase commit, or transaction control beside other statements."""


class Effect(enum.Enum):
    """Something a statement leaves behind or needs, beyond its answer."""

    SETS_PARAMETER = "sets a parameter"
    SETS_LOCAL = "sets a parameter until the transaction ends"
    PREPARES = "prepares by SQL"
    EXECUTES = "executes a statement prepared by SQL"
    DEALLOCATES = "deallocates"
    DISCARDS = "discards"
    TEMPORARY = "creates a temporary object"
    DROPS = "drops or alters, perhaps a temporary object"
    LISTENS = "listens"
    UNLISTENS = "unlistens"
    ADVISORY_LOCK = "takes a session advisory lock"
    ADVISORY_UNLOCK = "releases a session advisory lock"
    HOLD_CURSOR = "declares a cursor with hold"
    CLOSES_CURSOR = "closes a cursor"
    SEQUENCE_STATE = "reads the session's sequence state"
    RUNS_CODE = "runs code that may do anything"
    LOADS = "loads a library"
    COPY_IN = "copies in"
    COPY_OUT = "copies out"
    DEFINES = "defines functions, or renames or drops them"
    SAVES = "sets, releases or goes back to a savepoint"
    WRITES = "would have effects again if sent twice"


TRANSACTION_LOCAL = frozenset({Effect.SETS_LOCAL, Effect.COPY_OUT})
"""Effects that a read may have: nothing of them is left when the transaction has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One statement string, judged.

    `reads_only` holds only when PostgreSQL accepts all of it on a hot standby in its default state, nothing
    of it stays in the session, and it may be repeated. Everything else, and everything doubtful, is not.
    """

    parses: bool
    """False: unknown. It goes to the primary and leaves its server link unclean."""
    statements: int = 0
    reads_only: bool = False
    reason: str
    """Why it is no read (or that it is one): a constant text that names the construct."""
    transaction: TransactionVerb = TransactionVerb.NONE
    opens_transaction: bool = False
    """A statement in it begins a transaction block (also by AND CHAIN)."""
    ends_transaction: bool = False
    """A statement in it ends the transaction block; one that opens another by AND CHAIN does both."""
    effects: frozenset[Effect] = frozenset()
    parameters: tuple[str | None, ...] = ()
    """Lower-case names that SET, RESET and set_config() touch; `all`: RESET ALL; None: unknown which."""
    prepared_name: str | None = None
    """Name in PREPARE, EXECUTE or DEALLOCATE; None for DEALLOCATE ALL."""
    discards: str | None = None
    """What DISCARD names: all, plans, sequences or temp; the widest if there are several."""
    show: str | None = None
    """The lower-case parameter name if the string is a lone SHOW."""
    needs_text: bool = False
    """A constant matters: ask again with the original text each time; do not remember."""
    by_catalog: bool = False
    """It calls functions that were judged by what a server says of them: judge again when that changes."""
    calls_unknown: bool = False
    """It calls functions that nobody knows anything of: they count as reads, and may write all the same."""
