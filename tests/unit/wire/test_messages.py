"""Exact bytes of every builder, and decoders that take back what builders made and refuse anything cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcat_cluster.errors import AuthenticationFailed, UnknownStatement, WireError
from pgcat_cluster.wire import messages as m

BYTES = [
    (m.authentication_ok(), b"R\0\0\0\x08\0\0\0\0"),
    (m.authentication_cleartext(), b"R\0\0\0\x08\0\0\0\x03"),
    (m.authentication_md5(b"abcd"), b"R\0\0\0\x0c\0\0\0\x05abcd"),
    (
        m.authentication_sasl(["SCRAM-SHA-256"]),
        b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0",
    ),
    (m.authentication_sasl_continue(b"r=x"), b"R\0\0\0\x0b\0\0\0\x0br=x"),
    (m.authentication_sasl_final(b"v=x"), b"R\0\0\0\x0b\0\0\0\x0cv=x"),
    (m.negotiate_protocol_version(0, []), b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0"),
    (
        m.negotiate_protocol_version(2, ["_pq_.a", "_pq_.b"]),
        b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0",
    ),
    (m.parameter_status("TimeZone", "UTC"), b"S\0\0\0\x11TimeZone\0UTC\0"),
    (m.backend_key_data(0x80000001, b"abcd"), b"K\0\0\0\x0c\x80\0\0\x01abcd"),
    (m.ready_for_query(b"T"), b"Z\0\0\0\x05T"),
    (
        m.error_response(AuthenticationFailed('password authentication failed for user "x"')),
        b'E\0\0\0\x47SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "x"\0\0',
    ),
    (
        m.error_response(UnknownStatement("no\0", detail="d", hint="h")),
        b"E\0\0\0\x25SERROR\0VERROR\0C26000\0Mno?\0Dd\0Hh\0\0",
    ),
    (
        m.notice("WARNING", "01000", "careful", "d"),
        b"N\0\0\0\x2aSWARNING\0VWARNING\0C01000\0Mcareful\0Dd\0\0",
    ),
    (
        m.row_description([("a", 23, 4), ("b", 25, -1)]),
        b"T\0\0\0\x2e\0\x02"
        b"a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"
        b"b\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
    ),
    (
        m.row_description([("a", 23, 4)], [1]),
        b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01",
    ),
    (m.data_row([b"1", None, b""]), b"D\0\0\0\x13\0\x03\0\0\0\x011\xff\xff\xff\xff\0\0\0\0"),
    (m.command_complete("SELECT 1"), b"C\0\0\0\x0dSELECT 1\0"),
    (m.empty_query_response(), b"I\0\0\0\x04"),
    (m.parse_complete(), b"1\0\0\0\x04"),
    (m.bind_complete(), b"2\0\0\0\x04"),
    (m.close_complete(), b"3\0\0\0\x04"),
    (m.no_data(), b"n\0\0\0\x04"),
    (m.portal_suspended(), b"s\0\0\0\x04"),
    (m.parameter_description([23, 25]), b"t\0\0\0\x0e\0\x02\0\0\0\x17\0\0\0\x19"),
    (m.notification(7, "ch", "p"), b"A\0\0\0\x0d\0\0\0\x07ch\0p\0"),
    (m.startup({"user": "é"}), b"\0\0\0\x11\0\x03\0\0user\0\xc3\xa9\0\0"),
    (m.startup({}, minor=2), b"\0\0\0\x09\0\x03\0\x02\0"),
    (m.ssl_request(), b"\0\0\0\x08\x04\xd2\x16\x2f"),
    (m.gss_request(), b"\0\0\0\x08\x04\xd2\x16\x30"),
    (m.cancel_request(1, b"abcd"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd"),
    (m.password(b"pw"), b"p\0\0\0\x07pw\0"),
    (m.sasl_initial("M", b"n,,"), b"p\0\0\0\x0dM\0\0\0\0\x03n,,"),
    (m.sasl_response(b"c="), b"p\0\0\0\x06c="),
    (m.query("select 1"), b"Q\0\0\0\x0dselect 1\0"),
    (m.parse("s", "select $1", [23]), b"P\0\0\0\x16s\0select $1\0\0\x01\0\0\0\x17"),
    (
        m.bind("", "s", [b"7", None], [1], [0, 1]),
        b"B\0\0\0\x1c\0s\0\0\x01\0\x01\0\x02\0\0\0\x017\xff\xff\xff\xff\0\x02\0\0\0\x01",
    ),
    (m.describe(b"S", "s"), b"D\0\0\0\x07Ss\0"),
    (m.close(b"P", ""), b"C\0\0\0\x06P\0"),
    (m.execute("", 5), b"E\0\0\0\x09\0\0\0\0\x05"),
    (m.sync(), b"S\0\0\0\x04"),
    (m.flush(), b"H\0\0\0\x04"),
    (m.terminate(), b"X\0\0\0\x04"),
    (m.copy_data(b"x\0"), b"d\0\0\0\x06x\0"),
    (m.copy_done(), b"c\0\0\0\x04"),
    (m.copy_fail("no"), b"f\0\0\0\x07no\0"),
]


@pytest.mark.parametrize(("built", "expected"), BYTES, ids=[str(number) for number in range(len(BYTES))])
def test_builders_give_these_bytes(built, expected):
    assert built == expected


def body(frame: bytes) -> bytes:
    return frame[5:]


COLUMN = m.Column(name="a", table_oid=0, attribute=0, type_oid=23, type_size=4, type_modifier=-1, format=0)
DECODED = [
    (m.parse_authentication, m.authentication_md5(b"abcd"), m.Authentication(code=5, data=b"abcd")),
    (m.parse_mechanisms, b"xxxxxA\0B\0\0", ["A", "B"]),
    (m.parse_parameter_status, m.parameter_status("a", "b"), ("a", "b")),
    (m.parse_backend_key_data, m.backend_key_data(9, b"k" * 256), (9, b"k" * 256)),
    (m.parse_negotiate_protocol_version, m.negotiate_protocol_version(0, ["_pq_.a"]), (0, ["_pq_.a"])),
    (m.parse_ready_for_query, m.ready_for_query(b"E"), b"E"),
    (
        m.fields_of_error,
        m.error_response(UnknownStatement("x")),
        {"S": "ERROR", "V": "ERROR", "C": "26000", "M": "x"},
    ),
    (m.fields_of_error, b"E\0\0\0\x05\0", {}),
    (m.parse_row_description, m.row_description([("a", 23, 4)]), [COLUMN]),
    (m.parse_data_row, m.data_row([b"1", None]), [b"1", None]),
    (m.parse_command_complete, m.command_complete("SELECT 1"), "SELECT 1"),
    (m.parse_parameter_description, m.parameter_description([23]), [23]),
    (m.parse_notification, m.notification(7, "c", "p"), (7, "c", "p")),
    (m.parse_query, m.query("select 'é'"), "select 'é'"),
    (m.parse_parse, m.parse("s", "t", [23]), m.Parse(name="s", text="t", types=(23,))),
    (
        m.parse_bind,
        m.bind("p", "s", [b"7", None], [1], [0]),
        m.Bind(portal="p", statement="s", values=(b"7", None), formats=(1,), result_formats=(0,)),
    ),
    (m.parse_describe, m.describe(b"S", "s"), (b"S", "s")),
    (m.parse_describe, m.close(b"P", "s"), (b"P", "s")),
    (m.parse_execute, m.execute("p", 5), ("p", 5)),
    (m.parse_password, m.password(b"pw"), b"pw"),
    (m.parse_sasl_initial, m.sasl_initial("M", b"n,,"), m.SaslInitial(mechanism="M", data=b"n,,")),
    (m.parse_sasl_initial, b"p\0\0\0\x0aM\0\xff\xff\xff\xff", m.SaslInitial(mechanism="M", data=None)),
]
DECODERS = sorted({decoder for decoder, _, _ in DECODED}, key=lambda decoder: decoder.__name__)
# An Authentication message has no end of its own.
STRICT = [case for case in DECODED if case[0] is not m.parse_authentication]


@pytest.mark.parametrize(("decode", "frame", "value"), DECODED)
def test_decoders_take_back_what_was_built(decode, frame, value):
    assert decode(body(frame)) == value


@pytest.mark.parametrize(("decode", "frame", "value"), STRICT)
def test_a_body_cut_anywhere_is_refused(decode, frame, value):
    whole = body(frame)
    if decode is m.parse_backend_key_data:
        whole = whole[:8]  # a longer key cut is a shorter key
    for length in range(len(whole)):
        with pytest.raises(WireError):
            decode(whole[:length])


@pytest.mark.parametrize(("decode", "frame", "value"), STRICT)
def test_a_byte_too_many_is_refused(decode, frame, value):
    with pytest.raises(WireError):
        decode(body(frame) + b"\0")


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (m.parse_data_row, b"\0\x01\xff\xff\xff\xfe"),
        (m.parse_data_row, b"\0\x01\x7f\xff\xff\xff"),
        (m.parse_bind, b"\0\0\0\0\0\x01\x80\0\0\0\0\0"),
        (m.parse_sasl_initial, b"M\0\xff\xff\xff\xfe"),
        (m.parse_sasl_initial, b"M\0\x7f\xff\xff\xffx"),
        (m.parse_backend_key_data, b"\0\0\0\x01abc"),
        (m.parse_backend_key_data, b"\0\0\0\x01" + b"k" * 257),
        (m.parse_negotiate_protocol_version, b"\0\x03\0\0\x7f\xff\xff\xff"),
        (m.parse_negotiate_protocol_version, b"\0\x03\0\0\xff\xff\xff\xff"),
        (m.parse_negotiate_protocol_version, b"\0\x04\0\0\0\0\0\0"),
        (m.parse_describe, b"Xs\0"),
        (m.parse_ready_for_query, b"X"),
        (m.parse_password, b"a\0b\0"),
    ],
)
def test_inner_lengths_and_values_that_lie_are_refused(decode, data):
    with pytest.raises(WireError):
        decode(data)


def test_a_text_with_a_zero_byte_is_not_built():
    with pytest.raises(WireError):
        m.query("a\0b")


def test_text_that_is_no_utf8_comes_back_unchanged():
    assert m.query(m.parse_query(b"select '\xff\xfe'\0")) == m.frame(b"Q", b"select '\xff\xfe'\0")


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: decode.__name__)
@settings(max_examples=30)
@given(data=st.binary(max_size=64))
def test_any_bytes_decode_or_are_refused(decode, data):
    try:
        decode(data)
    except WireError:
        pass


values = st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=5)
numbers = st.lists(st.integers(-32768, 32767), max_size=4)
names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=10)


@given(portal=names, statement=names, values=values, formats=numbers, result_formats=numbers)
def test_bind_round_trips(portal, statement, values, formats, result_formats):
    frame = m.bind(portal, statement, values, formats, result_formats)
    assert int.from_bytes(frame[1:5], "big") == len(frame) - 1
    assert m.parse_bind(body(frame)) == m.Bind(
        portal=portal,
        statement=statement,
        values=tuple(values),
        formats=tuple(formats),
        result_formats=tuple(result_formats),
    )
