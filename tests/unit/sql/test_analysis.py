"""What analysis finds in a statement beside its route: effects, names, transactions, what needs the text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.analysis import Analysis, Effect, TransactionVerb, analyze
from pgcat_cluster.sql.volatility import FunctionRules
from tests.support.routes import read_routes

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform"),
]

READ = Analysis(parses=True, statements=1, reads_only=True, reason="reads")
REFUSED = dataclasses.replace(READ, reads_only=False)
UNKNOWN_CALL = dataclasses.replace(READ, calls_unknown=True)


def found(text: str) -> dict[str, Any]:
    """What differs from a plain read, without the reason (the corpus asserts those)."""
    analysis = analyze(text)
    return {
        field.name: getattr(analysis, field.name)
        for field in dataclasses.fields(Analysis)
        if field.name != "reason" and getattr(analysis, field.name) != getattr(REFUSED, field.name)
    }


WRITES = Effect.WRITES
ANYTHING = {Effect.RUNS_CODE, WRITES}


def test_a_read_leaves_nothing() -> None:
    assert analyze("select * from accounts where id = 7") == READ


@pytest.mark.parametrize(
    ("text", "effects"),
    [
        ("insert into t values (1)", {WRITES}),
        ("with x as (delete from t returning *) select * from x", {WRITES}),
        ("select * from t for key share", {WRITES}),
        ("select nextval('s')", {WRITES}),
        ("select * into x from t", {WRITES}),
        ("select * into temp x from t", {Effect.TEMPORARY}),
        ("create table x (a int)", {WRITES}),
        ("create temp table x (a int)", {Effect.TEMPORARY}),
        ("create temp table x as select nextval('s')", {Effect.TEMPORARY, WRITES}),
        ("create temp view x as select 1", {Effect.TEMPORARY}),
        ("create temp sequence x", {Effect.TEMPORARY}),
        ("create table pg_temp.x (a int)", {Effect.TEMPORARY}),
        (
            "create function pg_temp.x() returns int language sql as 'select 1'",
            {Effect.TEMPORARY, Effect.DEFINES},
        ),
        ("create type pg_temp.x as (a int)", {Effect.TEMPORARY}),
        ("create temp table x (a int) on commit delete rows", {Effect.TEMPORARY}),
        ("create temp table x (a int) on commit drop", set()),
        ("create temp table x on commit drop as select 1", set()),
        ("create temp table x as execute q", {Effect.TEMPORARY, Effect.EXECUTES} | ANYTHING),
        ("drop table x", {Effect.DROPS, WRITES}),
        ("drop table pg_temp.x", {Effect.DROPS, WRITES}),
        ("alter table x rename to y", {Effect.DROPS, WRITES}),
        ("alter table x add y int", {Effect.DROPS, WRITES}),
        ("listen a", {Effect.LISTENS}),
        ("unlisten *", {Effect.UNLISTENS}),
        ("notify a", {WRITES}),
        ("select pg_notify('a', 'b')", {WRITES}),
        ("select pg_advisory_lock(1)", {Effect.ADVISORY_LOCK}),
        ("select pg_try_advisory_lock_shared(1)", {Effect.ADVISORY_LOCK}),
        ("select pg_advisory_unlock(1)", {Effect.ADVISORY_UNLOCK}),
        ("select pg_advisory_unlock_all()", {Effect.ADVISORY_UNLOCK}),
        ("select pg_advisory_xact_lock(1)", set()),
        ("declare c cursor with hold for select 1", {Effect.HOLD_CURSOR}),
        ("declare c cursor for select 1", set()),
        ("close c", {Effect.CLOSES_CURSOR}),
        ("select currval('s'), lastval()", {Effect.SEQUENCE_STATE}),
        ("do 'begin end'", ANYTHING),
        ("call p(1)", ANYTHING),
        ("call p(pg_advisory_lock(1))", {Effect.ADVISORY_LOCK} | ANYTHING),
        ("load 'x'", {Effect.LOADS}),
        ("lock table t", set()),
        ("copy t from stdin", {Effect.COPY_IN, WRITES}),
        ("copy t from '/file'", {WRITES}),
        ("copy t to '/file'", {WRITES}),
        ("copy (delete from t returning *) to stdout", {Effect.COPY_OUT, WRITES}),
        ("explain insert into t values (1)", set()),
        ("explain analyze insert into t values (1)", {WRITES}),
        ("explain create temp table x as select 1", set()),
        ("explain analyze create temp table x as select 1", {Effect.TEMPORARY}),
        ("explain select pg_advisory_lock(1)", set()),
        ("explain (analyze) select pg_advisory_lock(1)", {Effect.ADVISORY_LOCK}),
        ("select query_to_xml('delete from t', true, true, '')", ANYTHING),
        ("checkpoint", {WRITES}),
    ],
)
def test_effects_of_what_is_no_read(text: str, effects: set[Effect]) -> None:
    analysis = analyze(text)
    assert (analysis.reads_only, set(analysis.effects)) == (False, effects)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("set a to 1", {"effects": {Effect.SETS_PARAMETER}, "parameters": ("a",), "needs_text": True}),
        (
            'set "Work_Mem" to 1',
            {"effects": {Effect.SETS_PARAMETER}, "parameters": ("work_mem",), "needs_text": True},
        ),
        ("set local a.b = 1", {"effects": {Effect.SETS_LOCAL}, "parameters": ("a.b",), "needs_text": True}),
        ("set a to default", {"effects": {Effect.SETS_PARAMETER}, "parameters": ("a",)}),
        (
            "set time zone 'UTC'",
            {"effects": {Effect.SETS_PARAMETER}, "parameters": ("timezone",), "needs_text": True},
        ),
        (
            "set names 'UTF8'",
            {"effects": {Effect.SETS_PARAMETER}, "parameters": ("client_encoding",), "needs_text": True},
        ),
        ("set role x", {"effects": {Effect.SETS_PARAMETER}, "parameters": ("role",), "needs_text": True}),
        (
            "set session authorization x",
            {
                "effects": {Effect.SETS_PARAMETER},
                "parameters": ("session_authorization",),
                "needs_text": True,
            },
        ),
        (
            "set search_path to pg_temp, public",
            {
                "effects": {Effect.SETS_PARAMETER, Effect.TEMPORARY},
                "parameters": ("search_path",),
                "needs_text": True,
            },
        ),
        (
            "set session characteristics as transaction read only, isolation level serializable",
            {
                "effects": {Effect.SETS_PARAMETER},
                "parameters": ("default_transaction_read_only", "default_transaction_isolation"),
            },
        ),
        ("set transaction read only", {"transaction": TransactionVerb.OTHER}),
        ("set constraints all deferred", {}),
        ("reset a", {"effects": {Effect.SETS_PARAMETER}, "parameters": ("a",)}),
        ("reset all", {"effects": {Effect.SETS_PARAMETER}, "parameters": ("all",)}),
        (
            "select set_config('A', 'b', false)",
            {"effects": {Effect.SETS_PARAMETER}, "parameters": ("a",), "needs_text": True},
        ),
        (
            "select set_config('a', $1, true)",
            {
                "effects": {Effect.SETS_LOCAL},
                "parameters": ("a",),
                "needs_text": True,
                "reads_only": True,
            },
        ),
        (
            "select set_config('a'::text, 'b', 't')",
            {
                "effects": {Effect.SETS_LOCAL},
                "parameters": ("a",),
                "needs_text": True,
                "reads_only": True,
            },
        ),
        (
            "select set_config($1, $2, $3)",
            {"effects": {Effect.SETS_PARAMETER}, "parameters": (None,), "needs_text": True},
        ),
        (
            "select set_config(setting_name => 'a', new_value => 'b', is_local => true)",
            {"effects": {Effect.SETS_PARAMETER}, "parameters": (None,), "needs_text": True},
        ),
        (
            "select set_config('search_path', 'pg_temp', false)",
            {
                "effects": {Effect.SETS_PARAMETER, Effect.TEMPORARY},
                "parameters": ("search_path",),
                "needs_text": True,
            },
        ),
        (
            "update pg_settings set setting = 1 where name = 'a'",
            {"effects": {Effect.SETS_PARAMETER, WRITES}, "parameters": (None,)},
        ),
        ("select setseed(0.5)", {"effects": {Effect.SETS_PARAMETER}, "parameters": ("seed",)}),
        ("show Work_Mem", {"reads_only": True, "show": "work_mem"}),
        ("show time zone", {"reads_only": True, "show": "timezone"}),
        ("show a; show b", {"reads_only": True, "statements": 2}),
        ("show in_hot_standby", {"show": "in_hot_standby"}),
    ],
)
def test_parameters(text: str, expected: dict[str, Any]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prepare q as delete from t", {"effects": {Effect.PREPARES}, "prepared_name": "q"}),
        ("execute q(1)", {"effects": {Effect.EXECUTES} | ANYTHING, "prepared_name": "q"}),
        ("explain execute q", {"effects": {Effect.EXECUTES}, "prepared_name": "q"}),
        ('deallocate "Q"', {"effects": {Effect.DEALLOCATES}, "prepared_name": "Q"}),
        ("deallocate prepare q", {"effects": {Effect.DEALLOCATES}, "prepared_name": "q"}),
        ("deallocate all", {"effects": {Effect.DEALLOCATES}}),
        ("discard all", {"effects": {Effect.DISCARDS}, "discards": "all"}),
        ("discard temp", {"effects": {Effect.DISCARDS}, "discards": "temp"}),
        ("discard plans", {"effects": {Effect.DISCARDS}, "discards": "plans"}),
        (
            "discard plans; discard temp; discard sequences",
            {"effects": {Effect.DISCARDS}, "discards": "temp", "statements": 3},
        ),
    ],
)
def test_prepared_statements_and_discard(text: str, expected: dict[str, Any]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "verb", "opens", "ends"),
    [
        ("select 1", TransactionVerb.NONE, False, False),
        ("begin", TransactionVerb.BEGIN, True, False),
        ("begin read only", TransactionVerb.BEGIN_READ_ONLY, True, False),
        ("begin isolation level serializable read only", TransactionVerb.BEGIN, True, False),
        ("begin read write, read only", TransactionVerb.BEGIN, True, False),
        ("end", TransactionVerb.COMMIT, False, True),
        ("commit and chain", TransactionVerb.COMMIT, True, True),
        ("abort", TransactionVerb.ROLLBACK, False, True),
        ("rollback and chain", TransactionVerb.ROLLBACK, True, True),
        ("rollback to s", TransactionVerb.OTHER, False, False),
        ("savepoint s", TransactionVerb.OTHER, False, False),
        ("release s", TransactionVerb.OTHER, False, False),
        ("prepare transaction 'x'", TransactionVerb.OTHER, False, True),
        ("commit prepared 'x'", TransactionVerb.OTHER, False, False),
        ("begin read only; select 1", TransactionVerb.OTHER, True, False),
        ("select 1; commit", TransactionVerb.OTHER, False, True),
        ("begin; select 1; commit", TransactionVerb.OTHER, True, True),
    ],
)
def test_transactions(text: str, verb: TransactionVerb, opens: bool, ends: bool) -> None:
    analysis = analyze(text)
    assert (analysis.transaction, analysis.opens_transaction, analysis.ends_transaction) == (
        verb,
        opens,
        ends,
    )
    assert not analysis.reads_only or verb is TransactionVerb.NONE


def test_nothing_at_all_is_a_read() -> None:
    empty = dataclasses.replace(READ, statements=0, reason="empty")
    assert [analyze(text) for text in ("", " ", ";;", "-- x", "/* x */ ;")] == [empty] * 5


def test_listed_functions_write() -> None:
    listed = FunctionRules(writing=frozenset({"charge", "app.refund"}))
    assert analyze("select charge(7)", listed).effects == {Effect.WRITES}
    assert analyze("select app.charge(7)", listed).effects == {Effect.WRITES}
    assert analyze("select APP.Refund(7)", listed).reason == "calls a function listed as writing"
    assert analyze("select refund(7)", listed) == UNKNOWN_CALL
    assert analyze("explain select charge(7)", listed).reads_only is False
    # PostgreSQL has a function of this name behind an operator, which nobody calls.
    assert analyze("select charge(7)") == UNKNOWN_CALL


NOT_TEXT = Analysis(parses=False, reason="unknown: too long, or not text")
NOT_PARSED = Analysis(parses=False, reason="unknown: does not parse")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 1\0; delete from t", NOT_TEXT),
        ("select '\udc80'", NOT_TEXT),
        ("select " + "x" * grammar.TEXT_BYTES_MAX, NOT_TEXT),
        ("select '" + "ü" * (grammar.TEXT_BYTES_MAX // 2) + "'", NOT_TEXT),
        ("select " + "(" * 10_000 + "1" + ")" * 10_000, NOT_TEXT),
        ("select " + "(" * 8_000 + "1" + ")" * 8_000, READ),
        ("select " + "1+" * 8_000 + "1", NOT_PARSED),
        ("select 1" + "::int" * 3_000, NOT_PARSED),
        ("select not " * 10, NOT_PARSED),
        ("selec 1", NOT_PARSED),
        ("select 1; nonsense", NOT_PARSED),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_unknown_texts(text: str, expected: Analysis) -> None:
    assert analyze(text) == expected


def test_the_longest_text_is_judged() -> None:
    text = f"select '{'x' * (grammar.TEXT_BYTES_MAX - 9)}'"
    assert len(text) == grammar.TEXT_BYTES_MAX
    assert analyze(text) == READ
    assert not analyze(text[:-1] + "' for update").parses


CORPUS = [route.text for route in read_routes()]
PIECES = sorted({piece for text in CORPUS for piece in text.replace("(", " ( ").replace(")", " ) ").split()})


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_no_text_breaks_it(text: str) -> None:
    assert isinstance(analyze(text), Analysis)


UNDERSTOOD = st.sampled_from([text for text in CORPUS if grammar.AVAILABLE and grammar.parse(text)])


@given(UNDERSTOOD, UNDERSTOOD)
def test_what_stands_beside_a_read_decides(text: str, other: str) -> None:
    one, two, both = analyze(text), analyze(other), analyze(f"{text}\n;\n{other}")
    assert both.reads_only is (one.reads_only and two.reads_only)
    assert both.effects == one.effects | two.effects
    assert both.parameters == one.parameters + two.parameters
    assert both.statements == one.statements + two.statements


def test_the_grammar_is_of_the_version_that_is_told() -> None:
    """JSON_TABLE came with 17."""
    table = "select * from json_table('[]', '$[*]' columns (a int path '$'))"
    assert grammar.POSTGRESQL == 17
    assert grammar.mistake_in(table) is None


@pytest.mark.parametrize(
    ("text", "sqlstate", "position"),
    [
        ("/* ö */ selekt", "42601", 9),
        ("select (", "42601", 9),
        ("select e'\\u00'", "22025", 10),
        ("select a::float(99)", "22023", 17),
        ("drop role none", "42939", 11),
        ("select sum(a) over (rows unbounded following) from t", "42P20", 26),
        ("create assertion a check (true)", "0A000", None),
        ("select 1 limit 1,2", "42601", 10),
    ],
)
def test_mistakes_have_the_codes_that_postgresql_has_for_them(
    text: str, sqlstate: str, position: int | None
) -> None:
    mistake = grammar.mistake_in(text)
    assert mistake is not None
    assert (mistake.sqlstate, mistake.position) == (sqlstate, position)


@pytest.mark.parametrize("text", ["", "select 1", "selekt \0", "selekt " + "x" * 20000, "selekt \udcff"])
def test_of_what_parses_or_is_not_read_no_mistake_is_told(text: str) -> None:
    assert grammar.mistake_in(text) is None
