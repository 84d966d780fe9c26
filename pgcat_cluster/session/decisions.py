"""Turns what a statement is into a flow: where it goes, and what must be done before and after it."""

from __future__ import annotations

import re

from msgspec import Struct

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.relay.shapes import render
from pgcat_cluster.routing.placement import Placement
from pgcat_cluster.routing.role import role_for
from pgcat_cluster.session.parameters import READ_AS_REPORTED, READ_AS_SET, names_in
from pgcat_cluster.sql.analysis import analyze
from pgcat_cluster.sql.commands import PREFIX, is_ours
from pgcat_cluster.sql.paths import UNKNOWN as UNKNOWN_PATH
from pgcat_cluster.sql.paths import Path, Step, change_of
from pgcat_cluster.sql.statement import Analysis, Effect, TransactionVerb
from pgcat_cluster.sql.volatility import UNKNOWN as NOT_ASKED
from pgcat_cluster.sql.volatility import FunctionCatalog, FunctionRules
from pgcat_cluster.topology.model import PoolSettings
from pgcat_cluster.topology.settings import Reads
from pgcat_cluster.wire import messages

_LEAVES = frozenset(
    {
        Effect.SETS_PARAMETER,
        Effect.PREPARES,
        Effect.EXECUTES,
        Effect.DISCARDS,
        Effect.TEMPORARY,
        Effect.LISTENS,
        Effect.ADVISORY_LOCK,
        Effect.HOLD_CURSOR,
        Effect.RUNS_CODE,
        Effect.LOADS,
    }
)
_UNPINS = frozenset(
    {Effect.DEALLOCATES, Effect.DROPS, Effect.UNLISTENS, Effect.ADVISORY_UNLOCK, Effect.CLOSES_CURSOR}
)
# Stands in a flow's parameters for "may set parameters whose names are not known".
ANY_PARAMETER = ""
# Stands there for "resets all parameters", and with them those that no server knows.
ALL_OURS = "pgcat.*"

UNKNOWN = Flow(
    marks.PRIMARY,
    marks.UNCLEAN | marks.WRITES | marks.ENDS,
    "not understood",
    (ANY_PARAMETER,),
    # It may hold keys.
    reach=marks.UNREAD,
    refusal="it is not understood",
)
# However the rest is read, these words are these: they belong to the transaction.
ENDING = Flow(
    UNKNOWN.role,
    UNKNOWN.flags,
    UNKNOWN.reason,
    UNKNOWN.parameters,
    reach=marks.NOWHERE,
    refusal=UNKNOWN.refusal,
)
_ENDING = re.compile(rb"\s*(?:commit|rollback|end|abort)(?:\s+(?:work|transaction))?\s*;?\s*", re.IGNORECASE)

# The node itself answers; what, is found in the text at each execution.
COMMAND = Flow(marks.PRIMARY, marks.CALLS | marks.COMMAND, "answered by the node")


# What only sets a transaction up, alone in its string, and how it is answered. How the statements behind it are to be
# read it must not change.
_JOINS = re.compile(
    rb"(savepoint|release|set transaction|set constraints|rollback (?:work |transaction )?to"
    rb"|set local(?![^;]*(?:encoding|names|conforming)))"
    rb" [^;]*\Z",
    re.DOTALL,
)
_JOINED = {
    b"savepoint": "SAVEPOINT",
    b"release": "RELEASE",
    b"set local": "SET",
    b"set transaction": "SET",
    b"set constraints": "SET CONSTRAINTS",
    b"rollback to": "ROLLBACK",
    b"rollback work to": "ROLLBACK",
    b"rollback transaction to": "ROLLBACK",
}


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided about one statement string.

    `is_lasting`: the flow holds for every statement of the shape. `needs_constants`: it was found by the text's own
    constants, and is found anew each time. `control`: all it does is to begin or to end a transaction.
    """

    flow: Flow
    is_lasting: bool = False
    needs_constants: bool = False
    control: TransactionVerb | None = None


# Parameters that change what constants mean, as far as their names are known; of these a server tells.
_TOLD: frozenset[str | None] = frozenset(name.lower() for name in READ_AS_REPORTED)
_READ_AS: frozenset[str | None] = _TOLD | {*READ_AS_SET, "all", None}


def rules_of(settings: PoolSettings, catalog: FunctionCatalog) -> FunctionRules:
    """How functions are judged in a pool, where its servers have said so much of theirs."""
    return FunctionRules(
        writing=frozenset(name.lower() for name in settings.writing_functions),
        reading=frozenset(name.lower() for name in settings.reading_functions),
        catalog=catalog if settings.functions == "catalog" else None,
    )


def decide(
    text: bytes,
    shape: bytes | None,
    settings: PoolSettings,
    *,
    has_shapes: bool = True,
    catalog: FunctionCatalog = NOT_ASKED,
    placement: Placement | None = None,
    path: Path | None = None,
) -> Decision:
    """Decide about a statement string by its shape; by its text alone where the shape does not tell.

    `placement` is that of a pool with more than one shard, `path` the search_path that the session was given.
    """
    decision = _decided(text, shape, settings, has_shapes=has_shapes, catalog=catalog)
    flow = decision.flow
    if placement is not None and shape is not None and flow is not UNKNOWN and flow is not COMMAND:
        if placement.names_schemas:
            path = _noted_path(flow, text, path)
        reach = placement.reach(shape, path)
        if reach.by_path:
            flow.flags |= marks.BY_PATH
        flow.reach, flow.selector, flow.refusal = reach.mark, reach.selector, reach.reason
        if decision.control is not None:
            # Held back, and answered here, while the transaction has no shard.
            flow.flags |= marks.BEGINS if decision.control is TransactionVerb.BEGIN else marks.CLOSES
            flow.detail = messages.command_complete(_tag(decision.control, shape))
        elif joins := _JOINS.match(shape):
            flow.flags |= marks.JOINS
            flow.detail = messages.command_complete(_JOINED[joins[1]])
    return decision


def _noted_path(flow: Flow, text: bytes, path: Path | None) -> Path | None:
    """Note in a flow what it does to search_path; by which path its names of tables are to be read."""
    change = change_of(text.decode(errors="surrogateescape"))
    if change is None:
        return path
    flow.path = change.to
    if change.saves:
        flow.flags |= marks.SAVES
    if change.to in (Step.END, Step.BACK):
        flow.flags |= marks.RESTORES_PATH
        # Nothing is restored where nothing was set.
        return UNKNOWN_PATH if change.is_mixed and path is not None else path
    if change.to is not None:
        flow.flags |= marks.SETS_PATH
    return UNKNOWN_PATH if change.is_mixed else path


def _tag(control: TransactionVerb, shape: bytes) -> str:
    if control is not TransactionVerb.BEGIN:
        return control.name
    return "START TRANSACTION" if shape.lstrip(b"; ").startswith(b"start") else "BEGIN"


def _decided(
    text: bytes, shape: bytes | None, settings: PoolSettings, *, has_shapes: bool, catalog: FunctionCatalog
) -> Decision:
    said = text.decode(errors="surrogateescape")
    if shape is None:
        # Where a backslash or a byte may mean more than it seems, nothing is taken for ours.
        is_plain = has_shapes or (text.isascii() and b"\\" not in text)
        if is_plain and is_ours(said):
            return Decision(flow=COMMAND)
        return Decision(flow=ENDING if _ENDING.fullmatch(text) else UNKNOWN)
    words = render(shape)
    if is_ours(words):
        return Decision(flow=COMMAND, is_lasting=True)
    rules = rules_of(settings, catalog)
    analysis = analyze(words, rules)
    if analysis.needs_text:
        analysis = analyze(said, rules)
        flow = COMMAND if _sets_ours(analysis) else flow_of(analysis, settings.reads)
        return Decision(flow=flow, needs_constants=True)
    if runs_code(analysis):
        # What code does is not known; the names it mentions are what it may have set.
        return Decision(flow=flow_of(analysis, settings.reads, names_in(text)), needs_constants=True)
    flow = flow_of(analysis, settings.reads)
    # What is not understood is counted each time; beside what it costs a server that is nothing.
    return Decision(flow=flow, is_lasting=flow is not UNKNOWN, control=_lone_control(analysis))


def _lone_control(analysis: Analysis) -> TransactionVerb | None:
    """What a statement does that only begins or only ends a transaction."""
    if analysis.statements != 1:
        return None
    match analysis.transaction:
        case TransactionVerb.BEGIN | TransactionVerb.BEGIN_READ_ONLY:
            return TransactionVerb.BEGIN
        case TransactionVerb.COMMIT | TransactionVerb.ROLLBACK if not analysis.opens_transaction:
            return analysis.transaction
    return None


def flow_of(analysis: Analysis, reads: Reads, mentioned: tuple[str, ...] = ()) -> Flow:
    """The flow of an analysed statement. Its detail is the name that a lone DEALLOCATE names, or None.

    `mentioned` are names of custom parameters that it may set beside those that the analysis found.
    """
    if not analysis.parses:
        return UNKNOWN
    decision = role_for(analysis, reads)
    effects = analysis.effects
    flags = 0
    if analysis.reads_only and analysis.transaction is TransactionVerb.NONE:
        flags |= marks.READS
    if not analysis.reads_only and analysis.transaction is TransactionVerb.NONE:
        flags |= marks.WRITES
    if (
        analysis.ends_transaction
        or Effect.RUNS_CODE in effects
        or analysis.transaction is TransactionVerb.OTHER
    ):
        flags |= marks.ENDS
    if analysis.ends_transaction:
        flags |= marks.FINISHES
    if Effect.SAVES in effects or (analysis.opens_transaction and analysis.ends_transaction):
        flags |= marks.NESTS
    names = {None if name is None else name.lower() for name in analysis.parameters}
    if names & _READ_AS or runs_code(analysis):
        flags |= marks.REREADS
    if names & _READ_AS - _TOLD:
        flags |= marks.UNTOLD
    if effects & _LEAVES:
        flags |= marks.LEAVES
    if analysis.calls_unknown or Effect.WRITES in effects:
        flags |= marks.DOUBTS
    if runs_code(analysis):
        flags |= marks.UNCLEAN
    if Effect.DEFINES in effects:
        flags |= marks.DEFINES
    if analysis.by_catalog:
        flags |= marks.BY_CATALOG
    if effects & _UNPINS:
        flags |= marks.UNPINS
    if Effect.SEQUENCE_STATE in effects:
        flags |= marks.SEQUENCES
    if Effect.LOADS in effects:
        flags |= marks.LOADS
    if analysis.discards == "all" or (Effect.DEALLOCATES in effects and analysis.prepared_name is None):
        flags |= marks.FORGETS
    name: bytes | None = None
    if effects & {Effect.DEALLOCATES, Effect.EXECUTES} and not flags & marks.FORGETS:
        flags |= marks.CALLS | marks.LEAVES
        if Effect.DEALLOCATES in effects and analysis.statements == 1 and analysis.prepared_name is not None:
            name = analysis.prepared_name.encode(errors="surrogateescape")
    resets_ours = analysis.discards == "all" or "all" in analysis.parameters
    is_replica = decision.role == "replica"
    return Flow(
        marks.REPLICA if is_replica else marks.PRIMARY,
        flags,
        decision.reason,
        (*_custom(analysis), *mentioned, *([ALL_OURS] if resets_ours else [])),
        name,
    )


def runs_code(analysis: Analysis) -> bool:
    """Whether it runs code that no one has looked at. What EXECUTE runs was looked at when it was prepared."""
    return Effect.RUNS_CODE in analysis.effects and Effect.EXECUTES not in analysis.effects


def _sets_ours(analysis: Analysis) -> bool:
    """Whether it sets a parameter of ours by another way than SET, on a server that does not know it."""
    return any(name is not None and name.startswith(PREFIX) for name in analysis.parameters)


def _custom(analysis: Analysis) -> tuple[str, ...]:
    """The parameters that the server will not list by itself."""
    return tuple(
        ANY_PARAMETER if name is None else name for name in analysis.parameters if name is None or "." in name
    )
