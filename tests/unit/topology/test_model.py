"""What documents resolve to: the user's word before the pool's before the default; secrets stay hidden."""

import pytest

from pgcat_cluster.topology.model import Credentials, PoolKey, ServerKey, Shard, build
from pgcat_cluster.topology.reading import InvalidSettings, parse
from pgcat_cluster.topology.secrets import Secret, SecretReference, SecretUnavailable
from pgcat_cluster.topology.settings import Settings
from pgcat_cluster.topology.units import Address

TEXT = """
[clusters.main]
probe = { user = "probe", secret = "env:PROBE" }
[clusters.main.servers]
r1 = { host = "a" }
r2 = { host = "b", weight = 7, tags = { tier = "report" } }
r3 = { host = "c" }

[users.app]
user = "App_RW"
secret = "file:app.secret"

[users.other]
auth = "md5"
verifier = "md5d41d8cd98f00b204e9800998ecf8427e"
server_user = "pooled"
server_secret = "file:pooled.secret"

[pools.app]
database = "Sales 2"
size = 30
lifetime = "2h"
parameters = { search_path = "x" }
writing_functions = ["audit"]
users = { app = { size = 40, reads = "primary" }, other = {} }
"""


def _secret(reference: SecretReference) -> str:
    return f"<{reference}>"


def test_a_pool_is_what_its_user_says_then_what_it_says_then_the_default() -> None:
    topology = build(parse(TEXT, "x"), _secret)
    pool = topology.pools[PoolKey("Sales 2", "App_RW")]
    assert (pool.size, pool.lifetime_s, pool.reads, pool.min_size) == (40, 7200.0, "primary", 0)
    assert (pool.checkout_timeout_s, pool.shards) == (
        15.0,
        (Shard(number=0, cluster="main", database="Sales 2"),),
    )
    assert (pool.writing_functions, dict(pool.parameters)) == (("audit",), {"search_path": "x"})
    other = topology.pools[PoolKey("Sales 2", "other")]
    assert (other.size, other.reads) == (30, "replicas")


def test_users_log_in_to_servers_as_themselves_unless_told_otherwise() -> None:
    users = build(parse(TEXT, "x"), _secret).users
    assert users["App_RW"].password == Secret("<file:app.secret>")
    assert users["App_RW"].server == Credentials(user="App_RW", password=Secret("<file:app.secret>"))
    assert users["other"].password is None
    assert users["other"].server == Credentials(user="pooled", password=Secret("<file:pooled.secret>"))


def test_a_cluster_has_its_servers_by_name_and_by_key() -> None:
    topology = build(parse(TEXT, "x"), _secret)
    cluster = topology.clusters["main"]
    key = ServerKey("main", "r2", Address("b", 5432))
    assert topology.server(key) is cluster.servers["r2"]
    assert topology.server(ServerKey("main", "r2", Address("elsewhere", 5432))) is None
    assert topology.server(ServerKey("no", "r2", Address("b", 5432))) is None
    assert cluster.min_healthy == 2
    assert cluster.probe is not None
    assert cluster.probe.password == Secret("<env:PROBE>")


def test_unreadable_secrets_are_all_named_at_their_paths() -> None:
    def gone(reference: SecretReference) -> str:
        raise SecretUnavailable("it is gone")

    with pytest.raises(InvalidSettings) as caught:
        build(parse(TEXT, "x"), gone, source="pgcat.toml")
    assert list(caught.value.lines()) == [
        'pgcat.toml: users.app.secret: "file:app.secret" can not be read: it is gone',
        'pgcat.toml: users.other.server_secret: "file:pooled.secret" can not be read: it is gone',
        'pgcat.toml: clusters.main.probe.secret: "env:PROBE" can not be read: it is gone',
    ]


def test_a_topology_prints_no_secret() -> None:
    topology = build(parse(TEXT, "x"), lambda reference: "hunter2")
    assert "hunter2" not in repr(topology)
    assert "md5d41d8cd" not in repr(topology)
    assert "hunter2" not in f"{topology.users['App_RW'].password}"


def test_equal_documents_give_equal_topologies() -> None:
    assert build(parse(TEXT, "x"), _secret) == build(parse(TEXT, "y"), _secret)
    assert build(Settings()) != build(parse(TEXT, "x"), _secret)


def test_a_topology_can_not_be_changed() -> None:
    topology = build(parse(TEXT, "x"), _secret)
    with pytest.raises(TypeError):
        topology.pools[PoolKey("a", "b")] = next(iter(topology.pools.values()))  # type: ignore[index]
    with pytest.raises(AttributeError):
        topology.node = Settings().node  # type: ignore[misc]
