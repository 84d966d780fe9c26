"""The fleet key: derivation by the RFC's own example, lines, and what is refused."""

from __future__ import annotations

import hmac

import pytest

from pgcat_cluster.agreement.fleet_key import FleetKey, FleetKeyUnusable, hkdf

ONE, TWO = b"1" * 32, b"2" * 40


def test_derivation_is_rfc_5869() -> None:
    # Test cases 1 and 3 of the RFC, as far as one block of output goes.
    salt, label = bytes(range(13)), bytes(range(0xF0, 0xFA))
    found = hkdf(b"\x0b" * 22, salt, label)
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert (
        hkdf(b"\x0b" * 22, b"", b"").hex()
        == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    )


def test_each_line_gives_two_keys_in_its_place() -> None:
    key = FleetKey.parse(f"\n {ONE.decode()}\r\n\n{TWO.decode()}")
    assert (key.peer, key.cancel) == (FleetKey([ONE, TWO]).peer, FleetKey([ONE, TWO]).cancel)
    assert len({*key.peer, *key.cancel}) == 4
    extracted = hmac.digest(bytes(32), TWO, "sha256")
    assert key.peer[1] == hmac.digest(extracted, b"pgcat peer 1\1", "sha256")
    assert key.cancel[1] == hmac.digest(extracted, b"pgcat cancel 1\1", "sha256")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("\n \n", "holds no key"),
        ("x" * 31, "key 1 is shorter than 32 bytes"),
        ("x" * 32 + "\n\nshort\n", "key 2 is shorter than 32 bytes"),
    ],
)
def test_a_key_that_is_none_is_refused_by_its_number(text: str, why: str) -> None:
    with pytest.raises(FleetKeyUnusable, match=f"^{why}$"):
        FleetKey.parse(text)


def test_a_key_does_not_show_itself() -> None:
    assert "1" * 8 not in repr(FleetKey([ONE]))
