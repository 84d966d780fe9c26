"""Which tables of a statement are sharded, and by which column: the rules of a pool, applied to names."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .catalogs import RELATIONS
from .paths import Path

# Each server has its own, of itself or of all its databases.
_SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})
# Views of extensions that tell of the server alone.
_SYSTEM_RELATIONS = RELATIONS | {"pg_stat_statements", "pg_stat_statements_info", "pg_buffercache"}

# Schemas that hold no table of a rule: the system's, and those that have other names for each session.
_IMPLIED = re.compile(r"\$user\Z|pg_|information_schema\Z")

_NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".\s]+))\s*(\.|$)')


class Kind(enum.Enum):
    """Where the rows of a table are."""

    SHARDED = "each row on the shard of its key"
    REFERENCE = "all rows on every shard"
    SYSTEM = "the server's own"
    TEMPORARY = "one session's own"
    UNKNOWN = "no rule says"
    DOUBTFUL = "several rules may say, by search_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the rows of one table are; `column` holds their key if it is sharded, `reason` says why unknown."""

    kind: Kind
    column: str = ""
    reason: str = ""


_REFERENCE = Placement(kind=Kind.REFERENCE)
_SYSTEM = Placement(kind=Kind.SYSTEM)
_TEMPORARY = Placement(kind=Kind.TEMPORARY)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """The sharding rules of a pool, as names for tables and columns.

    `key` is the key column of every table that no other rule names ("": none), `tables` gives single tables
    theirs, `reference` names the tables that live whole on every shard. Names are read as PostgreSQL reads them:
    lower case unless quoted (`public.orders`, `"Orders"`). How a table of a statement finds its rule:

    - `schema.table` takes the rule of that very name, else the rule `table`, else the default key.
    - `table` takes the rule `table`, else the one that names it in some schema, else the default key. If several
      schemas have rules for it that do not agree, or only schemas other than public have one and there is a default
      key that differs, nobody can tell which table search_path finds: doubtful, and the statement must write the
      schema, or the pool have a rule without one.
    - With a `path`, which somebody has set, `table` takes the rule that names it in the first schema of that; else
      what all its schemas agree on. If they do not, or nobody knows the path and rules with schemas differ from what
      else there is, it is doubtful. A table that no rule names with a schema has nothing to do with it.
    """

    key: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)
    reference: frozenset[str] = frozenset()
    path: Path | None = None
    _by_name: dict[tuple[str, str], Placement] = field(init=False, repr=False, compare=False)
    _by_table: dict[str, dict[str, Placement]] = field(init=False, repr=False, compare=False)
    _default: Placement | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepares the look-up; ValueError for a name that PostgreSQL would not read."""
        rules: dict[tuple[str, str], Placement] = {}
        for name, column in self.tables.items():
            rules[_split(name)] = _sharded(_folded(column))
        for name in self.reference:
            rules[_split(name)] = _REFERENCE
        by_table: dict[str, dict[str, Placement]] = {}
        for (schema, table), placement in rules.items():
            by_table.setdefault(table, {})[schema] = placement
        object.__setattr__(self, "_by_name", rules)
        object.__setattr__(self, "_by_table", by_table)
        object.__setattr__(self, "_default", _sharded(_folded(self.key)) if self.key else None)

    @property
    def is_empty(self) -> bool:
        return not self._by_name and self._default is None

    @property
    def names_schemas(self) -> bool:
        return any(schema for schema, _ in self._by_name)

    def is_by_path(self, schema: str, table: str) -> bool:
        """Whether search_path has a say in the rule of a table of a statement."""
        return not schema and table not in _SYSTEM_RELATIONS and any(self._by_table.get(table, ()))

    def placement(self, schema: str, table: str) -> Placement:
        """Where the rows of a table of a statement are; no schema: ""."""
        if schema.startswith("pg_temp"):
            return _TEMPORARY
        if schema in _SYSTEM_SCHEMAS:
            return _SYSTEM
        if schema:
            found = self._by_name.get((schema, table)) or self._by_name.get(("", table)) or self._default
            return found or _unknown(f"{schema}.{table}")
        if table in _SYSTEM_RELATIONS:
            return _SYSTEM
        fitting = self._by_table.get(table, {})
        if self.path is not None and any(fitting):
            return self._found_by(self.path, table, fitting)
        if "" in fitting:
            return fitting[""]
        candidates = set(fitting.values())
        if self._default is not None and "public" not in fitting:
            candidates.add(self._default)
        if len(candidates) > 1:
            known = " or ".join(sorted(f"{schema}.{table}" for schema in fitting))
            reason = f"table {table} may be {known} or another by search_path: write its schema"
            return Placement(kind=Kind.DOUBTFUL, reason=reason)
        return candidates.pop() if candidates else _unknown(table)

    def _found_by(self, path: Path, table: str, fitting: Mapping[str, Placement]) -> Placement:
        """Where the rows of a table are that a path finds."""
        elsewhere = fitting.get("", self._default)
        # Every session has the left out ones, by its role and its server.
        searched = [schema for schema in path.schemas or () if schema and not _IMPLIED.match(schema)]
        if searched and searched[0] in fitting:
            return fitting[searched[0]]
        possible = {fitting.get(schema, elsewhere) for schema in searched} or {elsewhere, *fitting.values()}
        if len(possible) == 1:
            return possible.pop() or _unknown(f"{searched[0]}.{table}" if len(searched) == 1 else table)
        named = " or ".join(f"{schema}.{table}" for schema in searched or sorted(filter(None, fitting)))
        possibly = "" if searched else " or another"
        by = "a search_path that is not known" if path.schemas is None else "the session's search_path"
        reason = f"table {table} may be {named}{possibly} by {by}: write its schema"
        return Placement(kind=Kind.DOUBTFUL, reason=reason)


def _sharded(column: str) -> Placement:
    return Placement(kind=Kind.SHARDED, column=column)


def _unknown(name: str) -> Placement:
    remedy = "give it a key in sharding.tables, list it in sharding.reference, or set sharding.key"
    return Placement(kind=Kind.UNKNOWN, reason=f"no sharding rule for table {name}: {remedy}")


def _split(name: str) -> tuple[str, str]:
    parts = list(_parts(name))
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"not the name of a table: {name}")
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _folded(name: str) -> str:
    parts = list(_parts(name))
    if len(parts) != 1:
        raise ValueError(f"not the name of a column: {name}")
    return parts[0]


def _parts(name: str) -> Iterable[str]:
    position = 0
    while True:
        found = _NAME.match(name, position)
        if found is None:
            raise ValueError(f"not a name: {name}")
        quoted, plain, end = found.groups()
        # PostgreSQL folds ASCII letters alone in UTF-8 databases of most locales.
        yield quoted.replace('""', '"') if quoted is not None else "".join(map(_lower, plain))
        if not end:
            return
        position = found.end()


def _lower(letter: str) -> str:
    return letter.lower() if letter.isascii() else letter
