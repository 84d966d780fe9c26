"""Flaws: what a node guards by itself, left out in turn, so that an invariant breaks in a scene of its own.

What the store guards, the compares of transactions, is left out in `races.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from msgspec import structs

from pgcat_cluster.agreement import activation, bans, effective, jury
from pgcat_cluster.agreement.activation import Steward
from pgcat_cluster.agreement.cases import Case
from pgcat_cluster.agreement.documents import Accepted
from pgcat_cluster.agreement.jury import Jury
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.pipeline import Bucket
from pgcat_cluster.fleet import following
from pgcat_cluster.fleet.following import Following
from pgcat_cluster.fleet.member import Member
from tests.simulation import scenes
from tests.simulation.scenes import KEYS, R1, Scene

# (where, name, what stands there instead)
Replacement = tuple[Any, str, Any]


@dataclass(frozen=True)
class Flaw:
    """What is left out, the invariant that breaks, and the scene in which it does, so long after its end at most."""

    breaks: str
    replaced: tuple[Replacement, ...]
    scene: Scene
    plan: Mapping[str, Any] = field(default_factory=dict)
    duration_s: float = 5.0
    at_the_end: bool = False  # something must have happened by then

    @contextmanager
    def planted(self) -> Iterator[None]:
        jury._seated.cache_clear()
        with ExitStack() as stack:
            for where, name, instead in self.replaced:
                stack.enter_context(patch.object(where, name, instead))
            try:
                yield
            finally:
                jury._seated.cache_clear()

    def run(self) -> None:
        """Raises Violated."""
        with scenes.small_fleet(self.plan) as company:
            self.scene(company)
            scenes.wait(company, self.duration_s)
            if self.at_the_end:
                company.checks.at_the_end()


def _read_without_bans(self: Member, now: float) -> None:
    _read_memory(self, now)
    self._bans = {}


def _same_generation(sight: Any, term: int) -> Accepted:
    found = _next(sight, term)
    return Accepted(gen=1, from_rev=found.from_rev, term=found.term, docs=found.docs)


async def _recognise_nothing(self: Following) -> None:
    self.cluster_id = (await self._store.status()).cluster_id
    self._revision = 0


def _forget(self: Memory, batch: Any, prefix: str = "") -> None:
    """Some nodes do not notice some bans."""
    if random.Random(f"{batch.revision} {min(self._applied.values())}").random() < 0.5:
        events = tuple(event for event in batch.events if not event.key.startswith(KEYS.ban_prefix))
        batch = structs.replace(batch, events=events)
    _apply(self, batch, prefix)


_read_memory, _next, _apply = Member._read_memory, activation._next, Memory.apply


def _always(_self: object, *_: object) -> bool:
    return True


def _never(_self: object, *_: object) -> bool:
    return False


FLAWS: dict[str, Flaw] = {
    # What a node decides before it asks the store.
    "min healthy": Flaw("I2", ((Case, "_leaves_enough", _always),), scenes.two_fail),
    "quorum": Flaw(
        "I1", ((Jury, "bans_everywhere", lambda _self, bad: bool(bad)),), scenes.cut("n0"), duration_s=8.0
    ),
    "one host, one vote": Flaw(
        "I3",
        ((jury, "voters", lambda server, serving: jury._ranked(server, serving)),),
        scenes.one_host_cannot_reach_its_own,
        {"nodes": 5, "zones": 1, "hosts_shared": True, "jury": 2, "clusters": {"main": 12}},
        duration_s=8.0,
    ),
    "majority of those who find it good": Flaw("I1", ((Jury, "clears", _always),), scenes.turn("down")),
    "an operator stops votes": Flaw("I6", ((Case, "_may_ban", _always),), scenes.fails_under_a_pin),
    "the topology in force": Flaw("I1", ((Case, "_is_current", _always),), scenes.two_stay_behind),
    "blast radius": Flaw("I13", ((activation, "losses", lambda *_: {}),), scenes.loses_servers),
    "acks of all live nodes": Flaw(
        "I11", ((Steward, "_not_yet", lambda *_: ""),), scenes.only_the_coordinator_is_awake, duration_s=2.0
    ),
    "generations go up": Flaw("I11", ((activation, "_next", _same_generation),), scenes.edit),
    "buckets": Flaw(
        "I9",
        ((Bucket, "take", lambda *_: None), (bans, "_word", lambda _verdict: (object(),))),
        scenes.turn("down"),
    ),
    # What each node does with what is agreed.
    "what an operator removes": Flaw(
        "I6", ((effective, "removes", _never),), scenes.say(KEYS.server_override(*R1), b"ban")
    ),
    "bans are obeyed": Flaw("I10", ((Member, "_read_memory", _read_without_bans),), scenes.comes_back_banned),
    "no event is lost": Flaw("I4", ((Memory, "apply", _forget),), scenes.comes_back_banned),
    "another store is told": Flaw(
        "I19",
        ((Following, "_recognise", _recognise_nothing), (following, "_must_reach", lambda *_: None)),
        scenes.is_restored,
        duration_s=10.0,
    ),
    # What must happen in the end.
    "bans are proposed": Flaw(
        "I7",
        ((Case, "proposals", lambda _self: []),),
        scenes.all_replicas_hang,
        {"min_healthy": 1},
        duration_s=10.0,
        at_the_end=True,
    ),
    "bans end": Flaw(
        "I8", ((Jury, "clears", _never),), scenes.comes_back_banned, duration_s=20.0, at_the_end=True
    ),
    "edits are activated": Flaw(
        "I12", ((Steward, "_too_much", lambda *_: "no"),), scenes.edit, at_the_end=True
    ),
}
