"""A smoke load through a node, judged by what the servers say of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pgcat_cluster.demo.binaries import REMEDY
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import DemoFault, wait_until
from pgcat_cluster.demo.stack import Stack

CLIENTS = 8
ROUNDS = 25
READS_PER_ROUND = 4

# A server counts what an idle connection did only after this long.
_STATISTICS_S = 15.0
_LOAD_S = 60.0

Kind = Literal["read", "write", "in transaction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one server's pg_stat_database says of the database `test`."""

    commits: int
    rollbacks: int
    inserted: int

    def since(self, before: Counted) -> Counted:
        return Counted(
            commits=self.commits - before.commits,
            rollbacks=self.rollbacks - before.rollbacks,
            inserted=self.inserted - before.inserted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen: answers by kind and server's port, growth of each server's counts, rows in the table.

    `served` is the part of each node, in transactions, by its own count.
    """

    answers: Mapping[tuple[Kind, int], int]
    counted: Mapping[str, Counted]
    rows: int
    served: Mapping[str, int]

    def answered(self, kind: Kind, server: Postgres) -> int:
        return self.answers.get((kind, server.port), 0)

    def total(self, kind: Kind) -> int:
        return sum(count for (of_kind, _), count in self.answers.items() if of_kind == kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that must hold, whether it does, and the numbers."""

    holds: bool
    claim: str
    numbers: str


def run_smoke_load(stack: Stack, dsn: str) -> list[Finding]:
    """Read and write through the nodes, many clients at once; judge by the servers' statistics."""
    try:
        import psycopg
    except ImportError:
        raise DemoFault(f"--check needs the driver psycopg; {REMEDY}") from None
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop table if exists pgcat_check")
            connection.execute(
                "create table pgcat_check (client int, round int, primary key (client, round))"
            )
        for replica in stack.replicas:
            wait_until(partial(_has_table, replica), within_s=60.0, what=f"{replica.name} replays")
        before = {server.name: _count(server) for server in stack.servers}
        served = {node.name: _served(node) for node in stack.nodes}
        clients = ThreadPoolExecutor(CLIENTS)
        try:
            pending = [clients.submit(_one_client, dsn, client) for client in range(CLIENTS)]
            late = wait(pending, timeout=_LOAD_S).not_done
        finally:
            # Never waits: a client without an answer ends when the node it waits for is stopped.
            clients.shutdown(wait=False, cancel_futures=True)
        if late:
            return [_unanswered(f"{len(late)} of {CLIENTS} clients still wait after {_LOAD_S:g} s")]
        answers = sum((client.result() for client in pending), Counter[tuple[Kind, int]]())
        counted = _settle(stack, before, answers)
        rows = stack.primary.query("select count(*) from pgcat_check", "postgres", "test")
        evidence = Evidence(
            answers=answers,
            counted=counted,
            rows=rows[0][0],
            served={node.name: _served(node) - served[node.name] for node in stack.nodes},
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop table pgcat_check")
    except psycopg.Error as error:
        return [_unanswered(str(error).strip())]
    return judge(evidence, stack.primary, stack.replicas)


def _unanswered(what: str) -> Finding:
    return Finding(holds=False, claim="every statement is answered", numbers=what)


def judge(evidence: Evidence, primary: Postgres, replicas: Sequence[Postgres]) -> list[Finding]:
    """What the evidence says about each claim."""
    reads, writes = evidence.total("read"), evidence.total("write")
    transactions = evidence.total("in transaction")
    changed = writes + transactions
    findings = [
        Finding(
            holds=evidence.answered("read", replica) > 0
            and evidence.counted[replica.name].commits >= evidence.answered("read", replica),
            claim=f"reads reach {replica.name}",
            numbers=f"{evidence.answered('read', replica)} of {reads} answers came from {replica.name};"
            f" its pg_stat_database grew by {evidence.counted[replica.name].commits} transactions",
        )
        for replica in replicas
    ]
    at_primary = evidence.counted[primary.name]
    if replicas:
        findings.append(
            Finding(
                # Beside the writes there is what opening links needs: far less than a tenth of the reads.
                holds=evidence.answered("read", primary) == 0 and at_primary.commits < changed + reads // 10,
                claim="no read reaches the primary",
                numbers=f"{evidence.answered('read', primary)} of {reads} answers came from {primary.name}"
                f"; its pg_stat_database grew by {at_primary.commits} transactions for {changed} that write",
            )
        )
    seen_there = evidence.answered("write", primary) + evidence.answered("in transaction", primary)
    findings += [
        Finding(
            holds=seen_there == changed and at_primary.inserted >= changed,
            claim="every write reaches the primary alone",
            numbers=f"{seen_there} of {changed} answers came from {primary.name}; "
            f"its pg_stat_database counts {at_primary.inserted} new rows",
        ),
        Finding(
            holds=not any(counted.rollbacks for counted in evidence.counted.values()),
            claim="no server refused anything",
            numbers=", ".join(f"{name} rolled back {it.rollbacks}" for name, it in evidence.counted.items()),
        ),
        Finding(
            holds=evidence.rows == changed,
            claim="every write happened exactly once",
            numbers=f"the primary's table holds {evidence.rows} rows after {changed} inserts",
        ),
        Finding(
            holds=all(evidence.served.values()),
            claim="every node served",
            numbers=", ".join(
                f"{name} served {count} transactions" for name, count in evidence.served.items()
            ),
        ),
    ]
    return findings


def _one_client(dsn: str, client: int) -> Counter[tuple[Kind, int]]:
    """Reads, writes and a transaction per round; who answered is asked inside each statement.

    Each round is a connection of its own, so that every node that shares the port gets some.
    """
    import psycopg

    answers: Counter[tuple[Kind, int]] = Counter()
    select = "select inet_server_port(), count(*) from pgcat_check where client = %s"
    insert = "insert into pgcat_check values (%s, %s) returning inet_server_port()"

    def ask(connection: psycopg.Connection, kind: Kind, sql: str, *values: int) -> None:
        row = connection.execute(sql.encode(), values or None).fetchone()
        assert row is not None
        answers[kind, row[0]] += 1

    for number in range(ROUNDS):
        with psycopg.connect(dsn, autocommit=True) as connection:
            for _ in range(READS_PER_ROUND):
                ask(connection, "read", select, client)
            ask(connection, "write", insert, client, number)
            with connection.transaction():
                ask(connection, "in transaction", insert, client, number + ROUNDS)
    return answers


def _settle(
    stack: Stack, before: Mapping[str, Counted], answers: Mapping[tuple[Kind, int], int]
) -> dict[str, Counted]:
    """What each server has counted, once that is all it was seen to do, as far as it ever will."""

    def has_counted(server: Postgres) -> bool:
        seen = sum(count for (_, port), count in answers.items() if port == server.port)
        return _count(server).since(before[server.name]).commits >= seen

    # If some never count it all, the verdict says by how much they differ.
    with suppress(DemoFault):
        wait_until(lambda: all(map(has_counted, stack.servers)), within_s=_STATISTICS_S, what="statistics")
    return {server.name: _count(server).since(before[server.name]) for server in stack.servers}


def _count(server: Postgres) -> Counted:
    rows = server.query(
        "select xact_commit, xact_rollback, tup_inserted from pg_stat_database where datname = 'test'"
    )
    commits, rollbacks, inserted = rows[0]
    return Counted(commits=commits, rollbacks=rollbacks, inserted=inserted)


def _served(node: Node) -> int:
    """How many transactions of the load's user the node has finished, by its metrics."""
    name = 'pgcat_cluster_transactions_total{database="test",user="test"} '
    try:
        lines = node.said("/metrics").decode().splitlines()
    except OSError as error:
        raise DemoFault(f"node {node.name} does not say how much it served: {error}") from None
    return sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


def _has_table(server: Postgres) -> bool:
    return server.query("select to_regclass('pgcat_check') is not null", "test", "test") == [(True,)]
