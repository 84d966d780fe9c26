"""Selectors: which literals and parameters are read as which key, and what is told of all others."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.relay.flows import Flow, Statements
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
    key_type: str,
    literal: str,
    cast: str | None = None,
    *,
    is_negative: bool = False,
    is_utf8: bool = True,
    is_array: bool = False,
) -> int:
    """What the only constant of a statement says."""
    text = bytearray(f"select 1 from t where k = {literal}".encode())
    scanner = Scanner()
    shape = scanner.scan(text, 0, len(text))
    assert shape is not None
    slot = (shape.rindex(0), cast, is_negative, is_array)
    selector = Selector(ShardTable("hash", key_type, SHARDS), [slot])
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
    assert Selector(table, [(first, None, False, False)]).by_constants(scanner, text) == 1
    assert Selector(table, [(second, None, False, False)]).by_constants(scanner, text) == SEVERAL
    both = Selector(table, [(first, None, False, False), (second, None, False, False)])
    assert both.by_constants(scanner, text) == SEVERAL
    assert Selector(table, [(first + 1, None, False, False)]).by_constants(scanner, text) == UNSURE
    assert Selector(table).by_constants(scanner, text) == UNSURE
    few = Scanner(constants_max=5)
    few.scan(text, 0, len(text))
    assert Selector(table, [(first, None, False, False)]).by_constants(few, text) == MANY


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
    is_array: bool = False,
) -> int:
    selector = Selector(ShardTable("hash", key_type, SHARDS), (), [(number, cast, is_alone, is_array)])
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
    two = Selector(table, (), [(3, None, True, False), (1, None, True, False), (3, None, False, False)])
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
    selector = Selector(ShardTable("hash", "bigint", SHARDS), (), [(2, None, True, False)])
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
        selector = Selector(
            ShardTable("hash", key_type, 7), (), [(1, None, True, False), (2, None, True, False)]
        )
        assert -7 <= selector.by_parameters(message, 0, len(message), declared, True) < 7


# -- arrays


def of_array(key_type: str, text: str, cast: str | None = None, *, is_utf8: bool = True) -> set[int]:
    """What an array says in every place where it may stand as text; it should be one thing."""
    doubled = text.replace("'", "''")
    said = {found(key_type, f"'{doubled}'", cast, is_array=True, is_utf8=is_utf8)}
    said.add(found(key_type, f"$a${text}$a$", cast, is_array=True, is_utf8=is_utf8))
    if "\\" not in text:
        said.add(found(key_type, f"E'{doubled}'", cast, is_array=True, is_utf8=is_utf8))
    if is_utf8:
        said.add(bound(key_type, bind(text.encode()), cast=cast, is_array=True))
    return said


@pytest.mark.parametrize(
    "text",
    [
        "{5}",
        "{5,5}",
        " { 5 , +5,005 } ",
        '{"5"," 5 "}',
        "{\t5\n,NULL,null,\v5\r}",
        "{NULL,5}",
        '{"\\5"}',
        "{5,nUlL}",
    ],
)
def test_an_array_of_integers(text: str) -> None:
    five = {functions.pg_bigint_hash(5, SHARDS)}
    for key_type in ("bigint", "integer", "smallint"):
        for cast in (None, "int8", "int4", "int2"):
            assert of_array(key_type, text, cast) == five
        assert of_array(key_type, text, "text") == {UNSURE}


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        (SEVERAL, ("{5,6}", "{5,NULL,-5}", "{1,2,3,4,5}")),
        (NULL, ("{}", " { } ", "{NULL}", "{null , Null}")),
        (OUT_OF_RANGE, ("{9223372036854775808}", '{"-9223372036854775809"}')),
        (WRONG_TEXT, ("{a}", "{5.0}", '{""}', "{5 5}", "{5;5}", '{"NULL"}')),
        (
            UNSURE,
            ("", "5", "{", "}", "{5", "5}", "{5,}", "{,5}", "{5,,5}", "{5}5", "{5}}", "{{5}}", "{{5},{5}}"),
        ),
        (
            UNSURE,
            (
                "[1:1]={5}",
                "[0:0]={5}",
                '{"5}',
                '{"5"5}',
                '{5"5"}',
                "{\\5}",
                "(5)",
                "{0x5}",
                "{} {}",
            ),
        ),
        (UNSURE, ('{"5', '{"5\\', '{"5\\"', '{"5" ', "{5,{5}}", "{ ", "{}x", "{5} x")),
    ],
)
def test_what_is_no_array_of_one_key(code: int, texts: tuple[str, ...]) -> None:
    assert {text: of_array("bigint", text) for text in texts} == {text: {code} for text in texts}


def test_the_range_of_elements() -> None:
    assert of_array("bigint", "{40000}", "int2") == of_array("smallint", "{40000}") == {OUT_OF_RANGE}
    assert of_array("integer", "{3000000000}", "int8") == {OUT_OF_RANGE}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{abc}", "abc"),
        ("{ a b }", "a b"),
        ('{""}', ""),
        ('{" a,b} "}', " a,b} "),
        ('{"NULL"}', "NULL"),
        ('{"a\\"b\\\\c\\d"}', 'a"b\\cd'),
        ("{it's}", "it's"),
        ("{grün €}", "grün €"),
        ("{'}", "'"),
    ],
)
def test_an_array_of_texts(text: str, key: str) -> None:
    for key_type in ("text", "varchar"):
        if key_type == "varchar" and key.endswith(" "):
            assert of_array(key_type, text) == {UNSURE}
        else:
            assert of_array(key_type, text) == {functions.pg_text_hash(key, SHARDS)}
    if not key.isascii():
        assert of_array("text", text, is_utf8=False) == {UNSURE}


def test_null_in_an_array_of_texts_may_be_a_text() -> None:
    assert of_array("text", "{a,NULL}") == of_array("varchar", "{null}") == {UNSURE}
    assert of_array("text", "{}") == {NULL}


def test_arrays_of_other_types() -> None:
    for text in (f"{{{UUID},NULL}}", f'{{"{{{UUID}}}"}}', f'{{"{UUID}"}}'):
        assert of_array("uuid", text) == {functions.pg_uuid_hash(bytes.fromhex(UUID), SHARDS)}
    assert of_array("uuid", f"{{{{{UUID}}}}}") == {UNSURE}
    moment = functions.pg_timestamp_hash(MOMENT, SHARDS)
    for text in ("{2026-01-31 00:00:00}", '{"2026-01-31T00:00:00",NULL}'):
        assert of_array("timestamp", text, "timestamp") == {moment}
        assert of_array("timestamptz", text) == of_array("timestamp", text, "timestamptz") == {UNSURE}
    assert of_array("timestamptz", '{"2026-01-31 00:00:00Z"}') == {moment}


def test_constants_that_are_no_arrays() -> None:
    for literal in ("5", "5.0", "n'{5}'", "u&'{5}'", "'{5'\n'}'", "E'{\\x35}'"):
        assert found("bigint", literal, is_array=True) == UNSURE
    assert found("bigint", "'{5}'", is_array=True, is_negative=True) == UNSURE


def packed(oid: int, *elements: bytes | None, dimensions: int = 1, flags: int = 0, least: int = 1) -> bytes:
    """An array in binary format."""
    head = struct.pack(">III", dimensions, flags, oid)
    for _ in range(dimensions):
        head += struct.pack(">Ii", len(elements), least)
    return head + b"".join(
        b"\xff\xff\xff\xff" if element is None else struct.pack(">I", len(element)) + element
        for element in elements
    )


ARRAYS = {21: 1005, 23: 1007, 20: 1016, 25: 1009, 1043: 1015, 2950: 2951, 1114: 1115, 1184: 1185}


def in_binary(key_type: str, value: bytes, declared: bytes = b"\0\0", cast: str | None = None) -> int:
    return bound(key_type, bind(value, formats=(1,)), declared, is_array=True, cast=cast)


def test_binary_arrays_of_integers() -> None:
    five = functions.pg_bigint_hash(5, SHARDS)
    for oid, width in ((20, 8), (23, 4), (21, 2)):
        key = (5).to_bytes(width, "big")
        for key_type in ("bigint", "integer", "smallint"):
            for declared in (types(ARRAYS[oid]), b"", types(0), types(705)):
                for value in (
                    packed(oid, key),
                    packed(oid, key, None, key, flags=1),
                    packed(oid, key, least=-3),
                ):
                    assert in_binary(key_type, value, declared) == five
            assert in_binary(key_type, packed(oid), types(ARRAYS[oid])) == NULL
            assert in_binary(key_type, packed(oid, dimensions=0), types(ARRAYS[oid])) == NULL
            assert in_binary(key_type, packed(oid, None, None, flags=1)) == NULL
            assert in_binary(key_type, packed(oid, bytes(width), b"\xff" * width)) == SEVERAL
            for wrong in (
                packed(oid, key + b"\0"), packed(oid, key)[:-1], packed(oid, key) + b"\0", packed(25, key),
                packed(0, key),
                packed(oid, key, key, dimensions=2), packed(oid, key, flags=2), packed(oid, dimensions=0) + b"\0", b"",
                packed(oid, key)[:16], packed(oid, key)[:22], packed(oid, key, dimensions=-1 & 0xFF),
            ):  # fmt: skip
                assert in_binary(key_type, wrong) == UNSURE
    assert in_binary("smallint", packed(23, (40000).to_bytes(4, "big"))) == OUT_OF_RANGE
    assert in_binary("bigint", packed(23, (40000).to_bytes(4, "big")), cast="int2") == OUT_OF_RANGE
    assert bound("bigint", bind(None), is_array=True) == NULL


def test_the_type_of_an_array_is_certain_or_it_is_not_read() -> None:
    for declared in (types(20), types(25), types(1009), types(1231), types(2276)):
        assert bound("bigint", bind(b"{5}"), declared, is_array=True) == UNSURE
    assert bound("bigint", bind(b"{5}"), is_array=True, is_alone=False) == UNSURE
    assert bound("bigint", bind(b"5"), types(1016)) == UNSURE
    assert bound("bigint", bind(b"{5}"), types(1016), is_array=True, cast="text") == UNSURE
    assert bound("bigint", bind(b"{5}\0"), types(1016), is_array=True) == UNSURE


def test_binary_arrays_of_other_types() -> None:
    for oid in (25, 1043):
        for key_type in ("text", "varchar"):
            for key in ("", "é,}", 'a"\\', "NULL"):
                assert in_binary(
                    key_type, packed(oid, key.encode(), None), types(ARRAYS[oid])
                ) == functions.pg_text_hash(key, SHARDS)
    assert in_binary("varchar", packed(25, b"a ")) == UNSURE
    raw = bytes.fromhex(UUID)
    assert in_binary("uuid", packed(2950, raw), types(2951)) == functions.pg_uuid_hash(raw, SHARDS)
    assert in_binary("uuid", packed(25, raw)) == in_binary("uuid", packed(2950, raw[1:])) == UNSURE
    for key_type, oid in (("timestamp", 1114), ("timestamptz", 1184)):
        value = MOMENT.to_bytes(8, "big")
        expected = functions.pg_timestamp_hash(MOMENT, SHARDS)
        assert in_binary(key_type, packed(oid, value, value), types(ARRAYS[oid])) == expected
        assert in_binary(key_type, packed(1114 + 1184 - oid, value)) == UNSURE
        assert in_binary(key_type, packed(oid, value, (2**63 - 1).to_bytes(8, "big"))) == UNSURE


_ELEMENTS = st.lists(
    st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5))
)


@given(_ELEMENTS, st.sampled_from(["", " ", "\t\n"]))
def test_what_is_written_by_the_rules_is_read(elements: list[str | None], blank: str) -> None:
    """As PostgreSQL writes an array of texts: everything in quotes."""
    escaped = [
        "NULL" if one is None else '"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for one in elements
    ]
    text = blank + "{" + blank + f"{blank},{blank}".join(escaped) + blank + "}" + blank
    shards = {functions.pg_text_hash(one, SHARDS) for one in elements if one is not None}
    expected = NULL if not shards else SEVERAL if len(shards) > 1 else shards.pop()
    assert (
        in_binary("text", packed(25, *[one if one is None else one.encode() for one in elements])) == expected
    )
    if None not in elements:
        assert bound("text", bind(text.encode()), is_array=True) == expected


# An array as the rules have it: elements in quotes or not, commas between them, blanks around everything.
_ELEMENT = r'(?:"(?:[^"\\]|\\.)*"|[^"\\{},\s](?:[^"\\{},]*[^"\\{},\s])?)'
_ARRAY = re.compile(rf"\s*\{{\s*(?:{_ELEMENT}\s*(?:,\s*{_ELEMENT}\s*)*)?\}}\s*", re.DOTALL | re.ASCII)


@given(
    st.one_of(
        st.text('{}",\\ 5-aNUL[:]=\n', max_size=12), st.text('{}",\\ 5-', max_size=9).map("{{{}}}".format)
    )
)
def test_an_array_of_which_a_shard_is_told_is_one(text: str) -> None:
    """Against a reading of the rules by other means."""
    for code in of_array("bigint", text):
        if code < 0 and code != NULL:
            continue
        assert _ARRAY.fullmatch(text), text
        words = re.findall(_ELEMENT, text.strip()[1:-1], re.DOTALL | re.ASCII)
        plain = [
            re.sub(r"\\(.)", r"\1", word.strip('"'), flags=re.DOTALL)
            for word in words
            if word.lower() != "null"
        ]
        shards = {functions.pg_bigint_hash(int(word), SHARDS) for word in plain}
        assert shards == ({code} if code >= 0 else set()), text


def test_what_only_a_server_can_tell() -> None:
    table = ShardTable("hash", "bigint", SHARDS)
    shared = Selector(table, (), [(2, None, False, False), (4, "int8", False, True), (3, None, True, False)])
    for open_types in (b"", types(), types(20), types(25, 0, 20), types(0, 705, 0, 1016), types(0, 20, 0, 0)):
        assert shared.asks(open_types)
    for declared in (types(0, 20, 0, 1016), types(0, 1700, 0, 25)):
        assert not shared.asks(declared)
    assert not Selector(table, (), [(1, None, True, False), (2, "text", False, False)]).asks(b"")
    assert not Selector(table).asks(b"")
    told = types(25, 23, 20, 1007, 1700)
    assert shared.completed(b"", told) == types(0, 23, 0, 1007)
    assert shared.completed(types(), told) == types(0, 23, 0, 1007)
    # What was declared stays, and so does what no key can be: its number may be another one elsewhere.
    assert shared.completed(types(1043, 20, 0, 0, 0), told) == types(1043, 20, 0, 1007, 0)
    assert shared.completed(b"", types(25, 1700, 20, 16385)) == types(0, 0, 0, 0)
    assert shared.completed(b"", types(25)) == types(0, 0, 0, 0)
    assert not shared.asks(shared.completed(b"", told))


def test_a_statement_whose_types_were_told_is_another_one() -> None:
    selector = Selector(ShardTable("hash", "bigint", SHARDS), (), [(1, None, False, False)])
    statements = Statements(2)
    flow = Flow(0, 0, "", selector=selector)
    text = b"select $1"
    asked = statements.make(text, types(), flow)
    statements.tell(asked, types(23))
    assert asked.typed is None  # it was not open
    asked.is_open = True
    statements.tell(asked, types(23))
    typed = statements.get(text + b"\0" + types())
    assert typed is asked.typed
    assert typed is not None
    assert (typed.types, typed.is_open, typed.told) == (types(23), False, statements.epoch)
    assert typed.server_name != asked.server_name
    # Told again, by another server, it stays.
    statements.tell(asked, types(20))
    assert asked.typed is typed
    statements.epoch += 1
    assert statements.get(text + b"\0" + types()) is None
    assert statements.make(text, types(), flow) is not asked
    for number in range(5):
        other = statements.make(b"other %d" % number, types(), flow)
        other.is_open = True
        statements.tell(other, types(20))
        assert len(statements.by_content) <= 2
