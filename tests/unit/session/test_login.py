"""Logging a client in: every step asserted whole, every other message refused where it comes."""

import base64
import itertools

import pytest

from pgcat_cluster.errors import AuthenticationFailed, Fault, ProtocolViolation
from pgcat_cluster.session.exchange import Receive, Send
from pgcat_cluster.session.login import Credential, LoggedIn, LoginPolicy, client_login
from pgcat_cluster.wire import md5, scram
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.startup import Startup, parse_startup

PASSWORD, SALT, BINDING = "pencil", b"0123456789abcdef", b"certificate hash"
KEYS = scram.derive_keys(PASSWORD, SALT, 4096)
USERS = {
    "s": Credential(method="scram-sha-256", verifier=scram.make_verifier(PASSWORD, 4096, SALT).to_text()),
    "m": Credential(method="md5", verifier=md5.make_verifier("m", PASSWORD)),
    "t": Credential(method="trust", verifier=None),
    "s without": Credential(method="scram-sha-256", verifier=None),
    "s broken": Credential(method="scram-sha-256", verifier="SCRAM-SHA-256$broken"),
    "s with md5": Credential(method="scram-sha-256", verifier=md5.make_verifier("s with md5", PASSWORD)),
    "m without": Credential(method="md5", verifier=None),
    "m with plain": Credential(method="md5", verifier=PASSWORD),
}
RECEIVE_SASL = Receive(body_bytes_max=1024, kinds=b"p", expected="SASL response")
RECEIVE_PASSWORD = Receive(body_bytes_max=65_535, kinds=b"p", expected="password response")
SERVER_NONCE = base64.b64encode(b"\7" * 18)
OK = m.authentication_ok()


def policy(default="scram-sha-256") -> LoginPolicy:
    return LoginPolicy(
        lookup=USERS.get,
        default_method=default,
        mock_secret=b"of this process",
        random_bytes=lambda count: b"\7" * count,
    )


def startup(user: str, minor: int = 0, **parameters: str) -> Startup:
    found = parse_startup(m.startup({"user": user, "database": "d", **parameters}, minor)[4:])
    assert isinstance(found, Startup)
    return found


class Conversation:
    """Feeds a login and keeps what it asks for."""

    def __init__(self, user: str, *, default="scram-sha-256", binding=None, minor=0, **parameters) -> None:
        self.login = client_login(
            startup(user, minor, **parameters), policy(default), channel_binding=binding
        )
        self.result: LoggedIn | None = None

    def next(self, reply=None):
        try:
            return self.login.send(reply)
        except StopIteration as end:
            self.result = end.value
            return None

    def answer(self, frame: bytes):
        return self.next((frame[0], frame[5:]))

    def to_sasl(self) -> None:
        assert self.next() == Send(m.authentication_sasl(["SCRAM-SHA-256"]))
        assert self.next() == RECEIVE_SASL

    def to_final(self, client: scram.ScramClient) -> scram.Challenge:
        self.to_sasl()
        step = self.answer(m.sasl_initial(client.mechanism, client.first))
        assert isinstance(step, Send)
        assert step.data[:9] == b"R" + step.data[1:5] + b"\0\0\0\x0b"
        assert self.next() == RECEIVE_SASL
        return client.challenge(step.data[9:])

    def to_md5(self) -> None:
        assert self.next() == Send(m.authentication_md5(b"\7" * 4))
        assert self.next() == RECEIVE_PASSWORD


def test_scram():
    talk = Conversation("s", application_name="x", options="-c a=1 -c application_name=y")
    client = scram.ScramClient(b"abc")
    challenge = talk.to_final(client)
    assert challenge.message == b"r=abc%b,s=%b,i=4096" % (SERVER_NONCE, base64.b64encode(SALT))
    step = talk.answer(m.sasl_response(client.final(challenge, KEYS)))
    assert isinstance(step, Send)
    final, ok = step.data[: -len(OK)], step.data[-len(OK) :]
    assert ok == OK
    assert client.verify(final[9:])
    assert final == m.authentication_sasl_final(final[9:])
    assert talk.next() is None
    assert talk.result == LoggedIn(
        user="s", database="d", parameters={"a": "1", "application_name": "x"}, keys=KEYS
    )


@pytest.mark.parametrize("plus", [True, False])
def test_scram_over_tls_offers_channel_binding(plus):
    talk = Conversation("s", binding=BINDING)
    assert talk.next() == Send(m.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]))
    assert talk.next() == RECEIVE_SASL
    client = scram.ScramClient(b"abc", plus=plus, binding=BINDING if plus else None)
    step = talk.answer(m.sasl_initial(client.mechanism, client.first))
    assert isinstance(step, Send)
    assert talk.next() == RECEIVE_SASL
    step = talk.answer(m.sasl_response(client.final(client.challenge(step.data[9:]), KEYS)))
    assert isinstance(step, Send)
    assert step.data.endswith(OK)


def test_a_client_that_lost_sight_of_the_offer_is_refused():
    talk = Conversation("s", binding=BINDING)
    talk.next()
    talk.next()
    with pytest.raises(ProtocolViolation, match=r"^SCRAM channel binding negotiation error$"):
        talk.answer(m.sasl_initial("SCRAM-SHA-256", b"y,,n=*,r=abc"))


def test_a_client_may_wait_to_be_asked_for_its_first_message():
    talk = Conversation("s")
    talk.to_sasl()
    assert talk.answer(m.frame(b"p", b"SCRAM-SHA-256\0\xff\xff\xff\xff")) == Send(
        m.authentication_sasl_continue(b"")
    )
    assert talk.next() == RECEIVE_SASL
    step = talk.answer(m.sasl_response(b"n,,n=*,r=abc"))
    assert isinstance(step, Send)
    assert step.data[9:].startswith(b"r=abc")


def test_md5():
    talk = Conversation("m")
    talk.to_md5()
    answer = md5.answer(md5.make_verifier("m", PASSWORD), b"\7" * 4)
    assert talk.answer(m.password(answer)) == Send(OK)
    assert talk.next() is None
    assert talk.result == LoggedIn(user="m", database="d", parameters={}, keys=None)


def test_trust():
    talk = Conversation("t")
    assert talk.next() == Send(OK)
    assert talk.next() is None
    assert talk.result == LoggedIn(user="t", database="d", parameters={}, keys=None)


def test_trust_makes_no_unknown_user_known():
    with pytest.raises(AuthenticationFailed, match=r'^password authentication failed for user "x"$'):
        Conversation("x", default="trust").next()


def test_a_newer_protocol_is_negotiated_down_first():
    talk = Conversation("t", minor=3, **{"_pq_.x": "1"})
    assert talk.next() == Send(m.negotiate_protocol_version(2, ["_pq_.x"]))
    assert talk.next() == Send(OK)


# -- refusals: the same for an unknown user, a wrong password, and a verifier that does not fit


def scram_refusal(user: str, password: str = PASSWORD) -> tuple[list[object], Fault]:
    talk = Conversation(user)
    client = scram.ScramClient(b"abc")
    challenge = talk.to_final(client)
    keys = scram.derive_keys(password, challenge.salt, challenge.iterations)
    with pytest.raises(AuthenticationFailed) as caught:
        talk.answer(m.sasl_response(client.final(challenge, keys)))
    return [len(challenge.message), len(challenge.salt), challenge.iterations], caught.value


@pytest.mark.parametrize("user", ["unknown", "s without", "s broken", "s with md5"])
def test_scram_without_a_verifier_is_like_a_wrong_password(user):
    shape, fault = scram_refusal(user)
    known_shape, known_fault = scram_refusal("s", "wrong")
    assert shape == known_shape
    assert fault.message == f'password authentication failed for user "{user}"'
    assert known_fault.message == 'password authentication failed for user "s"'
    assert (fault.sqlstate, fault.severity, fault.detail, fault.hint) == (
        known_fault.sqlstate, known_fault.severity, None, None,
    )  # fmt: skip


def test_an_unknown_user_meets_the_same_salt_each_time():
    salts = {Conversation("unknown").to_final(scram.ScramClient(b"abc")).salt for _ in range(2)}
    others = {Conversation("another").to_final(scram.ScramClient(b"abc")).salt}
    assert len(salts) == 1
    assert salts != others


@pytest.mark.parametrize("user", ["unknown", "m", "m without", "m with plain"])
def test_md5_without_a_fitting_answer(user):
    talk = Conversation(user, default="md5")
    talk.to_md5()
    answer = md5.answer(md5.make_verifier(user, "wrong" if user == "m" else PASSWORD), b"\7" * 4)
    if user == "m with plain":
        answer = md5.answer(PASSWORD, b"\7" * 4)
    with pytest.raises(AuthenticationFailed, match=rf'^password authentication failed for user "{user}"$'):
        talk.answer(m.password(answer))


def test_no_second_try_after_a_wrong_proof():
    talk = Conversation("s")
    client = scram.ScramClient(b"abc")
    challenge = talk.to_final(client)
    with pytest.raises(AuthenticationFailed):
        talk.answer(m.sasl_response(client.final(challenge, scram.derive_keys("wrong", SALT, 4096))))
    assert talk.answer(m.sasl_response(client.final(challenge, KEYS))) is None
    assert talk.result is None


def test_a_final_message_for_another_user_is_wrong():
    client = scram.ScramClient(b"abc")
    challenge = Conversation("s").to_final(client)
    talk = Conversation("unknown")
    talk.to_final(client)
    with pytest.raises(AuthenticationFailed):
        talk.answer(m.sasl_response(client.final(challenge, KEYS)))


# -- messages out of place

WRONG = {
    # cut as a frame, a startup packet has type 0 and a length out of its middle
    "startup": (0, b"x" * 10, 0),
    "query": (ord("Q"), b"select 1\0", 81),
    "parse": (ord("P"), b"\0\0\0\0", 80),
    "sync": (ord("S"), b"", 83),
    "terminate": (ord("X"), b"", 88),
    "copy data": (ord("d"), b"x", 100),
}


def places():
    """A conversation brought to each place where the client speaks."""
    first = Conversation("s")
    first.to_sasl()
    final = Conversation("s")
    final.to_final(scram.ScramClient(b"abc"))
    password = Conversation("m")
    password.to_md5()
    return {"SASL": first, "final": final, "password": password}


@pytest.mark.parametrize(("place", "wrong"), list(itertools.product(["SASL", "final", "password"], WRONG)))
def test_other_messages_are_refused_at_every_place(place, wrong):
    kind, body, number = WRONG[wrong]
    talk = places()[place]
    expected = "password response" if place == "password" else "SASL response"
    with pytest.raises(ProtocolViolation) as caught:
        talk.next((kind, body))
    assert caught.value.message == f"expected {expected}, got message type {number}"
    assert talk.next((kind, body)) is None
    assert talk.result is None


@pytest.mark.parametrize("place", ["SASL", "final", "password"])
def test_messages_too_long_are_refused_at_every_place(place):
    bytes_max = 65_535 if place == "password" else 1024
    with pytest.raises(ProtocolViolation, match=r"^invalid message length$"):
        places()[place].next((ord("p"), b"x" * (bytes_max + 1)))


@pytest.mark.parametrize(
    ("place", "body", "message"),
    [
        ("SASL", b"", "invalid string in message"),
        ("SASL", b"SCRAM-SHA-256\0", "insufficient data left in message"),
        ("SASL", b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,", "insufficient data left in message"),
        ("SASL", b"SCRAM-SHA-256\0\0\0\0\1n,", "invalid message format"),
        ("SASL", b"SCRAM-SHA-1\0\0\0\0\0", "client selected an invalid SASL authentication mechanism"),
        ("SASL", b"SCRAM-SHA-256-PLUS\0\0\0\0\0", "client selected an invalid SASL authentication mechanism"),
        ("SASL", b"SCRAM-SHA-256\0\0\0\0\0", "malformed SCRAM message"),
        ("SASL", b"md5" + b"0" * 32 + b"\0", "insufficient data left in message"),
        ("final", b"", "malformed SCRAM message"),
        ("final", b"n,,n=*,r=abc", "malformed SCRAM message"),
        ("final", b"c=biws,r=abc,p=AAAA", "invalid SCRAM response"),
        ("password", b"", "invalid string in message"),
        ("password", b"md5\0x", "invalid password packet size"),
        ("password", b"n,,n=*,r=abc", "invalid string in message"),
    ],
)
def test_malformed_answers(place, body, message):
    with pytest.raises(ProtocolViolation) as caught:
        places()[place].next((ord("p"), body))
    assert (caught.value.message, caught.value.sqlstate) == (message, "08P01")


def test_the_driver_can_refuse_at_the_header():
    for kind, body_bytes in ((0, 8), (ord("Q"), 8), (ord("p"), 1025), (ord("p"), -1)):
        with pytest.raises(ValueError, match="message"):
            RECEIVE_SASL.admit(kind, body_bytes)
    RECEIVE_SASL.admit(ord("p"), 1024)


def test_secrets_do_not_show_in_text():
    shown = repr([policy(), *USERS.values()])
    assert "SCRAM-SHA-256$" not in shown
    assert "md5" + USERS["m"].verifier[3:] not in shown
    assert "process" not in shown
