"""What an activation of documents must have been, by the rows of the store around its revision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache
from typing import NamedTuple

from pgcat_cluster.agreement.bundles import digest_of, hash_of, judge
from pgcat_cluster.agreement.coordinator import staff
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ack,
    ActivateOverride,
    History,
    Undecodable,
    decode,
    decode_override,
)
from pgcat_cluster.agreement.keys import Keys, Kind, Named, name_of
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Event, Row
from pgcat_cluster.topology.model import Topology, build
from pgcat_cluster.topology.settings import Settings
from tests.support.invariants import Invariants

Rows = Mapping[str, Row]


class Configured(Invariants):
    """Judges activations too, by the texts of the documents that stand in the store."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        # The nodes that found some documents valid, by their digest.
        self._agreed: defaultdict[str, set[str]] = defaultdict(set)

    def topology(self, accepted: Accepted) -> Topology:
        return topology_of(self.keys, self.rows)

    def changed(self, named: Named, event: Event) -> None:
        super().changed(named, event)
        row = event.row
        match named.kind:
            case Kind.ACK if row is not None:
                if (valid := decode(row.key, row.value, Ack).valid) is not None:
                    self._agreed[valid.digest].add(named.names[0])
            case Kind.ACCEPTED if row is not None:
                accepted = decode(row.key, row.value, Accepted)
                agreed = self._agreed[digest_of(accepted.docs)]
                for breach in activated(self.keys, self.before, self.rows, accepted, agreed):
                    self.fail(*breach)
            case Kind.HISTORY if row is not None and event.key not in self.before:
                self._record(row)

    def _record(self, row: Row) -> None:
        record = decode(row.key, row.value, History)
        holder = self.coordinator()
        if record.by != holder:
            self.fail("I14", f"generation {record.gen} is by {record.by}, but {holder} holds the office")


class Breach(NamedTuple):
    """An invariant that a change broke, by its number in the design of the fleet."""

    invariant: str
    text: str


def activated(
    keys: Keys, before: Rows, after: Rows, accepted: Accepted, agreed: Set[str]
) -> Iterator[Breach]:
    """What is wrong with it. `agreed` are the nodes that ever found these documents valid."""
    newer = [
        keys.below(key)
        for key, row in before.items()
        if key.startswith(keys.config_prefix) and row.mod_revision > accepted.from_rev
    ]
    if newer:
        yield Breach("I11", f"generation {accepted.gen} is of {accepted.from_rev}, but newer are {newer}")
    for name, sha in accepted.docs.items():
        if (text := after.get(keys.doc(sha))) is None or hash_of(text.value) != sha:
            yield Breach("I11", f"the text of {name} is not there")
    if keys.freeze in before:
        yield Breach("I6", f"generation {accepted.gen} was accepted in spite of freeze")
    settings = settings_of(keys, after)
    if settings is None:
        yield Breach("I11", f"generation {accepted.gen} has documents that nobody can read")
        return
    permit = _permit(keys, before, accepted.from_rev)
    yield from _heard(keys, before, accepted, permit, agreed)
    old = settings_of(keys, before)
    if old is not None and permit is None:
        for loss in losses(old, settings):
            yield Breach("I13", f"generation {accepted.gen} loses {loss} without permission")


def _heard(
    keys: Keys, rows: Rows, accepted: Accepted, permit: ActivateOverride | None, agreed: Set[str]
) -> Iterator[Breach]:
    """Most of those who were there before the edit found it valid, and nobody objects."""
    was = settings_of(keys, rows)
    if was is not None and was.fleet.activation.policy == "immediate":
        return
    digest = digest_of(accepted.docs)
    memory = Memory()
    below = [row for key, row in rows.items() if key.startswith(keys.live_prefix)]
    memory.replace(keys.live_prefix, below, 1)
    left_out = permit.without if permit is not None else []
    counted = [node for node in staff(keys, memory) if name_of(node) not in left_out]
    acks = {node: _ack(keys, rows, node) for node in counted}
    objecting = [node for node, ack in acks.items() if ack.nacked and ack.nacked.digest == digest]
    if objecting:
        yield Breach("I11", f"generation {accepted.gen} was accepted against the word of {objecting}")
    there = {node for node in counted if rows[keys.live(node)].mod_revision <= accepted.from_rev}
    if there and 2 * len(agreed) <= len(there):
        yield Breach("I11", f"generation {accepted.gen} was accepted by {set(agreed)} of {there}")


def losses(old: Settings, new: Settings) -> list[str]:
    """What an edit takes away that only an operator may take."""
    allowed = set(old.fleet.allow_delete)
    lost = [f"pools/{name}" for name in old.pools.keys() - new.pools.keys()]
    gone = total = 0
    for name, cluster in old.clusters.items():
        left = set(new.clusters[name].servers) if name in new.clusters else set()
        removed = len(cluster.servers.keys() - left)
        total += len(cluster.servers)
        gone += removed
        if 2 * removed > len(cluster.servers):
            lost.append(f"clusters/{name}")
    if gone >= 3 and 5 * gone > total and not allowed:
        lost.append(f"{gone} of {total} servers")
    return sorted(one for one in lost if one not in allowed)


def settings_of(keys: Keys, rows: Rows) -> Settings | None:
    """What the accepted documents say together, as nodes read them."""
    accepted = _accepted(keys, rows)
    if accepted is None:
        return None
    texts = {name: rows[key].value for name, sha in accepted.docs.items() if (key := keys.doc(sha)) in rows}
    return _settings(tuple(sorted(texts.items())))


def topology_of(keys: Keys, rows: Rows) -> Topology:
    """What they mean."""
    settings = settings_of(keys, rows)
    assert settings is not None
    return build(settings)


@lru_cache(maxsize=64)
def _settings(texts: tuple[tuple[str, bytes], ...]) -> Settings | None:
    return judge(dict(texts)).settings


def _accepted(keys: Keys, rows: Rows) -> Accepted | None:
    row = rows.get(keys.accepted)
    return None if row is None else decode(row.key, row.value, Accepted)


def _ack(keys: Keys, rows: Rows, node: str) -> Ack:
    row = rows.get(keys.ack(node))
    return Ack() if row is None else decode(row.key, row.value, Ack)


def _permit(keys: Keys, rows: Rows, revision: int) -> ActivateOverride | None:
    """An operator's word for exactly this edit."""
    row = rows.get(keys.activate)
    if row is None:
        return None
    try:
        override = decode_override(row.key, Kind.OVERRIDE_ACTIVATE, row.value)
    except Undecodable:
        return None
    assert isinstance(override, ActivateOverride)
    return override if override.rev == revision else None
