"""MD5 hashes and SASLprep, against values that PostgreSQL itself made."""

import pytest

from pgcat_cluster.wire import md5
from pgcat_cluster.wire.saslprep import prepared


def test_md5_as_postgresql_keeps_and_asks_it():
    verifier = md5.make_verifier("md5u", "md5pw")
    assert verifier == "md5abd9ad6b7b01ac4db370153e5cda71d7"
    assert md5.answer(verifier, b"abcd") == b"md5d5fc2c9827a57ad1f1b75541697f6b51"


@pytest.mark.parametrize("text", ["", "md5", "md5" + "g" * 32, "md5" + "a" * 31, "md5" + "a" * 33, "secret"])
def test_what_is_no_md5_verifier(text):
    assert not md5.is_verifier(text)


def test_a_mock_verifier_stays_the_same_and_needs_the_secret():
    mock = md5.mock_verifier("x", b"secret")
    assert md5.is_verifier(mock)
    assert mock == md5.mock_verifier("x", b"secret")
    assert mock != md5.mock_verifier("x", b"other")
    assert mock != md5.mock_verifier("y", b"secret")


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("", b""),
        ("plain %s' \\", b"plain %s' \\"),
        ("\x07\x7f", b"\x07\x7f"),  # ASCII is never touched
        (" spaces ", b" spaces "),
        ("a\u00a0b", b"a b"),
        ("a\u3000b", b"a b"),
        ("a\u200bb", b"a b"),  # in both tables: a space wins over nothing
        ("I\u00adX", b"IX"),
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        ("\ufb01", b"fi"),
        ("e\u0301", "é".encode()),
        ("é", "é".encode()),
        ("é\u0007", "é\u0007".encode()),  # prohibited: raw
        ("\u00ad", "\u00ad".encode()),  # nothing left: raw
        ("é\u0378", "é\u0378".encode()),  # unassigned: raw
        ("\u06271", "\u06271".encode()),  # right to left must end so: raw
        ("\u06271\u0628", "\u06271\u0628".encode()),
        ("\u0627a\u0628\u00a0", "\u0627a\u0628\u00a0".encode()),
        ("\udcff\u00a0", b"\xff\xc2\xa0"),  # no UTF-8: raw
    ],
)
def test_saslprep_as_postgresql_does_it(password, expected):
    assert prepared(password) == expected
