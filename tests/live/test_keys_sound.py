"""What is said of a statement's keys, against a real server: one shard gives the answer of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import Verdict, find_keys
from tests.fuzz import queries
from tests.support.shards import Shards, sharded

pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")

SHARDS = 3


@pytest.fixture(scope="module")
def made_up(pg_stack: Stack) -> Iterator[Shards]:
    with sharded(pg_stack, queries.SCHEMA, SHARDS, name="keys_made_up", rows=40, seed=7) as shards:
        yield shards


def hunt(shards: Shards, seeds: range) -> Counter[str]:
    """Makes one statement for each seed and runs it on its shard and on the whole; AssertionError for the first
    that differs.
    """
    seen = Counter[str]()
    for seed in seeds:
        text = queries.Maker(seed).statement()
        keys = find_keys(text, queries.RULES)
        seen[keys.verdict.name] += 1
        if keys.verdict is Verdict.NOWHERE:
            continue
        shard = shards.shard_of(text, keys.terms) if keys.terms else seed % SHARDS
        if shard is None:
            seen["several shards"] += 1
            continue
        different = shards.differences(text, shard, seen=seen)
        assert not different, f"seed {seed}, shard {shard}: {text}\n{keys}\n" + "\n".join(different)
        seen["run"] += 1
    return seen


def test_one_shard_gives_the_answer_of_the_whole(made_up: Shards) -> None:
    seen = hunt(made_up, range(800))
    print(dict(seen))
    assert seen["run"] > 200
    assert seen["rows"] > 90


@pytest.mark.live_long
@pytest.mark.timeout(3600)
def test_one_shard_gives_the_answer_of_the_whole_however_long_one_looks(
    made_up: Shards, record_property: Callable[[str, object], None]
) -> None:
    seen = hunt(made_up, range(10_000, 130_000))
    for word in ("run", "rows", "KEYED", "ANYWHERE", "NOWHERE", "several shards"):
        record_property(word, seen[word])
    assert seen["rows"] > 10_000
