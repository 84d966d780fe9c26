"""Clients that share a few links and prepare under the same names: each has its own, and links remember but so many."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgcat_cluster.wire import messages as m
from tests.support.company import Company

PREPARED_MAX = 2
BATCH_MAX = 3
# Each its own shape, so that each is a statement of its own on the servers.
TEXTS = [f"select $1, a{number}" for number in range(9)] + [
    f"insert into t{number} values ($1)" for number in range(3)
]

pieces = st.sampled_from(["whole", "whole", "bytes", "random"])
# Too long to be held.
STATEMENT_BYTES_MAX = 64
LONG_TEXTS = [f"select $1, {'b' * 60}{number}" for number in range(3)]

names = st.sampled_from(["", *"abcdefgh"])
values = st.integers(0, 9).map(lambda number: [b"%d" % number])
clients = st.runner().flatmap(lambda machine: st.sampled_from(sorted(machine.company.alone)))


def part_of_a_batch(
    data: st.DataObject, texts: list[str], known: set[str], *, is_failed: bool
) -> list[bytes]:
    """A statement is used in one of the ways that drivers have, mostly one that can succeed; tells `known`."""
    way = data.draw(
        st.sampled_from(["prepare", "prepare", "run", "run", "run", "describe", "again", "close", "any"])
    )
    name = data.draw(names)
    if way in ("run", "describe", "again", "close") and known:
        name = data.draw(st.sampled_from(sorted(known)))
    elif way == "prepare" and name in known:
        name = ""
    parse = m.parse(name, data.draw(st.sampled_from(texts)))
    run = [m.bind("", name, data.draw(values)), m.execute("")]
    if way in ("prepare", "again"):
        known.add(name)
    if way == "close":
        known.discard(name)
    return {
        "prepare": [parse, *run],
        "run": run,
        # What a link does not know can not be prepared there in a failed transaction: it is not described.
        "describe": run if is_failed else [m.describe(b"S", name), *run],
        "again": [m.close(b"S", name), parse, *run],
        "close": [m.close(b"S", name)],
        "any": [parse],
    }[way]


class Sharing(RuleBasedStateMachine):
    """One link to the primary and one to a replica, for up to four clients."""

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed: int) -> None:
        self.company = Company(
            {"size": "1", "prepared_statements_max": str(PREPARED_MAX)},
            statement_bytes_max=STATEMENT_BYTES_MAX,
            seed=seed,
        )
        self.batches: dict[str, int] = {}
        self.longest = 1
        self.company.enter()

    @precondition(lambda self: len(self.company.alone) < 4)
    @rule()
    def enter(self) -> None:
        self.company.enter()

    @rule(client=clients, size=st.integers(1, BATCH_MAX), data=st.data(), how=pieces)
    def use(self, client: str, size: int, data: st.DataObject, how: str) -> None:
        alone = self.company.alone[client]
        # In a read-only transaction a long one would bind its client to the replica.
        texts = TEXTS if alone.is_read_only else TEXTS + LONG_TEXTS
        known, is_failed = set(alone.statements), alone.status == b"E"
        parts = [part_of_a_batch(data, texts, known, is_failed=is_failed) for _ in range(size)]
        self.company.say(client, *(frame for part in parts for frame in part), m.sync(), pieces=how)
        self.batches[client] = self.batches.get(client, 0) + 1
        self.longest = max(self.longest, self.batches[client])
        if alone.status == b"I":
            self.batches[client] = 0

    @rule(
        client=clients, text=st.sampled_from(["begin", "commit", "rollback", "select 1/0", "begin read only"])
    )
    def query(self, client: str, text: str) -> None:
        self.company.say(client, m.query(text))

    @rule(client=clients, name=st.sampled_from("ab"))
    def deallocate(self, client: str, name: str) -> None:
        if name in self.company.alone[client].statements:
            self.company.say(client, m.query(f"deallocate {name}"))

    @rule(client=clients, size=st.integers(4, 7))
    def set(self, client: str, size: int) -> None:
        self.company.say(client, m.query(f"set work_mem = {size}"), m.query("show work_mem"))

    @precondition(lambda self: len(self.company.alone) > 1)
    @rule(client=clients, inside=st.booleans())
    def leave(self, client: str, inside: bool) -> None:
        if inside:
            self.company.scene.ends[client].send(m.query("begin") + m.parse("a", TEXTS[0]) + m.flush())
        self.company.leave(client)

    @invariant()
    def links_remember_but_so_many(self) -> None:
        # A transaction keeps what it uses.
        for link in self.company.scene.links.values():
            assert len(link.prepared) <= PREPARED_MAX + BATCH_MAX * self.longest

    def teardown(self) -> None:
        if hasattr(self, "company"):
            try:
                self.company.finish()
            finally:
                self.company.scene.close()


# A story of fifty steps that is not made shorter in minutes is still read.
def search(examples: int) -> None:
    run_state_machine_as_test(
        Sharing,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_it_is_as_if_each_client_had_a_server_of_its_own() -> None:
    search(30)


@pytest.mark.live_long
@pytest.mark.timeout(1800)
def test_it_still_is_after_a_long_search() -> None:
    search(1500)
