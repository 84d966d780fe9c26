"""Answers commands that are ours: what becomes of a client's wishes, and what the client is told, in which words."""

from __future__ import annotations

from functools import partial
from typing import Final

from pgcat_cluster.errors import Fault, InvalidParameter, TransactionAborted, Unsupported
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.session.account import Account, desk_of, source_of, visitor_of
from pgcat_cluster.session.consistency import token_of, wait_for, why_behind
from pgcat_cluster.session.explaining import COLUMN, Circumstances, explain
from pgcat_cluster.session.keyed import Asked, parameter_types
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.session.paths import path_of
from pgcat_cluster.session.replies import Column, CommandAnswer, Warned
from pgcat_cluster.session.wishes import (
    ROUTE,
    WAIT_FOR,
    Ground,
    Wishes,
    carried,
    check_known,
    check_settable,
    ground_for,
    with_wish,
)
from pgcat_cluster.sql.commands import PREFIX, Command, Verb, recognise

_FAILED = 0x45
_IDLE = 0x49

UNSET: Final = "unset"
_ROLES = {marks.PRIMARY: "primary", marks.REPLICA: "replica", marks.ANY: "any", marks.STANDBY: "replica"}
_ROUTE_COLUMNS = tuple(map(Column, ("shard", "role", "server", "reason")))


def columns_of(command: Command) -> tuple[Column, ...]:
    """What columns the answer to a command has; a command that only sets something has none."""
    if command.verb is Verb.EXPLAIN:
        return (Column(COLUMN),)
    if command.verb is not Verb.SHOW:
        return ()
    if command.name == ROUTE:
        return _ROUTE_COLUMNS
    return (Column(PREFIX + command.name if command.is_parameter else command.name.replace("_", " ")),)


def answer(client: Client, flow: Flow, asked: Asked) -> CommandAnswer:
    """What the flow has ready, else what comes of carrying out what a statement string of ours says."""
    text = asked.text.decode(errors="surrogateescape")
    try:
        if client.status == _FAILED:
            raise TransactionAborted()
        commands = visitor_of(client).account.commands
        if isinstance(flow.detail, CommandAnswer):
            commands["intercept"] += flow.detail.fault is None
            return flow.detail
        command = recognise(text)
        if command is None:
            raise Unsupported(
                f"parameters named {PREFIX}* can only be set by SET",
                detail="They are known here, and not on the server that runs the function.",
            )
        commands[command.verb.value] += 1
        if command.verb is Verb.EXPLAIN:
            return _explain(client, command, asked)
        if command.verb is Verb.SHOW:
            return _show(client, command)
        return _set(client, command)
    except Fault as fault:
        return CommandAnswer(fault=fault)


def foretold(flow: Flow, text: str) -> CommandAnswer:
    """What is known of an answer before the command is carried out: its columns, or the fault to tell at once."""
    if isinstance(flow.detail, CommandAnswer):
        return flow.detail
    try:
        command = recognise(text)
        return CommandAnswer(columns=() if command is None else columns_of(command))
    except Fault as fault:
        return CommandAnswer(fault=fault)


def _show(client: Client, command: Command) -> CommandAnswer:
    check_known(command.name)
    visitor = visitor_of(client)
    wishes = visitor.wishes_in_force(client)
    name = command.name
    if name == ROUTE:
        return CommandAnswer(tag="SHOW", columns=_ROUTE_COLUMNS, rows=(_route(client),))
    if name == "shard":
        value = UNSET if wishes.shard is None else str(wishes.shard)
    elif name == "sharding_key":
        value = UNSET if wishes.key is None else wishes.key
    elif name == "server_role":
        value = wishes.role if command.is_parameter else _role_shown(client, wishes)
    elif name == "primary_reads":
        reads = _reads_by_default(visitor.account) if wishes.reads is None else wishes.reads
        value = "on" if reads else "off"
    else:
        value = token_of(client)
    return CommandAnswer(
        tag="SHOW" if command.is_parameter else "SELECT 1", columns=columns_of(command), rows=((value,),)
    )


def _set(client: Client, command: Command) -> CommandAnswer:
    check_settable(command.name)
    if command.name == WAIT_FOR:
        if command.value is not None:
            wait_for(client, command.value)
        return CommandAnswer(tag=command.verb.name)
    if command.name == "sharding_key" and command.value is not None:
        _check_key_is_plain(client, command)
    visitor = visitor_of(client)
    in_force = with_wish(
        visitor.wishes_in_force(client),
        command.name,
        command.value,
        default=visitor.wishes_at_start,
        ground=ground_of(visitor.account),
    )
    _check_move(client, in_force)
    tag = command.verb.name if command.is_parameter else f"SET {command.name.replace('_', ' ').upper()}"
    if command.is_local and client.status == _IDLE:
        text = "SET LOCAL can only be used in transaction blocks"
        return CommandAnswer(tag=tag, warned=Warned(sqlstate="25P01", text=text))
    lasting = visitor.wishes if command.is_local else carried(command.name, in_force, visitor.wishes)
    visitor.wish(client, in_force, lasting)
    if command.name == "server_role":
        visitor.role_set_at = client.queries
    return CommandAnswer(tag=tag)


def _check_key_is_plain(client: Client, command: Command) -> None:
    """A key is written so that there is no doubt which one the servers would see."""
    value = command.value or ""
    if not command.is_quoted and not value.lstrip("+-")[:1].isdigit():
        raise InvalidParameter(
            f"sharding key {value} must stand in quotes", hint=f"Say '{value}', if that is the key."
        )
    parameters = client.parameters
    assert isinstance(parameters, Parameters)
    encoding = parameters.values.get("client_encoding", "utf8").lower()
    if not value.isascii() and encoding not in ("utf8", "utf-8", "unicode"):
        raise Unsupported(
            "a sharding key of other characters than ASCII needs the client encoding UTF8",
            detail=f"The client encoding is {encoding}.",
        )


def _check_move(client: Client, wishes: Wishes) -> None:
    """A client that is bound to a server can not go on in another shard."""
    desk, server = client.desk, client.server
    assert desk is not None
    if server is None or wishes.shard is None:
        return
    here = source_of(server.pool).shard.number
    if wishes.shard == here:
        return
    if client.status != _IDLE:
        reason = f"its transaction runs in shard {here}"
    elif client.pinned or desk.is_session_mode:
        reason = (
            f"it is bound to a server of shard {here}: {', '.join(visitor_of(client).pins) or 'session mode'}"
        )
    else:
        return
    raise Unsupported(f"the session can not change to shard {wishes.shard} now", detail=f"Because {reason}.")


def ground_of(account: Account) -> Ground:
    """What wishes of a pool's clients are judged by."""
    return ground_for(account.settings, desk_of(account).draw)


def parameters_of(client: Client, statement: Statement) -> list[int]:
    """The types of the parameters of a statement that is answered here; only one that is explained has any."""
    try:
        command = recognise(statement.text.decode(errors="surrogateescape"))
    except Fault:
        return []
    if command is None or command.verb is not Verb.EXPLAIN:
        return []
    settings = visitor_of(client).account.settings
    explained = command.statement.encode(errors="surrogateescape")
    return parameter_types(
        settings.sharding, Asked(text=explained, types=statement.types, path=path_of(client.path))
    )


def _explain(client: Client, command: Command, asked: Asked) -> CommandAnswer:
    visitor, desk, server = visitor_of(client), client.desk, client.server
    assert desk is not None
    account = visitor.account
    notes = []
    if server is not None:
        source = source_of(server.pool)
        bound = "its transaction" if client.status != _IDLE else ", ".join(visitor.pins) or "session mode"
        notes.append(f"this session is bound to {source.key} of shard {source.shard.number} now: {bound}")
    found = explain(
        command.statement,
        Circumstances(
            settings=account.settings,
            places=account.shards,
            statement_bytes_max=desk.statement_bytes_max,
            wishes=visitor.wishes_in_force(client),
            flows=desk.flows,
            has_shapes=client.has_shapes,
            is_utf8=client.is_utf8,
            shuns_replicas=client.shuns_replicas,
            path=client.path,
            plugins=account.plugins,
            catalog=account.catalog,
            notes=tuple(notes),
            types=asked.types,
            bind=asked.bind,
            behind=partial(why_behind, client),
        ),
    )
    return CommandAnswer(
        tag="EXPLAIN", columns=columns_of(command), rows=tuple((line,) for line in found.lines())
    )


def _route(client: Client) -> tuple[str, str, str, str]:
    """Where the last statement went: shard, role, server, and why."""
    visitor, flow, pool = visitor_of(client), client.flow, client.pool
    if visitor.refused_at == client.queries:
        return ("", "", "", f"refused: {visitor.refusal}")
    if flow is None or pool is None or client.queries == 0:
        return ("", "", "", "no statement yet")
    source = source_of(pool)
    reason = flow.reason
    if client.role_hint >= 0:
        reason = f"a comment in the statement; {reason}"
    elif client.role_wish >= 0:
        reason = f"the session's server_role; {reason}"
    if len(visitor.account.shards) > 1:
        reason = f"{reason}; shard: {_why_there(client, flow)}"
    return (str(source.shard.number), _ROLES[client.role], str(source.key), reason)


def _why_there(client: Client, flow: Flow) -> str:
    """Who told the shard of the last statement."""
    if client.hint >= 0:
        return "a comment in the statement"
    if flow.reach == marks.KEYED:
        # Keys that lead nowhere leave it to the session.
        return "its keys" if client.shard_wish != client.shard else "its keys, or the session's shard"
    if client.shard_wish == client.shard:
        return "the session's shard"
    return "any" if flow.reach == marks.ANYWHERE else "by default"


def _role_shown(client: Client, wishes: Wishes) -> str:
    """The role that was set; without one that of the last statement, if there is one, as PgCat has it."""
    if wishes.role != "auto" or client.queries == visitor_of(client).role_set_at:
        return wishes.role
    return _ROLES[client.role]


def _reads_by_default(account: Account) -> bool:
    return account.settings.reads_on_primary == "always" or account.settings.reads == "primary"
