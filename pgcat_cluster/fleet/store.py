"""The port to a store of revisioned keys: what the fleet asks of it, and the faults that it may meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from pgcat_cluster.agreement.transactions import Batch, Outcome, Row, Transaction

_FULL = 0.8


class StoreFault(Exception):
    """The store did not do what was asked."""


class Unavailable(StoreFault):
    """Nobody answered in time. What was asked was certainly not carried out."""


class Unknown(StoreFault):
    """The answer was lost: what was asked may have been carried out. Read back before the next write."""


class Compacted(StoreFault):
    """What happened before `revision` is forgotten: list again."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(f"the store has forgotten what happened before revision {revision}")


class Denied(StoreFault):
    """The store knows us and does not permit it, or it does not know us."""


class Refused(StoreFault):
    """The store will never do this: it is too large, malformed, or there is no space. Nothing was done."""


class LeaseGone(Refused):
    """A put named a lease that has ended. Nothing was done."""


class StoreStatus(Struct, frozen=True, kw_only=True):
    """Which store this is and how it fares, by the word of the member in use.

    `quota_bytes` is None where the server does not tell it. `alarms` are etcd's names, such as `NOSPACE`.
    """

    cluster_id: int
    revision: int
    version: str
    size_bytes: int
    quota_bytes: int | None
    alarms: tuple[str, ...]

    def why_read_only(self) -> str:
        """Why nothing of ours may be written: what space is left others need more. Empty if it may."""
        if self.alarms:
            return f"the store reports {', '.join(self.alarms)}"
        if self.quota_bytes and self.size_bytes > _FULL * self.quota_bytes:
            return f"the store holds {self.size_bytes} of {self.quota_bytes} bytes"
        return ""


class StoreStatistics(Struct, frozen=True, kw_only=True):
    """What is shown of a store: `applied` is the newest complete revision of each watch, by prefix."""

    connected: bool
    member: str
    version: str
    answer_age_s: float | None
    applied: Mapping[str, int]
    rotations: int
    logins: int


class Watch(Protocol):
    """What happens below a prefix: batches in the order of revisions, without gaps or repeats.

    All events of one revision come in one batch. A batch without events says that nothing else happened up to
    its revision. Iterating raises a StoreFault when the watch has ended: it never ends without one. Who drops it
    closes it.
    """

    def __aiter__(self) -> Watch: ...

    async def __anext__(self) -> Batch: ...

    async def close(self) -> None: ...


class Store(Protocol):
    """Keys with revisions, guarded transactions, leases and watches. Any call may raise Unavailable or Denied."""

    async def snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        """All rows below the prefixes at one revision that is not older than the call."""
        ...

    def watch(self, prefix: str, from_revision: int) -> Watch:
        """All that happens from that revision on. Iterating raises Compacted if that is forgotten."""
        ...

    async def txn(self, transaction: Transaction) -> Outcome:
        """Carry out a transaction. Raises Unknown if it may have been carried out, Refused if it never will."""
        ...

    async def grant(self, ttl_s: int) -> int:
        """A new lease: keys under it vanish together when it has not been refreshed for so long."""
        ...

    async def refresh(self, lease: int) -> int:
        """Seconds the lease now has, whole; 0 if it is gone."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and its keys. One that is gone already is no fault."""
        ...

    async def status(self) -> StoreStatus: ...

    def statistics(self) -> StoreStatistics: ...

    async def close(self) -> None: ...
