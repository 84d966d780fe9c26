"""Every kind of key: how it is written, and that it is read back."""

import pytest

from pgcat_cluster.agreement.keys import Keys, Kind, Named, name_of, node_id

KEYS = Keys("eu")

WRITTEN = [
    (KEYS.schema, "schema", Kind.SCHEMA, ()),
    (KEYS.config("fleet"), "config/fleet", Kind.CONFIG_FLEET, ()),
    (KEYS.config("clusters/main"), "config/clusters/main", Kind.CONFIG_CLUSTER, ("main",)),
    (KEYS.config("pools/app"), "config/pools/app", Kind.CONFIG_POOL, ("app",)),
    (KEYS.config("shardmaps/m"), "config/shardmaps/m", Kind.CONFIG_SHARDMAP, ("m",)),
    (KEYS.config("users/app"), "config/users/app", Kind.CONFIG_USER, ("app",)),
    (KEYS.server_override("main", "r2"), "override/main/r2", Kind.OVERRIDE_SERVER, ("main", "r2")),
    (KEYS.primary_override("main"), "override/main/_primary", Kind.OVERRIDE_PRIMARY, ("main",)),
    (KEYS.pool_override("app"), "override/_pool/app", Kind.OVERRIDE_POOL, ("app",)),
    (KEYS.freeze, "override/_fleet/freeze", Kind.OVERRIDE_FREEZE, ()),
    (KEYS.activate, "override/_fleet/activate", Kind.OVERRIDE_ACTIVATE, ()),
    (KEYS.accepted, "decided/accepted", Kind.ACCEPTED, ()),
    (KEYS.doc("9f3c"), "doc/9f3c", Kind.DOC, ("9f3c",)),
    (KEYS.history(41), "history/000000000041", Kind.HISTORY, ("000000000041",)),
    (KEYS.status_config, "status/config", Kind.STATUS_CONFIG, ()),
    (KEYS.status_activate, "status/command/_fleet", Kind.STATUS_ACTIVATE, ()),
    (KEYS.coord, "decided/coord", Kind.COORD, ()),
    (KEYS.ban("main", "r2", "fleet"), "decided/ban/main/r2/fleet", Kind.BAN, ("main", "r2", "fleet")),
    (
        KEYS.ban("main", "r2", "zone:A/1 é"),
        "decided/ban/main/r2/zone:A%2F1%20%C3%A9",
        Kind.BAN,
        ("main", "r2", "zone:A/1 é"),
    ),
    (KEYS.strikes("main", "r2"), "decided/strikes/main/r2", Kind.STRIKES, ("main", "r2")),
    (KEYS.timer("ban-b7e1"), "decided/timer/ban-b7e1", Kind.TIMER, ("ban-b7e1",)),
    (KEYS.seat("px-1"), "seat/px-1", Kind.SEAT, ("px-1",)),
    (KEYS.live("px-1.7f1a2b3c"), "live/px-1.7f1a2b3c", Kind.LIVE, ("px-1.7f1a2b3c",)),
    (KEYS.prefix(417), "prefix/0417", Kind.PREFIX, ("0417",)),
    (KEYS.ack("px-1.7f1a2b3c"), "ack/px-1.7f1a2b3c", Kind.ACK, ("px-1.7f1a2b3c",)),
    (KEYS.share("px-1.7f1a2b3c"), "share/px-1.7f1a2b3c", Kind.SHARE, ("px-1.7f1a2b3c",)),
    (
        KEYS.verdict("main", "r2", "px-1.7f1a2b3c"),
        "verdict/main/r2/px-1.7f1a2b3c",
        Kind.VERDICT,
        ("main", "r2", "px-1.7f1a2b3c"),
    ),
]


@pytest.mark.parametrize(("key", "below", "kind", "names"), WRITTEN)
def test_a_key_is_written_and_read_back(key: str, below: str, kind: Kind, names: tuple[str, ...]) -> None:
    assert key == f"/pgcat/eu/{below}"
    assert KEYS.below(key) == below
    assert KEYS.named(key) == Named(kind, names)


@pytest.mark.parametrize(
    "key",
    [
        "/pgcat/us/schema",
        "/pgcat/eu/",
        "/pgcat/eu/config/pool/app",
        "/pgcat/eu/config/pools",
        "/pgcat/eu/config/pools/",
        "/pgcat/eu/config/pools/app/more",
        "/pgcat/eu/override/_fleet/frieze",
        "/pgcat/eu/override/main/_primry",
        "/pgcat/eu/decided/accepted/",
    ],
)
def test_other_keys_name_nothing(key: str) -> None:
    assert KEYS.named(key) is None


def test_prefixes_hold_their_keys_alone() -> None:
    assert KEYS.ban("main", "r2", "fleet").startswith(KEYS.server_bans("main", "r2"))
    assert KEYS.server_bans("main", "r2").startswith(KEYS.cluster_bans("main"))
    assert KEYS.cluster_bans("main").startswith(KEYS.ban_prefix)
    assert not KEYS.ban("main", "r22", "fleet").startswith(KEYS.server_bans("main", "r2"))
    assert KEYS.verdict("main", "r2", "px-1.7f1a2b3c").startswith(KEYS.server_verdicts("main", "r2"))
    assert KEYS.server_override("main", "r2").startswith(KEYS.cluster_overrides("main"))
    assert KEYS.live("px-1.7f1a2b3c").startswith(KEYS.lives_of("px-1"))
    assert not KEYS.live("px-11.7f1a2b3c").startswith(KEYS.lives_of("px-1"))


def test_a_node_id_is_a_name_and_the_mark_of_one_life() -> None:
    assert node_id("px-1", bytes.fromhex("7f1a2b3c")) == "px-1.7f1a2b3c"
    assert name_of("px-1.7f1a2b3c") == "px-1"
