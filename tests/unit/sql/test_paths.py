"""What statements do to search_path, and how its value is read."""

from __future__ import annotations

import pytest

from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.paths import UNKNOWN, Change, Path, Step, change_of, path_of, value_of

pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


@pytest.mark.parametrize(
    ("value", "schemas"),
    [
        ("", ()),
        ('"$user", public', ("$user", "public")),
        (' Other ,"Pu""B"', ("other", 'Pu"B')),
        ('""', ("",)),
        ("a.b", ("a.b",)),
        ("a,", None),
        ("a b", None),
        ('"a', None),
    ],
)
def test_values(value: str, schemas: tuple[str, ...] | None) -> None:
    assert path_of(value) == Path(schemas)
    if schemas:
        assert path_of(value_of(schemas)) == Path(schemas)


@pytest.mark.parametrize(
    ("statement", "to"),
    [
        ("set search_path = other, Public", Path(("other", "public"))),
        ('set local "Search_Path" to \'A, b\', "C"', Path(("A, b", "C"))),
        ("set schema 'other'", Path(("other",))),
        ("set search_path = ''", Path(("",))),
        ("set search_path = 1", UNKNOWN),
        ("set search_path to default", Step.RESET),
        ("reset search_path", Step.RESET),
        ("reset all", Step.RESET),
        ("discard all", Step.RESET),
        ("select set_config('search_path', 'other, \"P\"', true)", Path(("other", "P"))),
        (
            "select set_config('role', 'x', true), pg_catalog.set_config('SEARCH_PATH', 'x', true)",
            Path(("x",)),
        ),
        ("select set_config('search_path', $1, true)", UNKNOWN),
        ("select set_config($1, 'other', true)", UNKNOWN),
        ("select set_config('search_path', 'other', true) from t", UNKNOWN),
        ("select set_config('search_path', 'other', true) where false", UNKNOWN),
        ("with c as (select set_config('search_path', 'other', true)) select * from c", UNKNOWN),
        ("select set_config('search_path', 'a', true), set_config('search_path', 'b', true)", UNKNOWN),
        ("update pg_settings set setting = 'other' where name = 'search_path'", UNKNOWN),
        ("do $$ begin set search_path = other; end $$", UNKNOWN),
        ("execute p", UNKNOWN),
        ("commit", Step.END),
        ("rollback and chain", Step.END),
        ("rollback to a", Step.BACK),
        ("begin; set local search_path = other", Path(("other",))),
        ("set search_path = a; set search_path = b", Path(("b",))),
        ("set search_path = other; commit", UNKNOWN),
        ("rollback; begin; set local search_path = other", Path(("other",))),
    ],
)
def test_changes(statement: str, to: Path | Step) -> None:
    assert change_of(statement) == Change(to, is_mixed=False, saves=False)


@pytest.mark.parametrize(
    "statement",
    ["select 1", "set timezone = 'utc'", "select set_config('timezone', 'utc', true)", "begin", "release a",
     "do $$ begin end $$", "discard plans", "what"],
)  # fmt: skip
def test_no_changes(statement: str) -> None:
    assert change_of(statement) is None


def test_what_is_read_behind_a_change() -> None:
    assert change_of("set search_path = a; select 1") == Change(Path(("a",)), is_mixed=True, saves=False)
    assert change_of("select 1; set search_path = a") == Change(Path(("a",)), is_mixed=False, saves=False)
    assert change_of("select 1; commit") == Change(Step.END, is_mixed=False, saves=False)
    assert change_of("rollback to a; select 1") == Change(Step.BACK, is_mixed=True, saves=False)
    assert change_of("savepoint a") == Change(None, is_mixed=False, saves=True)
