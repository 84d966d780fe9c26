"""Whatever is put below config/ with etcdctl: every node says by name what is wrong, and routes as before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from pgcat_cluster.demo.etcd import Etcd
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.fleets import Fleet, size
from tests.support.nodes import connect, eventually, lines, one, port

pytestmark = pytest.mark.once

POOL, CLUSTER, USER = "config/pools/test", "config/clusters/main", "config/users/test"
_NUMBER = "allowed: a whole number, from 1 to 1000000"
_BIG = 2_000_000

# What is put (None deletes), and what every node says about it: key, path, message.
BAD: list[tuple[str, dict[str, bytes | None], list[tuple[str, str, str]]]] = [
    (
        "an unknown field",
        {POOL: b"users = { test = {} }\nsizee = 5"},
        [(POOL, "sizee", "unknown key `sizee`; did you mean `size`?")],
    ),
    (
        "a wrong type",
        {POOL: b'users = { test = {} }\nsize = "5"'},
        [(POOL, "size", f'"5" is not allowed; {_NUMBER}')],
    ),
    (
        "a number out of range",
        {POOL: b"users = { test = {} }\nsize = 99999999999999999999"},
        [(POOL, "size", f"99999999999999999999 is not allowed; {_NUMBER}")],
    ),
    (
        "a dangling reference",
        {POOL: b'users = { test = {} }\ncluster = "mian"'},
        [(POOL, "cluster", 'cluster "mian" does not exist; did you mean "main"?')],
    ),
    (
        "what others refer to is deleted",
        {USER: None},
        [(POOL, "users.test", 'user "test" does not exist; there are: admin')],
    ),
    (
        "a duplicate server",
        {CLUSTER: b'servers = { p1 = { host = "db" }, r1 = { host = "DB" } }'},
        [(CLUSTER, "servers.r1", "has the address of server p1, DB:5432")],
    ),
    (
        "a key of an unknown kind",
        {"config/pool/test": b"size = 5"},
        [("config/pool/test", "", "no document has such a key; did you mean config/pools/?")],
    ),
    (
        "a key that is no UTF-8",
        {"config/pools/\udcff": b"size = 5"},
        [
            (
                "config/pools/\\udcff",
                "",
                "the name in the key is not allowed; allowed: 1 to 63 of a-z, 0-9 and -",
            )
        ],
    ),
    (
        "two megabytes",
        {POOL: b"#" * _BIG},
        [(POOL, "", f"is too large: {_BIG} bytes of 65536")],
    ),
    ("invalid UTF-8", {POOL: b"users = { test = {} }\n# \xff"}, [(POOL, "line 2", "is not UTF-8")]),
    (
        "JSON that is none",
        {POOL: b'{"users" {}}'},
        [(POOL, "line 1, column 10", "Expecting ':' delimiter")],
    ),
    (
        "half a character in JSON",
        {POOL: b'{"users":{"test":{}},"database":"\\ud800"}'},
        [(POOL, "", "\\ud800 is half of a pair, and no character by itself")],
    ),
    ("no value", {POOL: b"\n"}, [(POOL, "", "is empty; delete the key instead")]),
    (
        "a key twice in JSON",
        {POOL: b'{"users":{"test":{}},"size":3,"size":4}'},
        [(POOL, "", 'key "size" stands twice in one object')],
    ),
    ("deep nesting", {POOL: b'{"a":' * 10000}, [(POOL, "", "is nested too deep")]),
    (
        "what a later version knows",
        {CLUSTER: b'leadership = { source = "patroni" }\nservers = { p1 = { host = "db" } }'},
        [
            (
                CLUSTER,
                "leadership.source",
                '"patroni" needs feature primary-1, which this version does not have; allowed: "observe", "static"',
            )
        ],
    ),
    (
        "a secret that is not there",
        {USER: b'secret = "file:missing"'},
        [(USER, "secret", '"file:missing" can not be read: $secrets/missing: No such file or directory')],
    ),
    (
        "several at once",
        {POOL: b"users = {}\nsize = 0", "config/users/other": b'auth = "non"'},
        [
            (POOL, "users", "is empty; at least one entry is needed"),
            (POOL, "size", f"0 is not allowed; {_NUMBER}"),
            ("config/users/other", "auth", '"non" is not allowed; allowed: "md5", "scram-sha-256", "trust"'),
        ],
    ),
]


@pytest.fixture(scope="module")
def fleet(pg_stack: Stack) -> Iterator[Fleet]:
    """Two nodes, and an etcd that takes values as large as somebody may have allowed."""
    with ExitStack() as closing:
        etcd = closing.enter_context(Etcd(options=("--max-request-bytes=4194304",)))
        fleet = Fleet(etcd, pg_stack)
        fleet.load(pool='reads = "primary"\nsize = 7')
        for node in fleet.add(2):
            closing.callback(node.stop)
        eventually(lambda: all(ack.get("active") for ack in fleet.values("ack/")), "both serve")
        yield fleet


def put(fleet: Fleet, documents: Mapping[str, bytes | None]) -> None:
    for key, value in documents.items():
        if value is None:
            fleet.delete(key)
        else:
            # etcdctl reads what is no word of its command line.
            fleet.ctl("put", f"/pgcat/test/{key}", typed=value.decode("utf-8", "surrogateescape"))


def versions(fleet: Fleet, prefix: str) -> dict[str, int]:
    """How often each key was written."""
    found = json.loads(fleet.ctl("get", "--prefix", "-w", "json", f"/pgcat/test/{prefix}"))
    return {row["key"]: row["version"] for row in found.get("kvs", ())}


def routing(fleet: Fleet) -> list[object]:
    """Which server answers at each node, how large the pool is, and what the fleet goes by."""
    at_nodes: list[object] = []
    for node in fleet.nodes:
        with connect(node) as client:
            at_nodes.append((port(client), size(node)))
    return [at_nodes, fleet.values("decided/accepted"), versions(fleet, "history/")]


def nacks(fleet: Fleet) -> list[list[dict[str, Any]]]:
    return [ack["nack"] for ack in fleet.values("ack/") if ack.get("nack")]


def state(fleet: Fleet) -> dict[str, Any]:
    (status,) = fleet.values("status/config")
    return dict(status)


def restart(node: Node) -> None:
    """As after a crash, and with nothing to remember but the store."""
    node.kill()
    (node.folder / "state" / "known.json").unlink()
    node.start()


# In the long run a node starts beside each of them; in the short one beside these, and some are left out.
RESTARTED = ("invalid UTF-8", "a key that is no UTF-8")
LEFT_OUT = (
    "what others refer to is deleted",
    "JSON that is none",
    "no value",
    "a key twice in JSON",
    "deep nesting",
    "what a later version knows",
    "several at once",
)


@pytest.mark.parametrize(
    ("name", "documents", "expected", "restarts"),
    [
        pytest.param(name, put, said, name in RESTARTED, id=name)
        for name, put, said in BAD
        if name not in LEFT_OUT
    ]
    + [
        pytest.param(name, put, said, True, id=f"{name}, restarted", marks=pytest.mark.live_long)
        for name, put, said in BAD
        if name not in RESTARTED
    ],
)
def test_what_is_wrong_is_named_by_every_node_and_changes_nothing(
    fleet: Fleet,
    name: str,
    documents: dict[str, bytes | None],
    expected: list[tuple[str, str, str]],
    restarts: bool,
) -> None:
    good = {
        key: fleet.ctl("get", "--print-value-only", f"/pgcat/test/{key}").removesuffix("\n").encode() or None
        for key in documents
    }
    before, written = routing(fleet), versions(fleet, "ack/")
    put(fleet, documents)
    eventually(lambda: len(nacks(fleet)) == 2, "both refuse it")
    # It is the first thing that each of them writes after it.
    if len(documents) == 1:
        assert versions(fleet, "ack/") == {key: count + 1 for key, count in written.items()}
    said = nacks(fleet)
    secrets = [str(node.folder / "secrets") for node in fleet.nodes]
    for own in said:
        found = [(one["key"], one.get("path", ""), one["msg"]) for one in own]
        assert found in [
            [(key, path, message.replace("$secrets", place)) for key, path, message in expected]
            for place in secrets
        ]
    eventually(lambda: state(fleet)["desired"]["state"] == "rejected", "it is told at a glance")
    assert {(one["key"], one.get("path", "")) for one in state(fleet)["errors"]} == {
        (key, path) for key, path, _ in expected
    }
    if restarts:
        restart(fleet.nodes[0])
        eventually(lambda: len(nacks(fleet)) == 2, "who starts beside it refuses it too")
    assert routing(fleet) == before
    put(fleet, good)
    eventually(lambda: state(fleet)["desired"]["state"] == "accepted", "all is well again")
    eventually(lambda: not nacks(fleet), "nobody objects any more")
    assert routing(fleet) == before
    assert not any(lines(node, "the machines failed") or lines(node, "task.failed") for node in fleet.nodes)


def test_deletions_of_everything_change_nothing(fleet: Fleet) -> None:
    """First what is desired, then all that the fleet ever wrote."""
    documents = {
        key: fleet.ctl("get", "--print-value-only", f"/pgcat/test/{key}").removesuffix("\n").encode()
        for key in fleet.keys("config/")
    }
    before = routing(fleet)
    fleet.ctl("del", "--prefix", "/pgcat/test/config/")
    eventually(lambda: state(fleet)["desired"]["state"] == "deleted", "it is told")
    assert "the accepted documents stay in force" in state(fleet)["desired"]["why"]
    eventually(lambda: all(lines(node, "fleet.alarm") for node in fleet.nodes), "each node warns")
    restart(fleet.nodes[0])
    assert routing(fleet) == before

    fleet.ctl("del", "--prefix", "/pgcat/test/")
    eventually(lambda: len(fleet.keys("live/")) == 2, "both say again that they are there")
    for node in fleet.nodes:
        with connect(node) as client:
            assert (one(client, "select 1"), size(node)) == (1, 7)
    # What it kept is enough, since nothing else is there.
    fleet.nodes[0].kill()
    fleet.nodes[0].start()
    assert size(fleet.nodes[0]) == 7
    put(fleet, dict(documents))
    eventually(lambda: bool(fleet.values("decided/accepted")), "the same documents are accepted again")
    eventually(
        lambda: (
            [ack.get("active") for ack in fleet.values("ack/")]
            == [{"gen": fleet.values("decided/accepted")[0]["gen"]}] * 2
        ),
        "both go by them",
    )
    assert [size(node) for node in fleet.nodes] == [7, 7]
