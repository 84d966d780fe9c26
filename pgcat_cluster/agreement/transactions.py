"""What is read from and written to a store of revisioned keys, as values: rows, events, guarded transactions."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from msgspec import Struct


class Row(Struct, frozen=True, kw_only=True):
    """One key as it stands: `create_revision` and `mod_revision` are its identity and its newest change.

    `lease` is 0 for a key that ends by deletion only.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Event(Struct, frozen=True, kw_only=True):
    """A key was put, or it vanished (`row` None): by deletion or with its lease."""

    key: str
    row: Row | None


class Batch(Struct, frozen=True, kw_only=True):
    """All that happened to the keys of one watch at one revision."""

    revision: int
    events: tuple[Event, ...]


class Field(Enum):
    """What of a key a transaction compares."""

    MOD = "mod"
    CREATE = "create"
    VALUE = "value"
    LEASE = "lease"


class Compare(Struct, frozen=True, kw_only=True):
    """One fact that must hold. `operator` is one of `==`, `!=`, `<`, `>`.

    With `prefix` it must hold for each key that begins with `key`; where there is none, one zero key stands for
    them (`mod` and `create` 0, a compare of values is false).
    """

    key: str
    field: Field
    operator: str
    operand: int | bytes
    prefix: bool = False


class Put(Struct, frozen=True, kw_only=True):
    """A key gets a value. Without `lease` an existing key leaves the lease it was under."""

    key: str
    value: bytes
    lease: int = 0


class Delete(Struct, frozen=True, kw_only=True):
    """A key, or all that begin with it, vanish."""

    key: str
    prefix: bool = False


class Range(Struct, frozen=True, kw_only=True):
    """Rows are read: of one key, or of all that begin with it in order of their names.

    `newest_first` orders by `mod_revision` instead; `limit` 0 means all; `keys_only` leaves the values empty.
    """

    key: str
    prefix: bool = False
    limit: int = 0
    keys_only: bool = False
    newest_first: bool = False


Operation = Put | Delete | Range


class Transaction(Struct, frozen=True, kw_only=True):
    """`then` is carried out if every compare holds, else `otherwise`; at most 128 in each list."""

    compares: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


class Rows(Struct, frozen=True, kw_only=True):
    """The answer to one `Range`: `count` is of all that match, also those beyond `limit`."""

    rows: tuple[Row, ...]
    count: int


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of a transaction: `revision` is the store's after it; one answer for each operation.

    Puts and deletions answer None.
    """

    succeeded: bool
    revision: int
    answers: tuple[Rows | None, ...]


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(key=key, field=Field.CREATE, operator="==", operand=0)


def unchanged(row: Row) -> Compare:
    """The key is as it was read."""
    return Compare(key=row.key, field=Field.MOD, operator="==", operand=row.mod_revision)


def nothing_newer(prefix: str, revision: int) -> Compare:
    """No key below the prefix was put after that revision. Deletions are not seen by it."""
    return Compare(key=prefix, field=Field.MOD, operator="<", operand=revision + 1, prefix=True)


def newest(rows: Sequence[Row]) -> int:
    """The newest change among some rows; 0 when there are none."""
    return max((row.mod_revision for row in rows), default=0)
