"""A whole fleet as an operator sees it, from all its keys at one revision; and how far an edit of it has come."""

from __future__ import annotations

from typing import Literal, TypeVar

from msgspec import Struct

from pgcat_cluster.agreement.bundles import Desired, Wants, digest_of
from pgcat_cluster.agreement.documents import (
    OVERRIDES,
    Accepted,
    Ack,
    ActivateOverride,
    Ban,
    Coord,
    DesiredStatus,
    Finding,
    Live,
    Override,
    PoolOverride,
    Scope,
    Seat,
    ServerOverride,
    Status,
    StoreOverride,
    Undecodable,
    Verdict,
    decode,
    decode_override,
)
from pgcat_cluster.agreement.keys import Keys, name_of
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Row

_Value = TypeVar("_Value")


class AcceptedView(Struct, frozen=True, kw_only=True):
    """The generation in force; `digest` is that of its documents."""

    gen: int
    rev: int
    digest: str


class NodeView(Struct, frozen=True, kw_only=True):
    """One live node. `active` is the generation it runs; `is_valid` is its word about the desired documents."""

    node: str
    state: str
    zone: str
    host: str
    addr: str
    version: str
    is_valid: bool
    active: int | None
    is_lagging: bool
    suspects_itself: bool
    nack: tuple[Finding, ...]
    unusable: tuple[Finding, ...]
    warn: tuple[Finding, ...]


class BanView(Struct, frozen=True, kw_only=True):
    server: str
    scope: Scope
    state: str
    why: tuple[str, ...]
    votes: tuple[str, ...]
    need: int
    jury: int
    strikes: int
    since_rev: int


class VerdictView(Struct, frozen=True, kw_only=True):
    """What one juror published about a server; `gen` is the generation it ran then."""

    server: str
    node: str
    v: str
    why: tuple[str, ...]
    since_rev: int
    gen: int
    zone: str


class OverrideView(Struct, frozen=True, kw_only=True):
    """`doubt` says why it does nothing."""

    target: str
    says: str
    reason: str
    by: str
    rev: int
    doubt: str = ""


class Overview(Struct, frozen=True, kw_only=True):
    fleet: str
    revision: int
    accepted: AcceptedView | None
    desired: DesiredStatus
    coordinator: str
    nodes: tuple[NodeView, ...]
    lost_seats: tuple[str, ...]
    bans: tuple[BanView, ...]
    verdicts: tuple[VerdictView, ...]
    overrides: tuple[OverrideView, ...]


def overview(keys: Keys, memory: Memory) -> Overview:
    """`memory` holds all keys of the fleet. What can not be read is passed over, as nodes do."""
    wanted = Wants(keys).seen(memory)
    accepted = _accepted(keys, memory)
    coord = memory.row(keys.coord)
    coordinator = None if coord is None else _decoded(coord, Coord)
    lives = [(row, live) for row in memory.under(keys.live_prefix) if (live := _decoded(row, Live))]
    nodes = tuple(
        _node(keys, memory, row.key.removeprefix(keys.live_prefix), live, wanted, accepted)
        for row, live in lives
    )
    return Overview(
        fleet=keys.fleet,
        revision=memory.revision,
        accepted=accepted,
        desired=_desired(keys, memory, wanted, accepted, bool(nodes), coordinator is not None),
        coordinator=coordinator.node if coordinator else "",
        nodes=nodes,
        lost_seats=tuple(
            name_of(seat.node)
            for row in memory.under(keys.seat_prefix)
            if (seat := _decoded(row, Seat)) and memory.row(keys.live(seat.node)) is None
        ),
        bans=tuple(
            BanView(
                server="/".join(named.names[:2]),
                scope=ban.scope,
                state=ban.state,
                why=ban.why,
                votes=ban.votes,
                need=ban.need,
                jury=ban.jury,
                strikes=ban.strikes,
                since_rev=row.create_revision,
            )
            for row in memory.under(keys.ban_prefix)
            if (named := keys.named(row.key)) and (ban := _decoded(row, Ban))
        ),
        verdicts=tuple(
            VerdictView(
                server="/".join(named.names[:2]),
                node=named.names[-1],
                v=verdict.v,
                why=verdict.why,
                since_rev=verdict.since_rev,
                gen=verdict.gen,
                zone=verdict.zone,
            )
            for row in memory.under(keys.verdict_prefix)
            if (named := keys.named(row.key)) and (verdict := _decoded(row, Verdict))
        ),
        overrides=tuple(_override(keys, row) for row in memory.under(keys.override)),
    )


def _accepted(keys: Keys, memory: Memory) -> AcceptedView | None:
    row = memory.row(keys.accepted)
    accepted = None if row is None else _decoded(row, Accepted)
    if row is None or accepted is None:
        return None
    return AcceptedView(gen=accepted.gen, rev=row.mod_revision, digest=digest_of(accepted.docs))


def _desired(
    keys: Keys,
    memory: Memory,
    wanted: Desired,
    accepted: AcceptedView | None,
    is_anybody_live: bool,
    is_coordinated: bool,
) -> DesiredStatus:
    """By the coordinator's word if that is about these documents, else by what can be seen."""
    bundle = wanted.bundle
    if accepted is not None and accepted.digest == bundle.digest:
        return DesiredStatus(rev=bundle.rev, digest=bundle.digest, state="accepted")
    row = memory.row(keys.status_config)
    status = None if row is None else _decoded(row, Status)
    if status is not None:
        told = status.desired
        if (told.rev, told.digest) == (bundle.rev, bundle.digest) and told.state != "accepted":
            return told
    why = "" if is_coordinated else "no node coordinates"
    if not is_anybody_live:
        why = "no node is live"
    return DesiredStatus(rev=bundle.rev, digest=bundle.digest, state="validating", why=why)


def _node(
    keys: Keys, memory: Memory, node: str, live: Live, wanted: Desired, accepted: AcceptedView | None
) -> NodeView:
    row = memory.row(keys.ack(node))
    ack = (_decoded(row, Ack) if row is not None else None) or Ack()
    active = None if ack.active is None else ack.active.gen
    return NodeView(
        node=node,
        state=live.state,
        zone=live.zone,
        host=live.host,
        addr=live.addr,
        version=live.version,
        is_valid=ack.valid == wanted.bundle,
        active=active,
        is_lagging=accepted is not None and active != accepted.gen,
        suspects_itself=ack.suspect_self,
        nack=ack.nack if ack.nacked == wanted.bundle else (),
        unusable=ack.unusable,
        warn=ack.warn,
    )


def _override(keys: Keys, row: Row) -> OverrideView:
    said, override, doubt = said_by(keys, row)
    return OverrideView(
        target=row.key.removeprefix(keys.override),
        says=said,
        reason=override.reason,
        by=override.by,
        rev=row.mod_revision,
        doubt=doubt,
    )


def said_by(keys: Keys, row: Row) -> tuple[str, Override, str]:
    """What an override says in few words, the override, and why it does nothing if that is so."""
    named = keys.named(row.key)
    if named is None or named.kind not in OVERRIDES:
        return "", Override(), "no override has such a key"
    try:
        override = decode_override(row.key, named.kind, row.value)
    except Undecodable as error:
        return "", Override(), ": ".join(filter(None, (error.path, error.message)))
    match override:
        case ServerOverride():
            words = [override.action, "by force" if override.force else ""]
        case PoolOverride():
            again = override.reconnect is not None
            words = [override.action or "", f"reconnect {override.reconnect}" if again else ""]
        case StoreOverride():
            words = [override.action]
        case ActivateOverride():
            without = "without " + ", ".join(override.without) if override.without else ""
            words = [f"revision {override.rev}", without]
        case _:
            words = ["on"]
    return " ".join(filter(None, words)), override, ""


def _decoded(row: Row, kind: type[_Value]) -> _Value | None:
    try:
        return decode(row.key, row.value, kind)
    except Undecodable:
        return None


# ---- how far an edit has come


class Goal(Struct, frozen=True, kw_only=True):
    """What is waited for: a generation, or that documents of this digest are accepted."""

    gen: int | None = None
    digest: str = ""


class Progress(Struct, frozen=True, kw_only=True):
    """`failed` will not change unless somebody does something."""

    state: Literal["reached", "failed", "pending"]
    text: str


_ENDS = ("rejected", "refused", "frozen", "waiting", "deleted")


def progress(view: Overview, goal: Goal) -> Progress:
    """Reached when it is accepted and every live node runs it."""
    accepted, desired = view.accepted, view.desired
    if accepted is not None and (
        accepted.digest == goal.digest if goal.gen is None else accepted.gen >= goal.gen
    ):
        said = f"accepted as generation {accepted.gen}"
        lagging = [node.node for node in view.nodes if node.is_lagging]
        if lagging:
            return Progress(state="pending", text=f"{said}; not yet run by {', '.join(lagging)}")
        if not view.nodes:
            return Progress(state="pending", text=f"{said}; no node is live")
        return Progress(state="reached", text=f"{said}; {_run_by(len(view.nodes))}")
    if goal.gen is not None:
        at = f"the fleet is at generation {accepted.gen}" if accepted else "nothing is accepted yet"
        return Progress(state="pending", text=at)
    if desired.digest != goal.digest:
        return Progress(state="failed", text="replaced by another edit before it was accepted")
    said = ": ".join(filter(None, (desired.state, desired.why)))
    return Progress(state="failed" if desired.state in _ENDS else "pending", text=said)


def _run_by(count: int) -> str:
    return "the one live node runs it" if count == 1 else f"all {count} live nodes run it"
