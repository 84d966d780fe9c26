"""Orders of operators as transactions against a store, and who has obeyed them."""

from __future__ import annotations

import msgspec

from pgcat_cluster.agreement import orders
from pgcat_cluster.agreement.documents import Ack, Active, Applied, Live, Seat, encode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.orders import Order, RollCall, lost_seats, roll_call
from pgcat_cluster.agreement.transactions import Delete, Operation, Outcome, Put, Transaction
from pgcat_cluster.fleet.model import ModelStore

KEYS = Keys("eu")
N1, N2, N3 = "n1.00000001", "n2.00000002", "n3.00000003"
R1, R2 = ("main", "r1"), ("main", "r2")


class World:
    """A store, and what an operator reads of it."""

    def __init__(self) -> None:
        self.store = ModelStore()

    def put(self, key: str, value: object) -> int:
        data = value.encode() if isinstance(value, str) else encode(value)  # type: ignore[arg-type]
        return self.txn(Put(key=KEYS.root + key, value=data)).revision

    def txn(self, *then: Operation) -> Outcome:
        return self.store.txn(Transaction(then=then), 0.0)

    def carry_out(self, order: Order | None) -> Outcome:
        assert order is not None
        return self.store.txn(Transaction(compares=order.compares, then=order.then), 0.0)

    @property
    def memory(self) -> Memory:
        revision, rows = self.store.snapshot([KEYS.root], 0.0)
        memory = Memory()
        for prefix in (KEYS.override, KEYS.decided, KEYS.live_prefix, KEYS.ack_prefix, KEYS.seat_prefix):
            memory.replace(prefix, [row for row in rows if row.key.startswith(prefix)], revision)
        return memory

    @property
    def overrides(self) -> dict[str, object]:
        rows = self.memory.under(KEYS.override)
        return {row.key.removeprefix(KEYS.override): _read(row.value) for row in rows}


def _read(value: bytes) -> object:
    return msgspec.json.decode(value) if value[:1] == b"{" else value.decode()


# -- servers


def test_a_ban_takes_the_place_of_what_was_said_before() -> None:
    world = World()
    world.put("override/main/r1", "pin")
    assert world.carry_out(orders.ban(world.memory, KEYS, [R1, R2], "op")).succeeded
    assert world.overrides == {
        "main/r1": {"action": "ban", "by": "op"},
        "main/r2": {"action": "ban", "by": "op"},
    }


def test_nothing_is_written_over_what_somebody_else_wrote_meanwhile() -> None:
    world = World()
    order = orders.ban(world.memory, KEYS, [R1, R2], "op")
    world.put("override/main/r2", "pin")
    assert not world.carry_out(order).succeeded
    assert world.overrides == {"main/r2": "pin"}


def test_unban_takes_back_bans_of_both_kinds_and_forgives_strikes() -> None:
    world = World()
    world.put("override/main/r1", "ban")
    world.put("decided/ban/main/r1/fleet", "{}")
    world.put("decided/ban/main/r1/zone:a", "{}")
    world.put("decided/strikes/main/r1", "{}")
    world.put("decided/ban/main/r2/fleet", "{}")
    order = orders.unban(world.memory, KEYS, [R1])
    assert world.carry_out(order).succeeded
    assert [KEYS.below(row.key) for row in world.memory.under(KEYS.root)] == ["decided/ban/main/r2/fleet"]


def test_unban_leaves_other_words_of_operators_alone() -> None:
    world = World()
    for word in ("drain", "pin", "ignore", "no word at all"):
        world.put("override/main/r1", word)
        assert orders.unban(world.memory, KEYS, [R1]) is None
    assert orders.unban(world.memory, KEYS, [R2]) is None


# -- pools


def test_pause_and_resume_keep_what_else_is_said_of_a_pool() -> None:
    world = World()
    world.put("override/_pool/app", {"reconnect": 3})
    world.carry_out(orders.pause(world.memory, KEYS, ["app", "b"], "op"))
    assert world.overrides == {
        "_pool/app": {"action": "pause", "by": "op", "reconnect": 3},
        "_pool/b": {"action": "pause", "by": "op"},
    }
    world.carry_out(orders.resume(world.memory, KEYS, ["app", "b", "c"]))
    assert world.overrides == {"_pool/app": {"by": "op", "reconnect": 3}}
    assert orders.resume(world.memory, KEYS, ["app", "b"]) is None


def test_a_pause_in_one_word_is_resumed_too() -> None:
    world = World()
    world.put("override/_pool/app", "pause")
    assert orders.is_paused(world.memory, KEYS, "app")
    world.carry_out(orders.resume(world.memory, KEYS, ["app"]))
    assert world.overrides == {}


def test_a_pause_is_undone_unless_somebody_wrote_there_since() -> None:
    world = World()
    world.put("override/_pool/app", {"reconnect": 3})
    order = orders.pause(world.memory, KEYS, ["app", "b"], "op")
    paused_at = world.carry_out(order).revision
    assert world.store.txn(order.undone(paused_at), 0.0).succeeded
    assert world.overrides == {"_pool/app": {"reconnect": 3}}
    order = orders.pause(world.memory, KEYS, ["app", "b"], "op")
    paused_at = world.carry_out(order).revision
    world.put("override/_pool/b", "pause")
    assert not world.store.txn(order.undone(paused_at), 0.0).succeeded
    assert set(world.overrides) == {"_pool/app", "_pool/b"}


def test_the_number_of_a_reconnect_grows_although_the_one_before_was_deleted() -> None:
    world = World()
    numbers = []
    for _ in range(3):
        world.carry_out(orders.reconnect(world.memory, KEYS, ["app"], "op"))
        numbers.append(orders.pool_override(world.memory, KEYS, "app").reconnect or 0)
        world.txn(Delete(key=KEYS.pool_override("app")))
    assert numbers == sorted(set(numbers))
    world.put("override/_pool/app", {"action": "pause", "reconnect": 1000})
    world.carry_out(orders.reconnect(world.memory, KEYS, ["app"], "op"))
    assert world.overrides == {"_pool/app": {"action": "pause", "by": "op", "reconnect": 1001}}


# -- who has obeyed


def _live(world: World, node: str) -> None:
    live = Live(name=node[:2], host="h", state="serving", addr="a", version="1", ttl=6.0)
    world.put(f"live/{node}", live)
    world.put(f"seat/{node[:2]}", Seat(node=node, host="h"))


def _ack(world: World, node: str, override: int, **drained: int) -> None:
    applied = Applied(decided=0, override=override)
    world.put(f"ack/{node}", Ack(active=Active(gen=1), applied=applied, drained=drained))


def test_each_node_that_was_there_has_to_say_that_it_obeys() -> None:
    world = World()
    for node in (N1, N2, N3):
        _live(world, node)
        _ack(world, node, 5)

    def call(**pauses: int) -> RollCall:
        return roll_call(KEYS, world.memory, (N1, N2, N3), 10, pauses)

    assert call() == RollCall(silent=(N1, N2, N3))
    _ack(world, N1, 10)
    _ack(world, N2, 11, app=10)
    assert call() == RollCall(obeyed=(N1, N2), silent=(N3,))
    assert call(app=10) == RollCall(obeyed=(N2,), silent=(N3,), busy={N1: ("app",)})
    assert not call(app=10).is_over
    # A pause from before this one proves nothing.
    _ack(world, N1, 10, app=9)
    assert call(app=10).busy == {N1: ("app",)}
    _ack(world, N1, 10, app=10)
    _ack(world, N3, 10, app=12)
    assert call(app=10) == RollCall(obeyed=(N1, N2, N3))
    assert call(app=10).is_over


def test_who_is_gone_left_or_is_lost() -> None:
    world = World()
    _live(world, N1)
    _ack(world, N1, 10)
    world.put("seat/n2", Seat(node=N2, host="h"))
    # n3 left; or a successor of its name sits there now, so that it is dead.
    assert roll_call(KEYS, world.memory, (N1, N2, N3), 10, {}) == RollCall(obeyed=(N1,), lost=(N2,))
    world.put("seat/n2", Seat(node="n2.ffffffff", host="h"))
    assert roll_call(KEYS, world.memory, (N1, N2, N3), 10, {}) == RollCall(obeyed=(N1,))
    assert lost_seats(world.memory.under(KEYS.seat_prefix), [N1]) == ("n2.ffffffff",)


def test_who_goes_by_nothing_yet_has_nothing_to_obey() -> None:
    world = World()
    _live(world, N1)
    # Without a word nobody knows.
    assert roll_call(KEYS, world.memory, (N1,), 10, {"app": 10}) == RollCall(silent=(N1,))
    world.put(f"ack/{N1}", Ack(valid=None))
    assert roll_call(KEYS, world.memory, (N1,), 10, {"app": 10}) == RollCall()


def test_what_can_not_be_read_is_no_word() -> None:
    world = World()
    _live(world, N1)
    world.put("override/_pool/app", "what?")
    world.put("seat/n9", "what?")
    assert orders.pool_override(world.memory, KEYS, "app").action is None
    assert lost_seats(world.memory.under(KEYS.seat_prefix), [N1]) == ()
    assert orders.resume(world.memory, KEYS, ["app"]) is None
