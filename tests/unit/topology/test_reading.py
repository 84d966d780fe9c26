"""The reader on whatever it is given: it answers with settings or with problems, never with another error."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcat_cluster.topology.reading import InvalidSettings, Problem, dotted, parse, read
from pgcat_cluster.topology.settings import Log, Pool, PoolUser, Settings

_KEYS = st.sampled_from(
    [
        "node",
        "fleet",
        "clusters",
        "pools",
        "users",
        "main",
        "app",
        "servers",
        "leadership",
        "tls",
        "listen",
        "size",
    ]
    + [
        "min_size",
        "host",
        "auth",
        "secret",
        "verifier",
        "admin_users",
        "health",
        "cluster",
        "parameters",
        "Ä",
        "",
    ]
)
_TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["1s", "64MiB", "app"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=30,
)


def _outcome(reading: Callable[[], Settings]) -> bool:
    """Whether reading ended well: with settings, or with problems of one line each."""
    try:
        return isinstance(reading(), Settings)
    except InvalidSettings as invalid:
        return bool(invalid.problems) and not any("\n" in line for line in invalid.lines())


@given(st.dictionaries(_KEYS, _TREES, max_size=5))
@settings(max_examples=150)
def test_any_tree_gives_settings_or_problems(tree: dict[str, object]) -> None:
    assert _outcome(lambda: read(tree, "x"))


# Documents of shards with anything in one place, or in several: rules meet what could not be read.
_SHARDED = {
    "clusters": {"s0": {"servers": {"r1": {"host": "a"}}}, "s1": {"servers": {"r1": {"host": "b"}}}},
    "users": {"app": {"auth": "trust"}},
    "shardmaps": {
        "l": {"kind": "list", "key": {"type": "bigint"}, "shards": 2, "values": {"1": 0, "2": 1}},
        "r": {
            "kind": "range",
            "key": {"type": "text"},
            "shards": 2,
            "ranges": {"low": {"to": "m", "shard": 0}, "high": {"from": "m", "shard": 1}},
        },
    },
    "pools": {
        "app": {
            "shards": {"map": "l", "clusters": {"0": "s0", "1": "s1"}, "databases": {"1": "d"}},
            "sharding": {
                "key": "id",
                "tables": {"t": {"key": "k"}},
                "reference": ["x"],
                "default_shard": 1,
                "shard_id_regex": "(.)",
            },
            "users": {"app": {}},
        }
    },
}
_VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 0, 2, 10**30, 1.5, "", "x", "l", "[", "0", [], [1], {}, {"0": 5}, {"x": {}}]
)


def _places(tree: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = (
        [place for key in tree for place in _places(tree[key], (*path, key))]
        if isinstance(tree, dict)
        else []
    )
    return [path, *inner] if path else inner


@given(st.lists(st.tuples(st.sampled_from(_places(_SHARDED)), _VALUES), min_size=1, max_size=3))
@settings(max_examples=300)
def test_shards_with_anything_among_them_give_settings_or_problems(
    edits: list[tuple[tuple[str, ...], object]],
) -> None:
    tree = copy.deepcopy(_SHARDED)
    for path, value in edits:
        here: Any = tree
        for key in path[:-1]:
            here = here.get(key) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here[path[-1]] = copy.deepcopy(value)
    assert _outcome(lambda: read(tree, "x"))


@given(st.text() | st.binary())
@settings(max_examples=200)
def test_any_text_gives_settings_or_problems(text: str | bytes) -> None:
    assert _outcome(lambda: parse(text, "x"))


def test_an_empty_file_is_a_node_with_defaults() -> None:
    assert parse("", "x") == Settings()


def test_a_whole_number_may_stand_for_a_number() -> None:
    assert parse("[fleet.health]\nself_suspect = 1", "x").fleet.health.self_suspect == 1


def test_what_is_said_is_kept() -> None:
    text = """
        node.log = { level = "debug" }
        clusters.main.servers.r1.host = "a"
        users.app.auth = "trust"
        pools.app = { size = 3, users = { app = { idle_timeout = "1m" } } }
    """
    settings = parse(text, "x")
    assert settings.node.log == Log(level="debug", format="text")
    assert settings.pools == {"app": Pool(size=3, users={"app": PoolUser(idle_timeout_s=60.0)})}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a = 1\nb = '\xff'", Problem("line 2", "is not UTF-8")),
        ("a = " + "[" * 100_000, Problem("", "is nested too deep")),
        ("a = [1 2]", Problem("line 1, column 8", "Unclosed array")),
    ],
)
def test_text_that_is_not_toml(text: str | bytes, problem: Problem) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse(text, "x")
    assert caught.value.problems == (problem,)


def test_paths_are_written_as_toml_writes_keys() -> None:
    assert dotted(("pools", "app", "listen", "[0]", "a b", "x-y_1")) == 'pools.app.listen[0]."a b".x-y_1'
