"""What sharded pools and shard maps resolve to, and the keys that documents write."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.sql.key_rules import KeyRules, Kind
from pgcat_cluster.topology.model import PoolKey, Sharding, ShardMap, Topology, build
from pgcat_cluster.topology.reading import parse
from pgcat_cluster.topology.sharding_keys import Key, KeyType, read_key
from pgcat_cluster.topology.showing import parts_in_force, rows_in_force, shown_lines
from pgcat_cluster.topology.sql_names import TABLE, canonical_name

PLACES = """
clusters.s00.servers.r1.host = "a"
clusters.s01.servers.r1.host = "b"
users.app.auth = "trust"
pools.app.users.app = {}
"""
LYING = 'pools.app.shards.clusters = { 0 = "s00", 1 = "s01" }\n'


def built(text: str) -> Topology:
    return build(parse(PLACES + text, "x"))


def sharding_of(text: str) -> Sharding:
    sharding = built(LYING + text).pools[PoolKey("app", "app")].sharding
    assert sharding is not None
    return sharding


def map_of(text: str) -> ShardMap:
    return built(f"{LYING}shardmaps.m = {{ shards = 3, {text} }}").shardmaps["m"]


def test_without_a_map_it_is_a_hash_over_bigint_with_a_shard_for_each_place() -> None:
    unnamed = ShardMap(name="", kind="hash", key_type="bigint", shards=2)
    assert sharding_of("") == Sharding(map=unnamed)


def test_a_pool_in_one_cluster_has_no_sharding() -> None:
    topology = built('pools.app.cluster = "s00"')
    assert topology.pools[PoolKey("app", "app")].sharding is None


MAP = 'shardmaps.m = { kind = "pg_bigint_hash", key = { column = "Id", type = "bigint" }, shards = 2 }\n'
USING = MAP + 'pools.app.shards.map = "m"\n'


def test_the_key_of_all_tables_is_the_pools_word_before_the_maps() -> None:
    assert sharding_of(USING).map == ShardMap(name="m", kind="hash", key_type="bigint", shards=2)
    assert sharding_of(USING).key == "id"
    assert sharding_of(USING + 'pools.app.sharding.key = "Customer_ID"').key == "customer_id"
    assert sharding_of(USING + 'pools.app.sharding.key = ""').key == ""


def test_how_the_shard_is_told_is_as_said_with_names_in_one_form() -> None:
    said = sharding_of(
        """
        [pools.app.sharding]
        tables.'Public."Orders"' = { key = "Customer" }
        tables.'Items' = { key = '"Customer"' }
        reference = ["Countries", "countries"]
        otherwise = "default_shard"
        default_shard = "random"
        sticky_comments = true
        shard_id_regex = '/\\* shard_id: (\\d+) \\*/'
        regex_search_limit = "2KiB"
        """
    )
    assert said == Sharding(
        map=said.map,
        tables={'public."Orders"': "customer", "items": '"Customer"'},
        reference=frozenset({"countries"}),
        otherwise="default_shard",
        default_shard="random",
        sticky_comments=True,
        shard_id_regex=r"/\* shard_id: (\d+) \*/",
        regex_search_limit_bytes=2048,
    )


def test_a_list_has_the_shard_of_each_key() -> None:
    assert map_of('kind = "list", key.type = "smallint", values = { 7 = 0, -8 = 2 }').values == {7: 0, -8: 2}
    assert map_of('kind = "list", key.type = "text", values = { "é" = 1, "" = 0 }').values == {
        "é".encode(): 1,
        b"": 0,
    }


@pytest.mark.parametrize(
    ("ranges", "bounds"),
    [
        ("{ all = { shard = 1 } }", ((-(1 << 63), 1),)),
        ("{ a = { to = 10, shard = 0 }, b = { from = 10, shard = 1 } }", ((-(1 << 63), 0), (10, 1))),
        # Between two ranges, and beyond the last, keys have no shard.
        (
            "{ high = { from = 20, to = 30, shard = 2 }, low = { from = -5, to = 10, shard = 2 } }",
            ((-5, 2), (10, -1), (20, 2), (30, -1)),
        ),
    ],
)
def test_ranges_are_bounds_in_their_order(ranges: str, bounds: tuple[tuple[Key, int], ...]) -> None:
    assert map_of(f'kind = "range", key.type = "integer", ranges = {ranges}').bounds == bounds


UUID = "6a0e6c52-1f6a-4a55-9c0e-0c3b0f5d7a11"
DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("key_type", "said", "key"),
    [
        ("bigint", 5, 5),
        ("bigint", "-9223372036854775808", -(1 << 63)),
        ("smallint", "032767", 32767),
        ("text", 5, b"5"),
        ("varchar", "Größe ", "Größe ".encode()),
        ("uuid", UUID.upper(), bytes.fromhex(UUID.replace("-", ""))),
        ("timestamp", "2000-01-01", 0),
        ("timestamp", "1999-12-31T23:59:59.5", -500_000),
        ("timestamp", "2000-03-01 00:00", 60 * DAY),
        ("timestamp", "2024-02-29", 8825 * DAY),
        ("timestamp", "0001-01-01", -730119 * DAY),
        ("timestamp", "9999-12-31 23:59:59.999999", 2921940 * DAY - 1),
        ("timestamptz", "2000-01-01 01:30+01:30", 0),
        ("timestamptz", "2000-01-01 00:00:00-0130", 5_400_000_000),
        ("timestamptz", "2000-01-02Z", DAY),
    ],
)
def test_a_key_as_it_is_compared(key_type: KeyType, said: int | str, key: Key) -> None:
    assert read_key(key_type, said) == key


@pytest.mark.parametrize(
    ("key_type", "said"),
    [
        ("bigint", "9223372036854775808"),
        ("smallint", 32768),
        *(("integer", said) for said in ("", " 1", "1.0", "0x1", "1_000", "--1", "\u0661", "9" * 5000)),
        *(("uuid", said) for said in ("", UUID + "0", "{" + UUID + "}", UUID.replace("-", ""))),
        *(
            ("timestamp", said)
            for said in ("", "infinity", "2023-02-29", "1900-02-29", "2000-13-01", "2000-00-01")
        ),
        *(
            ("timestamp", said)
            for said in ("2000-01-00", "0000-01-01", "2000-01-01 24:00", "2000-01-01 00:60")
        ),
        *(
            ("timestamp", said)
            for said in ("2000-01-01 00:00:60", "2000-01-01 00:00:00.1234567", "2000-01-01Z", 5)
        ),
        *(("timestamptz", said) for said in ("2000-01-01", "2000-01-01 00:00+16", "2000-01-01 00:00 Z")),
    ],
)
def test_what_is_no_key_of_the_type(key_type: KeyType, said: int | str) -> None:
    with pytest.raises(ValueError, match=r"^a "):
        read_key(key_type, said)


@pytest.mark.parametrize(
    ("said", "canonical"),
    [
        ("Orders", "orders"),
        ('"orders"', "orders"),
        ('"Orders"', '"Orders"'),
        ('Sales."A ""b"""', 'sales."A ""b"""'),
        ('"a"."b.c"', 'a."b.c"'),
        ("ÄPFEL", "Äpfel"),
        ("", ""),
    ],
)
def test_a_name_in_its_one_form(said: str, canonical: str) -> None:
    assert canonical_name(said) == canonical
    assert canonical_name(canonical) == canonical


_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(_NAMES, _NAMES)
def test_who_finds_keys_finds_every_table_that_may_be_said(schema: str, table: str) -> None:
    said = ".".join('"' + name.replace('"', '""') + '"' for name in (schema, table))
    assert re.fullmatch(TABLE, said)
    rules = KeyRules("", {canonical_name(said): "id"})
    assert rules.placement(schema, table).kind is Kind.SHARDED or schema.startswith("pg_temp")


def test_a_sharded_pool_is_shown_with_all_that_is_in_force() -> None:
    text = PLACES + LYING + USING + 'pools.app.server_database = "d"\npools.app.shards.databases.1 = "e"'
    shown = [line for line in shown_lines(parse(text, "x")) if line.startswith(("pools", "shardmaps"))]
    assert [line for line in shown if ".users." not in line] == [
        "pools.app.v = 1",
        'pools.app.database = "app"',
        'pools.app.shards.map = "m"',
        'pools.app.shards.clusters.0 = "s00"',
        'pools.app.shards.clusters.1 = "s01"',
        'pools.app.shards.databases.0 = "d"',
        'pools.app.shards.databases.1 = "e"',
        'pools.app.sharding.key = "id"',
        "pools.app.sharding.tables = {}",
        "pools.app.sharding.reference = []",
        'pools.app.sharding.otherwise = "refuse"',
        "pools.app.sharding.default_shard = 0",
        "pools.app.sharding.sticky_comments = false",
        'pools.app.sharding.regex_search_limit = "1000B"',
        "shardmaps.m.v = 1",
        'shardmaps.m.kind = "pg_bigint_hash"',
        'shardmaps.m.key.column = "Id"',
        'shardmaps.m.key.type = "bigint"',
        "shardmaps.m.shards = 2",
        "shardmaps.m.values = {}",
        "shardmaps.m.ranges = {}",
        'shardmaps.m.cutover = "barrier"',
    ]


def test_what_is_in_force_in_a_sharded_pool_has_its_rows() -> None:
    topology = built(LYING + USING)
    parts = dict(parts_in_force(topology))
    pool = ("pools", "app", "users", "app")
    rows = {path[4:]: rest for path, *rest in rows_in_force(pool, parts[pool])}
    assert {path: rest for path, rest in rows.items() if path[0] in ("cluster", "shards")} == {
        ("shards", "map"): ["m", ""],
        ("shards", "clusters", "0"): ["s00", ""],
        ("shards", "clusters", "1"): ["s01", ""],
        ("shards", "databases", "0"): ["app", ""],
        ("shards", "databases", "1"): ["app", ""],
    }
    assert rows["sharding", "key"] == ["id", ""]
    assert rows["sharding", "otherwise"] == ["refuse", "refuse"]
    rows_of_map = rows_in_force(("shardmaps", "m"), parts["shardmaps", "m"])
    assert (("shardmaps", "m", "kind"), "pg_bigint_hash", "") in rows_of_map
