"""EXPLAIN ROUTE in a pool of several shards: who tells the shard, in which order, and what is said if nobody does."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from msgspec import Struct, structs

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.flows import FlowTable
from pgcat_cluster.session.decisions import UNKNOWN
from pgcat_cluster.session.explaining import Circumstances, Explanation, explain
from pgcat_cluster.session.keyed import Asked
from pgcat_cluster.session.locating import why_nowhere
from pgcat_cluster.session.wishes import NO_WISHES, Wishes
from pgcat_cluster.sql.grammar import TEXT_BYTES_MAX
from pgcat_cluster.topology.model import (
    Credentials,
    PoolKey,
    PoolSettings,
    ServerKey,
    Shard,
    Sharding,
    ShardMap,
)
from pgcat_cluster.topology.settings import OnAllBad
from pgcat_cluster.topology.units import Address
from pgcat_cluster.topology.view import ClusterView, ServerView
from pgcat_cluster.wire import messages

SHARDING = Sharding(
    map=ShardMap(name="by-customer", kind="modulo", key_type="bigint", shards=3),
    key="customer_id",
    reference=frozenset({"countries"}),
)
KEYED = "select * from orders where customer_id = 7"


class Place(Struct, frozen=True, kw_only=True):
    number: int
    view: ClusterView
    on_all_bad: OnAllBad = "primary"


def place(number: int) -> Place:
    cluster = f"s0{number}"
    keys = {name: ServerKey(cluster, name, Address(host=name, port=5432)) for name in ("p", "r")}
    servers = {name: ServerView(key=key, weight=100) for name, key in keys.items()}
    return Place(
        number=number,
        view=ClusterView(name=cluster, servers=MappingProxyType(servers), primary=keys["p"]),
    )


def circumstances(sharding: Sharding = SHARDING, wishes: Wishes = NO_WISHES) -> Circumstances:
    """A pool of three shards."""
    settings = PoolSettings(
        key=PoolKey("app", "app"),
        shards=tuple(Shard(number=number, cluster=f"s0{number}", database="app") for number in range(3)),
        sharding=sharding,
        login=Credentials(user="app"),
    )
    return Circumstances(
        settings=settings,
        places=[place(number) for number in range(3)],
        statement_bytes_max=1 << 20,
        wishes=wishes,
        flows=FlowTable(10, 10_000),
    )


def shard(found: Explanation) -> tuple[str, str]:
    assert found.shard is not None, found.refusal
    return found.shard.value, found.shard.reason


def test_a_key_of_the_statement() -> None:
    found = explain(KEYED, circumstances(wishes=Wishes(shard=2)))
    assert shard(found) == ("1", "by orders.customer_id = 7")
    assert [one.server for one in found.candidates] == ["s01/p", "s01/r"]
    assert list(found.lines())[:2] == ["Route: shard 1, replica", "  Shard: 1 (by orders.customer_id = 7)"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("update orders set n = 1 where (customer_id) = -2", "by orders.customer_id = -2"),
        ("insert into orders (id, customer_id) values (5, '4')", "by orders.customer_id = '4'"),
        ("delete from orders where customer_id in (1, 4, 7)", "by orders.customer_id = 1, 4, 7"),
        (
            f"select from orders where customer_id in ({', '.join(str(3 * key + 1) for key in range(400))})",
            "by orders.customer_id = 1, 4, 7, 10, 13, …",
        ),
    ],
)
def test_the_values_of_keys(statement: str, reason: str) -> None:
    assert shard(explain(statement, circumstances())) == ("1", reason)


def test_a_comment_goes_before_a_key() -> None:
    found = explain("/* shard_id: 2 */ /* role: primary */" + KEYED, circumstances())
    assert shard(found) == ("2", "a comment in the statement")
    assert found.role is not None
    assert (found.role.value, found.role.reason) == ("primary", "a comment in the statement")
    assert shard(explain("/* sharding_key: 5 */" + KEYED, circumstances()))[0] == "2"
    found = explain("/* shard_id: 9 */" + KEYED, circumstances())
    assert found.refusal.startswith("shard 9 is not configured 3")


SEVERAL = "select * from orders where customer_id in (1, 2)"
NOWHERE = "select count(*) from orders"


@pytest.mark.parametrize("statement", [SEVERAL, NOWHERE, "selec 1"])
def test_statements_that_lead_nowhere(statement: str) -> None:
    refused = explain(statement, circumstances())
    assert refused.refusal
    assert refused.shard is None
    assert shard(explain(statement, circumstances(wishes=Wishes(shard=2)))) == ("2", "the session's shard")
    default = structs.replace(SHARDING, otherwise="default_shard", default_shard=1)
    value, reason = shard(explain(statement, circumstances(default)))
    assert value == "1"
    said = reason.removeprefix("by default, for ")
    assert refused.refusal.startswith(said)
    by_chance = structs.replace(default, default_shard="random")
    assert shard(explain(statement, circumstances(by_chance)))[0] == "any"


@pytest.mark.parametrize("key", ["7.0", "'x'", "9223372036854775808"])
def test_a_doubtful_or_wrong_key_is_never_put_on_the_default_shard(key: str) -> None:
    default = structs.replace(SHARDING, otherwise="default_shard", default_shard=1)
    assert explain(f"select * from orders where customer_id = {key}", circumstances(default)).refusal


def test_a_key_that_is_bound_later() -> None:
    found = explain("select * from orders where customer_id = $1", circumstances())
    assert shard(found) == ("by its parameters", "by orders.customer_id, when they are bound")
    assert found.refusal == ""


def bound(statement: str, *values: bytes | None, types: tuple[int, ...] = ()) -> Explanation:
    """Of a statement whose parameters are these, in text, and of these types."""
    given = structs.replace(
        circumstances(),
        bind=messages.bind("", "", values),
        types=len(types).to_bytes(2, "big") + b"".join(one.to_bytes(4, "big") for one in types),
    )
    return explain(statement, given)


def test_a_key_that_is_bound() -> None:
    assert shard(bound("select from orders where customer_id = $1", b"7")) == (
        "1",
        "by orders.customer_id = $1",
    )
    assert shard(bound("select from orders where id = $2 and customer_id in ($1, 4)", b"7", b"8")) == (
        "1",
        "by orders.customer_id = $1, 4",
    )
    assert shard(bound("update orders set id = $1 where customer_id = $1", b"5", types=(20,)))[0] == "2"
    # Nobody has said the type of a parameter with two uses.
    open_ = bound("update orders set id = $1 where customer_id = $1", b"5")
    assert shard(open_) == (
        "by its parameters",
        "by orders.customer_id; a server is asked for their types first",
    )
    assert "NULL" in bound("select from orders where customer_id is not distinct from $1", None).refusal


@pytest.mark.parametrize(
    ("statement", "values", "named"),
    [
        ("select from orders where customer_id in (4, 1, 2, 7)", (), "1 and 2"),
        ("select from orders where customer_id in ('3', -1, $$4$$)", (), "0, 1 and 2"),
        ("select from orders where customer_id in (1, $1)", (b"2",), "1 and 2"),
        ("select from orders where customer_id in ($2, $1)", (b"2", b"3"), "0 and 2"),
        ("insert into orders (id, customer_id) values (1, 1), (2, 2)", (), "1 and 2"),
        ("delete from orders where customer_id = 1; delete from orders where customer_id = 3", (), "0 and 1"),
    ],
)
def test_keys_of_several_shards_are_named(statement: str, values: tuple[bytes, ...], named: str) -> None:
    assert bound(statement, *values).refusal == (
        f"the sharding keys of the statement lie on several shards (Their shards are {named}.)"
    )


def test_of_many_shards_a_few_are_named() -> None:
    many = structs.replace(SHARDING, map=structs.replace(SHARDING.map, shards=9))
    given = circumstances(many)
    given = structs.replace(given, places=[place(number) for number in range(9)])
    listed = ", ".join(map(str, range(100)))
    found = explain(f"select from orders where customer_id in ({listed})", given)
    assert found.refusal.endswith("(Their shards are 0, 1, 2, 3, ….)")


@pytest.mark.parametrize(
    "statement",
    [
        "update orders set customer_id = 2 where customer_id = 1",
        "update orders set (customer_id, n) = ($1, 3) where customer_id = 1",
        "insert into orders (customer_id) values (1) on conflict (customer_id) do update set customer_id = 2",
    ],
)
def test_a_row_is_moved_to_no_other_shard(statement: str) -> None:
    found = bound(statement, b"2")
    assert found.refusal.endswith("(Their shards are 1 and 2, and no row is moved to another shard.)")
    assert not bound(statement.replace("= 2", "= 4"), b"4").refusal


def test_servers_that_lack_what_the_session_must_see() -> None:
    given = structs.replace(
        circumstances(), behind=lambda shard, server: f"has not replayed {shard}" * (server.name == "r")
    )
    assert [one.reason for one in explain(KEYED, given).candidates] == [
        'the primary, which takes reads "when_no_replica"',
        "has not replayed 1",
    ]
    assert "  Server: s01/r refused: has not replayed 1" in list(explain(KEYED, given).lines())
    written = explain("delete from orders where customer_id = 7", given)
    assert [one.reason for one in written.candidates] == ["", "a replica"]


def test_the_session_and_any_shard() -> None:
    wished = circumstances(wishes=Wishes(shard=2, key="5"))
    assert shard(explain("select * from countries", wished)) == ("2", "the session's shard, by key 5")
    found = explain("select * from countries", circumstances())
    assert shard(found) == ("any", "names no sharded table")
    assert [one.server for one in found.candidates] == ["s00/p", "s00/r", "s01/p", "s01/r", "s02/p", "s02/r"]
    servers = [line for line in found.lines() if line.startswith("  Server: ")]
    assert servers[2].startswith("  Server: s01/p of shard 1 ")
    # Where there is one shard to go to, it is told above.
    assert not any(" of shard " in line for line in explain(KEYED, circumstances()).lines())


def test_what_is_not_understood_is_refused_with_what_would_help() -> None:
    given = circumstances()
    found = explain("selct * from orders", given)
    assert found.refusal == 'syntax error at or near "selct"'
    assert found.doubt.startswith(
        "it does not parse; what is not understood goes to the primary of the shard that"
    )
    fault = why_nowhere(SHARDING, UNKNOWN, marks.UNSAID, Asked(text="/* ö */ selct".encode()))
    assert (fault.sqlstate, fault.position) == ("42601", 9)
    assert fault.hint is not None
    assert fault.hint.endswith("say SET SHARD TO before it.")


@pytest.mark.parametrize(
    "asked",
    [
        # What was too long to be read, or can be read in two ways.
        Asked(text=b""),
        Asked(text=b"selct" + b" " * TEXT_BYTES_MAX),
        Asked(text=b"selct 'a\\'", has_shapes=False),
        Asked(text="selct 'ö'".encode("latin1"), is_utf8=False),
    ],
)
def test_no_mistake_is_told_of_what_was_not_read(asked: Asked) -> None:
    fault = why_nowhere(SHARDING, UNKNOWN, marks.UNSAID, asked)
    assert fault.sqlstate == "0A000"
    assert fault.message == "no shard can be told for this statement: it is not understood"


@pytest.mark.parametrize("shards", [1, 3])
def test_comments_say_nothing_where_the_pool_heeds_none(shards: int) -> None:
    said = circumstances()
    settings = structs.replace(said.settings, shards=said.settings.shards[:shards], comments=False)
    if shards == 1:
        settings = structs.replace(settings, sharding=None)
    said = structs.replace(said, settings=settings, places=said.places[:shards])
    hinted = f"/* role: primary */ /* shard_id: 2 */ {KEYED}"
    found = explain(hinted, said)
    assert (found.role, found.shard) == (explain(KEYED, said).role, explain(KEYED, said).shard)
    heard = explain(hinted, structs.replace(said, settings=structs.replace(settings, comments=True)))
    assert heard.role is not None
    assert heard.role.value == "primary"
