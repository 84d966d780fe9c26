"""Without PostgreSQL's grammar the judgement may be coarser, never bolder."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pgcat_cluster.sql import analysis, fallback, grammar
from pgcat_cluster.sql.statement import Analysis, Effect
from tests.support.routes import ExpectedRoute, read_routes

ROUTES = read_routes()
needs_grammar = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


def judged(text: str) -> Analysis:
    return fallback.analyze(text, frozenset())


@needs_grammar
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_it_is_never_bolder_than_the_grammar(route: ExpectedRoute) -> None:
    exact, coarse = analysis.analyze(route.text), judged(route.text)
    if not exact.parses or not coarse.parses:
        return  # PostgreSQL refuses what does not parse, wherever it goes; unknown is always safe
    assert exact.reads_only or not coarse.reads_only
    assert coarse.statements == exact.statements
    assert (coarse.transaction, coarse.opens_transaction, coarse.ends_transaction) == (
        exact.transaction,
        exact.opens_transaction,
        exact.ends_transaction,
    )
    if Effect.RUNS_CODE in coarse.effects:
        return  # anything may have happened
    assert exact.effects - {Effect.WRITES} <= coarse.effects
    assert set(coarse.parameters) - {None} <= set(exact.parameters)
    assert set(exact.parameters) <= set(coarse.parameters) or None in coarse.parameters
    assert (coarse.prepared_name, coarse.show, coarse.discards) == (
        exact.prepared_name,
        exact.show,
        exact.discards,
    )


def test_it_still_finds_most_reads() -> None:
    reads = [route for route in ROUTES if route.role == "replica"]
    found = [route for route in reads if judged(route.text).reads_only or "read only" in route.text.lower()]
    assert len(found) > 0.9 * len(reads)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("insert into t values ($1,$2)", {"reason": "writes: insert", "effects": {Effect.WRITES}}),
        ("select $1::int+$2,f($1,$2)", {"reads_only": True, "reason": "reads"}),
        (
            "select set_config('a', $1, true)",
            {
                "reads_only": True,
                "reason": "reads",
                "effects": {Effect.SETS_LOCAL},
                "parameters": ("a",),
                "needs_text": True,
            },
        ),
        ("select * from t where x = '; delete from t'", {"reads_only": True, "reason": "reads"}),
        ("select 1 /* /* */ ; delete from t */", {"reads_only": True, "reason": "reads"}),
        (
            "select 1; delete from t",
            {"statements": 2, "reason": "writes: delete", "effects": {Effect.WRITES}},
        ),
        (
            "explain select 1",
            {"reason": "explains", "effects": {Effect.EXECUTES, Effect.RUNS_CODE, Effect.WRITES}},
        ),
        ('select "nextval" (1)', {"reason": "calls nextval()", "effects": {Effect.WRITES}}),
    ],
)
def test_whole_answers(text: str, expected: dict[str, Any]) -> None:
    plain = Analysis(parses=True, statements=1, reason="")
    assert judged(text) == dataclasses.replace(plain, **expected)


@pytest.mark.parametrize(
    "text",
    [
        'select U&"n\\0065xtval"(1)',
        "select 'open",
        'select "open',
        "select $$open",
        "select $a$open$b$",
        "select 1 /* open /* */",
        "select 1 \\; select 2",
        "nonsense",
        "select " + "(" * 2000 + "1" + ")" * 2000,
        "create function f() returns int begin atomic select 1; delete from t; end",
        "alias as x select",
    ],
    ids=lambda text: text[:24],
)
def test_what_it_does_not_understand_is_unknown(text: str) -> None:
    assert judged(text) == Analysis(parses=False, reason="unknown: does not parse")


def test_it_serves_where_the_grammar_can_not_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "AVAILABLE", False)
    assert analysis.analyze("explain select 1").reason == "explains"
    assert not analysis.analyze("select 1\0; delete from t").parses
    assert analysis.analyze("select charge(1)", frozenset({"charge"})).reads_only is False
