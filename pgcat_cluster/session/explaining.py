"""Explains where a statement would go and why: the decision that is made for the statement itself, and nothing run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct, structs

from pgcat_cluster.errors import Fault
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.flows import Flow, FlowTable
from pgcat_cluster.relay.shapes import Scanner, render
from pgcat_cluster.routing.placement import placement_of
from pgcat_cluster.routing.serving import Candidate, candidates
from pgcat_cluster.session.decisions import ENDING, UNKNOWN, Decision, decide
from pgcat_cluster.session.keyed import Asked, keys_of, shard_of
from pgcat_cluster.session.locating import hinted, may_default, why_nowhere
from pgcat_cluster.session.paths import path_of
from pgcat_cluster.session.plugins import PoolPlugins
from pgcat_cluster.session.replies import CommandAnswer
from pgcat_cluster.session.wishes import NO_WISHES, Wishes, ground_for, role_mark
from pgcat_cluster.sql.commands import recognise
from pgcat_cluster.sql.grammar import TEXT_BYTES_MAX
from pgcat_cluster.sql.volatility import UNKNOWN as NOT_ASKED
from pgcat_cluster.sql.volatility import FunctionCatalog
from pgcat_cluster.topology.model import PoolSettings, ServerKey, Sharding
from pgcat_cluster.topology.settings import OnAllBad
from pgcat_cluster.topology.view import ClusterView

COLUMN: Final = "route"

Memory = Literal[
    "remembered",
    "not remembered; a shape is when it was seen twice",
    "decided anew each time",
    "no node was asked",
]

_MARKERS = {
    b"i": "<integer>",
    b"d": "<number>",
    b"s": "<text>",
    b"e": "<escape text>",
    b"b": "<bits>",
    b"x": "<hex>",
    b"n": "<national text>",
    b"u": "<unicode text>",
    b"q": "<dollar text>",
    b"m": "<more>",
}
_PLACES_SHOWN_MAX = 8
_VALUES_SHOWN_MAX = 5
_MARKER = re.compile(rb"\0([a-z])")


class Choice(Struct, frozen=True, kw_only=True):
    """Something that was chosen, and why."""

    value: str
    reason: str


class Standing(Struct, frozen=True, kw_only=True):
    """One server that could serve the statement, and whether it may; None: nobody asked."""

    shard: int
    server: str
    weight: int
    is_eligible: bool | None
    reason: str = ""


class Explanation(Struct, frozen=True, kw_only=True):
    """Where a statement would go if it were sent now outside a transaction. `refusal` or `answered` say why nowhere."""

    statement: str
    refusal: str = ""
    answered: str = ""
    shard: Choice | None = None
    role: Choice | None = None
    candidates: tuple[Standing, ...] = ()
    shape: str | None = None
    flow: Memory = "no node was asked"
    needs_constants: bool = False
    doubt: str = ""
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """As people read it, in the manner of EXPLAIN."""
        yield f"Route: {self._target()}"
        if self.shard is not None:
            yield f"  Shard: {self.shard.value} ({self.shard.reason})"
        if self.role is not None:
            yield f"  Role: {self.role.value} ({self.role.reason})"
        has_several = len({one.shard for one in self.candidates}) > 1
        for one in self.candidates:
            place = f" of shard {one.shard}" if has_several else ""
            yield f"  Server: {one.server}{place} {_standing(one)}"
        yield f"  Shape: {'none' if self.shape is None else self.shape}"
        yield f"  Flow: {self.flow}"
        if self.needs_constants:
            yield "  Constants: some decide, so each statement of this shape is looked at"
        if self.doubt:
            yield f"  Doubt: {self.doubt}"
        for note in self.notes:
            yield f"  Note: {note}"

    def _target(self) -> str:
        if self.refusal:
            return f"none, it is refused: {self.refusal}"
        if self.shard is None or self.role is None:
            return f"none, it is {self.answered}"
        return f"shard {self.shard.value}, {self.role.value}"


def _standing(one: Standing) -> str:
    if one.is_eligible is None:
        return f"weight {one.weight}, not asked"
    if not one.is_eligible:
        return f"refused: {one.reason}"
    return f"eligible, weight {one.weight}" + (f", though {one.reason}" if one.reason else "")


class Place(Protocol):
    """One shard of a pool, as it is seen now."""

    @property
    def number(self) -> int: ...
    @property
    def view(self) -> ClusterView: ...
    @property
    def on_all_bad(self) -> OnAllBad: ...


class Circumstances(Struct, frozen=True, kw_only=True):
    """For whom a statement is explained. `flows`: None where no node runs, so that no server was asked either."""

    settings: PoolSettings
    places: Sequence[Place]
    statement_bytes_max: int
    wishes: Wishes = NO_WISHES
    flows: FlowTable | None = None
    has_shapes: bool = True
    is_utf8: bool = True
    shuns_replicas: bool = False
    path: bytes = b""
    plugins: PoolPlugins | None = None
    catalog: FunctionCatalog = NOT_ASKED
    notes: tuple[str, ...] = ()
    types: bytes = b"\0\0"
    bind: bytes = b""
    """What its parameters are, as in `keyed.Asked`."""
    behind: Callable[[int, ServerKey], str] = lambda _shard, _server: ""
    """Why a server does not serve this session's reads of a shard, beside what its view says."""


def explain(statement: str, given: Circumstances) -> Explanation:
    """Say where a statement string would go, outside a transaction. Nothing is run, and nothing remembered."""
    text = bytearray(statement.encode(errors="surrogateescape"))
    is_long = len(text) > given.statement_bytes_max
    shape = Scanner().scan(text, 0, len(text)) if given.has_shapes and not is_long else None
    if is_long:
        decision = Decision(flow=UNKNOWN)
    else:
        decision = decide(
            bytes(text),
            shape,
            given.settings,
            has_shapes=given.has_shapes,
            catalog=given.catalog,
            placement=placement_of(given.settings),
            path=path_of(given.path),
        )
    plugins = given.plugins
    revised = decision if plugins is None else plugins.revised(decision, bytes(text), shape)
    known = None if given.flows is None or shape is None else given.flows.get(shape, given.path)
    flow = revised.flow if known is None else known
    found = Explanation(
        statement=statement,
        shape=None if shape is None else _readable(shape),
        flow="no node was asked" if given.flows is None else _memory(revised, is_known=known is not None),
        needs_constants=decision.needs_constants,
        doubt=_doubt(decision.flow, shape, given, is_long=is_long),
        notes=(*given.notes, *_path_note(flow, given)),
    )
    try:
        if flow.flags & marks.COMMAND:
            return structs.replace(found, answered=_answered(flow, statement))
        said = hinted(given.settings, bytes(text), ground_for(given.settings, lambda: 0))
        mark, role = _role(flow, said, given)
        found = structs.replace(found, role=role)
        number, shard = _shard(flow, text, said, given)
    except Fault as fault:
        return structs.replace(found, refusal=str(fault))
    places = given.places if number < 0 else [given.places[number]]
    standings = [one for place in places[:_PLACES_SHOWN_MAX] for one in _standings(place, mark, given)]
    return structs.replace(found, shard=shard, candidates=tuple(standings))


def _path_note(flow: Flow, given: Circumstances) -> tuple[str, ...]:
    path = path_of(given.path)
    if path is None or not flow.flags & marks.BY_PATH:
        return ()
    said = "one that is not known" if path.schemas is None else ", ".join(path.schemas) or "empty"
    return (f"names without a schema are read by this session's search_path: {said}",)


def _answered(flow: Flow, statement: str) -> str:
    """Why the node answers; raises the fault it would tell."""
    if isinstance(flow.detail, CommandAnswer):
        if flow.detail.fault is not None:
            raise flow.detail.fault
    else:
        recognise(statement)
    return flow.reason


def _memory(decision: Decision, *, is_known: bool) -> Memory:
    if is_known:
        return "remembered"
    if decision.is_lasting:
        return "not remembered; a shape is when it was seen twice"
    return "decided anew each time"


def _readable(shape: bytes) -> str:
    text = _MARKER.sub(lambda found: _MARKERS.get(found[1], "<constant>").encode(), shape)
    return text.decode(errors="surrogateescape")


def _doubt(flow: Flow, shape: bytes | None, given: Circumstances, *, is_long: bool) -> str:
    """Why the statement was not understood, if it was not."""
    if flow not in (UNKNOWN, ENDING):
        return ""
    if is_long:
        why = f"longer than statement_bytes_max, {given.statement_bytes_max}"
    elif not given.has_shapes:
        why = "the session's encoding, or standard_conforming_strings, leaves open where constants end"
    elif shape is None:
        why = "constants or comments that do not end, or end in doubt"
    elif len(render(shape)) > TEXT_BYTES_MAX:
        why = f"longer than the parser is given, {TEXT_BYTES_MAX}"
    else:
        why = "it does not parse"
    told = "" if len(given.settings.shards) == 1 else " of the shard that a comment or the session names"
    return f"{why}; what is not understood goes to the primary{told}, and its server link is reset afterwards"


def _role(flow: Flow, said: Wishes, given: Circumstances) -> tuple[int, Choice]:
    """The role, as a mark and in words; `said` is what comments say."""
    wishes = given.wishes
    if said.role != "auto":
        return role_mark(said), Choice(value=said.role, reason="a comment in the statement")
    if wishes.role != "auto":
        return role_mark(wishes), Choice(value=wishes.role, reason="the session's server_role")
    if flow.role == marks.PRIMARY:
        return marks.PRIMARY, Choice(value="primary", reason=flow.reason)
    if given.shuns_replicas:
        reason = "default_transaction_isolation is serializable, which no replica offers"
        return marks.PRIMARY, Choice(value="primary", reason=reason)
    if wishes.reads is None:
        return marks.REPLICA, Choice(value="replica", reason=flow.reason)
    word = "on" if wishes.reads else "off"
    mark = marks.ANY if wishes.reads else marks.STANDBY
    value = "any" if wishes.reads else "replica"
    return mark, Choice(value=value, reason=f"{flow.reason}; the session's primary_reads is {word}")


def _shard(flow: Flow, text: bytearray, said: Wishes, given: Circumstances) -> tuple[int, Choice]:
    """The shard's number, -1 if it is not told yet, and in words. Raises the fault to tell."""
    wishes, sharding = given.wishes, given.settings.sharding
    if sharding is None or len(given.places) == 1:
        return 0, Choice(value="0", reason="the pool has one shard")
    if said.shard is not None:
        return _chosen(said.shard, "a comment in the statement")
    found = marks.UNSAID
    asked = Asked(
        text=bytes(text),
        types=given.types,
        bind=given.bind,
        is_utf8=given.is_utf8,
        has_shapes=given.has_shapes,
        path=path_of(given.path),
    )
    if flow.reach == marks.KEYED:
        assert flow.selector is not None
        if flow.selector.has_parameters and not given.bind:
            return -1, Choice(value="by its parameters", reason=f"{flow.refusal}, when they are bound")
        if given.bind and flow.selector.asks(given.types):
            reason = f"{flow.refusal}; a server is asked for their types first"
            return -1, Choice(value="by its parameters", reason=reason)
        found = shard_of(flow, asked)
        if found >= 0:
            return _chosen(found, f"{flow.refusal} = {_values(sharding, asked)}")
    if wishes.shard is not None:
        key = "" if wishes.key is None else f", by key {wishes.key}"
        return _chosen(wishes.shard, f"the session's shard{key}")
    if flow.reach == marks.ANYWHERE:
        return -1, Choice(value="any", reason=flow.refusal or flow.reason)
    fault = why_nowhere(sharding, flow, found, asked)
    if not may_default(sharding, found):
        raise fault
    if sharding.default_shard == "random":
        return -1, Choice(value="any", reason=f"by default, for {fault.message}")
    return _chosen(sharding.default_shard, f"by default, for {fault.message}")


def _chosen(number: int, reason: str) -> tuple[int, Choice]:
    return number, Choice(value=str(number), reason=reason)


def _values(sharding: Sharding, asked: Asked) -> str:
    """The values of keys, as the statement has them."""
    words = bytearray(asked.text)
    scanner = Scanner(constants_max=len(words))
    scanner.scan(words, 0, len(words))
    ends = dict(zip(scanner.starts[: scanner.constants], scanner.ends, strict=False))
    said = [
        f"${term.parameter}"
        if term.parameter
        else "-" * term.is_negative
        + words[term.location : ends[term.location]].decode(errors="surrogateescape")
        for term in keys_of(sharding, asked).terms
        if term.parameter or term.location in ends
    ]
    more = ", …" if len(said) > _VALUES_SHOWN_MAX else ""
    return ", ".join(dict.fromkeys(said[:_VALUES_SHOWN_MAX])) + more


def _standings(place: Place, role: int, given: Circumstances) -> tuple[Standing, ...]:
    # Without a node only a primary that the documents name is known.
    is_known = given.flows is not None or place.view.primary is not None
    return tuple(
        _stands(place, one, "" if role == marks.PRIMARY else given.behind(place.number, one.server.key))
        if is_known
        else Standing(
            shard=place.number, server=str(one.server.key), weight=one.server.weight, is_eligible=None
        )
        for one in candidates(place.view, role, given.settings, place.on_all_bad)
    )


def _stands(place: Place, one: Candidate, behind: str) -> Standing:
    """How a server stands that is one of those of its role; what the role refuses goes before what it lacks."""
    is_behind = bool(behind) and one.is_eligible
    return Standing(
        shard=place.number,
        server=str(one.server.key),
        weight=one.server.weight,
        is_eligible=one.is_eligible and not is_behind,
        reason=behind if is_behind else one.reason,
    )
