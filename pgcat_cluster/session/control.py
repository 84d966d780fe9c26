"""Answers the relay's upcalls: decides statements, aligns and settles sessions, tells clients what went wrong.

Everything here is synchronous and does no I/O: what must be done outside goes through `Effects`, and the time is
an argument of the constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from pgcat_cluster.agreement.cancels import Answer, CancelKeys
from pgcat_cluster.errors import (
    Canceled,
    CheckoutTimeout,
    Fault,
    IdleInTransaction,
    IdleSession,
    NoServer,
    OutcomeUnknown,
    ProtocolViolation,
    ServerLost,
    ServerUnreachable,
    TransactionTimeout,
)
from pgcat_cluster.pool.growth import backoff_s, grow
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool, Target
from pgcat_cluster.session.account import Account, Backend, ShardPlace, Source, Visitor
from pgcat_cluster.session.answers import answer, ground_of
from pgcat_cluster.session.catalogs import Catalogs, judge_anew
from pgcat_cluster.session.consistency import Consistency, wait_for
from pgcat_cluster.session.decisions import ALL_OURS, ANY_PARAMETER, UNKNOWN, decide
from pgcat_cluster.session.directions import Directions
from pgcat_cluster.session.parameters import (
    Catalogue,
    Parameters,
    align_query,
    has_shapes,
    is_utf8,
    read_state,
    shuns_replicas,
    state_query,
)
from pgcat_cluster.session.positions import POSITION_QUERY
from pgcat_cluster.session.questions import Question, Rows
from pgcat_cluster.session.replies import as_fatal, simple_frames
from pgcat_cluster.session.wishes import WAIT_FOR, for_servers, short_name, wishes_of, wishes_of_pool
from pgcat_cluster.topology.view import NOT_SEEN
from pgcat_cluster.wire import messages

_ROW = 0x44
_ERROR = b"E"
_IDLE = 0x49
_FAILED = 0x45
_ATTEMPTS_MAX = 3
SILENT = "the server is silent"
# How long a server link may go on with the statement of a client that has left.
ABANDONED_S = 5.0
# How long the queries of the prewarmer may keep a new link from its clients.
PREWARM_S = 5.0
# A statement whose text is not kept can be prepared nowhere else.
LONG_STATEMENT = "long statement"
# After these the server is asked what is left of the client.
_LEAVES = marks.LEAVES | marks.UNCLEAN | marks.FORGETS | marks.UNPINS
LOOK_S = 0.5
SWEEP_S = 10.0


class Effects(Protocol):
    """What the session wants done outside."""

    def open_link(self, account: Account, pool: Pool) -> None:
        """Open one more link for a pool (`pool.opening` is already counted); ends in `linked` or `link_failed`."""

    def cancel_server(self, server: Server) -> None:
        """Send the server a cancel for what this link runs; `server.cancels` is already counted."""

    def link_lost(self, account: Account, pool: Pool, reason: str) -> None:
        """A link was lost that nobody closed: let health know."""

    def log_statement(self, client: Client, text: str) -> None:
        """Write down what a client asks for; nothing of `text` needs to be hidden any more."""

    def prewarming_failed(self, pool: Pool, query: str, reason: str) -> None:
        """Let operators know that a query which was to warm a new link has failed."""

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call back once, when so much time has passed."""


class Control(Directions):
    """One for all accounts of a node."""

    def __init__(self, effects: Effects, clock: Callable[[], float], keys: CancelKeys[Client]) -> None:
        self.effects = effects
        self.clock = clock
        self.catalogue = Catalogue()
        self.keys = keys
        self.is_draining = False
        self.consistency = Consistency(
            clock=clock, call_later=effects.call_later, grow=self.grow_for, refuse=self._refuse
        )
        self.catalogs = Catalogs(clock, judge_anew)

    # -- accounts ------------------------------------------------------------------------------------------

    def grow_for(self, pool: Pool) -> None:
        """The relay would have liked a link of this pool."""
        self._grow(pool, is_wanted=True)

    def place(self, account: Account, shard: ShardPlace) -> None:
        """The view of a shard or the settings changed: which of its pools serve which role."""
        view, settings, pools = shard.view, account.settings, shard.pools
        primary = pools.get(view.primary) if view.primary is not None else None
        writers = [] if primary is None else [primary]
        standbys = [pools[server.key] for server in view.readable if server.key in pools]
        if not standbys and shard.on_all_bad == "any":
            standbys = [pools[server.key] for server in view.replicas if server.key in pools]
        everybody = standbys + [pool for pool in writers if pool not in standbys]
        readers = standbys
        if settings.reads == "primary":
            readers = writers
        elif settings.reads_on_primary == "always" or (
            settings.reads_on_primary == "when_no_replica" and not standbys and shard.on_all_bad != "fail"
        ):
            readers = everybody
        for pool in pools.values():
            pool.leads = pool is primary
        for target, served in zip(
            self._targets(account, shard), (writers, readers, everybody, standbys), strict=True
        ):
            if target.pools != served or target.weight != sum(pool.weight for pool in served):
                target.serve_by(list(served))
            self._serve(account, target)
        self.consistency.place(account, shard)
        self.catalogs.place(account)

    def _targets(self, account: Account, shard: ShardPlace) -> list[Target]:
        """The targets of one shard, in order of their roles."""
        first = shard.number * marks.ROLES
        return _desk(account).targets[first : first + marks.ROLES]

    def _serve(self, account: Account, target: Target) -> None:
        """Open links for those who wait, or tell them that there is no server."""
        if target.gate.paused or target.head() is None:
            return
        if not target.pools:
            self._fail_without_server(account, target)
            return
        for pool in target.pools:
            self._grow(pool)

    def _fail_without_server(self, account: Account, target: Target) -> None:
        reason = self._why_none(account, target)
        if reason == NOT_SEEN:
            return
        while (waiter := target.head()) is not None:
            assert isinstance(waiter, Client)
            self._refuse(waiter, NoServer(detail=_where(target) + reason))

    def _why_none(self, account: Account, target: Target) -> str:
        view = account.shards[target.shard].view
        if target.role == marks.PRIMARY or (
            target.role == marks.REPLICA and account.settings.reads == "primary"
        ):
            return view.why_no_primary or "no primary is known"
        why = view.refusals()
        if not why and view.why_no_primary == NOT_SEEN:
            return NOT_SEEN
        return NOT_SEEN if NOT_SEEN in why else why or "no replica is known"

    # -- server links --------------------------------------------------------------------------------------

    def _grow(self, pool: Pool, *, is_wanted: bool = False) -> None:
        source = pool.detail
        assert isinstance(source, Source)
        account = source.account
        if self.clock() < source.retry_at or account.is_removed or pool.gate.paused:
            return
        waiting = sum(target.waiting for target in pool.targets)
        # Those that are being warmed are as good as being opened.
        warming = account.warming(pool)
        while True:
            decision = grow(
                opened=pool.opened - warming,
                opening=pool.opening + warming,
                idle=len(pool.idle),
                limit=pool.limit,
                min_size=account.settings.min_size,
                waiting=waiting,
                is_wanted=is_wanted,
            )
            if not decision.opens:
                return
            is_wanted = False
            pool.opening += 1
            self.effects.open_link(account, pool)

    def linked(self, pool: Pool, server: Server, backend: Backend) -> None:
        """A link is open and logged in."""
        source = pool.detail
        assert isinstance(source, Source)
        account = source.account
        pool.opening -= 1
        pool.opened += 1
        source.failures = 0
        source.retry_at = 0.0
        source.last_error = ""
        pool.may_open = True
        server.detail = backend
        server.parameters = server.base_parameters = self.catalogue.none
        account.servers.add(server)
        server.start()
        if account.is_removed or pool.gate.paused:
            server.is_retired = True
        self.consistency.linked(pool)
        self.catalogs.linked(pool)
        if not self._prewarm(account, server, backend):
            server.clean()
        for target in pool.targets:
            if target.waiting:
                self._grow(pool)

    def _prewarm(self, account: Account, server: Server, backend: Backend) -> bool:
        """Run the prewarmer's queries on a new link before anybody gets it; whether there are any."""
        plugins = account.settings.plugins
        if plugins is None or not plugins.prewarmer.enabled or not plugins.prewarmer.queries:
            return False
        queries = plugins.prewarmer.queries
        for left, query in zip(reversed(range(len(queries))), queries, strict=True):
            server.order(query.encode(), _Prewarming(self, query, is_last=left == 0))
        # They may have set anything.
        server.is_unclean = True
        backend.warm_by = self.clock() + PREWARM_S
        server.flush()
        return True

    def link_failed(self, pool: Pool, text: str, *, is_overload: bool, is_down: bool) -> None:
        """A link could not be opened."""
        source = pool.detail
        assert isinstance(source, Source)
        pool.opening -= 1
        source.failures += 1
        source.last_error = text
        source.retry_at = self.clock() + backoff_s(source.failures)
        pool.may_open = False
        if is_overload or pool.opened > 0 or pool.gate.paused:
            return
        for target in list(pool.targets):
            # Others may serve; a replica's fate is for health to judge, within its bound.
            if any(other.opened > 0 or other.may_open for other in target.pools):
                continue
            if is_down and target.role != marks.PRIMARY and len(source.shard.view.servers) > 1:
                continue
            while (waiter := target.head()) is not None:
                assert isinstance(waiter, Client)
                self._refuse(waiter, ServerUnreachable(detail=_where(target) + text))

    def renew(self, pool: Pool) -> None:
        """No link of this pool is used again: those that rest close now, the others when they are released."""
        pool.generation += 1
        for server in list(pool.idle):
            assert isinstance(server, Server)
            self.retire(server)

    def give_up(self, pool: Pool) -> None:
        """The server fell silent and is out of use: what another one can answer as well is asked there.

        That are the reads that a dead link would let us repeat; all else waits for what the server may yet say.
        """
        source = pool.detail
        assert isinstance(source, Source)
        others = self._targets(source.account, source.shard)[marks.REPLICA].pools
        if not others or pool in others:
            return
        for server in list(source.account.servers):
            client = server.client
            if (
                server.pool is pool
                and client is not None
                and client.retry
                and client.attempts < _ATTEMPTS_MAX
            ):
                server.lost(SILENT)

    def retire(self, server: Server) -> None:
        """A free link that is too old, of another generation, or has a cancel on its way."""
        if server.cancels > 0:
            return
        server.terminate()
        self._let_go(server)
        if any(target.waiting for target in server.pool.targets):
            self._grow(server.pool)

    def cancel_sent(self, server: Server) -> None:
        """A cancel of this link is over: it may be used again."""
        server.cancels -= 1
        if (
            server.cancels == 0
            and not server.closed
            and server.client is None
            and not server.resting
            and not server.ledger
        ):
            server.clean()

    def server_lost(self, server: Server, client: Client | None, reason: str) -> None:
        account = self._let_go(server)
        if not server.is_fatal and not account.is_removed:
            self.effects.link_lost(account, server.pool, reason)
            self.catalogs.lost(server.pool)
        if client is not None:
            self._look_through(server.pool)
            self._orphaned(client, server, reason)
        for target in server.pool.targets:
            self._serve(account, target)

    def _look_through(self, pool: Pool) -> None:
        """A server that dies takes all its links with it: none that rests is given away before its end is read."""
        for server in list(pool.idle):
            assert isinstance(server, Server)
            ahead = server.ahead()
            if ahead == _ERROR:
                # On a link that rests these are a server's last words.
                server.is_fatal = True
            if ahead in (b"", _ERROR):
                server.lost("connection closed by peer")

    def _orphaned(self, client: Client, server: Server, reason: str) -> None:
        """A client's server is gone. What it is told depends on what may have happened there."""
        if client.greeting:
            client.greeting = False
            client.greet()
            return
        if client.retry and client.attempts < _ATTEMPTS_MAX:
            client.repeat()
            return
        if server.is_fatal:
            # The server has said so itself, and the client has its words.
            client.dismiss(b"")
            return
        is_running = client.awaiting or client.unsynced or client.copying
        fault: Fault
        if is_running and (
            client.flags & marks.ENDS or (client.status == _IDLE and client.flags & marks.WRITES)
        ):
            fault = OutcomeUnknown(detail=reason)
        else:
            fault = ServerLost(detail=reason)
        self.dismiss(client, fault)

    def _let_go(self, server: Server) -> Account:
        """A link has ended: what it moved stays counted."""
        source = server.pool.detail
        assert isinstance(source, Source)
        account = source.account
        account.servers.discard(server)
        _desk(account).let_go(server)
        source.add(server)
        return account

    # -- upcalls: deciding ---------------------------------------------------------------------------------

    def analyse(self, client: Client, text: bytes, shape: bytes | None) -> Flow:
        account = _account(client)
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
            _desk(account).unknown_statements += 1
        if account.plugins is not None:
            decision = account.plugins.revised(decision, text, shape)
        if decision.is_lasting and shape is not None:
            desk = client.desk
            assert desk is not None
            desk.flows.offer(shape, decision.flow)
        return decision.flow

    def decide_anew(self, account: Account) -> None:
        """The rules have changed: nothing that was decided by the old ones holds, prepared statements included."""
        desk = _desk(account)
        desk.forget()
        for client in account.clients:
            for statement in {*client.statements.values(), client.unnamed}:
                if statement is not None and statement.is_kept:
                    client.decide_anew(statement)

    def perform(self, client: Client, flow: Flow, text: bytes) -> bool:
        """A command of ours, or DEALLOCATE of a statement that was prepared by protocol.

        That one is ours to forget, for the servers' is shared.
        """
        if flow.flags & marks.WATCHED:
            self.watch(client, text)
        if flow.flags & marks.COMMAND:
            said = answer(client, flow, text.decode(errors="surrogateescape"))
            if said.fault is not None:
                self.turn_away(client, said.fault)
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

    def own_answer(self, client: Client, flow: Flow, text: bytes, bind: bytes) -> bytes:
        if flow.flags & marks.WATCHED:
            self.watch(client, text)
        return super().own_answer(client, flow, text, bind)

    def watch(self, client: Client, text: bytes) -> None:
        plugins = _account(client).plugins
        # What is repeated elsewhere was told of.
        if plugins is not None and client.attempts == 0:
            self.effects.log_statement(client, plugins.logged(text))

    def refused(self, client: Client, flow: Flow | None) -> None:
        if flow is not None and flow.flags & marks.READS:
            flow.role = marks.PRIMARY
            flow.flags = flow.flags & ~marks.READS | marks.WRITES
            flow.reason = "a standby refused it"

    def want(self, client: Client, target: Target) -> None:
        account = _account(client)
        if target.gate.paused:
            return
        self._serve(account, target)

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

    # -- upcalls: parameters and pins ----------------------------------------------------------------------

    def align(self, client: Client, server: Server) -> None:
        have, want = server.parameters, client.parameters
        assert isinstance(have, Parameters)
        assert isinstance(want, Parameters)
        query = align_query(have, want) if have is not want else b""
        server.parameters = want
        if query:
            server.order(query, Question(partial(self.aligned, client)))
        elif client.greeting:
            self._greet(client, server)

    def aligned(self, client: Client, server: Server, _: Rows, error: bytes | None) -> None:
        """The client's parameters are in force on the server, or one of them was refused."""
        if error is not None:
            server.is_retired = True
            server.is_unclean = True
            if server.client is client:
                client.dismiss(as_fatal(error))
        elif client.greeting and server.client is client:
            self._greet(client, server)

    def _greet(self, client: Client, server: Server) -> None:
        backend = server.detail
        assert isinstance(backend, Backend)
        client.greeting = False
        reported = dict(backend.reported)
        parameters = client.parameters
        assert isinstance(parameters, Parameters)
        _account(client).remember_greeting(parameters, reported)
        self.welcome(client, reported)
        server.release()
        client.flush()

    def welcome(self, client: Client, reported: dict[str, str]) -> None:
        """What follows AuthenticationOk: parameters, the cancel key, ready."""
        visitor = client.detail
        assert isinstance(visitor, Visitor)
        client.has_shapes = has_shapes(reported)
        client.is_utf8 = is_utf8(reported)
        visitor.application_name = reported.get("application_name", "")
        visitor.key_pid, visitor.secret = self.keys.issue(client, visitor.protocol_minor)
        client.put_bytes(
            b"".join(messages.parameter_status(name, value) for name, value in reported.items())
            + messages.backend_key_data(visitor.key_pid, visitor.secret)
            + messages.ready_for_query(b"I")
        )

    def enter(self, client: Client, visitor: Visitor, values: dict[str, str]) -> None:
        """A client has logged in: tell it what it needs to know, from memory or from a server."""
        account = visitor.account
        desk = _desk(account)
        parameters = self.catalogue.of({name.lower(): value for name, value in for_servers(values).items()})
        visitor.startup = parameters
        client.detail = visitor
        account.clients.add(client)
        client.join(desk, parameters)
        client.shuns_replicas = shuns_replicas(parameters)
        try:
            self._begin_wishes(client, visitor, values)
        except Fault as fault:
            self.count(client, fault)
            client.dismiss(as_fatal(messages.error_response(fault)[5:]))
            return
        known = account.greetings.get(parameters)
        if known is not None:
            self.welcome(client, known)
            client.flush()
        else:
            client.greet()

    def _begin_wishes(self, client: Client, visitor: Visitor, values: dict[str, str]) -> None:
        """What the pool and then the start-up packet say; raises the fault to tell."""
        account = visitor.account
        ground = ground_of(account)
        wishes = wishes_of_pool(account.settings, ground)
        visitor.wishes_at_start = visitor.wishes = wishes_of(values, wishes, ground)
        visitor.wish(client, visitor.wishes)
        for name, value in values.items():
            if short_name(name) == WAIT_FOR:
                wait_for(client, value)

    def reported(self, client: Client | None, server: Server, body: bytes) -> None:
        backend = server.detail
        assert isinstance(backend, Backend)
        name, value = messages.parse_parameter_status(body)
        backend.reported[name] = value
        if client is not None:
            client.has_shapes = has_shapes(backend.reported)
            client.is_utf8 = is_utf8(backend.reported)
            if name == "application_name" and isinstance(client.detail, Visitor):
                client.detail.application_name = value

    def settle(self, client: Client, server: Server) -> None:
        account = _account(client)
        visitor = client.detail
        assert isinstance(visitor, Visitor)
        if client.unnamed is not None and not client.unnamed.is_kept:
            # Any question would drop it: what else is left is asked when it is gone.
            self._pin(account, client, visitor, tuple(dict.fromkeys((*visitor.pins, LONG_STATEMENT))))
            return
        leaves = client.flags & _LEAVES
        has_written = _desk(account).keeps_positions and server.pool.leads and client.may_have_written()
        if client.flags & marks.DEFINES:
            # Its own next statement shall be judged by what it has defined.
            then = None if leaves or has_written else partial(self._let_on, client)
            self.catalogs.ask(server.pool, server, then)
        if has_written:
            server.order(POSITION_QUERY, Question(partial(self._wrote, client, not leaves)))
        if leaves:
            names = client.names or set()
            if ALL_OURS in names:
                names.discard(ALL_OURS)
                visitor.wishes = visitor.wishes_at_start
                visitor.wish(client, visitor.wishes)
            is_named = bool(client.spelled) or any(
                not statement.is_kept for statement in client.statements.values()
            )
            login = account.settings.login.user
            query = state_query(login, sorted(names - {ANY_PARAMETER}), is_spelled=is_named)
            server.order(query, Question(partial(self.settled, client)))
        server.flush()

    def _wrote(self, client: Client, is_all: bool, server: Server, rows: Rows, error: bytes | None) -> None:
        """The server has said where its log ends."""
        if server.client is not client:
            return
        self.consistency.wrote(client, server, rows, error)
        if is_all:
            self._let_on(client, server)

    def _let_on(self, client: Client, server: Server) -> None:
        """Nothing but a question of ours kept the client from going on."""
        if server.client is not client:
            return
        client.flags &= ~(marks.WRITES | marks.DOUBTS | marks.DEFINES | marks.ENDS)
        if client.pinned:
            client.stay()
        else:
            server.release()

    def settled(self, client: Client, server: Server, rows: Rows, error: bytes | None) -> None:
        """The server has said what is left of the client on it."""
        if server.client is not client:
            return
        account = _account(client)
        visitor = client.detail
        assert isinstance(visitor, Visitor)
        if client.flags & marks.UNCLEAN:
            server.is_unclean = True
            self.catalogs.may_have_defined(server)
            if client.names:
                client.names.discard(ANY_PARAMETER)
        if client.flags & marks.LOADS:
            server.is_retired = True
        client.flags = 0
        if error is not None:
            self._pin(account, client, visitor, ("state unknown",))
            return
        state = read_state(rows)
        pins = state.pins
        for name, statement in list(client.statements.items()):
            if statement.is_kept:
                if name in client.spelled and name not in state.prepared:
                    del client.statements[name]
            elif statement.server_name not in state.prepared:
                del client.statements[name]
            elif LONG_STATEMENT not in pins:
                pins = (*pins, LONG_STATEMENT)
        client.spelled.clear()
        now = self.catalogue.of(state.values)
        # What was reset is what the client started with, which a server can not know.
        startup = visitor.startup
        assert startup is not None
        client.parameters = self.catalogue.of({**startup.values, **state.values})
        client.shuns_replicas = shuns_replicas(client.parameters)
        server.parameters = now
        if client.names and ANY_PARAMETER in client.names:
            pins = (*pins, "parameters")
        if pins:
            if server.parameters is not client.parameters:
                self.align(client, server)
                server.flush()
            self._pin(account, client, visitor, pins)
            return
        visitor.pins = ()
        server.release()

    def _pin(self, account: Account, client: Client, visitor: Visitor, reasons: tuple[str, ...]) -> None:
        for reason in reasons:
            if reason not in visitor.pins:
                account.pins[reason] += 1
        visitor.pins = reasons
        client.stay()

    # -- upcalls: ends -------------------------------------------------------------------------------------

    def violated(self, client: Client, text: str) -> None:
        self.dismiss(client, ProtocolViolation(text))

    def client_gone(self, client: Client) -> None:
        visitor = client.detail
        assert isinstance(visitor, Visitor)
        visitor.account.clients.discard(client)
        desk = _desk(visitor.account)
        desk.client_bytes_received += client.bytes_received
        desk.client_bytes_sent += client.bytes_sent
        if desk.mirror is not None:
            desk.mirror.gone(client)
        self.keys.revoke(visitor.key_pid)

    def dismiss(self, client: Client, fault: Fault) -> None:
        """Tell a client why it must go, and close."""
        self.count(client, fault)
        client.dismiss(messages.error_response(fault))

    def _refuse(self, client: Client, fault: Fault) -> None:
        """Tell a client that waits that it gets no server; a client at login must go."""
        if client.greeting:
            client.greeting = False
            self.count(client, fault)
            client.dismiss(as_fatal(messages.error_response(fault)[5:]))
            return
        self.count(client, fault)
        visitor = client.detail
        if isinstance(visitor, Visitor):
            visitor.refused_at, visitor.refusal = client.queries, str(fault)
        client.fail(messages.error_response(fault))

    # -- cancel --------------------------------------------------------------------------------------------

    def cancel_client(self, client: Client) -> Answer:
        """End what a client runs or waits for. While one cancel of it is on its way, no other is sent."""
        server = client.server
        if client.waiting:
            self._refuse(client, Canceled())
            return "dequeued"
        if server is None or not (client.awaiting or client.unsynced or client.copying):
            return "idle"
        if server.cancels == 0:
            self._cancel(server)
        return "sent"

    def _cancel(self, server: Server) -> None:
        server.cancels += 1
        self.effects.cancel_server(server)

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, account: Account) -> None:
        """Look at everything of an account that has a limit in time."""
        now = self.clock()
        desk = _desk(account)
        settings = account.settings
        if desk.waiting > 0:
            for target in (*desk.targets, *self.consistency.targets(account)):
                self._expire_waiters(account, target, now)
                self._serve(account, target)
        self._look_around(account, now)
        self.catalogs.tick(account)
        for server in list(account.servers):
            self._expire_server(account, server, now)
        if settings.idle_session_timeout_s > 0:
            for client in list(account.clients):
                self._expire_client(client, settings.idle_session_timeout_s, now)
        for pool in account.pools():
            source = pool.detail
            assert isinstance(source, Source)
            if not pool.may_open and now >= source.retry_at:
                pool.may_open = True
            # What only a session's own wish would use is not kept open for it.
            is_usual = any(target.role in (marks.PRIMARY, marks.REPLICA) for target in pool.targets)
            if pool.opened + pool.opening < settings.min_size and is_usual:
                self._grow(pool)

    def _look_around(self, account: Account, now: float) -> None:
        """Notice peers that went away without an event: soon where a server is held, in time elsewhere."""
        if now - account.looked_at >= LOOK_S:
            account.looked_at = now
            for server in list(account.servers):
                server.poke()
                if server.client is not None:
                    server.client.poke()
        if now - account.swept_at >= SWEEP_S:
            account.swept_at = now
            for client in list(account.clients):
                client.poke()

    def _expire_waiters(self, account: Account, target: Target, now: float) -> None:
        limit_s = account.settings.checkout_timeout_s
        if limit_s <= 0 or target.gate.paused:
            return
        while (waiter := target.head()) is not None:
            assert isinstance(waiter, Client)
            waited = now - max(waiter.wait_since, account.resumed_at)
            if waited < limit_s:
                return
            where = _where(target)
            detail = f"pool {account.settings.key}, waited {waited:.1f} s, {target.waiting} waiting"
            if not target.pools:
                self._refuse(waiter, NoServer(detail=f"{where}{self._why_none(account, target)}; {detail}"))
            elif all(pool.opened == 0 for pool in target.pools):
                errors = "; ".join(sorted({_error_of(pool) for pool in target.pools}))
                self._refuse(waiter, ServerUnreachable(detail=f"{where}{errors}; {detail}"))
            else:
                self._refuse(waiter, CheckoutTimeout(detail=where + detail))

    def _expire_server(self, account: Account, server: Server, now: float) -> None:
        settings = account.settings
        backend = server.detail
        assert isinstance(backend, Backend)
        client = server.client
        is_resting = client is None and not server.ledger
        if client is not None and not client.settling:
            self._expire_request(account, client, server, now)
        elif 0 < backend.warm_by < now and server.ledger and server.cancels == 0:
            # Each cancel ends one query; the link is used without what they would have done.
            self._cancel(server)
        elif _lingers(server, now):
            self._cancel(server)
            server.abandoned_at = 0.0
            server.is_retired = True
        if not server.is_retired and now > backend.expires_at:
            server.is_retired = True
        if is_resting and server.cancels == 0 and server.status == _IDLE:
            pool = server.pool
            idle_too_long = (
                settings.idle_timeout_s > 0
                and now - max(server.used_at, backend.opened_at) > settings.idle_timeout_s
                and pool.opened > settings.min_size
            )
            is_surplus = pool.opened > pool.limit
            if idle_too_long or is_surplus or server.is_retired or server.generation != pool.generation:
                self.retire(server)

    def _expire_request(self, account: Account, client: Client, server: Server, now: float) -> None:
        settings = account.settings
        is_running = client.awaiting or client.unsynced
        if client.pinned and client.status == _IDLE and not is_running:
            return
        if is_running and 0 < settings.query_timeout_s < now - client.request_at and server.cancels == 0:
            self._cancel(server)
        elif (
            client.status != _IDLE
            and not is_running
            and 0 < settings.idle_transaction_timeout_s < now - client.ready_at
        ):
            self.dismiss(client, IdleInTransaction())
        elif client.status != _IDLE and 0 < settings.transaction_timeout_s < now - client.coupled_at:
            self.dismiss(client, TransactionTimeout())

    def _expire_client(self, client: Client, idle_session_timeout_s: float, now: float) -> None:
        if (
            now - client.ready_at > idle_session_timeout_s
            and client.server is None
            and not client.waiting
            and not client.settling
        ):
            self.dismiss(client, IdleSession())


class _Prewarming:
    """Waits for one of the queries that warm a new link."""

    def __init__(self, control: Control, query: str, *, is_last: bool) -> None:
        self.control = control
        self.query = query
        self.is_last = is_last

        self.error: bytes | None = None

    def take(self, kind: int, body: bytes) -> None:
        if kind != _ROW:
            self.error = body

    def done(self, server: Server) -> None:
        if self.is_last:
            backend = server.detail
            assert isinstance(backend, Backend)
            backend.warm_by = 0.0
        if self.error is not None:
            reason = messages.fields_of_error(self.error).get("M", "")
            self.control.effects.prewarming_failed(server.pool, self.query, reason)


def _lingers(server: Server, now: float) -> bool:
    """Its client has left long ago, and it still runs what the client asked."""
    if server.client is not None or not server.ledger or server.cancels > 0:
        return False
    return 0.0 < server.abandoned_at < now - ABANDONED_S


def _account(client: Client) -> Account:
    visitor = client.detail
    assert isinstance(visitor, Visitor)
    return visitor.account


def _desk(account: Account) -> Desk:
    desk = account.desk
    assert desk is not None
    return desk


def _where(target: Target) -> str:
    """Which shard a detail is about, where there are several."""
    return f"shard {target.shard}: " if target.gate.shards > 1 else ""


def _error_of(pool: Pool) -> str:
    source = pool.detail
    assert isinstance(source, Source)
    return source.last_error or f"{source.key}: no link yet"
