"""Cancel keys: each names one client, and the node that knows it; a forged one names nobody."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.agreement import cancels
from pgcat_cluster.agreement.cancels import (
    PREFIX_MAX,
    SLOT_BITS,
    SLOT_MAX,
    CancelKeys,
    Drop,
    FailureLimit,
    Neighbour,
    PrefixTable,
    boot_of,
    claim,
    prefix_of,
    prove,
    relay_of,
)
from pgcat_cluster.agreement.documents import Prefix
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Event, Put, Row, Transaction, absent

OLD, NEW = b"old" * 11, b"new" * 11
KEY = FleetKey([OLD])
BOOT = bytes.fromhex("0c9d11ee")
MINE = Prefix(node="px-1.7f1a2b3c", peer="192.0.2.1:6434")
OTHER = Prefix(node="px-2.0c9d11ee", peer="192.0.2.2:6434")
NONCE = b"n" * 16


def keys(fleet_key: FleetKey = KEY) -> CancelKeys[str]:
    return CancelKeys(random.Random(1).randbytes, fleet_key, BOOT)


def table(**known: Prefix) -> PrefixTable:
    made = PrefixTable(MINE.node)
    for prefix, holder in known.items():
        made.learn(int(prefix.removeprefix("p")), holder)
    return made


# -- keys


def test_a_key_finds_its_owner_until_it_is_revoked() -> None:
    given_out = keys()
    one, other = given_out.issue("one"), given_out.issue("other", minor=2)
    assert (one[0], other[0], len(given_out)) == (1, 2, 2)
    assert (given_out.find(*one), given_out.find(*other)) == ("one", "other")
    given_out.revoke(1)
    given_out.revoke(1)
    assert (given_out.find(*one), given_out.find(*other), len(given_out)) == (None, "other", 1)


@pytest.mark.parametrize(("minor", "size"), [(0, 4), (1, 4), (2, 32)])
def test_a_wrong_secret_is_nobodys(minor: int, size: int) -> None:
    given_out = keys()
    pid, secret = given_out.issue("one", minor)
    assert len(secret) == size
    wrong = [b"", secret[:-1], secret + b"\0", secret * 8, bytes([secret[0] ^ 1]) + secret[1:]]
    assert [given_out.find(pid, one) for one in wrong] == [None] * 5
    assert given_out.find(pid ^ 2, secret) is None


def test_slots_go_round_and_pass_over_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancels, "SLOT_MAX", 4)
    given_out = keys()
    assert [given_out.issue("")[0] for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(cancels.TooManyClients):
        given_out.issue("")
    for pid in (2, 3):
        given_out.revoke(pid)
    assert [given_out.issue("")[0] for _ in range(2)] == [2, 3]
    # Who is here keeps its key when the prefix changes.
    given_out.revoke(3)
    given_out.lead(9)
    pid, secret = given_out.issue("new")
    assert (pid, given_out.find(pid, secret)) == (9 << SLOT_BITS | 4, "new")


@given(st.integers(1, PREFIX_MAX), st.integers(0, 3), st.integers(0, 3))
def test_what_a_key_says_is_what_went_into_it(prefix: int, before: int, minor: int) -> None:
    given_out = keys()
    given_out.lead(prefix)
    for _ in range(before):
        given_out.issue("other")
    pid, secret = given_out.issue("one", minor)
    assert 0 < pid < 1 << 31
    assert (prefix_of(pid), pid & SLOT_MAX) == (prefix, before + 1)
    assert given_out.find(pid, secret) == "one"
    assert boot_of(KEY, pid, secret) == (BOOT if minor >= 2 else None)
    assert given_out.find_proven(pid, NONCE, prove(KEY, NONCE, pid, secret)) == "one"


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, (1 << 31) + 5, 0xFFFFFFFF])
def test_a_process_id_that_nobody_gives_out_has_no_prefix(pid: int) -> None:
    assert prefix_of(pid) == -1


@given(st.integers(0, 31), st.integers(1, 255))
def test_a_long_secret_that_was_altered_is_forged(position: int, flip: int) -> None:
    pid, secret = keys().issue("one", minor=2)
    altered = bytearray(secret)
    altered[position] ^= flip
    assert boot_of(KEY, pid, bytes(altered)) is None
    assert boot_of(KEY, pid + 1, secret) is None
    assert boot_of(FleetKey([NEW]), pid, secret) is None


@given(st.binary(min_size=0, max_size=64))
def test_a_proof_that_was_made_up_finds_nobody(proof: bytes) -> None:
    given_out = keys()
    pid, _ = given_out.issue("one")
    assert given_out.find_proven(pid, NONCE, proof) is None


def test_a_proof_holds_for_its_nonce_and_key_alone() -> None:
    given_out = keys()
    pid, secret = given_out.issue("one")
    other, other_secret = given_out.issue("other")
    proof = prove(KEY, NONCE, pid, secret)
    assert given_out.find_proven(pid, NONCE, proof) == "one"
    assert given_out.find_proven(other, NONCE, proof) is None
    assert given_out.find_proven(pid, b"m" * 16, proof) is None
    # Nonce, process id and secret have fixed places: none of their bytes can pass for another's.
    shifted = prove(KEY, NONCE[:-1], pid, secret)
    assert given_out.find_proven(pid, NONCE[:-1], shifted) is None
    assert given_out.find_proven(pid, NONCE, prove(KEY, NONCE, pid, other_secret)) is None


def test_the_key_changes_without_a_stop() -> None:
    here = keys()
    pid, secret = here.issue("one", minor=2)
    both = FleetKey([NEW, OLD])
    # The old line still verifies what it signed, and what others sign with it.
    assert boot_of(both, pid, secret) == BOOT
    here.fleet_key = both
    assert here.find_proven(pid, NONCE, prove(KEY, NONCE, pid, secret)) == "one"
    assert here.find_proven(pid, NONCE, prove(both, NONCE, pid, secret)) == "one"
    # New keys are signed by the new line.
    pid, secret = here.issue("two", minor=2)
    assert (boot_of(FleetKey([NEW]), pid, secret), boot_of(KEY, pid, secret)) == (BOOT, None)
    here.fleet_key = FleetKey([NEW])
    assert here.find_proven(pid, NONCE, prove(KEY, NONCE, pid, secret)) is None


# -- a prefix


def test_a_prefix_is_drawn_among_those_nobody_ever_had() -> None:
    known = {f"p{prefix}": OTHER for prefix in range(1, PREFIX_MAX + 1) if prefix not in (7, 9)}
    here = table(**known)
    here.vanished(3)
    assert [here.choose(draw) for draw in (0, 1, 2)] == [7, 9, 7]
    here.learn(7, OTHER)
    here.learn(9, OTHER)
    # Its node may only be cut off from the store: it is taken last.
    assert here.choose(5) == 3
    here.learn(3, OTHER)
    assert here.choose(5) == 0


def test_a_node_keeps_its_prefix_if_nobody_took_it() -> None:
    here = table(p7=MINE)
    assert here.choose(0, before=7) == 7
    here.vanished(7)
    assert here.choose(0, before=7) == 7
    here.learn(7, OTHER)
    assert here.choose(0, before=7) == 1
    assert here.choose(0, before=0) == 1


def test_a_claim_takes_a_prefix_that_nobody_has() -> None:
    transaction = claim(Keys("f"), 7, MINE, 5)
    value = b'{"node":"px-1.7f1a2b3c","peer":"192.0.2.1:6434"}'
    put = Put(key="/pgcat/f/prefix/0007", value=value, lease=5)
    assert transaction == Transaction(compares=(absent("/pgcat/f/prefix/0007"),), then=(put,))


def test_the_table_follows_the_store() -> None:
    here, names = table(), Keys("f")

    def event(key: str, value: bytes | None) -> Event:
        row = Row(key=key, value=value, create_revision=1, mod_revision=1) if value is not None else None
        return Event(key=key, row=row)

    here.apply(
        names,
        [
            event("/pgcat/f/prefix/0007", b'{"node":"px-2.0c9d11ee","peer":"192.0.2.2:6434","later":1}'),
            event("/pgcat/f/prefix/0008", b'{"node":5}'),
            event("/pgcat/f/prefix/x", b'{"node":"x"}'),
            event("/pgcat/f/live/px-2.0c9d11ee", b"{}"),
            event("/pgcat/other/prefix/0009", b'{"node":"x"}'),
            event("/pgcat/f/prefix/0010", None),
        ],
    )
    assert here.holders() == {7: OTHER}
    here.apply(names, [event("/pgcat/f/prefix/0007", None)])
    assert here.holders() == {7: OTHER}


# -- where a cancel goes


def test_a_cancel_goes_to_the_node_that_has_the_prefix() -> None:
    there = keys()
    there.lead(7)
    short, long = there.issue("one"), there.issue("two", minor=2)
    here = table(p7=OTHER)
    assert (here.destination(KEY, *short), here.destination(KEY, *long)) == (OTHER, OTHER)
    # A node cut off from the store is still found.
    here.vanished(7)
    assert here.destination(KEY, *short) == OTHER
    # Its next life knows nothing of these keys; a short one does not tell.
    reborn = Prefix(node="px-2.11111111", peer=OTHER.peer)
    here.learn(7, reborn)
    assert (here.destination(KEY, *short), here.destination(KEY, *long)) == (reborn, Drop.UNKNOWN)


@pytest.mark.parametrize(
    ("pid", "secret", "drop"),
    [
        (7 << SLOT_BITS | 1, b"x" * 32, Drop.FORGED),
        (7 << SLOT_BITS | 1, b"\1" + b"x" * 31, Drop.FORGED),
        (7 << SLOT_BITS | 1, b"x" * 5, Drop.FORGED),
        (7 << SLOT_BITS | 1, b"x" * 256, Drop.FORGED),
        (8 << SLOT_BITS | 1, b"abcd", Drop.UNROUTABLE),
        (9 << SLOT_BITS | 1, b"abcd", Drop.UNKNOWN),
        (5, b"abcd", Drop.UNKNOWN),
        (0, b"abcd", Drop.UNKNOWN),
        (0xFFFFFFFF, b"abcd", Drop.UNKNOWN),
    ],
)
def test_a_cancel_that_goes_nowhere(pid: int, secret: bytes, drop: Drop) -> None:
    assert table(p7=OTHER, p9=MINE).destination(KEY, pid, secret) is drop


def test_a_cancel_is_passed_on_once_and_never_back() -> None:
    here, pid = table(p7=OTHER, p9=MINE), 7 << SLOT_BITS | 1
    assert here.next_hop(pid, 1, "px-3.22222222") == OTHER
    assert here.next_hop(pid, 0, "px-3.22222222") is None
    assert here.next_hop(pid, 1, OTHER.node) is None
    assert here.next_hop(9 << SLOT_BITS | 1, 1, "px-3.22222222") is None
    assert here.next_hop(8 << SLOT_BITS | 1, 1, "px-3.22222222") is None


def test_a_node_of_another_zone_is_asked_to_pass_on() -> None:
    near, far, owner = (
        Neighbour(node=node, peer=f"{node}:1", zone=zone)
        for node, zone in [("near.1", "a"), ("far.1", "b"), (OTHER.node, "b")]
    )
    assert [relay_of([near, far, owner], "a", OTHER, draw) for draw in range(2)] == [far, far]
    assert relay_of([near, owner], "a", OTHER, 5) == near
    assert relay_of([owner], "a", OTHER, 5) is None


# -- how many may fail


def test_a_source_that_fails_too_often_is_not_listened_to() -> None:
    limit = FailureLimit()
    for _ in range(100):
        assert limit.admits("a", 10.0)
        limit.failed("a", 10.0)
    assert (limit.admits("a", 10.0), limit.admits("b", 10.0)) == (False, True)
    assert (limit.admits("a", 10.04), limit.admits("a", 10.06)) == (False, True)
    limit.failed("a", 10.06)
    assert (limit.admits("a", 10.07), limit.admits("a", 60.0)) == (False, True)


def test_a_node_on_which_too_many_fail_listens_to_nobody_for_a_moment() -> None:
    limit = FailureLimit()
    for number in range(1000):
        assert limit.admits(f"a{number}", 10.0)
        limit.failed(f"a{number}", 10.0)
    assert (limit.admits("new", 10.0), limit.admits("new", 10.01)) == (False, True)


def test_sources_do_not_pile_up() -> None:
    limit = FailureLimit()
    for number in range(FailureLimit.SOURCES_MAX + 10):
        limit.failed(f"a{number}", 10.0 + number)
    assert len(limit._sources) == FailureLimit.SOURCES_MAX
