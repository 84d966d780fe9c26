"""SCRAM-SHA-256: the example of RFC 7677, another implementation as the other side, and hostile messages."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient as OtherClient
from scramp import ScramMechanism

from pgcat_cluster.errors import WireError
from pgcat_cluster.wire import scram
from pgcat_cluster.wire.scram import ScramClient, ScramServer

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = scram.derive_keys("pencil", SALT, 4096)
VERIFIER = scram.make_verifier("pencil", 4096, SALT)
BINDING = b"certificate hash of 32 bytes...."

# RFC 7677, section 3
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"


def server(client_first=CLIENT_FIRST, **choices) -> ScramServer:
    return ScramServer(client_first, **{"verifier": VERIFIER, "nonce": SERVER_NONCE} | choices)


# -- the example


def test_the_server_of_the_rfc():
    exchange = server()
    assert exchange.first == SERVER_FIRST
    proof = exchange.finish(CLIENT_FINAL)
    assert proof is not None
    assert (proof.message, proof.keys) == (SERVER_FINAL, KEYS)


def test_the_clients_part_proves_and_verifies():
    client = ScramClient(b"abc")
    assert (client.mechanism, client.first) == ("SCRAM-SHA-256", b"n,,n=*,r=abc")
    exchange = server(client.first)
    challenge = client.challenge(exchange.first)
    assert (challenge.salt, challenge.iterations) == (SALT, 4096)
    proof = exchange.finish(client.final(challenge, KEYS))
    assert proof is not None
    assert client.verify(proof.message)
    assert not client.verify(SERVER_FINAL)


def test_a_client_verifies_nothing_before_it_proved_itself():
    assert not ScramClient(b"abc").verify(b"v=")


# -- another implementation as the other side


@pytest.mark.parametrize("binding", [None, BINDING])
def test_our_server_with_another_client(binding):
    plus = binding is not None
    other = OtherClient(
        ["SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"],
        "user",
        "pencil",
        channel_binding=("tls-server-end-point", binding) if plus else None,
    )
    exchange = server(other.get_client_first().encode(), plus=plus, binding=binding)
    other.set_server_first(exchange.first.decode())
    proof = exchange.finish(other.get_client_final().encode())
    assert proof is not None
    other.set_server_final(proof.message.decode())


@pytest.mark.parametrize("binding", [None, BINDING])
@pytest.mark.parametrize("password", ["pencil", "I\u00adX", "\u00aa", " a b ", "p" * 1024])
def test_our_client_with_another_server(binding, password):
    plus = binding is not None
    mechanism = ScramMechanism("SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256")
    other = mechanism.make_server(
        lambda user: mechanism.make_auth_info(password, iteration_count=4096, salt=SALT),
        channel_binding=("tls-server-end-point", binding) if plus else None,
    )
    client = ScramClient(b"nonce", plus=plus, binding=binding)
    other.set_client_first(client.first.decode())
    challenge = client.challenge(other.get_server_first().encode())
    keys = scram.derive_keys(password, challenge.salt, challenge.iterations)
    other.set_client_final(client.final(challenge, keys).decode())
    assert client.verify(other.get_server_final().encode())


# -- channel binding


def test_a_client_that_sees_no_offer_of_plus_says_so():
    assert ScramClient(b"abc", binding=BINDING).first == b"y,,n=*,r=abc"
    assert ScramClient(b"abc", plus=True).first == b"n,,n=*,r=abc"
    plus = ScramClient(b"abc", plus=True, binding=BINDING)
    assert (plus.mechanism, plus.first) == ("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=*,r=abc")


@pytest.mark.parametrize(
    ("header", "plus", "binding"),
    [
        (b"y,,", False, BINDING),  # somebody took our offer away
        (b"y,,", True, BINDING),
        (b"n,,", True, BINDING),
        (b"p=tls-server-end-point,,", False, BINDING),
        (b"p=tls-server-end-point,,", False, None),
        (b"p=tls-unique,,", True, BINDING),
        (b"p=,,", True, BINDING),
        (b"x,,", False, None),
        (b",,", False, None),
        (b"n,a=admin,", False, None),
    ],
)
def test_headers_that_do_not_fit_are_refused(header, plus, binding):
    with pytest.raises(WireError):
        server(header + b"n=,r=abc", plus=plus, binding=binding)


@pytest.mark.parametrize(
    ("header", "plus", "binding"),
    [(b"n,,", False, None), (b"n,,", False, BINDING), (b"y,,", False, None)],
)
def test_headers_that_fit_and_must_be_repeated(header, plus, binding):
    exchange = server(header + b"n=,r=rOprNGfwEbeRWgbNEkqO", plus=plus, binding=binding)
    for other in (b"n,,", b"y,,", b"p=tls-server-end-point,,", b""):
        final = CLIENT_FINAL.replace(b"biws", base64.b64encode(other))
        if other == header:
            assert exchange.finish(final) is None  # well formed; its proof is for another conversation
        else:
            with pytest.raises(WireError):
                exchange.finish(final)


def test_wrong_binding_data_is_refused():
    client = ScramClient(b"abc", plus=True, binding=b"another certificate")
    exchange = server(client.first, plus=True, binding=BINDING)
    with pytest.raises(WireError):
        exchange.finish(client.final(client.challenge(exchange.first), KEYS))


# -- hostile messages


@pytest.mark.parametrize(
    "message",
    [
        b"", b",", b",,", b"n", b"n,", b"n,,", b"n,,n=,r=", b"n,,r=abc", b"n,,n=", b"n,,r=abc,n=",
        b"n,,n=,n=,r=abc", b"n,,n=,r=abc,r=abc", b"n,,n=,r=abc,x=1", b"n,,m=1,n=,r=abc", b"n,,n,r=abc",
        b"n,,n=,rabc", b"n,,n=,r=a\x7fc", b"n,,n=,r=a c", b"n,,n=,r=\xc3\xa9", b"n,,n=\0,r=abc",
        b"n,,n=,r=abc\0", b"n,,n=,r=abc,",
    ],
)  # fmt: skip
def test_malformed_first_messages(message):
    with pytest.raises(WireError):
        server(message)


NONCE = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
PROOF = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws",
        b"c=biws,r=" + NONCE,
        b"r=" + NONCE + b",c=biws,p=" + PROOF,
        b"c=biws,p=" + PROOF + b",r=" + NONCE,
        b"c=biws,r=" + NONCE + b",p=",
        b"c=biws,r=" + NONCE + b",p=" + PROOF[:-4],
        b"c=biws,r=" + NONCE + b",p=" + PROOF[:-1],
        b"c=biws,r=" + NONCE + b",p=" + PROOF + b"=",
        b"c=biws,r=" + NONCE + b",p=" + PROOF[:-2] + b"R=",  # another spelling of the same proof
        b"c=biws,r=" + NONCE + b",p=" + PROOF + b",",
        b"c=biws,r=" + NONCE + b",p=" + PROOF + b",p=" + PROOF,
        b"c=biws,r=" + NONCE + b",x=1,p=" + PROOF,
        b"c=biws,c=biws,r=" + NONCE + b",p=" + PROOF,
        b"c=,r=" + NONCE + b",p=" + PROOF,
        b"c=eSws,r=" + NONCE + b",p=" + PROOF,
        b"c=biws,r=" + NONCE[:-1] + b",p=" + PROOF,
        b"c=biws,r=" + NONCE + b"x,p=" + PROOF,
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO,p=" + PROOF,
        b"c=biws,r=" + SERVER_NONCE + b",p=" + PROOF,
        b"c=biws,r=,p=" + PROOF,
    ],
)
def test_malformed_final_messages(message):
    with pytest.raises(WireError):
        server().finish(message)


def test_a_proof_wrong_by_one_bit_is_wrong():
    proof = base64.b64decode(PROOF)
    for position in range(len(proof) * 8):
        wrong = bytearray(proof)
        wrong[position // 8] ^= 1 << position % 8
        message = b"c=biws,r=" + NONCE + b",p=" + base64.b64encode(wrong)
        assert server().finish(message) is None


@pytest.mark.parametrize(
    "message",
    [
        b"", b"r=abcd", b"r=abc,s=AAAA,i=1", b"r=xabcd,s=AAAA,i=1", b"r=abcd,s=,i=1", b"r=abcd,s=A,i=1",
        b"r=abcd,s=AAAA,i=0", b"r=abcd,s=AAAA,i=-1", b"r=abcd,s=AAAA,i=", b"r=abcd,s=AAAA,i=1_0",
        b"r=abcd,s=AAAA,i=1000001", b"r=abcd,s=AAAA,i=99999999999", b"r=abcd,s=AAAA,i=1,x=2",
        b"s=AAAA,r=abcd,i=1", b"r=abc\xff,s=AAAA,i=1", b"e=other-error",
    ],
)  # fmt: skip
def test_challenges_of_a_hostile_server(message):
    with pytest.raises(WireError):
        ScramClient(b"abc").challenge(message)


@pytest.mark.parametrize("message", [b"", b"v", b"v=!", b"e=invalid-proof", b"v=AAAA,x=1", b"v=AAAA\0"])
def test_last_messages_of_a_hostile_server(message):
    with pytest.raises(WireError):
        ScramClient(b"abc").verify(message)


hostile = st.lists(
    st.sampled_from([b"n", b"y", b"p=", b",", b"=", b"r=", b"c=", b"s=", b"i=", b"v=", b"biws", b"4096",
                     NONCE, PROOF, b"\0", b"\xff", b"rOprNGfwEbeRWgbNEkqO", b"tls-server-end-point"])
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=150)
@given(message=hostile, plus=st.booleans(), binding=st.sampled_from([None, BINDING]))
def test_any_message_is_refused_or_wrong(message, plus, binding):
    steps = [
        lambda: server(message, plus=plus, binding=binding),
        lambda: server().finish(message),
        lambda: ScramClient(b"rOprNGfwEbeRWgbNEkqO").challenge(message),
        lambda: ScramClient(b"abc").verify(message),
    ]
    for step in steps:
        try:
            step()
        except WireError:
            pass


# -- verifiers


def test_a_verifier_is_written_and_read():
    text = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert VERIFIER.to_text() == text
    assert scram.parse_verifier(text) == VERIFIER


GOOD = VERIFIER.to_text()


@pytest.mark.parametrize(
    "text",
    ["", "secret", "md5" + "a" * 32, GOOD + "x", GOOD[:-1], GOOD.replace("4096", "0"),
     GOOD.replace("4096", "x"), GOOD.replace("SHA-256", "SHA-1"), GOOD.replace("W22Z", "!!!!"),
     GOOD.replace(":wfPL", ":AAAAwfPL"),
     GOOD.replace("4096", "4096 "), GOOD.replace("$WG5d", "$\udcff")],
)  # fmt: skip
def test_what_is_no_verifier(text):
    with pytest.raises(ValueError):  # noqa: PT011
        scram.parse_verifier(text)


def test_a_mock_verifier_looks_real_stays_the_same_and_needs_the_secret():
    mock = scram.mock_verifier("x", b"secret", 4096)
    assert mock == scram.mock_verifier("x", b"secret", 4096)
    assert scram.parse_verifier(mock.to_text()) == mock
    assert len(mock.salt) == len(VERIFIER.salt)
    others = [scram.mock_verifier("x", b"other", 4096), scram.mock_verifier("y", b"secret", 4096)]
    assert mock.salt not in [other.salt for other in others]


def test_secrets_do_not_show_in_text():
    for value in (VERIFIER, KEYS):
        assert repr(value) in ("ScramVerifier(iterations=4096)", "ScramKeys()")
        assert str(value) == repr(value)


def test_a_nonce_is_printable():
    assert scram.make_nonce(b"\0" * scram.NONCE_BYTES) == b"A" * 24
