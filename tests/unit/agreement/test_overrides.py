"""What operators wrote below `override/`: read as a whole, and nothing unreadable lost without a word."""

from __future__ import annotations

import pytest

from pgcat_cluster.agreement.documents import PoolOverride, ServerOverride
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.overrides import Doubt, Overrides, read, removes
from pgcat_cluster.agreement.transactions import Row

KEYS = Keys("f")


def overrides(**values: str) -> Overrides:
    rows = [
        Row(
            key=f"{KEYS.override}{key.replace('__', '/')}",
            value=value.encode(),
            create_revision=number,
            mod_revision=number,
        )
        for number, (key, value) in enumerate(values.items(), 1)
    ]
    return read(rows, KEYS, servers={("main", "r1")}, pools={"app"})


def test_one_word_json_and_toml_mean_the_same() -> None:
    said = {"action": "ban", "reason": "disk", "force": True}
    expected = ServerOverride(action="ban", reason="disk", force=True)
    assert overrides(main__r1="drain").servers == {("main", "r1"): ServerOverride(action="drain")}
    for text in (
        str(said).replace("'", '"').replace("True", "true"),
        'action = "ban"\nreason = "disk"\nforce = true',
    ):
        found = overrides(main__r1=text)
        assert found.servers == {("main", "r1"): expected}
        assert found.doubts == ()
        assert found.of_cluster("main") == {"r1": expected}
        assert found.of_cluster("other") == {}


def test_pools_pause_and_reconnect() -> None:
    before = overrides(_pool__app='{"reconnect": 1}')
    after = overrides(_pool__app='{"action": "pause", "reconnect": 2}')
    assert after.pools == {"app": PoolOverride(action="pause", reconnect=2)}
    assert after.paused_at == {"app": 1}
    assert after.reconnected_since(before) == ["app"]
    assert after.reconnected_since(after) == []
    assert before.reconnected_since(Overrides()) == ["app"]


@pytest.mark.parametrize("value", ["on", "off", "", "{", "\x00"])
def test_the_fleet_is_frozen_whatever_the_value_is(value: str) -> None:
    assert overrides(_fleet__freeze=value).is_frozen
    assert not overrides().is_frozen


def test_what_is_unknown_is_kept_and_what_is_unreadable_is_told() -> None:
    found = overrides(main__r9="ban", main__r1="bann", main__r1__x="ban", _pool__app="[", _fleet__else="on")
    assert found.servers == {("main", "r9"): ServerOverride(action="ban")}
    assert [doubt.key.removeprefix(KEYS.override) for doubt in found.doubts] == [
        "main/r9", "main/r1", "main/r1/x", "_pool/app", "_fleet/else",
    ]  # fmt: skip
    assert found.doubts[0] == Doubt(KEYS.override + "main/r9", "names nothing that exists now")
    assert found.doubts[2].message == "is no override"


def test_all_but_a_pin_take_a_server_out() -> None:
    words = ("ban", "drain", "ignore", "pin")
    assert [removes(ServerOverride(action=word)) for word in words] == [True, True, True, False]
    assert not removes(None)
