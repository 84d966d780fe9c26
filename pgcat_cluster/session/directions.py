"""Finds the shard of a statement where the data plane needs help, and the words for one that has none.

Who decides, in this order: a comment of the statement itself; its keys; its transaction, unless it has keys that can
not be read; SET SHARD or SET SHARDING KEY; for statements without a table of one shard, the server that the session is
bound to, or any; and what the pool says of all others, which is to refuse them unless it names a default shard.
"""

from __future__ import annotations

from pgcat_cluster.errors import Fault, Unsupported
from pgcat_cluster.relay import selectors
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.session.account import desk_of, source_of, visitor_of
from pgcat_cluster.session.answers import ground_of
from pgcat_cluster.session.keyed import Asked, shard_of
from pgcat_cluster.session.locating import (
    BOUND_ELSEWHERE,
    counted_as,
    hinted,
    may_default,
    why_nowhere,
)
from pgcat_cluster.session.paths import path_of
from pgcat_cluster.session.refusals import turn_away
from pgcat_cluster.session.wishes import carried, role_mark

_IDLE = 0x49


def hear(client: Client, text: bytes) -> bool:
    """Find what the comments of a statement say: `hint` and `role_hint`. False: nonsense, as `refusal` says."""
    visitor = visitor_of(client)
    settings = visitor.account.settings
    try:
        wishes = hinted(settings, text, ground_of(visitor.account))
    except Fault as fault:
        turn_away(client, fault)
        return False
    client.role_hint = role_mark(wishes)
    if wishes.shard is not None:
        client.hint = wishes.shard
        if settings.sharding is not None and settings.sharding.sticky_comments:
            lasting = carried("shard", wishes, visitor.wishes)
            visitor.wish(client, lasting, lasting)
    return True


def locate(client: Client, statement: Statement | None, flow: Flow, found: int, text: bytes) -> int:
    """The shard of a statement whose keys do not say it by themselves; -1: none, as `refusal` says."""
    account = visitor_of(client).account
    sharding = account.settings.sharding
    assert sharding is not None
    if statement is None:
        asked = Asked(
            text=text, is_utf8=client.is_utf8, has_shapes=client.has_shapes, path=path_of(client.path)
        )
    else:
        asked = Asked(
            text=statement.text,
            types=statement.types,
            bind=text,
            is_utf8=client.is_utf8,
            has_shapes=client.has_shapes,
            path=path_of(client.path),
        )
    if found == selectors.MANY:
        found = shard_of(flow, asked)
        if found >= 0:
            return found
    if client.shard_wish >= 0:
        return client.shard_wish
    if may_default(sharding, found):
        if sharding.default_shard == "random":
            desk = desk_of(account)
            # What has a server already was placed by chance before.
            return desk.draw() % desk.shards if client.server is None else client.shard
        return sharding.default_shard
    account.unplaced[counted_as(found)] += 1
    turn_away(client, why_nowhere(sharding, flow, found, asked))
    return -1


def misplace(client: Client, shard: int) -> None:
    """A statement is for another shard than the server that the client must stay with: say so in `refusal`."""
    server = client.server
    assert server is not None
    here = source_of(server.pool).shard.number
    if client.status != _IDLE or client.unsynced:
        reason, hint = f"The transaction is bound to shard {here}.", "Begin another transaction for it."
    else:
        pins = ", ".join(visitor_of(client).pins) or "session mode"
        reason, hint = f"The session is bound to a server of shard {here}: {pins}.", None
    visitor_of(client).account.unplaced[BOUND_ELSEWHERE] += 1
    turn_away(client, Unsupported(f"the statement belongs to shard {shard}", detail=reason, hint=hint))
