"""Transactions over shards: bound by the first key, held back until then, refused for another shard, ended well."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.nodes import links, one
from tests.support.sharding import DATABASES, SHARDS, ShardedNode

Connection = psycopg.Connection[tuple[object, ...]]
KEYS = [next(key for key in range(1, 100) if pg_bigint_hash(key, SHARDS) == shard) for shard in range(SHARDS)]
HERE, THERE = KEYS[1], KEYS[2]


@pytest.fixture
def emptied(many_shards: ShardedNode) -> ShardedNode:
    many_shards.truncate("data", "note")
    return many_shards


@pytest.fixture
def client(emptied: ShardedNode) -> Iterator[Connection]:
    with emptied.connect() as connection:
        yield connection


def insert(key: int, value: str = "new") -> bytes:
    return f"insert into data (id, value) values ({key}, '{value}')".encode()


def refused(client: Connection, statement: bytes, sqlstate: str = "0A000") -> str:
    """The message of a statement that must be refused."""
    with pytest.raises(psycopg.Error) as raised:
        client.execute(statement)
    assert raised.value.sqlstate == sqlstate
    return str(raised.value)


def test_the_first_key_decides(emptied: ShardedNode, client: Connection) -> None:
    for shard, key in enumerate(KEYS):
        client.execute(b"begin")
        client.execute(insert(key))
        client.execute(b"set local work_mem = '1MB'")
        # Neither of these names a key.
        assert one(client, "select current_database()") == f"shard{shard}"
        assert one(client, "select count(*) from data") == 1
        client.execute(b"commit")
    assert emptied.counts("data") == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "begin", ["begin", "start transaction isolation level serializable", "begin; select 1"]
)
def test_begin_alone_takes_no_server(emptied: ShardedNode, client: Connection, begin: str) -> None:
    takes = ";" in begin
    client.execute(begin.encode())
    assert client.info.transaction_status == TransactionStatus.INTRANS
    assert links(emptied.node, "sharded").get("active", 0) == takes
    (in_transaction,) = emptied.ask(
        0,
        "select count(*) from pg_stat_activity where usename = 'test' and state like 'idle in transaction%'",
    )[0]
    assert in_transaction == takes
    client.execute(b"rollback")
    assert client.info.transaction_status == TransactionStatus.IDLE


def test_a_transaction_of_nothing(emptied: ShardedNode, client: Connection) -> None:
    for end in (b"commit", b"rollback", b"end", b"abort"):
        done = client.execute(b"begin")
        assert done.statusmessage == "BEGIN"
        done = client.execute(end)
        assert done.statusmessage == ("COMMIT" if end in (b"commit", b"end") else "ROLLBACK")
        assert client.info.transaction_status == TransactionStatus.IDLE
    assert links(emptied.node, "sharded").get("active", 0) == 0


def test_what_begin_said_holds(client: Connection) -> None:
    client.execute(b"begin isolation level repeatable read, read only")
    client.execute(f"select value from data where id = {HERE}".encode())
    assert one(client, "show transaction_isolation") == "repeatable read"
    refused(client, insert(HERE), "25006")
    client.execute(b"rollback")


@pytest.mark.parametrize("prepare", [False, True])
def test_another_shard_is_refused_and_the_session_goes_on(
    emptied: ShardedNode, client: Connection, prepare: bool
) -> None:
    # Where statements are prepared they are before the transaction begins.
    client.execute(b"insert into data (id, value) values (%s, 'kept')", [THERE], prepare=prepare)
    client.execute(b"insert into data (id, value) values (%s, 'new')", [THERE], prepare=prepare)
    client.execute(b"delete from data where id = %s", [THERE], prepare=prepare)
    for _ in range(3):
        client.execute(b"begin")
        client.execute(b"insert into data (id, value) values (%s, 'new')", [HERE], prepare=prepare)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="shard 2"):
            client.execute(b"insert into data (id, value) values (%s, 'new')", [THERE], prepare=prepare)
        assert client.info.transaction_status == TransactionStatus.INERROR
        refused(client, insert(HERE), "25P02")
        # As with every failed transaction.
        assert client.execute(b"commit").statusmessage == "ROLLBACK"
        assert client.info.transaction_status == TransactionStatus.IDLE
        assert emptied.counts("data") == [0, 0, 0, 0]
        client.execute(b"insert into data (id, value) values (%s, 'kept')", [THERE], prepare=prepare)
        assert emptied.counts("data") == [0, 0, 1, 0]
        client.execute(b"delete from data where id = %s", [THERE], prepare=prepare)


def test_statements_are_prepared_in_transactions(emptied: ShardedNode, client: Connection) -> None:
    for number in range(4):
        for shard, key in enumerate(KEYS):
            with client.transaction():
                statement = f"insert into data (id, value) values (%s, '{number} {shard}')"
                client.execute(statement.encode(), [key], prepare=True)
    assert emptied.counts("data") == [4, 4, 4, 4]


def test_a_prepared_statement_is_part_of_its_transaction(emptied: ShardedNode) -> None:
    """Whether the node has met its text before or not; and whether the server has."""
    for _ in range(3):
        with emptied.connect() as client:
            for shard, key in enumerate(KEYS * 2):
                client.execute(b"begin")
                statement = f"insert into data (id, value) values (%s, '{shard}')"
                client.execute(statement.encode(), [key], prepare=True)
                client.execute(b"rollback")
        assert emptied.counts("data") == [0, 0, 0, 0]


def test_a_statement_without_key_before_any_other(emptied: ShardedNode, client: Connection) -> None:
    client.execute(b"begin")
    refused(client, b"select count(*) from data")
    assert client.info.transaction_status == TransactionStatus.INERROR
    refused(client, insert(HERE), "25P02")
    assert client.execute(b"rollback").statusmessage == "ROLLBACK"
    client.execute(insert(HERE))
    assert emptied.counts("data") == [0, 1, 0, 0]


def test_another_shard_can_not_be_wished_for(client: Connection) -> None:
    client.execute(b"begin")
    client.execute(insert(HERE))
    assert "shard" in refused(client, b"set shard to 2")
    assert client.execute(b"rollback").statusmessage == "ROLLBACK"
    client.execute(b"set shard to 2")
    assert one(client, "select current_database()") == "shard2"


def test_a_wish_for_one_transaction(client: Connection) -> None:
    client.execute(b"begin")
    client.execute(b"set local pgcat.shard = 3")
    assert one(client, "select current_database()") == "shard3"
    client.execute(b"commit")
    assert one(client, "show shard") == "unset"
    refused(client, b"select count(*) from data")


def test_a_statement_that_fails_inside(emptied: ShardedNode, client: Connection) -> None:
    client.execute(b"begin")
    client.execute(insert(HERE))
    refused(client, f"select 1 / (value = '')::int from data where id = {HERE}".encode(), "22012")
    refused(client, insert(HERE), "25P02")
    assert client.execute(b"rollback").statusmessage == "ROLLBACK"
    assert emptied.counts("data") == [0, 0, 0, 0]


def test_savepoints(emptied: ShardedNode, client: Connection) -> None:
    client.execute(b"begin")
    client.execute(insert(HERE, "first"))
    client.execute(b"savepoint a")
    refused(client, insert(THERE))
    # What was refused spoils no more than a statement that failed.
    client.execute(b"rollback to savepoint a")
    client.execute(insert(HERE, "second"))
    client.execute(b"release savepoint a")
    client.execute(b"commit")
    assert emptied.ask(1, "select value from data order by 1") == [("first",), ("second",)]


def test_savepoints_before_any_key(emptied: ShardedNode, client: Connection) -> None:
    client.execute(b"begin")
    client.execute(b"savepoint a")
    try:
        client.execute(insert(HERE))
    except psycopg.errors.FeatureNotSupported:
        # A savepoint names no shard, so it took any; a client that hears so can begin again.
        client.execute(b"rollback")
        return
    client.execute(b"rollback to savepoint a")
    client.execute(b"commit")
    assert emptied.counts("data") == [0, 0, 0, 0]


def test_a_transaction_in_one_string(emptied: ShardedNode, client: Connection) -> None:
    client.execute(b"begin; " + insert(HERE) + b"; " + insert(HERE) + b"; commit")
    assert emptied.counts("data") == [0, 2, 0, 0]
    refused(client, b"begin; " + insert(HERE) + b"; " + insert(THERE) + b"; commit")
    assert client.info.transaction_status == TransactionStatus.IDLE
    refused(client, insert(HERE) + b"; " + insert(THERE))
    assert emptied.counts("data") == [0, 2, 0, 0]


def test_a_pipeline_is_bound_like_a_transaction(emptied: ShardedNode, client: Connection) -> None:
    with client.pipeline():
        for _ in range(5):
            client.execute(b"insert into data (id, value) values (%s, 'new')", [HERE])
    assert emptied.counts("data") == [0, 5, 0, 0]

    def over_two_shards() -> None:
        with client.pipeline():
            client.execute(b"insert into data (id, value) values (%s, 'new')", [HERE])
            client.execute(b"insert into data (id, value) values (%s, 'new')", [THERE])

    with pytest.raises(psycopg.errors.FeatureNotSupported, match="shard 2"):
        over_two_shards()
    assert client.info.transaction_status == TransactionStatus.IDLE
    # One Sync: what came before in it is undone too.
    assert emptied.counts("data") == [0, 5, 0, 0]
    client.execute(b"insert into data (id, value) values (%s, 'new')", [THERE])
    assert emptied.counts("data") == [0, 5, 1, 0]


def test_a_pipeline_with_a_sync_behind_each(emptied: ShardedNode, client: Connection) -> None:
    with client.pipeline() as pipeline:
        for key in KEYS * 5:
            client.execute(b"insert into data (id, value) values (%s, 'new')", [key])
            pipeline.sync()
        found = []
        for key in KEYS * 5:
            found.append(
                client.execute(b"select id, current_database() from data where id = %s limit 1", [key])
            )
            pipeline.sync()
        rows = [cursor.fetchone() for cursor in found]
    assert rows == list(zip(KEYS, DATABASES, strict=True)) * 5
    assert emptied.counts("data") == [5, 5, 5, 5]


def test_a_transaction_in_a_pipeline(emptied: ShardedNode, client: Connection) -> None:
    for shard, key in enumerate(KEYS):
        with client.pipeline(), client.transaction():
            client.execute(b"insert into data (id, value) values (%s, 'new')", [key])
            cursor = client.execute(b"select current_database()")
            assert cursor.fetchone() == (f"shard{shard}",)
    assert emptied.counts("data") == [1, 1, 1, 1]
    with client.pipeline(), client.transaction():
        pass
    assert client.info.transaction_status == TransactionStatus.IDLE


def test_what_follows_the_end_of_a_failed_transaction(emptied: ShardedNode, client: Connection) -> None:
    client.execute(b"begin")
    client.execute(insert(HERE))
    refused(client, b"select 1 / 0", "22012")
    refused(client, b"rollback; " + insert(THERE))
    refused(client, b"rollback; update data set value = 'lost'")
    client.execute(b"rollback; " + insert(HERE))
    assert client.info.transaction_status == TransactionStatus.IDLE
    assert emptied.counts("data") == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "statement",
    [
        f"insert into data values ({THERE}, 'astray')",
        f"update data set value = 'missed' where id = {THERE - 1} + 1",
        f"delete from data where id in ({THERE}, {THERE} + 0)",
        "update country set title = 'of one shard'",
        "copy data from stdin",
        f"execute one({THERE})",
    ],
)
def test_a_key_that_is_not_read_does_not_go_along(client: Connection, statement: str) -> None:
    client.execute(b"begin")
    client.execute(insert(HERE))
    client.execute(b"prepare one as insert into data (id) values ($1)")
    refused(client, statement.encode())
    client.execute(b"rollback")


def test_a_comment_of_begin_names_the_shard(client: Connection) -> None:
    client.execute(b"/* shard_id: 3 */ begin")
    assert one(client, "select current_database()") == "shard3"
    assert one(client, "select count(*) from data") == 0
    refused(client, insert(HERE))
    client.execute(b"rollback")


def test_a_session_reads_one_catalog(emptied: ShardedNode) -> None:
    """A number that one statement has found means the same to the next."""
    for _ in range(4):
        with emptied.connect() as client:
            (number,) = client.execute("select 'note'::regclass::oid").fetchone() or (0,)
            client.execute(insert(HERE))
            for _ in range(4):
                assert one(client, f"select relname from pg_class where oid = {number}") == "note"


def test_a_cursor_in_a_transaction(emptied: ShardedNode, client: Connection) -> None:
    emptied.ask(2, f"insert into data select {THERE}, n::text from generate_series(1, 10) n")
    with client.transaction():
        cursor = client.cursor("some")
        cursor.execute(b"select value from data where id = %s", [THERE])
        assert len(cursor.fetchmany(4)) == 4
        assert len(cursor.fetchall()) == 6
    assert emptied.counts("data") == [0, 0, 10, 0]


def test_a_driver_that_begins_by_itself(emptied: ShardedNode) -> None:
    with psycopg.connect(emptied.node.dsn("test", "sharded")) as client:
        for key in KEYS:
            client.execute(b"insert into data (id, value) values (%s, 'new')", [key])
            client.execute(b"insert into data (id, value) values (%s, 'new')", [key])
            client.commit()
        client.execute(b"insert into data (id, value) values (%s, 'new')", [HERE])
        client.rollback()
        client.rollback()
        client.commit()
    assert emptied.counts("data") == [2, 2, 2, 2]
