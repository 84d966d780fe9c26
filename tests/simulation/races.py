"""Races: a decision is kept on its way to the store while what it rests on changes, for each of its compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from pgcat_cluster.agreement.cases import Case
from pgcat_cluster.agreement.documents import Ban, decode
from pgcat_cluster.agreement.transactions import Compare, Delete, Operation, Put, Transaction
from tests.simulation import scenes
from tests.simulation.scenes import KEYS, R1, Scene, some

_AFTERWARDS_S = 0.5


@dataclass(frozen=True)
class Race:
    """`scene` brings the fleet to a decision that `kept` knows; `meanwhile` happens before it arrives.

    With `guard` it is refused. Without, an invariant breaks. Some facts a node looks at itself as well, and by
    one watch: then either look is enough, and `blind` leaves out the first one.
    """

    breaks: str
    guard: Callable[[Compare], bool]
    kept: Callable[[Transaction], bool]
    scene: Scene
    meanwhile: Scene
    plan: Mapping[str, Any] = field(default_factory=dict)
    blind: tuple[type, str] | None = None  # a question that is always answered with yes

    def run(self, *, is_guarded: bool) -> None:
        """Raises Violated."""
        with self._blinded(), scenes.small_fleet(self.plan) as company:
            world, kept = company.world, list[Callable[[], None]]()
            if not is_guarded:
                world.weaken = lambda transaction, compare: self.kept(transaction) and self.guard(compare)

            def keeps(transaction: Transaction, go: Callable[[], None]) -> bool:
                is_kept = self.kept(transaction)
                if is_kept:
                    kept.append(go)
                return is_kept

            world.keeps = keeps
            self.scene(company)
            scenes.until(company, lambda: bool(kept))
            self.meanwhile(company)
            world.keeps = lambda _transaction, _go: False
            world.note("what was kept arrives")
            for go in kept:
                world.clock.after(0.0, go)
            scenes.wait(company, _AFTERWARDS_S)

    def _blinded(self) -> AbstractContextManager[object]:
        return nullcontext() if self.blind is None else patch.object(*self.blind, lambda *_: True)


# -- decisions


def _bans(server: str = "r1", state: str = "banned", strikes: int = 1) -> Callable[[Transaction], bool]:
    def is_so(one: Operation) -> bool:
        if not isinstance(one, Put) or not one.key.startswith(KEYS.server_bans("main", server)):
            return False
        ban = decode(one.key, one.value, Ban)
        return (ban.state, ban.strikes) == (state, strikes)

    return some(is_so)


_lifts = some(lambda one: isinstance(one, Delete) and one.key.startswith(KEYS.ban_prefix))
_elects = some(lambda one: isinstance(one, Put) and one.key == KEYS.coord)
_keeps_texts = some(lambda one: isinstance(one, Put) and one.key.startswith(KEYS.doc_prefix))


# -- compares


def _is_key(key: str) -> Callable[[Compare], bool]:
    return lambda compare: compare.key == key


def _is_below(prefix: str) -> Callable[[Compare], bool]:
    """One key of these; not all of them together."""
    return lambda compare: compare.key.startswith(prefix) and not compare.prefix


RACES: dict[str, Race] = {
    # A ban.
    "bans of the cluster": Race(
        breaks="I2",
        guard=lambda compare: compare.key == KEYS.cluster_bans("main"),
        kept=_bans("r2"),
        scene=scenes.two_fail,
        meanwhile=scenes.is_banned,
    ),
    "the ban that it follows": Race(
        breaks="life of a ban",
        guard=_is_below(KEYS.ban_prefix),
        kept=_bans(strikes=2),
        scene=scenes.fails_on_probation,
        meanwhile=scenes.unban,
    ),
    "verdicts": Race(
        breaks="I1",
        guard=_is_below(KEYS.verdict_prefix),
        kept=_bans(),
        scene=scenes.turn("down"),
        meanwhile=scenes.verdicts_are_withdrawn,
    ),
    "jurors": Race(
        breaks="I1",
        guard=_is_below(KEYS.live_prefix),
        kept=_bans(),
        scene=scenes.cut("n0", "n1", "n3", "n4"),
        meanwhile=scenes.one_leaves,
        plan={"nodes": 5, "jury": 3},
    ),
    "nobody joined": Race(
        breaks="I1",
        guard=_is_key(KEYS.live_prefix),
        kept=_bans(),
        scene=scenes.two_of_three_cannot_reach,
        meanwhile=scenes.two_join,
        plan={"nodes": 5},
    ),
    "the topology": Race(
        breaks="I1",
        guard=_is_key(KEYS.accepted),
        kept=_bans(),
        scene=scenes.turn("down"),
        meanwhile=scenes.another_generation,
    ),
    "operators' words": Race(
        breaks="I6",
        guard=_is_key(KEYS.cluster_overrides("main")),
        kept=_bans(),
        scene=scenes.turn("down"),
        meanwhile=scenes.say(KEYS.server_override(*R1), b"pin"),
    ),
    "freeze": Race(
        breaks="I6",
        guard=_is_key(KEYS.freeze),
        kept=_bans(),
        scene=scenes.turn("down"),
        meanwhile=scenes.say(KEYS.freeze, b"on"),
    ),
    # Its end.
    "probation: the ban": Race(
        breaks="life of a ban",
        guard=_is_below(KEYS.ban_prefix),
        kept=_bans(state="probation"),
        scene=scenes.comes_back_banned,
        meanwhile=scenes.unban,
    ),
    "probation: verdicts": Race(
        breaks="I1",
        guard=_is_below(KEYS.verdict_prefix),
        kept=_bans(state="probation"),
        scene=scenes.comes_back_banned,
        meanwhile=scenes.praise_is_withdrawn,
    ),
    "probation: nobody joined": Race(
        breaks="I1",
        guard=_is_key(KEYS.live_prefix),
        kept=_bans(state="probation"),
        scene=scenes.two_of_three_find_it_good,
        meanwhile=scenes.two_join,
        plan={"nodes": 5},
    ),
    "probation: the topology": Race(
        breaks="I1",
        guard=_is_key(KEYS.accepted),
        kept=_bans(state="probation"),
        scene=scenes.comes_back_banned,
        meanwhile=scenes.another_generation,
    ),
    "probation: the time of the ban": Race(
        breaks="life of a ban",
        guard=_is_below(KEYS.timer_prefix),
        kept=_bans(state="probation"),
        scene=scenes.comes_back_banned,
        meanwhile=scenes.nothing,
        blind=(Case, "is_over"),
    ),
    "lifted: the time of its probation": Race(
        breaks="life of a ban",
        guard=_is_below(KEYS.timer_prefix),
        kept=_lifts,
        scene=scenes.on_probation,
        meanwhile=scenes.nothing,
        blind=(Case, "is_over"),
    ),
    "lifted: the ban": Race(
        breaks="life of a ban",
        guard=_is_below(KEYS.ban_prefix),
        kept=_lifts,
        scene=scenes.on_probation,
        meanwhile=scenes.is_banned_again,
    ),
    "departed: the topology": Race(
        breaks="life of a ban",
        guard=_is_key(KEYS.accepted),
        kept=_lifts,
        scene=scenes.departs,
        meanwhile=scenes.is_part_of_it_again,
    ),
    # An activation.
    "term": Race(
        breaks="I14",
        guard=_is_key(KEYS.coord),
        kept=scenes.activates,
        scene=scenes.edit,
        meanwhile=scenes.another_is_elected,
    ),
    "the generation before": Race(
        breaks="I13",
        guard=_is_key(KEYS.accepted),
        kept=scenes.activates,
        scene=scenes.coordinator_misses_a_generation,
        meanwhile=scenes.nothing,
    ),
    "what is desired": Race(
        breaks="I11",
        guard=_is_key(KEYS.config_prefix),
        kept=scenes.activates,
        scene=scenes.edit,
        meanwhile=scenes.another_edit,
    ),
    "freeze of edits": Race(
        breaks="I6",
        guard=_is_key(KEYS.freeze),
        kept=scenes.activates,
        scene=scenes.edit,
        meanwhile=scenes.say(KEYS.freeze, b"on"),
    ),
    "what nodes say of it": Race(
        breaks="I11",
        guard=_is_key(KEYS.ack_prefix),
        kept=scenes.activates,
        scene=scenes.edit,
        meanwhile=scenes.one_objects,
    ),
    "nobody began to serve": Race(
        breaks="I11",
        guard=_is_key(KEYS.live_prefix),
        kept=scenes.activates,
        scene=scenes.one_that_does_not_serve_objects,
        meanwhile=scenes.it_serves,
    ),
    "an operator's consent": Race(
        breaks="I13",
        guard=_is_key(KEYS.activate),
        kept=scenes.activates,
        scene=scenes.may_lose_servers,
        meanwhile=scenes.say(KEYS.activate, None),
    ),
    # What else a coordinator writes.
    "texts: the term": Race(
        breaks="I14",
        guard=_is_key(KEYS.coord),
        kept=_keeps_texts,
        scene=scenes.edit,
        meanwhile=scenes.another_is_elected,
    ),
    "the office is vacant": Race(
        breaks="I14",
        guard=_is_key(KEYS.coord),
        kept=_elects,
        scene=scenes.coordinator_leaves,
        meanwhile=scenes.others_ask_too,
    ),
}
