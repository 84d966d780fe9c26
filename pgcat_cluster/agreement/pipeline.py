"""One node's part in the configuration: judge what operators want, run what the fleet accepted, and say both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, structs

from pgcat_cluster.agreement.bundles import (
    Desired,
    Judge,
    Wants,
    Wrong,
    digest_of,
    findings,
    hash_of,
    wrong_in,
)
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ack,
    Active,
    Applied,
    Bundle,
    Finding,
    Undecodable,
    decode,
    encode,
)
from pgcat_cluster.agreement.effects import Alarm, Effect, Fetch, Preflight, Run, Say
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Row
from pgcat_cluster.topology.cutover import cutovers
from pgcat_cluster.topology.reading import Problem
from pgcat_cluster.topology.settings import Activation, Settings

_ACKS_PER_S = 5.0
_ACKS_BURST = 4.0
# How long a node waits before it asks again for texts, or tries again what failed on it alone.
_AGAIN_S = 5.0
# What failed midway by a fault of ours fails again, and clients may pay for each attempt.
_FAULT_AGAIN_S = 60.0
_TURN_S = 0.001


class Running(Struct, frozen=True, kw_only=True):
    """The generation a node goes by."""

    accepted: Accepted
    settings: Settings


class Bucket:
    """So many at once, then so many per second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def take(self, now: float) -> float | None:
        """None if one was taken, else when the next one will be there."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0 - 1e-9:
            return now + (1.0 - self._left) / self._rate
        self._left -= 1.0
        return None


class _Judging(Struct, kw_only=True):
    """A bundle that waits for quiet, is read in `portions`, and then waits for its preflight: `settings` are there."""

    desired: Desired
    due_s: float
    portions: Iterator[None] | None = None
    settings: Settings | None = None


class Follower:
    """The machine. Call `step` whenever memory changed, after each event below, and at `due_s`.

    Events are `preflighted`, `fetched`, `ran`, `unusable`, `failed` (the answers to effects), `applied_overrides`,
    `drained`, `suspects_itself` and `judge_again`. The `judge` may be shared with the node's Steward.
    """

    def __init__(self, keys: Keys, node: str, judge: Judge) -> None:
        self.due_s: float | None = None
        self.running: Running | None = None
        self.ack = Ack()
        self._keys = keys
        self._node = node
        self._said: Ack | None = None
        self._bucket = Bucket(_ACKS_PER_S, _ACKS_BURST)
        self._judging: _Judging | None = None
        self._wants = Wants(keys)
        self._judge = judge
        self._needs_cutover = False
        self._config_is_gone = False
        # What `decided/accepted` asks to be run: its row, what was understood of it, and what was asked for it.
        self._accepted_row: Row | None = None
        self._candidate: Accepted | None = None
        self._texts: dict[str, bytes] = {}
        self._fetching: frozenset[str] = frozenset()
        self._asked_at: float | None = None
        self._patience_s = _AGAIN_S

    # -- events

    def start(self, accepted: Accepted, settings: Settings) -> None:
        """This node already goes by a generation: from its cache file."""
        self.running = Running(accepted=accepted, settings=settings)
        self.ack = structs.replace(self.ack, active=Active(gen=accepted.gen))

    def preflighted(self, bundle: Bundle, hard: tuple[Wrong, ...], soft: tuple[Wrong, ...] = ()) -> None:
        """What became of a preflight; one of another bundle than the present is passed over."""
        judging = self._judging
        if judging is None or judging.desired.bundle != bundle or judging.settings is None:
            return
        self._conclude(judging.desired, hard, soft)

    def fetched(self, texts: Mapping[str, bytes]) -> None:
        """Texts from the store by their SHA-256, all that was asked for and is there."""
        self._texts |= {sha: text for sha, text in texts.items() if hash_of(text) == sha}
        docs = self._candidate.docs if self._candidate else {}
        if lost := [name for name in sorted(docs) if docs[name] in self._fetching - self._texts.keys()]:
            message = "its accepted text is not in the store, or is another"
            self._refuse(findings(tuple(Wrong(name, "", message) for name in lost)))
        else:
            self._asked_at = None

    def ran(self, accepted: Accepted, settings: Settings) -> None:
        """What `Run` asked for is in force."""
        self.running = Running(accepted=accepted, settings=settings)
        if self._needs_cutover:
            # It was wrong beside what was run till now.
            self.judge_again()
        if self._candidate == accepted:
            self._candidate = None
            self._texts = {}
        self.ack = structs.replace(self.ack, active=Active(gen=accepted.gen), unusable=())

    def unusable(self, accepted: Accepted, problems: tuple[Problem, ...]) -> None:
        """What `Run` asked for can not be had on this node; it is tried again from time to time."""
        if self._candidate == accepted:
            self._refuse(findings(wrong_in(problems)))

    def failed(self, accepted: Accepted, why: str) -> None:
        """What `Run` asked for met a fault of this node's own, which runs what it ran; it is seldom tried again."""
        if self._candidate == accepted:
            self._refuse((Finding(key="decided/accepted", msg=why),))
            self._patience_s = _FAULT_AGAIN_S

    def applied_overrides(self, revision: int) -> None:
        """What operators override is obeyed up to this revision."""
        decided = self.ack.applied.decided if self.ack.applied else 0
        self.ack = structs.replace(self.ack, applied=Applied(decided=decided, override=revision))

    def drained(self, pauses: Mapping[str, int]) -> None:
        """Which pools hold no server link any more, each with the revision of its pause."""
        self.ack = structs.replace(self.ack, drained=dict(pauses))

    def suspects_itself(self, suspects: bool) -> None:
        self.ack = structs.replace(self.ack, suspect_self=suspects)

    def judge_again(self) -> None:
        """Forget what was judged: something outside the documents, a secret file say, may have changed."""
        self.ack = structs.replace(self.ack, valid=None, nacked=None, nack=(), warn=())
        self._asked_at = None

    # -- the step

    def step(self, memory: Memory, now: float) -> list[Effect]:
        """What to do now."""
        self.due_s = None
        effects = self._follow(memory, now)
        effects += self._consider(memory, now)
        effects += self._speak(memory, now)
        return effects

    def _wake(self, at_s: float) -> None:
        self.due_s = at_s if self.due_s is None else min(self.due_s, at_s)

    # -- what is desired

    def _consider(self, memory: Memory, now: float) -> list[Effect]:
        if not memory.applied(self._keys.config_prefix):
            return []
        wanted = self._wants.seen(memory)
        if not wanted.texts:
            self._judging = None
            if self._config_is_gone or self.running is None:
                return []
            self._config_is_gone = True
            return [Alarm(text="everything under config/ was deleted; the accepted documents stay in force")]
        self._config_is_gone = False
        # What was wrong may be deleted again: then an older bundle, valid before, is judged anew to say so.
        if wanted.bundle == (self.ack.nacked or self.ack.valid):
            self._judging = None
            return []
        judging = self._judging
        if judging is None or judging.desired.bundle != wanted.bundle:
            judging = self._judging = _Judging(desired=wanted, due_s=now + self._activation.settle_s)
        if judging.settings is not None:
            return []
        if now < judging.due_s:
            self._wake(judging.due_s)
            return []
        if judging.portions is None:
            judging.portions = self._judge.portions(wanted.texts, wanted.docs)
        if next(judging.portions, True) is None:
            # Many documents are new: between two portions others have their turn.
            self._wake(now + _TURN_S)
            return []
        judged = self._judge.judge(wanted.texts, wanted.docs)
        if judged.settings is None:
            self._conclude(wanted, judged.wrong)
            return []
        in_force = self.running.accepted.docs if self.running else {}
        changed = tuple(name for name, sha in sorted(wanted.docs.items()) if in_force.get(name) != sha)
        if not changed:
            self._conclude(wanted, ())
            return []
        judging.settings = judged.settings
        before = self.running.settings if self.running else None
        if before is not None and (moved := cutovers(before, judged.settings)):
            self._conclude(wanted, wrong_in(moved))
            self._needs_cutover = True
            return []
        return [
            Preflight(bundle=wanted.bundle, settings=judged.settings, changed=changed, before=before),
        ]

    @property
    def _activation(self) -> Activation:
        return self.running.settings.fleet.activation if self.running else Activation()

    def _conclude(self, wanted: Desired, hard: tuple[Wrong, ...], soft: tuple[Wrong, ...] = ()) -> None:
        self._judging = None
        self._needs_cutover = False
        revisions = wanted.revisions
        if hard:
            self.ack = structs.replace(
                self.ack, nacked=wanted.bundle, nack=findings(hard, revisions), warn=findings(soft, revisions)
            )
        else:
            self.ack = structs.replace(
                self.ack, valid=wanted.bundle, nacked=None, nack=(), warn=findings(soft, revisions)
            )

    # -- what is accepted

    def _follow(self, memory: Memory, now: float) -> list[Effect]:
        row = memory.row(self._keys.accepted)
        if row is None:
            return []
        if row != self._accepted_row:
            self._accepted_row = row
            self._asked_at = None
            try:
                self._candidate = decode(row.key, row.value, Accepted)
            except Undecodable as error:
                self._candidate = None
                self._refuse((Finding(key="decided/accepted", path=error.path, msg=error.message),))
        accepted = self._candidate
        if accepted is None:
            return []
        if self.running is not None and self.running.accepted == accepted:
            self._candidate = None
            self.ack = structs.replace(self.ack, unusable=())
            return []
        if self._asked_at is not None and now < self._asked_at + self._patience_s:
            self._wake(self._asked_at + self._patience_s)
            return []
        return self._prepare(accepted, memory, now)

    def _prepare(self, accepted: Accepted, memory: Memory, now: float) -> list[Effect]:
        """The new generation from the texts at hand; nothing of it if this node found it wrong."""
        nacked = self.ack.nacked
        if nacked is not None and nacked.digest == digest_of(accepted.docs):
            self._refuse(self.ack.nack)
            return []
        wanted = self._wants.seen(memory)
        by_hash = self._texts | {sha: wanted.texts[name] for name, sha in wanted.docs.items()}
        missing = tuple(sorted({sha for sha in accepted.docs.values() if sha not in by_hash}))
        self._asked_at, self._patience_s = now, _AGAIN_S
        self._wake(now + _AGAIN_S)
        if missing:
            self._fetching = frozenset(missing)
            return [Fetch(hashes=missing)]
        texts = {name: by_hash[sha] for name, sha in accepted.docs.items()}
        self._texts = {sha: by_hash[sha] for sha in accepted.docs.values()}
        judged = self._judge.judge(texts, accepted.docs)
        if judged.settings is None:
            self._refuse(findings(judged.wrong))
            return []
        return [Run(accepted=accepted, settings=judged.settings, texts=texts)]

    def _refuse(self, findings: tuple[Finding, ...]) -> None:
        self.ack = structs.replace(self.ack, unusable=findings)

    # -- what is said

    def _speak(self, memory: Memory, now: float) -> list[Effect]:
        """Say what changed. How far this node has read is told with it, and is no reason to write by itself."""
        override = self.ack.applied.override if self.ack.applied else 0
        known = Applied(decided=memory.applied(self._keys.decided), override=override)
        if self._said is not None and self.ack == structs.replace(self._said, applied=self.ack.applied):
            said = self._said.applied
            if said is not None and said.override == override:
                return []
        later = self._bucket.take(now)
        if later is not None:
            self._wake(later)
            return []
        self.ack = self._said = structs.replace(self.ack, applied=known)
        return [Say(key=self._keys.ack(self._node), value=encode(self.ack))]
