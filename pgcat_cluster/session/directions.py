"""Finds the shard of a statement where the data plane needs help, and the words for one that has none.

Who decides, in this order: a comment of the statement itself; its keys; the transaction or the server that the
session is bound to; SET SHARD or SET SHARDING KEY; for statements without a table of one shard, any; and what the
pool says of all others, which is to refuse them unless it names a default shard.
"""

from __future__ import annotations

from pgcat_cluster.errors import Fault, TransactionAborted, Unsupported
from pgcat_cluster.relay import marks, selectors
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.session.account import Source, Visitor
from pgcat_cluster.session.answers import answer, foretold, ground_of
from pgcat_cluster.session.locating import hinted, may_default, why_nowhere
from pgcat_cluster.session.replies import description, execution_frames
from pgcat_cluster.session.wishes import carried, role_mark
from pgcat_cluster.wire import messages

_IDLE = 0x49


class Directions:
    """The part of a node's control that knows about shards, and about answers without a server."""

    # -- answers of ours -----------------------------------------------------------------------------------

    def own_columns(self, client: Client, flow: Flow, text: bytes, bind: bytes) -> bytes:
        """RowDescription or NoData of what is answered here; `bind` is a Bind from its parameters' formats on."""
        known = foretold(flow, text.decode(errors="surrogateescape"))
        if known.fault is not None:
            self.count(client, known.fault)
            return messages.error_response(known.fault)
        return description(known.columns, _result_formats(bind))

    def own_answer(self, client: Client, flow: Flow, text: bytes, bind: bytes) -> bytes:
        """What follows Execute of what is answered here."""
        told = answer(client, flow, text.decode(errors="surrogateescape"))
        if told.fault is not None:
            self.count(client, told.fault)
        return execution_frames(told, _result_formats(bind))

    def wish_no_more(self, client: Client) -> None:
        """A transaction has ended: the wishes of SET LOCAL are no longer in force."""
        visitor = _visitor(client)
        visitor.wish(client, visitor.wishes)

    def begun_twice(self, client: Client, tag: bytes) -> bytes:
        """BEGIN inside a transaction: PostgreSQL warns, and goes on."""
        return messages.notice("WARNING", "25001", "there is already a transaction in progress") + tag

    def abort(self, client: Client) -> None:
        self.turn_away(client, TransactionAborted())

    def turn_away(self, client: Client, fault: Fault) -> None:
        """Have the relay refuse what the client asks now."""
        visitor = _visitor(client)
        visitor.refused_at, visitor.refusal = client.queries, str(fault)
        self.count(client, fault)
        client.refusal = messages.error_response(fault)

    def count(self, client: Client, fault: Fault) -> None:
        """A client is told of a fault."""
        visitor = client.detail
        if isinstance(visitor, Visitor):
            visitor.account.faults[fault.sqlstate] += 1
            client.errors += 1

    # -- shards --------------------------------------------------------------------------------------------

    def hear(self, client: Client, text: bytes) -> bool:
        visitor = _visitor(client)
        settings = visitor.account.settings
        try:
            wishes = hinted(settings, text, ground_of(visitor.account))
        except Fault as fault:
            self.turn_away(client, fault)
            return False
        client.role_hint = role_mark(wishes)
        if wishes.shard is not None:
            client.hint = wishes.shard
            if settings.sharding is not None and settings.sharding.sticky_comments:
                visitor.wishes = carried("shard", wishes, visitor.wishes)
                visitor.wish(client, visitor.wishes)
        return True

    def locate(self, client: Client, statement: Statement | None, flow: Flow, found: int, text: bytes) -> int:
        account = _visitor(client).account
        sharding = account.settings.sharding
        desk = account.desk
        assert sharding is not None
        assert desk is not None
        if found == selectors.MANY or (found == selectors.UNSURE and statement is not None):
            found = _with_more_room(flow, statement, text, is_utf8=client.is_utf8)
            if found >= 0:
                return found
        if client.shard_wish >= 0:
            return client.shard_wish
        if may_default(sharding, found):
            if sharding.default_shard == "random":
                # What has a server already was placed by chance before.
                return desk.draw() % desk.shards if client.server is None else client.shard
            return sharding.default_shard
        self.turn_away(client, why_nowhere(sharding, flow, found))
        return -1

    def misplace(self, client: Client, flow: Flow, shard: int) -> None:
        server = client.server
        assert server is not None
        source = server.pool.detail
        assert isinstance(source, Source)
        here = source.shard.number
        if client.status != _IDLE or client.unsynced:
            reason, hint = f"The transaction is bound to shard {here}.", "Begin another transaction for it."
        else:
            pins = ", ".join(_visitor(client).pins) or "session mode"
            reason, hint = f"The session is bound to a server of shard {here}: {pins}.", None
        self.turn_away(
            client, Unsupported(f"the statement belongs to shard {shard}", detail=reason, hint=hint)
        )


def _with_more_room(flow: Flow, statement: Statement | None, text: bytes, *, is_utf8: bool) -> int:
    """What the keys say of a statement with more constants than the data plane remembers, or in other characters."""
    selector = flow.selector
    assert selector is not None
    words = bytearray(text if statement is None else statement.text)
    scanner = Scanner(constants_max=len(words))
    if scanner.scan(words, 0, len(words)) is None:
        return selectors.UNSURE
    constants = selector.by_constants(scanner, words, is_utf8)
    if not selector.has_constants:
        constants = marks.UNSAID
    if statement is None or not selector.has_parameters or (constants < 0 and constants != marks.UNSAID):
        return constants
    bind = bytearray(text)
    bound = selector.by_parameters(bind, 0, len(bind), statement.types, is_utf8)
    return bound if bound < 0 or constants in (bound, marks.UNSAID) else selectors.SEVERAL


def _result_formats(bind: bytes) -> tuple[int, ...]:
    """The formats in which a Bind wants its results; `bind` is empty where there was none."""
    return messages.parse_bind(b"\0\0" + bind).result_formats if bind else ()


def _visitor(client: Client) -> Visitor:
    visitor = client.detail
    assert isinstance(visitor, Visitor)
    return visitor
