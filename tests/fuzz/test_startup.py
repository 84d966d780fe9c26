"""First packets and logins under random bytes: a value, a fault or a WireError, never anything else."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcat_cluster.errors import Fault, ServerUnreachable, WireError
from pgcat_cluster.session.exchange import Derive, Receive
from pgcat_cluster.session.login import Credential, LoginPolicy, client_login
from pgcat_cluster.session.server_login import ServerRefused, server_login
from pgcat_cluster.wire import md5, scram
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.startup import CancelRequest, GssRequest, SslRequest, Startup, parse_startup

words = st.sampled_from(
    [b"user", b"database", b"options", b"replication", b"_pq_.x", b"a", b"", b"true", b"-c a=b", b"-c=",
     b"--", b"-c search_path=\\", b"\xff", b"u" * 70]
) | st.binary(max_size=8)  # fmt: skip
codes = st.sampled_from(
    [b"\0\3\0\0", b"\0\3\0\2", b"\0\2\0\0", b"\4\xd2\x16\x2e", b"\4\xd2\x16\x2f", b"\4\xd2\x16\x30"]
)
packets = st.builds(
    lambda code, strings, end: code + b"\0".join(strings) + end,
    codes,
    st.lists(words, max_size=10),
    st.sampled_from([b"", b"\0", b"\0\0"]),
)


def outcome(packet):
    try:
        return parse_startup(packet)
    except (WireError, Fault) as error:
        return error


@settings(max_examples=500)
@given(packets | st.binary(max_size=40))
def test_any_first_packet_is_read_or_refused(packet):
    found = outcome(packet)
    assert isinstance(found, Startup | SslRequest | GssRequest | CancelRequest | WireError | Fault)
    if isinstance(found, Fault):
        assert found.severity == "FATAL"
        assert m.error_response(found)
    if isinstance(found, Startup):
        for name in (found.user, found.database):
            assert 0 < len(name.encode("utf-8", "surrogateescape")) <= 63


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text("-c=\\ ab\t", max_size=60).map(str.encode))
def test_any_options_are_read_or_refused(text):
    packet = m.startup({"user": "u"})[4:-1] + b"options\0" + text.replace(b"\0", b"") + b"\0\0"
    found = outcome(packet)
    if isinstance(found, Fault):
        assert found.sqlstate in ("42601", "42704")
    else:
        assert isinstance(found, Startup)
        assert "" not in found.settings


@pytest.mark.parametrize("unit", [b"-c a=b ", b"-c=", b"--", b"\\", b"-", b" ", b"--a=b ", b"-ca=\\ "])
def test_the_longest_options_take_little_time(unit):
    room = 9_900 // len(unit)
    packet = m.startup({"user": "u"})[4:-1] + b"options\0" + unit * room + b"\0\0"
    started = time.process_time()
    outcome(packet)
    assert time.process_time() - started < 0.5


# -- logins

SALT = b"0123456789abcdef"
USERS = {
    "s": Credential(method="scram-sha-256", verifier=scram.make_verifier("pw", 1, SALT).to_text()),
    "m": Credential(method="md5", verifier=md5.make_verifier("m", "pw")),
}
POLICY = LoginPolicy(lookup=USERS.get, default_method="md5", mock_secret=b"x", random_bytes=bytes)
pieces = st.sampled_from(
    [b"SCRAM-SHA-256\0", b"SCRAM-SHA-256-PLUS\0", b"\0\0\0\x0c", b"\xff\xff\xff\xff", b"n,,n=*,r=abc", b"y,,",
     b"p=tls-server-end-point,,", b"c=biws", b",", b"r=abc" + b"A" * 24, b",p=", b"A" * 43 + b"=", b"md5",
     b"\0", b"\0\0\0\0", b"\0\0\0\x05", b"\0\0\0\x0a", b"\0\0\0\x0b",
     b"r=" + b"A" * 24 + b"x,s=AAAA,i=1", b"v=AAAA"]
) | st.binary(max_size=6)  # fmt: skip
bodies = st.lists(pieces, max_size=5).map(b"".join)
frames = st.lists(st.tuples(st.sampled_from(b"pppppQXREvNSKZ\0"), bodies), max_size=6)
OPENING = (ord("p"), m.sasl_initial("SCRAM-SHA-256", b"n,,n=*,r=abc")[5:])
SASL = (ord("R"), m.authentication_sasl(["SCRAM-SHA-256"])[5:])


def play(login, answers):
    """Feed a login until it ends, fails by the rules, or has heard everything."""
    answers = iter(answers)
    reply = None
    try:
        while True:
            step = login.send(reply)
            reply = step.work() if isinstance(step, Derive) else None
            if isinstance(step, Receive):
                reply = next(answers, None)
                if reply is None:
                    return None
    except StopIteration as end:
        return end.value
    except (Fault, WireError, ServerRefused) as error:
        return error


@settings(max_examples=300)
@given(user=st.sampled_from(["s", "m", "x"]), binding=st.sampled_from([None, b"h"]), answers=frames,
       opens=st.booleans())  # fmt: skip
def test_no_client_gets_in_by_chance(user, binding, answers, opens):
    startup = parse_startup(m.startup({"user": user})[4:])
    assert isinstance(startup, Startup)
    result = play(client_login(startup, POLICY, channel_binding=binding), [OPENING] * opens + answers)
    assert result is None or (isinstance(result, Fault) and result.sqlstate in ("08P01", "28P01"))


@settings(max_examples=300)
@given(answers=frames, opens=st.booleans(), binding=st.sampled_from([None, b"h"]))
def test_no_server_breaks_us(answers, opens, binding):
    login = server_login("u", "d", "pw", {}, random_bytes=bytes, channel_binding=binding)
    result = play(login, [SASL] * opens + answers)
    if isinstance(result, Fault):
        assert isinstance(result, ServerUnreachable)
