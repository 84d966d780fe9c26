"""Idle links and waiters under random use: first come, first served; nobody forgotten, nobody served twice."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.stock import Gate, Pool, Target, Waiter

REACTOR = SimpleNamespace(
    add_reader=lambda *_: None,
    remove_reader=lambda *_: None,
    add_writer=lambda *_: None,
    remove_writer=lambda *_: None,
)


def no_socket() -> SimpleNamespace:
    return SimpleNamespace(fileno=lambda: -1, close=lambda: None)


class Customer(Waiter):
    """Keeps what it is given; it must have been waiting until that very moment."""

    def __init__(self, number: int) -> None:
        super().__init__(no_socket(), REACTOR, bytearray(1))
        self.waiting = False
        self.ticket = 0
        self.number = number
        self.server: Link | None = None
        self.served: list[Customer] = []

    def granted(self, server: Link) -> None:
        assert self.server is None
        self.server = server
        self.served.append(self)


class Stock(RuleBasedStateMachine):
    """Two pools; the primary's target uses the first, the replica's one or both, as the view has it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[Pool] = []
        self.gate = Gate(marks.BALANCE_RANDOM, 7, self.wanted.append, None)
        self.pools = [Pool(self.gate, name, 3, 100, None) for name in ("a", "b")]
        self.targets: list[Target] = self.gate.targets[: marks.REPLICA + 1]
        self.links: dict[Pool, list[Link]] = {pool: [] for pool in self.pools}
        self.customers: list[Customer] = []
        # Who waits, by target, in the order they came: what the queues must be.
        self.queues: dict[Target, list[Customer]] = {target: [] for target in self.targets}
        self.served: list[Customer] = []
        self.targets[0].serve_by([self.pools[0]])
        self.targets[1].serve_by([self.pools[1]])

    def expect_served(self) -> None:
        """Whoever was served since the last time stood first among all whom that link fits."""
        while self.served:
            customer = self.served.pop(0)
            assert customer.server is not None
            pool = next(pool for pool, links in self.links.items() if customer.server in links)
            fitting = [one for target in pool.targets for one in self.queues[target]]
            assert customer is min(fitting, key=lambda one: one.ticket)
            next(queue for queue in self.queues.values() if customer in queue).remove(customer)

    @rule(which=st.integers(0, 1))
    def come(self, which: int) -> None:
        target = self.targets[which]
        customer = Customer(len(self.customers))
        customer.served = self.served
        self.customers.append(customer)
        server = target.take()
        if server is None:
            target.enqueue(customer)
            self.queues[target].append(customer)
        else:
            # Nobody is overtaken.
            assert not self.queues[target]
            assert not self.gate.paused
            customer.server = server

    @rule(which=st.integers(0, 1))
    def open(self, which: int) -> None:
        pool = self.pools[which]
        link = Link(no_socket(), REACTOR, bytearray(1))
        pool.opened += 1
        self.links[pool].append(link)
        pool.checkin(link)
        self.expect_served()

    def holders(self) -> list[Customer]:
        return [customer for customer in self.customers if customer.server is not None]

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), dies=st.booleans())
    def give_back(self, data: st.DataObject, dies: bool) -> None:
        customer = data.draw(st.sampled_from(self.holders()))
        server, customer.server = customer.server, None
        assert server is not None
        self.customers.remove(customer)
        pool = next(pool for pool, links in self.links.items() if server in links)
        if dies:
            server.close()
            pool.opened -= 1
            self.links[pool].remove(server)
        else:
            pool.checkin(server)
        self.expect_served()

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from([queue for queue in self.queues.values() if queue]))
        customer = data.draw(st.sampled_from(queue))
        target = next(target for target, one in self.queues.items() if one is queue)
        target.leave(customer)
        target.leave(customer)
        queue.remove(customer)
        self.customers.remove(customer)

    @precondition(lambda self: any(pool.idle for pool in self.pools))
    @rule(data=st.data())
    def die_idle(self, data: st.DataObject) -> None:
        """As a link's end has it: out of its pool, closed."""
        pool = data.draw(st.sampled_from([pool for pool in self.pools if pool.idle]))
        link = data.draw(st.sampled_from(pool.idle))
        pool.idle.remove(link)
        pool.opened -= 1
        link.close()
        self.links[pool].remove(link)

    @rule(is_paused=st.booleans())
    def pause(self, is_paused: bool) -> None:
        self.gate.paused = is_paused
        if not is_paused:
            self.gate.serve_waiters()
        self.expect_served()

    @rule(readers=st.sampled_from([[0], [1], [0, 1], [1, 0], []]), writers=st.sampled_from([[0], [1], []]))
    def see_otherwise(self, readers: list[int], writers: list[int]) -> None:
        # Both change before anybody is served, as far as the model sees it.
        for target, chosen in zip(self.targets, (writers, readers)):
            target.serve_by([self.pools[number] for number in chosen])
            self.expect_served()

    @invariant()
    def counts_are_lengths(self) -> None:
        for target, queue in self.queues.items():
            assert target.waiting == len(queue) == sum(customer.waiting for customer in queue)
            head = target.head()
            assert head is (queue[0] if queue else None)
            assert len(target.waiters) >= len(queue)
            assert target.weight == 100 * len(target.pools)

    @invariant()
    def every_link_is_in_one_place(self) -> None:
        held = [customer.server for customer in self.holders()]
        for pool, links in self.links.items():
            assert pool.opened == len(links)
            assert pool.busy() == sum(link in held for link in links)
            for link in links:
                assert (link in pool.idle) + held.count(link) == 1

    @invariant()
    def nobody_waits_beside_a_free_link(self) -> None:
        for target, queue in self.queues.items():
            assert self.gate.paused or not queue or not any(pool.idle for pool in target.pools)


Stock.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStock = Stock.TestCase
