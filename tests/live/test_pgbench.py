"""pgbench through a node: every protocol, load and pool mode; nothing fails and the books balance."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from pgcat_cluster.demo.stack import Stack
from tests.support import fronts
from tests.support.fronts import Front
from tests.support.player import Address

CLIENTS, TRANSACTIONS = 12, 50


@pytest.fixture(scope="module")
def pgbench(wire_stack: Stack) -> str:
    found = fronts.pgbench_path(wire_stack)
    if found is None:
        pytest.skip("no pgbench on this machine")
    return found


def run(pgbench: str, address: Address, *options: str) -> str:
    command = [
        pgbench,
        "-h",
        address.host,
        "-p",
        str(address.port),
        "-U",
        address.user,
        *options,
        address.database,
    ]
    environment = {**os.environ, "PGPASSWORD": address.password, "PGOPTIONS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def tables(pgbench: str, wire_stack: Stack) -> None:
    run(pgbench, fronts.direct(wire_stack).address, "-i", "-q", "-s", "2")


def counted(output: str) -> tuple[int, int]:
    """Transactions done and failed."""
    done = re.search(r"transactions actually processed: (\d+)", output)
    failed = re.search(r"failed transactions: (\d+)", output)
    assert done, output
    return int(done[1]), int(failed[1]) if failed else 0


@pytest.mark.parametrize("pool", ["transaction", "session", "split"])
@pytest.mark.parametrize("load", ["tpcb-like", "select-only"])
@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_nothing_fails_and_the_books_balance(
    pgbench: str, wire_front: Front, wire_stack: Stack, pool: str, load: str, protocol: str
) -> None:
    before = balances(wire_stack)
    # pgbench's own truncate of the history, and its vacuums, go through the node too.
    options = ["-b", load, "-M", protocol, "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS)]
    output = run(pgbench, wire_front.database(pool), *options)
    assert counted(output) == (CLIENTS * TRANSACTIONS, 0)
    after = balances(wire_stack)
    assert len(set(after)) == 1, "branches, tellers and accounts differ"
    written, total = wire_stack.primary.query(
        "select count(*), coalesce(sum(delta), 0) from pgbench_history", "test", "test"
    )[0]
    assert (written, total) == (CLIENTS * TRANSACTIONS if load == "tpcb-like" else 0, after[0] - before[0])


def balances(stack: Stack) -> tuple[int, int, int]:
    """What branches, tellers and accounts hold together, each."""
    return stack.primary.query(
        "select (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers), "
        "(select sum(abalance) from pgbench_accounts)",
        "test",
        "test",
    )[0]


@pytest.mark.parametrize("pool", ["transaction", "session"])
def test_a_connection_per_transaction(pgbench: str, wire_front: Front, pool: str) -> None:
    output = run(pgbench, wire_front.database(pool), "-n", "-C", "-S", "-c", "4", "-j", "2", "-t", "20")
    assert counted(output) == (80, 0)


def test_a_pipeline_of_statements(pgbench: str, wire_front: Front, tmp_path: object) -> None:
    script = f"{tmp_path}/pipeline.sql"
    with open(script, "w") as file:
        file.write(
            "\\startpipeline\n" + "select 1;\nselect abalance from pgbench_accounts where aid = 1;\n" * 5
        )
        file.write("\\endpipeline\n")
    options = ["-n", "-M", "prepared", "-f", script, "-c", "4", "-t", "50"]
    assert counted(run(pgbench, wire_front.database("transaction"), *options)) == (200, 0)
