"""Logging in to a server: every step asserted whole; a hostile server gets nothing and orders nothing."""

import pytest

from pgcat_cluster.errors import ServerUnreachable, WireError
from pgcat_cluster.session.exchange import Derive, Receive, Send
from pgcat_cluster.session.server_login import ServerReady, ServerRefused, server_login
from pgcat_cluster.wire import md5, scram
from pgcat_cluster.wire import messages as m

PASSWORD, SALT, BINDING = "pencil", b"0123456789abcdef", b"certificate hash"
KEYS = scram.derive_keys(PASSWORD, SALT, 4096)
VERIFIER = scram.make_verifier(PASSWORD, 4096, SALT)
RECEIVE = Receive(body_bytes_max=131_072)
READY = [
    m.parameter_status("server_version", "16.1"),
    m.backend_key_data(7, b"abcd"),
    m.ready_for_query(b"I"),
]


class Conversation:
    """Feeds a login with a server's frames and keeps what it asks for."""

    def __init__(self, secret=PASSWORD, *, minor=0, **choices) -> None:
        self.login = server_login(
            "u", "d", secret, {"application_name": "x"}, random_bytes=bytes, minor=minor, **choices
        )
        self.result: ServerReady | None = None
        parameters = {"user": "u", "database": "d", "application_name": "x"}
        assert self.next() == Send(m.startup(parameters, minor))
        assert self.next() == RECEIVE

    def next(self, reply=None):
        try:
            return self.login.send(reply)
        except StopIteration as end:
            self.result = end.value
            return None

    def says(self, *frames: bytes):
        """The next step after these frames, each of which but the last only makes us wait for one more."""
        *silent, last = frames
        for frame in silent:
            assert self.next((frame[0], frame[5:])) == RECEIVE
        return self.next((last[0], last[5:]))

    def to_scram_final(self, mechanisms=("SCRAM-SHA-256",), binding=None) -> bytes:
        """Up to our last message; what the server should answer."""
        step = self.says(m.authentication_sasl(mechanisms))
        assert isinstance(step, Send)
        initial = m.parse_sasl_initial(step.data[5:])
        assert initial.data is not None
        server = scram.ScramServer(
            initial.data,
            verifier=VERIFIER,
            nonce=b"server",
            plus=initial.mechanism == "SCRAM-SHA-256-PLUS",
            binding=binding,
        )
        assert self.next() == RECEIVE
        step = self.says(m.authentication_sasl_continue(server.first))
        if isinstance(step, Derive):
            step = self.next(step.work())
        assert isinstance(step, Send)
        assert self.next() == RECEIVE
        proof = server.finish(step.data[5:])
        assert proof is not None
        return proof.message


def test_a_server_that_asks_for_nothing():
    talk = Conversation(None)
    assert talk.says(m.authentication_ok(), *READY) is None
    assert talk.result == ServerReady(pid=7, secret=b"abcd", parameters={"server_version": "16.1"}, version=0)


def test_scram_derives_keys_off_the_loop():
    talk = Conversation()
    step = talk.says(m.authentication_sasl(["SCRAM-SHA-256"]))
    assert step == Send(m.sasl_initial("SCRAM-SHA-256", b"n,,n=*,r=" + b"A" * 24))
    assert talk.next() == RECEIVE
    step = talk.says(
        m.authentication_sasl_continue(b"r=" + b"A" * 24 + b"s,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096")
    )
    assert isinstance(step, Derive)
    assert step.work() == KEYS


@pytest.mark.parametrize("secret", [PASSWORD, KEYS])
def test_scram_with_a_password_or_with_keys(secret):
    talk = Conversation(secret)
    final = talk.to_scram_final()
    assert talk.says(m.authentication_sasl_final(final), m.authentication_ok(), *READY) is None
    assert talk.result is not None


@pytest.mark.parametrize("mechanisms", [["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], ["SCRAM-SHA-256-PLUS"]])
def test_scram_binds_to_the_certificate_where_that_is_offered(mechanisms):
    talk = Conversation(channel_binding=BINDING)
    final = talk.to_scram_final(mechanisms, BINDING)
    assert talk.says(m.authentication_sasl_final(final), m.authentication_ok(), *READY) is None


def test_md5():
    talk = Conversation()
    answer = md5.answer(md5.make_verifier("u", PASSWORD), b"salt")
    assert talk.says(m.authentication_md5(b"salt")) == Send(m.password(answer))
    assert talk.next() == RECEIVE
    assert talk.says(m.authentication_ok(), *READY) is None


def test_clear_text_only_where_allowed():
    talk = Conversation(allow_cleartext=True)
    assert talk.says(m.authentication_cleartext()) == Send(m.password(b"pencil"))
    with pytest.raises(ServerUnreachable) as caught:
        Conversation().says(m.authentication_cleartext())
    assert caught.value.detail == "the server asks for a password in clear text"


@pytest.mark.parametrize(
    ("secret", "request_frame", "detail"),
    [
        (None, m.authentication_md5(b"salt"), "the server asks for a password and none is configured"),
        (None, m.authentication_sasl(["SCRAM-SHA-256"]),
         "the server asks for a password and none is configured"),
        (KEYS, m.authentication_md5(b"salt"),
         "SCRAM keys are configured, but the server asks for a password"),
        (PASSWORD, m.frame(b"R", b"\0\0\0\x07"), "the server asks for authentication method 7"),
        (PASSWORD, m.authentication_sasl(["SCRAM-SHA-1"]),
         "the server offers no SASL mechanism that is supported"),
        (PASSWORD, m.authentication_sasl(["SCRAM-SHA-256-PLUS"]),
         "the server offers no SASL mechanism that is supported"),
        (PASSWORD, m.authentication_sasl([]), "the server offers no SASL mechanism that is supported"),
    ],
)  # fmt: skip
def test_what_can_not_be_answered(secret, request_frame, detail):
    with pytest.raises(ServerUnreachable) as caught:
        Conversation(secret).says(request_frame)
    assert caught.value.detail == detail


# -- versions and keys


def test_a_newer_protocol_and_a_long_key():
    talk = Conversation(None, minor=2)
    key = m.backend_key_data(0xFFFFFFFF, b"k" * 256)
    assert talk.says(m.authentication_ok(), key, m.ready_for_query(b"I")) is None
    assert talk.result == ServerReady(pid=0xFFFFFFFF, secret=b"k" * 256, parameters={}, version=2)


def test_a_server_negotiates_down():
    talk = Conversation(None, minor=2)
    negotiation = m.negotiate_protocol_version(0, ["_pq_.x"])
    assert talk.says(negotiation, m.authentication_ok(), *READY) is None
    assert talk.result is not None
    assert talk.result.version == 0


def test_a_server_without_a_cancel_key():
    talk = Conversation(None)
    assert talk.says(m.authentication_ok(), m.ready_for_query(b"I")) is None
    assert talk.result == ServerReady(pid=0, secret=b"", parameters={}, version=0)


def test_notices_may_come_at_any_time():
    talk = Conversation(None)
    notice = m.notice("NOTICE", "00000", "hello")
    assert talk.says(notice, m.authentication_ok(), notice, *READY) is None


# -- refusals

REFUSALS = [
    (b"SFATAL\0C53300\0Mtoo many\0Dd\0Xnew\0\0", "53300", "too many"),
    (b"\0", "XX000", "the server gave no reason"),
    (b"Mx\0\0", "XX000", "x"),
    (b"M" + b"x" * 100_000 + b"\0\0", "XX000", "x" * 100_000),
]


@pytest.mark.parametrize(("body", "sqlstate", "message"), REFUSALS)
def test_a_refusal_with_any_fields_at_every_place(body, sqlstate, message):
    first, proving, collecting = Conversation(), Conversation(), Conversation(None)
    proving.to_scram_final()
    collecting.says(m.authentication_ok())
    for talk in (first, proving, collecting):
        with pytest.raises(ServerRefused) as caught:
            talk.says(m.frame(b"E", body))
        assert (caught.value.sqlstate, caught.value.message) == (sqlstate, message)
        assert caught.value.fields == m.fields_of_error(body)


# -- a hostile server


@pytest.mark.parametrize(
    "frames",
    [
        [m.ready_for_query(b"I")],
        [m.frame(b"D", b"\0\0")],
        [m.frame(b"R", b"")],
        [m.frame(b"E", b"SFATAL")],
        [m.authentication_md5(b"long salt")],
        [m.authentication_sasl_final(b"v=")],
        [m.frame(b"R", b"\0\0\0\x0aSCRAM-SHA-256")],
        [m.negotiate_protocol_version(2, [])],
        [m.negotiate_protocol_version(0, []), m.negotiate_protocol_version(0, [])],
        [m.authentication_ok(), m.authentication_ok()],
        [m.authentication_ok(), m.negotiate_protocol_version(0, [])],
        [m.authentication_ok(), m.ready_for_query(b"T")],
        [m.authentication_ok(), m.ready_for_query(b"E")],
        [m.authentication_ok(), m.backend_key_data(1, b"abc")],
        [m.authentication_ok(), m.backend_key_data(1, b"k" * 257)],
        [m.authentication_ok(), m.frame(b"S", b"name\0")],
        [m.authentication_ok(), m.data_row([b"1"])],
        [m.authentication_ok(), m.command_complete("SELECT 1")],
    ],
)
def test_messages_out_of_place_or_malformed(frames):
    talk = Conversation(None if frames[0] == m.authentication_ok() else PASSWORD)
    with pytest.raises((WireError, ServerUnreachable)):
        talk.says(*frames)
    assert talk.result is None


@pytest.mark.parametrize(
    "frame",
    [m.authentication_ok(), m.authentication_md5(b"salt"), m.authentication_cleartext(),
     m.authentication_sasl_continue(b"r=abc"), m.ready_for_query(b"I")],
)  # fmt: skip
def test_a_server_must_prove_that_it_knows_the_password(frame):
    talk = Conversation(allow_cleartext=True)
    talk.to_scram_final()
    with pytest.raises(WireError):
        talk.says(frame)


@pytest.mark.parametrize("code", [0, 11])
def test_a_right_proof_under_another_code_is_refused(code):
    talk = Conversation()
    final = talk.to_scram_final()
    with pytest.raises(WireError, match=r"^unexpected authentication request from server$"):
        talk.says(m.frame(b"R", code.to_bytes(4, "big") + final))


def test_a_server_that_proves_it_wrongly():
    talk = Conversation()
    talk.to_scram_final()
    with pytest.raises(ServerUnreachable) as caught:
        talk.says(m.authentication_sasl_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
    assert caught.value.detail == "the server could not prove that it knows the password"


@pytest.mark.parametrize("again", [m.authentication_md5(b"salt"), m.authentication_sasl(["SCRAM-SHA-256"])])
def test_a_server_asks_once(again):
    talk = Conversation()
    final = talk.to_scram_final()
    with pytest.raises(WireError):
        talk.says(m.authentication_sasl_final(final), again)


def test_a_server_can_not_order_unbounded_work():
    talk = Conversation()
    talk.says(m.authentication_sasl(["SCRAM-SHA-256"]))
    talk.next()
    with pytest.raises(WireError):
        talk.says(m.authentication_sasl_continue(b"r=" + b"A" * 24 + b"s,s=AAAA,i=2000000000"))


def test_a_server_can_not_talk_for_ever():
    talk = Conversation(None)
    talk.says(m.authentication_ok())
    with pytest.raises(WireError, match=r"^too many messages from server during login$"):
        talk.says(*[m.parameter_status(f"p{number}", "") for number in range(1000)])


def test_a_message_too_long_is_refused():
    with pytest.raises(WireError, match=r"^invalid message length$"):
        Conversation().says(m.frame(b"E", b"M" + b"x" * 131_072))


def test_secrets_do_not_show_in_text():
    ready = ServerReady(pid=7, secret=b"abcd", parameters={}, version=0)
    assert repr(ready) == "ServerReady(pid=7, version=0)"
