"""Every way in which desired documents can be wrong, with the exact words that the operator reads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.agreement.bundles import Wrong, findings, judge
from pgcat_cluster.agreement.documents import VALUE_BYTES_MAX, encode
from tests.support.edits import DOCUMENTS

_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()))
_WORDS = st.sampled_from(
    ["users", "app", "size", "servers", "r1", "host", "v", "health", "secret", "parameters"]
)
_TREES = st.recursive(
    _LEAVES, lambda one: st.one_of(st.lists(one), st.dictionaries(_WORDS | st.text(st.characters()), one))
)
# Words of ours with anything behind them; and sound documents with something in the middle.
_JSON = st.dictionaries(_WORDS, _TREES).map(lambda tree: json.dumps(tree).encode())
_CUT = st.builds(
    lambda text, at, what: text[:at] + what + text[at:],
    st.sampled_from(sorted(DOCUMENTS.values())),
    st.integers(0, 60),
    st.binary(max_size=4),
)

LATER = "which this version does not have"

WRONG: list[tuple[str, dict[str, bytes], list[tuple[str, str, str]]]] = [
    (
        "unknown field",
        {"pools/app": b"users = { app = {} }\nsizee = 3"},
        [("pools/app", "sizee", "unknown key `sizee`; did you mean `size`?")],
    ),
    (
        "unknown field in the middle",
        {"fleet": b"[health]\nintervall = '1s'"},
        [("fleet", "health.intervall", "unknown key `intervall`; did you mean `interval`?")],
    ),
    (
        "wrong type",
        {"pools/app": b'users = { app = {} }\nsize = "3"'},
        [("pools/app", "size", '"3" is not allowed; allowed: a whole number, from 1 to 1000000')],
    ),
    (
        "a number where a table is due",
        {"pools/app": b"users = 3"},
        [("pools/app", "users", "3 is not allowed; allowed: a table")],
    ),
    (
        "out of range",
        {"fleet": b'ttl = "2s"'},
        [
            (
                "fleet",
                "ttl",
                '"2s" is not allowed; allowed: a duration such as "250ms", "6s", "5m", "1h", from 5s to 30s',
            )
        ],
    ),
    (
        "not one of the words",
        {"fleet": b'activation = { policy = "most" }'},
        [
            (
                "fleet",
                "activation.policy",
                '"most" is not allowed; allowed: "immediate", "majority", "unanimous"',
            )
        ],
    ),
    (
        "missing field",
        {"pools/app": b"size = 3"},
        [("pools/app", "users", "is missing; allowed: a table")],
    ),
    (
        "dangling cluster",
        {"pools/app": b'cluster = "mian"\nusers = { app = {} }'},
        [("pools/app", "cluster", 'cluster "mian" does not exist; did you mean "main"?')],
    ),
    (
        "dangling user",
        {"pools/app": b"users = { nobody = {} }"},
        [("pools/app", "users.nobody", 'user "nobody" does not exist; there are: app')],
    ),
    (
        "dangling primary",
        {
            "clusters/main": b'leadership = { source = "static", primary = "r9" }\nservers = { r1 = { host = "a" } }'
        },
        [("clusters/main", "leadership.primary", 'server "r9" does not exist; there are: r1')],
    ),
    (
        "duplicate server",
        {"clusters/main": b'servers = { r1 = { host = "a" }, r2 = { host = "A" } }'},
        [("clusters/main", "servers.r2", "has the address of server r1, A:5432")],
    ),
    (
        "min_healthy beyond all servers",
        {"clusters/main": b'min_healthy = 2\nservers = { r1 = { host = "a" } }'},
        [("clusters/main", "min_healthy", "2 is more than the number of servers, 1")],
    ),
    (
        "the same pool twice",
        {"pools/two": b'database = "app"\nusers = { app = {} }'},
        [("pools/two", "users.app", 'database "app" has this user in pools.app already')],
    ),
    (
        "the same user twice",
        {"users/two": b'auth = "trust"\nuser = "app"'},
        [("users/two", "user", '"app" is the name of users.app already')],
    ),
    (
        "a user without password",
        {"users/app": b"{}"},
        [
            (
                "users/app",
                "",
                'has no password; auth "scram-sha-256" needs secret = "file:NAME" or verifier = "…"',
            )
        ],
    ),
    (
        "a clear password",
        {"clusters/main": b'servers = { r1 = { host = "a" } }\nprobe = { user = "p", password = "x" }'},
        [
            (
                "clusters/main",
                "probe.password",
                "a clear password does not belong in a document; put it in a file and write "
                'secret = "file:NAME", or in the environment and write secret = "env:NAME"',
            )
        ],
    ),
    (
        "min_size above size",
        {"pools/app": b"users = { app = { min_size = 30 } }\nsize = 10"},
        [("pools/app", "users.app.min_size", "30 is more than size, 10")],
    ),
    (
        "a key of an unknown kind",
        {"pool/app": b"size = 3"},
        [("pool/app", "", "no document has such a key; did you mean config/pools/?")],
    ),
    (
        "a key beside all kinds",
        {"x": b"size = 3"},
        [("x", "", "no document has such a key; there are: fleet, clusters/, users/, shardmaps/, pools/")],
    ),
    (
        "a kind without a name",
        {"pools": b"size = 3"},
        [("pools", "", "no document has such a key; did you mean config/pools/?")],
    ),
    (
        "a wrong name in a key",
        {"pools/App": b"size = 3"},
        [("pools/App", "", "the name in the key is not allowed; allowed: 1 to 63 of a-z, 0-9 and -")],
    ),
    (
        "empty value",
        {"pools/app": b" \n"},
        [("pools/app", "", "is empty; delete the key instead")],
    ),
    (
        "invalid UTF-8",
        {"pools/app": b"size = 3\n# \xff"},
        [("pools/app", "line 2", "is not UTF-8")],
    ),
    (
        "invalid UTF-8 in JSON",
        {"pools/app": b'{"size":\n"\xff"}'},
        [("pools/app", "line 2", "is not UTF-8")],
    ),
    (
        "broken TOML",
        {"pools/app": b"size = = 3"},
        [("pools/app", "line 1, column 8", "Invalid value")],
    ),
    (
        "broken JSON",
        {"pools/app": b'{"size" 3}'},
        [("pools/app", "line 1, column 9", "Expecting ':' delimiter")],
    ),
    (
        "a key twice in JSON",
        {"pools/app": b'{"users":{"app":{}},"size":3,"size":4}'},
        [("pools/app", "", 'key "size" stands twice in one object')],
    ),
    (
        "nothing where a value is due",
        {"pools/app": b'{"users":{"app":{}},"size":null}'},
        [("pools/app", "size", "null is not allowed; allowed: a whole number, from 1 to 1000000")],
    ),
    (
        "too large",
        {"pools/app": b"#" * (VALUE_BYTES_MAX + 1)},
        [("pools/app", "", "is too large: 65537 bytes of 65536")],
    ),
    (
        "a number beyond reason",
        {"pools/app": b"users = { app = {} }\nsize = 100000000000000000000"},
        [
            (
                "pools/app",
                "size",
                "100000000000000000000 is not allowed; allowed: a whole number, from 1 to 1000000",
            )
        ],
    ),
    (
        "a number of thousands of digits",
        {"pools/app": b"size = " + b"9" * 5000},
        [("pools/app", "", "has a number of thousands of digits")],
    ),
    (
        "a number of thousands of digits in JSON",
        {"users/app": b'{"v":' + b"9" * 5000 + b"}"},
        [("users/app", "", "has a number of thousands of digits")],
    ),
    (
        "no finite number",
        {"pools/app": b'{"users":{"app":{}},"size":1e999}'},
        [("pools/app", "size", "Infinity is not allowed; allowed: a whole number, from 1 to 1000000")],
    ),
    (
        "half a character in JSON",
        {"pools/app": b'{"users":{"app":{}},"database":"\\ud800x"}'},
        [("pools/app", "", "\\ud800 is half of a pair, and no character by itself")],
    ),
    (
        "a byte order mark",
        {"pools/app": b"\xef\xbb\xbfusers = { app = {} }"},
        [("pools/app", "line 1", "begins with a byte order mark; save it without")],
    ),
    (
        "a key twice in TOML",
        {"pools/app": b"users = { app = {} }\nsize = 3\nsize = 4\nmode = 'session'"},
        [("pools/app", "line 3, column 9", "this key is there already")],
    ),
    (
        "nested too deep",
        {"pools/app": b'{"a":' * 10000},
        [("pools/app", "", "is nested too deep")],
    ),
    (
        "unknown schema version",
        {"pools/app": b'v = 2\nusers = { app = {} }\nglow = "bright"'},
        [("pools/app", "v", f"needs feature config-2, {LATER}")],
    ),
    (
        "a version that is none",
        {"pools/app": b"v = 0\nusers = { app = {} }"},
        [("pools/app", "v", "0 is not allowed; allowed: 1")],
    ),
    (
        "a later source",
        {"clusters/main": b'leadership = { source = "patroni" }\nservers = { r1 = { host = "a" } }'},
        [
            (
                "clusters/main",
                "leadership.source",
                f'"patroni" needs feature primary-1, {LATER}; allowed: "observe", "static"',
            )
        ],
    ),
    (
        "a budget",
        {"clusters/main": b'servers = { r1 = { host = "a", budget = { connections = 5 } } }'},
        [("clusters/main", "servers.r1.budget", f"needs feature budget-1, {LATER}")],
    ),
    (
        "shards",
        {"pools/app": b'users = { app = {} }\nshards = { map = "m" }'},
        [
            ("pools/app", "shards.map", 'shard map "m" does not exist; there are: none'),
            ("pools/app", "shards.clusters", "is missing; allowed: a table"),
        ],
    ),
    (
        "a shard map",
        {"shardmaps/m": b'kind = "sha1"\nkey = { type = "text" }\nshards = 2\nvalues = { a = 0 }'},
        [
            (
                "shardmaps/m",
                "key.type",
                '"text" does not fit kind "sha1"; allowed: smallint, integer, bigint',
            ),
            ("shardmaps/m", "values", 'belongs to kind "list", not "sha1"'),
        ],
    ),
    (
        "a canary",
        {"fleet": b"activation = { canary_nodes = 1 }"},
        [("fleet", "activation.canary_nodes", f"needs feature canary-1, {LATER}")],
    ),
    (
        "a permission to delete what is no document",
        {"fleet": b'allow_delete = ["app"]'},
        [
            (
                "fleet",
                "allow_delete[0]",
                '"app" is not allowed; allowed: "pools/NAME", "clusters/NAME" or "shardmaps/NAME"',
            )
        ],
    ),
    (
        "leases in the wrong order",
        {"fleet": b'ttl = "30s"\nlong_ttl = "20s"'},
        [("fleet", "long_ttl", "is less than ttl")],
    ),
    (
        "several at once, in several documents",
        {"pools/app": b"users = { app = {} }\nsize = 0\nmod = 1", "users/app": b"auth = 'none'"},
        [
            ("pools/app", "size", "0 is not allowed; allowed: a whole number, from 1 to 1000000"),
            ("pools/app", "mod", "unknown key `mod`; did you mean `mode`?"),
            (
                "users/app",
                "auth",
                '"none" is not allowed; allowed: "md5", "scram-sha-256", "trust"',
            ),
        ],
    ),
]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [(documents, expected) for _, documents, expected in WRONG],
    ids=[w for w, _, _ in WRONG],
)
def test_a_wrong_document_is_told(documents: dict[str, bytes], expected: list[tuple[str, str, str]]) -> None:
    judged = judge(DOCUMENTS | documents)
    assert judged.settings is None
    assert judged.wrong == tuple(Wrong(*one) for one in expected)


def test_there_are_many_ways_to_be_wrong() -> None:
    assert len(WRONG) >= 25
    assert len({json.dumps(expected) for _, _, expected in WRONG}) >= len(WRONG) - 2


def test_a_document_that_can_not_be_read_still_exists() -> None:
    """Its own fault is told, and not that others refer to it."""
    judged = judge(DOCUMENTS | {"clusters/main": b"[[[", "users/app": b"\xff"})
    assert [one.name for one in judged.wrong] == ["clusters/main", "users/app"]


def test_what_was_deleted_is_missed_where_it_was_named() -> None:
    documents = dict(DOCUMENTS)
    del documents["clusters/main"]
    assert judge(documents).wrong == (
        Wrong("pools/app", "cluster", 'cluster "main" does not exist; there are: none'),
    )


def test_toml_and_json_say_the_same() -> None:
    as_json = {
        "clusters/main": b'{"v":1,"servers":{"r1":{"host":"a"},"r2":{"host":"b"}}}',
        "users/app": b' {"auth":"trust"}',
        "pools/app": b'\n{"users":{"app":{}},"size":10}',
    }
    assert judge(as_json) == judge(DOCUMENTS)
    assert judge(DOCUMENTS).wrong == ()


def test_what_is_told_can_be_published_whatever_the_key_is() -> None:
    """A key of the store is bytes; those that are no UTF-8 are kept as they are, as the store's layer gives them."""
    name = b"pools/\xff".decode("utf-8", "surrogateescape")
    (found,) = findings(judge(DOCUMENTS | {name: b"size = 3"}).wrong)
    assert encode({"nack": [found]}).startswith(b'{"nack":[{"key":"config/pools/')
    assert found.key == "config/pools/\\udcff"


@given(st.sampled_from(sorted(DOCUMENTS)), st.one_of(st.binary(), st.text().map(str.encode), _JSON, _CUT))
def test_whatever_is_put_is_judged_and_told(name: str, text: bytes) -> None:
    """One value that nobody foresaw must not stop a node's part in everything else."""
    encode({"nack": findings(judge(DOCUMENTS | {name: text}).wrong)})


def test_what_is_told_is_never_too_large_to_publish() -> None:
    text = json.dumps({f"key{index}" + "x" * 900: 1 for index in range(60)}).encode()
    found = findings(judge(DOCUMENTS | {"pools/app": text}).wrong, {"pools/app": 7})
    assert len(found) == 21
    assert found[0].rev == 7
    assert found[-1].msg == "and 41 more problems"
    assert len(encode({"nack": found})) < 20_000
