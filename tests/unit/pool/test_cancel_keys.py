"""Cancel keys: each names one client, only with its secret, only while it lives."""

from __future__ import annotations

from pgcat_cluster.pool.cancel_keys import SECRET_BYTES, CancelKeys


class Chance:
    """Gives what a test wants to happen."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def __call__(self, count: int) -> bytes:
        return self.numbers.pop(0).to_bytes(count, "big")


def test_a_key_finds_its_owner_until_it_is_revoked() -> None:
    keys: CancelKeys[str] = CancelKeys(Chance(7, 0x01020304, 8, 0x01020304))
    assert keys.issue("one") == (7, b"\1\2\3\4")
    assert keys.issue("other") == (8, b"\1\2\3\4")
    assert len(keys) == 2
    assert keys.find(7, b"\1\2\3\4") == "one"
    keys.revoke(7)
    keys.revoke(7)
    assert keys.find(7, b"\1\2\3\4") is None
    assert keys.find(8, b"\1\2\3\4") == "other"
    assert len(keys) == 1


def test_a_wrong_secret_is_nobodys() -> None:
    keys: CancelKeys[str] = CancelKeys(Chance(7, 0x01020304))
    keys.issue("one")
    for secret in (b"", b"\1\2\3", b"\1\2\3\5", b"\1\2\3\4\0", b"\1\2\3\4" * 8):
        assert keys.find(7, secret) is None
    assert keys.find(0, b"\1\2\3\4") is None


def test_a_process_id_is_positive_and_never_in_use_twice() -> None:
    # Zero, zero with the sign bit, and one in use are thrown again.
    keys: CancelKeys[str] = CancelKeys(Chance(7, 1, 0, 0x80000000, 0x80000007, 0xFFFFFFFF, 2))
    assert keys.issue("one")[0] == 7
    assert keys.issue("other") == (0x7FFFFFFF, (2).to_bytes(SECRET_BYTES, "big"))
