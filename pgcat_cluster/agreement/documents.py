"""The values of a fleet's keys: what nodes write about themselves and agree on, and what operators override."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from pgcat_cluster.agreement.keys import Kind
from pgcat_cluster.topology.reading import InvalidSettings, Problem, read_document, tree_of
from pgcat_cluster.topology.settings import Counter, Document, Name, Revision, needs

VALUE_BYTES_MAX = 64 << 10
ACCEPTED_BYTES_MAX = 1 << 20

# What this version can do; a document or mechanism that needs more is refused by name.
FEATURES = ("config-1", "ban-1", "cancel-1", "shards-1")

Scope = str  # `fleet`, or `zone:` and the name of a zone


class Written(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node writes. Readers pass over fields they do not know: a newer node may have written them."""


class Dated(Written, frozen=True, kw_only=True):
    """All that a key holds. `at` is when it was written, RFC 3339, for people alone: no node sees or compares it."""

    at: str | UnsetType = UNSET


# ---- schema and configuration


class Schema(Dated, frozen=True, kw_only=True):
    """A node whose own version is below `min_reader` does not start."""

    v: int
    min_reader: int
    fleet_id: str


class Accepted(Dated, frozen=True, kw_only=True):
    """What the fleet goes by: `docs` gives the SHA-256 of each document's text by its name."""

    gen: int
    from_rev: int
    term: int
    docs: dict[str, str]


class History(Written, frozen=True, kw_only=True):
    gen: int
    at_rev: int
    by: str
    docs: dict[str, str]
    changed: tuple[str, ...] = ()


class Bundle(Written, frozen=True, kw_only=True, order=True):
    """Which desired documents: the newest revision among them, and a hash over all names and texts."""

    rev: int
    digest: str


class Finding(Written, frozen=True, kw_only=True):
    """What is wrong, or doubtful, with the value a key had at `rev`; `path` is inside the document."""

    key: str
    rev: int = 0
    path: str = ""
    msg: str


class Active(Written, frozen=True, kw_only=True):
    gen: int


class Applied(Written, frozen=True, kw_only=True):
    """Up to which revision a node has applied what it watches."""

    decided: int
    override: int


class Ack(Dated, frozen=True, kw_only=True):
    """What a node thinks of the desired documents, and what it runs.

    `valid` is the newest bundle it found valid; `nacked` the newest it judged, if that is not valid, with what
    is wrong in `nack`. `active` is the generation it runs, unset before the first; `unusable` says why it can
    not run a newer one. `drained` gives the revision of each pause whose pool holds no server link any more.
    """

    valid: Bundle | None = None
    nacked: Bundle | None = None
    active: Active | None = None
    applied: Applied | None = None
    nack: tuple[Finding, ...] = ()
    warn: tuple[Finding, ...] = ()
    unusable: tuple[Finding, ...] = ()
    drained: dict[str, int] = {}
    suspect_self: bool = False


# ---- status, for people


class AcceptedStatus(Written, frozen=True, kw_only=True):
    gen: int
    rev: int


DesiredState = Literal["accepted", "validating", "rejected", "refused", "waiting", "frozen", "deleted"]


class DesiredStatus(Written, frozen=True, kw_only=True):
    """`why` says in words what keeps it from being accepted."""

    rev: int
    digest: str
    state: DesiredState
    why: str = ""


class NodeFinding(Written, frozen=True, kw_only=True):
    key: str
    path: str = ""
    node: str
    msg: str


class NodesStatus(Struct, frozen=True, kw_only=True):
    live: int
    valid: int
    nack: int
    on_accepted: int
    lagging: tuple[str, ...] = ()
    lost_seats: tuple[str, ...] = ()


class BanStatus(Written, frozen=True, kw_only=True):
    server: str
    scope: Scope
    why: tuple[str, ...]
    votes: str
    since_rev: int


class Status(Struct, frozen=True, kw_only=True):
    """What an operator reads first; no node acts on it."""

    accepted: AcceptedStatus | None
    desired: DesiredStatus
    errors: tuple[NodeFinding, ...] = ()
    nodes: NodesStatus
    bans: tuple[BanStatus, ...] = ()
    at: str | UnsetType = UNSET


class CommandStatus(Dated, frozen=True, kw_only=True):
    """What became of the one-shot command that a key held at `for_rev`."""

    for_rev: int
    command: str
    result: str
    detail: str = ""


# ---- membership


class Coord(Dated, frozen=True, kw_only=True):
    node: str


class Seat(Written, frozen=True, kw_only=True):
    node: str
    peer: str = ""
    host: str


class Live(Dated, frozen=True, kw_only=True):
    """A node as it is: `joining` serves nobody and does not vote, `draining` serves to the end and does not vote."""

    name: str
    host: str
    zone: str = ""
    state: Literal["joining", "serving", "draining"]
    addr: str
    peer: str = ""
    version: str
    ttl: float
    features: tuple[str, ...] = ()


class Prefix(Written, frozen=True, kw_only=True):
    """Which node answers for the cancel keys of a prefix."""

    node: str
    peer: str = ""


class Demand(Written, frozen=True, kw_only=True):
    n: int
    used: int
    waiting: int = 0


Share = dict[str, Demand]

# ---- verdicts and bans


class Verdict(Dated, frozen=True, kw_only=True):
    v: Literal["bad", "ok"]
    why: tuple[str, ...] = ()
    since_rev: int
    gen: int
    zone: str = ""
    replicas: dict[str, str] = {}


class Ban(Dated, frozen=True, kw_only=True):
    """`votes` are the node ids whose verdicts the transaction compared."""

    id: str
    state: Literal["banned", "probation"]
    scope: Scope
    why: tuple[str, ...]
    votes: tuple[str, ...]
    need: int
    jury: int
    zones: int
    strikes: int
    by: str


class Timer(Written, frozen=True, kw_only=True, rename={"purpose": "for"}):
    """A key on a lease nobody refreshes: its end is the time that is up."""

    purpose: str


class Strikes(Written, frozen=True, kw_only=True):
    n: int


# ---- overrides: written by operators, so every field they may not know is told


class Override(Document, frozen=True, kw_only=True):
    """What every override may say of itself."""

    reason: str = ""
    by: str = ""


class ServerOverride(Override, frozen=True, kw_only=True):
    """`force` bans below `min_healthy` as well."""

    action: Literal["ban", "drain", "pin", "ignore"]
    force: bool = False


class PoolOverride(Override, frozen=True, kw_only=True):
    """A pause lasts as long as its key says so; a greater `reconnect` retires the pool's links once more."""

    action: Literal["pause"] | None = None
    reconnect: Counter | None = None


class PrimaryOverride(Override, frozen=True, kw_only=True):
    """Commands about a primary, none of which this version has."""

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("switchover", "hold", "accept_timeline", "ack"), needs("primary-1")
    )


class FreezeOverride(Override, frozen=True, kw_only=True):
    """No automatic ban, promotion or activation while the key is there."""

    action: Literal["on"] = "on"


DigestBegin = Annotated[
    str, Meta(pattern="^[0-9a-f]{8,64}$", extra={"allowed": "8 to 64 hex digits, the begin of a digest"})
]


class ActivateOverride(Override, frozen=True, kw_only=True):
    """Lets one bundle pass the guards: by its revision, and by the begin of its digest if that is given too.

    After a deletion the newest revision is that of an older document; the digest tells the two apart.

    `without` names broken nodes whose nacks and silence do not count.
    """

    rev: Revision
    digest: DigestBegin | None = None
    without: list[Name] = field(default_factory=list)


class StoreOverride(Override, frozen=True, kw_only=True):
    """Nodes that knew another store, or this one further on, go on with it as it is now. Each put counts once."""

    action: Literal["accept"] = "accept"


OVERRIDES: Mapping[Kind, type[Override]] = {
    Kind.OVERRIDE_SERVER: ServerOverride,
    Kind.OVERRIDE_PRIMARY: PrimaryOverride,
    Kind.OVERRIDE_POOL: PoolOverride,
    Kind.OVERRIDE_FREEZE: FreezeOverride,
    Kind.OVERRIDE_ACTIVATE: ActivateOverride,
    Kind.OVERRIDE_STORE: StoreOverride,
}

WRITTEN: Mapping[Kind, type[Struct]] = {
    Kind.SCHEMA: Schema,
    Kind.ACCEPTED: Accepted,
    Kind.HISTORY: History,
    Kind.STATUS_CONFIG: Status,
    Kind.STATUS_COMMAND: CommandStatus,
    Kind.STATUS_ACTIVATE: CommandStatus,
    Kind.COORD: Coord,
    Kind.BAN: Ban,
    Kind.STRIKES: Strikes,
    Kind.TIMER: Timer,
    Kind.SEAT: Seat,
    Kind.LIVE: Live,
    Kind.PREFIX: Prefix,
    Kind.ACK: Ack,
    Kind.VERDICT: Verdict,
}

_Value = TypeVar("_Value")


class Undecodable(Exception):
    """A value that is not what its key promises; `key`, `path` and `message` tell where and why."""

    def __init__(self, key: str, problem: Problem) -> None:
        self.key = key
        self.path = problem.path
        self.message = problem.message
        super().__init__(": ".join(filter(None, (key, problem.path, problem.message))))


def encode(value: Struct | Mapping[str, Any]) -> bytes:
    """A value as nodes write it: JSON, and the same bytes for equal values."""
    return msgspec.json.encode(value, order="deterministic")


def decode(key: str, value: bytes, kind: type[_Value]) -> _Value:
    """What a node wrote under `key`. Raises Undecodable."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        message, _, path = str(error).partition(" - at `$")
        raise Undecodable(key, Problem(path.rstrip("`").removeprefix("."), message)) from None
    except (UnicodeDecodeError, RecursionError):
        raise Undecodable(key, Problem("", "is no JSON in UTF-8")) from None


def decode_override(key: str, kind: Kind, value: bytes) -> Override:
    """What an operator wrote under an override's key: TOML, JSON or one bare word. Raises Undecodable."""
    try:
        override = OVERRIDES[kind]
        is_word = "action" in override.__struct_fields__ and re.fullmatch(rb"\s*[a-z]+\s*", value)
        return read_document(override, {"action": value.strip().decode()} if is_word else tree_of(value))
    except InvalidSettings as invalid:
        raise Undecodable(key, invalid.problems[0]) from None
