"""The coordinator's part in the configuration: it activates what the nodes found valid, and tells how things are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct, structs

from pgcat_cluster.agreement.bundles import Desired, Judge, Judged, Wants, losses
from pgcat_cluster.agreement.coordinator import holds_term, staff
from pgcat_cluster.agreement.documents import (
    ACCEPTED_BYTES_MAX,
    Accepted,
    AcceptedStatus,
    Ack,
    ActivateOverride,
    Ban,
    BanStatus,
    CommandStatus,
    DesiredState,
    DesiredStatus,
    History,
    NodeFinding,
    NodesStatus,
    Schema,
    Seat,
    Status,
    Undecodable,
    decode,
    decode_override,
    encode,
)
from pgcat_cluster.agreement.effects import Commit, Effect
from pgcat_cluster.agreement.keys import Keys, Kind, name_of
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.pipeline import Running
from pgcat_cluster.agreement.transactions import (
    Delete,
    Operation,
    Outcome,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
    absent,
    nothing_newer,
    unchanged,
)
from pgcat_cluster.topology.cutover import cutovers
from pgcat_cluster.topology.settings import Activation

SCHEMA_VERSION = 1

_HISTORY_MAX = 50
_HISTORY_BYTES_MAX = 2 << 20
_DELETIONS_MAX = 80
_TEXTS_MAX = 50
_TEXTS_BYTES_MAX = 512 << 10
_AGAIN_S = 1.0  # after a write that was refused, or whose outcome nobody knows
# Status is written a moment after something changed, since more may follow, and seldom while things go on.
_STATUS_QUIET_S = 0.25
_STATUS_PAUSE_S = 1.0
_SHOWN_MAX = 50

_NOTHING = Ack()

_Value = TypeVar("_Value")


class _Past(Struct, frozen=True, kw_only=True):
    """What lies in the store beside what is watched: read at the beginning of a term, then kept by ourselves."""

    texts: frozenset[str]
    history: Mapping[int, tuple[int, frozenset[str]]]  # generation → size of its record, its texts
    status: bytes | None
    done_rev: int  # of the last `activate` that was carried out
    has_schema: bool


class _Sight(Struct, frozen=True, kw_only=True):
    """Everything one decision rests on."""

    wanted: Desired
    accepted: Accepted | None
    accepted_row: Row | None
    running: Running | None
    acks: Mapping[str, Ack]  # of every live node; an empty one where none is there
    counted: frozenset[str]  # the nodes whose word is needed
    override: ActivateOverride | None  # one that names exactly what is wanted, and was not carried out yet
    override_row: Row | None
    override_misfit: str  # why an operator's word that is there does not count
    is_frozen: bool
    newest_gen: int  # ever, as history knows it

    @property
    def voters(self) -> dict[str, Ack]:
        left_out = self.override.without if self.override else ()
        return {
            node: ack
            for node, ack in self.acks.items()
            if node in self.counted and name_of(node) not in left_out
        }

    @property
    def rule(self) -> Activation:
        """By what the accepted documents say, whose word is needed."""
        return self.running.settings.fleet.activation if self.running else Activation()


class _Decision(Struct, frozen=True, kw_only=True):
    state: DesiredState
    why: str = ""
    activate: bool = False


class Steward:
    """The machine. Call `step` whenever memory changed, after `done`, and at `due_s`.

    One write of its own is under way at a time; all else is seen anew in each step. `fleet_id` is drawn by the
    caller, and used if this node is the first ever to coordinate the fleet.
    """

    def __init__(self, keys: Keys, node: str, fleet_id: str, judge: Judge) -> None:
        self.due_s: float | None = None
        self._keys = keys
        self._node = node
        self._fleet_id = fleet_id
        self._wants = Wants(keys)
        self._judge = judge
        self._leave()

    def _leave(self) -> None:
        self._term: int | None = None
        self._acks: dict[str, tuple[Row, Ack]] = {}  # as decoded from these rows
        self._past: _Past | None = None
        self._under_way: Commit | None = None
        self._past_after: _Past | None = None  # if what is under way is carried out
        self._not_before = 0.0
        self._refused_at: int | None = None  # what was known when a write was refused
        self._known = 0  # the revision of memory in the last step
        self._seen_from = 0  # what we wrote at this revision must be seen before the next decision
        self._wanted_since: tuple[str, float] | None = None
        self._stale_since: float | None = None
        self._status_at = float("-inf")

    # -- events

    def done(self, commit: Commit, outcome: Outcome | None, now: float) -> None:
        """What became of a Commit; None: it may or may not have been carried out."""
        if commit is not self._under_way:
            return
        self._under_way = None
        if outcome is None:
            # The store says what happened: look again.
            self._past = None
        elif outcome.succeeded:
            self._past = self._past_after or _past(self._keys, outcome)
            if commit.purpose == "activate":
                self._seen_from = outcome.revision
            return
        else:
            # Something is different from what is known here, which will be told soon.
            self._refused_at = self._known
        self._not_before = now + _AGAIN_S

    # -- the step

    def step(self, memory: Memory, term: int | None, running: Running | None, now: float) -> list[Effect]:
        """What to do now. `term` is this node's, `running` what it goes by."""
        self.due_s = None
        if term != self._term:
            self._leave()
            self._term = term
        if term is None or self._under_way is not None:
            return []
        self._known = memory.revision
        if now < self._not_before and self._refused_at in (None, memory.revision):
            self._wake(self._not_before)
            return []
        self._not_before, self._refused_at = now, None
        past = self._past
        if past is None:
            return [self._commit("look", self._look(), None)]
        if not past.has_schema:
            schema = Schema(v=SCHEMA_VERSION, min_reader=SCHEMA_VERSION, fleet_id=self._fleet_id)
            compares = (holds_term(self._keys, term), absent(self._keys.schema))
            put = Put(key=self._keys.schema, value=encode(schema))
            after = structs.replace(past, has_schema=True)
            return [self._commit("schema", Transaction(compares=compares, then=(put,)), after)]
        if memory.applied(self._keys.decided) < self._seen_from:
            return []
        sight = self._look_around(memory, running, past)
        decision = self._decide(sight, now)
        is_mine_valid = sight.acks.get(self._node, _NOTHING).valid == sight.wanted.bundle
        # Also while others are still judging: the texts are there when they are done.
        is_wanted = decision.activate or (decision.state == "validating" and is_mine_valid)
        if is_wanted and not past.texts.issuperset(sight.wanted.docs.values()):
            return [self._put_texts(sight, past, term)]
        if decision.activate:
            return [self._activate(sight, past, term, memory)]
        return self._tell(self._status_of(sight, decision, memory), past, term, now)

    def _wake(self, at_s: float) -> None:
        self.due_s = at_s if self.due_s is None else min(self.due_s, at_s)

    def _commit(self, purpose: str, transaction: Transaction, after: _Past | None) -> Effect:
        self._past_after = after
        self._under_way = Commit(purpose=purpose, transaction=transaction)
        return self._under_way

    def _look(self) -> Transaction:
        keys = self._keys
        return Transaction(
            then=(
                Range(key=keys.doc_prefix, prefix=True, keys_only=True),
                Range(key=keys.history_prefix, prefix=True),
                Range(key=keys.status_config),
                Range(key=keys.status_activate),
                Range(key=keys.schema),
            )
        )

    def _look_around(self, memory: Memory, running: Running | None, past: _Past) -> _Sight:
        keys = self._keys
        wanted = self._wants.seen(memory)
        accepted_row = memory.row(keys.accepted)
        accepted = None if accepted_row is None else _decoded(accepted_row, Accepted)
        override_row = memory.row(keys.activate)
        override, misfit = _naming(wanted, override_row, past.done_rev)
        live = [row.key.removeprefix(keys.live_prefix) for row in memory.under(keys.live_prefix)]
        return _Sight(
            wanted=wanted,
            accepted=accepted,
            accepted_row=accepted_row,
            running=running if running is not None and running.accepted == accepted else None,
            acks={node: self._ack(memory, node) for node in live},
            counted=frozenset(staff(keys, memory)),
            override=override,
            override_row=override_row,
            override_misfit=misfit,
            is_frozen=memory.row(keys.freeze) is not None,
            newest_gen=max(past.history, default=0),
        )

    def _ack(self, memory: Memory, node: str) -> Ack:
        row = memory.row(self._keys.ack(node))
        if row is None:
            return _NOTHING
        known = self._acks.get(node)
        if known is None or known[0] is not row:
            known = self._acks[node] = (row, _decoded(row, Ack) or _NOTHING)
        return known[1]

    # -- the decision

    def _decide(self, sight: _Sight, now: float) -> _Decision:
        wanted, accepted = sight.wanted, sight.accepted
        if not wanted.texts:
            if sight.accepted_row is None:
                return _Decision(state="waiting", why="there is nothing under config/")
            return _Decision(
                state="deleted",
                why="everything under config/ was deleted; the accepted documents stay in force",
            )
        if sight.accepted_row is not None and accepted is None:
            return _Decision(state="refused", why="decided/accepted can not be read")
        if accepted is not None and accepted.docs == wanted.docs:
            return _Decision(state="accepted")
        voters = sight.voters
        if any(ack.nacked == wanted.bundle for ack in voters.values()):
            return _Decision(state="rejected", why=sight.override_misfit)
        if why := self._not_yet(sight, now):
            return _Decision(state="validating", why=why)
        judged = self._judge.judge(wanted.texts, wanted.docs)
        if judged.settings is None:
            return _Decision(state="refused", why="the coordinator itself can not read the documents")
        if sight.accepted_row is None and not judged.settings.pools:
            return _Decision(state="waiting", why="the first documents of a fleet need a pool")
        if sight.is_frozen:
            return _Decision(state="frozen", why="override/_fleet/freeze is there")
        if sight.running is not None and (moved := cutovers(sight.running.settings, judged.settings)):
            # Nodes say so themselves, but may have judged beside an older generation.
            return _Decision(state="refused", why=f"{moved[0].path}: {moved[0].message}")
        if why := self._too_much(sight, judged):
            return _Decision(state="refused", why="; ".join(filter(None, (why, sight.override_misfit))))
        return _Decision(state="validating", activate=True)

    def _not_yet(self, sight: _Sight, now: float) -> str:
        """Whose word is still waited for; empty if those that spoke are enough."""
        bundle, voters = sight.wanted.bundle, sight.voters
        if self._wanted_since is None or self._wanted_since[0] != bundle.digest:
            self._wanted_since = (bundle.digest, now)
        rule = sight.rule
        valid = [node for node, ack in voters.items() if ack.valid == bundle]
        silent = sorted(node for node in voters if node not in valid)
        if not voters:
            return "no node is there to judge them"
        if not silent or (rule.policy == "immediate" and self._node in valid):
            return ""
        timeout_at = self._wanted_since[1] + rule.timeout_s
        if rule.policy == "majority" and now >= timeout_at and len(valid) * 2 > len(voters):
            return ""
        if now < timeout_at:
            self._wake(timeout_at)
        return "no word yet from " + _listed(silent)

    def _too_much(self, sight: _Sight, judged: Judged) -> str:
        """Why an operator must agree first; empty if nothing is against it."""
        assert judged.settings is not None
        size_bytes = len(encode(_next(sight, 0)))
        if size_bytes > ACCEPTED_BYTES_MAX:
            return f"the list of documents is too large: {size_bytes} bytes of {ACCEPTED_BYTES_MAX}"
        is_first = sight.accepted_row is None and not sight.newest_gen
        if sight.override is not None or is_first:
            return ""
        bundle = sight.wanted.bundle
        named = f'{{"rev":{bundle.rev},"digest":"{bundle.digest[:12]}"}}'
        permit = f"to agree, put override/_fleet/activate {named}"
        if sight.accepted_row is None:
            return f"decided/accepted was deleted, so losses can not be told; {permit}"
        if sight.running is None:
            return f"the coordinator does not run the accepted documents, so losses can not be told; {permit}"
        allowed = sight.running.settings.fleet.allow_delete
        lost = losses(sight.running.settings, judged.settings)
        if asked := [f"{name} {what}" for name, what in sorted(lost.items()) if name not in allowed]:
            return f"{_listed(asked, '; ')}; {permit}, or name it in allow_delete beforehand"
        return ""

    # -- what is written

    def _put_texts(self, sight: _Sight, past: _Past, term: int) -> Effect:
        """As many of the texts that the store does not have yet as fit into one transaction."""
        texts = {
            sha: sight.wanted.texts[name]
            for name, sha in sorted(sight.wanted.docs.items())
            if sha not in past.texts
        }
        puts: list[Operation] = []
        size_bytes = 0
        for sha, text in texts.items():
            size_bytes += len(text)
            if len(puts) == _TEXTS_MAX or (puts and size_bytes > _TEXTS_BYTES_MAX):
                break
            puts.append(Put(key=self._keys.doc(sha), value=text))
        transaction = Transaction(compares=(holds_term(self._keys, term),), then=tuple(puts))
        after = structs.replace(past, texts=past.texts | set(list(texts)[: len(puts)]))
        return self._commit("texts", transaction, after)

    def _activate(self, sight: _Sight, past: _Past, term: int, memory: Memory) -> Effect:
        """The pointer moves if nothing it rests on has changed; what nobody needs any more goes with it."""
        keys, wanted = self._keys, sight.wanted
        accepted = _next(sight, term)
        before = sight.accepted.docs if sight.accepted else {}
        changed = tuple(
            name for name in sorted({*before, *wanted.docs}) if before.get(name) != wanted.docs.get(name)
        )
        record = encode(
            History(
                gen=accepted.gen, at_rev=wanted.bundle.rev, by=self._node, docs=wanted.docs, changed=changed
            )
        )
        compares = [
            holds_term(keys, term),
            absent(keys.accepted) if sight.accepted_row is None else unchanged(sight.accepted_row),
            nothing_newer(keys.config_prefix, wanted.bundle.rev),
            absent(keys.freeze),
        ]
        if sight.rule.policy != "immediate":
            # Nobody came, and nobody said anything else: all that were asked agree when the pointer moves.
            watched = (keys.live_prefix, keys.ack_prefix)
            compares += [nothing_newer(prefix, memory.newest(prefix)) for prefix in watched]
        then: list[Operation] = [
            Put(key=keys.accepted, value=encode(accepted)),
            Put(key=keys.history(accepted.gen), value=record),
        ]
        done_rev = past.done_rev
        if sight.override is not None and sight.override_row is not None:
            compares.append(unchanged(sight.override_row))
            done_rev = sight.override_row.mod_revision
            done = CommandStatus(
                for_rev=done_rev, command="activate", result="done", detail=f"generation {accepted.gen}"
            )
            then.append(Put(key=keys.status_activate, value=encode(done)))
        history = {**past.history, accepted.gen: (len(record), frozenset(wanted.docs.values()))}
        generations, texts = _swept(history, past.texts)
        then += [Delete(key=keys.history(generation)) for generation in generations]
        then += [Delete(key=keys.doc(sha)) for sha in texts]
        after = structs.replace(
            past,
            done_rev=done_rev,
            history={generation: one for generation, one in history.items() if generation not in generations},
            texts=past.texts.difference(texts),
        )
        return self._commit("activate", Transaction(compares=tuple(compares), then=tuple(then)), after)

    # -- what is told

    def _tell(self, status: Status, past: _Past, term: int, now: float) -> list[Effect]:
        value = encode(status)
        if value == past.status:
            self._stale_since = None
            return []
        if self._stale_since is None:
            self._stale_since = now
        at_s = max(self._stale_since + _STATUS_QUIET_S, self._status_at + _STATUS_PAUSE_S)
        if now < at_s:
            self._wake(at_s)
            return []
        self._stale_since, self._status_at = None, now
        put = Put(key=self._keys.status_config, value=value)
        transaction = Transaction(compares=(holds_term(self._keys, term),), then=(put,))
        return [self._commit("status", transaction, structs.replace(past, status=value))]

    def _status_of(self, sight: _Sight, decision: _Decision, memory: Memory) -> Status:
        bundle, accepted = sight.wanted.bundle, sight.accepted
        acks = sight.acks
        errors = [
            NodeFinding(key=finding.key, path=finding.path, node=node, msg=finding.msg)
            for node, ack in sorted(acks.items())
            for finding in ((*ack.nack, *ack.unusable) if ack.nacked == bundle else ack.unusable)
        ]
        on_accepted = [
            node
            for node, ack in acks.items()
            if accepted is not None and ack.active is not None and ack.active.gen == accepted.gen
        ]
        return Status(
            accepted=None
            if accepted is None or sight.accepted_row is None
            else AcceptedStatus(gen=accepted.gen, rev=sight.accepted_row.mod_revision),
            desired=DesiredStatus(
                rev=bundle.rev, digest=bundle.digest, state=decision.state, why=decision.why
            ),
            errors=tuple(errors[:_SHOWN_MAX]),
            nodes=NodesStatus(
                live=len(acks),
                valid=sum(ack.valid == bundle for ack in acks.values()),
                nack=sum(ack.nacked == bundle for ack in acks.values()),
                on_accepted=len(on_accepted),
                lagging=tuple(sorted({*acks} - {*on_accepted}) if accepted is not None else ()),
                lost_seats=self._lost_seats(memory),
            ),
            bans=self._bans(memory),
        )

    def _lost_seats(self, memory: Memory) -> tuple[str, ...]:
        """Names of nodes that left no word: they may be dead, or only cut off."""
        seats = (_decoded(row, Seat) for row in memory.under(self._keys.seat_prefix))
        return tuple(
            sorted(
                name_of(seat.node)
                for seat in seats
                if seat is not None and memory.row(self._keys.live(seat.node)) is None
            )
        )

    def _bans(self, memory: Memory) -> tuple[BanStatus, ...]:
        shown = []
        for row in memory.under(self._keys.ban_prefix):
            named, ban = self._keys.named(row.key), _decoded(row, Ban)
            if named is not None and ban is not None:
                shown.append(
                    BanStatus(
                        server="/".join(named.names[:2]),
                        scope=ban.scope,
                        why=ban.why,
                        votes=f"{len(ban.votes)} of {ban.jury}",
                        since_rev=row.create_revision,
                    )
                )
        return tuple(shown[:_SHOWN_MAX])


def _next(sight: _Sight, term: int) -> Accepted:
    gen = max(sight.newest_gen, sight.accepted.gen if sight.accepted else 0) + 1
    return Accepted(gen=gen, from_rev=sight.wanted.bundle.rev, term=term, docs=sight.wanted.docs)


def _swept(
    history: Mapping[int, tuple[int, frozenset[str]]], texts: frozenset[str]
) -> tuple[list[int], list[str]]:
    """Generations beyond the bounds of history, and texts that nothing left refers to; not too many at once."""
    kept: set[str] = set()
    old: list[int] = []
    size_bytes = 0
    for count, generation in enumerate(sorted(history, reverse=True)):
        record_bytes, referred = history[generation]
        size_bytes += record_bytes
        # The newest one is the generation that begins now.
        if count and (count >= _HISTORY_MAX or size_bytes > _HISTORY_BYTES_MAX):
            old.append(generation)
        else:
            kept |= referred
    generations = sorted(old)[:_DELETIONS_MAX]
    for generation in set(old).difference(generations):
        kept |= history[generation][1]
    return generations, sorted(texts - kept)[: _DELETIONS_MAX - len(generations)]


def _naming(wanted: Desired, row: Row | None, done_rev: int) -> tuple[ActivateOverride | None, str]:
    """An operator's word for exactly these documents, which counts once; else why the word there is none."""
    if row is None or row.mod_revision == done_rev:
        return None, ""
    try:
        override = decode_override(row.key, Kind.OVERRIDE_ACTIVATE, row.value)
    except Undecodable as error:
        return None, f"override/_fleet/activate: {': '.join(filter(None, (error.path, error.message)))}"
    assert isinstance(override, ActivateOverride)
    bundle = wanted.bundle
    if override.rev != bundle.rev or not bundle.digest.startswith(override.digest or ""):
        return None, "override/_fleet/activate names other documents"
    return override, ""


def _decoded(row: Row, kind: type[_Value]) -> _Value | None:
    try:
        return decode(row.key, row.value, kind)
    except Undecodable:
        return None


def _past(keys: Keys, outcome: Outcome) -> _Past:
    docs, history, status, command, schema = (answer or Rows(rows=(), count=0) for answer in outcome.answers)
    generations = {}
    for row in history.rows:
        if (one := _decoded(row, History)) is not None:
            generations[one.gen] = (len(row.value), frozenset(one.docs.values()))
    done = next((_decoded(row, CommandStatus) for row in command.rows), None)
    return _Past(
        texts=frozenset(row.key.removeprefix(keys.doc_prefix) for row in docs.rows),
        history=generations,
        status=status.rows[0].value if status.rows else None,
        done_rev=done.for_rev if done else 0,
        has_schema=bool(schema.rows),
    )


def _listed(words: list[str], separator: str = ", ") -> str:
    shown = words[:5]
    return separator.join(shown) + (f" and {len(words) - len(shown)} more" if len(words) > 5 else "")
