"""The notation of messages: readable lines, and every frame comes back from its line."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgcat_cluster.errors import UnknownStatement, WireError
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.trace import format_frame, format_packet, parse_frame

BACKEND = [
    (m.authentication_ok(), "AuthenticationOk"),
    (m.authentication_cleartext(), "AuthenticationCleartextPassword"),
    (m.authentication_md5(b"a\1\2\xff"), r'AuthenticationMD5Password "a\x01\x02\xff"'),
    (m.authentication_sasl(["A", "B"]), 'AuthenticationSASL "A" "B"'),
    (m.authentication_sasl_continue(b"r=x"), 'AuthenticationSASLContinue "r=x"'),
    (m.authentication_sasl_final(b"v=x"), 'AuthenticationSASLFinal "v=x"'),
    (m.negotiate_protocol_version(0, ["_pq_.a"]), 'NegotiateProtocolVersion 3.0 "_pq_.a"'),
    (m.parameter_status("TimeZone", "UTC"), 'ParameterStatus "TimeZone" "UTC"'),
    (m.backend_key_data(7, b"abcd"), 'BackendKeyData 7 "abcd"'),
    (m.ready_for_query(b"I"), "ReadyForQuery I"),
    (m.error_response(UnknownStatement('no "x"')), r'ErrorResponse ERROR 26000 "no \"x\""'),
    (m.error_response(UnknownStatement("x", detail="d")), 'ErrorResponse ERROR 26000 "x" D "d"'),
    (m.frame(b"E", b"SERROR\0Mx\0\0"), 'ErrorResponse S "ERROR" M "x"'),
    (m.notice("NOTICE", "00000", "hm"), 'NoticeResponse NOTICE 00000 "hm"'),
    (m.row_description([("a", 23, 4), ("b c", 25, -1)]), 'RowDescription ("a" 23 4) ("b c" 25 -1)'),
    (
        m.frame(b"T", b"\0\x01a\0\0\0\x04\xeb\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01"),
        'RowDescription ("a" 1259 1 23 4 -1 1)',
    ),
    (m.data_row([b"1", None, b"a\nb\\"]), r'DataRow "1" null "a\nb\\"'),
    (m.data_row([]), "DataRow"),
    (m.command_complete("SELECT 1"), 'CommandComplete "SELECT 1"'),
    (m.parameter_description([23, 25]), "ParameterDescription 23 25"),
    (m.notification(7, "ch", "p"), 'NotificationResponse 7 "ch" "p"'),
    (m.frame(b"G", b"\0\0\x02\0\0\0\x01"), "CopyInResponse 0 0 1"),
    (m.copy_data("é\t1\n".encode()), r'CopyData "é\t1\n"'),
    (m.copy_done(), "CopyDone"),
    (m.frame(b"Z", b"II"), 'Frame "Z" "II"'),
    (m.frame(b"\0", b""), r'Frame "\x00" ""'),
]
FRONTEND = [
    (m.query("select 1"), 'Query "select 1"'),
    (m.frame(b"Q", b"select 1"), 'Frame "Q" "select 1"'),
    (m.parse("s1", "select $1", [23]), 'Parse "s1" "select $1" 23'),
    (m.bind("", "s1", [b"7", None]), 'Bind "" "s1" "7" null'),
    (m.bind("", "s1", [b"\0\7", None], [1], [1, 0]), r'Bind "" "s1" (1) ("\x00\x07" null) (1 0)'),
    (m.describe(b"S", "s1"), 'Describe S "s1"'),
    (m.close(b"P", ""), 'Close P ""'),
    (m.execute("", 5), 'Execute "" 5'),
    (m.sync(), "Sync"),
    (m.password(b"md5"), 'PasswordMessage "md5"'),
    (m.sasl_initial("SCRAM-SHA-256", b"n,,"), 'SASLInitialResponse "SCRAM-SHA-256" "n,,"'),
    (m.sasl_response(b"c="), 'SASLResponse "c="'),
    (m.copy_fail("no"), 'CopyFail "no"'),
]
PACKETS = [
    (m.startup({"user": "a", "database": "b"}), 'StartupMessage 3.0 "user" "a" "database" "b"'),
    (m.startup({}, 2), "StartupMessage 3.2"),
    (m.ssl_request(), "SSLRequest"),
    (m.gss_request(), "GSSENCRequest"),
    (m.cancel_request(7, b"abcd"), 'CancelRequest 7 "abcd"'),
    (b"\0\0\0\x05a", r'Packet "\x00\x00\x00\x05a"'),
]


@pytest.mark.parametrize(("frame", "line"), BACKEND)
def test_what_servers_send(frame, line):
    assert format_frame("backend", frame) == line
    assert parse_frame("backend", line) == frame


@pytest.mark.parametrize(("frame", "line"), FRONTEND)
def test_what_clients_send(frame, line):
    assert format_frame("frontend", frame) == line
    assert parse_frame("frontend", line) == frame


@pytest.mark.parametrize(("packet", "line"), PACKETS)
def test_first_packets(packet, line):
    assert format_packet(packet) == line
    assert parse_frame("frontend", line) == packet


@pytest.mark.parametrize(
    "line",
    [
        "Nonsense",
        "Query",
        "Query select",
        'Query "a" "b"',
        'Query "a',
        r'Query "\x0"',
        r'Query "\q"',
        'Query "a\\x00b"',
        'Query ("a")',
        'Query "a")',
        'Bind "" "s" ("1"',
        'Bind "" "s" (1) ("1")',
        'RowDescription ("a" 23)',
        'RowDescription "a" 23 4',
        "Execute x 5",
        'Execute "" many',
        'Execute "" 4294967296',
        "DataRow 1",
        "ReadyForQuery IT",
        'Frame "ab" "c"',
        'Frame "a"',
        "Packet a",
        'CommandComplete "SELECT 1"',
    ],
)
def test_a_line_that_is_none_is_refused(line):
    with pytest.raises(WireError):
        parse_frame("frontend" if not line.startswith(("RowD", "DataRow", "Ready")) else "backend", line)


def test_a_frame_that_is_not_whole_is_refused():
    for frame in (b"", b"Q\0\0\0", b"Q\0\0\0\x05", b"Q\0\0\0\x04x"):
        with pytest.raises(WireError):
            format_frame("frontend", frame)


KINDS = {"backend": b"RK23CdcGHWDIEVvnNAtS1sZTx\0", "frontend": b"BCdcfDEHPpQSXFy\0"}
texts = st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass"))
bodies = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.one_of(
            texts.map(lambda data: data + b"\0"), st.integers(0, 3).map(lambda n: n.to_bytes(2, "big"))
        ),
        max_size=6,
    ).map(b"".join),
)


@given(direction=st.sampled_from(["backend", "frontend"]), data=st.data())
def test_every_frame_comes_back_from_its_line(direction, data):
    kind = data.draw(st.sampled_from([bytes((kind,)) for kind in KINDS[direction]]))
    frame = m.frame(kind, data.draw(bodies))
    line = format_frame(direction, frame)
    assert parse_frame(direction, line) == frame
    assert "\n" not in line
    assert line.isprintable()


@given(st.binary(max_size=60))
@example(m.startup({"user": "\udcff"}))
def test_every_packet_comes_back_from_its_line(packet):
    assert parse_frame("frontend", format_packet(packet)) == packet


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    for direction in ("backend", "frontend"):
        for line in (text, f"Query {text}", f"ErrorResponse {text}", f"Bind {text}"):
            try:
                parse_frame(direction, line)
            except WireError:
                pass
