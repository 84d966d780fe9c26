"""Many pools with users and servers of their own, which come and go under load and disturb nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.fleets import PATIENT, Fleet, FleetMaker
from tests.support.nodes import PATIENT_HEALTH, config, connect, eventually, one
from tests.support.stack import NodeMaker, StackMaker

pytestmark = pytest.mark.once

# A node that stands still lets another answer meanwhile. Answers and not seconds are counted, since a busy machine
# is slow for both: two thousand of them are about a second of a machine that does nothing else, and 650 were measured
# on two busy cores.
ROUNDS_MAX = 2000
IDLE_BYTES_MAX = 200 << 10
# A late server is no ill one, for the node that is compared with either.
ALONE = config(tables=PATIENT_HEALTH)


def tenant(stack: Stack, number: int, size: int = 3) -> dict[str, str | None]:
    """The documents of one: its servers, its user, its pool."""
    name, server = f"t{number}", stack.primary
    probe = '{ user = "pgcat_probe", secret = "file:probe.secret", database = "template1" }'
    return {
        f"clusters/{name}": f'probe = {probe}\n[servers]\nown = {{ host = "{server.host}", port = {server.port} }}',
        f"users/{name}": 'secret = "file:test.secret"\nserver_user = "test"',
        f"pools/{name}": f'cluster = "{name}"\nserver_database = "postgres"\nsize = {size}\n[users.{name}]',
    }


def none_of(documents: Mapping[str, str | None]) -> dict[str, str | None]:
    return dict.fromkeys(documents)


def enter(node: Node, number: int) -> psycopg.Connection[tuple[object, ...]]:
    """A client of a tenant."""
    name, password = f"t{number}", node.passwords["test"]
    return psycopg.connect(
        host=node.host, port=node.port, user=name, password=password, dbname=name, autocommit=True
    )


class Asking:
    """A client that asks without a pause, and counts the answers; `heard` is called with each."""

    def __init__(self, node: Node, heard: Callable[[], None] = lambda: None) -> None:
        self.answers = 0
        self.failures: list[Exception] = []
        self._node = node
        self._heard = heard
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Asking:
        self._thread.start()
        eventually(lambda: self.answers > 0 or bool(self.failures), "it is answered")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self._thread.join(20)

    def _ask(self) -> None:
        try:
            with connect(self._node) as client:
                while not self._stop_asked.is_set():
                    one(client, "select 1")
                    self.answers += 1
                    self._heard()
        except Exception as failure:
            self.failures.append(failure)


class Bystander(Asking):
    """A client of a pool that nobody edits; `worst` is how often another node answered while one answer was due."""

    def __init__(self, node: Node, control: Asking) -> None:
        super().__init__(node, self._compare)
        self.worst = 0
        self._control = control
        self._before = control.answers

    def _compare(self) -> None:
        now = self._control.answers
        self.worst, self._before = max(self.worst, now - self._before), now


def memory_bytes(node: Node) -> int:
    """What a node holds of the machine's memory."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


class Sessions:
    """What the server says of who is logged in there."""

    def __init__(self, stack: Stack) -> None:
        self._dsn = stack.primary.dsn("postgres", "postgres")

    def count(self, condition: str) -> int:
        with psycopg.connect(self._dsn, autocommit=True) as session:
            row = session.execute(
                f"select count(*) from pg_stat_activity where {condition}".encode()
            ).fetchone()
            assert row is not None
            return int(row[0])

    def of_tenants(self) -> int:
        """Pools of tenants alone log in to this database as this user."""
        return self.count("datname = 'postgres' and usename = 'test'")

    def of_probes(self) -> int:
        """Of those that look at servers of tenants: they alone ask in this database."""
        return self.count("application_name = 'pgcat_cluster probe' and datname = 'template1'")


def come_and_go(
    fleet: Fleet,
    alone: Node,
    *,
    count: int,
    rounds: int,
    record: Callable[[str, object], None],
) -> None:
    """So many tenants are there all the time; in each round some come, are edited, are used, and go."""
    stack, nodes, sessions = fleet.stack, fleet.nodes, Sessions(fleet.stack)
    few = max(2, count // 20)
    before_bytes = [memory_bytes(node) for node in nodes]
    with (
        Asking(alone) as control,
        Bystander(nodes[0], control) as first,
        Bystander(nodes[-1], control) as last,
    ):
        transaction = connect(nodes[0])
        transaction.execute("begin")
        pid = one(transaction, "select pg_backend_pid()")

        staying = {name: text for number in range(count) for name, text in tenant(stack, number).items()}
        fleet.edit(staying)
        eventually(lambda: fleet.runs(staying), "all tenants are there")
        # Nobody used them: nothing is open but one link of each node's probes to each server.
        eventually(lambda: sessions.of_probes() == len(nodes) * count, "there is one probe for each server")
        eventually(lambda: sessions.of_tenants() == 0, "their pools hold nothing")
        record("bytes_per_idle_tenant", per_tenant := _grown(nodes, before_bytes) // count)
        assert per_tenant < IDLE_BYTES_MAX

        for turn in range(rounds):
            numbers = range(count + turn * few, count + (turn + 1) * few)
            for number in numbers:
                for name, text in tenant(stack, number).items():
                    fleet.put(f"config/{name}", text or "")
            new = {name: text for number in numbers for name, text in tenant(stack, number).items()}
            eventually(lambda new=new: fleet.runs(new), "they came")
            for node in nodes:
                with enter(node, numbers[0]) as client:
                    assert one(client, "select current_database()") == "postgres"
            larger = {name: text for number in numbers for name, text in tenant(stack, number, 7).items()}
            fleet.edit({name: text for name, text in larger.items() if text != new[name]})
            eventually(lambda larger=larger: fleet.runs(larger), "they are larger")
            for name in sorted(new, reverse=True):
                fleet.delete(f"config/{name}")
            eventually(lambda new=new: fleet.runs(none_of(new)), "they went")
            for node in nodes:
                with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                    enter(node, numbers[0])

        assert one(transaction, "select pg_backend_pid()") == pid
        transaction.execute("commit")
        transaction.close()
        record("answers", (control.answers, first.answers, last.answers))
        record("worst_rounds", (first.worst, last.worst))
    assert control.failures == first.failures == last.failures == []
    assert max(first.worst, last.worst) < ROUNDS_MAX
    eventually(lambda: sessions.of_tenants() == 0, "nothing of those who went is left")
    eventually(lambda: sessions.of_probes() == len(nodes) * count, "nobody looks at their servers")


def _grown(nodes: list[Node], before_bytes: list[int]) -> int:
    return max(memory_bytes(node) - before for node, before in zip(nodes, before_bytes, strict=True))


def documents(count: int, rounds: int) -> str:
    """The fleet's own: who may go without another word, and servers that are looked at now and then."""
    leaving = range(count, count + rounds * max(2, count // 20))
    names = [f'"{table}/t{number}"' for number in leaving for table in ("pools", "clusters")]
    return f"allow_delete = [{', '.join(names)}]\n" + PATIENT.replace(
        "[health]", '[health]\ninterval = "60s"'
    )


def test_tenants_come_and_go_and_disturb_nobody(
    make_fleet: FleetMaker, start_node: NodeMaker, record_property: Callable[[str, object], None]
) -> None:
    fleet = make_fleet(nodes=2, fleet=documents(40, 2))
    come_and_go(fleet, start_node(config=ALONE), count=40, rounds=2, record=record_property)


@pytest.mark.live_long
def test_many_tenants_come_and_go_and_disturb_nobody(
    make_fleet: FleetMaker, make_stack: StackMaker, record_property: Callable[[str, object], None]
) -> None:
    stack = make_stack(replicas=0, settings={"max_connections": "900"})
    fleet = make_fleet(nodes=3, stack=stack, fleet=documents(200, 5))
    alone = stack.add_node(config=ALONE)
    come_and_go(fleet, alone, count=200, rounds=5, record=record_property)
