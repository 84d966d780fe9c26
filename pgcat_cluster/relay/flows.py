"""Remembered decisions: a flow says where a shape goes and what it does; a statement is what a client prepared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcat_cluster.relay import marks

if TYPE_CHECKING:
    from pgcat_cluster.relay.selectors import Selector


class Flow:
    """What was decided about one shape. Immutable but for `role`, which a refusal by a standby moves to the primary.

    `flags` are the marks of `relay.marks`; `parameters` names custom parameters that the statement may set;
    `reason` is constant text; `detail` belongs to the session, but for BEGIN, COMMIT and ROLLBACK: there it is the
    answer. `reach` says to which shards it may go: by `selector` if it is KEYED, and `refusal` says why nobody can
    tell. `path` belongs to the session too: what it does to search_path.
    """

    __slots__ = ("detail", "flags", "parameters", "path", "reach", "reason", "refusal", "role", "selector")

    def __init__(
        self,
        role: int,
        flags: int,
        reason: str,
        parameters: tuple[str, ...] = (),
        detail: object = None,
        reach: int = marks.ANYWHERE,
        selector: Selector | None = None,
        refusal: str = "",
    ) -> None:
        self.role = role
        self.flags = flags
        self.reason = reason
        self.parameters = parameters
        self.detail = detail
        self.reach = reach
        self.selector = selector
        self.refusal = refusal
        self.path: object = None


class Statement:
    """A statement as a client prepared it: its text, the types it named, and its flow.

    `server_name` is what it is called on every server link, the same for all clients that prepared the same
    text with the same types in the same `context`: what says how its constants and names are read. `proven` is
    the epoch in which a server last accepted it, 0 for never.
    One that was too long to be held (not `is_kept`) is on one server link alone, under its client's own name.
    `shard` is what its constants say of it, a code below 0 if nothing, `shard_utf8` the same if its client uses UTF-8;
    `hint` and `role_hint` are what its comments say, -1 if nothing.
    While it `is_open`, its shard depends on types of parameters that only a server can tell. As soon as one has, it is
    executed as `typed`: with these types, declared. `told` is the epoch in which that was, 0 for never.
    """

    __slots__ = (
        "context", "flow", "hint", "is_kept", "is_open", "proven", "role_hint", "server_name", "shard",
        "shard_utf8", "text", "told", "typed", "types",
    )  # fmt: skip

    def __init__(
        self, text: bytes, types: bytes, flow: Flow, server_name: bytes, is_kept: bool = True,
        context: bytes = b"",
    ) -> None:  # fmt: skip
        self.text = text
        self.types = types
        self.context = context
        self.flow = flow
        self.server_name = server_name
        self.is_kept = is_kept
        self.proven = 0
        self.shard = marks.UNSAID
        self.shard_utf8 = marks.UNSAID
        self.is_open = False
        self.typed: Statement | None = None
        self.told = 0
        self.hint = -1
        self.role_hint = -1

    def goes_as(self, other: Statement) -> None:
        """It has the text of another one, which says the same of its way."""
        self.shard = other.shard
        self.shard_utf8 = other.shard_utf8
        self.hint = other.hint
        self.role_hint = other.role_hint

    def parse_frame(self, name: bytes) -> bytes:
        """The Parse message that prepares this statement under a name. `types` holds count and type ids."""
        size = 4 + len(name) + 1 + len(self.text) + 1 + len(self.types)
        return b"P" + size.to_bytes(4, "big") + name + b"\0" + self.text + b"\0" + self.types


class FlowTable:
    """Flows by shape, bounded in entries and bytes; a shape enters at its second sighting.

    Behind a client's `path` stand shapes whose flows hold for that alone.

    One table serves one (database, user) under one generation of settings: a new generation is a new table.
    """

    __slots__ = ("bytes", "bytes_max", "entries_max", "evicted", "flows", "seen")

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.flows: dict[bytes, Flow] = {}
        self.seen: dict[int, bool] = {}
        self.bytes = 0
        self.evicted = 0

    def get(self, shape: bytes, path: bytes) -> Flow | None:
        """The flow of a shape for a client with this path."""
        flow = self.flows.get(shape)
        if len(path) > 0 and (flow is None or flow.flags & marks.BY_PATH):
            flow = self.flows.get(path + shape)
        return flow

    def offer(self, shape: bytes, flow: Flow) -> bool:
        """Remember a flow if its shape was seen before; answer whether it was."""
        key = hash(shape)
        if key not in self.seen:
            if len(self.seen) >= 2 * self.entries_max:
                self.seen.clear()
            self.seen[key] = True
            return False
        size = len(shape)
        if size > self.bytes_max:
            return False
        while self.flows and (len(self.flows) >= self.entries_max or self.bytes + size > self.bytes_max):
            oldest = next(iter(self.flows))
            del self.flows[oldest]
            self.bytes -= len(oldest)
            self.evicted += 1
        self.flows[shape] = flow
        self.bytes += size
        return True


class Statements:
    """Prepared statements that clients of one (database, user) share: by text, types and context, bounded."""

    __slots__ = ("by_content", "entries_max", "epoch", "made")

    def __init__(self, entries_max: int) -> None:
        self.entries_max = entries_max
        self.by_content: dict[bytes, Statement] = {}
        self.made = 0
        # Goes up when an error tells that what was accepted once may not be accepted again.
        self.epoch = 1

    def get(self, content: bytes, context: bytes = b"") -> Statement | None:
        """The statement of this content, which is what stands behind the name in its Parse, in this context."""
        statement = self.by_content.get(content + context)
        if statement is not None and statement.told != 0 and statement.told != self.epoch:
            # Its types were told of tables that may have changed.
            return None
        return statement

    def make(self, text: bytes, types: bytes, flow: Flow, context: bytes = b"") -> Statement:
        """A new shared statement. The oldest leaves when there are too many; clients that hold it keep it."""
        statement = self._named(text, types, flow, context)
        self._keep(text + b"\0" + types, statement)
        return statement

    def context_of_one(self) -> bytes:
        """A context that no other client has."""
        self.made += 1
        return b"_%d" % self.made

    def read_as(self, statement: Statement, context: bytes) -> Statement:
        """A statement of a client whose parameters have changed, to be prepared under those it has now."""
        known = self.get(statement.text + b"\0" + statement.types, context)
        if known is not None:
            return known
        made = self.make(statement.text, statement.types, statement.flow, context)
        made.goes_as(statement)
        made.is_open = statement.is_open
        made.told = statement.told
        return made

    def forget(self, statement: Statement) -> None:
        """Its next Parse is looked at as if it was the first."""
        self.by_content.pop(statement.text + b"\0" + statement.types + statement.context, None)

    def tell(self, statement: Statement, told: bytes) -> None:
        """A server has told the types of an open statement: from now on it is another one, with these types.

        They are declared to every server, so that each reads the values as they were read here, whatever has become of
        its tables.
        """
        flow = statement.flow
        if not statement.is_open or statement.typed is not None or flow.selector is None:
            return
        types = flow.selector.completed(statement.types, told)
        typed = self._named(statement.text, types, flow, statement.context)
        typed.goes_as(statement)
        typed.told = self.epoch
        typed.proven = self.epoch
        statement.typed = typed
        self._keep(statement.text + b"\0" + statement.types, typed)

    def _named(self, text: bytes, types: bytes, flow: Flow, context: bytes) -> Statement:
        self.made += 1
        return Statement(text, types, flow, b"%s%d" % (marks.SERVER_NAME_PREFIX, self.made), True, context)

    def _keep(self, content: bytes, statement: Statement) -> None:
        content += statement.context
        if content not in self.by_content and len(self.by_content) >= self.entries_max:
            del self.by_content[next(iter(self.by_content))]
        self.by_content[content] = statement
