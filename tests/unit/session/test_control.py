"""The session's answers to what the scripts of the wire do not show: counts, references, time at its border."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgcat_cluster.errors import ServerLost
from pgcat_cluster.relay import marks
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.session.account import GREETINGS_MAX
from pgcat_cluster.wire import messages as m
from tests.support.scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def answer(scene: Scene, link: str, tag: str = "SELECT 1", status: bytes = b"I") -> None:
    scene.send(link, m.command_complete(tag) + m.ready_for_query(status))


def test_a_shape_is_analysed_until_it_is_remembered(scene: Scene) -> None:
    scene.bring("r1")
    scene.meet("c1")
    upcalls = []
    for number in range(4):
        scene.send("c1", m.query(f"select {number}"))
        answer(scene, "r1.1")
        upcalls.append(scene.desk.upcalls)
    assert upcalls == [1, 2, 2, 2]
    assert scene.links["r1.1"].queries == 4
    assert scene.links["r1.1"].transactions == 4
    scene.desk.forget()
    scene.send("c1", m.query("select 9"))
    answer(scene, "r1.1")
    assert scene.desk.upcalls == 3


def test_what_is_not_understood_is_counted_each_time() -> None:
    scene = Scene(statement_bytes_max=100)
    texts = ("select 1 from from", "select 2 from from", "select 3 from from", "select 1x", "x" * 200)
    for number, text in enumerate(texts, 1):
        link = scene.bring("p1")
        client = scene.meet(f"c{number}")
        scene.send(f"c{number}", m.query(text))
        assert client.server is link
        assert scene.desk.unknown_statements == number
    scene.meet("c")
    scene.send("c", m.query("show shard"))
    assert scene.desk.unknown_statements == len(texts)
    scene.close()


def test_a_refusal_moves_a_read_and_nothing_else(scene: Scene) -> None:
    client = scene.meet("c1")
    read = Flow(1, 1, "")
    scene.control.refused(client, read)
    assert (read.role, read.flags, read.reason) == (0, marks.WRITES, "a standby refused it")
    other = Flow(1, 0, "begins a transaction that only reads")
    scene.control.refused(client, other)
    assert (other.role, other.flags, other.reason) == (1, 0, "begins a transaction that only reads")
    scene.control.refused(client, None)


def test_faults_and_pins_are_counted_once(scene: Scene) -> None:
    scene.bring("p1")
    scene.meet("c1")
    for text in ("listen a", "listen b"):
        scene.send("c1", m.query(text))
        answer(scene, "p1.1", "LISTEN")
        scene.send("p1.1", m.data_row([b"p", b"listen", None]))
        answer(scene, "p1.1")
    assert scene.account.pins == {"listen": 1}
    scene.dismiss("c1")
    assert scene.account.faults == {"57P01": 1}
    assert scene.account.clients == set()
    assert len(scene.control.reception.keys) == 0


def test_waiting_times_are_kept(scene: Scene) -> None:
    client = scene.meet("c1")
    scene.send("c1", m.query("select 1"))
    scene.now += 3.0
    scene.open("r1")
    answer(scene, "r1.1")
    assert scene.desk.wait_s == 3.0
    assert client.longest_wait_s == 3.0


def test_bytes_of_what_is_gone_stay_counted(scene: Scene) -> None:
    scene.bring("r1")
    scene.meet("c1")
    query = m.query("select 1")
    scene.send("c1", query)
    answer(scene, "r1.1")
    received = len(m.command_complete("SELECT 1") + m.ready_for_query(b"I"))
    scene.leave("c1")
    scene.leave("r1.1")
    assert scene.desk.client_bytes_received == len(query)
    assert scene.desk.server_bytes_sent == len(query)
    assert scene.desk.server_bytes_received == received
    source = scene.pools["r1"].detail
    assert (source.bytes_received, source.bytes_sent, source.transactions) == (received, len(query), 1)


def test_a_server_that_fails_is_left_alone_for_a_while(scene: Scene) -> None:
    scene.meet("c1")
    scene.send("c1", m.query("insert into t values (1)"))
    assert scene.calls == ["open p1"]
    scene.fail("p1", "refused", is_overload=False)
    scene.send("c1", m.query("insert into t values (1)"))
    scene.wait(0.05)
    assert scene.calls == ["open p1"]
    scene.wait(0.06)
    assert scene.calls == ["open p1", "open p1"]
    scene.fail("p1", "refused", is_overload=False)
    assert scene.pools["p1"].detail.failures == 2
    scene.wait(0.25)
    scene.send("c1", m.query("insert into t values (1)"))
    scene.open("p1")
    assert scene.pools["p1"].detail.failures == 0
    assert scene.pools["p1"].detail.last_error == ""


@pytest.mark.parametrize("last_words", [b"", m.error_response(ServerLost())])
def test_a_read_is_not_repeated_on_links_that_died_with_its_own(scene: Scene, last_words: bytes) -> None:
    for _ in range(6):
        scene.bring("r1")
    scene.meet("c1")
    scene.send("c1", m.query("select 1"))
    # All of them end at once, and the loop has read of the busy one alone.
    (busy,) = (link for link in scene.links.values() if link.client is not None)
    for name, link in scene.links.items():
        far = scene.ends[name].socket
        if link is not busy:
            far.send(last_words)
        far.close()
    busy.on_readable()
    scene.settle()
    assert all(link.closed for link in scene.links.values())
    scene.open("r1")
    answer(scene, "r1.7")
    assert scene.ends["c1"].take() == m.command_complete("SELECT 1") + m.ready_for_query(b"I")
    assert scene.desk.repeats == 1


def test_as_many_links_are_opened_as_clients_wait(scene: Scene) -> None:
    for number in range(3):
        scene.meet(f"c{number}")
        scene.send(f"c{number}", m.query("select 1"))
    assert scene.calls == ["open r1"] * 3
    assert scene.pools["r1"].opening == 3


def test_a_pool_keeps_its_smallest_size() -> None:
    scene = Scene(options={"min_size": "2"})
    try:
        scene.wait(0.1)
        assert sorted(scene.calls) == ["open p1", "open p1", "open r1", "open r1"]
    finally:
        scene.close()


def test_greetings_are_remembered_but_not_for_ever(scene: Scene) -> None:
    catalogue = scene.control.catalogue
    kept = [catalogue.of({"application_name": str(number)}) for number in range(GREETINGS_MAX + 1)]
    for parameters in kept:
        scene.account.remember_greeting(parameters, {})
    assert list(scene.account.greetings) == kept[-1:]


@pytest.mark.parametrize("reads_on_primary", ["never", "when_no_replica", "always"])
@pytest.mark.parametrize("has_replica", [True, False])
def test_who_is_read_from(reads_on_primary: str, has_replica: bool) -> None:
    scene = Scene(options={"reads_on_primary": reads_on_primary})
    try:
        if not has_replica:
            scene.avoid("r1", "lag")
        served = [pool.key for pool in scene.desk.targets[marks.REPLICA].pools]
        primary = reads_on_primary == "always" or (reads_on_primary == "when_no_replica" and not has_replica)
        assert served == ["r1"] * has_replica + ["p1"] * primary
        assert [pool.key for pool in scene.desk.targets[marks.PRIMARY].pools] == ["p1"]
    finally:
        scene.close()


def test_reads_of_a_pool_that_reads_from_its_primary() -> None:
    scene = Scene(options={"reads": "primary"})
    try:
        assert [pool.key for pool in scene.desk.targets[marks.REPLICA].pools] == ["p1"]
    finally:
        scene.close()
