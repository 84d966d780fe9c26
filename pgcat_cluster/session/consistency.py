"""Read your writes: which servers have replayed what a client wrote, and what becomes of a read while none has.

A client's position is where the primary had written when the client's last write was over, or what a token says.
A server may answer a read of the client once it is known to have replayed that much. What is known of a server
is its last word, by a probe or by a question over a link of the pool, and it counts for links that were open when
it was asked: a server that starts anew may have less than before, and has none of those links any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgcat_cluster.errors import ConsistencyTimeout, Unsupported
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.desk import Desk
from pgcat_cluster.relay.positions import Position
from pgcat_cluster.relay.server import Server
from pgcat_cluster.relay.stock import Pool, Target
from pgcat_cluster.session.account import Account, ShardPlace, account_of, desk_of, source_of
from pgcat_cluster.session.positions import (
    NOWHERE,
    POSITION_QUERY,
    Told,
    later,
    make_token,
    read_answer,
    read_token,
)
from pgcat_cluster.session.questions import Question
from pgcat_cluster.session.refusals import refuse
from pgcat_cluster.topology.model import ServerKey

# Between two questions to a server that has not come far enough.
_PAUSE_MIN_S = 0.001
_PAUSE_MAX_S = 0.025
_IDLE = 0x49


class Consistency:
    """One for all accounts of a node; those of pools without `consistency` it leaves alone."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], None],
        grow: Callable[[Pool], None],
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._grow = grow

    def removed(self, pool: Pool) -> None:
        """A server has left; who waited for it looks elsewhere."""
        if pool.alone is not None:
            _send_away(pool.alone)

    # -- what is known of servers --------------------------------------------------------------------------

    def place(self, account: Account, shard: ShardPlace) -> None:
        """Other servers of a shard serve, or in another role; or the settings changed."""
        desk = desk_of(account)
        for pool in shard.pools.values():
            source = source_of(pool)
            if source.led != pool.leads:
                # A place in the log that was written is none that was replayed, nor the reverse.
                source.led = pool.leads
                pool.replayed = 0
            self._place_alone(desk, shard, pool)
        self._review(account)

    def _place_alone(self, desk: Desk, shard: ShardPlace, pool: Pool) -> None:
        alone = pool.alone
        if alone is None:
            if not desk.keeps_positions:
                return
            alone = pool.alone = Target(desk, marks.STANDBY, shard.number)
        serves = desk.keeps_positions and any(target is not alone for target in pool.targets)
        if serves != bool(alone.pools):
            alone.serve_by([pool] if serves else [])
        if not serves:
            _send_away(alone)

    def targets(self, account: Account) -> Iterator[Target]:
        """Where clients wait for a link of one server, since that one has what they wrote."""
        for pool in account.pools():
            if pool.alone is not None:
                yield pool.alone

    def linked(self, pool: Pool) -> None:
        """A link is new: what was known before says nothing about it."""
        if not _keeps(pool):
            return
        source = source_of(pool)
        source.linked_at = self._clock()
        if not pool.leads:
            pool.replayed = 0
        pool.asks = True

    def observe(self, pool: Pool, told: Told, asked_at: float) -> None:
        """A probe has asked a server, not before `asked_at`."""
        if not _keeps(pool):
            return
        source_of(pool).started_at = told.started_at
        if told.in_recovery != pool.leads:
            pool.timeline = told.timeline
            self._note(pool, told.lsn, asked_at)

    def _note(self, pool: Pool, lsn: int, asked_at: float) -> None:
        source = source_of(pool)
        if pool.leads or asked_at >= source.linked_at:
            pool.replayed = lsn
        if desk_of(source.account).behind.waiting:
            self._review(source.account)

    def ask(self, pool: Pool, server: Server) -> None:
        """A link is free for a question."""
        source = source_of(pool)
        asked_at = source.asked_at = self._clock()
        source.asked = server
        server.abandoned_at = asked_at

        def answered(server: Server, rows: list[list[bytes | None]], error: bytes | None) -> None:
            source.asked = None
            server.abandoned_at = 0.0
            told = read_answer(rows) if error is None else None
            if told is None or told.in_recovery == pool.leads:
                return
            if pool.leads:
                pool.timeline = told.timeline
            elif told.started_at != source.started_at:
                # Which timeline it follows a probe must tell first.
                return
            self._note(pool, told.lsn, asked_at)

        server.order(POSITION_QUERY, Question(answered))

    # -- writes --------------------------------------------------------------------------------------------

    def wrote(
        self, client: Client, server: Server, rows: list[list[bytes | None]], error: bytes | None
    ) -> None:
        """A transaction is over that may have written, and its server was asked where the log ends."""
        pool = server.pool
        told = read_answer(rows) if error is None else None
        if told is not None and told.in_recovery:
            return
        number = source_of(pool).shard.number
        before = client.positions.get(number)
        if told is None:
            client.positions[number] = Position(pool.timeline, NOWHERE.lsn)
            return
        if pool.leads:
            pool.timeline, pool.replayed = told.timeline, told.lsn
        now = Position(told.timeline, told.lsn)
        is_told = before is not None and before.lsn != NOWHERE.lsn
        client.positions[number] = later(before, now) if is_told else now

    # -- reads ---------------------------------------------------------------------------------------------

    def follow(self, client: Client) -> None:
        """No server of its target is known to have what this client must see."""
        account = account_of(client)
        self._judge(account, client)
        if client.waiting:
            self._look(account, client)

    def _review(self, account: Account) -> None:
        behind = desk_of(account).behind
        for ticket, waiter in list(behind.waiters):
            if waiter.waiting and waiter.ticket == ticket and not waiter.closed:
                assert isinstance(waiter, Client)
                self._judge(account, waiter)
                if waiter.target is behind:
                    self._look(account, waiter)

    def _judge(self, account: Account, client: Client) -> None:
        """Let a read go on, where it may, or wait for longer."""
        desk, shard = desk_of(account), account.shards[client.shard]
        position = client.positions[client.shard]
        primary = _leading(shard)
        if primary is not None and primary.replayed and primary.timeline > position.timeline:
            # All that is left of an earlier timeline lies before what the primary of the next one has written.
            position = client.positions[client.shard] = Position(primary.timeline, primary.replayed)
        waited_s = self._clock() - client.wait_since
        if _target(desk, client).narrow(position) is not None:
            _count(account, "current", waited_s)
            self._go(desk, client)
            return
        wait_s = account.settings.consistency_wait_s
        if position.lsn < NOWHERE.lsn and waited_s < wait_s:
            return
        if not _may_use_primary(account, shard, client):
            _count(account, "failed", waited_s)
            detail = f"waited {waited_s:.3f} s for {position!r}; {_standing(_target(desk, client))}"
            refuse(client, ConsistencyTimeout(detail=detail, hint=_HINT))
        elif primary is not None and primary.timeline < position.timeline:
            _count(account, "failed", waited_s)
            detail = f"the primary is on timeline {primary.timeline}, {position!r} was asked for"
            refuse(client, ConsistencyTimeout(detail=detail))
        else:
            _count(account, "primary", waited_s)
            client.primary_only = client.fell_behind = True
            self._go(desk, client)

    def _go(self, desk: Desk, client: Client) -> None:
        desk.behind.leave(client)
        client.turned_away()

    def _look(self, account: Account, client: Client) -> None:
        """Ask whoever may have come as far as this client must see, and look again in a moment."""
        position = client.positions[client.shard]
        primary = _leading(account.shards[client.shard])
        for pool in _target(desk_of(account), client).pools:
            if pool is not primary:
                self._look_at(pool)
        if primary is not None and primary.timeline < position.timeline:
            self._look_at(primary)
        if account.is_followed:
            return
        account.is_followed = True
        waited_s = self._clock() - client.wait_since
        left_s = account.settings.consistency_wait_s - waited_s
        pause_s = max(min(waited_s / 4, _PAUSE_MAX_S, left_s), _PAUSE_MIN_S)
        self._call_later(pause_s, lambda: self._look_again(account))

    def _look_again(self, account: Account) -> None:
        account.is_followed = False
        self._review(account)

    def _look_at(self, pool: Pool) -> None:
        source = source_of(pool)
        if source.asked is not None and not source.asked.closed:
            return
        if self._clock() - source.asked_at < _PAUSE_MIN_S and pool.replayed:
            return
        server = None if pool.gate.paused else pool.take()
        if server is not None:
            pool.gate.ask(pool, server)
            return
        pool.asks = True
        if pool.opened == 0:
            self._grow(pool)


def _count(account: Account, outcome: str, waited_s: float) -> None:
    account.behind[outcome] += 1
    account.behind_s += waited_s


_HINT = "Raise consistency_wait, or let reads go to the primary (reads_on_primary)."


def token_of(client: Client) -> str:
    """What `SHOW pgcat.consistency_token` tells. Raises Unsupported."""
    account = _following(client)
    if client.server is not None and client.status == _IDLE and client.may_have_written():
        raise Unsupported("the server of this session can not be asked now where its last write stands")
    if any(position.lsn == NOWHERE.lsn for position in client.positions.values()):
        raise Unsupported("nobody could tell where the last write of this session stands")
    return make_token(client.positions, _clusters(account))


def wait_for(client: Client, token: str) -> None:
    """What `SET pgcat.wait_for` does. Raises InvalidParameter, Unsupported."""
    account = _following(client)
    for number, position in read_token(token, _clusters(account)).items():
        client.positions[number] = later(client.positions.get(number), position)


def why_behind(client: Client, shard: int, server: ServerKey) -> str:
    """Why a server does not serve this client's reads of a shard yet; empty if it does."""
    position = client.positions.get(shard)
    pool = account_of(client).shards[shard].pools.get(server)
    if position is None or pool is None or pool.has_replayed(position):
        return ""
    if position.lsn == NOWHERE.lsn:
        return "nobody could tell where the last write of this session stands"
    return f"has not replayed {position!r}"


def _following(client: Client) -> Account:
    account = account_of(client)
    if not desk_of(account).keeps_positions:
        raise Unsupported(
            "this pool keeps no positions", hint='They are kept where the pool says consistency = "session".'
        )
    return account


def _clusters(account: Account) -> list[str]:
    return [shard.cluster for shard in account.settings.shards]


def _may_use_primary(account: Account, shard: ShardPlace, client: Client) -> bool:
    if client.role_wish >= 0 or client.role == marks.STANDBY or shard.on_all_bad == "fail":
        return False
    return account.settings.reads_on_primary != "never"


def _standing(target: Target) -> str:
    """How far each server of a target is known to be."""
    return (
        "; ".join(f"{pool.key}: {Position(pool.timeline, pool.replayed)!r}" for pool in target.pools)
        or "no replica is known"
    )


def _send_away(target: Target) -> None:
    while (waiter := target.head()) is not None:
        target.leave(waiter)
        waiter.turned_away()


def _leading(shard: ShardPlace) -> Pool | None:
    key = shard.view.primary
    return None if key is None else shard.pools.get(key)


def _target(desk: Desk, client: Client) -> Target:
    target = desk.targets[client.shard * marks.ROLES + client.role]
    assert isinstance(target, Target)
    return target


def _keeps(pool: Pool) -> bool:
    return bool(pool.gate.keeps_positions)
