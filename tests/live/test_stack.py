"""The stack itself: real servers, streaming, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgcat_cluster.demo.processes import wait_until
from pgcat_cluster.demo.stack import Stack
from tests.support.stack import StackMaker

pytestmark = pytest.mark.once


def test_a_primary_and_two_streaming_replicas(pg_stack: Stack) -> None:
    assert [server.query("select pg_is_in_recovery()") for server in pg_stack.servers] == [
        [(False,)],
        [(True,)],
        [(True,)],
    ]
    assert [replica.is_streaming() for replica in pg_stack.replicas] == [True, True]
    streaming = pg_stack.primary.query("select application_name from pg_stat_replication order by 1")
    assert streaming == [("r1",), ("r2",)]


def test_every_user_can_log_in_where_it_should(pg_stack: Stack) -> None:
    assert pg_stack.primary.query("select current_user", "test", "test") == [("test",)]
    assert pg_stack.replicas[1].query("select current_user", "replicator", "postgres") == [("replicator",)]
    assert pg_stack.replicas[0].query("select pg_has_role('pg_monitor', 'member')", "pgcat_probe") == [
        (True,)
    ]


def test_servers_die_freeze_and_come_back(make_stack: StackMaker) -> None:
    stack = make_stack(replicas=1)
    replica = stack.replicas[0]
    replica.kill()
    assert not replica.is_running()
    replica.start()
    assert replica.query("select 1") == [(1,)]
    replica.freeze()
    replica.resume()
    assert replica.query("select 1") == [(1,)]
    replica.promote()
    assert replica.query("select pg_is_in_recovery()") == [(False,)]


def test_a_standby_follows_another_primary(make_stack: StackMaker) -> None:
    stack = make_stack()
    first, second = stack.replicas
    stack.primary.stop("immediate")
    first.promote()
    second.follow(first)
    wait_until(second.is_streaming, within_s=60.0, what="r2 streams from r1")
    first.query("create table moved as select 1 as n")
    wait_until(
        lambda: second.query("select to_regclass('moved') is not null") == [(True,)],
        within_s=60.0,
        what="r2 has it",
    )


def test_nothing_is_left_behind() -> None:
    with Stack(replicas=1) as stack:
        pids = [server.pid for server in stack.servers]
        folder = stack.folder
    assert not folder.exists()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
