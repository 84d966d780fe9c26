"""What is said of a statement's keys, against a real server: one shard gives the answer of the whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import Verdict, find_keys
from tests.fuzz import queries
from tests.support.keyed_routes import FOLDER, read_keyed_routes, rules
from tests.support.shards import Shards, sharded

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform"),
]

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
        if keys.verdict in (Verdict.NOWHERE, Verdict.UNREAD):
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
    seen = hunt(made_up, range(10_000, 60_000))
    for word in ("run", "rows", "KEYED", "ANYWHERE", "NOWHERE", "several shards"):
        record_property(word, seen[word])
    assert seen["rows"] > 5_000


# --- the corpus

MOMENTS = {1082: "2024-01-05", 1114: "2024-01-05", 1184: "2024-01-05", 16: "true"}
"""Values for parameters of these types; 7 for all others."""
# Plans tell of the partitions, and transactions that end in the string can not be taken back.
NOT_TO_COMPARE = re.compile(r"^\s*(explain|begin)\b", re.IGNORECASE)
NOW = re.compile(r"\bnow\(\)|\bcurrent_timestamp\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def corpus(pg_stack: Stack) -> Iterator[Shards]:
    schema = (FOLDER / "schema.sql").read_text()
    with sharded(pg_stack, schema, 2, name="keys_corpus", rows=20, seed=7) as shards:
        yield shards


def test_every_statement_of_the_corpus_is_answered_by_its_shard(corpus: Shards) -> None:
    seen = Counter[str]()
    failed: list[str] = []
    for route in read_keyed_routes():
        text = NOW.sub("'2024-01-05'::timestamp", route.text)
        keys = find_keys(text, rules())
        if keys.verdict is not Verdict.KEYED or NOT_TO_COMPARE.match(text):
            continue
        kinds = corpus.whole.parameter_types(text) or [0] * len(set(re.findall(r"(?<![\w$])\$\d", text)))
        parameters = [MOMENTS.get(kind, "7") for kind in kinds]
        shard = corpus.shard_of(text, keys.terms, parameters)
        if shard is None:
            seen["several shards"] += 1
            continue
        outcome = Counter[str]()
        different = corpus.differences(text, shard, parameters, seen=outcome)
        assert not different, f"{route}, shard {shard}: {text}\n" + "\n".join(different)
        seen += outcome
        failed += [f"{route}: {what}" for what in outcome if what not in ("rows", "no rows")]
    print(dict(seen), failed)
    assert seen["rows"] > 200
    assert len(failed) < 0.03 * seen.total()
