"""To which shards of a pool the statements of one shape may go, and by which of their values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.selectors import Selector
from pgcat_cluster.relay.shapes import render_with_places
from pgcat_cluster.routing.keys import selector_of, table_of
from pgcat_cluster.sql.keys import KeyRules, Keys, Verdict, find_keys
from pgcat_cluster.sql.paths import Path
from pgcat_cluster.topology.model import PoolSettings, Sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where statements of one shape may go: `mark` is that of `relay.marks`, `reason` says why.

    `by_path`: under another search_path they might go elsewhere.
    """

    mark: int
    reason: str
    selector: Selector | None = None
    by_path: bool = False


class Placement:
    """The sharding rules of a pool with more than one shard, ready for use."""

    def __init__(self, sharding: Sharding) -> None:
        self._rules = rules_of(sharding)
        self._table = table_of(sharding.map)
        self.names_schemas = self._rules.names_schemas

    def reach(self, shape: bytes, path: Path | None = None) -> Reach:
        """Where statements of this shape may go, under a search_path that was set."""
        words, places = render_with_places(shape)
        keys = find_keys(words, self._rules if path is None else replace(self._rules, path=path))
        match keys.verdict:
            case Verdict.ANYWHERE:
                return Reach(mark=marks.ANYWHERE, reason=keys.reason, by_path=keys.by_path)
            case Verdict.NOWHERE:
                return Reach(mark=marks.NOWHERE, reason=keys.reason, by_path=keys.by_path)
            case Verdict.UNREAD:
                return Reach(mark=marks.UNREAD, reason=keys.reason, by_path=keys.by_path)
            case Verdict.KEYED:
                return self._keyed(keys, places)

    def _keyed(self, keys: Keys, places: dict[int, int]) -> Reach:
        selector = selector_of(self._table, keys.terms, places)
        if selector is None:
            reason = "its key is written as no key can be read"
            return Reach(mark=marks.UNREAD, reason=reason, by_path=keys.by_path)
        return Reach(mark=marks.KEYED, reason=keys.reason, selector=selector, by_path=keys.by_path)


def rules_of(sharding: Sharding, path: Path | None = None) -> KeyRules:
    """A pool's rules for names of tables and columns, as they are read under a search_path that was set."""
    return KeyRules(key=sharding.key, tables=sharding.tables, reference=sharding.reference, path=path)


def placement_of(settings: PoolSettings) -> Placement | None:
    """The placement of a pool's statements; None where there is one shard, which takes them all."""
    if settings.sharding is None or len(settings.shards) == 1:
        return None
    return Placement(settings.sharding)
