"""What one node knows of the store: rows in order of their keys, brought up to date by batches or by a new list."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from pgcat_cluster.agreement import transactions
from pgcat_cluster.agreement.transactions import Batch, Event, Row


class Memory:
    """Rows of one or more prefixes. Each prefix is watched as a whole: its batches arrive in order, without gaps."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._keys: list[str] = []
        self._applied: dict[str, int] = {}
        self.revision = 0  # of the newest batch or list, whatever its prefix

    def replace(self, prefix: str, rows: Iterable[Row], revision: int) -> tuple[Event, ...]:
        """The rows below `prefix` as they were listed at `revision`; answers what that changed.

        A key that is not in the list vanished, and nothing else did: a new list is a list of differences.
        """
        listed = {row.key: row for row in rows}
        events = [Event(key=row.key, row=None) for row in self.under(prefix) if row.key not in listed]
        events += [Event(key=key, row=row) for key, row in listed.items() if self._rows.get(key) != row]
        events.sort(key=lambda event: event.key)
        for event in events:
            self._take(event)
        self._applied[prefix] = revision
        self.revision = max(self.revision, revision)
        return tuple(events)

    def apply(self, batch: Batch, prefix: str = "") -> None:
        """What happened at one revision. A batch without events says that a watch, of `prefix`, came so far."""
        for event in batch.events:
            self._take(event)
        for known in self._applied:
            if known == prefix or any(event.key.startswith(known) for event in batch.events):
                self._applied[known] = batch.revision
        self.revision = max(self.revision, batch.revision)

    def begin_again(self) -> None:
        """Another store follows, whose revisions are others: no prefix is listed yet. The rows stay until it is."""
        self._applied.clear()
        self.revision = 0

    def applied(self, prefix: str) -> int:
        """The revision up to which `prefix` is known, as far as was told; 0 before its first list."""
        return self._applied.get(prefix, 0)

    def row(self, key: str) -> Row | None:
        return self._rows.get(key)

    def under(self, prefix: str) -> list[Row]:
        """All rows below a prefix, in order of their keys."""
        keys = self._keys
        index = bisect_left(keys, prefix)
        rows = []
        while index < len(keys) and keys[index].startswith(prefix):
            rows.append(self._rows[keys[index]])
            index += 1
        return rows

    def newest(self, prefix: str) -> int:
        """The newest change among the rows below a prefix; 0 when there are none.

        It is a fact of the store and not of this memory's past, so equal stores give equal answers also to a
        node that has just joined; and every put not seen yet is newer, which is what `nothing_newer` asks.
        """
        return transactions.newest(self.under(prefix))

    def _take(self, event: Event) -> None:
        key = event.key
        if event.row is not None:
            if key not in self._rows:
                insort(self._keys, key)
            self._rows[key] = event.row
        elif self._rows.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
