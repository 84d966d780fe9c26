"""The corpus of statements for sharded pools: each is routed as its file says, however it is written."""

from __future__ import annotations

import random
import re

import pytest

from pgcat_cluster.relay.shapes import Scanner, render, render_with_places
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import Keys, Verdict, find_keys
from tests.fuzz.mutations import mutated
from tests.support.keyed_routes import (
    OTHER_WAYS,
    KeyedRoute,
    described,
    read_keyed_routes,
    rewritable,
    rules,
    value_of,
)

ROUTES = read_keyed_routes()
KEYED = [route for route in ROUTES if not route.expected.startswith("refused")]
pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


def test_every_statement_goes_where_its_file_says() -> None:
    wrong = {str(route): (described(route.text), route.expected) for route in ROUTES}
    assert {place: pair for place, pair in wrong.items() if pair[0] != pair[1]} == {}


def test_the_corpus_is_large() -> None:
    assert len({route.text for route in ROUTES}) >= 800
    assert len([route for route in ROUTES if "shard" in route.expected.split("#")[0]]) >= 300


# --- what changes nothing


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", OTHER_WAYS)
def test_another_way_to_write_it_changes_nothing(way: str, seed: int) -> None:
    chance = random.Random(seed)
    rewrite, routes = OTHER_WAYS[way], rewritable(way, ROUTES)
    assert_same(routes, [rewrite(route.text, chance) for route in routes])


def assert_same(routes: list[KeyedRoute], texts: list[str]) -> None:
    assert len(routes) > 150
    wrong = {}
    for route, text in zip(routes, texts, strict=True):
        said = described(text)
        if said != route.expected:
            wrong[text] = (said, route.expected)
    assert wrong == {}


# --- what the relay sees: the shape of a statement, with other constants in it


def rendered(text: str) -> str | None:
    statement = bytearray(text.encode())
    shape = Scanner().scan(statement, 0, len(statement))
    return None if shape is None else render(shape)


def test_a_shape_is_bound_like_its_statement() -> None:
    shapes = [(route, rendered(route.text)) for route in ROUTES]
    known = [(route, shape) for route, shape in shapes if shape is not None]
    assert len(known) > 0.97 * len(ROUTES)
    for route, shape in known:
        of_text, of_shape = find_keys(route.text, rules()), find_keys(shape, rules())
        assert (of_text.verdict, of_text.reason) == (of_shape.verdict, of_shape.reason), route.text
        assert kinds(of_text) == kinds(of_shape), route.text


CONSTANTS = """\
7, -7, - 7, +7, 7.5, .5, 5., 1e3, 0x1F, 1_000, (7), -(7), - (- 7), 7::int8, - 7::int8, -(7::int8), cast(7 as int8)
bigint'7', '7', E'7', e'7', U&'7', N'7', n'7', B'1', X'1', $$7$$, $a$7$a$, '7'::text, date '7', interval '7', null
true, timestamp with time zone '7', double precision '7', national character varying '7', nchar '7', 5000000000, 'é'
"""


@pytest.mark.parametrize("constant", re.split(", |\n", CONSTANTS)[:-1])
def test_a_term_stands_where_the_shape_has_a_marker(constant: str) -> None:
    for text in (
        f"select 'é', 1 from orders where customer_id = {constant}",
        f"select 'é', 1 from orders where customer_id in ({constant}, {constant})",
        f"insert into orders (id, customer_id) values ({constant}, {constant}), ({constant}, {constant})",
    ):
        assert_places(text)


def test_every_term_of_the_corpus_stands_where_the_shape_has_a_marker() -> None:
    for route in ROUTES:
        assert_places(route.text)


def test_whatever_comes_is_judged() -> None:
    """Statements broken at random: nothing is raised, and every term stands at a marker."""
    for text in mutated(400, 7):
        assert_places(text)


def assert_places(text: str) -> None:
    statement = bytearray(text.encode())
    shape = Scanner().scan(statement, 0, len(statement))
    if shape is not None:
        words, places = render_with_places(shape)
        terms = find_keys(words, rules()).terms
        assert [term for term in terms if not term.parameter and term.location not in places] == []


def kinds(keys: Keys) -> set[tuple[object, ...]]:
    return {(term.parameter, term.cast, term.is_negative, term.is_alone, term.context) for term in keys.terms}


def test_every_term_stands_at_a_constant_or_is_a_parameter() -> None:
    for route in ROUTES:
        keys = find_keys(route.text, rules())
        assert bool(keys.terms) == (keys.verdict is Verdict.KEYED)
        for term in keys.terms:
            assert (term.location < 0) == bool(term.parameter)
            value_of(route.text, term)
