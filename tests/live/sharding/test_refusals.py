"""Keys that lead to no shard, or to several: the client is told why, nothing runs, and its session goes on."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import one
from tests.support.sharding import SHARDS, ShardedNode

Connection = psycopg.Connection[tuple[object, ...]]


def keys_of(shard: int) -> list[int]:
    """A few keys of one shard."""
    return [key for key in range(1, 100) if pg_bigint_hash(key, SHARDS) == shard]


HERE, ALSO_HERE, MOVED = keys_of(0)[:3]
THERE = keys_of(1)[0]


@pytest.fixture(scope="module")
def stored(many_shards: ShardedNode) -> ShardedNode:
    """One row for each of these keys."""
    many_shards.truncate("data", "note")
    for key in (HERE, ALSO_HERE, THERE):
        many_shards.ask(pg_bigint_hash(key, SHARDS), f"insert into data (id, value) values ({key}, 'stored')")
    return many_shards


@pytest.fixture
def client(stored: ShardedNode) -> Iterator[Connection]:
    with stored.connect() as connection:
        yield connection


def refusal(client: Connection, statement: str, parameters: list[object] | None = None, **how: bool) -> str:
    """The SQLSTATE of a statement that must be refused; the session must go on as if nothing had been."""
    with pytest.raises(psycopg.Error) as raised:
        client.execute(statement.encode(), parameters, **how)
    assert client.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert one(client, f"select value from data where id = {HERE}") == "stored"
    assert raised.value.sqlstate is not None
    return raised.value.sqlstate


def has_all(shards: ShardedNode) -> bool:
    """Whether the rows are what was stored."""
    return shards.counts("data") == [2, 1, 0, 0] and not sum(shards.counts("note"))


UNBOUND = {
    "no condition": "select * from data",
    "another column": "select * from data where value = 'stored'",
    "a range": "select * from data where id between 1 and 2",
    "not that": f"select * from data where id <> {HERE}",
    "or something else": f"select * from data where id = {HERE} or value = 'stored'",
    "an expression": f"select * from data where id = {HERE} + 0 * random()",
    "a subquery": "select * from data where id = (select min(data_id) from note)",
    "a join with a table of its own key": f"select * from data, note where data.id = {HERE}",
    "an update of all": "update data set value = 'changed'",
    "a delete of all": "delete from data",
    "an insert without the key": "insert into data (value) values ('new')",
    "an insert without columns": f"insert into data values ({HERE}, 'new')",
    "an insert of rows that are selected": "insert into data select * from data",
    "a truncate": "truncate data",
    "a table": "create table made (id int)",
    "copy in": "copy data from stdin",
    "copy out": "copy data to stdout",
    "a reference table that would change": "update country set title = 'changed'",
    "an update of the key to what is not known": f"update data set id = id + 0 where id = {HERE}",
    "no key where a null stands": "select * from data where id is null",
    "a float": f"select * from data where id = {HERE}.0",
}
SEVERAL = {
    "two in a list": f"select * from data where id in ({HERE}, {THERE})",
    "two rows": f"insert into data (id, value) values ({HERE}, 'new'), ({THERE}, 'new')",
    "one or the other": f"select * from data where id = {HERE} or id = {THERE}",
    "two statements": f"delete from data where id = {HERE}; delete from data where id = {THERE}",
    "two branches": f"select * from data where id = {HERE} union all select * from data where id = {THERE}",
    "an update of the key": f"update data set id = {THERE} where id = {HERE}",
    "an update of the key that has met": f"insert into data (id, value) values ({HERE}, 'new')"
    f" on conflict (id) do update set id = {THERE}",
    "two tables": f"select * from data, note where data.id = {HERE} and data_id = {THERE}",
}


@pytest.mark.parametrize("statement", UNBOUND.values(), ids=UNBOUND)
def test_a_statement_that_names_no_key(stored: ShardedNode, client: Connection, statement: str) -> None:
    assert refusal(client, statement) == "0A000"
    assert refusal(client, statement, [], prepare=True) == "0A000"
    assert has_all(stored)


BROKEN = {
    "a word": "selekt 1",
    "a string": "select 'abc",
    "an identifier": 'select "abc',
    "a comment": "/* abc",
    "a dollar quote": "select $é$abc$e$",
    "parentheses": "select (",
    "nothing after a sign": "select 1 +",
    "junk behind a number": "select 1x",
    "an escape": "select e'\\u00'",
    "an escape of no character": "select e'\\u0000'",
    "characters of several bytes": "select 'é', '\U0001f600' as ü selekt (",
    "a word of several bytes": "sélekt 1",
    "a comment of several bytes": "/* é */ select * from data where id = 1 and and",
    "lines": "select *\n from data\n\n wher id = 1",
    "a key": f"select * from data where id = {HERE} and and",
    "the second of two": f"select value from data where id = {HERE}; selekt 2",
    "the second of two in a string": f"select 'é' from data where id = {HERE}; select 'x",
    "a precision": "select null::float(99)",
    "a frame": "select sum(id) over (rows unbounded following) from data",
    "what is not there yet": "create assertion a check (true)",
    "a reserved name": "drop role none",
}


def told(client: Connection, said: bytes) -> tuple[bytes | None, ...]:
    """Code, message and position of the error that a simple Query is answered with."""
    result = client.pgconn.exec_(said)
    fields = psycopg.pq.DiagnosticField
    wanted = (fields.SQLSTATE, fields.MESSAGE_PRIMARY, fields.STATEMENT_POSITION)
    return tuple(result.error_field(field) for field in wanted)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_does_not_parse_is_told_as_postgresql_tells_it(
    stored: ShardedNode, client: Connection, broken: str
) -> None:
    said = broken.encode()
    with psycopg.connect(stored.primary(0).dsn("test", stored.databases[0]), autocommit=True) as server:
        expected = told(server, said)
        prepared = server.pgconn.prepare(b"", said).error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    assert expected[0] is not None
    assert told(client, said) == expected
    assert client.pgconn.exec_params(said, []).error_field(psycopg.pq.DiagnosticField.SQLSTATE) == prepared
    # It may have any key, so it goes along with no transaction.
    for ahead in (b"begin", b"begin; select 1", f"begin; delete from data where id = {MOVED}".encode()):
        client.execute(ahead)
        assert told(client, said) == expected
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        assert told(client, b"select 1")[0] == b"25P02"
        assert client.execute(b"commit").statusmessage == "ROLLBACK"
    assert has_all(stored)


def test_a_server_says_what_does_not_parse_where_the_shard_is_named(client: Connection) -> None:
    with pytest.raises(psycopg.errors.SyntaxError) as ours:
        client.execute(b"selekt 1")
    assert "say SET SHARD TO" in (ours.value.diag.message_hint or "")
    client.execute(b"set shard to 1")
    with pytest.raises(psycopg.errors.SyntaxError) as theirs:
        client.execute(b"selekt 1")
    assert theirs.value.diag.message_hint is None


@pytest.mark.parametrize("statement", SEVERAL.values(), ids=SEVERAL)
def test_keys_of_several_shards(stored: ShardedNode, client: Connection, statement: str) -> None:
    assert refusal(client, statement) == "0A000"
    assert has_all(stored)


def test_keys_of_several_shards_as_parameters(stored: ShardedNode, client: Connection) -> None:
    for prepare in (False, True, True):
        several = "select * from data where id in (%s, %s)"
        assert refusal(client, several, [HERE, THERE], prepare=prepare) == "0A000"
        rows = client.execute(several.encode(), [HERE, ALSO_HERE], prepare=prepare).fetchall()
        assert len(rows) == 2
        mixed = f"delete from data where id in ({HERE}, %s)"
        assert refusal(client, mixed, [THERE], prepare=prepare) == "0A000"
    assert has_all(stored)


ONE_SHARD = {
    "a list": f"select * from data where id in ({HERE}, {ALSO_HERE})",
    "an array": f"select * from data where id = any (array[{HERE}, {ALSO_HERE}])",
    "one or the other": f"select * from data where id = {HERE} or id = {ALSO_HERE}",
    "branches": f"select * from data where id = {HERE} union all select * from data where id = {ALSO_HERE}",
    "not distinct": f"select * from data where id is not distinct from {HERE} or id = {ALSO_HERE}",
    "a condition in parentheses": f"select * from data where (((id)) = ({HERE})) or (id = {ALSO_HERE})",
}


@pytest.mark.parametrize("statement", ONE_SHARD.values(), ids=ONE_SHARD)
def test_keys_of_one_shard(client: Connection, statement: str) -> None:
    for prepare in (False, True, True):
        assert len(client.execute(statement.encode(), prepare=prepare).fetchall()) == 2


def test_a_key_is_set_to_another_of_its_shard(stored: ShardedNode, client: Connection) -> None:
    """As ORMs do that write all columns; the whole row stays on its shard."""
    for prepare in (False, True, True):
        for old, new in ((HERE, HERE), (HERE, MOVED), (MOVED, HERE)):
            said = "update data set id = %s, value = 'stored' where id = %s returning id"
            assert client.execute(said.encode(), [new, old], prepare=prepare).fetchall() == [(new,)]
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute(said.encode(), [THERE, HERE], prepare=prepare)
    assert client.execute(f"update data set id = id where id = {HERE}".encode()).rowcount == 1
    assert has_all(stored)


@pytest.mark.parametrize(
    ("value", "sqlstates"),
    [
        ("null", {"0A000", "22023"}),
        ("9223372036854775808", {"0A000", "22003"}),
        ("-9223372036854775809", {"0A000", "22003"}),
        ("'9223372036854775808'", {"22003"}),
        ("''", {"22P02"}),
        ("'x'", {"22P02"}),
        ("'5.0'", {"22P02"}),
        # Which PostgreSQL 16 reads, and 15 does not.
        ("'0x5'", {"0A000", "22P02"}),
    ],
)
def test_a_constant_that_is_no_key(
    stored: ShardedNode, client: Connection, value: str, sqlstates: set[str]
) -> None:
    assert refusal(client, f"select * from data where id = {value}") in sqlstates
    assert refusal(client, f"insert into data (id, value) values ({value}, 'new')") in sqlstates
    assert has_all(stored)


# Types of parameters by their number in pg_type.
INT2, INT4, INT8, TEXT, NUMERIC, FLOAT8, UNKNOWN = 21, 23, 20, 25, 1700, 701, 0


@pytest.mark.parametrize(
    ("type_oid", "is_binary", "value", "sqlstates"),
    [
        (INT8, False, None, {"0A000", "22023"}),
        (INT8, True, None, {"0A000", "22023"}),
        (INT8, False, b"", {"22P02"}),
        (INT8, False, b"x", {"22P02"}),
        (INT8, False, b"9223372036854775808", {"22003"}),
        (UNKNOWN, False, b"9223372036854775808", {"22003"}),
        (INT8, True, b"\0\0\1", {"0A000", "22P03"}),
        (INT8, True, b"", {"0A000", "22P03"}),
        (INT4, True, b"\0" * 8, {"0A000", "22P03"}),
        (NUMERIC, False, b"5", {"0A000"}),
        (NUMERIC, False, b"5.5", {"0A000"}),
        (FLOAT8, False, b"5", {"0A000"}),
        (TEXT, False, b"5", {"0A000", "42883"}),
    ],
)
def test_a_parameter_that_is_no_key(
    stored: ShardedNode,
    client: Connection,
    type_oid: int,
    is_binary: bool,
    value: bytes | None,
    sqlstates: set[str],
) -> None:
    statement = b"delete from data where id = $1"
    for _ in range(2):
        result = client.pgconn.exec_params(statement, [value], [type_oid], [int(is_binary)])
        said = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        assert said is not None, result.status
        assert said.decode() in sqlstates, result.error_message
        assert one(client, f"select value from data where id = {HERE}") == "stored"
    assert has_all(stored)


@pytest.mark.parametrize(
    ("type_oid", "is_binary", "value"),
    [
        (INT2, True, THERE.to_bytes(2, "big")),
        (INT4, True, THERE.to_bytes(4, "big")),
        (INT8, True, THERE.to_bytes(8, "big")),
        (INT2, False, str(THERE).encode()),
        (INT4, False, str(THERE).encode()),
        (INT8, False, str(THERE).encode()),
        (UNKNOWN, False, str(THERE).encode()),
        (UNKNOWN, False, f" +{THERE} ".encode()),
    ],
)
def test_a_parameter_of_another_width(
    client: Connection, type_oid: int, is_binary: bool, value: bytes
) -> None:
    """Where it is accepted it is the key that PostgreSQL reads."""
    for _ in range(3):
        result = client.pgconn.exec_params(
            b"select value from data where id = $1", [value], [type_oid], [int(is_binary)]
        )
        assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, result.error_message
        assert (result.ntuples, result.get_value(0, 0)) == (1, b"stored")


@pytest.mark.parametrize(
    ("command", "sqlstate"),
    [
        ("set shard to '4'", "22023"),
        ("set shard to '-1'", "22023"),
        ("set shard to 'x'", "22023"),
        ("set sharding key to 'x'", "22P02"),
        ("set sharding key to '9223372036854775808'", "22003"),
        ("set server role to 'leader'", "22023"),
        ("set pgcat.shard to 99", "22023"),
        ("set pgcat.shrd to 1", "42704"),
    ],
)
def test_a_wish_that_can_not_be(client: Connection, command: str, sqlstate: str) -> None:
    client.execute(b"set shard to 1")
    with pytest.raises(psycopg.Error) as raised:
        client.execute(command.encode())
    assert raised.value.sqlstate == sqlstate
    assert one(client, "show shard") == "1"
    assert one(client, "select current_database()") == "shard1"


def test_a_statement_without_key_goes_where_the_session_says(client: Connection) -> None:
    statement = b"select current_database(), count(*) from data"
    for shard, count in enumerate([2, 1, 0, 0]):
        client.execute(f"set shard to {shard}".encode())
        for prepare in (False, True, True):
            assert client.execute(statement, prepare=prepare).fetchone() == (f"shard{shard}", count)
    client.execute(f"set sharding key to '{THERE}'".encode())
    assert client.execute(statement).fetchone() == ("shard1", 1)


def test_nothing_of_a_statement_sticks(client: Connection) -> None:
    """A key, or a comment, is for its own statement: the next one without a key is refused again."""
    said = f"select value from data where id = {HERE}"
    for before in (
        said,
        "/* shard_id: 1 */ select count(*) from data",
        f"/* sharding_key: {THERE} */ select 1",
    ):
        client.execute(before.encode())
        assert refusal(client, "select count(*) from data") == "0A000"
