"""What an operator orders all nodes to do, as guarded transactions; and which nodes have obeyed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from pgcat_cluster.agreement.cases import unban as forgiven
from pgcat_cluster.agreement.documents import (
    Ack,
    PoolOverride,
    Seat,
    ServerOverride,
    Undecodable,
    decode,
    decode_override,
    encode,
)
from pgcat_cluster.agreement.keys import Keys, Kind, name_of
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Field,
    Operation,
    Put,
    Row,
    Transaction,
    absent,
    unchanged,
)

# One transaction may have 128 operations; some are left for questions.
KEYS_PER_ORDER_MAX = 100

Place = tuple[str, str]
"""A cluster and one of its servers."""


class FleetFault(Exception):
    """What was asked of all nodes was not done, or not by all; who tells an operator has words of his own for it.

    The detail names those that did not answer, the hint says what can be done.
    """

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.detail = detail
        self.hint = hint
        super().__init__(": ".join(filter(None, (message, detail))))


class Order(Struct, frozen=True, kw_only=True):
    """What is to be written, nothing of it if a key has changed since `before` was read."""

    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    before: Mapping[str, Row | None]

    def undone(self, revision: int) -> Transaction:
        """All as it was before, unless somebody has written there since `revision`, when it was carried out."""
        return Transaction(
            compares=tuple(
                Compare(key=key, field=Field.MOD, operator="==", operand=revision) for key in self.before
            ),
            then=tuple(
                Delete(key=key) if row is None else Put(key=key, value=row.value, lease=row.lease)
                for key, row in self.before.items()
            ),
        )


def _order(memory: Memory, values: Mapping[str, bytes | None], lease: int = 0) -> Order:
    before = {key: memory.row(key) for key in values}
    return Order(
        compares=tuple(absent(key) if row is None else unchanged(row) for key, row in before.items()),
        then=tuple(
            Delete(key=key) if value is None else Put(key=key, value=value, lease=lease)
            for key, value in values.items()
        ),
        before=before,
    )


# ---- servers


def ban(memory: Memory, keys: Keys, servers: Iterable[Place], by: str, lease: int = 0) -> Order:
    """Nobody uses these servers, whatever was said of them before; with a lease until that ends."""
    value = encode({"action": "ban", "by": by})
    return _order(memory, {keys.server_override(*server): value for server in servers}, lease)


def unban(memory: Memory, keys: Keys, servers: Iterable[Place]) -> Order | None:
    """Take back what operators and the fleet banned, and forgive the strikes; None: nothing is banned."""
    bans = {
        key: None
        for server in servers
        if (said := server_override(memory, keys, server)) is not None and said.action == "ban"
        for key in [keys.server_override(*server)]
    }
    order = _order(memory, bans)
    compares, then = list(order.compares), list(order.then)
    for server in servers:
        if (cleared := forgiven(memory, keys, *server)) is not None:
            compares += cleared.compares
            then += cleared.then
    return Order(compares=tuple(compares), then=tuple(then), before=order.before) if then else None


def server_override(memory: Memory, keys: Keys, server: Place) -> ServerOverride | None:
    """What an operator said of a server; None also if that means nothing."""
    row = memory.row(keys.server_override(*server))
    if row is None:
        return None
    try:
        said = decode_override(row.key, Kind.OVERRIDE_SERVER, row.value)
    except Undecodable:
        return None
    assert isinstance(said, ServerOverride)
    return said


# ---- pools


def pause(memory: Memory, keys: Keys, pools: Iterable[str], by: str) -> Order:
    """No transaction begins in these pools; a pause that is there already is said again."""
    return _pools(memory, keys, {pool: _said(memory, keys, pool, action="pause", by=by) for pool in pools})


def resume(memory: Memory, keys: Keys, pools: Iterable[str]) -> Order | None:
    """Take back the pauses of these pools; None: there are none."""
    paused = [pool for pool in pools if is_paused(memory, keys, pool)]
    if not paused:
        return None
    return _pools(memory, keys, {pool: _said(memory, keys, pool, action=None) for pool in paused})


def reconnect(memory: Memory, keys: Keys, pools: Iterable[str], by: str) -> Order:
    """The links of these pools are replaced.

    The number is the store's revision: it has grown also where the number before it was deleted unseen.
    """
    values = {}
    for pool in pools:
        number = max((pool_override(memory, keys, pool).reconnect or 0) + 1, memory.revision)
        values[pool] = _said(memory, keys, pool, reconnect=number, by=by)
    return _pools(memory, keys, values)


def is_paused(memory: Memory, keys: Keys, pool: str) -> bool:
    return pool_override(memory, keys, pool).action == "pause"


def pool_override(memory: Memory, keys: Keys, pool: str) -> PoolOverride:
    """What operators said of a pool; nothing also if that can not be read."""
    row = memory.row(keys.pool_override(pool))
    if row is None:
        return PoolOverride()
    try:
        said = decode_override(row.key, Kind.OVERRIDE_POOL, row.value)
    except Undecodable:
        return PoolOverride()
    assert isinstance(said, PoolOverride)
    return said


def _said(memory: Memory, keys: Keys, pool: str, **changes: object) -> PoolOverride:
    return structs.replace(pool_override(memory, keys, pool), **changes)


def _pools(memory: Memory, keys: Keys, said: Mapping[str, PoolOverride]) -> Order:
    """A key that says nothing any more goes."""
    return _order(
        memory,
        {
            keys.pool_override(pool): _encoded(one) if one.action or one.reconnect is not None else None
            for pool, one in said.items()
        },
    )


def _encoded(override: PoolOverride) -> bytes:
    return encode(
        {name: value for name, value in structs.asdict(override).items() if value not in (None, "")}
    )


# ---- who has obeyed


class Obeyed(Struct, frozen=True, kw_only=True):
    """What became of an order that every live node obeys now.

    `lost` are nodes that had been lost before: dead, or cut off, and then they do not know of it. `unasked` could
    not be asked.
    """

    nodes: tuple[str, ...]
    lost: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


class RollCall(Struct, frozen=True, kw_only=True):
    """How far the nodes that were there have come.

    `silent` have not said that they obey; `busy` do, but these of their pools still hold server links. `lost`
    said nothing before their leases ended, and did not leave: they are dead, or cut off and still serve.
    """

    obeyed: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    busy: Mapping[str, tuple[str, ...]] = {}
    lost: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Nothing more is to be waited for."""
        return not self.silent and not self.busy


def roll_call(
    keys: Keys, memory: Memory, asked: Sequence[str], revision: int, pauses: Mapping[str, int]
) -> RollCall:
    """Who of `asked`, the nodes live at `revision`, obeys the overrides of that revision.

    `pauses` gives the pools whose links have to go, each with the revision of its pause. Who joined later began
    with all of it; who left has nothing that could obey.
    """
    obeyed, silent, busy, lost = [], [], {}, []
    for node in asked:
        if memory.row(keys.live(node)) is None:
            if _still_seated(keys, memory, node):
                lost.append(node)
            continue
        ack = _ack(keys, memory, node)
        if ack is not None and ack.active is None:
            continue  # it goes by nothing yet, and serves nobody
        if ack is None or ack.applied is None or ack.applied.override < revision:
            silent.append(node)
        elif full := tuple(pool for pool, at in pauses.items() if ack.drained.get(pool, 0) < at):
            busy[node] = full
        else:
            obeyed.append(node)
    return RollCall(obeyed=tuple(obeyed), silent=tuple(silent), busy=busy, lost=tuple(lost))


def lost_seats(rows: Iterable[Row], live: Iterable[str]) -> tuple[str, ...]:
    """Nodes that have a seat and are not live: dead, or cut off. `rows` are all seats."""
    there = set(live)
    seats = [_decoded_seat(row) for row in rows]
    return tuple(seat.node for seat in seats if seat is not None and seat.node not in there)


def _still_seated(keys: Keys, memory: Memory, node: str) -> bool:
    row = memory.row(keys.seat(name_of(node)))
    seat = _decoded_seat(row) if row is not None else None
    return seat is not None and seat.node == node


def _decoded_seat(row: Row) -> Seat | None:
    try:
        return decode(row.key, row.value, Seat)
    except Undecodable:
        return None


def _ack(keys: Keys, memory: Memory, node: str) -> Ack | None:
    row = memory.row(keys.ack(node))
    if row is None:
        return None
    try:
        return decode(row.key, row.value, Ack)
    except Undecodable:
        return None
