"""A session's routing wishes: how each is set, where defaults come from, and what is refused."""

from __future__ import annotations

from typing import cast

import pytest

from pgcat_cluster.errors import Fault, InvalidParameter, InvalidText, OutOfRange, UnknownParameter
from pgcat_cluster.session.wishes import (
    NO_WISHES,
    Ground,
    Wishes,
    carried,
    check_known,
    check_settable,
    for_servers,
    shard_of_key,
    wishes_of,
    with_wish,
)
from pgcat_cluster.topology.model import Sharding, ShardMap

GROUND = Ground(shards=4, shard_of=lambda key: int(key) % 4, draw=lambda: 1_000_006)


def wish(wishes: Wishes, name: str, value: str | None, default: Wishes = NO_WISHES) -> Wishes:
    return with_wish(wishes, name, value, default=default, ground=GROUND)


@pytest.mark.parametrize(
    ("name", "value", "then"),
    [
        ("shard", "3", Wishes(shard=3)),
        ("shard", " +3 ", Wishes(shard=3)),
        ("shard", "003", Wishes(shard=3)),
        ("shard", "Any", Wishes(shard=2)),
        ("sharding_key", "-5", Wishes(shard=3, key="-5")),
        ("server_role", "REPLICA", Wishes(role="replica")),
        ("server_role", "auto", Wishes(role="auto")),
        ("primary_reads", "On", Wishes(reads=True)),
        ("primary_reads", "false", Wishes(reads=False)),
    ],
)
def test_a_wish(name: str, value: str, then: Wishes) -> None:
    assert wish(NO_WISHES, name, value) == then


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("shard", "4", "shard 4 is not configured 4, staying on shard Some(2) (shard numbers start at 0)"),
        ("shard", "-1", "shard -1 is not configured 4, staying on shard Some(2) (shard numbers start at 0)"),
        ("shard", "1.5", 'invalid value for parameter "pgcat.shard": "1.5"'),
        ("shard", "", 'invalid value for parameter "pgcat.shard": ""'),
        ("shard", "9" * 5000, f'invalid value for parameter "pgcat.shard": "{"9" * 5000}"'),
        ("server_role", "leader", 'invalid value for parameter "pgcat.server_role": "leader"'),
        ("primary_reads", "maybe", 'invalid value for parameter "pgcat.primary_reads": "maybe"'),
    ],
)
def test_a_value_that_can_not_be(name: str, value: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        wish(Wishes(shard=2), name, value)
    assert raised.value.message == text


def test_a_shard_out_of_range_where_none_was_set() -> None:
    with pytest.raises(InvalidParameter, match=r"shard 7 is not configured 4, staying on shard None \("):
        wish(NO_WISHES, "shard", "7")


def test_a_shard_and_a_key_replace_each_other() -> None:
    by_key = wish(wish(NO_WISHES, "shard", "1"), "sharding_key", "10")
    assert by_key == Wishes(shard=2, key="10")
    assert wish(by_key, "shard", "1") == Wishes(shard=1)


def test_a_default_is_what_the_session_began_with() -> None:
    default = Wishes(shard=1, key="1", role="replica", reads=True)
    changed = Wishes(shard=2, role="any", reads=False)
    assert wish(changed, "shard", None, default) == Wishes(shard=1, key="1", role="any", reads=False)
    assert wish(changed, "sharding_key", None, default) == Wishes(shard=1, key="1", role="any", reads=False)
    assert wish(changed, "server_role", None, default) == Wishes(shard=2, role="replica", reads=False)
    assert wish(changed, "primary_reads", None, default) == Wishes(shard=2, role="any", reads=True)


def test_one_wish_is_carried_and_no_other() -> None:
    one, other = Wishes(shard=1, key="1", role="any", reads=True), Wishes(shard=2, role="replica")
    assert carried("shard", one, other) == Wishes(shard=1, key="1", role="replica")
    assert carried("server_role", one, other) == Wishes(shard=2, role="any")
    assert carried("primary_reads", one, other) == Wishes(shard=2, role="replica", reads=True)


def test_sources_one_after_the_other() -> None:
    pool = wishes_of({"pgcat.server_role": "replica", "pgcat.shard": "1", "work_mem": "1"}, NO_WISHES, GROUND)
    assert pool == Wishes(shard=1, role="replica")
    assert wishes_of({"PgCat.Sharding_Key": "7", "TimeZone": "UTC"}, pool, GROUND) == Wishes(
        shard=3, key="7", role="replica"
    )
    assert for_servers({"pgcat.shard": "1", "PGCAT.x": "2", "work_mem": "1"}) == {"work_mem": "1"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("shrad", 'Perhaps you meant the configuration parameter "pgcat.shard".'),
        ("server_roll", 'Perhaps you meant the configuration parameter "pgcat.server_role".'),
        ("role", 'Perhaps you meant the configuration parameter "pgcat.server_role".'),
        ("zzz", "There are pgcat.shard, pgcat.sharding_key, pgcat.server_role, pgcat.primary_reads, pgcat."),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UnknownParameter) as raised:
        check_known(name)
    assert raised.value.message == f'unrecognized configuration parameter "pgcat.{name}"'
    assert (raised.value.hint or "").startswith(hint)
    with pytest.raises(UnknownParameter):
        wishes_of({f"pgcat.{name}": "1"}, NO_WISHES, GROUND)


@pytest.mark.parametrize("name", ["route", "consistency_token"])
def test_what_can_only_be_shown(name: str) -> None:
    check_known(name)
    with pytest.raises(Fault, match="cannot be changed"):
        check_settable(name)


def sharding(kind: str, key_type: str, **more: object) -> Sharding:
    options = {"name": "m", "kind": kind, "key_type": key_type, "shards": 5, **more}
    return Sharding(map=ShardMap(**cast("dict[str, object]", options)))  # type: ignore[arg-type]


def test_shards_of_keys() -> None:
    bigint = sharding("hash", "bigint")
    assert [shard_of_key(bigint, text) for text in ("1", "2", " 6 ", "+8", "9", "-1", "-5")] == [
        *(0, 1, 2, 3, 4, 4, 4)
    ]
    assert shard_of_key(sharding("sha1", "bigint", shards=12), "-1") == 1
    assert shard_of_key(sharding("modulo", "bigint"), "-1") == 4
    listed = sharding("list", "text", values={b"a": 1, b"b": 4})
    assert shard_of_key(listed, "b") == 4
    with pytest.raises(InvalidParameter, match="lies on no shard of map m"):
        shard_of_key(listed, "c")
    ranged = sharding("range", "integer", bounds=((0, 2), (10, 3), (20, -1)))
    assert [shard_of_key(ranged, text) for text in ("0", "9", "10")] == [2, 2, 3]
    for text in ("-1", "20"):
        with pytest.raises(InvalidParameter):
            shard_of_key(ranged, text)
    with pytest.raises(OutOfRange):
        shard_of_key(ranged, "2147483648")
    with pytest.raises(InvalidText):
        shard_of_key(sharding("hash", "uuid"), "5")
    assert shard_of_key(None, "12") == 0
