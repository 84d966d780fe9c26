"""Recorded histories of a fleet's store: kept as files, replayed, and judged by the invariants."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from pgcat_cluster.agreement.bundles import digest_of, hash_of, judge
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ack,
    Ban,
    Bundle,
    Coord,
    History,
    decode,
)
from pgcat_cluster.agreement.keys import Keys, Kind, Named, name_of
from pgcat_cluster.agreement.overrides import Overrides
from pgcat_cluster.agreement.transactions import Batch, Event, Row
from pgcat_cluster.topology.model import Topology, build
from tests.support.invariants import COORDINATED, Invariants

# What a rig writes beside the fleet's keys about what it does. While such a key is there:
MARKS = "/rig/"
PEACE = MARKS + "peace"  # nothing is written
CALM = MARKS + "calm"  # no server is banned
DELETED = MARKS + "deleted"  # its value is an override that an operator deletes in the same transaction
END = MARKS + "end"

_WINDOW_S = 10.0
_WRITES_PER_SECOND, _BURST = 5, 20
# To join, to take a prefix, to change what `live` says: not counted by a node's bucket.
_BESIDE_BUCKET = 10
_TIMED = (Kind.TIMER, Kind.STRIKES)


class Recorded(Struct, frozen=True):
    """One revision, and when it was told: seconds since the recording began."""

    batch: Batch
    at_s: float

    @classmethod
    def of(cls, revision: int, events: Iterable[Event], at_s: float) -> Recorded:
        return cls(Batch(revision=revision, events=tuple(events)), at_s)


def save(history: Iterable[Recorded], file: Path) -> None:
    """One line per revision, for people as well."""
    with file.open("w") as out:
        for one in history:
            events = [
                {"key": event.key}
                if event.row is None
                else {
                    "key": event.key,
                    "value": event.row.value.decode(),
                    "created": event.row.create_revision,
                    "lease": event.row.lease,
                }
                for event in one.batch.events
            ]
            line = {"revision": one.batch.revision, "at_s": round(one.at_s, 3), "events": events}
            out.write(json.dumps(line) + "\n")


def load(file: Path) -> list[Recorded]:
    """What `save` wrote."""
    history = []
    for text in file.read_text().splitlines():
        line = json.loads(text)
        revision = line["revision"]
        events = [
            Event(
                key=one["key"],
                row=Row(
                    key=one["key"],
                    value=one["value"].encode(),
                    create_revision=one["created"],
                    mod_revision=revision,
                    lease=one["lease"],
                )
                if "value" in one
                else None,
            )
            for one in line["events"]
        ]
        history.append(Recorded.of(revision, events, line["at_s"]))
    return history


class Replay(Invariants):
    """Judges a recorded history: what every store's history shows, and what documents, marks and times add."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        self._topologies: dict[str, Topology] = {}
        self._acks: dict[str, Ack] = {}
        self._newest_gen = 0
        self._wrote: defaultdict[str, deque[float]] = defaultdict(deque)

    def replay(self, history: Sequence[Recorded]) -> None:
        """All of it, in order. Raises Violated."""
        for one in history:
            if one.batch.revision <= self.revision:
                self.fail("order", f"revision {one.batch.revision} follows {self.revision}")
            self._take_marks(one.batch)
            self.batch(one.batch)
            self._rate(one)

    # -- marks and times

    def _take_marks(self, batch: Batch) -> None:
        for event in batch.events:
            if event.key == DELETED and event.row is not None:
                self.overrides_deleted += 1
        touched = [event for event in batch.events if self._is_written(event)]
        if PEACE in self.rows and touched:
            self.fail("peace", f"{touched[0].key} was written at revision {batch.revision}")
        for event in batch.events if CALM in self.rows else ():
            # One that ends step by step is none.
            if (
                event.row is not None
                and b'"banned"' in event.row.value
                and event.key.startswith(self.keys.ban_prefix)
            ):
                self.fail("calm", f"{event.key} {event.row.value.decode()} at revision {batch.revision}")

    def _is_written(self, event: Event) -> bool:
        """Whether somebody did it: keys that measure time end by themselves."""
        named = self.keys.named(event.key)
        return event.key.startswith(self.keys.root) and not (
            event.row is None and named is not None and named.kind in _TIMED
        )

    def _rate(self, one: Recorded) -> None:
        """I9: what each node writes stays within its bucket."""
        writer = self._writer(one.batch)
        if writer is None:
            return
        times = self._wrote[writer]
        times.append(one.at_s)
        while times[0] < one.at_s - _WINDOW_S:
            times.popleft()
        # A life more brings a bucket more; clocks run up to a tenth faster.
        if len(times) > 2 * _BURST + 1.1 * _WRITES_PER_SECOND * _WINDOW_S + _BESIDE_BUCKET:
            self.fail("I9", f"{writer} wrote {len(times)} times in {_WINDOW_S:g} s")

    def _writer(self, batch: Batch) -> str | None:
        """Whose write it is, if it is a node's."""
        for event in batch.events:
            named = self.keys.named(event.key)
            if named is None or event.row is None:
                continue
            match named.kind:
                case Kind.ACK | Kind.LIVE | Kind.VERDICT:
                    return named.names[-1]
                case Kind.BAN:
                    return decode(event.key, event.row.value, Ban).by
                case Kind.COORD:
                    return decode(event.key, event.row.value, Coord).node
                case kind if kind in (*COORDINATED, Kind.ACCEPTED):
                    return self.coordinator()
        return None

    # -- documents

    def topology(self, accepted: Accepted) -> Topology:
        digest = digest_of(accepted.docs)
        if digest not in self._topologies:
            texts = {}
            for name, sha in accepted.docs.items():
                row = self.rows.get(self.keys.doc(sha))
                if row is None or hash_of(row.value) != sha:
                    self.fail(
                        "I11", f"generation {accepted.gen} goes by {name} {sha}, which is not kept as such"
                    )
                else:
                    texts[name] = row.value
            judged = judge(texts)
            if judged.settings is None:
                self.fail("I11", f"generation {accepted.gen} can not be used: {judged.wrong}")
            else:
                self._topologies[digest] = build(judged.settings, lambda _: "secret")
        return self._topologies[digest]

    def changed(self, named: Named, event: Event) -> None:
        super().changed(named, event)
        row = event.row
        if row is None:
            return
        match named.kind:
            case Kind.ACCEPTED:
                self._activated(decode(row.key, row.value, Accepted), event.key)
            case Kind.ACK:
                self._acked(named.names[0], decode(row.key, row.value, Ack), row)

    def _activated(self, accepted: Accepted, key: str) -> None:
        """I11: these documents are what operators want, what the nodes found valid, and what is kept."""
        self.topology(accepted)
        if accepted.gen <= self._newest_gen:
            self.fail("I11", f"generation {accepted.gen} comes after {self._newest_gen}")
        self._newest_gen = accepted.gen
        wanted = {
            self.keys.document(one): hash_of(row.value)
            for one, row in self.rows.items()
            if one.startswith(self.keys.config_prefix)
        }
        if wanted != accepted.docs:
            self.fail("I11", f"generation {accepted.gen} is not what operators want")
        record = self.rows.get(self.keys.history(accepted.gen))
        if record is None or decode(record.key, record.value, History).docs != accepted.docs:
            self.fail("I11", f"generation {accepted.gen} is not in the history")
        self._judged_valid(accepted)

    def _judged_valid(self, accepted: Accepted) -> None:
        bundle = Bundle(rev=accepted.from_rev, digest=digest_of(accepted.docs))
        asked = self.said_by_operators()
        acks = {node: self._ack(node) for node in self._staff() if name_of(node) not in _without(asked)}
        nacked = [node for node, ack in acks.items() if ack.nacked == bundle]
        valid = [node for node, ack in acks.items() if ack.valid == bundle]
        policy = self.topology(accepted).fleet.activation.policy
        if nacked or (policy != "immediate" and 2 * len(valid) <= len(acks)):
            self.fail(
                "I11", f"generation {accepted.gen}: valid for {valid}, not for {nacked}, of {list(acks)}"
            )

    def _staff(self) -> list[str]:
        """Whose word an edit needs: those that serve, or all while none does."""
        serving = [voter.node for voter in self.alive()]
        prefix = self.keys.live_prefix
        return serving or [key.removeprefix(prefix) for key in self.rows if key.startswith(prefix)]

    def _ack(self, node: str) -> Ack:
        row = self.rows.get(self.keys.ack(node))
        return Ack() if row is None else decode(row.key, row.value, Ack)

    def _acked(self, node: str, ack: Ack, row: Row) -> None:
        """I5 and I11: a node's word goes forward, and it runs what was accepted."""
        self._under_lease(row, node)
        was, self._acks[node] = self._acks.get(node), ack
        if ack.active is not None and ack.active.gen > self._newest_gen:
            self.fail("I11", f"{node} runs generation {ack.active.gen}, which nobody accepted")
        if was is None:
            return
        if was.active is not None and (ack.active is None or ack.active.gen < was.active.gen):
            self.fail("I11", f"{node} went from generation {was.active} back to {ack.active}")
        if was.applied is not None and ack.applied is not None and ack.applied.decided < was.applied.decided:
            self.fail("I5", f"{node} went from revision {was.applied.decided} back to {ack.applied.decided}")


def _without(said: Overrides) -> Sequence[str]:
    return said.activate.without if said.activate is not None else ()
