"""Who coordinates: one node, elected by the creation of a key, for a term that is the key's own."""

from __future__ import annotations

from hashlib import sha256

from pgcat_cluster.agreement.documents import Coord, Live, Undecodable, decode, encode
from pgcat_cluster.agreement.effects import Commit, Effect
from pgcat_cluster.agreement.keys import Keys, name_of
from pgcat_cluster.agreement.membership import live_of
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Compare, Delete, Field, Put, Transaction, absent

_TURN_S = 0.05
_UNFIT_S = 2.0  # so long in tilt, or not among those who count: it leaves
_AGAIN_S = 1.0


def staff(keys: Keys, memory: Memory) -> dict[str, Live]:
    """The nodes that edits and elections count on, by id: those that serve.

    While none serves (an empty fleet, or one whose documents nobody can use) it is those that would like to.
    """
    alive = {
        row.key.removeprefix(keys.live_prefix): live
        for row in memory.under(keys.live_prefix)
        if (live := live_of(row.value)) is not None
    }
    for state in ("serving", "joining"):
        if found := {node: live for node, live in alive.items() if live.state == state}:
            return found
    return {}


def holds_term(keys: Keys, term: int) -> Compare:
    """The term has not ended."""
    return Compare(key=keys.coord, field=Field.CREATE, operator="==", operand=term)


class Election:
    """One node's part: it takes the office when it is vacant, in its turn, and leaves it when it is not well.

    Call `step` whenever memory or one of its facts changed, and at `due_s`.
    """

    def __init__(self, keys: Keys, node: str) -> None:
        self.due_s: float | None = None
        self.lease = 0  # the node's; without one it is no candidate
        self.tilted_since: float | None = None
        self._keys = keys
        self._node = node
        self._vacant_since: float | None = None
        self._unfit_since: float | None = None
        self._asked_at: float | None = None

    def term(self, memory: Memory) -> int | None:
        """This node's term, while it is the coordinator."""
        row = memory.row(self._keys.coord)
        if row is None:
            return None
        try:
            return row.create_revision if decode(row.key, row.value, Coord).node == self._node else None
        except Undecodable:
            return None

    def step(self, memory: Memory, now: float) -> list[Effect]:
        self.due_s = None
        term = self.term(memory)
        if term is None and (memory.row(self._keys.coord) or not memory.applied(self._keys.decided)):
            self._vacant_since = None
            return []
        nodes = staff(self._keys, memory)
        is_fit = self._node in nodes and self.tilted_since is None
        if term is not None:
            return self._hold(term, is_fit, now)
        if not self.lease or not is_fit:
            self._vacant_since = None
            return []
        if self._vacant_since is None:
            self._vacant_since = now
        turn = self._vacant_since + _TURN_S * sorted(nodes, key=_order).index(self._node)
        if not self._may_ask(max(turn, now), now):
            return []
        return self._ask(
            Transaction(
                compares=(absent(self._keys.coord),),
                then=(Put(key=self._keys.coord, value=encode(Coord(node=self._node)), lease=self.lease),),
            ),
            "elect",
            now,
        )

    def _hold(self, term: int, is_fit: bool, now: float) -> list[Effect]:
        self._vacant_since = None
        if is_fit:
            self._unfit_since = None
            return []
        if self._unfit_since is None:
            self._unfit_since = now if self.tilted_since is None else self.tilted_since
        if not self._may_ask(self._unfit_since + _UNFIT_S, now):
            return []
        compare = holds_term(self._keys, term)
        leave = Transaction(compares=(compare,), then=(Delete(key=self._keys.coord),))
        return self._ask(leave, "resign", now)

    def _may_ask(self, at_s: float, now: float) -> bool:
        """Not before `at_s`, and not again before the last question had time to be answered."""
        if self._asked_at is not None:
            at_s = max(at_s, self._asked_at + _AGAIN_S)
        if now < at_s:
            self.due_s = at_s
        return now >= at_s

    def _ask(self, transaction: Transaction, purpose: str, now: float) -> list[Effect]:
        self._asked_at = now
        self.due_s = now + _AGAIN_S
        return [Commit(purpose=purpose, transaction=transaction)]


def _order(node: str) -> bytes:
    return sha256(f"coord/{name_of(node)}".encode()).digest()
