"""Selectors: which literals and parameters are read as which key, and what is told of all others."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.relay.selectors import (
    MANY,
    NULL,
    OUT_OF_RANGE,
    SEVERAL,
    UNMAPPED,
    UNSURE,
    WRONG_TEXT,
    Selector,
    ShardTable,
)
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.routing import functions
from pgcat_cluster.wire import messages

SHARDS = 1009


def found(
    key_type: str, literal: str, cast: str | None = None, *, is_negative: bool = False, is_utf8: bool = True
) -> int:
    """What the only constant of a statement says."""
    text = bytearray(f"select 1 from t where k = {literal}".encode())
    scanner = Scanner()
    shape = scanner.scan(text, 0, len(text))
    assert shape is not None
    selector = Selector(ShardTable("hash", key_type, SHARDS), [(shape.rindex(0), cast, is_negative)])
    return selector.by_constants(scanner, text, is_utf8)


INTEGERS: Mapping[str, int] = {
    "5": 5,
    "0": 0,
    "007": 7,
    "00000000000000000000000000005": 5,
    "'5'": 5,
    "' 5 '": 5,
    "'\t\n\v\f\r-0005 '": -5,
    "'+5'": 5,
    "'-0'": 0,
    "e'5'": 5,
    "$$5$$": 5,
    "$a$ -5$a$": -5,
    "2147483648": 2147483648,
    "9223372036854775807": 2**63 - 1,
    "'-9223372036854775808'": -(2**63),
}


@pytest.mark.parametrize("literal", INTEGERS)
def test_integers(literal: str) -> None:
    assert found("bigint", literal) == functions.pg_bigint_hash(INTEGERS[literal], SHARDS)


@pytest.mark.parametrize(
    ("code", "literals"),
    [
        (UNSURE, ("5.0", "5e0", ".5", "0x5", "0o5", "0b1", "1_000", "n'5'", "b'1'", "x'5'", "u&'5'")),
        (UNSURE, ("'0x5'", "' -0B1'", "'5_0'", "'5'\n'6'", "e'\\x35'", "'5\u00a0'")),
        (WRONG_TEXT, ("'abc'", "''", "' '", "'-'", "'5.0'", "'5e0'", "'- 5'", "'5 5'", "'5a'", "'a5'")),
        (OUT_OF_RANGE, ("9223372036854775808", "'-9223372036854775809'", "99999999999999999999")),
        (OUT_OF_RANGE, ("'1" + 30 * "0" + "'", "1" + 30 * "0")),
    ],
)
def test_what_is_no_bigint_for_certain(code: int, literals: tuple[str, ...]) -> None:
    assert {literal: found("bigint", literal) for literal in literals} == dict.fromkeys(literals, code)


def test_a_minus_belongs_to_digits_alone() -> None:
    for literal, key in (("-5", -5), ("- 5", -5), ("-9223372036854775808", -(2**63)), ("-0", 0)):
        assert found("bigint", literal, is_negative=True) == functions.pg_bigint_hash(key, SHARDS)
    assert found("bigint", "-9223372036854775809", is_negative=True) == OUT_OF_RANGE
    assert found("bigint", "-'5'", is_negative=True) == UNSURE
    assert found("bigint", "-5.0", is_negative=True) == UNSURE


def test_casts() -> None:
    five = functions.pg_bigint_hash(5, SHARDS)
    for cast in ("int8", "int4", "int2"):
        assert (
            found("bigint", "5", cast) == found("bigint", "'5'", cast) == found("smallint", "5", cast) == five
        )
    for cast in ("text", "numeric", "float8", "public.int8", "bpchar"):
        assert found("bigint", "5", cast) == found("bigint", "'5'", cast) == UNSURE
    assert found("bigint", "40000", "int2") == found("bigint", "'40000'", "int2") == OUT_OF_RANGE
    assert found("bigint", "'3000000000'", "int4") == OUT_OF_RANGE
    assert found("text", "'a'", "varchar") == found("varchar", "'a'", "text") == found("text", "'a'")
    for cast in ("bpchar", "name", "int8", "citext"):
        assert found("text", "'a'", cast) == UNSURE
    moment = "'2026-01-31 12:00:00'"
    assert found("timestamp", moment, "timestamp") == found("timestamp", moment)
    for cast in ("timestamptz", "date", "text"):
        assert found("timestamp", moment, cast) == UNSURE
    assert found("timestamptz", "'2026-01-31 12:00:00Z'", "timestamp") == UNSURE


@pytest.mark.parametrize(
    ("key_type", "least", "most"), [("smallint", -(2**15), 2**15 - 1), ("integer", -(2**31), 2**31 - 1)]
)
def test_the_range_of_narrow_integers(key_type: str, least: int, most: int) -> None:
    for key in (least, most):
        assert found(key_type, f"'{key}'") == functions.pg_bigint_hash(key, SHARDS)
    for key in (least - 1, most + 1):
        assert found(key_type, f"'{key}'") == OUT_OF_RANGE
    assert found(key_type, str(most + 1)) == OUT_OF_RANGE
    assert found(key_type, str(least - 1), is_negative=True) == OUT_OF_RANGE


@pytest.mark.parametrize(
    ("literal", "key"),
    [
        ("'abc'", "abc"),
        ("''", ""),
        ("'it''s'", "it's"),
        ("''''", "'"),
        ("'a\\b'", "a\\b"),
        ("E'it''s'", "it's"),
        ("$$it's$$", "it's"),
        ("$tag$a$$b$tag$", "a$$b"),
        ("' grün €'", " grün €"),
    ],
)
def test_texts(literal: str, key: str) -> None:
    for key_type in ("text", "varchar"):
        assert found(key_type, literal) == functions.pg_text_hash(key, SHARDS)


def test_what_is_no_text_for_certain() -> None:
    for literal in ("5", "1.5", "E'a\\n'", "E'a''\\''", "'a'\n'b'", "'a'''\n'b'", "n'a'", "u&'a'", "b'1'"):
        assert found("text", literal) == UNSURE
    assert found("text", "'grün'", is_utf8=False) == UNSURE
    assert found("text", "'grun'", is_utf8=False) == functions.pg_text_hash("grun", SHARDS)
    # A column with a length may lose blanks at the end.
    assert found("varchar", "'a '") == UNSURE
    assert found("text", "'a '") == functions.pg_text_hash("a ", SHARDS)


UUID = "6a0e6c521f6a4a559c0e0c3b0f5d7a11"


@pytest.mark.parametrize(
    "text",
    [
        UUID,
        UUID.upper(),
        "6a0e6c52-1f6a-4a55-9c0e-0c3b0f5d7a11",
        "{6a0e6c52-1f6a-4a55-9c0e-0c3b0f5d7a11}",
        "{" + UUID + "}",
        "6a0e-6c52-1f6a-4a55-9c0e-0c3b-0f5d-7a11",
        "6a0e6c52-1f6a4a55-9c0e0c3b0f5d-7a11",
    ],
)
def test_uuids(text: str) -> None:
    assert found("uuid", f"'{text}'") == functions.pg_uuid_hash(bytes.fromhex(UUID), SHARDS)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "{", "x", UUID[:-1], UUID + "0", UUID + "-", "-" + UUID, "{" + UUID, UUID + "}", " " + UUID,
     "6a0e--6c52" + UUID[8:], "6a0-e6c52" + UUID[8:], UUID[:-1] + "g"],
)  # fmt: skip
def test_what_is_no_uuid(text: str) -> None:
    assert found("uuid", f"'{text}'") == WRONG_TEXT


MOMENT = 823_132_800_000_000  # 2026-01-31 00:00:00


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("2000-01-01 00:00:00", 0),
        ("1999-12-31T23:59:59.999999", -1),
        ("2026-01-31 00:00:00", MOMENT),
        ("2026-01-31T12:30:15.5", MOMENT + 45_015_500_000),
        ("2026-01-31 12:30:15.000001", MOMENT + 45_015_000_001),
        ("2024-02-29 00:00:00", 762_480_000_000_000),
        ("0001-01-01 00:00:00", -63_082_281_600_000_000),
    ],
)
def test_timestamps(text: str, key: int) -> None:
    assert found("timestamp", f"'{text}'") == functions.pg_timestamp_hash(key, SHARDS)
    assert found("timestamptz", f"'{text}'") == UNSURE
    for zone, shift_min in (
        ("Z", 0),
        ("+00", 0),
        ("-00:00", 0),
        ("+01", -60),
        ("-05:30", 330),
        ("+15:59", -959),
    ):
        assert found("timestamp", f"'{text}{zone}'") == UNSURE
        moved = key + shift_min * 60_000_000
        assert found("timestamptz", f"'{text}{zone}'") == functions.pg_timestamp_hash(moved, SHARDS)


@pytest.mark.parametrize(
    "text",
    ["", "now", "infinity", "2026-01-31", "2026-01-31 12:00", "2026-1-31 12:00:00", "31-01-2026 12:00:00",
     "2026-01-31 12:00:00.", "2026-01-31 12:00:00.1234567", "2026-01-31 24:00:00", "2026-01-31 12:00:60",
     "2026-02-29 12:00:00", "2026-13-01 12:00:00", "2026-00-01 12:00:00", "0000-01-01 12:00:00",
     "2026-01-31 12:00:00 BC", " 2026-01-31 12:00:00", "2026-01-31 12:00:00 ", "2026-01-31 12:00:00 +01",
     "2026-01-31 12:00:00+1", "2026-01-31 12:00:00+0130", "2026-01-31 12:00:00+16", "2026-01-31 12:00:00+01:60",
     "2026-01-31 12:00:00z", "2026-01-31 12:00:00+01:", "2026-01-31 12:00:00 UTC", "2026-01-31t12:00:00",
     "20260131 120000.000", "12026-01-31 12:00:00", "2026-0a-31 12:00:00"],
)  # fmt: skip
def test_what_is_no_timestamp_for_certain(text: str) -> None:
    assert found("timestamp", f"'{text}'") == found("timestamptz", f"'{text}'") == UNSURE


def test_keys_of_several_constants() -> None:
    text = bytearray(b"insert into t (k, a) values (5, 6), (5, 7), (5, 8)")
    scanner = Scanner()
    shape = scanner.scan(text, 0, len(text)) or b""
    first, second = shape.index(b"\0i"), shape.rindex(b"\0i")
    table = ShardTable("modulo", "bigint", 4)
    assert Selector(table, [(first, None, False)]).by_constants(scanner, text) == 1
    assert Selector(table, [(second, None, False)]).by_constants(scanner, text) == SEVERAL
    assert (
        Selector(table, [(first, None, False), (second, None, False)]).by_constants(scanner, text) == SEVERAL
    )
    assert Selector(table, [(first + 1, None, False)]).by_constants(scanner, text) == UNSURE
    assert Selector(table).by_constants(scanner, text) == UNSURE
    few = Scanner(constants_max=5)
    few.scan(text, 0, len(text))
    assert Selector(table, [(first, None, False)]).by_constants(few, text) == MANY


def test_lists_ranges_and_other_functions() -> None:
    listed = ShardTable("list", "bigint", 3, {7: 2, -1: 0})
    assert [listed.shard_of_int(key) for key in (7, -1, 8)] == [2, 0, UNMAPPED]
    words = ShardTable("list", "text", 3, {b"a": 1})
    assert [words.shard_of_bytes(key) for key in (b"a", b"b")] == [1, UNMAPPED]
    for key in (0, 5, -5, 2**63 - 1, -(2**63)):
        assert ShardTable("sha1", "bigint", 12).shard_of_int(key) == functions.sha1(key, 12)
        assert ShardTable("modulo", "bigint", 12).shard_of_int(key) == functions.modulo(key, 12)
    for kind, key_type in (("sha1", "text"), ("modulo", "uuid"), ("modulo", "timestamp")):
        with pytest.raises(ValueError, match="no map by"):
            ShardTable(kind, key_type, 2)
    with pytest.raises(ValueError, match="no map by"):
        ShardTable("hash", "bigint", 0)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(-1, 5)), unique_by=lambda one: one[0]),
    st.integers(-60, 60),
)
def test_ranges(bounds: list[tuple[int, int]], key: int) -> None:
    bounds.sort()
    table = ShardTable("range", "bigint", 6, None, bounds)
    expected = functions.in_range(key, bounds)
    assert table.shard_of_int(key) == (UNMAPPED if expected is None or expected < 0 else expected)
    words = [(bytes([bound + 60]), shard) for bound, shard in bounds]
    texts = ShardTable("range", "text", 6, None, words)
    assert texts.shard_of_bytes(bytes([key + 60])) == table.shard_of_int(key)


# -- parameters


def bind(*values: bytes | None, formats: tuple[int, ...] = ()) -> bytearray:
    return bytearray(messages.bind("portal", "statement", values, formats))


def types(*oids: int) -> bytes:
    return struct.pack(f">H{len(oids)}I", len(oids), *oids)


def bound(
    key_type: str,
    message: bytearray,
    declared: bytes = b"\0\0",
    *,
    cast: str | None = None,
    is_alone: bool = True,
    number: int = 1,
) -> int:
    selector = Selector(ShardTable("hash", key_type, SHARDS), (), [(number, cast, is_alone)])
    around = bytearray(b"\xff\0") + message + b"\0\0\0"
    return selector.by_parameters(around, 2, 2 + len(message), declared, True)


def test_integer_parameters() -> None:
    five = functions.pg_bigint_hash(5, SHARDS)
    for oid, width in ((20, 8), (23, 4), (21, 2)):
        for key_type in ("bigint", "integer", "smallint"):
            assert bound(key_type, bind(b"5"), types(oid)) == five
            assert bound(key_type, bind(b" +5 "), types(oid), is_alone=False) == five
            assert bound(key_type, bind((5).to_bytes(width, "big"), formats=(1,)), types(oid)) == five
            assert bound(key_type, bind(bytes(width + 1), formats=(1,)), types(oid)) == UNSURE
    for key in (-5, -(2**63), 2**63 - 1):
        assert bound(
            "bigint", bind(key.to_bytes(8, "big", signed=True), formats=(1,))
        ) == functions.pg_bigint_hash(key, SHARDS)
    # Without a type it is the key's, if nothing else has a say.
    for key_type, width in (("bigint", 8), ("integer", 4), ("smallint", 2)):
        for declared in (b"", types(), types(0), types(705)):
            assert bound(key_type, bind((5).to_bytes(width, "big"), formats=(1,)), declared) == five
            assert bound(key_type, bind((5).to_bytes(width // 2, "big"), formats=(1,)), declared) == UNSURE
            assert bound(key_type, bind(b"5"), declared) == five
            assert bound(key_type, bind(b"5"), declared, is_alone=False) == UNSURE
    assert bound("bigint", bind((5).to_bytes(4, "big"), formats=(1,)), cast="int4") == five
    assert bound("bigint", bind(bytes(8), formats=(1,)), cast="int4") == UNSURE
    for oid in (25, 1043, 1700, 700, 701, 1042, 26):
        assert bound("bigint", bind(b"5"), types(oid)) == UNSURE
    assert bound("bigint", bind(b"5"), types(20), cast="text") == UNSURE
    assert bound("bigint", bind(b"99999999999"), types(23)) == OUT_OF_RANGE
    assert bound("bigint", bind(b"3000000000"), types(20), cast="int4") == OUT_OF_RANGE
    assert bound("smallint", bind((2**40).to_bytes(8, "big"), formats=(1,)), types(20)) == OUT_OF_RANGE
    assert bound("bigint", bind(b"abc"), types(20)) == bound("bigint", bind(b""), types(20)) == WRONG_TEXT
    assert bound("bigint", bind(b"0x5"), types(20)) == bound("bigint", bind(b"5\0"), types(20)) == UNSURE
    assert bound("bigint", bind(None), types(20)) == NULL


def test_parameters_of_other_types() -> None:
    for oid in (0, 25, 1043):
        for formats in ((), (0,), (1,)):
            for key_type in ("text", "varchar"):
                assert bound(
                    key_type, bind("é".encode(), formats=formats), types(oid)
                ) == functions.pg_text_hash("é", SHARDS)
    assert bound("text", bind(b"a"), types(1042)) == bound("text", bind(b"a\0"), types(25)) == UNSURE
    assert bound("varchar", bind(b"a "), types(25)) == UNSURE
    raw = bytes.fromhex(UUID)
    for oid in (0, 2950):
        assert bound("uuid", bind(raw, formats=(1,)), types(oid)) == functions.pg_uuid_hash(raw, SHARDS)
        assert bound("uuid", bind(UUID.encode()), types(oid)) == functions.pg_uuid_hash(raw, SHARDS)
    assert bound("uuid", bind(raw[1:], formats=(1,)), types(2950)) == UNSURE
    assert bound("uuid", bind(UUID.encode()), types(25)) == UNSURE
    for key_type, oid, other, text in (
        ("timestamp", 1114, 1184, b"2026-01-31 00:00:00"),
        ("timestamptz", 1184, 1114, b"2026-01-31 01:00:00+01"),
    ):
        expected = functions.pg_timestamp_hash(MOMENT, SHARDS)
        for declared in (0, oid):
            assert bound(key_type, bind(text), types(declared)) == expected
            assert bound(key_type, bind(MOMENT.to_bytes(8, "big"), formats=(1,)), types(declared)) == expected
        assert bound(key_type, bind(text), types(other)) == UNSURE
        for infinity in (2**63 - 1, -(2**63)):
            assert (
                bound(key_type, bind(infinity.to_bytes(8, "big", signed=True), formats=(1,)), types(oid))
                == UNSURE
            )


def test_several_parameters_and_their_formats() -> None:
    table = ShardTable("modulo", "bigint", 4)
    two = Selector(table, (), [(3, None, True), (1, None, True), (3, None, False)])
    one, five, six = (number.to_bytes(8, "big") for number in (1, 5, 6))
    all_binary = bind(one, None, five, formats=(1,))
    mixed = bind(b"1", b"x", five, formats=(0, 0, 1))
    declared = types(20, 25, 20)
    assert two.by_parameters(all_binary, 0, len(all_binary), declared) == 1
    assert two.by_parameters(mixed, 0, len(mixed), declared) == 1
    assert two.by_parameters(mixed, 0, len(mixed), types(20)) == UNSURE
    several = bind(one, None, six, formats=(1,))
    assert two.by_parameters(several, 0, len(several), declared) == SEVERAL
    for wrong in (bind(one, one, five, formats=(1, 1)), bind(one, one), bind(one, one, five, formats=(2,))):
        assert two.by_parameters(wrong, 0, len(wrong), declared) == UNSURE
    assert Selector(table).by_parameters(mixed, 0, len(mixed), declared) == UNSURE
    assert (two.has_constants, two.has_parameters) == (False, True)


def test_a_bind_that_is_cut_off_is_unsure() -> None:
    message = bind(b"ignored", (5).to_bytes(8, "big"), formats=(0, 1))
    selector = Selector(ShardTable("hash", "bigint", SHARDS), (), [(2, None, True)])
    whole = functions.pg_bigint_hash(5, SHARDS)
    answers = [selector.by_parameters(message, 0, stop, b"") for stop in range(5, len(message) + 1)]
    assert (
        answers == [UNSURE] * (len(answers) - 3) + [whole] * 3
    )  # what counts results stands behind the values


@given(st.binary(max_size=60), st.binary(max_size=12), st.data())
def test_any_bytes_are_a_bind_or_none(content: bytes, declared: bytes, data: st.DataObject) -> None:
    message = (
        bytearray(b"B\0\0\0\0")
        + data.draw(st.sampled_from([b"", b"\0\0", b"\0\0\0\1\0\1\0\1\0\0\0\x08"]))
        + content
    )
    for key_type in ("bigint", "text", "uuid", "timestamptz"):
        selector = Selector(ShardTable("hash", key_type, 7), (), [(1, None, True), (2, None, True)])
        assert -7 <= selector.by_parameters(message, 0, len(message), declared, True) < 7
