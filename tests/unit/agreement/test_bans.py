"""From opinions to bans and back: what nodes publish, propose and prove, on the model store."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from msgspec import structs

from pgcat_cluster.agreement import membership, overrides
from pgcat_cluster.agreement.bans import (
    Belief,
    Bench,
    Decide,
    Nudge,
    ProbeNow,
    Publish,
    Stance,
    Withdraw,
    with_leases,
)
from pgcat_cluster.agreement.cases import Court, departed, electorate, unban
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ban,
    Coord,
    Live,
    Strikes,
    Timer,
    Verdict,
    decode,
    encode,
)
from pgcat_cluster.agreement.effects import Effect
from pgcat_cluster.agreement.jury import FLEET, seat
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Field,
    Put,
    Range,
    Transaction,
    absent,
    nothing_newer,
    unchanged,
)
from pgcat_cluster.fleet.model import ModelStore
from pgcat_cluster.topology.model import build
from pgcat_cluster.topology.reading import parse

KEYS = Keys("f")
PREFIXES = (KEYS.decided, KEYS.override, KEYS.live_prefix, KEYS.verdict_prefix)
DOCUMENTS = """
[fleet]
bans = { min = "5s", max = "12s", ramp = "10s" }
[clusters.main]
min_healthy = 2
leadership = { source = "static", primary = "p0" }
[clusters.main.servers]
p0 = { host = "p0" }
r1 = { host = "r1" }
r2 = { host = "r2" }
"""


@dataclass
class Node:
    bench: Bench
    lease: int
    memory: Memory = field(default_factory=Memory)
    beliefs: dict[str, Belief] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)
    nudges: list[Nudge] = field(default_factory=list)
    is_tilted: bool = False


class Fleet:
    """Nodes that hear of everything at once; time stands still but for `wait`."""

    def __init__(self, *zones: str) -> None:
        self.topology = build(parse(DOCUMENTS, "test"))
        self.generation = 1
        self.now = 0.0
        self.store = ModelStore()
        self.put(KEYS.accepted, encode(Accepted(gen=1, from_rev=0, term=0, docs={})))
        self.nodes: dict[str, Node] = {}
        for number, zone in enumerate(zones):
            self.join(f"n{number}", zone)

    def join(self, name: str, zone: str) -> Node:
        node, lease = f"{name}.00000000", self.store.grant(1000, self.now)
        live = Live(name=name, host=name, zone=zone, state="serving", addr="", version="", ttl=6)
        assert self.store.txn(membership.join(KEYS, node, live, lease), self.now).succeeded
        self.nodes[node] = Node(Bench(node, zone, KEYS), lease)
        return self.nodes[node]

    def put(self, key: str, value: bytes) -> None:
        self.store.txn(Transaction(then=(Put(key=key, value=value),)), self.now)

    def override(self, key: str, value: bytes = b"on") -> None:
        self.put(KEYS.override + key, value)

    def court(self, memory: Memory) -> Court:
        cluster = self.topology.clusters["main"]
        servers = {("main", server) for server in cluster.servers}
        return Court(
            keys=KEYS,
            cluster=cluster,
            fleet=self.topology.fleet,
            generation=self.generation,
            primary="p0",
            primary_reads=True,
            memory=memory,
            overrides=overrides.read(memory.under(KEYS.override), KEYS, servers=servers, pools=()),
        )

    def sync(self, node: Node) -> None:
        for prefix in PREFIXES:
            revision, rows = self.store.snapshot([prefix], self.now)
            node.memory.replace(prefix, rows, revision)

    def step(self, node: Node, is_synced: bool = True) -> list[Effect]:
        if is_synced:
            self.sync(node)
        alive = electorate(node.memory.under(KEYS.live_prefix), KEYS)
        return node.bench.step(
            self.court(node.memory), alive, node.beliefs, is_tilted=node.is_tilted, now=self.now
        )

    def perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case Publish(key=key, value=value):
                put = Put(key=key, value=value, lease=node.lease)
                self.store.txn(Transaction(then=(put,)), self.now)
            case Withdraw(key=key):
                self.store.txn(Transaction(then=(Delete(key=key),)), self.now)
            case Decide(transaction=transaction, leases_s=leases_s):
                leases = [self.store.grant(int(seconds), self.now) for seconds in leases_s]
                node.bench.decided(self.store.txn(with_leases(transaction, leases), self.now), self.now)
            case ProbeNow(server=server):
                node.probes.append(server)
            case Nudge():
                node.nudges.append(effect)

    def settle(self) -> None:
        """Until nobody has anything to do now."""
        is_busy = True
        while is_busy:
            is_busy = False
            for node in self.nodes.values():
                for effect in self.step(node):
                    is_busy = True
                    self.perform(node, effect)

    def wait(self, seconds: float) -> None:
        until_s = self.now + seconds
        self.settle()
        while self.now < until_s:
            dues = [node.bench.due_s for node in self.nodes.values() if node.bench.due_s is not None]
            self.now = min([until_s, self.now + 0.5, *(due for due in dues if due > self.now)])
            self.store.advance(self.now)
            self.settle()

    def believe(self, stance: Stance, why: str = "", server: str = "r1", of: str = "") -> None:
        for name, node in self.nodes.items():
            if name[:2] in of.split() or not of:
                node.beliefs[server] = Belief(stance=stance, why=why, seen_s=self.now)

    def bans(self) -> dict[str, str]:
        _, rows = self.store.snapshot([KEYS.ban_prefix], self.now)
        return {row.key.removeprefix(KEYS.ban_prefix): decode(row.key, row.value, Ban).state for row in rows}

    def said(self) -> dict[str, str]:
        _, rows = self.store.snapshot([KEYS.verdict_prefix], self.now)
        return {
            row.key.removeprefix(KEYS.verdict_prefix): decode(row.key, row.value, Verdict).v for row in rows
        }


def decisions(fleet: Fleet, node: Node) -> list[Decide]:
    """What a node proposes by what it knows, whatever its rank."""
    found = [*fleet.step(node, is_synced=False)]
    fleet.now += 0.1
    return [one for one in (*found, *fleet.step(node, is_synced=False)) if isinstance(one, Decide)]


def test_peace_writes_nothing() -> None:
    fleet = Fleet("a", "b", "c")
    for server in ("p0", "r1", "r2"):
        fleet.believe("proven", server=server)
    before = fleet.store.revision
    fleet.wait(20)
    assert fleet.store.revision == before


def test_a_server_is_banned_put_on_probation_and_back() -> None:
    fleet = Fleet("a", "b", "c")
    before = fleet.store.revision
    fleet.believe("bad", "refused")
    fleet.wait(0.1)
    assert fleet.bans() == {"main/r1/fleet": "banned"}
    assert fleet.store.revision <= before + 4, "one verdict each at most, and the ban"
    fleet.believe("proven")
    fleet.wait(4)
    assert set(fleet.said().values()) == set(), "a verdict that is no longer true goes; `ok` has time"
    fleet.wait(2)
    assert fleet.bans() == {"main/r1/fleet": "probation"}
    assert "ok" in fleet.said().values()
    fleet.wait(9)
    assert fleet.bans() == {"main/r1/fleet": "probation"}
    fleet.wait(3)
    assert (fleet.bans(), fleet.said()) == ({}, {})


def test_a_relapse_on_probation_doubles_the_time() -> None:
    fleet = Fleet("a", "b", "c")
    for strikes, least_s in ((1, 5), (2, 10), (3, 12)):
        fleet.believe("bad", "soft")
        fleet.wait(0.3)
        key = KEYS.ban("main", "r1", FLEET)
        [row] = fleet.store.snapshot([key], fleet.now)[1]
        assert decode(key, row.value, Ban).strikes == strikes
        fleet.believe("proven")
        fleet.wait(least_s - 1)
        assert fleet.bans() == {"main/r1/fleet": "banned"}
        fleet.wait(2.5)
        assert fleet.bans() == {"main/r1/fleet": "probation"}


def test_the_transaction_proves_all_it_rests_on() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "refused", of="n0 n1")
    for name in ("n0", "n1"):
        node = fleet.nodes[f"{name}.00000000"]
        for effect in fleet.step(node):
            fleet.perform(node, effect)
    node = fleet.nodes["n0.00000000"]
    fleet.sync(node)
    memory = node.memory
    [decision] = decisions(fleet, node)
    verdicts = memory.under(KEYS.verdict_prefix)
    lives = memory.under(KEYS.live_prefix)
    accepted = memory.row(KEYS.accepted)
    assert accepted is not None
    transaction = decision.transaction
    assert len(transaction.compares) == 2 + 3 + 5

    def in_any_order(compares: tuple[Compare, ...]) -> list[str]:
        return sorted(map(repr, compares))

    assert in_any_order(transaction.compares) == in_any_order(
        (
            nothing_newer(KEYS.cluster_bans("main"), 0),
            *map(unchanged, verdicts),
            *map(unchanged, lives),
            nothing_newer(KEYS.live_prefix, max(row.mod_revision for row in lives)),
            unchanged(accepted),
            nothing_newer(KEYS.cluster_overrides("main"), 0),
            absent(KEYS.freeze),
        )
    )
    ban = decode("", transaction.then[0].value, Ban)  # type: ignore[union-attr]
    assert transaction.then == (
        Put(key=KEYS.ban("main", "r1", "fleet"), value=encode(ban)),
        Put(key=KEYS.timer(f"ban-{ban.id}"), value=encode(Timer(purpose="ban/main/r1/fleet")), lease=-1),
        Put(key=KEYS.strikes("main", "r1"), value=encode(Strikes(n=1)), lease=-2),
    )
    assert ban == Ban(
        id=ban.id, state="banned", scope="fleet", why=("refused",), votes=("n0.00000000", "n1.00000000"),
        need=2, jury=3, zones=1, strikes=1, by="n0.00000000",
    )  # fmt: skip
    assert decision.leases_s == (5.0, 605.0)
    assert transaction.otherwise == (
        Range(key=KEYS.cluster_bans("main"), prefix=True),
        Range(key=KEYS.server_verdicts("main", "r1"), prefix=True),
        Range(key=KEYS.live_prefix, prefix=True),
    )
    given = with_leases(transaction, [7, 8])
    assert [put.lease for put in given.then if isinstance(put, Put)] == [0, 7, 8]


def test_no_two_bans_share_an_id_and_so_their_timers() -> None:
    fleet = Fleet("a")
    [node] = fleet.nodes.values()
    names = set()
    for cluster in ("main", "other"):
        key = KEYS.verdict(cluster, "r1", node.bench.node)
        fleet.put(key, encode(Verdict(v="bad", why=("refused",), since_rev=1, gen=1)))
        fleet.sync(node)
        court = fleet.court(node.memory)
        court = structs.replace(court, cluster=structs.replace(court.cluster, name=cluster))
        bench = Bench(node.bench.node, "a", KEYS)
        effects = bench.step(
            court,
            electorate(node.memory.under(KEYS.live_prefix), KEYS),
            {"r1": Belief(stance="bad", why="refused", seen_s=fleet.now)},
            is_tilted=False,
            now=fleet.now,
        )
        [decision] = [effect for effect in effects if isinstance(effect, Decide)]
        names |= {put.key for put in decision.transaction.then if put.key.startswith(KEYS.timer_prefix)}
    assert len(names) == 2


def test_who_sees_the_ban_first_says_nothing() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "refused", of="n0 n1")
    fleet.wait(1)
    fleet.believe("bad", "refused")
    fleet.wait(1)
    assert fleet.said() == {"main/r1/n0.00000000": "bad", "main/r1/n1.00000000": "bad"}


def test_one_of_three_is_not_enough_and_others_look_at_once() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "refused", of="n0")
    fleet.now += 1
    fleet.wait(10)
    assert fleet.bans() == {}
    assert [node.probes for node in fleet.nodes.values()] == [[], ["r1"], ["r1"]]


def test_enough_stay_in_service() -> None:
    fleet = Fleet("a", "a", "a")
    for server in ("r1", "r2"):
        fleet.believe("bad", "soft", server)
    fleet.wait(5)
    assert len(fleet.bans()) == 1, "min_healthy = 2 of 3"


def test_if_all_see_a_refusal_nothing_is_left_to_keep() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "soft", "r2")
    fleet.wait(1)
    fleet.believe("bad", "refused", "r1", of="n0 n1")
    fleet.wait(1)
    assert fleet.bans() == {"main/r2/fleet": "banned"}
    fleet.believe("bad", "refused", "r1")
    fleet.wait(1)
    assert fleet.bans() == {"main/r1/fleet": "banned", "main/r2/fleet": "banned"}


def test_what_an_operator_removed_counts_as_gone() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.override("main/r2", b"drain")
    fleet.believe("bad", "soft")
    fleet.wait(2)
    assert fleet.bans() == {}


@pytest.mark.parametrize("override", ["main/r1", "_fleet/freeze"])
def test_an_operator_stops_votes(override: str) -> None:
    fleet = Fleet("a", "a", "a")
    fleet.override(override, b"pin" if "r1" in override else b"on")
    fleet.believe("bad", "refused")
    fleet.wait(5)
    assert fleet.bans() == {}
    fleet.store.txn(Transaction(then=(Delete(key=KEYS.override + override),)), fleet.now)
    fleet.wait(1)
    assert fleet.bans() == {"main/r1/fleet": "banned"}


def test_a_freeze_lets_bans_end() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "refused")
    fleet.wait(1)
    fleet.override("_fleet/freeze")
    fleet.believe("proven")
    fleet.wait(20)
    assert fleet.bans() == {}


def test_a_break_between_zones_bans_in_one_zone_after_a_while() -> None:
    fleet = Fleet("a", "a", "b", "b", "c", "c")
    fleet.believe("bad", "unreachable", of="n0 n1")
    fleet.wait(4)
    assert fleet.bans() == {}
    fleet.wait(3)
    assert fleet.bans() == {"main/r1/zone:a": "banned"}
    fleet.believe("proven", of="n0")
    fleet.believe("ok", of="n1")
    fleet.wait(6)
    assert fleet.bans() == {"main/r1/zone:a": "banned"}, "one of two in the zone does not lift it"
    fleet.believe("proven", of="n1")
    fleet.wait(1)
    assert fleet.bans() == {"main/r1/zone:a": "probation"}
    assert set(fleet.said()) == {"main/r1/n0.00000000", "main/r1/n1.00000000"}


def test_who_is_tilted_proposes_nothing() -> None:
    fleet = Fleet("a")
    fleet.nodes["n0.00000000"].is_tilted = True
    fleet.believe("bad", "refused")
    fleet.wait(2)
    assert fleet.bans() == {}
    fleet.nodes["n0.00000000"].is_tilted = False
    fleet.wait(2)
    assert fleet.bans() == {"main/r1/fleet": "banned"}, "alone in the fleet, one voice suffices"


def test_a_silenced_opinion_is_taken_back() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "soft", of="n0")
    fleet.wait(1)
    assert fleet.said() == {"main/r1/n0.00000000": "bad"}
    fleet.believe("unsure", of="n0")
    fleet.wait(1)
    assert fleet.said() == {"main/r1/n0.00000000": "bad"}
    fleet.believe("silent", of="n0")
    fleet.wait(1)
    assert fleet.said() == {}


def test_a_verdict_about_an_older_topology_does_not_count() -> None:
    fleet = Fleet("a", "a", "a")
    fleet.believe("bad", "soft", of="n0")
    fleet.wait(1)
    fleet.generation = 2
    fleet.put(KEYS.accepted, encode(Accepted(gen=2, from_rev=0, term=0, docs={})))
    fleet.believe("unsure", of="n0")
    fleet.believe("bad", "soft", of="n1")
    fleet.wait(2)
    assert fleet.bans() == {}
    fleet.believe("bad", "soft", of="n0")
    fleet.wait(2)
    assert fleet.bans() == {"main/r1/fleet": "banned"}


def test_a_node_that_does_not_run_what_is_accepted_proposes_nothing() -> None:
    fleet = Fleet("a")
    fleet.put(KEYS.accepted, encode(Accepted(gen=2, from_rev=0, term=0, docs={})))
    fleet.believe("bad", "refused")
    fleet.wait(2)
    assert fleet.bans() == {}


def test_no_ban_ends_by_what_was_said_of_an_older_topology() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.believe("bad", "refused")
    fleet.wait(1)
    fleet.put(KEYS.accepted, encode(Accepted(gen=2, from_rev=0, term=0, docs={})))
    fleet.believe("proven")
    fleet.wait(8)
    assert fleet.bans() == {"main/r1/fleet": "banned"}
    fleet.generation = 2
    fleet.wait(2)
    assert fleet.bans() == {"main/r1/fleet": "probation"}


def test_a_refused_decision_is_counted_again_by_the_truth() -> None:
    fleet = Fleet("a", "a")
    fleet.believe("bad", "refused")
    for node in fleet.nodes.values():
        for effect in fleet.step(node):
            fleet.perform(node, effect)
    node = next(iter(fleet.nodes.values()))
    fleet.sync(node)
    # Somebody joins and is not seen yet: three hosts, and still two of them say bad.
    fleet.join("n9", "a")
    [first] = decisions(fleet, node)
    fleet.perform(node, first)
    assert fleet.bans() == {}
    [second] = decisions(fleet, node)
    fleet.perform(node, second)
    assert fleet.bans() == {"main/r1/fleet": "banned"}


def test_an_unknown_outcome_is_waited_for() -> None:
    fleet = Fleet("a")
    fleet.believe("bad", "refused")
    [node] = fleet.nodes.values()
    for effect in fleet.step(node):
        fleet.perform(node, effect)
    assert [type(one) for one in fleet.step(node)] == [Decide]
    assert fleet.step(node) == [], "one decision at a time"
    node.bench.decided(None, fleet.now)
    assert fleet.step(node) == []
    assert node.bench.due_s == fleet.now + 2.0
    fleet.wait(2.1)
    assert fleet.bans() == {"main/r1/fleet": "banned"}


def test_who_is_no_juror_nudges_two_that_are() -> None:
    fleet = Fleet(*"aaaaaaaaaaa")
    fleet.believe("bad", "refused")
    for node in fleet.nodes.values():
        for effect in fleet.step(node):
            if not isinstance(effect, Publish):
                fleet.perform(node, effect)
    [node, *_] = fleet.nodes.values()
    alive = electorate(node.memory.under(KEYS.live_prefix), KEYS)
    jurors = [juror.node for juror in seat("main/r1", alive.serving, 9).jurors]
    nudges = {name: node.nudges for name, node in fleet.nodes.items() if node.nudges}
    expected = Nudge(nodes=tuple(jurors[:2]), server="r1", evidence="refused")
    assert nudges == {name: [expected] for name in fleet.nodes if name not in jurors}
    assert len(nudges) == 2


def test_the_coordinator_clears_bans_of_servers_that_left() -> None:
    fleet = Fleet("a")
    fleet.believe("bad", "refused")
    fleet.wait(1)
    fleet.put(KEYS.coord, encode(Coord(node="n0.00000000")))
    [node] = fleet.nodes.values()
    fleet.sync(node)
    term = fleet.store.revision
    assert departed(node.memory, KEYS, {"main": ["p0", "r1", "r2"]}, term) is None
    transaction = departed(node.memory, KEYS, {"main": ["p0", "r2"]}, term)
    assert transaction is not None
    assert Compare(key=KEYS.coord, field=Field.CREATE, operator="==", operand=term) in transaction.compares
    assert fleet.store.txn(transaction, fleet.now).succeeded
    assert fleet.bans() == {}


def test_an_operator_clears_a_ban_and_its_strikes() -> None:
    fleet = Fleet("a")
    fleet.believe("bad", "refused")
    fleet.wait(1)
    [node] = fleet.nodes.values()
    fleet.sync(node)
    transaction = unban(node.memory, KEYS, "main", "r1")
    assert transaction is not None
    assert fleet.store.txn(transaction, fleet.now).succeeded
    assert fleet.bans() == {}
    assert fleet.store.snapshot([KEYS.strikes_prefix], fleet.now)[1] == ()
    assert unban(Memory(), KEYS, "main", "r1") is None
