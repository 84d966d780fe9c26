"""Without PostgreSQL's grammar the judgement may be coarser, never bolder."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pgcat_cluster.sql import analysis, fallback, grammar
from pgcat_cluster.sql.statement import Analysis, Effect
from pgcat_cluster.sql.volatility import NO_RULES, FunctionRules
from tests.support.routes import read_routes

pytestmark = pytest.mark.once

ROUTES = read_routes()
needs_grammar = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


def judged(text: str) -> Analysis:
    return fallback.analyze(text, NO_RULES)


def is_bolder(coarse: Analysis, exact: Analysis) -> bool:
    """Whether the fallback claims more than the grammar allows. Unknown is always safe."""
    if not exact.parses or not coarse.parses:
        return False  # PostgreSQL refuses what does not parse, wherever it goes
    if coarse.reads_only and not exact.reads_only:
        return True
    told = ("statements", "transaction", "opens_transaction", "ends_transaction")
    if any(getattr(coarse, name) != getattr(exact, name) for name in told):
        return True
    if Effect.RUNS_CODE in coarse.effects:
        return False  # anything may have happened
    named = ("prepared_name", "show", "discards")
    return (
        not exact.effects - {Effect.WRITES} <= coarse.effects
        or not set(coarse.parameters) - {None} <= set(exact.parameters)
        or (None not in coarse.parameters and set(coarse.parameters) != set(exact.parameters))
        or any(getattr(coarse, name) != getattr(exact, name) for name in named)
    )


@needs_grammar
def test_it_is_never_bolder_than_the_grammar() -> None:
    bolder = [route for route in ROUTES if is_bolder(judged(route.text), analysis.analyze(route.text))]
    assert bolder == []


def test_it_still_finds_most_reads() -> None:
    reads = [route for route in ROUTES if route.role == "replica"]
    found = [route for route in reads if judged(route.text).reads_only or "read only" in route.text.lower()]
    assert len(found) > 0.9 * len(reads)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("insert into t values ($1,$2)", {"reason": "writes: insert", "effects": {Effect.WRITES}}),
        ("select $1::int+$2,f($1,$2)", {"reads_only": True, "reason": "reads", "calls_unknown": True}),
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
    assert (
        analysis.analyze("select charge(1)", FunctionRules(writing=frozenset({"charge"}))).reads_only is False
    )
