"""What is known about one server's case, and each decision about it as a transaction that carries its proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from msgspec import Struct, structs

from pgcat_cluster.agreement import jury
from pgcat_cluster.agreement.coordinator import holds_term
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ban,
    Strikes,
    Timer,
    Undecodable,
    Verdict,
    decode,
    encode,
)
from pgcat_cluster.agreement.jury import FLEET, Jury, Voter
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.membership import live_of
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.overrides import Overrides, removes
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Outcome,
    Put,
    Range,
    Row,
    Transaction,
    absent,
    newest,
    nothing_newer,
    unchanged,
)
from pgcat_cluster.topology.model import Cluster
from pgcat_cluster.topology.settings import Fleet

# In place of leases that are granted only when the transaction is about to be committed.
FIRST_LEASE = -1
SECOND_LEASE = -2

_DEPARTED_MAX = 50  # in one transaction; the rest goes with the next


class Electorate(Struct, frozen=True):
    """Who is alive: `rows` are the keys by node id, `newest` the newest change among them."""

    newest: int
    rows: Mapping[str, Row]
    serving: tuple[Voter, ...]
    zones: frozenset[str]


def electorate(rows: Sequence[Row], keys: Keys) -> Electorate:
    """Read the rows below `live/`. Needed anew only when one of them changed."""
    found: dict[str, Row] = {}
    serving = []
    zones = set()
    for row in rows:
        node = row.key.removeprefix(keys.live_prefix)
        found[node] = row
        live = live_of(row.value)
        if live is None:
            continue
        zones.add(live.zone)
        if live.state == "serving":
            serving.append(Voter(node=node, name=live.name, host=live.host, zone=live.zone))
    return Electorate(newest(rows), found, tuple(serving), frozenset(zones))


class Said(Struct, frozen=True):
    """A verdict and the row it stands in."""

    row: Row
    verdict: Verdict


class Held(Struct, frozen=True):
    """A ban and the row it stands in."""

    row: Row
    server: str
    ban: Ban


def bans_of(rows: Iterable[Row], keys: Keys) -> tuple[Held, ...]:
    """Read rows below `decided/ban/`."""
    found = []
    for row in rows:
        try:
            ban = decode(row.key, row.value, Ban)
        except Undecodable:
            continue
        if (server := _server_of(keys, row.key)) is not None:
            found.append(Held(row, server, ban))
    return tuple(found)


@lru_cache(maxsize=1 << 10)
def _server_of(keys: Keys, key: str) -> str | None:
    named = keys.named(key)
    return None if named is None else named.names[1]


def _verdicts(rows: Iterable[Row]) -> dict[str, Said]:
    found = {}
    for row in rows:
        try:
            found[row.key.rpartition("/")[2]] = Said(row, decode(row.key, row.value, Verdict))
        except Undecodable:
            continue
    return found


class Proposal(Struct, frozen=True, kw_only=True):
    """A decision that is right by what is known. `build` takes an id nobody used and the author.

    It answers the transaction and how long the leases are that stand in it as -1, -2.
    """

    server: str
    what: str
    is_patient: bool = False
    build: Callable[[str, str], tuple[Transaction, tuple[float, ...]]]


class Court(Struct, frozen=True, kw_only=True):
    """What all servers of a cluster are judged by. `primary_reads`: reads may use the primary."""

    keys: Keys
    cluster: Cluster
    fleet: Fleet
    generation: int
    primary: str | None
    primary_reads: bool
    memory: Memory
    overrides: Overrides

    def case(self, server: str, bans: tuple[Held, ...], electorate: Electorate) -> Case:
        """A server's case by what this node remembers."""
        verdicts = self.memory.under(self.keys.server_verdicts(self.cluster.name, server))
        newest_ban = self.memory.newest(self.keys.cluster_bans(self.cluster.name))
        return self._case(server, bans, newest_ban, verdicts, electorate)

    def case_of_truth(self, server: str, outcome: Outcome) -> Case:
        """A server's case by what a refused transaction read."""
        bans, verdicts, live = (answer.rows if answer is not None else () for answer in outcome.answers)
        return self._case(
            server, bans_of(bans, self.keys), newest(bans), verdicts, electorate(live, self.keys)
        )

    def _case(
        self,
        server: str,
        bans: tuple[Held, ...],
        newest_ban: int,
        verdicts: Sequence[Row],
        electorate: Electorate,
    ) -> Case:
        return Case(
            court=self,
            server=server,
            bans=bans,
            newest_ban=newest_ban,
            said=_verdicts(verdicts),
            electorate=electorate,
            jury=jury.seat(f"{self.cluster.name}/{server}", electorate.serving, self.fleet.jury),
        )


class Case(Struct, frozen=True, kw_only=True):
    """All that is known about one server: the bans of its whole cluster, its verdicts by node id, its jury."""

    court: Court
    server: str
    bans: tuple[Held, ...]
    newest_ban: int
    said: Mapping[str, Said]
    electorate: Electorate
    jury: Jury

    @property
    def held(self) -> dict[str, Held]:
        """The bans of this server, by scope."""
        return {one.ban.scope: one for one in self.bans if one.server == self.server}

    def voices(self, word: str) -> dict[str, Said]:
        """The jurors that say `word`. What was said under another generation was said of another server."""
        return {
            juror.node: said
            for juror in self.jury.jurors
            if (said := self.said.get(juror.node)) is not None
            and said.verdict.v == word
            and said.verdict.gen == self.court.generation
        }

    def proposals(self) -> list[Proposal]:
        """Every decision that is right now, by the topology in force and no other."""
        if not self._is_current():
            return []
        held = self.held
        bad = self.voices("bad")
        found = []
        if bad and self._may_ban():
            for scope in self._met(bad):
                before = held.get(scope)
                if before is None and not self._leaves_enough(scope, bad):
                    continue
                found.append(self._ban(scope, before, bad))
        met = {proposal.what for proposal in found}
        good = self.voices("ok")
        for scope, one in held.items():
            if one.ban.state == "banned":
                is_over = self.is_over(f"ban-{one.ban.id}") and self.jury.clears(scope, good.keys())
                if is_over:
                    found.append(self._probation(one, good))
            elif self.is_over(f"ramp-{one.ban.id}") and f"ban {scope}" not in met:
                found.append(self._lift(one))
        return found

    def _may_ban(self) -> bool:
        """Not against an operator's word."""
        said = self.court.overrides
        return not said.is_frozen and (self.court.cluster.name, self.server) not in said.servers

    def _is_current(self) -> bool:
        """Whether this node goes by what is accepted: what jurors say under another generation is no proof."""
        court = self.court
        row = court.memory.row(court.keys.accepted)
        try:
            return row is not None and decode(row.key, row.value, Accepted).gen == court.generation
        except Undecodable:
            return False

    def _met(self, bad: Mapping[str, Said]) -> list[str]:
        """The scopes whose rule is met and that are not banned already."""
        banned = {scope for scope, one in self.held.items() if one.ban.state == "banned"}
        if FLEET in banned:
            return []
        if self.jury.bans_everywhere(bad.keys()):
            return [FLEET]
        scopes = [jury.zone_scope(zone) for zone in self.jury.zones if self.jury.bans_in(zone, bad.keys())]
        return [scope for scope in scopes if scope not in banned]

    def _leaves_enough(self, scope: str, bad: Mapping[str, Said]) -> bool:
        """Whether in each zone it reaches enough servers stay; or there is nothing left to keep."""
        if len(bad) == len(self.jury.jurors) and all(
            said.verdict.why == ("refused",) for said in bad.values()
        ):
            return True
        court = self.court
        zones = set(self.electorate.zones)
        zones |= {zone for one in self.bans if (zone := jury.zone_of(one.ban.scope)) is not None}
        for zone in zones:
            if not jury.reaches(scope, zone):
                continue
            out = {one.server for one in self.bans if jury.reaches(one.ban.scope, zone)} | {self.server}
            healthy = [
                name
                for name in court.cluster.servers
                if name not in out
                and (court.primary_reads or name != court.primary)
                and not removes(court.overrides.servers.get((court.cluster.name, name)))
            ]
            if len(healthy) < court.cluster.min_healthy:
                return False
        return True

    def is_over(self, timer: str) -> bool:
        """Whether the time is up that a key on a lease of its own measures."""
        return self.court.memory.row(self.court.keys.timer(timer)) is None

    # -- transactions

    def _ban(self, scope: str, before: Held | None, bad: Mapping[str, Said]) -> Proposal:
        court, keys = self.court, self.court.keys
        cluster, server = court.cluster.name, self.server
        settings = court.fleet.bans
        strikes_key = keys.strikes(cluster, server)
        earlier = court.memory.row(strikes_key)
        known = decode(strikes_key, earlier.value, Strikes).n if earlier is not None else 0
        strikes = max(known, before.ban.strikes if before is not None else 0) + 1
        min_s = min(settings.min_s * 2.0 ** min(strikes - 1, 30), settings.max_s)

        def build(name: str, author: str) -> tuple[Transaction, tuple[float, ...]]:
            ban = Ban(
                id=name,
                state="banned",
                scope=scope,
                why=tuple(sorted({why for said in bad.values() for why in said.verdict.why})),
                votes=tuple(sorted(bad)),
                need=self.jury.need,
                jury=len(self.jury.jurors),
                zones=len(self.jury.zones),
                strikes=strikes,
                by=author,
            )
            purpose = Timer(purpose=f"ban/{cluster}/{server}/{scope}")
            transaction = Transaction(
                compares=(
                    nothing_newer(keys.cluster_bans(cluster), self.newest_ban),
                    *([unchanged(before.row)] if before is not None else []),
                    *(unchanged(said.row) for said in bad.values()),
                    *self._same_jury(),
                    nothing_newer(
                        keys.cluster_overrides(cluster), court.memory.newest(keys.cluster_overrides(cluster))
                    ),
                    absent(keys.freeze),
                ),
                then=(
                    Put(key=keys.ban(cluster, server, scope), value=encode(ban)),
                    Put(key=keys.timer(f"ban-{name}"), value=encode(purpose), lease=FIRST_LEASE),
                    Put(key=strikes_key, value=encode(Strikes(n=strikes)), lease=SECOND_LEASE),
                ),
                otherwise=self._truth(),
            )
            return transaction, (min_s, min_s + settings.strike_decay_s)

        return Proposal(server=server, what=f"ban {scope}", is_patient=scope != FLEET, build=build)

    def _probation(self, one: Held, good: Mapping[str, Said]) -> Proposal:
        court, keys = self.court, self.court.keys
        ramp_s = court.fleet.bans.ramp_s

        def build(_name: str, _author: str) -> tuple[Transaction, tuple[float, ...]]:
            ban = one.ban
            timer = Put(
                key=keys.timer(f"ramp-{ban.id}"),
                value=encode(Timer(purpose=f"ban/{court.cluster.name}/{self.server}/{ban.scope}")),
                lease=FIRST_LEASE,
            )
            transaction = Transaction(
                compares=(
                    unchanged(one.row),
                    absent(keys.timer(f"ban-{ban.id}")),
                    *(unchanged(said.row) for said in good.values()),
                    *self._same_jury(),
                ),
                then=(
                    Put(key=one.row.key, value=encode(structs.replace(ban, state="probation"))),
                    *([timer] if ramp_s else []),
                ),
                otherwise=self._truth(),
            )
            return transaction, (ramp_s,) if ramp_s else ()

        return Proposal(server=self.server, what=f"probation {one.ban.scope}", build=build)

    def _lift(self, one: Held) -> Proposal:
        keys = self.court.keys

        def build(_name: str, _author: str) -> tuple[Transaction, tuple[float, ...]]:
            transaction = Transaction(
                compares=(unchanged(one.row), absent(keys.timer(f"ramp-{one.ban.id}"))),
                then=(Delete(key=one.row.key),),
                otherwise=self._truth(),
            )
            return transaction, ()

        return Proposal(server=self.server, what=f"lift {one.ban.scope}", build=build)

    def _same_jury(self) -> list[Compare]:
        """Nobody of the jury left, nobody joined or began to drain, and the topology is the same."""
        keys = self.court.keys
        accepted = self.court.memory.row(keys.accepted)
        return [
            *(unchanged(self.electorate.rows[juror.node]) for juror in self.jury.jurors),
            nothing_newer(keys.live_prefix, self.electorate.newest),
            *([unchanged(accepted)] if accepted is not None else []),
        ]

    def _truth(self) -> tuple[Range, ...]:
        keys, cluster = self.court.keys, self.court.cluster.name
        return (
            Range(key=keys.cluster_bans(cluster), prefix=True),
            Range(key=keys.server_verdicts(cluster, self.server), prefix=True),
            Range(key=keys.live_prefix, prefix=True),
        )


def departed(
    memory: Memory, keys: Keys, servers: Mapping[str, Iterable[str]], term: int
) -> Transaction | None:
    """The coordinator's clean-up: bans of servers that are no longer in the accepted topology.

    `servers` are the accepted ones by cluster, `term` is this node's own.
    """
    known = {(cluster, server) for cluster, names in servers.items() for server in names}
    accepted = memory.row(keys.accepted)
    gone = [
        row
        for row in memory.under(keys.ban_prefix)
        if (named := keys.named(row.key)) is not None and named.names[:2] not in known
    ][:_DEPARTED_MAX]
    if not gone or accepted is None:
        return None
    return Transaction(
        compares=(holds_term(keys, term), unchanged(accepted), *map(unchanged, gone)),
        then=tuple(Delete(key=row.key) for row in gone),
    )


def unban(memory: Memory, keys: Keys, cluster: str, server: str) -> Transaction | None:
    """An operator clears all bans of a server and forgives its strikes; None: there are none."""
    bans = memory.under(keys.server_bans(cluster, server))
    strikes = memory.row(keys.strikes(cluster, server))
    rows = [*bans, *([strikes] if strikes is not None else [])]
    if not rows:
        return None
    return Transaction(
        compares=tuple(unchanged(row) for row in bans), then=tuple(Delete(key=row.key) for row in rows)
    )
