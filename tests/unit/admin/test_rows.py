"""Values in text and binary format."""

from __future__ import annotations

from decimal import Decimal

import pytest
from psycopg.adapt import Transformer
from psycopg.pq import Format

from pgcat_cluster.admin.rows import columns, encode_row, sort_rows


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001, 120_000_000, 2**63 + 5])
def test_numeric_is_read_back_by_a_driver(count: int) -> None:
    table = columns("text binary", "NN")
    text, binary = encode_row(table, [0, 1], (count, count))
    assert text == str(count).encode()
    load = Transformer().get_loader(1700, Format.BINARY).load
    assert load(binary) == Decimal(count)


def test_every_type_in_both_formats() -> None:
    table = columns("s i q T b n", "siqTbs")
    row = ("é", 7, 8, "2026-01-02 03:04:05 UTC", b"\x00\xff", None)
    text = ["é".encode(), b"7", b"8", b"2026-01-02 03:04:05 UTC", b"\\x00ff", None]
    assert encode_row(table, [0] * 6, row) == text
    binary = [text[0], b"\0\0\0\7", b"\0\0\0\0\0\0\0\x08", text[3], b"\x00\xff", None]
    assert encode_row(table, [1] * 6, row) == binary


def test_a_number_beyond_its_type_becomes_the_largest() -> None:
    assert encode_row(columns("i q", "iq"), [0, 1], (2**31, 2**63)) == [b"2147483647", b"\x7f" + b"\xff" * 7]


def test_rows_are_sorted_by_their_leading_columns_and_null_is_first() -> None:
    rows = [("b", 10, "x"), ("b", None, "y"), ("a", 2, "z"), ("b", 9, "x")]
    assert sort_rows(rows) == [("a", 2, "z"), ("b", None, "y"), ("b", 9, "x"), ("b", 10, "x")]
