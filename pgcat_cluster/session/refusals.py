"""Tells clients what went wrong, each in the way that fits what it is doing, and counts what they were told."""

from __future__ import annotations

from pgcat_cluster.errors import Fault, OutcomeUnknown, ServerLost
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.session.account import Visitor
from pgcat_cluster.session.replies import as_fatal
from pgcat_cluster.wire import messages

ATTEMPTS_MAX = 3
_IDLE = 0x49


def count(client: Client, fault: Fault) -> None:
    """A client is told of a fault."""
    visitor = client.detail
    if isinstance(visitor, Visitor):
        visitor.account.faults[fault.sqlstate] += 1
        client.errors += 1


def note(client: Client, fault: Fault) -> None:
    """What a client asks now is refused: it is told of a fault, and may ask what that was."""
    visitor = client.detail
    if isinstance(visitor, Visitor):
        visitor.refused_at, visitor.refusal = client.queries, str(fault)
    count(client, fault)


def turn_away(client: Client, fault: Fault) -> None:
    """Have the relay refuse what the client asks now."""
    note(client, fault)
    client.refusal = messages.error_response(fault)


def refuse(client: Client, fault: Fault) -> None:
    """Tell a client that waits that it gets no server; a client at login must go."""
    if client.greeting:
        client.greeting = False
        refuse_login(client, fault)
        return
    note(client, fault)
    client.fail(messages.error_response(fault))


def refuse_login(client: Client, fault: Fault) -> None:
    """Tell a client why it is not let in; at login every fault is fatal."""
    count(client, fault)
    client.dismiss(as_fatal(messages.error_response(fault)[5:]))


def dismiss(client: Client, fault: Fault) -> None:
    """Tell a client why it must go, and close."""
    count(client, fault)
    client.dismiss(messages.error_response(fault))


def orphan(client: Client, server: Server, reason: str) -> None:
    """A client's server is gone. What it is told depends on what may have happened there."""
    if client.greeting:
        client.greeting = False
        client.greet()
        return
    if may_repeat(client):
        client.repeat()
        return
    if server.is_fatal:
        # The server has said so itself, and the client has its words.
        client.dismiss(b"")
        return
    is_running = client.awaiting or client.unsynced or client.copying
    fault: Fault
    if is_running and (client.flags & marks.ENDS or (client.status == _IDLE and client.flags & marks.WRITES)):
        fault = OutcomeUnknown(detail=reason)
    else:
        fault = ServerLost(detail=reason)
    dismiss(client, fault)


def may_repeat(client: Client) -> bool:
    """Whether what a client asks may be asked of another server, if its own does not answer."""
    return client.retry and client.attempts < ATTEMPTS_MAX
