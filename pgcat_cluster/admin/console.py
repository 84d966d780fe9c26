"""One conversation with an admin console: frames in, answers out, no socket.

Both protocols are spoken, the extended one without parameters, so that every driver works with its defaults.
A frame is answered at once, or with an action to be awaited before the next frame is handed in. After an
error in the extended protocol everything up to Sync is skipped, as PostgreSQL does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from pgcat_cluster.admin import fleet_orders, fleet_tables, pgbouncer, pgcat
from pgcat_cluster.admin.bans import rows_of
from pgcat_cluster.admin.control import ControlPort, ShutdownMode
from pgcat_cluster.admin.grammar import (
    NEEDS,
    Command,
    Dialect,
    Malformed,
    Rights,
    TooLong,
    parse_command,
)
from pgcat_cluster.admin.rows import Column, Result, Row, Table, columns, encode_row, sort_rows
from pgcat_cluster.agreement.orders import FleetFault
from pgcat_cluster.errors import Canceled, ConfigFault, Fault, ProtocolViolation, WireError
from pgcat_cluster.telemetry.averages import History
from pgcat_cluster.telemetry.redaction import redact
from pgcat_cluster.telemetry.snapshot import NodeSnapshot
from pgcat_cluster.wire import messages

DATABASES: tuple[Dialect, ...] = ("pgbouncer", "pgcat")
# Drivers keep up to a few hundred statements; each of ours is a few words.
STATEMENTS_MAX = 1000
# Portals live until the next Sync, and each may hold a whole answer.
PORTALS_MAX = 16
# How long a command may wait for others before it gives up and undoes what it began.
COMMAND_TIMEOUT_S = 3600.0


class BouncerError(Fault):
    """Whatever PgBouncer's console objects to; the session goes on."""

    sqlstate = "08P01"
    text = "admin console error"


class CatError(Fault):
    """The same in PgCat's words: called FATAL, yet the session goes on."""

    sqlstate = "58000"
    severity = "FATAL"
    text = "admin console error"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about a frame: send `data`, then await `action` and send what it returns, then maybe close.

    No frame may be handed in while an action is awaited. If the connection goes away meanwhile, cancel the
    task that awaits it; for a cancel request call `Console.cancel`.
    """

    data: bytes = b""
    action: Callable[[], Awaitable[bytes]] | None = None
    closes: bool = False


class Portal:
    """A bound command: it runs at its first Execute and hands out its rows in portions."""

    __slots__ = ("command", "formats", "result", "sent")

    def __init__(self, command: Command, formats: Sequence[int]) -> None:
        self.command = command
        self.formats = formats
        self.result: Result | None = None
        self.sent = 0


def login_parameters(dialect: Dialect) -> dict[str, str]:
    """What ParameterStatus tells at login."""
    return pgbouncer.login_parameters() if dialect == "pgbouncer" else pgcat.login_parameters()


def _pins(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (client.number, client.database, client.user, client.pin)
        for client in snapshot.clients
        if client.pin is not None
    ]


def _mirrors(snapshot: NodeSnapshot, history: History) -> list[Row]:
    return [
        (
            pool.database,
            pool.user,
            mirror.host,
            str(mirror.port),
            mirror.links,
            mirror.queued,
            mirror.held_bytes,
            mirror.mirrored,
            mirror.statements,
            mirror.dropped,
            mirror.left_out,
            mirror.failed,
            sum(mirror.errors.values()),
            mirror.last_error,
        )
        for pool in snapshot.pools
        if (mirror := pool.mirror) is not None
    ]


# Ours alone, in both consoles; what only one of the originals has answers in its shape in the other too.
OUR_TABLES = {
    "PINS": Table(columns=columns("client database user reason", "isss"), rows=_pins, needs_connections=True),
    "MIRRORS": Table(
        columns=columns(
            "database user host port links queued queued_bytes mirrored statements dropped left_out failed errors"
            " last_error",
            "ssss" + 9 * "N" + "s",
        ),
        rows=_mirrors,
    ),
}
TABLES: dict[Dialect, dict[str, Table]] = {
    "pgbouncer": pgcat.TABLES | pgbouncer.TABLES | OUR_TABLES,
    "pgcat": pgbouncer.TABLES | pgcat.TABLES | OUR_TABLES,
}
SESSION_PARAMETERS = {
    "CLIENT_ENCODING": "UTF-8",
    "DEFAULT_TRANSACTION_ISOLATION": "read committed",
    "STANDARD_CONFORMING_STRINGS": "on",
    "DATESTYLE": "ISO",
    "TIMEZONE": "GMT",
}
SHUTDOWN_MODES: dict[str, ShutdownMode] = {
    "": "immediate",
    "WAIT_FOR_SERVERS": "wait_for_servers",
    "WAIT_FOR_CLIENTS": "wait_for_clients",
}
_SHOWN = "|".join(
    subject
    for name in NEEDS
    if (subject := name.removeprefix("SHOW ")) in TABLES["pgbouncer"] | fleet_tables.TABLES
)
# The same in both: with FLEET all nodes do it, and the answer comes when they have.
_FOR_FLEET = (
    "BAN <server> [<seconds>] FLEET",
    "UNBAN <server> FLEET",
    "PAUSE [<db>] FLEET",
    "RESUME [<db>] FLEET",
    "RECONNECT [<db>] FLEET",
    "RELOAD FLEET",
)
HELP: dict[Dialect, tuple[str, ...]] = {
    "pgbouncer": (
        f"SHOW HELP|{_SHOWN}",
        "SET key = value",
        "RELOAD",
        "PAUSE [<db>]",
        "RESUME [<db>]",
        "RECONNECT [<db>]",
        "BAN <server> <seconds>",
        "UNBAN <server>",
        *_FOR_FLEET,
        "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
    ),
    "pgcat": (
        *(f"SHOW {name}" for name in f"HELP|{_SHOWN}".split("|")),
        "SET key = value",
        "RELOAD",
        "PAUSE [<db>, <user>]",
        "RESUME [<db>, <user>]",
        "RECONNECT [<db>]",
        "BAN <server> <seconds>",
        "UNBAN <server>",
        *_FOR_FLEET,
        "SHUTDOWN",
    ),
}
_NAME_COLUMN = columns("success", "s")
_BAN_COLUMNS = columns("db user role host", "ssss")


class Console:
    """One session at a console, after login. It owns the session's prepared statements and portals."""

    def __init__(
        self,
        dialect: Dialect,
        user: str,
        rights: Rights,
        control: ControlPort,
        *,
        command_timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        self.dialect = dialect
        self.user = user
        self.rights = rights
        self._control = control
        self._command_timeout_s = command_timeout_s
        self._tables = TABLES[dialect]
        self._statements: dict[str, Command] = {}
        self._portals: dict[str, Portal] = {}
        self._is_skipping = False
        self._is_canceled = False
        self._wait: asyncio.Timeout | None = None

    # -- frames

    def receive(self, kind: int, body: bytes) -> Answer:
        """The answer to one whole frame (its type byte, and its body behind the length)."""
        letter = chr(kind)
        if letter == "X":
            return Answer(closes=True)
        if letter == "S":
            self._is_skipping = False
            self._portals.clear()
            return Answer(data=messages.ready_for_query(b"I"))
        if self._is_skipping:
            return Answer()
        try:
            return self._dispatch(letter, body)
        except WireError as error:
            return Answer(data=messages.error_response(ProtocolViolation(str(error))), closes=True)
        except ProtocolViolation as fault:
            return Answer(data=messages.error_response(fault), closes=True)
        except Fault as fault:
            return Answer(data=self._refuse(letter, fault))

    def cancel(self) -> None:
        """A cancel request for this session: a command that waits gives up; else nothing happens."""
        if self._wait is not None:
            self._is_canceled = True
            self._wait.reschedule(0)

    def _dispatch(self, letter: str, body: bytes) -> Answer:
        match letter:
            case "Q":
                command = self._command(messages.parse_query(body))
                return self._perform(letter, command, self._whole)
            case "P":
                return Answer(data=self._parse(messages.parse_parse(body)))
            case "B":
                return Answer(data=self._bind(messages.parse_bind(body)))
            case "D":
                return Answer(data=self._describe(*messages.parse_describe(body)))
            case "E":
                return self._execute(*messages.parse_execute(body))
            case "C":
                which, name = messages.parse_describe(body)
                (self._statements if which == b"S" else self._portals).pop(name, None)
                return Answer(data=messages.close_complete())
            case "H":
                return Answer()
        raise ProtocolViolation(f"unsupported packet type for admin console: {ord(letter)}")

    def _refuse(self, letter: str, fault: Fault) -> bytes:
        error = messages.error_response(fault)
        if letter == "Q":
            return error + messages.ready_for_query(b"I")
        self._is_skipping = True
        return error

    def _perform(self, letter: str, command: Command, send: Callable[[Result], bytes]) -> Answer:
        """Runs a command whose result `send` turns into bytes, now or as an action."""
        outcome = self._run(command)
        if isinstance(outcome, Result):
            return Answer(data=send(outcome), closes=outcome.closes)

        async def action() -> bytes:
            try:
                return send(await outcome)
            except Fault as fault:
                return self._refuse(letter, fault)

        return Answer(action=action)

    def _whole(self, result: Result) -> bytes:
        """A result in the simple protocol."""
        if result.closes:
            return b""
        parts = [result.notice]
        if result.columns is not None:
            parts.append(_row_description(result.columns, ()))
            parts += _data_rows(result, [0] * len(result.columns), 0, len(result.rows))
        parts += (messages.command_complete(result.tag), messages.ready_for_query(b"I"))
        return b"".join(parts)

    def _parse(self, message: messages.Parse) -> bytes:
        if message.types:
            raise self._error("parameters are not supported by admin console")
        if message.name and message.name in self._statements:
            raise self._error(f'prepared statement "{message.name}" already exists')
        if len(self._statements) >= STATEMENTS_MAX and message.name not in self._statements:
            raise self._error("too many prepared statements")
        self._statements[message.name] = self._command(message.text)
        return messages.parse_complete()

    def _bind(self, message: messages.Bind) -> bytes:
        if message.values:
            raise self._error("parameters are not supported by admin console")
        command = self._statement(message.statement)
        width = len(self._columns(command) or ())
        formats = message.result_formats or (0,)
        if len(formats) == 1:
            formats *= width
        if len(formats) != width or not {0, 1}.issuperset(formats):
            raise self._error("invalid result formats")
        if len(self._portals) >= PORTALS_MAX and message.portal not in self._portals:
            raise self._error("too many portals")
        self._portals[message.portal] = Portal(command, formats)
        return messages.bind_complete()

    def _describe(self, which: bytes, name: str) -> bytes:
        if which == b"S":
            shape = self._columns(self._statement(name))
            described = messages.parameter_description(())
            return described + (messages.no_data() if shape is None else _row_description(shape, ()))
        portal = self._portal(name)
        shape = self._columns(portal.command)
        return messages.no_data() if shape is None else _row_description(shape, portal.formats)

    def _execute(self, name: str, max_rows: int) -> Answer:
        portal = self._portal(name)

        def send(result: Result) -> bytes:
            portal.result = result
            return _portion(portal, result, max_rows)

        if portal.result is not None:
            return Answer(data=send(portal.result))
        return self._perform("E", portal.command, send)

    def _statement(self, name: str) -> Command:
        if name not in self._statements:
            raise self._error(f'prepared statement "{name}" does not exist')
        return self._statements[name]

    def _portal(self, name: str) -> Portal:
        if name not in self._portals:
            raise self._error(f'portal "{name}" does not exist')
        return self._portals[name]

    # -- commands

    def _error(self, text: str, detail: str | None = None, hint: str | None = None) -> Fault:
        kind = BouncerError if self.dialect == "pgbouncer" else CatError
        return kind(text, detail=detail, hint=hint)

    def _invalid(self, text: str, *, is_show: bool = False) -> Fault:
        if self.dialect == "pgbouncer":
            return BouncerError(f"invalid command '{text}', use SHOW HELP;")
        return CatError(f"Unsupported {'SHOW ' if is_show else ''}query against the admin database")

    def _command(self, text: str) -> Command:
        """The command of a text, if it exists and this user may use it."""
        try:
            command = parse_command(text)
        except Malformed:
            raise self._invalid(text) from None
        except TooLong:
            raise self._error("bad arguments") from None
        if command.name not in NEEDS:
            raise self._invalid(text, is_show=command.verb == "SHOW")
        if NEEDS[command.name] == "admin" and self.rights != "admin":
            raise self._error("admin access needed")
        # PgCat ignores what follows the words it knows; PgBouncer takes it for a mistake.
        if command.verb == "SHOW" and command.arguments and self.dialect == "pgbouncer":
            raise self._invalid(text)
        return command

    def _columns(self, command: Command) -> tuple[Column, ...] | None:
        """The columns a command will answer with, known before it runs."""
        subject = command.name.removeprefix("SHOW ")
        if command.verb == "SHOW":
            if subject in self._tables:
                return self._tables[subject].columns
            if subject in fleet_tables.TABLES:
                return fleet_tables.TABLES[subject].columns
            return columns(subject.lower(), "s") if subject in SESSION_PARAMETERS else None
        if command.name in ("BAN", "UNBAN"):
            return _BAN_COLUMNS
        return _NAME_COLUMN if command.name == "SHUTDOWN" and self.dialect == "pgcat" else None

    def _run(self, command: Command) -> Result | Awaitable[Result]:
        if command.is_for_fleet:
            return self._order(command)
        match command.verb:
            case "SHOW":
                return self._show(command)
            case "BAN" | "UNBAN":
                return self._ban(command)
            case "SET":
                return self._set(command)
            case "PAUSE":
                return self._pause(command)
            case "RESUME":
                return self._resume(command)
            case "RECONNECT":
                return self._reconnect(command)
            case "RELOAD":
                return self._reload(command)
            case _:
                return self._shutdown(command)

    def _show(self, command: Command) -> Result | Awaitable[Result]:
        subject = command.name.removeprefix("SHOW ")
        if subject == "HELP":
            detail = "".join(f"\n\t{line}" for line in HELP[self.dialect])
            return Result(tag="SHOW", notice=messages.notice("NOTICE", "00000", "Console usage", detail))
        if subject in SESSION_PARAMETERS:
            return Result(tag="SHOW", columns=self._columns(command), rows=[(SESSION_PARAMETERS[subject],)])
        if subject in fleet_tables.TABLES:
            return self._show_fleet(subject)
        table = self._tables[subject]
        snapshot = self._control.snapshot(connections=table.needs_connections)
        rows = sort_rows(table.rows(snapshot, self._control.history))
        return Result(tag=table.tag, columns=table.columns, rows=rows)

    async def _show_fleet(self, subject: str) -> Result:
        table = fleet_tables.TABLES[subject]
        try:
            rows = sort_rows(table.rows(await self._control.fleet.overview()))
        except FleetFault as fault:
            raise self._error(fault.message, fault.detail, fault.hint) from None
        return Result(tag="SHOW", columns=table.columns, rows=rows)

    def _set(self, command: Command) -> Result:
        if self.dialect == "pgcat":
            return Result(tag="SET")
        match command.arguments:
            case (key, "=", *values) if values:
                pass
            case (key, to, *values) if to.upper() == "TO" and values:
                pass
            case _:
                raise self._invalid(command.text)
        if not key:
            raise self._error("bad arguments")
        if key.upper() not in SESSION_PARAMETERS:
            raise self._error("SET failed")
        return Result(tag="SET", notice=messages.notice("NOTICE", "00000", "SET ignored"))

    def _pause(self, command: Command) -> Result | Awaitable[Result]:
        scope, tag, snapshot = self._scope(command)
        if self.dialect == "pgcat":
            self._control.pause(*scope)
            return Result(tag=tag, notice=self._here_alone(command.name))
        if scope[0] is None and snapshot.state == "paused":
            raise self._error("already suspended/paused")
        if scope[0] is None and snapshot.state == "draining":
            raise self._error("pooler is shutting down")
        return self._drain(scope, tag)

    async def _drain(self, scope: tuple[str | None, str | None], tag: str) -> Result:
        """Pauses and waits until that has come to rest; if it is interrupted in any way, it is undone."""
        is_drained = False
        self._control.pause(*scope)
        try:
            async with self._patience(f"{tag} gave up after {self._command_timeout_s:g} s and was undone"):
                await self._control.drained(*scope)
                is_drained = True
        finally:
            if not is_drained:
                self._control.resume(*scope)
        return Result(tag=tag, notice=self._here_alone(tag))

    @asynccontextmanager
    async def _patience(self, too_late: str) -> AsyncIterator[None]:
        """A limit in time for what a command waits for, which a cancel request ends at once."""
        self._is_canceled = False
        try:
            async with asyncio.timeout(self._command_timeout_s) as self._wait:
                yield
        except TimeoutError:
            if self._is_canceled:
                raise Canceled() from None
            raise self._error(too_late) from None
        finally:
            self._wait = None

    async def _order(self, command: Command) -> Result:
        """A command for all nodes: it answers when they obey, or names those that do not."""
        control, name = self._control, command.name
        by = f"{self.user} on {control.snapshot(connections=False).name}"
        try:
            async with self._patience(f"{name} FLEET gave up after {self._command_timeout_s:g} s"):
                obeyed = await fleet_orders.order(command, control, by)
        except FleetFault as fault:
            raise self._error(fault.message, fault.detail, fault.hint) from None
        except ConfigFault as fault:
            raise self._reload_failed(fault) from None
        shape = self._columns(command)
        rows: list[Row] = []
        if shape is not None:
            snapshot = control.snapshot(connections=False)
            rows = sort_rows(rows_of(snapshot, fleet_orders.servers(snapshot, command.arguments[0])))
        return Result(tag=name, columns=shape, rows=rows, notice=fleet_orders.notice(control, obeyed))

    def _ban(self, command: Command) -> Result:
        """PgCat's BAN and UNBAN: this node alone, for so many seconds."""
        snapshot = self._control.snapshot(connections=False)
        try:
            if command.name == "BAN":
                if len(command.arguments) != 2:
                    raise FleetFault("usage: BAN hostname duration_seconds")
                length_s = fleet_orders.seconds(command.arguments[1])
                places = fleet_orders.servers(snapshot, command.arguments[0])
                self._control.ban(places, length_s, self.user)
            else:
                if len(command.arguments) != 1:
                    raise FleetFault("UNBAN command requires a hostname to unban")
                places = self._control.unban(fleet_orders.servers(snapshot, command.arguments[0]))
                if not places:
                    fleet_orders.check_not_avoided(snapshot, command.arguments[0])
        except FleetFault as fault:
            raise self._error(fault.message, fault.detail, fault.hint) from None
        rows = sort_rows(rows_of(self._control.snapshot(connections=False), places))
        notice = self._here_alone(command.name)
        return Result(tag=command.name, columns=_BAN_COLUMNS, rows=rows, notice=notice)

    def _here_alone(self, name: str) -> bytes:
        """A node of a fleet says that the others go on as they did."""
        if self._control.fleet.is_alone:
            return b""
        return messages.notice("NOTICE", "00000", f"on this node alone; {name} … FLEET is for all nodes")

    def _resume(self, command: Command) -> Result:
        scope, tag, snapshot = self._scope(command)
        if held := sorted(name for name in self._control.fleet.paused if scope[0] in (None, name)):
            text = f"paused for the whole fleet: {', '.join(held)}"
            raise self._error(text, hint="RESUME [<db>] FLEET takes that back.")
        if self.dialect == "pgbouncer":
            paused = {database.name for database in snapshot.databases if database.is_paused}
            if scope[0] is None and snapshot.state != "paused":
                raise self._error("pooler is not paused/suspended")
            if scope[0] is not None and scope[0] not in paused:
                raise self._error(f"database {scope[0]} is not paused")
        self._control.resume(*scope)
        return Result(tag=tag)

    def _reconnect(self, command: Command) -> Result:
        database, _ = self._database(command, self._control.snapshot(connections=False))
        self._control.reconnect(database)
        return Result(tag="RECONNECT")

    async def _reload(self, command: Command) -> Result:
        if command.arguments and self.dialect == "pgbouncer":
            raise self._invalid(command.text)
        try:
            await self._control.reload()
        except ConfigFault as fault:
            raise self._reload_failed(fault) from None
        return Result(tag="RELOAD")

    def _reload_failed(self, fault: ConfigFault) -> Fault:
        text, reason = "RELOAD failed, see logs for additional details", redact(str(fault))
        return (CatError if self.dialect == "pgcat" else ConfigFault)(text, detail=reason)

    def _shutdown(self, command: Command) -> Result:
        if self.dialect == "pgcat":
            is_begun = self._control.snapshot(connections=False).state != "draining"
            if is_begun:
                self._control.shutdown("drain")
            return Result(tag="SHUTDOWN", columns=_NAME_COLUMN, rows=[("t" if is_begun else "f",)])
        name = " ".join(command.arguments).upper()
        if name not in SHUTDOWN_MODES:
            raise self._invalid(command.text)
        self._control.shutdown(SHUTDOWN_MODES[name])
        return Result(tag="SHUTDOWN", closes=SHUTDOWN_MODES[name] == "immediate")

    # -- scopes

    def _scope(self, command: Command) -> tuple[tuple[str | None, str | None], str, NodeSnapshot]:
        """What PAUSE and RESUME act on, the tag that says so, and the snapshot it was found in."""
        snapshot = self._control.snapshot(connections=False)
        if self.dialect == "pgbouncer":
            return self._database(command, snapshot), command.name, snapshot
        match command.arguments:
            case ():
                return (None, None), command.name, snapshot
            case (database, ",", user):
                if not any((pool.database, pool.user) == (database, user) for pool in snapshot.pools):
                    raise self._error(f"No pool configured for database: {database}, user: {user}")
                return (database, user), f"{command.name} {database},{user}", snapshot
        raise self._error(f"usage: {command.name} [db, user]")

    def _database(self, command: Command, snapshot: NodeSnapshot) -> tuple[str | None, None]:
        if not command.arguments:
            return None, None
        if len(command.arguments) > 1:
            raise self._invalid(command.text)
        name = command.arguments[0]
        if name in DATABASES:
            raise self._error(f"cannot {command.name.lower()} admin db: {name}")
        if not any(database.name == name for database in snapshot.databases):
            raise self._error(f"no such database: {name}")
        return name, None


def _row_description(table: Sequence[Column], formats: Sequence[int]) -> bytes:
    return messages.row_description([(c.name, c.type_oid, c.type_size) for c in table], formats)


def _data_rows(result: Result, formats: Sequence[int], start: int, end: int) -> list[bytes]:
    table = result.columns or ()
    return [messages.data_row(encode_row(table, formats, row)) for row in result.rows[start:end]]


def _portion(portal: Portal, result: Result, max_rows: int) -> bytes:
    """The next rows of a portal: all, or up to a limit and then suspended if there may be more."""
    if result.closes:
        return b""
    start, portal.sent = portal.sent, len(result.rows)
    if max_rows > 0 and start + max_rows < len(result.rows):
        portal.sent = start + max_rows
    parts = [result.notice if start == 0 else b"", *_data_rows(result, portal.formats, start, portal.sent)]
    if portal.sent < len(result.rows):
        parts.append(messages.portal_suspended())
    else:
        parts.append(messages.command_complete(result.tag))
    return b"".join(parts)
