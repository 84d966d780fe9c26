"""What servers say of their functions: when they are asked, and who is told that it has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from weakref import WeakSet

from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool
from pgcat_cluster.session.account import Account, source_of
from pgcat_cluster.session.questions import Question, Rows
from pgcat_cluster.sql.volatility import (
    CATALOG_QUERY,
    UNKNOWN,
    merged,
    read_catalog,
)

# Functions may be defined by others than our clients.
CATALOG_AGE_S = 60.0
# What code did is found out no more often than this.
_AGE_MIN_S = 1.0

# A cluster, and a database in it.
_Place = tuple[str, str]


class _Entry:
    """What is known of one database: the catalog, when it was asked for, who asks now, who goes by it."""

    def __init__(self) -> None:
        self.catalog = UNKNOWN
        self.asked_at = -math.inf
        self.is_old = True
        self.questions = 0
        self.asked: Server | None = None
        self.accounts: WeakSet[Account] = WeakSet()

    def is_due(self, now: float) -> bool:
        if self.asked is not None and not self.asked.closed:
            return False
        return now - self.asked_at >= (_AGE_MIN_S if self.is_old else CATALOG_AGE_S)


class Catalogs:
    """One for all accounts of a node; only those with `functions = "catalog"` have anything asked.

    `changed` is called with each account whose statements must be judged anew.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[Account], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._entries: dict[_Place, _Entry] = {}

    def place(self, account: Account) -> None:
        """An account is new, or its settings have changed."""
        if _asks(account):
            account.catalog = merged([entry.catalog for entry in self._entries_of(account)])

    def _entries_of(self, account: Account) -> list[_Entry]:
        return [self._entry(account, (shard.cluster, shard.database)) for shard in account.settings.shards]

    def _entry(self, account: Account, place: _Place) -> _Entry:
        entry = self._entries.get(place)
        if entry is None:
            entry = self._entries[place] = _Entry()
        entry.accounts.add(account)
        return entry

    def linked(self, pool: Pool) -> None:
        """A link is new: the primary may have been away, or be another one."""
        if self.is_due(pool):
            pool.asks = True

    def lost(self, pool: Pool) -> None:
        """A link of a primary was lost: what it says afterwards may be something else."""
        if (entry := self._of(pool)) is not None:
            entry.is_old = True

    def tick(self, account: Account) -> None:
        """Ask again in time, over a link that is there anyway."""
        if not _asks(account):
            return
        for pool in account.pools():
            if pool.opened and not pool.asks and self.is_due(pool):
                server = None if pool.gate.paused else pool.take()
                if server is not None:
                    pool.gate.ask(pool, server)
                else:
                    pool.asks = True

    def is_due(self, pool: Pool) -> bool:
        """Whether this pool's server is to be asked."""
        entry = self._of(pool)
        return entry is not None and entry.is_due(self._clock())

    def _of(self, pool: Pool) -> _Entry | None:
        account = source_of(pool).account
        return self._entry(account, _place(pool)) if pool.leads and _asks(account) else None

    # -- asking --------------------------------------------------------------------------------------------

    def ask(self, pool: Pool, server: Server, then: Callable[[Server], None] | None = None) -> None:
        """Ask over a link; `then` is called when it is known what the answer changes."""
        entry = self._entry(source_of(pool).account, _place(pool))
        entry.asked = server
        entry.asked_at = self._clock()
        entry.questions += 1
        answered = partial(self._answered, entry, entry.questions, then)
        server.order(CATALOG_QUERY.encode(), Question(answered))

    def may_have_defined(self, server: Server) -> None:
        """A client has run code over this link, which may have done anything."""
        if (entry := self._of(server.pool)) is not None:
            entry.is_old = True

    def _answered(
        self,
        entry: _Entry,
        question: int,
        then: Callable[[Server], None] | None,
        server: Server,
        rows: Rows,
        error: bytes | None,
    ) -> None:
        # Another one, asked after it, knows better.
        if question == entry.questions:
            entry.asked = None
            # What a standby says may be older than what is known.
            entry.is_old = error is not None or not server.pool.leads
            if not entry.is_old:
                self._learn(entry, rows)
        if then is not None:
            then(server)

    def _learn(self, entry: _Entry, rows: Rows) -> None:
        catalog = read_catalog(
            (_text(schema), _text(name), is_volatile == b"t") for schema, name, is_volatile in rows
        )
        if catalog == entry.catalog:
            return
        entry.catalog = catalog
        for account in list(entry.accounts):
            if _asks(account):
                self.place(account)
                self._changed(account)


def _asks(account: Account) -> bool:
    return account.settings.functions == "catalog"


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _place(pool: Pool) -> _Place:
    source = source_of(pool)
    return source.key.cluster, source.shard.database
