"""Documents as a bundle: from a file into keys, what is different, what an edit puts, and what it takes away."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pgcat_cluster.agreement.bundles import (
    Difference,
    Judge,
    differences,
    digest_of,
    documents_of,
    edit,
    hash_of,
    judge,
    losses,
    masked,
)
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Delete, Put, Row, Transaction, absent, unchanged
from pgcat_cluster.topology.reading import InvalidSettings, parse
from pgcat_cluster.topology.settings import Settings

KEYS = Keys("eu")
FILE = """
[node]
name = "alone"

[fleet]
jury = 5

[clusters.main.servers]
r1 = { host = "a" }

[users.app]
auth = "trust"

[pools.app]
database = "Größe 2"
users = { app = {} }
"""


def test_a_file_becomes_documents_that_say_the_same() -> None:
    documents = documents_of(tomllib.loads(FILE))
    assert documents == {
        "fleet": b'{\n  "jury": 5\n}\n',
        "clusters/main": b'{\n  "servers": {\n    "r1": {\n      "host": "a"\n    }\n  }\n}\n',
        "users/app": b'{\n  "auth": "trust"\n}\n',
        "pools/app": '{\n  "database": "Größe 2",\n  "users": {\n    "app": {}\n  }\n}\n'.encode(),
    }
    settings = judge(documents).settings
    assert settings is not None
    alone = parse(FILE, "x")
    for table in ("fleet", "clusters", "users", "pools"):
        assert getattr(settings, table) == getattr(alone, table)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[pool.app]", "pool", "unknown table `pool`; did you mean `pools`?"),
        ("xyz = 1", "xyz", "unknown table `xyz`; there are: fleet, clusters, users, shardmaps, pools"),
        ("[shardmap.m]", "shardmap", "unknown table `shardmap`; did you mean `shardmaps`?"),
        ("pools = 1", "pools", "is not allowed; allowed: a table"),
        ("[pools]\napp = 1", "pools.app", "is not allowed; allowed: a table"),
    ],
)
def test_what_has_no_place_among_keys_is_refused(text: str, path: str, message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        documents_of(tomllib.loads(text))
    assert [(one.path, one.message) for one in caught.value.problems] == [(path, message)]


def test_what_toml_has_and_json_has_not_is_left_to_the_judge() -> None:
    assert documents_of(tomllib.loads("[pools.app]\nsize = 2020-01-01")) == {
        "pools/app": b'{\n  "size": "2020-01-01"\n}\n'
    }


def test_a_text_is_shown_as_it_is_unless_it_holds_a_secret() -> None:
    for text in (b"size = 3 # three", b"no [ document", b'secret = "file:app.secret"'):
        assert masked(text) == text
    assert (
        masked(b'verifier = "v"\nauth = "md5" # and more') == b'{\n  "verifier": "***",\n  "auth": "md5"\n}\n'
    )
    assert masked(b'{"probe":{"user":"x","PassWord":{"a":1}}}') == (
        b'{\n  "probe": {\n    "user": "x",\n    "PassWord": "***"\n  }\n}\n'
    )
    with pytest.raises(InvalidSettings):
        masked(b'verifier = "v')


def test_an_edit_is_cut_where_the_store_would_refuse_it() -> None:
    texts = {f"pools/p{number:03}": b"x" * 60_000 for number in range(40)}
    assert [len(one.then) for one in edit(KEYS, [], texts)] == [17, 17, 6]
    texts = {f"pools/p{number:03}": b"x" for number in range(140)}
    assert [len(one.then) for one in edit(KEYS, [], texts)] == [100, 40]


def test_a_digest_is_of_names_and_texts_and_not_of_their_order() -> None:
    docs = {"pools/a": hash_of(b"1"), "pools/b": hash_of(b"2")}
    assert digest_of(docs) == digest_of(dict(reversed(docs.items())))
    assert digest_of(docs) != digest_of({"pools/a": hash_of(b"2"), "pools/b": hash_of(b"1")})
    assert digest_of(docs) != digest_of({"pools/a": hash_of(b"1")})


def test_differences_are_told_setting_by_setting() -> None:
    before = {
        "pools/app": b'size = 3\nmode = "session"\nusers = { app = {} }',
        "users/app": b'verifier = "md5d41d8cd98f00b204e9800998ecf8427e"',
        "pools/old": b"size = 1",
        "fleet": b"jury = 5",
    }
    after = {
        "pools/app": b'{"mode":"session","size":4,"users":{"app":{},"b c":{"size":1}}}',
        "users/app": b'verifier = "md5d41d8cd98f00b204e9800998ecf8427f"',
        "fleet": b'{"jury":5}',
    }
    found = differences(before, after)
    assert found[:3] == (
        Difference("pools.app.size", "3", "4"),
        Difference('pools.app.users."b c".size', None, "1"),
        Difference("pools.old.size", "1", None),
    )
    assert [str(one) for one in found[:3]] == [
        "~ pools.app.size = 3 -> 4",
        '+ pools.app.users."b c".size = 1',
        "- pools.old.size = 1",
    ]
    assert str(found[3]) == "~ users.app.verifier = *** -> ***"
    assert len(found) == 4


def test_a_bundle_that_can_not_be_read_is_named() -> None:
    with pytest.raises(InvalidSettings) as caught:
        differences({"pools/app": b"[["}, {})
    assert str(caught.value).startswith("pools/app: ")


TEXTS = st.sampled_from(
    [
        b'servers = { r1 = { host = "a" } }',
        b'auth = "trust"',
        b'auth = "trust"\nuser = "same"',
        b"users = { a = {} }\ncluster = 'a'",
        b"users = { b = {} }\ncluster = 'b'\ndatabase = 'a'",
        b"users = {}",
        b"size = = 3",
        b"",
        b"v = 2",
    ]
)
NAMES = st.sampled_from(
    ["fleet", "clusters/a", "clusters/b", "users/a", "users/b", "pools/a", "pools/b", "pool/a", "pools/A"]
)


SOUND = {
    "clusters/a": b'servers = { r1 = { host = "a" } }',
    "clusters/b": b'servers = { r1 = { host = "a" } }',
    "users/a": b'auth = "trust"',
    "users/b": b'auth = "trust"',
    "pools/a": b"users = { a = {} }\ncluster = 'a'",
    "pools/b": b"users = { b = {} }\ncluster = 'b'",
}


@given(st.lists(st.dictionaries(NAMES, TEXTS | st.none(), max_size=2), max_size=8))
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_judge_that_remembers_finds_what_a_new_one_would(edits: list[dict[str, bytes | None]]) -> None:
    remembering = Judge()
    texts = dict(SOUND)
    for changed in ({}, *edits, SOUND):
        texts = {name: text for name, text in (texts | changed).items() if text is not None}
        docs = {name: hash_of(text) for name, text in texts.items()}
        assert remembering.judge(texts, docs) == judge(texts)


def row(name: str, revision: int, value: bytes) -> Row:
    return Row(key=KEYS.config(name), value=value, create_revision=2, mod_revision=revision)


def test_an_edit_puts_what_differs_and_only_if_nobody_else_did() -> None:
    rows = [row("pools/app", 5, b"a"), row("pools/old", 6, b"b"), row("users/app", 7, b"c")]
    texts = {"pools/app": b"A", "pools/new": b"n", "users/app": b"c", "clusters/main": b"m"}
    assert edit(KEYS, rows, texts) == (
        Transaction(
            compares=(
                absent(KEYS.config("clusters/main")),
                unchanged(rows[0]),
                absent(KEYS.config("pools/new")),
            ),
            then=(
                Put(key=KEYS.config("clusters/main"), value=b"m"),
                Put(key=KEYS.config("pools/app"), value=b"A"),
                Put(key=KEYS.config("pools/new"), value=b"n"),
            ),
        ),
    )
    (pruned,) = edit(KEYS, rows, texts, prune=True)
    assert pruned.then[-1] == Delete(key=KEYS.config("pools/old"))
    assert pruned.compares[-1] == unchanged(rows[1])
    assert edit(KEYS, rows, {"pools/app": b"a"}) == ()


def test_a_large_edit_is_cut_so_that_references_come_first() -> None:
    texts = {f"pools/p{index}": b"x" for index in range(150)} | {
        f"users/u{index}": b"x" for index in range(60)
    }
    parts = edit(KEYS, [], texts)
    assert [len(part.then) for part in parts] == [100, 100, 10]
    names = [KEYS.document(put.key) for part in parts for put in part.then]
    assert all(name.startswith("users/") for name in names[:60])
    removed = edit(KEYS, [row(name, 3, b"x") for name in sorted(texts)], {}, prune=True)
    first = [KEYS.document(operation.key) for operation in removed[0].then]
    assert all(name.startswith("pools/") for name in first)


def settings_of(servers: dict[str, int], pools: tuple[str, ...] = ()) -> Settings:
    tree = "".join(
        f"[clusters.{name}.servers]\n"
        + "".join(f'r{index} = {{ host = "{name}{index}" }}\n' for index in range(n))
        for name, n in servers.items()
    )
    users = '[users.u]\nauth = "trust"\n'
    first = next(iter(servers))
    tree += users + "".join(
        f'[pools.{name}]\ncluster = "{first}"\nusers = {{ u = {{}} }}\n' for name in pools
    )
    return parse(tree, "x")


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ({"a": 4}, {"a": 2}, {}),
        ({"a": 4}, {"a": 1}, {"clusters/a": "loses 3 of 4 servers"}),
        ({"a": 1, "b": 2}, {"b": 2}, {"clusters/a": "loses 1 of 1 servers"}),
        ({"a": 9, "b": 9}, {"a": 8, "b": 7}, {}),  # three of eighteen
        (
            {"a": 7, "b": 7},
            {"a": 6, "b": 5},
            {
                "clusters/a": "is part of a loss of 3 of 14 servers",
                "clusters/b": "is part of a loss of 3 of 14 servers",
            },
        ),
        ({"a": 15}, {"a": 12}, {}),  # exactly a fifth
        ({"a": 2}, {"a": 5}, {}),
    ],
)
def test_losses_of_servers(before: dict[str, int], after: dict[str, int], lost: dict[str, str]) -> None:
    assert losses(settings_of(before), settings_of(after)) == lost


def test_losses_of_pools() -> None:
    before, after = settings_of({"a": 1}, ("x", "y")), settings_of({"a": 1}, ("y", "z"))
    assert losses(before, after) == {"pools/x": "is removed"}


def test_losses_of_shard_maps() -> None:
    document = b'kind = "hash"\nkey = { type = "bigint" }\nshards = 2'
    before, after = judge({"shardmaps/m": document}).settings, judge({}).settings
    assert before is not None
    assert after is not None
    assert losses(before, after) == {"shardmaps/m": "is removed"}


def many(count: int, size: int = 1) -> dict[str, bytes]:
    """Documents of so many users and pools, with a cluster for all of them."""
    documents = {"clusters/main": b'servers = { r1 = { host = "a" } }'}
    for number in range(count):
        documents[f"users/u{number}"] = b'auth = "trust"'
        documents[f"pools/u{number}"] = f"size = {size + number}\nusers = {{ u{number} = {{}} }}".encode()
    return documents


def test_many_documents_are_read_in_portions_and_only_what_changed_is_read_again() -> None:
    documents = many(100)
    docs = {name: hash_of(text) for name, text in documents.items()}
    judge_of_many = Judge()
    assert len(list(judge_of_many.portions(documents, docs))) == 5
    assert judge_of_many.judge(documents, docs) == judge(documents)
    for edited in (many(100) | {"users/u0": b'auth = "md5"'}, many(19, size=7) | documents, {**documents}):
        docs = {name: hash_of(text) for name, text in edited.items()}
        assert list(judge_of_many.portions(edited, docs)) == []
        assert judge_of_many.judge(edited, docs) == judge(edited)


def test_portions_end_whatever_is_wrong() -> None:
    documents = {f"pools/u{number}": b"\xff" if number % 2 else b"size = 0" for number in range(100)}
    documents |= {"pools/BAD": b"", "x": b""}
    docs = {name: hash_of(text) for name, text in documents.items()}
    judge_of_many = Judge()
    assert len(list(judge_of_many.portions(documents, docs))) == 2
    assert judge_of_many.judge(documents, docs) == judge(documents)
