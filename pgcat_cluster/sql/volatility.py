"""Functions that are not PostgreSQL's own: the pool's lists of them, and what a server says of the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .builtin_functions import VOLATILITY

# An aggregate is always called immutable: it is what the functions are that it is made of. PostgreSQL's own
# functions (oids below 16384) are known by name; a procedure can not be called in a query.
CATALOG_QUERY = """
SELECT n.nspname, f.proname, bool_or(f.volatility = 'v') FROM (
    SELECT p.oid, p.pronamespace, p.proname, p.provolatile AS volatility
    FROM pg_catalog.pg_proc p WHERE p.prokind <> 'p'
    UNION ALL
    SELECT p.oid, p.pronamespace, p.proname, part.provolatile
    FROM pg_catalog.pg_aggregate a
    JOIN pg_catalog.pg_proc p ON p.oid = a.aggfnoid
    JOIN pg_catalog.pg_proc part ON part.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,
        a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
) f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
WHERE f.oid >= 16384 GROUP BY 1, 2
"""


def may_be_built_in(name: str, qualified_name: str) -> bool:
    """Whether a function of PostgreSQL's own answers to this name."""
    return qualified_name in (name, f"pg_catalog.{name}") and name in VOLATILITY


@dataclass(frozen=True, slots=True)
class FunctionCatalog:
    """Which functions a server has beside PostgreSQL's own, by name; the worst of those that share one.

    `is_volatile` has each twice: as `name`, and as `schema.name`. Names are lower-case: PostgreSQL tells them
    apart by case, we take the worst. While nothing `is_known` every function may be volatile.
    """

    is_volatile: Mapping[str, bool] = field(default_factory=dict)
    is_known: bool = True

    def objection(self, name: str, qualified_name: str) -> str | None:
        """Why a read may not call this function; None: it may. What is not found is new, or not there at all."""
        is_volatile = self.is_volatile.get(qualified_name)
        if is_volatile:
            return f"calls a volatile function {name}()"
        if is_volatile is None and not may_be_built_in(name, qualified_name):
            return f"calls a function {name}() of unknown volatility"
        return None


UNKNOWN = FunctionCatalog(is_known=False)


def read_catalog(rows: Iterable[tuple[str, str, bool]]) -> FunctionCatalog:
    """The answer to `CATALOG_QUERY`: schema, name, and whether one of them is volatile."""
    names: dict[str, bool] = {}
    for schema, name, is_volatile in rows:
        for key in (name.lower(), f"{schema}.{name}".lower()):
            names[key] = names.get(key, False) or is_volatile
    return FunctionCatalog(is_volatile=names)


def merged(catalogs: Sequence[FunctionCatalog]) -> FunctionCatalog:
    """The worst of several: known when all of them are."""
    if len(catalogs) == 1:
        return catalogs[0]
    if not all(catalog.is_known for catalog in catalogs):
        return UNKNOWN
    names: dict[str, bool] = {}
    for catalog in catalogs:
        for name, is_volatile in catalog.is_volatile.items():
            names[name] = names.get(name, False) or is_volatile
    return FunctionCatalog(is_volatile=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRules:
    """How functions are judged that are not among the built-in ones known to write.

    `writing` and `reading` are lower-case names, plain or with their schema. Without a `catalog` what is not
    listed as writing counts as a read.
    """

    writing: frozenset[str] = frozenset()
    reading: frozenset[str] = frozenset()
    catalog: FunctionCatalog | None = None


NO_RULES = FunctionRules()
