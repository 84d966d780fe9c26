"""What a pool's plugins make of a statement: refuse it, answer it here, say how it may be logged."""

from __future__ import annotations

import re
from copy import copy
from typing import Final

from msgspec.structs import replace

from pgcat_cluster.errors import TableRefused
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.relay.shapes import Scanner, render
from pgcat_cluster.session.decisions import Decision
from pgcat_cluster.session.replies import CommandAnswer, column
from pgcat_cluster.sql.form import form_of
from pgcat_cluster.sql.relations import Relation, relations
from pgcat_cluster.topology.model import PoolKey
from pgcat_cluster.topology.settings import InterceptedQuery, Plugins, TableAccess

_MARKERS: Final = re.compile(rb"\0m|\0[a-z]")
_MAY_HOLD_A_PASSWORD: Final = re.compile(rb"passw|secret|scram-sha-256|\bmd5|connection", re.IGNORECASE)


class PoolPlugins:
    """The plugins of one (database, user) that look at statements, made of settings once.

    What it says of a statement depends on its text and the settings alone; PgCat's order is kept: what is
    intercepted is answered though a rule would refuse it.
    """

    def __init__(self, settings: Plugins, key: PoolKey) -> None:
        self._scanner = Scanner()
        self.logs = settings.query_logger.enabled
        self._logs_constants = settings.query_logger.constants
        self._rules = _Rules(settings.table_access) if settings.table_access.enabled else None
        self._answers: dict[tuple[str, ...], CommandAnswer] = {}
        self._shapes: set[bytes] = set()
        if settings.intercept.enabled:
            for query in settings.intercept.queries.values():
                self._learn(query, key)

    def _learn(self, query: InterceptedQuery, key: PoolKey) -> None:
        shape = self._shape(query.query.encode())
        form = form_of(query.query)
        if shape is not None and form is not None:
            self._shapes.add(_squeezed(shape))
            self._answers[form] = _interception(query, key)

    def _shape(self, text: bytes) -> bytes | None:
        return self._scanner.scan(bytearray(text), 0, len(text))

    def depends_on_constants(self, shape: bytes) -> bool:
        """Whether of statements of this shape one may be intercepted and another one not."""
        return bool(self._shapes) and _squeezed(shape) in self._shapes

    def judge(self, text: bytes, shape: bytes | None) -> Flow | None:
        """What becomes of a statement instead of being sent on. `shape` is None where it is not understood."""
        said = text.decode(errors="surrogateescape")
        if shape is not None and self.depends_on_constants(shape):
            form = form_of(said)
            if form is not None and form in self._answers:
                return _local("intercepted", self._answers[form])
        if self._rules is None:
            return None
        fault = self._rules.refusal(None if shape is None else render(shape), said)
        return None if fault is None else _local("refused by table_access", CommandAnswer(fault=fault))

    def revised(self, decision: Decision, text: bytes, shape: bytes | None) -> Decision:
        """What was decided about a statement, or what plugins have decided instead; commands of ours are ours."""
        if decision.flow.flags & marks.COMMAND:
            return decision
        flow = self.judge(text, shape) or decision.flow
        if self.logs:
            # Another one, for it may be shared with pools that log nothing.
            flow = copy(flow)
            flow.flags |= marks.WATCHED
        is_lasting = decision.is_lasting and shape is not None and not self.depends_on_constants(shape)
        return replace(decision, flow=flow, is_lasting=is_lasting)

    def logged(self, text: bytes) -> str:
        """A statement as it is logged: constants only where settings say so, and none that may be a password."""
        if self._logs_constants and not _MAY_HOLD_A_PASSWORD.search(text):
            return text.decode(errors="replace")
        shape = self._shape(text)
        if shape is None:
            return f"(not understood, {len(text)} bytes)"
        return _MARKERS.sub(_as_logged, shape).decode(errors="replace")


def _squeezed(shape: bytes) -> bytes:
    """The same for shapes of statements that may have one form: a first look, which is cheap."""
    return shape.replace(b" ", b"")


def _as_logged(marker: re.Match[bytes]) -> bytes:
    return b", ..." if marker.group() == b"\0m" else b"?"


def plugins_of(settings: Plugins | None, key: PoolKey) -> PoolPlugins | None:
    """Those of a pool; None where no plugin looks at statements."""
    return PoolPlugins(settings, key) if settings is not None and settings.sees_statements else None


def _local(reason: str, answer: CommandAnswer) -> Flow:
    return Flow(marks.PRIMARY, marks.CALLS | marks.COMMAND, reason, (), answer)


def _interception(query: InterceptedQuery, key: PoolKey) -> CommandAnswer:
    columns = tuple(column(name, kind) for name, kind in query.schema)
    rows = tuple(tuple(_filled(value, key) for value in row) for row in query.result)
    return CommandAnswer(tag=f"SELECT {len(rows)}", columns=columns, rows=rows)


def _filled(value: str, key: PoolKey) -> str | None:
    return value.replace("${USER}", key.user).replace("${DATABASE}", key.database) or None


class _Rules:
    """Tables that may not be named, each with its schema or without: by their name the schemas they are refused in."""

    def __init__(self, settings: TableAccess) -> None:
        self._schemas: dict[str, set[str]] = {}
        for rule in settings.tables:
            *schema, name = (_folded(part) for part in re.findall(r'"(?:[^"]|"")+"|[^".]+', rule))
            self._schemas.setdefault(name, set()).add(schema[0] if schema else "")

    def refusal(self, words: str | None, text: str) -> TableRefused | None:
        """`words` are the statement with other constants, None where it is not understood; `text` is its own."""
        named = None if words is None else relations(words)
        if named is not None and re.search(r"\bdo\b", words or ""):
            # Code is a constant.
            named = relations(text)
        if named is None:
            return TableRefused(
                "permission for a statement that is not understood denied",
                detail="Access to tables is restricted, and which ones it names can not be told.",
            )
        refused = sorted(one.name for one in named if self._is_refused(one))
        return TableRefused(f'permission for table "{refused[0]}" denied') if refused else None

    def _is_refused(self, relation: Relation) -> bool:
        schemas = self._schemas.get(relation.name)
        # A search_path, which is the client's, says what a bare name means.
        return schemas is not None and (not relation.schema or "" in schemas or relation.schema in schemas)


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
