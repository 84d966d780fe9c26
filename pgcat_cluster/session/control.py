"""Answers the relay's upcalls, by whoever of the session they are for.

Everything here is synchronous and does no I/O: what must be done outside goes through `Effects`, and the time is
an argument of the constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pgcat_cluster.agreement.cancels import Answer, CancelKeys
from pgcat_cluster.errors import Canceled, ProtocolViolation, TransactionAborted, UnknownSavepoint
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool, Target
from pgcat_cluster.session import directions, paths
from pgcat_cluster.session.account import (
    Account,
    Backend,
    ShardPlace,
    Visitor,
    account_of,
    backend_of,
    visitor_of,
)
from pgcat_cluster.session.answers import answer, foretold, parameters_of
from pgcat_cluster.session.catalogs import Catalogs
from pgcat_cluster.session.consistency import Consistency
from pgcat_cluster.session.effects import Effects
from pgcat_cluster.session.judging import decide_anew, judge, move_to_primary
from pgcat_cluster.session.keyed import Asked, bind_message
from pgcat_cluster.session.parameters import Catalogue, read_as
from pgcat_cluster.session.reception import Reception
from pgcat_cluster.session.refusals import dismiss, note, refuse, turn_away
from pgcat_cluster.session.replies import description, execution_frames, result_formats, simple_frames
from pgcat_cluster.session.savepoints import missing
from pgcat_cluster.session.settling import Settling
from pgcat_cluster.session.supply import Supply
from pgcat_cluster.session.upkeep import Upkeep
from pgcat_cluster.sql.savepoints import steps_of
from pgcat_cluster.wire import messages

_FAILED = 0x45


class Control:
    """One for all accounts of a node."""

    def __init__(self, effects: Effects, clock: Callable[[], float], keys: CancelKeys[Client]) -> None:
        self.effects = effects
        self.catalogue = Catalogue()
        self.supply = Supply(effects, clock, self.catalogue.none)
        self.consistency = Consistency(clock=clock, call_later=effects.call_later, grow=self.supply.grow_for)
        self.catalogs = Catalogs(clock, partial(decide_anew, marked=marks.BY_CATALOG))
        self.reception = Reception(self.catalogue, keys)
        self.settling = Settling(self.catalogue, self.consistency, self.catalogs, self.reception.greet)
        self.upkeep = Upkeep(clock, self.supply, self.consistency, self.catalogs)

    # -- what the node tells -------------------------------------------------------------------------------

    def place(self, account: Account, shard: ShardPlace) -> None:
        """The view of a shard or the settings changed."""
        self.supply.place(account, shard)
        self.consistency.place(account, shard)
        self.catalogs.place(account)

    def linked(self, pool: Pool, server: Server, backend: Backend) -> None:
        """A link is open and logged in."""
        self.consistency.linked(pool)
        self.catalogs.linked(pool)
        self.supply.linked(pool, server, backend)

    def cancel_client(self, client: Client) -> Answer:
        """End what a client runs or waits for. While one cancel of it is on its way, no other is sent."""
        server = client.server
        if client.waiting:
            refuse(client, Canceled())
            return "dequeued"
        if server is None or not (client.awaiting or client.unsynced or client.copying):
            return "idle"
        if server.cancels == 0:
            self.supply.cancel(server)
        return "sent"

    # -- upcalls: statements -------------------------------------------------------------------------------

    def analyse(self, client: Client, text: bytes, shape: bytes | None) -> Flow:
        return judge(client, text, shape)

    def refused(self, client: Client, flow: Flow | None) -> None:
        if flow is not None:
            move_to_primary(flow)

    def watch(self, client: Client, text: bytes) -> None:
        plugins = account_of(client).plugins
        # What is repeated elsewhere was told of.
        if plugins is not None and client.attempts == 0:
            self.effects.log_statement(client, plugins.logged(text))

    def perform(self, client: Client, flow: Flow, text: bytes) -> bool:
        """A command of ours, or DEALLOCATE of a statement that was prepared by protocol.

        That one is ours to forget, for the servers' is shared.
        """
        if flow.flags & marks.WATCHED:
            self.watch(client, text)
        if flow.flags & marks.COMMAND:
            said = answer(client, flow, Asked(text=text, is_utf8=client.is_utf8))
            if said.fault is not None:
                turn_away(client, said.fault)
                return False
            # Any simple Query drops it.
            client.unnamed = None
            client.put_bytes(simple_frames(said, client.status))
            return True
        name = flow.detail
        if not isinstance(name, bytes) or name not in client.statements or client.status == _FAILED:
            return False
        if not client.statements[name].is_kept:
            return False
        del client.statements[name]
        # Any simple Query drops it.
        client.unnamed = None
        client.put_bytes(
            messages.command_complete("DEALLOCATE") + messages.ready_for_query(bytes((client.status,)))
        )
        return True

    def own_columns(self, client: Client, statement: Statement, bind: bytes) -> bytes:
        known = foretold(statement.flow, statement.text.decode(errors="surrogateescape"))
        if known.fault is not None:
            note(client, known.fault)
            return messages.error_response(known.fault)
        columns = description(known.columns, result_formats(bind))
        return columns if bind else messages.parameter_description(parameters_of(client, statement)) + columns

    def own_answer(self, client: Client, statement: Statement, bind: bytes) -> bytes:
        flow, text = statement.flow, statement.text
        if flow.flags & marks.WATCHED:
            self.watch(client, text)
        asked = Asked(text=text, types=statement.types, bind=bind_message(bind), is_utf8=client.is_utf8)
        told = answer(client, flow, asked)
        if told.fault is not None:
            note(client, told.fault)
        return execution_frames(told, result_formats(bind))

    def begun_twice(self, client: Client, tag: bytes) -> bytes:
        """BEGIN inside a transaction: PostgreSQL warns, and goes on."""
        return messages.notice("WARNING", "25001", "there is already a transaction in progress") + tag

    def abort(self, client: Client) -> None:
        turn_away(client, TransactionAborted())

    # -- upcalls: shards -----------------------------------------------------------------------------------

    def hear(self, client: Client, text: bytes) -> bool:
        return directions.hear(client, text)

    def repath(self, client: Client, flow: Flow) -> None:
        paths.move(client, flow)

    def locate(self, client: Client, statement: Statement | None, flow: Flow, found: int, text: bytes) -> int:
        return directions.locate(client, statement, flow, found, text)

    def misplace(self, client: Client, flow: Flow, shard: int) -> None:
        directions.misplace(client, shard)

    # -- upcalls: a session and its server -----------------------------------------------------------------

    def align(self, client: Client, server: Server) -> None:
        self.settling.align(client, server)

    def settle(self, client: Client, server: Server) -> None:
        self.settling.settle(client, server)

    def wish_no_more(self, client: Client) -> None:
        """A transaction has ended: the wishes of SET LOCAL are no longer in force, nor its search_path."""
        visitor = visitor_of(client)
        paths.end(client)
        visitor.wish(client, visitor.wishes)

    def nest(self, client: Client, text: bytes) -> bytes:
        name = missing(client.held, text)
        if name is not None:
            fault = UnknownSavepoint(f'savepoint "{name}" does not exist')
            note(client, fault)
            return messages.error_response(fault)
        if client.wishes_end:
            self.save(client, text)
        return b""

    def save(self, client: Client, text: bytes) -> None:
        visitor_of(client).save(client, steps_of(text.decode(errors="surrogateescape")))

    def save_not(self, client: Client, completed: int) -> None:
        visitor_of(client).save_not(client, completed)

    def reread(self, client: Client, server: Server) -> None:
        read_as(client, backend_of(server).reported)

    def reported(self, client: Client | None, server: Server, body: bytes) -> None:
        backend = backend_of(server)
        name, value = messages.parse_parameter_status(body)
        backend.reported[name] = value
        if client is not None:
            context = client.context
            read_as(client, backend.reported)
            if client.is_alone:
                # More may be under way.
                client.context = context
            if name == "application_name" and isinstance(client.detail, Visitor):
                client.detail.application_name = value

    # -- upcalls: links and waiters ------------------------------------------------------------------------

    def want(self, client: Client, target: Target) -> None:
        self.supply.serve(account_of(client), target)

    def follow(self, client: Client) -> None:
        self.consistency.follow(client)

    def ask(self, pool: Pool, server: Link) -> None:
        assert isinstance(server, Server)
        server.resting = False
        if pool.gate.keeps_positions:
            self.consistency.ask(pool, server)
        if self.catalogs.is_due(pool):
            self.catalogs.ask(pool, server)
        if server.ledger:
            server.flush()
        else:
            server.clean()

    def retire(self, server: Server) -> None:
        self.supply.retire(server)

    def server_lost(self, server: Server, client: Client | None, reason: str) -> None:
        if not server.is_fatal:
            self.catalogs.lost(server.pool)
        self.supply.lost(server, client, reason)

    # -- upcalls: ends -------------------------------------------------------------------------------------

    def violated(self, client: Client, text: str) -> None:
        dismiss(client, ProtocolViolation(text))

    def client_gone(self, client: Client) -> None:
        self.reception.leave(client)
