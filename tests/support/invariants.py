"""What the history of a fleet's store must show by itself: the invariants of its design, checked at every revision.

The numbers are those of the design; what has none there is named in words. The simulation and the checker of recorded
histories both judge by this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pgcat_cluster.agreement import jury, overrides
from pgcat_cluster.agreement.documents import Accepted, Ban, Coord, Live, Strikes, Verdict, decode
from pgcat_cluster.agreement.jury import Jury, Voter
from pgcat_cluster.agreement.keys import Keys, Kind, Named, name_of
from pgcat_cluster.agreement.transactions import Batch, Event, Row
from pgcat_cluster.topology.model import Topology

# What the coordinator alone writes, beside what is accepted.
COORDINATED = (
    Kind.HISTORY,
    Kind.DOC,
    Kind.SCHEMA,
    Kind.STATUS_CONFIG,
    Kind.STATUS_COMMAND,
    Kind.STATUS_ACTIVATE,
)


class Violated(AssertionError):
    """An invariant does not hold; the text begins with its name."""


class Invariants:
    """Keeps the store's state as its history tells it, and judges every change.

    Owned by who knows the accepted documents: `topology` gives their meaning. `before` is the state that a batch
    found, `rows` the one it left.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.rows: dict[str, Row] = {}
        self.before: dict[str, Row] = {}
        self.revision = 0
        self.bans_put = 0
        self.bans_lifted = 0
        # Servers whose strikes an operator forgave, until they are banned again.
        self._forgiven: set[tuple[str, ...]] = set()
        # What operators are known to delete, as they announce it.
        self.overrides_deleted = 0

    def topology(self, accepted: Accepted) -> Topology:
        """What the accepted documents mean."""
        raise NotImplementedError

    def fail(self, invariant: str, text: str) -> None:
        raise Violated(f"{invariant}: {text}, at revision {self.revision}")

    def batch(self, batch: Batch) -> None:
        """One revision of the store."""
        self.before = dict(self.rows)
        for event in batch.events:
            if event.row is None:
                self.rows.pop(event.key, None)
            else:
                self.rows[event.key] = event.row
        self.revision = batch.revision
        for event in batch.events:
            if (named := self.keys.named(event.key)) is not None:
                self.changed(named, event)

    def changed(self, named: Named, event: Event) -> None:
        """One key that changed."""
        row = event.row
        match named.kind:
            case Kind.BAN if row is None:
                self.bans_lifted += 1
                self._lifted(named.names, self.before.get(event.key))
            case Kind.BAN:
                self._ban(named.names, row)
            case Kind.ACCEPTED if row is not None:
                self._accept(row)
            case Kind.COORD if row is not None:
                self._elected(row)
            case Kind.VERDICT if row is not None:
                self._spoken(row, named.names[-1])
            case Kind.LIVE if row is not None:
                self._alone(named.names[0])
            case kind if kind in COORDINATED and row is not None and self.coordinator() is None:
                self.fail("I14", f"{row.key} was written, and nobody holds the office")
        if row is None and event.key.startswith(self.keys.override):
            self.overrides_deleted -= 1
            if self.overrides_deleted < 0:
                self.fail("I6", f"nobody deleted {event.key}")

    # -- configuration

    def _accept(self, row: Row) -> None:
        accepted = decode(row.key, row.value, Accepted)
        coord = self.rows.get(self.keys.coord)
        if coord is None or coord.create_revision != accepted.term:
            self.fail("I14", f"accepted was written in term {accepted.term}, but {coord} holds the office")
        was = self.before.get(row.key)
        if was is not None:
            earlier = decode(was.key, was.value, Accepted)
            if (accepted.gen, accepted.docs) != (earlier.gen, earlier.docs) and accepted.gen <= earlier.gen:
                self.fail("I11", f"generation {accepted.gen} was accepted after {earlier.gen}")

    def accepted(self) -> Accepted:
        row = self.rows[self.keys.accepted]
        return decode(row.key, row.value, Accepted)

    # -- who is there

    def coordinator(self) -> str | None:
        row = self.rows.get(self.keys.coord)
        return None if row is None else decode(row.key, row.value, Coord).node

    def _elected(self, row: Row) -> None:
        node = decode(row.key, row.value, Coord).node
        self._under_lease(row, node)
        if row.create_revision != self.revision:
            self.fail("I14", f"{node} took an office that was held")

    def _spoken(self, row: Row, node: str) -> None:
        self._under_lease(row, node)
        verdict = decode(row.key, row.value, Verdict)
        live = self.rows.get(self.keys.live(node))
        if live is None or decode(live.key, live.value, Live).zone != verdict.zone:
            self.fail("verdicts", f"{row.key} speaks for zone {verdict.zone}, and not as {node}")
        if verdict.v == "bad" and not verdict.why:
            self.fail("verdicts", f"{row.key} says bad without a reason")

    def _under_lease(self, row: Row, node: str) -> None:
        live = self.rows.get(self.keys.live(node))
        if live is None or not row.lease or row.lease != live.lease:
            self.fail("leases", f"{row.key} stands under lease {row.lease:x}, {node} under another one")

    def _alone(self, node: str) -> None:
        lives = [key for key in self.rows if key.startswith(self.keys.lives_of(name_of(node)))]
        if len(lives) > 1:
            self.fail("names", f"{lives} are there at the same time")

    def alive(self) -> list[Voter]:
        """The nodes that serve."""
        found = []
        for key, row in self.rows.items():
            if key.startswith(self.keys.live_prefix):
                live = decode(key, row.value, Live)
                node = key.removeprefix(self.keys.live_prefix)
                if live.state == "serving":
                    found.append(Voter(node=node, name=live.name, host=live.host, zone=live.zone))
        return found

    # -- bans

    def _ban(self, names: tuple[str, ...], row: Row) -> None:
        cluster, server, scope = names
        ban = decode(row.key, row.value, Ban)
        accepted = self.accepted()
        topology = self.topology(accepted)
        members, hosts = self._jury(cluster, server, topology.fleet.jury)
        said = self._said(cluster, server, members, accepted.gen)
        word = "bad" if ban.state == "banned" else "ok"
        voices = {node for node, verdict in said.items() if verdict.v == word}
        was_row = self.before.get(row.key)
        was = None if was_row is None else decode(was_row.key, was_row.value, Ban)
        zone = jury.zone_of(scope)
        if ban.state == "probation":
            of_scope = [juror for juror in members.jurors if zone in (None, juror.zone)]
            if 2 * len(voices & {juror.node for juror in of_scope}) <= len(of_scope):
                self.fail("I1", f"{cluster}/{server} is on probation by {len(voices)} of {len(of_scope)}")
            if was is None or was.id != ban.id or was.state != "banned":
                self.fail("life of a ban", f"{row.key} is on probation, but was {was}")
            elif self.keys.timer(f"ban-{ban.id}") in self.before:
                self.fail("life of a ban", f"{row.key} is on probation before its time is up")
            return
        self.bans_put += 1
        # Those whose verdicts the transaction compared must be enough by themselves.
        votes = set(ban.votes)
        if not ban.why or not votes or not votes <= voices:
            self.fail("I1", f"{row.key} is banned for {ban.why} by {ban.votes}, and {sorted(voices)} say so")
        if not self._holds(members, zone, votes, len(hosts) if zone is None else 0):
            self.fail(
                "I1",
                f"{cluster}/{server} is banned for {scope} by {sorted(votes)} of "
                f"{[(one.node, one.zone) for one in members.jurors]}, of whom {members.need} are needed",
            )
        if zone is None and len(hosts) >= 3 and len({hosts[node] for node in votes}) < 2:
            self.fail("I3", f"{cluster}/{server} is banned by one host: {votes}")
        if self.keys.freeze in self.rows or self.keys.server_override(cluster, server) in self.rows:
            self.fail("I6", f"{row.key} is banned against an operator's word")
        self._begins(names, ban, was)
        if was is None:
            is_unanimous = len(votes) == len(members.jurors) and all(
                said[node].why == ("refused",) for node in votes
            )
            self._enough(cluster, zone, is_unanimous, topology)

    def _begins(self, names: tuple[str, ...], ban: Ban, was: Ban | None) -> None:
        """A ban is a new one, and what measures its time begins with it."""
        cluster, server, _scope = names
        if was is not None and (was.state != "probation" or was.strikes >= ban.strikes or was.id == ban.id):
            self.fail("life of a ban", f"{ban} follows {was}")
        timer = self.rows.get(self.keys.timer(f"ban-{ban.id}"))
        if timer is None or not timer.lease or timer.create_revision != self.revision:
            self.fail("life of a ban", f"{cluster}/{server} is banned, and nothing measures for how long")
        strikes = self.rows.get(self.keys.strikes(cluster, server))
        if strikes is None or not strikes.lease or decode("", strikes.value, Strikes).n != ban.strikes:
            self.fail("life of a ban", f"{cluster}/{server} has strikes {strikes}, and its ban {ban.strikes}")
        if (cluster, server) in self._forgiven and ban.strikes > 1:
            self.fail(
                "life of a ban", f"{cluster}/{server} was forgiven, and its ban has strikes {ban.strikes}"
            )
        self._forgiven.discard((cluster, server))

    def _lifted(self, names: tuple[str, ...], was_row: Row | None) -> None:
        """By time, by an operator who forgives its strikes as well, or with its server."""
        if was_row is None:
            return
        cluster, server, _scope = names
        ban = decode(was_row.key, was_row.value, Ban)
        strikes = self.keys.strikes(cluster, server)
        if strikes in self.before and strikes not in self.rows:
            self._forgiven.add((cluster, server))
            return
        clusters = self.topology(self.accepted()).clusters
        if cluster not in clusters or server not in clusters[cluster].servers:
            return
        if ban.state == "banned" or self.keys.timer(f"ramp-{ban.id}") in self.before:
            self.fail("life of a ban", f"the ban of {cluster}/{server} is lifted too early: {ban}")

    @staticmethod
    def _holds(members: Jury, zone: str | None, bad: set[str], voters: int) -> bool:
        """The rules of a ban once more, in other words than the code's."""
        by_zone: defaultdict[str, list[bool]] = defaultdict(list)
        for juror in members.jurors:
            by_zone[juror.zone].append(juror.node in bad)
        agreeing = {name: sum(votes) > len(votes) / 2 for name, votes in by_zone.items()}
        if zone is not None:
            return agreeing.get(zone, False)
        size = len(members.jurors)
        count = sum(juror.node in bad for juror in members.jurors)
        enough = count > size / 2 if voters <= size else 3 * count >= 2 * size
        return enough and (len(by_zone) == 1 or sum(agreeing.values()) > len(by_zone) / 2)

    def _enough(self, cluster: str, scope_zone: str | None, is_unanimous: bool, topology: Topology) -> None:
        """I2, for the zones that have nodes now."""
        known = topology.clusters[cluster]
        said = self.said_by_operators()
        bans = []
        for key, row in self.rows.items():
            named = self.keys.named(key)
            if named is not None and named.kind is Kind.BAN and named.names[0] == cluster:
                bans.append((named.names[1], decode(key, row.value, Ban).scope))
        zones = {voter.zone for voter in self.alive()} if scope_zone is None else {scope_zone}
        for zone in zones:
            out = {server for server, scope in bans if jury.reaches(scope, zone)}
            healthy = [
                server
                for server in known.servers
                if server not in out and not overrides.removes(said.servers.get((cluster, server)))
            ]
            if len(healthy) < known.min_healthy and not is_unanimous:
                self.fail("I2", f"zone {zone} is left with {healthy} of {cluster}")

    def said_by_operators(self) -> overrides.Overrides:
        rows = [row for key, row in self.rows.items() if key.startswith(self.keys.override)]
        return overrides.read(rows, self.keys, servers=(), pools=())

    def _jury(self, cluster: str, server: str, size: int) -> tuple[Jury, Mapping[str, str]]:
        alive = self.alive()
        hosts = {voter.node: voter.host for voter in jury.voters(f"{cluster}/{server}", alive)}
        return jury.seat(f"{cluster}/{server}", alive, size), hosts

    def _said(self, cluster: str, server: str, members: Jury, generation: int) -> dict[str, Verdict]:
        """What the jurors say now, each under the lease it lives by."""
        found = {}
        for juror in members.jurors:
            row = self.rows.get(self.keys.verdict(cluster, server, juror.node))
            live = self.rows.get(self.keys.live(juror.node))
            if row is not None and live is not None and row.lease == live.lease:
                verdict = decode(row.key, row.value, Verdict)
                if verdict.gen == generation:
                    found[juror.node] = verdict
        return found
