"""Decides statements that the relay does not know, and decides anew what servers and settings have overtaken."""

from __future__ import annotations

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.session.account import Account, account_of, desk_of
from pgcat_cluster.session.decisions import UNKNOWN, decide


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
    )
    if account.settings.functions != "catalog":
        decision.flow.flags &= ~marks.DEFINES
    if decision.flow is UNKNOWN and shape is not None:
        # Without a shape the relay has counted it.
        desk.unknown_statements += 1
    if account.plugins is not None:
        decision = account.plugins.revised(decision, text, shape)
    if decision.is_lasting and shape is not None:
        desk.flows.offer(shape, decision.flow)
    return decision.flow


def move_to_primary(flow: Flow) -> None:
    """A standby refused a statement that was taken for a read."""
    if flow.flags & marks.READS:
        flow.role = marks.PRIMARY
        flow.flags = flow.flags & ~marks.READS | marks.WRITES
        flow.reason = "a standby refused it"


def decide_anew(account: Account) -> None:
    """The rules have changed: nothing that was decided by the old ones holds, prepared statements included."""
    desk_of(account).forget()
    for client in account.clients:
        for statement in {*client.statements.values(), client.unnamed}:
            if statement is not None and statement.is_kept:
                client.decide_anew(statement)
