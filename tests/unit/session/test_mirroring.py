"""What a mirror gets: whole transactions in the client's own words, once, in order, within a bound of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgcat_cluster.relay.flows import Flow, Statement
from pgcat_cluster.session.mirroring import UNIT_BYTES, Lane, LaneState, Recorder
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.trace import format_frame
from tests.support.control import cut
from tests.support.scene import Scene

FRESH = Parameters({})
ANSWER = m.command_complete("SELECT 1") + m.ready_for_query(b"I")
IN_TRANSACTION = m.command_complete("SELECT 1") + m.ready_for_query(b"T")


class Copied(Scene):
    """A scene with a mirror that nobody reads from yet."""

    def __init__(
        self, share: float = 1.0, queue_bytes_max: int = 1 << 20, lanes: int = 1, **options: Any
    ) -> None:
        super().__init__(**options)
        self.draws = iter([0.0] * 1000)
        self.woken: list[Lane] = []
        self.warnings: list[str] = []
        self.recorder = self.desk.mirror = Recorder(
            share=share,
            queue_bytes_max=queue_bytes_max,
            lanes=lanes,
            fresh=FRESH,
            draw=lambda: next(self.draws),
            wake=self.woken.append,
            number=lambda client: list(self.clients.values()).index(client),
            warn=self.warnings.append,
        )
        self.bring("p1")
        self.bring("r1")

    def units(self) -> list[list[str]]:
        """What waits, each transaction as its messages."""
        return [said(unit.data) for lane in self.recorder.lanes for unit in lane.waiting]

    def ask(self, client: str, link: str, *sent: bytes, answer: bytes = ANSWER) -> None:
        self.send(client, b"".join(sent))
        self.send(link, answer)


def said(data: bytes) -> list[str]:
    return [format_frame("frontend", m.frame(bytes((kind,)), body)) for kind, body in cut(data)]


@pytest.fixture
def scene() -> Iterator[Copied]:
    made = Copied()
    yield made
    made.close()
    made.recorder.lanes[0].waiting.clear()


def test_a_statement_is_a_unit_when_it_is_answered(scene: Copied) -> None:
    scene.meet("c1")
    scene.send("c1", m.query("insert into t values (1)"))
    assert scene.units() == []
    scene.send("p1.1", ANSWER)
    assert scene.units() == [['Query "insert into t values (1)"']]
    assert scene.woken == scene.recorder.lanes


def test_a_transaction_is_one_unit(scene: Copied) -> None:
    scene.meet("c1")
    for text in ("begin", "insert into t values (1)"):
        scene.ask("c1", "p1.1", m.query(text), answer=IN_TRANSACTION)
        assert scene.units() == []
    scene.ask("c1", "p1.1", m.query("commit"))
    assert scene.units() == [['Query "begin"', 'Query "insert into t values (1)"', 'Query "commit"']]


def test_a_batch_brings_its_statements_along(scene: Copied) -> None:
    scene.meet("c1")
    scene.send("c1", m.parse("s", "insert into t values ($1)", [23]) + m.sync())
    scene.send("p1.1", m.close_complete() + m.parse_complete() + m.ready_for_query(b"I"))
    assert scene.units() == []
    for number in (b"1", b"2"):
        bound = m.bind("", "s", [number]) + m.describe(b"P", "") + m.execute("") + m.sync()
        scene.ask("c1", "p1.1", bound, answer=m.bind_complete() + m.no_data() + ANSWER)
    unnamed = m.parse("", "insert into u values ($1)") + m.bind("", "", [b"3"]) + m.execute("") + m.sync()
    scene.ask("c1", "p1.1", unnamed, answer=m.parse_complete() + m.bind_complete() + ANSWER)
    assert scene.units() == [
        ['Parse "" "insert into t values ($1)" 23', 'Bind "" "" "1"', 'Execute "" 0', "Sync"],
        ['Parse "" "insert into t values ($1)" 23', 'Bind "" "" "2"', 'Execute "" 0', "Sync"],
        ['Parse "" "insert into u values ($1)"', 'Bind "" "" "3"', 'Execute "" 0', "Sync"],
    ]


def test_frames_one_by_one_are_the_same_batch(scene: Copied) -> None:
    scene.meet("c1")
    for frame in (
        m.parse("", "insert into t values ($1)"),
        m.bind("p", "", [b"1"]),
        m.execute("p"),
        m.bind("p2", "", [b"2"]),
        m.execute("p2", 1),
        m.close(b"P", "p"),
        m.close(b"S", "s"),
        m.sync(),
    ):
        scene.send("c1", frame)
    scene.send("p1.1", m.parse_complete() + 2 * (m.bind_complete() + m.command_complete("INSERT 0 1")))
    scene.send("p1.1", 2 * m.close_complete() + m.ready_for_query(b"I"))
    parse = 'Parse "" "insert into t values ($1)"'
    batch = [parse, 'Bind "p" "" "1"', 'Execute "p" 0', parse, 'Bind "p2" "" "2"', 'Execute "p2" 1']
    assert scene.units() == [[*batch, 'Close P "p"', "Sync"]]


def test_what_is_repeated_elsewhere_is_copied_once(scene: Copied) -> None:
    scene.meet("c1")
    scene.send("c1", m.query("select 1"))
    scene.send("r1.1", m.frame(b"E", b"SERROR\0VERROR\0C25006\0Mread-only\0\0") + m.ready_for_query(b"I"))
    scene.send("p1.1", ANSWER)
    assert scene.units() == [['Query "select 1"']]
    assert scene.recorder.held_bytes == UNIT_BYTES + len(m.query("select 1"))


@pytest.mark.parametrize("part", ["_draw", "_number", "_wake"])
def test_a_fault_here_costs_copies_and_no_client(
    scene: Copied, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = scene.meet("c1")

    def failing(*_: object) -> float:
        raise ValueError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(scene.recorder, part, failing)
        for _ in range(2):
            scene.ask("c1", "p1.1", m.query("insert into t values (1)"))
            assert scene.ends["c1"].take() == ANSWER
    assert not client.closed
    assert scene.recorder.counts.failed >= 2
    assert set(scene.warnings) == {"fault of the recorder: ValueError"}
    scene.ask("c1", "p1.1", m.query("commit"))
    scene.recorder.lanes[0].waiting.clear()
    scene.ask("c1", "p1.1", m.query("insert into t values (2)"))
    assert scene.units() == [['Query "insert into t values (2)"']]


def test_sampling_is_by_transaction() -> None:
    scene = Copied(share=0.5)
    scene.draws = iter([0.7, 0.2, 0.5])
    scene.meet("c1")
    for text in ("begin", "insert into t values (1)"):
        scene.ask("c1", "p1.1", m.query(text), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query("commit"))
    scene.ask("c1", "p1.1", m.query("insert into t values (2)"))
    scene.ask("c1", "p1.1", m.query("insert into t values (3)"))
    assert scene.units() == [['Query "insert into t values (2)"']]
    scene.close()


@pytest.mark.parametrize(
    "text", ["listen a", "create temp table x (a int)", "select pg_advisory_lock(1)", "set search_path = x"]
)
def test_who_leaves_something_is_copied_and_the_link_is_made_as_new(scene: Copied, text: str) -> None:
    scene.meet("c1")
    scene.ask("c1", "p1.1", m.query(text))
    (unit,) = scene.recorder.lanes[0].waiting
    assert unit.is_dirty


def test_a_transaction_with_copy_data_is_left_out_whole(scene: Copied) -> None:
    scene.meet("c1")
    scene.ask("c1", "p1.1", m.query("begin"), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query("copy t from stdin"), answer=m.frame(b"G", b"\0\0\0"))
    scene.ask("c1", "p1.1", m.copy_data(b"1\n") + m.copy_done(), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query("commit"))
    assert scene.units() == []
    assert scene.recorder.counts.left_out == 1
    assert scene.recorder.held_bytes == 0


@pytest.mark.parametrize("sent", [m.frame(b"F", b"\0\0\0\1\0\0\0\0\0\0"), m.query("load 'auto_explain'")])
def test_what_can_not_be_copied_is_left_out(scene: Copied, sent: bytes) -> None:
    scene.meet("c1")
    scene.ask("c1", "p1.1", sent)
    assert scene.units() == []
    assert scene.recorder.counts.left_out == 1
    assert scene.recorder.held_bytes == 0


def test_a_batch_without_its_end_is_left_out(scene: Copied) -> None:
    client = scene.meet("c1")
    scene.recorder.sent(
        client, Statement(b"select 1", b"\0\0", Flow(0, 0, ""), b"s"), m.bind("", "s") + m.execute("")
    )
    scene.recorder.over(client)
    assert scene.units() == []
    assert scene.recorder.counts.left_out == 1


def test_a_transaction_with_a_refused_statement_is_left_out() -> None:
    scene = Copied(options={"plugins": {"table_access": {"enabled": True, "tables": ["secret"]}}})
    scene.meet("c1")
    scene.ask("c1", "p1.1", m.query("begin"), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query("insert into t values (1)"), answer=IN_TRANSACTION)
    scene.send("c1", m.query("select * from secret"))
    scene.send(
        "p1.1", m.frame(b"E", b"SERROR\0VERROR\0C34000\0Mno such portal\0\0") + m.ready_for_query(b"E")
    )
    scene.ask(
        "c1", "p1.1", m.query("commit"), answer=m.command_complete("ROLLBACK") + m.ready_for_query(b"I")
    )
    assert scene.units() == []
    assert scene.recorder.counts.left_out == 1
    scene.close()


def test_what_does_not_fit_is_dropped_whole() -> None:
    scene = Copied(queue_bytes_max=1000)
    scene.meet("c1")
    scene.ask("c1", "p1.1", m.query("begin"), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query(f"insert into t values ('{'x' * 900}')"), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query("insert into t values (1)"), answer=IN_TRANSACTION)
    scene.ask("c1", "p1.1", m.query("commit"))
    assert scene.recorder.held_bytes == 0
    for number in range(10):
        scene.ask("c1", "p1.1", m.query(f"insert into t values ({number})"))
    assert scene.units() == [[f'Query "insert into t values ({number})"'] for number in range(4)]
    assert scene.recorder.counts.dropped == 1 + 6
    assert scene.recorder.held_bytes <= 1000
    scene.close()


def test_a_client_that_leaves_takes_its_transaction_along(scene: Copied) -> None:
    scene.meet("c1")
    scene.ask("c1", "p1.1", m.query("begin"), answer=IN_TRANSACTION)
    scene.leave("c1")
    assert scene.units() == []
    assert scene.recorder.held_bytes == 0


def test_who_is_in_a_transaction_when_the_mirror_comes_is_passed_over(scene: Copied) -> None:
    client = scene.meet("c1")
    scene.recorder.pass_over(client)
    scene.ask("c1", "p1.1", m.query("commit"))
    scene.ask("c1", "p1.1", m.query("insert into t values (2)"))
    assert scene.units() == [['Query "insert into t values (2)"']]


def test_a_client_keeps_its_lane() -> None:
    scene = Copied(lanes=2)
    for name in ("c1", "c2"):
        scene.meet(name)
    for number in range(4):
        scene.ask(f"c{number % 2 + 1}", "p1.1", m.query(f"insert into t values ({number})"))
    assert [[unit.data[-4:-2] for unit in lane.waiting] for lane in scene.recorder.lanes] == [
        [b"(0", b"(2"],
        [b"(1", b"(3"],
    ]
    scene.close()


# -- lanes -------------------------------------------------------------------------------------------------


def filled(scene: Copied, *texts: str) -> Lane:
    scene.meet("c1")
    for text in texts:
        scene.ask("c1", "p1.1", m.query(text))
    return scene.recorder.lanes[0]


def test_a_link_works_on_one_unit_at_a_time(scene: Copied) -> None:
    lane = filled(scene, "insert into t values (1)", "insert into t values (2)")
    assert said(lane.next()) == ['Query "insert into t values (1)"']
    assert lane.next() == b""
    assert said(lane.ready(0x49)) == ['Query "insert into t values (2)"']
    assert lane.ready(0x49) == b""
    assert lane.state is LaneState.RESTS
    counts = scene.recorder.counts
    assert (counts.mirrored, counts.statements, counts.failed) == (2, 2, 0)
    assert scene.recorder.held_bytes == 0


def test_parameters_are_put_in_force_first(scene: Copied) -> None:
    scene.meet("c1").parameters = Parameters({"search_path": "x"})
    scene.links["p1.1"].parameters = scene.clients["c1"].parameters
    lane = filled_again(scene, "insert into t values (1)", "insert into t values (2)")
    assert said(lane.next()) == ["Query \"SELECT pg_catalog.set_config(E'search_path',E'x',false)\""]
    assert said(lane.ready(0x49)) == ['Query "insert into t values (1)"']
    assert said(lane.ready(0x49)) == ['Query "insert into t values (2)"']


def filled_again(scene: Copied, *texts: str) -> Lane:
    for text in texts:
        scene.ask("c1", "p1.1", m.query(text))
    return scene.recorder.lanes[0]


def test_nothing_is_done_under_other_parameters(scene: Copied) -> None:
    scene.meet("c1").parameters = Parameters({"search_path": "x"})
    scene.links["p1.1"].parameters = scene.clients["c1"].parameters
    lane = filled_again(scene, "insert into t values (1)", "insert into t values (2)")
    lane.next()
    lane.error("22023")
    assert said(lane.ready(0x49))[0] == 'Query "DISCARD ALL"'
    assert scene.recorder.counts.failed == 1
    assert lane.ready(0x49) == b""
    assert said(lane.ready(0x49)) == ['Query "insert into t values (2)"']


def test_a_link_is_made_as_new_behind_what_left_something(scene: Copied) -> None:
    lane = filled(scene, "listen a")
    scene.send("p1.1", m.command_complete("SELECT 0") + m.ready_for_query(b"I"))
    filled_again(scene, "insert into t values (1)")
    assert said(lane.next()) == ['Query "listen a"']
    assert said(lane.ready(0x49)) == ['Query "DISCARD ALL"']
    assert said(lane.ready(0x49)) == ['Query "insert into t values (1)"']


def test_a_transaction_that_does_not_end_there_is_ended(scene: Copied) -> None:
    lane = filled(scene, "insert into t values (1)", "insert into t values (2)")
    lane.next()
    lane.error("42P01")
    assert said(lane.ready(0x45)) == ['Query "ROLLBACK"']
    assert said(lane.ready(0x49)) == ['Query "insert into t values (2)"']
    assert scene.recorder.counts.errors == {"42P01": 1}


def test_what_a_lost_link_worked_on_is_not_sent_again(scene: Copied) -> None:
    lane = filled(scene, "insert into t values (1)", "insert into t values (2)")
    lane.next()
    lane.broken()
    assert scene.recorder.counts.failed == 1
    assert said(lane.next()) == ['Query "insert into t values (2)"']
    lane.broken()
    lane.broken()
    assert scene.recorder.counts.failed == 2
    assert scene.recorder.held_bytes == 0
