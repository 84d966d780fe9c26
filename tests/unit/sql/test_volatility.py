"""Functions judged by what a server says of them, by the pool's lists, and by neither."""

from __future__ import annotations

import pytest

from pgcat_cluster.sql import fallback
from pgcat_cluster.sql.analysis import analyze
from pgcat_cluster.sql.statement import Effect
from pgcat_cluster.sql.volatility import NO_RULES, UNKNOWN, FunctionRules, read_catalog

pytestmark = pytest.mark.once

CATALOG = read_catalog(
    [
        ("public", "book", True),
        ("public", "total", False),
        ("shop", "total", False),
        ("public", "pay", False),
        ("shop", "pay", True),
        ("shop", "MixedCase", True),
        ("public", "mixedcase", False),
        ("public", "lower", True),
    ]
)
RULES = FunctionRules(
    writing=frozenset({"audit"}), reading=frozenset({"peek", "shop.pay", "nextval"}), catalog=CATALOG
)
BOOK = "calls a volatile function book()"
READS = "reads"

CASES = [
    ("select book(1)", BOOK),
    ("select public.book(1)", BOOK),
    ("select * from book(1) as b", BOOK),
    ("select 1 where exists (select 1 from t where x = book(1))", BOOK),
    ("explain select book(1)", BOOK),
    ("select total(1)", READS),
    ("select shop.total(1)", READS),
    # A plain name may be either of them; a schema tells.
    ("select pay(1)", "calls a volatile function pay()"),
    ("select public.pay(1)", READS),
    # By a list: before the catalog is asked.
    ("select shop.pay(1)", READS),
    ("select peek(1)", READS),
    ("select audit(1)", "calls a function listed as writing"),
    # PostgreSQL's own are known by name, in whatever case; what it knows to write stays so.
    ("select count(*), now(), random(), coalesce(1, 2), extract(year from now()) from t", READS),
    ("select pg_catalog.upper('x')", READS),
    ("select nextval('s')", "calls nextval()"),
    # Somebody has another function of such a name.
    ("select lower('x')", "calls a volatile function lower()"),
    ("select pg_catalog.lower('x')", READS),
    ("select MixedCase()", "calls a volatile function mixedcase()"),
    ("select public.mixedcase()", READS),
    ("select gone(1)", "calls a function gone() of unknown volatility"),
    ("select shop.gone(1)", "calls a function gone() of unknown volatility"),
    # No schema of the catalog holds it, though PostgreSQL's own has this name.
    ("select shop.upper('x')", "calls a function upper() of unknown volatility"),
]


@pytest.mark.parametrize(("text", "reason"), CASES)
def test_by_the_catalog(text: str, reason: str) -> None:
    analysis = analyze(text, RULES)
    assert (analysis.reason, analysis.reads_only) == (reason, reason == READS)


@pytest.mark.parametrize(
    ("text", "reason"), [(text, reason) for text, reason in CASES if not text.startswith("explain")]
)
def test_without_the_grammar(text: str, reason: str) -> None:
    assert fallback.analyze(text, RULES).reason == reason


def test_before_the_catalog_is_known() -> None:
    rules = FunctionRules(catalog=UNKNOWN)
    assert analyze("select total(1)", rules).reason == "calls a function total() of unknown volatility"
    assert analyze("select count(*) from t", rules).reads_only


def test_without_a_catalog_unknown_functions_read() -> None:
    analysis = analyze("select book(1), gone(1)", FunctionRules(reading=frozenset({"book"})))
    assert (analysis.reads_only, analysis.by_catalog) == (True, False)


def test_what_depends_on_the_catalog_says_so() -> None:
    judged = {
        text: analyze(text, RULES).by_catalog for text in ("select 1", "select peek(1)", "select total(1)")
    }
    assert judged == {"select 1": False, "select peek(1)": False, "select total(1)": True}
    assert analyze("explain select total(1)", RULES).by_catalog


@pytest.mark.parametrize(
    ("text", "defines"),
    [
        ("create or replace function f() returns int language sql as 'select 1'", True),
        ("create function f() returns int volatile begin atomic select 1; end", True),
        ("create aggregate a(int) (sfunc = f, stype = int)", True),
        ("alter function f() volatile", True),
        ("alter routine f() rename to g", True),
        ("alter function f() set schema s", True),
        ("alter schema s rename to r", True),
        ("drop function f(int)", True),
        ("drop schema s cascade", True),
        ("create extension x", True),
        ("alter extension x update", True),
        ("alter extension x add function f()", True),
        ("create table t (n int)", False),
        ("alter table t rename to u", False),
        ("drop table t", False),
        ("create operator + (procedure = f)", False),
        ("select 1", False),
    ],
)
def test_what_defines_functions(text: str, defines: bool) -> None:
    assert (Effect.DEFINES in analyze(text).effects) == defines
    without = fallback.analyze(text, NO_RULES)
    assert (Effect.DEFINES in without.effects) == defines or not without.parses
