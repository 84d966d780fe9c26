"""Real drivers do real work through a node in both pool modes; reads and writes land where they should."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import AsyncIterator

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from pgcat_cluster.demo.stack import Stack
from tests.support.fronts import Front
from tests.support.player import Address

CLIENTS = 60


@pytest.fixture(scope="module", autouse=True)
def tables(wire_stack: Stack) -> None:
    with psycopg.connect(wire_stack.primary.dsn("test", "test"), autocommit=True) as connection:
        connection.execute("drop table if exists account")
        connection.execute("create table account (id int primary key, owner text, balance int not null)")


@pytest.fixture(params=["transaction", "session"])
def address(request: pytest.FixtureRequest, wire_front: Front, wire_stack: Stack) -> Address:
    """One pool of the node, with ten accounts behind it."""
    with psycopg.connect(wire_stack.primary.dsn("test", "test"), autocommit=True) as connection:
        connection.execute("truncate account")
        connection.execute("insert into account select g, 'owner ' || g, 100 from generate_series(1, 10) g")
    return wire_front.database(request.param)


# --- psycopg 3


def test_psycopg(address: Address) -> None:
    with psycopg.connect(**address.keywords()) as connection:
        assert connection.execute("select balance from account where id = %s", (3,)).fetchone() == (100,)
        with connection.transaction():
            connection.execute("update account set balance = balance - 10 where id = %s", (1,))
            with pytest.raises(psycopg.errors.NotNullViolation), connection.transaction():
                connection.execute("update account set balance = null where id = 1")
            connection.execute("update account set balance = balance + 10 where id = %s", (2,))
        connection.commit()
        rows = connection.execute("select balance from account where id <= 3 order by id").fetchall()
        assert rows == [(90,), (110,), (100,)]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        connection.rollback()
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_psycopg_prepares_at_once(address: Address) -> None:
    with psycopg.connect(**address.keywords(), autocommit=True, prepare_threshold=0) as connection:
        for _ in range(3):
            for number in range(1, 11):
                row = connection.execute("select id, owner from account where id = %s", (number,)).fetchone()
                assert row == (number, f"owner {number}")
        # More statements than the driver keeps: it deallocates the oldest.
        for number in range(150):
            assert connection.execute(f"select {number}, %s::int", (number,)).fetchone() == (number, number)
        assert connection.execute("select id, owner from account where id = 1").fetchone() == (1, "owner 1")


def test_psycopg_long_statements(address: Address) -> None:
    """Longer than what the node holds: unnamed, prepared, in and out of transactions, forgotten by the driver."""
    filler = "x" * 2_000_000
    with psycopg.connect(**address.keywords(), autocommit=True) as connection:
        write = f"update account set balance = balance + %s where id = %s and owner <> '{filler}'"
        for prepare in (False, True, True):
            assert connection.execute(write, (1, 1), prepare=prepare).rowcount == 1
        read = f"select balance, length('{filler}') from account where id = %s"
        with connection.transaction():
            for number in (1, 2):
                row = connection.execute(read, (number,), prepare=True).fetchone()
                assert row == ({1: 103, 2: 100}[number], 2_000_000)
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute(read.replace("balance", "nothing"), (1,))
        connection.prepared_max = 1
        # The driver deallocates what it prepared before.
        assert connection.execute("select balance from account where id = 1", prepare=True).fetchone() == (
            103,
        )
        assert connection.execute(read, (3,), prepare=True).fetchone() == (100, 2_000_000)


def test_psycopg_binary(address: Address) -> None:
    with psycopg.connect(**address.keywords()) as connection:
        cursor = connection.cursor(binary=True)
        values = (1, "ä€", b"\x00\xff", 1.5, None)
        assert (
            cursor.execute("select %b::int, %b::text, %b::bytea, %b::float8, %b::int", values).fetchone()
            == values
        )


def test_psycopg_pipeline(address: Address) -> None:
    with psycopg.connect(**address.keywords(), autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("select %s::int * 2", (number,)) for number in range(50)]
            pipeline.sync()
            assert [cursor.fetchone() for cursor in cursors] == [(number * 2,) for number in range(50)]

        def batch() -> None:
            with connection.pipeline() as pipeline:
                connection.execute("update account set balance = 7 where id = 1")
                connection.execute("select 1/0")
                connection.execute("update account set balance = 8 where id = 1")
                pipeline.sync()

        # A server sends an error at once, so it may meet any call behind the one that failed; what is left
        # of the batch then ends with the pipeline.
        with pytest.raises(psycopg.errors.DivisionByZero):
            batch()
        # The batch was one implicit transaction.
        assert connection.execute("select balance from account where id = 1").fetchone() == (100,)


def test_psycopg_server_side_cursor(address: Address) -> None:
    with psycopg.connect(**address.keywords()) as connection:
        with connection.cursor("walk", scrollable=True) as cursor:
            cursor.itersize = 3
            cursor.execute("select id from account order by id")
            assert [row[0] for row in cursor] == list(range(1, 11))
            cursor.scroll(0, mode="absolute")
            assert cursor.fetchmany(2) == [(1,), (2,)]
        connection.commit()
        with connection.cursor("held", withhold=True) as cursor:
            cursor.execute("select id from account order by id")
            assert cursor.fetchone() == (1,)
            connection.commit()
            assert cursor.fetchone() == (2,)


def test_psycopg_copy(address: Address) -> None:
    with psycopg.connect(**address.keywords()) as connection:
        with connection.cursor().copy("copy account from stdin") as copy:
            for number in range(100, 1100):
                copy.write_row((number, f"row {number}", number))
        connection.commit()
        cursor = connection.cursor()
        with cursor.copy(
            "copy (select id, balance from account where id >= 100 order by id) to stdout"
        ) as copy:
            copy.set_types(["int4", "int4"])
            assert list(copy.rows()) == [(number, number) for number in range(100, 1100)]
        with pytest.raises(psycopg.errors.UniqueViolation), cursor.copy("copy account from stdin") as copy:
            copy.write_row((100, "again", 0))
        connection.rollback()
        assert connection.execute("select count(*) from account").fetchone() == (1010,)


def test_psycopg_notices_and_parameters(address: Address) -> None:
    with psycopg.connect(**address.keywords(), autocommit=True, application_name="driver") as connection:
        heard: list[str | None] = []
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        connection.execute("do $$ begin raise notice 'hello'; end $$")
        assert heard == ["hello"]
        assert connection.info.parameter_status("application_name") == "driver"
        connection.execute("set timezone to 'Asia/Tokyo'")
        assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert connection.execute("show application_name").fetchone() == ("driver",)


def test_psycopg_cancels_its_own_query(address: Address) -> None:
    with (
        psycopg.connect(**address.keywords(), autocommit=True) as connection,
        psycopg.connect(**address.keywords(), autocommit=True) as watcher,
    ):
        failed: list[type[BaseException]] = []

        def sleep() -> None:
            try:
                connection.execute("select pg_sleep(30) /* to be cancelled */")
            except psycopg.Error as error:
                failed.append(type(error))

        thread = threading.Thread(target=sleep)
        thread.start()
        sleeping = (
            "select count(*) from pg_stat_activity "
            "where state = 'active' and query like 'select pg_sleep(30)%'"
        )
        while watcher.execute(sleeping).fetchone() == (0,):
            assert thread.is_alive()
        connection.cancel()
        thread.join(60)
        assert failed == [psycopg.errors.QueryCanceled]
        assert connection.execute("select 1").fetchone() == (1,)


async def test_psycopg_async(address: Address) -> None:
    async with await psycopg.AsyncConnection.connect(**address.keywords(), prepare_threshold=0) as connection:
        async with connection.pipeline():
            cursors = [await connection.execute("select %s::int", (number,)) for number in range(20)]
            assert [await cursor.fetchone() for cursor in cursors] == [(number,) for number in range(20)]
        async with connection.transaction():
            await connection.execute("update account set balance = 0")
        cursor = await connection.execute("select sum(balance) from account")
        assert await cursor.fetchone() == (0,)


# --- psycopg 2


def test_psycopg2(address: Address) -> None:
    connection = psycopg2.connect(**address.keywords())
    with connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor, "insert into account values %s", [(number, "bulk", 1) for number in range(20, 320)]
        )
        cursor.execute("select count(*), sum(balance) from account where owner = %s", ("bulk",))
        assert cursor.fetchone() == (300, 300)
        psycopg2.extras.execute_batch(
            cursor,
            "update account set balance = %s where id = %s",
            [(2, number) for number in range(20, 320)],
        )
    with connection, connection.cursor("walk") as named:
        named.itersize = 7
        named.execute("select balance from account where owner = 'bulk'")
        assert sum(row[0] for row in named) == 600
    with pytest.raises(psycopg2.errors.DivisionByZero), connection, connection.cursor() as cursor:
        cursor.execute("delete from account; select 1/0")
    with connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from account")
        assert cursor.fetchone() == (310,)
    connection.close()


# --- asyncpg


@pytest.fixture
async def asyncpg_link(address: Address) -> AsyncIterator[asyncpg.Connection]:
    link = await asyncpg.connect(address.url())
    yield link
    await link.close()


async def test_asyncpg_prepared(asyncpg_link: asyncpg.Connection) -> None:
    statement = await asyncpg_link.prepare("select id, owner from account where id = $1")
    for number in (1, 5, 10):
        assert tuple(await statement.fetchrow(number)) == (number, f"owner {number}")
    assert [attribute.name for attribute in statement.get_attributes()] == ["id", "owner"]
    assert await asyncpg_link.fetchval("select $1::text[]", ["a", None]) == ["a", None]
    await asyncpg_link.executemany(
        "insert into account values ($1, $2, $3)", [(n, "many", n) for n in range(50, 90)]
    )
    assert await asyncpg_link.fetchval("select count(*) from account where owner = 'many'") == 40


async def test_asyncpg_long_statements(asyncpg_link: asyncpg.Connection) -> None:
    """Longer than what the node holds: the driver leaves them unnamed unless they are prepared."""
    filler = "x" * 2_000_000
    read = f"select owner, length('{filler}') from account where id = $1"
    for number in (1, 5):
        assert tuple(await asyncpg_link.fetchrow(read, number)) == (f"owner {number}", 2_000_000)
    statement = await asyncpg_link.prepare(read)
    assert await asyncpg_link.fetchval("select balance from account where id = $1", 7) == 100
    for number in (5, 10):
        assert tuple(await statement.fetchrow(number)) == (f"owner {number}", 2_000_000)
    write = f"insert into account values ($1, '{filler}', $2)"
    await asyncpg_link.executemany(write, [(n, n) for n in range(50, 60)])
    assert await asyncpg_link.fetchval("select sum(balance) from account where id >= 50") == 545
    with pytest.raises(asyncpg.UniqueViolationError):
        await asyncpg_link.execute(write, 50, 50)
    assert tuple(await statement.fetchrow(1)) == ("owner 1", 2_000_000)


async def test_asyncpg_transactions(asyncpg_link: asyncpg.Connection) -> None:
    async with asyncpg_link.transaction():
        await asyncpg_link.execute("update account set balance = 1 where id = 1")
        with pytest.raises(asyncpg.NotNullViolationError):
            async with asyncpg_link.transaction():
                await asyncpg_link.execute("update account set balance = null where id = 2")
        await asyncpg_link.execute("update account set balance = 2 where id = 2")
    undone = asyncpg_link.transaction(isolation="serializable")
    await undone.start()
    await asyncpg_link.execute("delete from account")
    await undone.rollback()
    rows = await asyncpg_link.fetch("select balance from account where id <= 3 order by id")
    assert [row["balance"] for row in rows] == [1, 2, 100]


async def test_asyncpg_cursor_and_copy(asyncpg_link: asyncpg.Connection) -> None:
    records = [(number, f"copied {number}", number) for number in range(100, 600)]
    assert await asyncpg_link.copy_records_to_table("account", records=records) == "COPY 500"
    async with asyncpg_link.transaction():
        query = "select * from account where id >= $1 order by id"
        walked = [tuple(row) async for row in asyncpg_link.cursor(query, 100, prefetch=30)]
        assert walked == records
        cursor = await asyncpg_link.cursor(query, 100)
        assert [row["id"] for row in await cursor.fetch(3)] == [100, 101, 102]
    out = bytearray()

    async def take(data: bytes) -> None:
        out.extend(data)

    query = "select balance from account where id >= 100 order by id"
    assert await asyncpg_link.copy_from_query(query, output=take) == "COPY 500"
    assert bytes(out).split() == [str(number).encode() for number in range(100, 600)]


async def test_asyncpg_pool_resets_what_it_lends(address: Address) -> None:
    async with asyncpg.create_pool(address.url(), min_size=2, max_size=8) as pool:

        async def work(number: int) -> int:
            async with pool.acquire() as link, link.transaction():
                await link.execute("set local work_mem = '1MB'")
                await link.execute("update account set balance = balance + 1 where id = $1", number % 10 + 1)
                return await link.fetchval("select $1::int", number)

        assert await asyncio.gather(*(work(number) for number in range(200))) == list(range(200))
        assert await pool.fetchval("select sum(balance) from account") == 1200
        async with pool.acquire() as link:
            await link.execute("set statement_timeout = '1234ms'")
        async with pool.acquire() as link:
            assert await link.fetchval("show statement_timeout") == "0"


async def test_asyncpg_listens(address: Address) -> None:
    link, other = await asyncpg.connect(address.url()), await asyncpg.connect(address.url())
    heard: asyncio.Queue[str] = asyncio.Queue()
    await link.add_listener(
        "driver_channel", lambda _link, _pid, _channel, payload: heard.put_nowait(payload)
    )
    await other.execute("select pg_notify('driver_channel', 'hello')")
    assert await asyncio.wait_for(heard.get(), 60) == "hello"
    await link.close()
    await other.close()


# --- SQLAlchemy


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy(address: Address, driver: str) -> None:
    engine = sqlalchemy.create_engine(address.url(f"postgresql+{driver}"), pool_size=3)
    account = sqlalchemy.Table("account", sqlalchemy.MetaData(), autoload_with=engine)
    assert [column.name for column in account.columns] == ["id", "owner", "balance"]
    with engine.begin() as connection:
        connection.execute(account.insert(), [{"id": n, "owner": "orm", "balance": n} for n in range(20, 60)])
    with engine.connect() as connection:
        total = sqlalchemy.select(sqlalchemy.func.sum(account.c.balance)).where(account.c.owner == "orm")
        assert connection.execute(total).scalar() == sum(range(20, 60))
        streamed = connection.execution_options(yield_per=7).execute(sqlalchemy.select(account.c.id))
        assert len(streamed.all()) == 50
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        connection.execute(account.insert(), {"id": 1, "owner": "again", "balance": 0})
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_sqlalchemy_async(address: Address, driver: str) -> None:
    engine = create_async_engine(address.url(f"postgresql+{driver}"), pool_size=5)
    text = sqlalchemy.text

    async def transfer(number: int) -> None:
        async with engine.begin() as connection:
            change = text("update account set balance = balance + :by where id = :id")
            await connection.execute(change, {"by": -1, "id": number % 5 + 1})
            await connection.execute(change, {"by": 1, "id": number % 5 + 6})

    await asyncio.gather(*(transfer(number) for number in range(100)))
    async with engine.connect() as connection:
        rows = (await connection.execute(text("select balance from account order by id"))).scalars().all()
    assert rows == [80] * 5 + [120] * 5
    await engine.dispose()


# --- many clients, few servers; and who answers


async def test_many_clients_over_few_links(wire_front: Front, wire_stack: Stack) -> None:
    """Sixty clients at once on a pool of four: each gets its own answers, over four links at most."""
    if wire_front.process is None:
        pytest.skip("PostgreSQL itself pools nothing")
    address = wire_front.database("transaction")

    async def work(number: int) -> set[int]:
        link = await asyncpg.connect(address.url())
        pids = set()
        for step in range(30):
            row = await link.fetchrow("select $1::int, pg_backend_pid()", number * 1000 + step)
            assert row[0] == number * 1000 + step
            pids.add(row[1])
        await link.close()
        return pids

    backends = set[int]().union(*await asyncio.gather(*(work(number) for number in range(CLIENTS))))
    assert 1 <= len(backends) <= 4


@pytest.mark.parametrize("prepare_threshold", [None, 0], ids=["unnamed", "prepared"])
def test_reads_land_on_replicas_and_writes_on_the_primary(
    wire_front: Front, wire_stack: Stack, prepare_threshold: int | None
) -> None:
    if wire_front.process is None:
        pytest.skip("PostgreSQL itself splits nothing")
    replicas = {replica.port for replica in wire_stack.replicas}
    where = "select inet_server_port(), pg_is_in_recovery()"
    landed: collections.Counter[tuple[int, bool]] = collections.Counter()
    for _ in range(10):
        with psycopg.connect(
            **wire_front.database("split").keywords(), autocommit=True, prepare_threshold=prepare_threshold
        ) as connection:
            for number in range(20):
                landed[connection.execute(where).fetchone()] += 1
                row = connection.execute(
                    "insert into account values (%s, 'w', 0) on conflict (id) do update set balance = 1 "
                    "returning inet_server_port(), pg_is_in_recovery()",
                    (number + 1000,),
                ).fetchone()
                assert row == (wire_stack.primary.port, False)
            with connection.transaction():
                assert connection.execute(where).fetchone() == (wire_stack.primary.port, False)
            connection.execute("begin read only")
            assert connection.execute(where).fetchone()[1] is True
            connection.execute("commit")
            locked = connection.execute("select pg_is_in_recovery() from account where id = 1000 for update")
            assert locked.fetchone() == (False,)
    assert {port for port, _ in landed} == replicas
    assert min(landed.values()) >= 40, landed
