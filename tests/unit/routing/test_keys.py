"""Sharding keys above the data plane: the same answers as below, and faults that say what was expected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.errors import InvalidText, OutOfRange
from pgcat_cluster.relay import selectors
from pgcat_cluster.relay.shapes import Scanner, render_with_places
from pgcat_cluster.routing import functions
from pgcat_cluster.routing.keys import fault_of, key_of_text, selector_of, shard_of, table_of
from pgcat_cluster.sql.terms import Term
from pgcat_cluster.topology.model import ShardMap
from pgcat_cluster.topology.sharding_keys import Key, KeyType

BY_CUSTOMER = ShardMap(name="by-customer", kind="hash", key_type="bigint", shards=5)


def test_keys_of_texts() -> None:
    assert [key_of_text("bigint", text) for text in ("5", " -5 ", "+5", "007")] == [5, -5, 5, 7]
    assert key_of_text("text", " a ") == b" a "
    assert (
        key_of_text("uuid", "6A0E6C52-1f6a-4a55-9c0e-0c3b0f5d7a11").hex()
        == "6a0e6c521f6a4a559c0e0c3b0f5d7a11"
    )  # type: ignore[union-attr]
    assert key_of_text("timestamp", "2000-01-01 00:00:01") == 1_000_000
    for key_type, text in (("bigint", "abc"), ("bigint", "5.0"), ("uuid", "5"), ("timestamptz", "now")):
        with pytest.raises(InvalidText, match=f"syntax for type {key_type}"):
            key_of_text(key_type, text)  # type: ignore[arg-type]
    for key_type, text in (("bigint", "9223372036854775808"), ("smallint", "-32769"), ("integer", "1" * 30)):
        with pytest.raises(OutOfRange, match=f"out of range for type {key_type}"):
            key_of_text(key_type, text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shard_map", "keys", "shards"),
    [
        (BY_CUSTOMER, [1, 2, 6, -1], [0, 1, 2, 4]),
        (ShardMap(name="m", kind="sha1", key_type="bigint", shards=12), [0, 1, -1], [4, 7, 1]),
        (ShardMap(name="m", kind="modulo", key_type="integer", shards=3), [4, -1], [1, 2]),
        (ShardMap(name="m", kind="hash", key_type="text", shards=5), ["grün".encode()], [2]),
        (
            ShardMap(name="m", kind="list", key_type="text", shards=2, values={b"eu": 1}),
            [b"eu", b"us"],
            [1, None],
        ),
        (
            ShardMap(name="m", kind="range", key_type="bigint", shards=2, bounds=((0, 1), (10, -1), (20, 0))),
            [-1, 0, 9, 10, 20],
            [None, 1, 1, None, 0],
        ),
    ],
)
def test_shards_of_keys(shard_map: ShardMap, keys: list[Key], shards: list[int | None]) -> None:
    assert [shard_of(shard_map, key) for key in keys] == shards


def test_a_selector_is_made_of_terms() -> None:
    text = bytearray(b"select * from t where k in (9, 10) or k = -5 or k = $1 or k = any('{9, 10}')")
    scanner = Scanner()
    shape = scanner.scan(text, 0, len(text)) or b""
    rendered, places = render_with_places(shape)
    terms = [
        Term(location=rendered.index("1)")),
        Term(location=rendered.index("-1") + 1, is_negative=True),
        Term(parameter=1, is_alone=True),
        Term(location=rendered.index("'x'"), is_array=True),
    ]
    selector = selector_of(table_of(BY_CUSTOMER), terms, places)
    assert selector is not None
    assert (selector.has_constants, selector.has_parameters) == (True, True)
    assert selector.by_constants(scanner, text) == 4
    assert {functions.pg_bigint_hash(key, 5) for key in (9, 10, -5)} == {4}
    assert selector_of(table_of(BY_CUSTOMER), [Term(location=1)], places) is None


numbers = st.integers(-(2**64), 2**64).map(str) | st.text("0123456789+-x_ .", max_size=8)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
clocks = st.datetimes().map(str)
zones = st.sampled_from(["Z", "+00", "-01:30", "+15:59"])


@given(
    st.one_of(
        st.tuples(st.sampled_from(["smallint", "integer", "bigint"]), numbers),
        st.tuples(st.sampled_from(["text", "varchar"]), words),
        st.tuples(st.just("uuid"), st.uuids().map(str) | st.text("0123456789abcdefABCDEF-{}", max_size=38)),
        st.tuples(st.just("timestamp"), clocks),
        st.tuples(st.just("timestamptz"), st.tuples(clocks, zones).map("".join)),
    )
)  # fmt: skip
def test_the_data_plane_reads_what_is_read_here(case: tuple[KeyType, str]) -> None:
    key_type, key_text = case
    quoted = key_text.replace("'", "''")
    text = bytearray(f"'{quoted}'".encode())
    scanner = Scanner()
    assert scanner.scan(text, 0, len(text)) == b"\0s"
    shard_map = ShardMap(name="m", kind="hash", key_type=key_type, shards=1009)
    found = selectors.Selector(table_of(shard_map), [(0, None, False, False)]).by_constants(
        scanner, text, True
    )
    if found >= 0:
        try:
            assert shard_of(shard_map, key_of_text(key_type, key_text)) == found
        except InvalidText:
            assert key_type == "uuid"  # documents and commands write it in one form alone
    elif found == selectors.OUT_OF_RANGE:
        with pytest.raises(OutOfRange):
            key_of_text(key_type, key_text)
    elif found == selectors.WRONG_TEXT:
        with pytest.raises(InvalidText):
            key_of_text(key_type, key_text)


@pytest.mark.parametrize(
    ("code", "sqlstate", "words"),
    [
        (selectors.UNSURE, "0A000", "in a form that can only mean one value of type bigint"),
        (selectors.SEVERAL, "0A000", "lie on several shards"),
        (selectors.UNMAPPED, "22023", "no shard of map by-customer"),
        (selectors.NULL, "0A000", "is NULL"),
        (selectors.OUT_OF_RANGE, "22003", "out of range for type bigint"),
        (selectors.WRONG_TEXT, "22P02", "invalid input syntax for a sharding key of type bigint"),
        (selectors.MANY, "0A000", "too many constants"),
    ],
)
def test_each_code_has_a_fault(code: int, sqlstate: str, words: str) -> None:
    fault = fault_of(code, BY_CUSTOMER)
    assert (fault.sqlstate, fault.severity) == (sqlstate, "ERROR")
    assert words in fault.message


def test_faults_name_what_was_expected() -> None:
    for key_type, expected in (
        ("bigint", "decimal digits"),
        ("uuid", "32 hexadecimal digits"),
        ("timestamp", "without a zone"),
        ("timestamptz", "numeric zone"),
        ("varchar", "without a blank at its end"),
    ):
        shard_map = ShardMap(name="m", kind="hash", key_type=key_type, shards=2)  # type: ignore[arg-type]
        for code in (selectors.UNSURE, selectors.WRONG_TEXT):
            assert expected in (fault_of(code, shard_map).detail or "")
    narrow = ShardMap(name="m", kind="hash", key_type="smallint", shards=2)
    assert fault_of(selectors.OUT_OF_RANGE, narrow).detail == "Expected was a number from -32768 to 32767."
