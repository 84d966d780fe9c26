"""The corpus of statements for sharded pools, run over real shards: each goes where its file says, or is refused."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.relay.selectors import ARRAYS
from pgcat_cluster.routing import pg_bigint_hash
from pgcat_cluster.sql import grammar
from tests.support.keyed_routes import (
    FOLDER,
    OTHER_WAYS,
    SHARDS,
    KeyedRoute,
    read_keyed_routes,
    rewritable,
    rules,
)
from tests.support.nodes import connect
from tests.support.sharding import config
from tests.support.shards import Database, Outcome, Shards, outcome, sharded

pytestmark = [
    pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform"),
    pytest.mark.once,
]

NAME = "corpus"
REFUSED = "0A000"
ROUTES = read_keyed_routes()
# What every parameter is: the key of this shard.
VALUE = 7
_PLACE = re.compile(r"(primary|replica), (?:(any shard)|shard (\d+)|shard of (.+?)|shards .+?)  #")
_CHANGING = re.compile(
    r"\b(?:explain|now|random|nextval|clock_timestamp|current_timestamp|pg_backend_pid)\b", re.I
)


@dataclass(frozen=True)
class Place:
    """Where a statement goes by the corpus; `shard` None: any. What must be refused has no place."""

    role: str
    shard: int | None


def place_of(route: KeyedRoute) -> Place | None:
    found = _PLACE.match(route.expected)
    if found is None:
        return None
    role, is_any, shard, values = found.groups()
    if is_any:
        return Place(role, None)
    if shard is not None:
        return Place(role, int(shard))
    if values is None:
        return None
    # Constants that are no plain integers are left to the tests of keys.
    words = [str(VALUE) if word.startswith("$") else word for word in values.split()]
    if not all(re.fullmatch(r"-?\d+", word) for word in words):
        return None
    shards = {pg_bigint_hash(int(word), SHARDS) for word in words}
    return Place(role, shards.pop()) if len(shards) == 1 else None


@dataclass(frozen=True)
class Parameters:
    """Of one statement, with the types that a server takes them for."""

    values: list[bytes]
    types: list[int]


@dataclass(frozen=True)
class Fixture:
    """The databases themselves, and how to become a client of the node in front of them."""

    databases: Shards
    connect: Callable[[], psycopg.Connection]

    def direct(self, shard: int, text: str, parameters: Parameters) -> Outcome:
        """What a shard itself answers; nothing of it stays."""
        database = self.databases.shards[shard]
        database.run("begin")
        found = send(database.connection, text, parameters, False)
        database.run("rollback")
        return found

    def parameters(self, text: str) -> Parameters:
        """The value for each parameter of a statement; of no type if no server takes the statement."""
        count = max((int(number) for number in re.findall(r"\$(\d+)\b", text)), default=0)
        types = self.databases.shards[0].parameter_types(text) if count else []
        values = [f"{{{VALUE}}}" if oid in ARRAYS.values() else str(VALUE) for oid in types or [0] * count]
        return Parameters([value.encode() for value in values], types if len(types) == count else [0] * count)


@pytest.fixture(scope="module")
def shards(wire_stack: Stack) -> Iterator[Fixture]:
    found = rules()
    tables = "\n".join(
        f"tables.{quoted(table)} = {{ key = {quoted(key)} }}" for table, key in found.tables.items()
    )
    reference = ", ".join(map(quoted, sorted(found.reference)))
    databases = [f"{NAME}_{number}" for number in range(SHARDS)]
    schema = (FOLDER / "schema.sql").read_text()
    with sharded(wire_stack, schema, SHARDS, name=NAME, rows=8, seed=1) as made:
        for database in made.shards:
            database.run(_GRANT)
        node = wire_stack.add_node(
            config=config(
                wire_stack.clusters * SHARDS,
                databases,
                pools={NAME: "bigint"},
                sharding=f"key = {quoted(found.key)}\n{tables}\nreference = [{reference}]",
            )
        )
        yield Fixture(made, lambda: connect(node, NAME))
        node.stop()


_GRANT = """
    do $$ declare name text; begin
        for name in select nspname from pg_namespace where nspname !~ '^pg_|^information' loop
            execute format('grant all on schema %1$I to test; grant all on all tables in schema %1$I to test;
                grant all on all sequences in schema %1$I to test', name);
        end loop;
    end $$
"""


def quoted(text: str) -> str:
    return "'" + text + "'"


def comparable(found: Outcome, text: str) -> object:
    """What must be the same whoever runs it, and when."""
    if found.failed:
        return found.sqlstate
    return [tag for tag, _ in found.results] if _CHANGING.search(text) else found.results


def send(client: psycopg.Connection, text: str, parameters: Parameters, is_prepared: bool) -> Outcome:
    """As it is: simple, and extended where it has parameters; or by its name."""
    link = client.pgconn
    if not is_prepared:
        if not parameters.values:
            return Database(client).run(text)
        return outcome([link.exec_params(text.encode(), parameters.values, parameters.types)])
    return outcome([link.exec_prepared(_name(text), parameters.values)])


def prepare(client: psycopg.Connection, text: str, parameters: Parameters) -> Outcome:
    return outcome([client.pgconn.prepare(_name(text), text.encode(), parameters.types)])


def _name(text: str) -> bytes:
    return str(hash(text)).encode()


@pytest.mark.parametrize("is_prepared", [False, True], ids=["as it is", "prepared"])
def test_every_statement_goes_where_its_file_says(shards: Fixture, is_prepared: bool) -> None:
    wrong: list[str] = []
    counted = Counter[str]()
    client = shards.connect()
    for route in ROUTES:
        text, parameters, place = route.text, shards.parameters(route.text), place_of(route)
        # Several statements in one string can not be prepared, and COPY TO says nothing that could be compared.
        if is_prepared and re.search(r"\bcopy\b|;\s*\S", text, re.I):
            continue
        if (place is None and "shard of" in route.expected) or re.match("begin;", text, re.I):
            continue
        if place is None or place.shard is None or client.closed:
            # It may begin a transaction, or say anything else to a session.
            client.close()
            client = shards.connect()
        ready = prepare(client, text, parameters) if is_prepared else Outcome(())
        if ready.failed:
            # What no server can prepare, a server of any shard says in its own words.
            found: object = ready.sqlstate
            expected: object = found if place is None else f"not {REFUSED}"
            if place is not None and place.shard is not None:
                expected = shards.direct(place.shard, text, parameters).sqlstate
            is_right = found == expected if place is None or place.shard is not None else found != REFUSED
        elif place is None:
            refused = send(client, text, parameters, is_prepared)
            # What breaks the grammar is told as any server tells it.
            is_broken = route.expected.endswith("does not parse")
            sqlstate = shards.direct(0, text, parameters).sqlstate if is_broken else REFUSED
            found, expected = (refused.sqlstate, client.info.transaction_status), (sqlstate, 0)
            is_right = found == expected
        elif place.shard is None:
            found, expected = send(client, text, parameters, is_prepared).sqlstate, f"not {REFUSED}"
            is_right = found != REFUSED
        else:
            answer = comparable(shards.direct(place.shard, text, parameters), text)
            found, expected = (
                _run(client, place, text, parameters, is_prepared),
                (place.shard, place.role, answer),
            )
            is_right = found == expected
        counted["refused" if place is None else "any shard" if place.shard is None else place.role] += 1
        if not is_right:
            wrong.append(f"{route}: {text}: {found} instead of {expected}")
            client.close()
    client.close()
    print(dict(counted))
    assert wrong == []
    assert min(counted.values()) > 40


def _run(
    client: psycopg.Connection, place: Place, text: str, parameters: Parameters, is_prepared: bool
) -> tuple[int, str, object]:
    """Where a statement went, and what came of it; nothing of it stays."""
    if place.role == "replica":
        found = comparable(send(client, text, parameters, is_prepared), text)
        row = client.execute(b"show pgcat.route").fetchone()
        assert row is not None
        return int(row[0] or -1), row[1], found
    client.execute(b"begin")
    found = comparable(send(client, text, parameters, is_prepared), text)
    shard, role = place.shard, "primary"
    if client.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
        row = client.execute(b"select current_database(), pg_is_in_recovery()").fetchone()
        assert row is not None
        shard, role = int(row[0].removeprefix(f"{NAME}_")), "replica" if row[1] else "primary"
    client.execute(b"rollback")
    assert shard is not None
    return shard, role, found


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_another_way_to_write_it_changes_nothing(shards: Fixture, way: str) -> None:
    chance = random.Random(5)
    wrong: list[str] = []
    changed = 0
    with shards.connect() as client:
        for route in rewritable(way, ROUTES):
            text = OTHER_WAYS[way](route.text, chance)
            if re.search(r"^;|;\s*\S", text):
                continue  # EXPLAIN ROUTE is for one statement
            changed += text != route.text
            targets = [explained(client, form) for form in (route.text, text)]
            place = place_of(route)
            if place is None:
                is_right = targets[0].startswith("Route: none, it is refused")
            elif place.shard is None:
                is_right = targets[0].startswith(
                    ("Route: shard", "Route: any shard", "Route: none, it is answered")
                )
            else:
                is_right = targets[0] == f"Route: shard {place.shard}, {place.role}"
            # What breaks the grammar is told in its own letters.
            if not is_right or targets[0].lower() != targets[1].lower():
                wrong.append(f"{route}: {text}: {targets}, not {route.expected}")
    assert wrong == []
    assert changed > 150


def explained(client: psycopg.Connection, text: str) -> str:
    """The line of EXPLAIN ROUTE that says where."""
    row = client.execute(b"explain route " + text.encode()).fetchone()
    assert row is not None
    return str(row[0])
