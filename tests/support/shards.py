"""One database, and beside it one per shard that holds only that shard's rows: to run a statement on both.

The tables are hash-partitioned. The whole has all partitions, a shard its own alone, so that it can not even
take a row of another. Their rows are made at random, always the same for a seed.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.routing import pg_bigint_hash
from pgcat_cluster.sql.terms import Term

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[eE]?'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_TIMED_OUT = "57014"
_TOO_MANY_ROWS = "21000"
# Of several rows that join with a changed one it returns any (PostgreSQL, "UPDATE", Notes); what it has changed is
# compared all the same.
_ONE_OF_SEVERAL = re.compile(
    r"\b(?:update\b.*\bfrom|delete\b.*\busing)\b.*\breturning\b", re.IGNORECASE | re.DOTALL
)
_WORDS = ("a", "b", "abc", "x y", "")


@dataclass(frozen=True)
class Outcome:
    """What a statement string came to: per statement its rows (in no order) and its tag, or the SQLSTATE."""

    results: tuple[tuple[str, frozenset[tuple[Any, int]]], ...]
    sqlstate: str = ""
    message: str = field(default="", compare=False)

    @property
    def failed(self) -> bool:
        return bool(self.sqlstate)


def outcome(results: Sequence[pq.PGresult]) -> Outcome:
    """What libpq's results of one statement string say together."""
    found: list[tuple[str, frozenset[tuple[Any, int]]]] = []
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
            return Outcome((), sqlstate, message)
        rows = Counter(
            tuple(result.get_value(row, column) for column in range(result.nfields))
            for row in range(result.ntuples)
        )
        found.append(((result.command_status or b"").decode(), frozenset(rows.items())))
    return Outcome(tuple(found))


class Database:
    """One database, over a plain connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def run(self, text: str, parameters: Sequence[str | None] = ()) -> Outcome:
        """Runs a statement string as it is; with parameters, in text form and of no declared type."""
        link = self.connection.pgconn
        if parameters:
            values = [None if value is None else value.encode() for value in parameters]
            results = [link.exec_params(text.encode(), values)]
        else:
            link.send_query(text.encode())
            results = list(_results(link))
        return outcome(results)

    def parameter_types(self, text: str) -> list[int]:
        """What the server takes the parameters of a statement for; none if it does not take the statement."""
        link = self.connection.pgconn
        if link.prepare(b"", text.encode()).status == pq.ExecStatus.FATAL_ERROR:
            return []
        described = link.describe_prepared(b"")
        return [described.param_type(number) for number in range(described.nparams)]

    def rows(self, table: str) -> Counter[bytes]:
        """Every row of a table, in no order."""
        return self.copied(f"copy (select * from {table}) to stdout")

    def copied(self, statement: str) -> Counter[bytes]:
        with self.connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            return Counter(bytes(line) for line in copy)


def _results(link: pq.PGconn) -> Iterator[pq.PGresult]:
    while (result := link.get_result()) is not None:
        if result.status == pq.ExecStatus.COPY_OUT:
            while link.get_copy_data(0)[0] > 0:
                pass
        elif result.status == pq.ExecStatus.COPY_IN:
            link.put_copy_end(b"there are no rows")
        yield result


class Shards:
    """The whole and its shards. `keys` says the key column of every sharded table."""

    def __init__(
        self, whole: Database, shards: list[Database], keys: dict[str, str], tables: list[str]
    ) -> None:
        self.whole = whole
        self.shards = shards
        self.keys = keys
        self.tables = tables
        self._before = {table: [shard.rows(table) for shard in shards] for table in keys}

    def shard_of(self, text: str, terms: Sequence[Term], parameters: Sequence[str | None] = ()) -> int | None:
        """The one shard of all values, as PostgreSQL reads them; None: several, or a value that is no key."""
        found: set[int] = set()
        for term in terms:
            keys = self.keys_of(text, term, parameters)
            if keys is None:
                return None
            found.update(pg_bigint_hash(key, len(self.shards)) for key in keys)
        return found.pop() if len(found) == 1 else None

    def keys_of(self, text: str, term: Term, parameters: Sequence[str | None] = ()) -> list[int] | None:
        """The key that a value is, or those in an array; None if it is none."""
        if term.parameter:
            value = parameters[term.parameter - 1]
            if value is None:
                return None
            literal = "'" + value.replace("'", "''") + "'"
        else:
            token = _TOKEN.match(text.encode()[term.location :].decode())
            assert token is not None, (text, term)
            literal = token[0]
        if literal.isdigit() and term.cast in (None, "int8", "int4", "int2"):
            return [-int(literal) if term.is_negative else int(literal)]
        sign = "-" if term.is_negative else ""
        cast = f"::{term.cast}" if term.cast else ""
        value = f"{sign}({literal}{cast})::bigint"
        if term.is_array:
            value = f"unnest({literal}::{term.cast or 'bigint'}[])::bigint"
        found = self.whole.run(f"select {value}")
        if found.failed:
            return None
        ((_, rows),) = found.results
        keys = [int(key) for (key,), _ in rows if key is not None]
        return keys or None

    def differences(
        self, text: str, shard: int, parameters: Sequence[str | None] = (), seen: Counter[str] | None = None
    ) -> list[str]:
        """What a statement does otherwise on its shard than on the whole: in its answer, or in what it leaves.

        Counts in `seen` what became of it on the whole.
        """
        changed: list[str] = []
        databases = (self.whole, self.shards[shard])
        for database in databases:
            database.run("begin")
        answers = [database.run(text, parameters) for database in databases]
        if any(answer.sqlstate == _TIMED_OUT for answer in answers):
            pass  # a large join, or a slow machine: it says nothing
        elif _TOO_MANY_ROWS in {answers[0].sqlstate, answers[1].sqlstate} and self._has_too_many(text, shard):
            pass  # whether it is evaluated at all, and when, is the planner's to say
        elif answers[0].sqlstate != answers[1].sqlstate:
            changed.append(f"errors: whole {answers[0].sqlstate} {answers[0].message}, shard {answers[1]}")
        elif not answers[0].failed:
            tags = [[tag for tag, _ in answer.results] for answer in answers]
            if tags[0] != tags[1]:
                changed.append(f"tags: whole {tags[0]}, shard {tags[1]}")
            elif answers[0] != answers[1] and not _ONE_OF_SEVERAL.search(text):
                changed.append(f"rows: whole {answers[0].results}, shard {answers[1].results}")
            if any(not tag.startswith(("SELECT", "SET", "BEGIN")) for tag in tags[0]):
                changed += self._different_rows(text, shard)
        for database in databases:
            database.run("rollback")
        if seen is not None:
            has_rows = any(rows for _, rows in answers[0].results) or not answers[0].results
            seen[answers[0].sqlstate or ("rows" if has_rows else "no rows")] += 1
        return changed

    def _has_too_many(self, text: str, shard: int) -> bool:
        """Whether a subquery gives more than one row on its shard too, taken by itself."""
        database = self.shards[shard]
        for found in re.finditer(r"\(select\b", text):
            depth = 0
            for position in range(found.start(), len(text)):
                depth += {"(": 1, ")": -1}.get(text[position], 0)
                if depth == 0:
                    database.run("rollback")
                    database.run("begin")
                    if (
                        database.run(f"select {text[found.start() : position + 1]}").sqlstate
                        == _TOO_MANY_ROWS
                    ):
                        return True
                    break
        return False

    def _different_rows(self, text: str, shard: int) -> list[str]:
        """Tables that the statement names, and that it left otherwise."""
        changed = []
        for table in self.tables:
            if table.rpartition(".")[2].strip('"') not in text:
                continue
            rows = self.shards[shard].rows(table)
            if table in self.keys:
                for other, before in enumerate(self._before[table]):
                    rows = rows if other == shard else rows + before
            if rows != self.whole.rows(table):
                changed.append(f"{table} is not the same afterwards")
        return changed


@contextmanager
def sharded(stack: Stack, schema: str, shards: int, *, name: str, rows: int, seed: int) -> Iterator[Shards]:
    """Databases made of a schema whose sharded tables end with `partition by hash (key)`."""
    databases = [name, *(f"{name}_{number}" for number in range(shards))]
    connections: list[psycopg.Connection] = []
    try:
        for database in databases:
            stack.primary.query(f"create database {database}")
            connection = psycopg.connect(stack.primary.dsn("postgres", database), autocommit=True)
            connections.append(connection)
            connection.execute(schema.encode())
            connection.execute("set statement_timeout = '20s'; set client_min_messages = error")
        whole, *parts = map(Database, connections)
        keys = dict(whole.connection.execute(_KEYS).fetchall())
        for number in range(shards):
            for table in keys:
                for database in (whole, parts[number]):
                    add_partition(database.connection, table, number, shards)
        tables = [table for (table,) in whole.connection.execute(_TABLES).fetchall()]
        _fill(whole, tables, rows, random.Random(seed))
        for number, part in enumerate(parts):
            for table in tables:
                source = _partition(table, number) if table in keys else table
                with (
                    whole.connection.cursor().copy(
                        f"copy (select * from {source}) to stdout".encode()
                    ) as out,
                    part.connection.cursor().copy(f"copy {table} from stdin".encode()) as into,
                ):
                    for block in out:
                        into.write(block)
        yield Shards(whole, parts, keys, tables)
    finally:
        for connection in connections:
            connection.close()
        for database in databases:
            stack.primary.query(f"drop database if exists {database} with (force)")


def add_partition(connection: psycopg.Connection, table: str, number: int, shards: int) -> None:
    """Gives a database the part of a hash-partitioned table that one shard has."""
    bound = f"for values with (modulus {shards}, remainder {number})"
    connection.execute(f"create table {_partition(table, number)} partition of {table} {bound}".encode())


_KEYS = """
    select c.oid::regclass::text, a.attname::text
    from pg_partitioned_table p join pg_class c on c.oid = p.partrelid
    join pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
    order by 1
"""
_TABLES = """
    select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and n.nspname not in ('pg_catalog', 'information_schema')
    order by 1
"""
_COLUMNS = """
    select a.attname::text, t.typcategory::text, a.atttypid::regtype::text, not a.attnotnull
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    order by a.attnum
"""


def _partition(table: str, number: int) -> str:
    return f'{table[:-1]}_{number}"' if table.endswith('"') else f"{table}_{number}"


def _fill(database: Database, tables: Sequence[str], rows: int, chance: random.Random) -> None:
    """Small numbers and few words, so that rows meet; what breaks a constraint is left out."""
    for table in tables:
        columns = database.connection.execute(_COLUMNS, (table,)).fetchall()
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name, *_ in columns)
        places = ", ".join(f"%s::{type_name}" for _, _, type_name, _ in columns)
        statement = f"insert into {table} ({quoted}) values ({places}) on conflict do nothing"
        made = [
            [
                _value(category, type_name, chance, may_be_null)
                for _, category, type_name, may_be_null in columns
            ]
            for _ in range(rows)
        ]
        database.connection.cursor().executemany(statement.encode(), made)


def _value(category: str, type_name: str, chance: random.Random, may_be_null: bool) -> str | None:
    if may_be_null and chance.random() < 0.05:
        return None
    match category:
        case "N":
            return str(chance.randint(1, 9))
        case "B":
            return chance.choice(("true", "false"))
        case "D":
            return f"2024-01-{chance.randint(1, 9):02}"
        case "A":
            return "{}"
        case "T":
            return "1 hour"
    match type_name:
        case "json" | "jsonb":
            return "{}"
        case "uuid":
            return f"00000000-0000-0000-0000-00000000000{chance.randint(1, 9)}"
        case "bytea":
            return "\\x00"
        case "inet":
            return "127.0.0.1"
    return chance.choice(_WORDS)
