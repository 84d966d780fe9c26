"""First packets: PostgreSQL's limits, texts and SQLSTATEs, observed on PostgreSQL 15 with the same bytes."""

import pytest

from pgcat_cluster.errors import Fault, WireError
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.startup import CancelRequest, GssRequest, SslRequest, Startup, parse_startup

VERSION = b"\0\3\0\0"
LAYOUT = ("FATAL", "08P01", "invalid startup packet layout: expected terminator as last byte", None)
NO_USER = ("FATAL", "28000", "no PostgreSQL user name specified in startup packet", None)


def startup(*strings: bytes, version: bytes = VERSION) -> bytes:
    return version + b"".join(string + b"\0" for string in strings) + b"\0"


def options(text: bytes) -> bytes:
    return startup(b"user", b"a", b"options", text)


def refusal(packet: bytes) -> tuple[str, str, str, str | None]:
    with pytest.raises(Fault) as caught:
        parse_startup(packet)
    return caught.value.severity, caught.value.sqlstate, caught.value.message, caught.value.hint


def test_a_whole_startup_packet():
    packet = startup(
        b"user", b"u", b"database", b"d", b"application_name", b"psql", b"client_encoding", b"UTF8",
        b"options", b"-c search_path=x", b"replication", b"off",
    )  # fmt: skip
    assert parse_startup(packet) == Startup(
        version=(3, 0),
        user="u",
        database="d",
        parameters={"application_name": "psql", "client_encoding": "UTF8"},
        settings={"search_path": "x"},
        replication=None,
        unknown_options=(),
    )


@pytest.mark.parametrize("packet", [startup(b"user", b"u"), startup(b"user", b"u", b"database", b"")])
def test_the_database_is_called_like_the_user_unless_named(packet):
    assert parse_startup(packet).database == "u"


def test_of_a_user_given_twice_the_last_counts_everywhere():
    found = parse_startup(startup(b"user", b"a", b"user", b"b"))
    assert (found.user, found.database) == ("b", "b")


def test_names_are_cut_at_63_bytes_even_inside_a_character():
    found = parse_startup(startup(b"user", b"u" * 64, b"database", b"d" * 62 + "é".encode()))
    assert found.user == "u" * 63
    assert found.database.encode("utf-8", "surrogateescape") == b"d" * 62 + b"\xc3"


def test_text_that_is_no_utf8_is_kept():
    found = parse_startup(startup(b"user", b"\xff\n", b"application_name", b"\x80"))
    assert found.user.encode("utf-8", "surrogateescape") == b"\xff\n"
    assert found.parameters == {"application_name": "\udc80"}


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0\3\0",
        VERSION + b"x" * 9997,
        m.cancel_request(1, b"abc")[4:],
        m.cancel_request(1, b"k" * 257)[4:],
        m.cancel_request(1, b"")[4:],
        m.cancel_request(1, b"")[4:8],
        m.ssl_request()[4:] + b"x",
        m.gss_request()[4:] + b"x",
    ],
)
def test_lengths_that_lie_close_without_a_word(packet):
    with pytest.raises(WireError):
        parse_startup(packet)


def test_10000_bytes_are_the_limit():
    value = b"x" * (10_000 - len(startup(b"user", b"u", b"application_name", b"")))
    packet = startup(b"user", b"u", b"application_name", value)
    assert len(packet) == 10_000
    assert parse_startup(packet).parameters == {"application_name": value.decode()}
    with pytest.raises(WireError):
        parse_startup(startup(b"user", b"u", b"application_name", value + b"x"))


@pytest.mark.parametrize(
    ("packet", "told"),
    [
        (VERSION, LAYOUT),
        (VERSION + b"user\0u\0", LAYOUT),
        (VERSION + b"user\0u", LAYOUT),
        (VERSION + b"user\0", LAYOUT),
        (startup(b"user", b"u", b"database"), LAYOUT),
        (startup(b"user", b"u") + b"\0", LAYOUT),
        (startup(b"user", b"u") + b"x\0", LAYOUT),
        (startup(), NO_USER),
        (startup(b"user", b""), NO_USER),
        (startup(b"database", b"d"), NO_USER),
        (startup(b"user", b"u", b"user", b""), NO_USER),
    ],
)
def test_malformed_packets_get_postgresqls_own_error(packet, told):
    assert refusal(packet) == told


# -- versions


@pytest.mark.parametrize("version", ["2.0", "4.0", "0.0", "1234.1"])
def test_another_major_version_is_refused(version):
    major, minor = map(int, version.split("."))
    packet = major.to_bytes(2, "big") + minor.to_bytes(2, "big") + b"user\0u\0\0"
    message = f"unsupported frontend protocol {version}: server supports 3.0 to 3.2"
    assert refusal(packet) == ("FATAL", "0A000", message, None)


@pytest.mark.parametrize(
    ("packet", "unknown", "needs_negotiation"),
    [
        (startup(b"user", b"u"), (), False),
        (startup(b"user", b"u", version=b"\0\3\0\2"), (), False),
        (startup(b"user", b"u", version=b"\0\3\0\x63"), (), True),
        (startup(b"user", b"u", b"_pq_.x", b"1", b"_pq_.y", b"", version=b"\0\3\0\2"),
         ("_pq_.x", "_pq_.y"), True),
        (startup(b"user", b"u", b"_pq_.x", b"1"), ("_pq_.x",), True),
    ],
)  # fmt: skip
def test_newer_minor_versions_and_unknown_options_are_negotiated(packet, unknown, needs_negotiation):
    found = parse_startup(packet)
    assert (found.unknown_options, found.parameters) == (unknown, {})
    assert found.needs_negotiation is needs_negotiation


# -- requests


def test_requests_for_encryption():
    assert parse_startup(m.ssl_request()[4:]) == SslRequest()
    assert parse_startup(m.gss_request()[4:]) == GssRequest()


@pytest.mark.parametrize("secret", [b"abcd", b"k" * 32, b"k" * 256])
def test_cancel_keys_of_every_legal_length(secret):
    assert parse_startup(m.cancel_request(0xFFFFFFFF, secret)[4:]) == CancelRequest(
        pid=0xFFFFFFFF, secret=secret
    )


# -- replication


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"database", "database"), (b"true", "true"), (b"ON", "true"), (b"1", "true"), (b"y", "true"),
     (b"TR", "true"), (b"false", None), (b"of", None), (b"0", None), (b"no", None)],
)  # fmt: skip
def test_replication_is_read_as_a_boolean_or_database(value, expected):
    assert parse_startup(startup(b"user", b"u", b"replication", value)).replication == expected


@pytest.mark.parametrize("value", ["maybe", "", "o", "Database", "truely"])
def test_other_words_for_replication_are_refused(value):
    assert refusal(startup(b"user", b"u", b"replication", value.encode())) == (
        "FATAL",
        "22023",
        f'invalid value for parameter "replication": "{value}"',
        'Valid values are: "false", 0, "true", 1, "database".',
    )


# -- options


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (b"", {}),
        (b"   ", {}),
        (b"--", {}),
        (b"-c a=b", {"a": "b"}),
        (b"-ca=b", {"a": "b"}),
        (b"--a=b", {"a": "b"}),
        (b"--search-path=b", {"search_path": "b"}),
        (b"\t-c\n a=b --c=d --", {"a": "b", "c": "d"}),
        (b"-c a=b -c a=c", {"a": "c"}),
        (b"-c a=", {"a": ""}),
        (b"-c a=b=c", {"a": "b=c"}),
        (b"-c a=b\\ c", {"a": "b c"}),
        (b"-c a=b\\\\c", {"a": "b\\c"}),
        (b"-c a=b\\", {"a": "b"}),
        (b"-\\c a=b", {"a": "b"}),
        (b"-c a=\xff", {"a": "\udcff"}),
        (b"-c -c=x", {"_c": "x"}),
    ],
)
def test_options_are_split_like_a_command_line(text, settings):
    assert parse_startup(options(text)).settings == settings


BAD_ARGUMENT = "invalid command-line argument for server process: "
HELP = 'Try "postgres --help" for more information.'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"-c=", ("FATAL", "42704", 'unrecognized configuration parameter ""', None)),
        (b"--=", ("FATAL", "42704", 'unrecognized configuration parameter ""', None)),
        (b"-c", ("FATAL", "42601", BAD_ARGUMENT + "-c", HELP)),
        (b"-c x", ("FATAL", "42601", "-c x requires a value", None)),
        (b"-c -c", ("FATAL", "42601", "-c -c requires a value", None)),
        (b"--x", ("FATAL", "42601", "--x requires a value", None)),
        (b"-X", ("FATAL", "42601", BAD_ARGUMENT + "-X", HELP)),
        (b"-", ("FATAL", "42601", BAD_ARGUMENT + "-", HELP)),
        (b"\\", ("FATAL", "42601", BAD_ARGUMENT, HELP)),
        (b"x", ("FATAL", "42601", BAD_ARGUMENT + "x", HELP)),
        (b"-c a=b x", ("FATAL", "42601", BAD_ARGUMENT + "x", HELP)),
        (b"-- x", ("FATAL", "42601", BAD_ARGUMENT + "x", HELP)),
    ],
)
def test_malformed_options_get_postgresqls_own_error(text, told):
    assert refusal(options(text)) == told


def test_options_as_long_as_a_packet_allows():
    room = 10_000 - len(options(b""))
    assert parse_startup(options(b"-c a=b " * (room // 7))).settings == {"a": "b"}
