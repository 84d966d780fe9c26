"""Decides statements that the relay does not know, and decides anew what servers and settings have overtaken."""

from __future__ import annotations

from collections.abc import Iterator

from pgcat_cluster.errors import Fault
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.session.account import Account, account_of, desk_of
from pgcat_cluster.session.answers import ground_of
from pgcat_cluster.session.decisions import UNKNOWN, decide
from pgcat_cluster.session.locating import hinted
from pgcat_cluster.session.paths import path_in, path_of, renew
from pgcat_cluster.session.wishes import role_mark


def judge(client: Client, text: bytes, shape: bytes | None) -> Flow:
    """Decide about a statement; what holds for its shape is remembered. `shape` is None for an unknown statement."""
    account = account_of(client)
    desk = desk_of(account)
    decision = decide(
        text,
        shape,
        account.settings,
        has_shapes=client.has_shapes,
        catalog=account.catalog,
        placement=account.placement,
        path=path_of(client.path),
    )
    if account.settings.functions != "catalog":
        decision.flow.flags &= ~marks.DEFINES
    if decision.flow is UNKNOWN and shape is not None:
        # Without a shape the relay has counted it.
        desk.unknown_statements += 1
    if account.plugins is not None:
        decision = account.plugins.revised(decision, text, shape)
    if decision.is_lasting and shape is not None:
        holds_for = client.path if decision.flow.flags & marks.BY_PATH else b""
        desk.flows.offer(holds_for + shape, decision.flow)
    return decision.flow


def move_to_primary(flow: Flow) -> None:
    """A standby refused a statement that was taken for a read."""
    if flow.flags & marks.READS:
        flow.role = marks.PRIMARY
        flow.flags = flow.flags & ~marks.READS | marks.WRITES
        flow.reason = "a standby refused it"


def decide_anew(account: Account, marked: int = 0) -> None:
    """What statements were decided by has changed: nothing is remembered, prepared statements are decided again.

    Only those whose flows have these marks, if there are any; without marks all that settings say.
    """
    desk = desk_of(account)
    desk.forget()
    done: set[Statement] = set()
    for client in account.clients:
        if not marked:
            renew(client)
        for statement in _held(client):
            if statement not in done and statement.flow.flags & marked == marked:
                done.add(statement)
                path, client.path = client.path, path_in(statement.context)
                client.decide_anew(statement)
                client.path = path
                if not desk.is_session_mode:
                    _hear_anew(account, statement)


def _held(client: Client) -> Iterator[Statement]:
    """All of which a client has the text: what it has prepared, and what it prepares in the batch in progress."""
    named = (*client.statements.values(), *client.overlay.values(), *client.planned.values())
    for statement in (*named, client.unnamed, client.surveyed):
        if statement is not None and statement.is_kept and statement.text:
            yield statement


def _hear_anew(account: Account, statement: Statement) -> None:
    """What its comments say; what would be nonsense now was said before."""
    try:
        wishes = hinted(account.settings, statement.text, ground_of(account))
    except Fault:
        return
    statement.hint = -1 if wishes.shard is None else wishes.shard
    statement.role_hint = role_mark(wishes)
