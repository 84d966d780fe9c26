"""Sharding functions with known answers, those of PgCat among them."""

from __future__ import annotations

import pytest

import pgcat_cluster.routing
from pgcat_cluster.routing import functions
from pgcat_cluster.routing.functions import pg_bigint_hash

FIVE_SHARDS = [
    (1, 4, 5, 14, 19, 39, 40, 46, 47, 53),
    (2, 3, 11, 17, 21, 23, 30, 49, 51, 54),
    (6, 7, 15, 16, 18, 20, 25, 28, 34, 35),
    (8, 12, 13, 22, 29, 31, 33, 36, 41, 43),
    (9, 10, 24, 26, 27, 32, 37, 38, 42, 45),
]


def test_bigint_hash_is_public() -> None:
    assert pgcat_cluster.routing.pg_bigint_hash is pg_bigint_hash


@pytest.mark.parametrize("shard", range(5))
def test_bigint_hash_over_five_shards(shard: int) -> None:
    assert {pg_bigint_hash(key, 5) for key in FIVE_SHARDS[shard]} == {shard}


def test_bigint_hash_over_three_shards() -> None:
    found = [pg_bigint_hash(key, 3) for key in range(1, 21)]
    assert found == [2, 0, 1, 0, 2, 0, 1, 0, 2, 1, 2, 2, 1, 1, 0, 0, 2, 0, 0, 0]


def test_the_number_of_shards_is_free() -> None:
    assert pg_bigint_hash(1, 1) == 0
    assert pg_bigint_hash(1, 2**64) == 0x9C7715E2970A8FB8


def test_sha1_over_twelve_shards() -> None:
    found = [functions.sha1(key, 12) for key in range(20)]
    assert found == [4, 7, 8, 3, 6, 0, 0, 10, 3, 11, 1, 7, 4, 4, 11, 2, 5, 0, 8, 3]
    assert [functions.sha1(key, 12) for key in (-1, 2**63 - 1, -(2**63))] == [1, 5, 11]


def test_modulo_is_never_negative() -> None:
    assert [functions.modulo(key, 3) for key in (-4, -3, -1, 0, 1, 5, 2**63 - 1)] == [2, 0, 2, 0, 1, 2, 1]


@pytest.mark.parametrize(
    "function", [pg_bigint_hash, functions.pg_timestamp_hash, functions.sha1, functions.modulo]
)
def test_a_number_that_is_no_key_and_shards_that_are_none(function) -> None:
    for key in (2**63, -(2**63) - 1):
        with pytest.raises(OverflowError):
            function(key, 2)
    for shards in (0, -1):
        with pytest.raises(ValueError, match="at least one"):
            function(1, shards)


def test_texts_and_uuids() -> None:
    # select k from generate_series(0, 4) k where satisfies_hash_partition('t'::regclass, 5, k, 'grün'::text)
    assert functions.pg_text_hash("grün", 5) == 2
    assert functions.pg_uuid_hash(bytes.fromhex("6a0e6c521f6a4a559c0e0c3b0f5d7a11"), 5) == 0
    with pytest.raises(ValueError, match="NUL"):
        functions.pg_text_hash("a\0", 5)
    with pytest.raises(UnicodeEncodeError):
        functions.pg_text_hash("\udc80", 5)
    with pytest.raises(ValueError, match="16 bytes"):
        functions.pg_uuid_hash(b"6a0e6c52", 5)
    for function, key in ((functions.pg_text_hash, ""), (functions.pg_uuid_hash, bytes(16))):
        with pytest.raises(ValueError, match="at least one"):
            function(key, 0)  # type: ignore[operator]


def test_lists_and_ranges() -> None:
    assert functions.listed(7, {7: 1}) == 1
    assert functions.listed(b"x", {b"y": 1}) is None
    bounds = [(0, 2), (10, 0), (20, 1)]
    found = [functions.in_range(key, bounds) for key in (-1, 0, 9, 10, 19, 20, 2**63 - 1)]
    assert found == [None, 2, 2, 0, 0, 1, 1]
    assert functions.in_range(b"m", [(b"", 0), (b"m", 1)]) == 1
    assert functions.in_range(b"lzz", [(b"", 0), (b"m", 1)]) == 0
    assert functions.in_range(1, []) is None
