"""The time in what nodes write: in the store for people, out of sight of whoever reads through the same port."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from pgcat_cluster.agreement.documents import Ack, Coord, Live, decode, encode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import (
    Batch,
    Compare,
    Event,
    Field,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.fleet.model import ModelPort, ModelStore
from pgcat_cluster.fleet.stamps import Stamped, written_at

pytestmark = pytest.mark.once

KEYS = Keys("f")
AT = "2026-03-01T12:00:00.250Z"
WALL_S = datetime.fromisoformat(AT).timestamp()
SAID = {
    KEYS.coord: encode(Coord(node="n1.0")),
    KEYS.ack("n1.0"): encode(Ack()),
    KEYS.live("n1.0"): encode(
        Live(name="n1", host="h", state="serving", addr="a:1", version="1", ttl=6.0, features=("x",))
    ),
}
# What is not the nodes' own stays to the byte, whatever it looks like.
KEPT = {
    KEYS.config_prefix + "pools/p": b'{"note":"x","at":"' + AT.encode() + b'"}',
    "/service/shop/leader": b'{"at":"' + AT.encode() + b'"}',
}


@pytest.fixture
def port() -> ModelPort:
    return ModelPort(ModelStore(), now_s=lambda: 0.0, pause=asyncio.sleep)


@pytest.fixture
def stamped(port: ModelPort) -> Stamped:
    return Stamped(port, KEYS, wall_s=lambda: WALL_S)


async def put_all(store: Stamped) -> None:
    no = Compare(key="/no", field=Field.CREATE, operator=">", operand=0)
    first, *rest = [Put(key=key, value=value) for key, value in (SAID | KEPT).items()]
    await store.txn(Transaction(then=(first,)))
    await store.txn(Transaction(compares=(no,), otherwise=tuple(rest)))


async def test_who_reads_through_it_reads_what_was_written(stamped: Stamped) -> None:
    await put_all(stamped)
    wanted = SAID | KEPT
    _revision, rows = await stamped.snapshot(("/",))
    assert {row.key: row.value for row in rows} == wanted
    outcome = await stamped.txn(Transaction(then=(Range(key="/", prefix=True),)))
    (answer,) = outcome.answers
    assert isinstance(answer, Rows)
    assert {row.key: row.value for row in answer.rows} == wanted
    watch = stamped.watch("/", 1)
    seen = {}
    while len(seen) < len(wanted):
        for event in (await anext(watch)).events:
            assert event.row is not None
            seen[event.key] = event.row.value
    await watch.close()
    assert seen == wanted


async def test_who_reads_the_store_reads_when(stamped: Stamped, port: ModelPort) -> None:
    await put_all(stamped)
    _revision, rows = await port.snapshot(("/",))
    found = {row.key: row for row in rows}
    for key, value in SAID.items():
        assert json.loads(found[key].value) == json.loads(value) | {"at": AT}
        batch = Batch(revision=2, events=(Event(key=key, row=found[key]),))
        assert written_at(KEYS, batch) == datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC)
    for key, value in KEPT.items():
        assert found[key].value == value
        assert written_at(KEYS, Batch(revision=2, events=(Event(key=key, row=found[key]),))) is None
    assert decode(KEYS.coord, found[KEYS.coord].value, Coord) == Coord(node="n1.0", at=AT)


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{", b'{"at":7}', b'{"at":"soon"}', b"\xff", encode(Coord(node="n"))]
)
def test_a_time_that_nobody_can_read_is_none(value: bytes) -> None:
    row = Row(key=KEYS.coord, value=value, create_revision=2, mod_revision=2)
    assert written_at(KEYS, Batch(revision=2, events=(Event(key=row.key, row=row),))) is None
