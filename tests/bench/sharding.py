"""What it costs the node to find a statement's shard: the same read from the same servers, with shards and without."""

from __future__ import annotations

import psycopg
from rich.table import Table

from pgcat_cluster.demo.stack import Stack
from tests.bench.measure import Record
from tests.support.shards import add_partition

SHARDS = 4
# Pools of one node; both have the same rows in a table partitioned in the same way, and as many links in all.
WHOLE = "server_database = 'whole'"
_PLACES = "shards = {{ clusters = {{ {clusters} }}, databases = {{ {databases} }} }}".format(
    clusters=", ".join(f'{number} = "main"' for number in range(SHARDS)),
    databases=", ".join(f'{number} = "bench{number}"' for number in range(SHARDS)),
)
SHARDED = f"{_PLACES}\nsharding = {{ key = 'aid' }}"
# CPU per query compared with the pool that has no shards.
BUDGET = 1.15

_ACCOUNTS = b"""
    create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84))
    partition by hash (aid)
"""
# As many as keyed.sql asks for.
_ROWS = b"""
    insert into pgbench_accounts select aid, 1, 0, '' from generate_series(1, 100000) aid
    where satisfies_hash_partition('pgbench_accounts'::regclass, %s, %s, aid)
"""


def prepare_shards(stack: Stack) -> None:
    """Databases that hold their part of pgbench's accounts alone, and one that holds all."""
    parts = [("whole", 0, 1), *((f"bench{number}", number, SHARDS) for number in range(SHARDS))]
    for database, number, count in parts:
        stack.primary.query(f"create database {database} owner test")
        with psycopg.connect(stack.primary.dsn("test", database), autocommit=True) as connection:
            connection.execute(_ACCOUNTS)
            add_partition(connection, "pgbench_accounts", number, count)
            connection.execute(_ROWS, (count, number))
            connection.execute(b"vacuum analyze pgbench_accounts")


def cost_table(records: list[Record]) -> Table | None:
    """CPU and throughput with shards as multiples of those without; None if they were not measured."""
    without = {(r.protocol, r.clients): r for r in records if (r.target, r.workload) == ("compiled", "keyed")}
    table = Table(title=f"a key in the statement, {SHARDS} shards, as multiples of no shards")
    for column in ("protocol", "clients"):
        table.add_column(column)
    for column in ("CPU", "tps", "upcalls", "budget"):
        table.add_column(column, justify="right")
    for record in records:
        plain = without.get((record.protocol, record.clients))
        if record.target != "sharded" or plain is None:
            continue
        own, other = record.cpu_us_per_query, plain.cpu_us_per_query
        if not own or not other:
            continue
        kept = own / other <= BUDGET and record.upcalls_per_query == 0
        table.add_row(
            record.protocol, str(record.clients), f"{own / other:.2f}", f"{record.tps / plain.tps:.2f}",
            f"{record.upcalls_per_query:.4f}",
            f"{'kept' if kept else 'MISSED'} (≤ {BUDGET}, no upcalls)",
        )  # fmt: skip
    return table if table.row_count else None
