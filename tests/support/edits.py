"""A fleet of nodes that only agree on their configuration: the real machines, a model store, time that is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from pgcat_cluster.agreement.activation import Steward
from pgcat_cluster.agreement.bundles import Judge, Wrong
from pgcat_cluster.agreement.coordinator import Election
from pgcat_cluster.agreement.documents import Accepted, Ack, Seat, Status, decode, encode
from pgcat_cluster.agreement.effects import Alarm, Commit, Effect, Fetch, Preflight, Run, Say
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.pipeline import Follower
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Operation,
    Outcome,
    Put,
    Range,
    Row,
    Transaction,
)
from pgcat_cluster.fleet.model import Cursor, ModelStore
from pgcat_cluster.topology.reading import Problem

KEYS = Keys("test")

DOCUMENTS: dict[str, bytes] = {
    "clusters/main": b'v = 1\n[servers]\nr1 = { host = "a" }\nr2 = { host = "b" }\n',
    "users/app": b'auth = "trust"',
    "pools/app": b"users = { app = {} }\nsize = 10",
}


class Node:
    """One node: `is_frozen` stops it, `trial` is what its preflights find, `trouble` why it can run nothing."""

    def __init__(self, fleet: Fleet, name: str, boot: int) -> None:
        self.fleet = fleet
        self.name = name
        self.id = f"{name}.{boot:08x}"
        self.memory = Memory()
        judge = Judge()
        self.follower = Follower(KEYS, self.id, judge)
        self.steward = Steward(KEYS, self.id, "the-fleet", judge)
        self.election = Election(KEYS, self.id)
        self.is_frozen = False
        self.trial: Callable[[Preflight], tuple[tuple[Wrong, ...], tuple[Wrong, ...]]] = lambda _: ((), ())
        self.trouble: tuple[Problem, ...] = ()
        self.effects: list[Effect] = []
        self.alarms: list[str] = []
        self.runs: list[int] = []
        store = fleet.store
        self.lease = self.election.lease = store.grant(10**6, fleet.now)
        self._cursors = []
        prefixes = (KEYS.config_prefix, KEYS.override, KEYS.decided, KEYS.live_prefix, KEYS.ack_prefix)
        for prefix in (*prefixes, KEYS.seat_prefix):
            revision, rows = store.snapshot((prefix,), fleet.now)
            self.memory.replace(prefix, rows, revision)
            self._cursors.append(Cursor(store, prefix, revision + 1))
        self.state("joining")
        self._put(KEYS.seat(name), encode(Seat(node=self.id, host=name)), 0)

    def state(self, state: str) -> None:
        live = {"name": self.name, "host": self.name, "state": state, "addr": "x:1", "version": "1", "ttl": 6}
        self._put(KEYS.live(self.id), json.dumps(live).encode(), self.lease)

    def leave(self, *, seat: bool = False) -> None:
        """The process is gone; with `seat` it said goodbye."""
        self.fleet.nodes.remove(self)
        self.fleet.store.revoke(self.lease, self.fleet.now)
        if seat:
            self.fleet.write(Delete(key=KEYS.seat(self.name)))

    def _put(self, key: str, value: bytes, lease: int) -> None:
        self.fleet.write(Put(key=key, value=value, lease=lease))

    def turn(self) -> bool:
        """Take in what happened and act on it; whether anything did."""
        if self.is_frozen:
            return False
        moved = False
        for cursor in self._cursors:
            while (batch := cursor.take()) is not None:
                self.memory.apply(batch, cursor.prefix)
                moved = True
        now = self.fleet.now
        term = self.election.term(self.memory)
        effects = self.election.step(self.memory, now)
        effects += self.steward.step(self.memory, term, self.follower.running, now)
        effects += self.follower.step(self.memory, now)
        for effect in effects:
            self.effects.append(effect)
            self._perform(effect)
        return moved or bool(effects)

    def _perform(self, effect: Effect) -> None:
        now = self.fleet.now
        match effect:
            case Commit():
                outcome = self.fleet.commit(effect)
                self.steward.done(effect, outcome, now)
            case Say(key=key, value=value):
                self._put(key, value, self.lease)
            case Preflight(bundle=bundle):
                self.follower.preflighted(bundle, *self.trial(effect))
            case Fetch(hashes=hashes):
                rows = [row for sha in hashes for row in self.fleet.read(KEYS.doc(sha))]
                self.follower.fetched({row.key.removeprefix(KEYS.doc_prefix): row.value for row in rows})
            case Run(accepted=accepted, settings=settings):
                if self.trouble:
                    self.follower.unusable(accepted, self.trouble)
                    return
                self.follower.ran(accepted, settings)
                self.runs.append(accepted.gen)
                if len(self.runs) == 1:
                    self.state("serving")
            case Alarm(text=text):
                self.alarms.append(text)

    @property
    def due_s(self) -> float | None:
        dues = (self.election.due_s, self.steward.due_s, self.follower.due_s)
        return None if self.is_frozen else min((due for due in dues if due is not None), default=None)

    @property
    def ack(self) -> Ack:
        """As it stands in the store."""
        return decode("ack", self.fleet.row(KEYS.ack(self.id)).value, Ack)

    @property
    def generation(self) -> int | None:
        return self.follower.running.accepted.gen if self.follower.running else None

    @property
    def is_coordinator(self) -> bool:
        return self.election.term(self.memory) is not None


class Fleet:
    """The world. `before_commit` may do something at the last moment before a transaction."""

    def __init__(self, *names: str, documents: Mapping[str, bytes] | None = None) -> None:
        self.store = ModelStore()
        self.now = 100.0
        self.nodes: list[Node] = []
        self.commits: list[tuple[str, bool]] = []
        self.before_commit: Callable[[Commit], None] = lambda commit: None
        self._boots = 0
        if documents is not None:
            self.put(documents)
        for name in names:
            self.join(name)
        self.run(1.0)

    def join(self, name: str) -> Node:
        self._boots += 1
        node = Node(self, name, self._boots)
        self.nodes.append(node)
        return node

    def run(self, seconds: float) -> None:
        """Let everything happen that happens within this time."""
        end = self.now + seconds
        while True:
            turns = 0
            while sum(node.turn() for node in self.nodes):
                turns += 1
                assert turns < 1000, "the fleet does not come to rest"
            due = min((node.due_s for node in self.nodes if node.due_s is not None), default=end)
            if due >= end:
                self.now = end
                return
            assert due > self.now, "a machine asks to be called now, and does nothing"
            self.now = due

    # -- the operator's side

    def put(self, documents: Mapping[str, bytes]) -> int:
        """Put documents in one transaction; the revision."""
        puts = tuple(Put(key=KEYS.config(name), value=text) for name, text in documents.items())
        return self.store.txn(Transaction(then=puts), self.now).revision

    def delete(self, *names: str) -> int:
        deletions = tuple(Delete(key=KEYS.config(name)) for name in names)
        return self.store.txn(Transaction(then=deletions), self.now).revision

    def write(self, *operations: Operation, compares: tuple[Compare, ...] = ()) -> int:
        return self.store.txn(Transaction(compares=compares, then=operations), self.now).revision

    def override(self, key: str, value: str) -> int:
        return self.write(Put(key=key, value=value.encode()))

    # -- what there is

    def commit(self, commit: Commit) -> Outcome:
        self.before_commit(commit)
        outcome = self.store.txn(commit.transaction, self.now)
        self.commits.append((commit.purpose, outcome.succeeded))
        return outcome

    def read(self, key: str, *, prefix: bool = False) -> tuple[Row, ...]:
        wanted = Range(key=key, prefix=prefix)
        (rows,) = self.store.txn(Transaction(then=(wanted,)), self.now).answers
        assert rows is not None
        return rows.rows

    def row(self, key: str) -> Row:
        (row,) = self.read(key)
        return row

    @property
    def accepted(self) -> Accepted:
        return decode("accepted", self.row(KEYS.accepted).value, Accepted)

    @property
    def status(self) -> Status:
        return decode("status", self.row(KEYS.status_config).value, Status)

    @property
    def coordinator(self) -> Node:
        (node,) = [node for node in self.nodes if node.is_coordinator]
        return node

    @property
    def generations(self) -> list[int | None]:
        return [node.generation for node in self.nodes]

    def __getitem__(self, name: str) -> Node:
        (node,) = [node for node in self.nodes if node.name == name]
        return node
