"""The corpus for sharded pools, read as the relay reads it: shape, places, selector and the constants of the text."""

from __future__ import annotations

from collections import Counter

import pytest

from pgcat_cluster.relay.selectors import SEVERAL, UNSURE, Selector, ShardTable
from pgcat_cluster.relay.shapes import Scanner, render_with_places
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import Verdict, find_keys
from tests.support.keyed_routes import SHARDS, KeyedRoute, read_keyed_routes, rules

pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")

TABLE = ShardTable("hash", "bigint", SHARDS)


def shards_said(route: KeyedRoute) -> set[int]:
    """The numbers that the corpus expects; none if it expects no numbers."""
    words = route.expected.split("#")[0].partition(", shard")[2].split()
    return {int(word) for word in words if word.isdigit()} if "of" not in words else set()


def test_constants_lead_to_the_shard_that_the_corpus_says() -> None:
    seen = Counter[str]()
    for route in read_keyed_routes():
        statement = bytearray(route.text.encode())
        scanner = Scanner()
        shape = scanner.scan(statement, 0, len(statement))
        if shape is None:
            continue
        words, places = render_with_places(shape)
        keys = find_keys(words, rules())
        if keys.verdict is not Verdict.KEYED or any(term.parameter for term in keys.terms):
            continue
        slots = [(places[term.location], term.cast, term.is_negative, term.is_array) for term in keys.terms]
        shard = Selector(TABLE, slots).by_constants(scanner, statement)
        said = shards_said(route)
        if len(said) == 1:
            assert shard in (*said, UNSURE), route
            seen["unsure" if shard == UNSURE else "one shard"] += 1
        elif said:
            assert shard == SEVERAL, route
            seen["several"] += 1
        else:
            assert shard == UNSURE, route
    print(dict(seen))
    assert seen["one shard"] > 330
    assert seen["several"] > 15
    assert seen["unsure"] < 8
