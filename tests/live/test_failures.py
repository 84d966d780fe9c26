"""Everything fails once: servers, nodes, the store and what lies between them, under a light read load.

The short form has three nodes; the long one has eight, more faults and much longer ones. Whatever happens, no client
meets an error unless rows of its answer had come, and the history of the store keeps to all invariants.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pgcat_cluster.agreement.transactions import Batch
from pgcat_cluster.demo.etcd import EtcdMember
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres
from tests.support.fleets import PATIENT
from tests.support.histories import CALM, PEACE, Replay, save
from tests.support.load import Load
from tests.support.nodes import backend, connect, eventually, lines, port
from tests.support.results import FIGURES, Figures
from tests.support.rigs import KEYS, Rig, rig_of

pytestmark = [pytest.mark.once, pytest.mark.timeout(1500)]

BANS = '[bans]\nmin = "2s"\nmax = "8s"\nramp = "1s"\n'
LEASE = 'ttl = "5s"\n'
# What is silent is found within some seconds; a server that is only late on a busy machine is not.
WATCHFUL = '[health]\ninterval = "500ms"\nfall = 2\ntimeout_min = "1500ms"\ntimeout_max = "1500ms"\n'
PATIENCE_S = 120.0
A_LITTLE_S = 0.1
TOO_SLOW_S = 10.0
QUIET_S = 1.5


@dataclass(frozen=True)
class Form:
    """How large, how long, and which faults of the store: of the member that leads, and of one that follows."""

    name: str
    nodes: int
    peace_s: float
    outages: tuple[tuple[str, float], ...]
    members: tuple[tuple[str, bool], ...]
    silences: tuple[tuple[str, str], ...]
    rounds: int
    flapping_s: float


FAULTS = ("killed", "frozen", "cut", "slow")
SHORT = Form(
    "short",
    nodes=3,
    peace_s=1.5,
    outages=(("killed", 2.0),),
    members=(("frozen", True), ("killed", False)),
    silences=(("frozen", "cut"),),
    rounds=2,
    flapping_s=0.0,
)
LONG = Form(
    "long",
    nodes=8,
    peace_s=60.0,
    outages=(("frozen", 20.0), ("cut", 20.0), ("slow", 20.0), ("killed", 600.0)),
    members=tuple((fault, leads) for fault in FAULTS for leads in (True, False)),
    silences=(("frozen", "cut"), ("slow", "frozen"), ("cut", "slow")),
    rounds=6,
    flapping_s=60.0,
)


@pytest.fixture(
    scope="module",
    params=[SHORT, pytest.param(LONG, marks=pytest.mark.live_long)],
    ids=lambda form: form.name,
)
def form(request: pytest.FixtureRequest) -> Form:
    chosen: Form = request.param
    return chosen


@pytest.fixture(scope="module")
def shared_rig(form: Form, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Its history is kept beside the other files of the run, for who wants to know more."""
    with rig_of(form.nodes, fleet=LEASE + PATIENT + BANS, cluster="min_healthy = 1", pool="size = 4") as rig:
        yield rig
        save(rig.history(), tmp_path_factory.mktemp("history") / "failures.jsonl")


@pytest.fixture
def figures(request: pytest.FixtureRequest, form: Form) -> Figures:
    """What the test measures; those of the long form are kept."""
    figures: Figures = {"nodes": form.nodes}
    if form is LONG:
        request.node.stash[FIGURES] = figures
    return figures


@pytest.fixture
def rig(shared_rig: Rig, figures: Figures) -> Iterator[Rig]:
    """The history of what happens keeps to the invariants. What comes back by itself may do so behind the test."""
    before, began_s = shared_rig.revision(), time.monotonic()
    yield shared_rig
    figures["seconds"] = round(time.monotonic() - began_s, 1)
    history = shared_rig.history()
    figures["writes"] = sum(is_written(one.batch) for one in history if one.batch.revision > before)
    replay = Replay(KEYS)
    replay.replay(history)
    figures["revisions_checked"] = replay.revision


@pytest.fixture
def load(rig: Rig, figures: Figures) -> Iterator[Load]:
    with Load(rig.nodes) as load:
        yield load
        load.goes_on()
    figures["statements"], figures["broken_off"] = load.statements, load.broken_off
    figures["errors"] = len(load.failures)
    assert load.failures == []


def is_written(batch: Batch) -> bool:
    """Whether it is a revision in which a key of the fleet was put or deleted."""
    return any(event.key.startswith(KEYS.root) for event in batch.events)


# -- what is waited for


def wait(condition: Callable[[], bool], what: str) -> None:
    eventually(condition, what, within_s=PATIENCE_S)


def settle(rig: Rig) -> None:
    """Nothing is left of what was: all nodes are there and use all servers, whose strikes an operator forgives."""
    there(rig, len(rig.nodes))
    wait(lambda: rig.keys("decided/ban/") == rig.keys("verdict/") == [], "all is forgiven")
    wait(lambda: not any(avoids(node, one) for node in rig.nodes for one in rig.stack.servers), "all serve")
    rig.ctl("del", "--prefix", KEYS.strikes_prefix)


def there(rig: Rig, count: int) -> None:
    wait(lambda: len(rig.keys("live/")) == count, f"{count} nodes are there")


def passes(duration_s: float) -> None:
    """So long it goes on."""
    end_s = time.monotonic() + duration_s
    eventually(lambda: time.monotonic() >= end_s, "time passes", within_s=duration_s + PATIENCE_S)


def quiet(rig: Rig) -> None:
    """Nobody has anything to write any more."""
    seen = (rig.revision(), time.monotonic())

    def is_quiet() -> bool:
        nonlocal seen
        if (revision := rig.revision()) != seen[0]:
            seen = (revision, time.monotonic())
        return time.monotonic() - seen[1] > QUIET_S

    wait(is_quiet, "nothing is written")


def avoids(node: Node, server: Postgres) -> bool:
    return bool(backend(node, server.name)["is_avoided"])


def bans(rig: Rig) -> list[str]:
    """Which servers are banned, and for whom."""
    return [key.removeprefix("decided/ban/main/") for key in rig.keys("decided/ban/")]


def is_out(rig: Rig, *servers: Postgres) -> float:
    """The fleet has banned these servers, and nobody is sent to them any more; how long it took, in seconds."""
    began_s = time.monotonic()
    wait(lambda: bans(rig) == sorted(f"{one.name}/fleet" for one in servers), "the fleet bans them")
    wait(lambda: all(avoids(node, one) for node in rig.nodes for one in servers), "all avoid them")
    took_s = time.monotonic() - began_s
    assert not reads(*rig.nodes) & {one.port for one in servers}
    return round(took_s, 2)


def is_back(rig: Rig, *servers: Postgres) -> None:
    wait(lambda: reads(*rig.nodes) >= {one.port for one in servers}, "they are read again")


def reads(*nodes: Node) -> set[int]:
    """The ports of the servers that answer new clients of these nodes."""
    found = set()
    for node in nodes:
        with connect(node) as client:
            found |= {port(client) for _ in range(6)}
    return found


# -- what operators do


def generation(rig: Rig) -> int:
    (accepted,) = rig.values("decided/accepted")
    return int(accepted["gen"])


def edit(rig: Rig, key: str, text: str) -> None:
    """An edit, which all nodes take up."""
    before = generation(rig)
    rig.put(key, text)
    wait(lambda: generation(rig) > before, "it is accepted")
    newest = generation(rig)
    wait(
        lambda: [ack["active"]["gen"] for ack in rig.values("ack/")].count(newest) == len(rig.nodes),
        "all nodes run it",
    )


@contextlib.contextmanager
def watchful(rig: Rig) -> Iterator[None]:
    """What does not answer counts as ill soon."""
    edit(rig, "config/fleet", LEASE + WATCHFUL + BANS)
    yield
    edit(rig, "config/fleet", LEASE + PATIENT + BANS)


# -- what goes wrong


def failing(
    rig: Rig, fault: str, *those: Postgres | EtcdMember, slow_s: float = TOO_SLOW_S
) -> contextlib.AbstractContextManager[None]:
    """Servers or members, as all nodes see them."""
    match fault:
        case "killed":
            return rig.killed(*those)
        case "frozen":
            return rig.frozen(*those)
        case "cut":
            return rig.cut(rig.nodes, those)
        case _:
            return rig.slowed(slow_s, rig.nodes, those)


# -- peace, and what is only slow


def test_nothing_is_written_in_peace(rig: Rig, load: Load, form: Form, figures: Figures) -> None:
    settle(rig)
    quiet(rig)
    with rig.marked(PEACE):
        before = rig.revision()
        passes(form.peace_s)
        load.goes_on()
        assert rig.revision() == before
    figures["peace_s"], figures["writes_in_peace"] = form.peace_s, 0


def test_what_is_a_little_slow_harms_nobody(rig: Rig, load: Load) -> None:
    first, *others = rig.nodes
    replica, leader = rig.stack.replicas[0], rig.etcd.leader()
    everything = [*rig.stack.servers, *rig.etcd.members]
    with (
        rig.marked(CALM),
        rig.slowed(A_LITTLE_S, [first], everything),
        rig.slowed(A_LITTLE_S, others, [replica, leader]),
    ):
        edit(rig, "config/pools/test", "users = { test = {} }\nsize = 5")
        load.goes_on()
        assert reads(*rig.nodes) >= {replica.port}


# -- servers


def test_a_replica_is_killed_again_and_again(rig: Rig, load: Load, form: Form, figures: Figures) -> None:
    r2 = rig.stack.replicas[1]
    settle(rig)
    for strikes in range(1, form.rounds + 1):
        with rig.killed(r2):
            figures[f"avoided_s_strike_{strikes}"] = is_out(rig, r2)
            (ban,) = rig.values("decided/ban/")
            assert (ban["state"], ban["why"], ban["strikes"]) == ("banned", ["refused"], strikes)
            assert (ban["jury"], ban["need"]) == (len(rig.nodes), len(rig.nodes) // 2 + 1)
        wait(lambda: [ban["state"] for ban in rig.values("decided/ban/")] != ["banned"], "its time is up")
    end_s = time.monotonic() + form.flapping_s
    flaps = 0
    while time.monotonic() < end_s:
        with rig.killed(r2):
            load.goes_on()
        flaps += 1
    figures["flaps"], figures["flapping_s"] = flaps, form.flapping_s
    is_back(rig, r2)


def test_replicas_fall_silent(rig: Rig, load: Load, form: Form, figures: Figures) -> None:
    r1, r2 = rig.stack.replicas
    settle(rig)
    with watchful(rig):
        for first, second in form.silences:
            with failing(rig, first, r1), failing(rig, second, r2):
                figures[f"avoided_s_{first}_and_{second}"] = is_out(rig, r1, r2)
                assert reads(*rig.nodes) == {rig.stack.primary.port}
            load.goes_on()
            is_back(rig, r1, r2)


# -- nodes


def test_nodes_are_killed_frozen_and_cut_from_the_store(rig: Rig, load: Load) -> None:
    *others, alone, hung, dead = rig.nodes
    there(rig, len(rig.nodes))
    with rig.marked(CALM):
        with rig.cut([alone], rig.etcd.members), rig.frozen(hung), load.forgiving(dead), rig.killed(dead):
            there(rig, len(others))
            load.goes_on(alone, *others)
        there(rig, len(rig.nodes))


@pytest.mark.live_long
def test_the_others_ban_while_a_node_is_cut_from_the_store(rig: Rig, load: Load) -> None:
    *others, alone = rig.nodes
    r1 = rig.stack.replicas[0]
    settle(rig)
    with rig.cut([alone], rig.etcd.members):
        there(rig, len(others))
        with rig.killed(r1):
            is_out(rig, r1)
            load.goes_on()
        wait(lambda: not avoids(alone, r1), "it goes by what it sees")
    is_back(rig, r1)


def test_a_node_is_cut_from_all_servers(rig: Rig, load: Load) -> None:
    *others, alone = rig.nodes

    def suspects() -> list[str]:
        acks = zip(rig.keys("ack/"), rig.values("ack/"), strict=True)
        return [key.partition(".")[0] for key, ack in acks if ack.get("suspect_self")]

    settle(rig)
    with watchful(rig), rig.marked(CALM):
        with load.forgiving(alone), rig.cut([alone], rig.stack.servers):
            wait(lambda: suspects() == [f"ack/{rig.name_of(alone)}"], "it suspects itself")
            load.goes_on(*others)
            assert reads(*others) >= {one.port for one in rig.stack.replicas}
        wait(lambda: suspects() == [], "it trusts itself again")


# -- zones


def test_a_zone_is_cut_from_a_replica(rig: Rig, load: Load) -> None:
    r1 = rig.stack.replicas[0]
    zone = rig.zones[-1]
    inside = rig.nodes_in(zone)
    outside = [node for node in rig.nodes if node not in inside]
    settle(rig)
    with watchful(rig):
        with rig.cut(inside, [r1]):
            wait(lambda: bans(rig) == [f"r1/zone:{zone}"], "it is banned for the zone")
            wait(lambda: all(avoids(node, r1) for node in inside), "the zone avoids it")
            assert r1.port not in reads(*inside)
            assert r1.port in reads(*outside)
        is_back(rig, r1)


@pytest.mark.live_long
def test_a_zone_is_cut_off(rig: Rig, load: Load) -> None:
    inside = rig.nodes_in(rig.zones[-1])
    outside = [node for node in rig.nodes if node not in inside]
    with watchful(rig), rig.marked(CALM):
        with load.forgiving(*inside), rig.cut(inside, [*rig.stack.servers, *rig.etcd.members]):
            there(rig, len(outside))
            load.goes_on(*outside)
        there(rig, len(rig.nodes))


# -- the store


def test_a_member_of_the_store_fails(rig: Rig, load: Load, form: Form, figures: Figures) -> None:
    for number, (fault, leads) in enumerate(form.members):
        leader = rig.etcd.leader()
        member = leader if leads else next(one for one in rig.etcd.members if one is not leader)
        with rig.marked(CALM), failing(rig, fault, member, slow_s=1.0):
            began_s = time.monotonic()
            edit(rig, "config/pools/test", f"users = {{ test = {{}} }}\nsize = {10 + number}")
            figures[f"edit_s_{'leader' if leads else 'follower'}_{fault}"] = round(
                time.monotonic() - began_s, 2
            )
            load.goes_on()


def test_all_of_the_store_is_gone(rig: Rig, load: Load, form: Form, figures: Figures) -> None:
    r1 = rig.stack.replicas[0]
    restarted = rig.nodes[-1]
    settle(rig)
    for number, (fault, outage_s) in enumerate(form.outages):
        figures[f"{fault}_s"] = outage_s
        before = rig.revision()
        with failing(rig, fault, *rig.etcd.members, slow_s=1.0):
            with rig.killed(r1):
                wait(lambda: all(avoids(node, r1) for node in rig.nodes), "each avoids it")
                load.goes_on()
                with load.forgiving(restarted), rig.killed(restarted):
                    pass
                assert lines(restarted, "begins with what was kept")
                wait(lambda: avoids(restarted, r1), "it avoids it as well")
            wait(lambda: not any(avoids(node, r1) for node in rig.nodes), "each uses it again")
            passes(outage_s)
            load.goes_on()
        edit(rig, "config/pools/test", f"users = {{ test = {{}} }}\nsize = {20 + number}")
        settle(rig)
        told = [one.batch for one in rig.history() if one.batch.revision > before]
        assert not [
            event.key for batch in told for event in batch.events if event.key.startswith(KEYS.ban_prefix)
        ]
