"""One node's part in the bans of one cluster: which verdict to publish, and when to propose which decision.

Nothing here remembers what the fleet thinks: each `step` looks at what is known now and says what is missing.
So a lost message, a lease lost or a new list of all keys needs no case of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal

from msgspec import Struct, structs

from pgcat_cluster.agreement.cases import Case, Court, Electorate, Proposal, Said, bans_of
from pgcat_cluster.agreement.documents import Verdict, encode
from pgcat_cluster.agreement.effects import Effect
from pgcat_cluster.agreement.jury import FLEET, reaches
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Outcome, Put, Transaction

# The k-th juror waits so long for those before it to decide.
_TURN_S = 0.02
# A result no older than this makes a new probe needless when another juror doubts a server.
_FRESH_S = 0.2
# What was asked of the store and is not seen yet is asked again after this.
_PATIENCE_S = 2.0
# After a decision memory needs a moment to see it.
_PAUSE_S = 0.25
_NUDGED = 2
_HARD = ("refused", "wrong")

# bad: to be told · ok: nothing against it · proven: good enough to end a ban ·
# unsure: neither · silent: an opinion that must not count now
Stance = Literal["bad", "ok", "proven", "unsure", "silent"]


class Belief(Struct, frozen=True, kw_only=True):
    """What this node may say about one server; `seen_s` is when its last probe ended."""

    stance: Stance
    why: str = ""
    seen_s: float | None = None


_NOTHING = Belief(stance="unsure")


class Publish(Effect, frozen=True, kw_only=True):
    """Put the key under the node's lease; of several wishes for one key the newest counts."""

    key: str
    value: bytes


class Withdraw(Effect, frozen=True, kw_only=True):
    """Delete the key, if it is this node's."""

    key: str


class ProbeNow(Effect, frozen=True, kw_only=True):
    """Look at the server at once, by a fresh connect."""

    server: str
    reason: str


class Nudge(Effect, frozen=True, kw_only=True):
    """Ask these jurors to look at the server at once."""

    nodes: tuple[str, ...]
    server: str
    evidence: str


class Decide(Effect, frozen=True, kw_only=True):
    """Grant a lease of each length, put them in by `with_leases`, commit, and call `decided`."""

    server: str
    what: str
    transaction: Transaction
    leases_s: tuple[float, ...] = ()


def with_leases(transaction: Transaction, granted: Sequence[int]) -> Transaction:
    """The n-th granted lease in place of its stand-in, -n."""
    then = tuple(
        structs.replace(operation, lease=granted[-operation.lease - 1])
        if isinstance(operation, Put) and operation.lease < 0
        else operation
        for operation in transaction.then
    )
    return structs.replace(transaction, then=then)


class _Wish(Struct, frozen=True):
    """A key of ours as it should become, and when to say so again."""

    value: bytes | None
    word: tuple[object, ...]
    again_s: float


class Bench:
    """One node's machine for one cluster. Owns what it asked for and what it waits for; all else is given.

    Call `step` whenever memory, a belief or an override changed, and at `due_s`.
    """

    def __init__(self, node: str, zone: str, keys: Keys) -> None:
        self.node = node
        self.zone = zone
        self.due_s: float | None = None
        self._keys = keys
        self._wishes: dict[str, _Wish] = {}
        self._heard: dict[str, int] = {}
        self._bad: set[str] = set()
        self._since_s: dict[tuple[str, str], float] = {}
        self._deciding: str | None = None
        self._truth: tuple[str, Outcome] | None = None
        self._paused_until_s: dict[str, float] = {}
        self._count = 0

    def step(
        self,
        court: Court,
        electorate: Electorate,
        beliefs: Mapping[str, Belief],
        *,
        is_tilted: bool,
        now: float,
    ) -> list[Effect]:
        """What to do now."""
        self.due_s = None
        cluster, memory = court.cluster.name, court.memory
        bans = bans_of(memory.under(self._keys.cluster_bans(cluster)), self._keys)
        held = {one.server for one in bans}
        effects: list[Effect] = []
        proposals: list[tuple[int, Proposal]] = []
        for server in court.cluster.servers:
            belief = beliefs.get(server, _NOTHING)
            if belief.stance != "bad":
                self._bad.discard(server)
                if server not in held and not memory.under(self._keys.server_verdicts(cluster, server)):
                    # Peace. What was wished and came to nothing is no wish any more.
                    self._wishes.pop(server, None)
                    continue
            case = court.case(server, bans, electorate)
            rank = case.jury.rank(self.node)
            effects += self._speak(case, belief, rank is not None, now)
            if rank is None or is_tilted:
                continue
            effects += self._listen(case, belief, now)
            if self._truth is not None and self._truth[0] == server:
                case, rank = court.case_of_truth(server, self._truth[1]), 0
            proposals += [(rank, proposal) for proposal in case.proposals()]
        return effects + self._decide(court, proposals, now)

    def decided(self, outcome: Outcome | None, now: float) -> None:
        """What became of the decision; None: nobody knows. A refused one brought the truth: recount, once."""
        server, self._deciding = self._deciding, None
        was_recount, self._truth = self._truth is not None, None
        if server is None:
            return
        if outcome is None:
            self._paused_until_s[server] = now + _PATIENCE_S
        elif outcome.succeeded or was_recount:
            self._paused_until_s[server] = now + _PAUSE_S
        else:
            self._truth = (server, outcome)

    # -- verdicts

    def _speak(self, case: Case, belief: Belief, is_juror: bool, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if belief.stance == "bad" and case.server not in self._bad:
            self._bad.add(case.server)
            if not is_juror and belief.why in _HARD and not case.held:
                nodes = tuple(juror.node for juror in case.jury.jurors[:_NUDGED])
                effects.append(Nudge(nodes=nodes, server=case.server, evidence=belief.why))
        key = self._keys.verdict(case.court.cluster.name, case.server, self.node)
        said = case.said.get(self.node)
        wanted = self._wanted(case, said, belief) if is_juror else None
        wish = _Wish(None if wanted is None else encode(wanted), _word(wanted), now + _PATIENCE_S)
        before = self._wishes.get(case.server)
        if wish.word == _word(said.verdict if said is not None else None):
            # As it should be; but what was asked for before might still be under way.
            if before is not None and before.word != wish.word and now < before.again_s:
                self._wake(before.again_s)
            else:
                self._wishes.pop(case.server, None)
            return effects
        if before is not None and before.word == wish.word and now < before.again_s:
            self._wake(before.again_s)
            return effects
        self._wishes[case.server] = wish
        self._wake(wish.again_s)
        return [*effects, Withdraw(key=key) if wish.value is None else Publish(key=key, value=wish.value)]

    def _wanted(self, case: Case, said: Said | None, belief: Belief) -> Verdict | None:
        """The verdict that should stand now."""
        stands = said.verdict if said is not None else None
        held = [one.ban for one in case.held.values() if reaches(one.ban.scope, self.zone)]
        banned = [ban for ban in held if ban.state == "banned"]
        match belief.stance:
            case "bad" if any(ban.scope == FLEET for ban in banned):
                # It is out: another voice changes nothing. Only an `ok` is no longer true.
                return stands if stands is not None and stands.v == "bad" else None
            case "bad":
                is_told = stands is not None and stands.v == "bad" and stands.gen == case.court.generation
                if (
                    is_told
                    and stands is not None
                    and (belief.why not in _HARD or stands.why[:1] == (belief.why,))
                ):
                    return stands
                return self._verdict(case, "bad", (belief.why,))
            case "proven" if banned:
                # Before its time is up nothing can end a ban, so nothing need be said.
                if any(case.is_over(f"ban-{ban.id}") for ban in banned):
                    return self._verdict(case, "ok", ())
                return stands if stands is not None and stands.v == "ok" else None
            case "proven" | "ok":
                return stands if held and stands is not None and stands.v == "ok" else None
            case "unsure":
                return stands
            case "silent":
                return None

    def _verdict(self, case: Case, word: Literal["bad", "ok"], why: tuple[str, ...]) -> Verdict:
        return Verdict(
            v=word,
            why=why,
            since_rev=case.court.memory.revision,
            gen=case.court.generation,
            zone=self.zone,
        )

    def _listen(self, case: Case, belief: Belief, now: float) -> list[Effect]:
        """Another juror doubts a server: look as well, so that agreement takes a probe and not an interval."""
        newest = max(
            (
                said.row.mod_revision
                for node, said in case.said.items()
                if node != self.node and said.verdict.v == "bad"
            ),
            default=0,
        )
        if newest <= self._heard.get(case.server, 0):
            return []
        self._heard[case.server] = newest
        is_known = belief.stance == "bad" or (belief.seen_s is not None and now - belief.seen_s < _FRESH_S)
        return [] if is_known else [ProbeNow(server=case.server, reason="another node finds it bad")]

    # -- decisions

    def _decide(self, court: Court, proposals: list[tuple[int, Proposal]], now: float) -> list[Effect]:
        """Commit the first one whose turn has come."""
        identities = [(proposal.server, proposal.what) for _rank, proposal in proposals]
        self._since_s = {identity: self._since_s.get(identity, now) for identity in identities}
        if self._deciding is not None:
            return []
        recounted = None if self._truth is None else self._truth[0]
        for rank, proposal in proposals:
            since_s = self._since_s[proposal.server, proposal.what]
            patience_s = _zone_patience_s(court) if proposal.is_patient else 0.0
            due_s = max(since_s + patience_s + rank * _TURN_S, self._paused_until_s.get(proposal.server, now))
            if recounted not in (None, proposal.server):
                continue
            if due_s > now:
                self._wake(due_s)
                continue
            self._deciding = proposal.server
            transaction, leases_s = proposal.build(self._new_name(court), self.node)
            return [
                Decide(server=proposal.server, what=proposal.what, transaction=transaction, leases_s=leases_s)
            ]
        if recounted is not None:
            # By the truth there is nothing to decide; memory will show it soon.
            self._truth = None
            self._paused_until_s[recounted] = now + _PAUSE_S
            self._wake(now + _PAUSE_S)
        return []

    def _new_name(self, court: Court) -> str:
        """An id that no other decision has, since timers hang on it.

        Node ids are drawn by chance, and each machine counts; but a node has one for each cluster, and begins with
        a new one when a cluster comes back.
        """
        self._count += 1
        seed = f"{self.node} {court.cluster.name} {court.memory.revision} {self._count}"
        return blake2b(seed.encode(), digest_size=8).hexdigest()

    def _wake(self, at_s: float) -> None:
        self.due_s = at_s if self.due_s is None else min(self.due_s, at_s)


def _word(verdict: Verdict | None) -> tuple[object, ...]:
    """What a verdict says. Since which revision is for people."""
    return () if verdict is None else (verdict.v, verdict.why, verdict.gen)


def _zone_patience_s(court: Court) -> float:
    """So long the whole fleet may take to see a dead server; until then local ejection protects the zone."""
    health = court.fleet.health
    return health.interval_s + health.fall * health.timeout_max_s
