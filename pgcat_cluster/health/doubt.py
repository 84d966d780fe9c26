"""Doubt about oneself: how slow this node is, and whether so much ill around it tells of the node instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Place = tuple[str, str]  # a cluster and a server of it

_SCORE_MAX = 7
_QUIET_S = 1.0
_LOOP_LATE_S = 0.2
_STORE_LATE_S = 0.5

_HOSTS_MIN = 3
_WINDOW_S = 5.0
_ASK_AGAIN_S = 5.0


class LocalScore:
    """0 to 7: one more for each sign that we are slow ourselves, one less for each quiet second."""

    def __init__(self, now: float) -> None:
        self._value = 0
        self._changed_s = now
        self._late_host = ""
        self._late_s = now - _QUIET_S

    def value(self, now: float) -> int:
        return max(0, self._value - int((now - self._changed_s) / _QUIET_S))

    def loop_was_late(self, late_s: float, now: float) -> None:
        if late_s > _LOOP_LATE_S:
            self._rise(now)

    def store_answered(self, took_s: float, now: float) -> None:
        if took_s > _STORE_LATE_S:
            self._rise(now)

    def host_was_late(self, host: str, now: float) -> None:
        """One host that is late tells of that host, two at once of us."""
        if self._late_host not in ("", host) and now - self._late_s < _QUIET_S:
            self._rise(now)
        self._late_host, self._late_s = host, now

    def _rise(self, now: float) -> None:
        self._value = min(_SCORE_MAX, self.value(now) + 1)
        self._changed_s = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A server as we see it. Silent: nobody answered, which a fault of our own looks like as well.

    `since_s` is since when it is bad, `is_doubted` whether the last look at it met silence, and `answered_s` when it
    answered, if that was the last look.
    """

    host: str
    is_bad_in_silence: bool
    since_s: float
    is_doubted: bool
    answered_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPeers:
    """Let other nodes probe these servers, then call `answered` with the same number."""

    question: int
    servers: frozenset[Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAt:
    """Probe these servers at once: whether they answer tells what the silence of another one means."""

    servers: frozenset[Place]


class Suspicion:
    """Whether to believe our own eyes when most hosts fall silent at once.

    What falls silent is told when the others have answered since, as many as would not make us suspect ourselves:
    else the first one would be told before the rest is found silent too. For 5 s at most; they are looked at.

    More than a share of three hosts or more turned bad within 5 s, in silence: ask peers. What they
    find bad as well may be told; for the rest we suspect ourselves, tell nothing, and ask again after 5 s.
    Ends when no more than the share is silent.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._is_on = False
        self._silent: frozenset[Place] = frozenset()
        self._confirmed: frozenset[Place] = frozenset()
        self._denied: frozenset[Place] = frozenset()
        self._question = 0
        self._asked: frozenset[Place] = frozenset()
        self._again_s = 0.0
        self._doubted_s: dict[Place, float] = {}
        self._held: frozenset[Place] = frozenset()
        self._told: frozenset[Place] = frozenset()

    @property
    def is_holding(self) -> bool:
        """Something is not told yet; look again soon."""
        return bool(self._held)

    @property
    def spared(self) -> frozenset[Place]:
        """What we use all the same, since only we find it bad. Not empty: we suspect ourselves."""
        return self._silent & self._denied

    def may_tell(self, place: Place) -> Literal["yes", "later", "no"]:
        """Whether our opinion of a server may be published, as far as silence goes."""
        if place in self._held:
            return "later"
        if not self._is_on or place not in self._silent or place in self._confirmed:
            return "yes"
        return "no" if place in self._denied else "later"

    def look(self, looks: Mapping[Place, Look], now: float) -> list[AskPeers | LookAt]:
        """Compare all that we see. To be called when an opinion changed, and now and then."""
        hosts = {look.host for look in looks.values()}
        silent = {place: look for place, look in looks.items() if look.is_bad_in_silence}
        limit = self._share * len(hosts)
        recent = {look.host for look in silent.values() if now - look.since_s <= _WINDOW_S}
        if not self._is_on:
            self._is_on = len(hosts) >= _HOSTS_MIN and len(recent) > limit
            self._again_s = now
        elif len({look.host for look in silent.values()}) <= limit:
            self._is_on = False
        doubted = [place for place, look in looks.items() if look.is_doubted]
        self._doubted_s = {place: self._doubted_s.get(place, now) for place in doubted}
        questions: list[AskPeers | LookAt] = []
        if wanted := self._hold(looks, frozenset(silent), limit, now):
            questions.append(LookAt(servers=wanted))
        self._silent = frozenset(silent) if self._is_on else frozenset()
        self._confirmed &= self._silent
        self._denied &= self._silent
        open_questions = self._silent - self._confirmed
        if not open_questions or (now < self._again_s and open_questions <= self._asked):
            return questions
        self._question += 1
        self._asked = open_questions
        self._again_s = now + _ASK_AGAIN_S
        return [*questions, AskPeers(question=self._question, servers=open_questions)]

    def _hold(
        self, looks: Mapping[Place, Look], silent: frozenset[Place], limit: float, now: float
    ) -> frozenset[Place]:
        """Hold back what is not to be told yet; which servers must be looked at for what was not held before."""
        hosts = {look.host: place for place, look in sorted(looks.items())}
        held: set[Place] = set()
        wanted: set[Place] = set()
        for place in silent - self._told:
            if self._is_on or len(hosts) < _HOSTS_MIN or now - looks[place].since_s > _WINDOW_S:
                continue
            doubted_s = self._doubted_s.get(place, now)
            answering = {
                look.host
                for look in looks.values()
                if look.answered_s is not None and look.answered_s >= doubted_s
            }
            missing = len(hosts) - len(answering) - int(limit)
            if missing > 0:
                held.add(place)
            if missing > 0 and place not in self._held:
                others = sorted(hosts.keys() - answering - {looks[place].host})
                wanted |= {hosts[host] for host in others[:missing]}
        self._held = frozenset(held)
        self._told = (self._told | silent - self._held) & silent
        return frozenset(wanted)

    def answered(self, question: int, confirmed: frozenset[Place]) -> None:
        """Which of the servers the peers find bad as well; none, where nobody answered."""
        if question != self._question:
            return
        self._confirmed = (self._confirmed | confirmed) & self._silent
        self._denied = (self._denied | self._asked) & self._silent - self._confirmed
