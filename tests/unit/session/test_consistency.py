"""Read your writes in the relay and the session: who waits for whom, and what goes on at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.server import Server
from pgcat_cluster.session.answers import answer
from pgcat_cluster.session.decisions import COMMAND
from pgcat_cluster.session.keyed import Asked
from pgcat_cluster.session.positions import POSITION_QUERY, Told
from pgcat_cluster.wire import messages as m
from tests.support.player import fields_of
from tests.support.scene import Scene

QUESTION = m.query(POSITION_QUERY.decode())
READ, WRITE = m.query("select 1"), m.query("update t set n = 1")
ANSWER = m.command_complete("SELECT 0") + m.ready_for_query(b"I")
OPTIONS = {"consistency": "session", "consistency_wait_s": "0.2"}


class Followed(Scene):
    """Servers on timeline 1 that say how far they are, and a client that writes at position 100."""

    def __init__(self, *replicas: str, **options: str) -> None:
        super().__init__(servers=("p1", *replicas), options=OPTIONS | options)
        for name in ("p1", *replicas):
            self.look(name, 50)
            self.tell(self.bring(name), 50)
        self.meet("c1")

    def look(self, name: str, lsn: int, *, timeline: int = 1, started_at: str = "7") -> None:
        """A probe has come back."""
        told = Told(not self.pools[name].leads, started_at, timeline, lsn)
        self.control.consistency.observe(self.pools[name], told, self.now)
        self.settle()

    def tell(self, link: Server, lsn: int, *, timeline: int = 1, started_at: str = "7") -> None:
        """A server is asked how far it is, and answers."""
        name = self.name_of(link)
        assert self.took(name) == QUESTION
        leads = link.pool.leads
        row = [
            b"f" if leads else b"t",
            started_at.encode(),
            b"%08X" % timeline if leads else None,
            b"%d" % lsn,
            b"8192",
            b"16777216",
        ]
        self.send(name, m.data_row(row) + ANSWER)

    def took(self, name: str) -> bytes:
        return self.ends[name].take()

    def write(self, client: str = "c1", *, lsn: int = 100, timeline: int = 1) -> None:
        self.send(client, WRITE)
        assert self.took("p1.1") == WRITE
        self.send("p1.1", ANSWER)
        # The client has its answer before anybody knows the position.
        assert self.took(client) == ANSWER
        self.tell(self.links["p1.1"], lsn, timeline=timeline)
        self.now += 1.0

    def read(self, client: str = "c1") -> None:
        self.send(client, READ)

    def finish(self, link: str, client: str = "c1") -> None:
        assert self.took(link) == READ
        self.send(link, ANSWER)
        assert self.took(client) == ANSWER


@pytest.fixture
def scene() -> Iterator[Followed]:
    made = Followed("r1", "r2")
    yield made
    made.check()
    made.close()


def test_the_next_request_waits_until_the_position_is_known(scene: Followed) -> None:
    scene.send("c1", WRITE + READ)
    scene.took("p1.1")
    scene.send("p1.1", ANSWER)
    assert scene.took("c1") == ANSWER
    assert scene.took("r1.1") == scene.took("r2.1") == b""
    scene.look("r1", 100)
    scene.tell(scene.links["p1.1"], 100)
    scene.finish("r1.1")


def test_who_wrote_nothing_is_not_asked_about(scene: Followed) -> None:
    upcalls = []
    for _ in range(4):
        scene.read()
        link = "r1.1" if scene.links["r1.1"].client is not None else "r2.1"
        scene.finish(link)
        upcalls.append(scene.desk.upcalls)
    assert upcalls[2] == upcalls[3]


def test_who_has_not_replayed_a_write_is_told(scene: Followed) -> None:
    def servers() -> list[str]:
        found = answer(scene.clients["c1"], COMMAND, Asked(text=b"explain route select 1"))
        return [row[0].strip() for row in found.rows if row[0] and "Server:" in row[0]]

    leads = 'Server: main/p1 refused: the primary, which takes reads "when_no_replica"'
    eligible = ["Server: main/r1 eligible, weight 100", "Server: main/r2 eligible, weight 100"]
    assert servers() == [leads, *eligible]
    scene.write(lsn=(3 << 32) + 0xA0)
    assert servers() == [
        leads,
        *(f"Server: main/{name} refused: has not replayed 1:3/A0" for name in ("r1", "r2")),
    ]
    scene.look("r2", (3 << 32) + 0xA0)
    assert servers() == [leads, "Server: main/r1 refused: has not replayed 1:3/A0", eligible[1]]


def test_a_read_goes_on_at_once_where_its_write_is_known(scene: Followed) -> None:
    scene.write()
    scene.look("r2", 100)
    for _ in range(4):
        scene.read()
        scene.finish("r2.1")
    upcalls = scene.desk.upcalls
    scene.read()
    scene.finish("r2.1")
    assert scene.desk.upcalls == upcalls
    # All of them have it: chance decides again.
    scene.look("r1", 100)
    for _ in range(20):
        scene.read()
        scene.finish("r1.1" if scene.links["r1.1"].client is not None else "r2.1")
    assert scene.links["r1.1"].queries > 0


def test_a_read_asks_and_goes_to_the_first_who_has_it(scene: Followed) -> None:
    scene.write()
    scene.read()
    scene.tell(scene.links["r1.1"], 99)
    assert scene.clients["c1"].waiting
    scene.tell(scene.links["r2.1"], 100)
    scene.finish("r2.1")


def test_it_asks_again_after_a_moment(scene: Followed) -> None:
    scene.write()
    scene.read()
    scene.tell(scene.links["r1.1"], 98)
    scene.tell(scene.links["r2.1"], 98)
    assert scene.took("r1.1") == b""
    scene.wait(0.01)
    scene.tell(scene.links["r1.1"], 99)
    scene.wait(0.01)
    scene.tell(scene.links["r1.1"], 100)
    scene.finish("r1.1")


def test_who_is_not_served_in_time_reads_the_primary(scene: Followed) -> None:
    scene.write()
    scene.read()
    scene.wait(0.19)
    assert scene.clients["c1"].waiting
    scene.wait(0.02)
    scene.finish("p1.1")
    # It only read: there is nothing new to wait for.
    assert scene.took("p1.1") == b""
    scene.tell(scene.links["r1.1"], 100)
    scene.tell(scene.links["r2.1"], 99)
    scene.read()
    scene.finish("r1.1")


@pytest.mark.parametrize(
    ("options", "wish"),
    [({"reads_on_primary": "never"}, -1), ({}, marks.STANDBY)],
    ids=["by settings", "by a wish"],
)
def test_where_the_primary_is_forbidden_the_read_fails(options: dict[str, str], wish: int) -> None:
    scene = Followed("r1", **options)
    scene.write()
    scene.clients["c1"].role_wish = wish
    scene.read()
    scene.wait(0.3)
    error = scene.took("c1")
    fields = fields_of(error[5:])
    assert fields["C"] == "57014"
    assert fields["D"] == "waited 0.300 s for 1:0/64; r1: 1:0/32"
    assert error.endswith(m.ready_for_query(b"I"))
    scene.clients["c1"].role_wish = -1
    scene.look("r1", 100)
    scene.took("r1.1")
    scene.send("r1.1", m.data_row([b"t", b"7", None, b"100", b"8192", b"16777216"]) + ANSWER)
    scene.read()
    scene.finish("r1.1")
    scene.close()


def test_what_was_known_says_nothing_about_a_new_link(scene: Followed) -> None:
    """The server may have begun anew, with less than it had."""
    scene.write()
    scene.look("r1", 100)
    scene.leave("r1.1")
    link = scene.bring("r1")
    scene.read()
    # The question goes first: what has come back is of an earlier life.
    scene.tell(link, 60)
    assert scene.clients["c1"].waiting
    scene.wait(0.01)
    scene.tell(link, 100)
    scene.finish("r1.2")


def test_a_server_that_began_anew_is_not_believed_before_a_probe_knows_its_timeline(scene: Followed) -> None:
    scene.write()
    scene.read()
    scene.tell(scene.links["r1.1"], 100, started_at="8")
    scene.tell(scene.links["r2.1"], 99)
    assert scene.clients["c1"].waiting
    scene.look("r1", 100, started_at="8")
    scene.finish("r1.1")


def test_a_probe_begun_before_the_newest_link_tells_nothing_about_it(scene: Followed) -> None:
    begun = scene.now
    scene.wait(1.0)
    link = scene.bring("r1")
    scene.control.consistency.observe(scene.pools["r1"], Told(True, "7", 1, 100), begun)
    assert scene.pools["r1"].replayed == 0
    scene.tell(link, 100)
    assert scene.pools["r1"].replayed == 100


def test_another_timeline_is_never_replayed_by_comparison(scene: Followed) -> None:
    scene.write(lsn=100)
    # A replica went on by itself; and one that follows another primary now.
    scene.look("r1", 500, timeline=2)
    scene.look("r2", 500, timeline=0)
    scene.read()
    assert scene.clients["c1"].waiting
    scene.wait(0.3)
    for name in ("r1.1", "r2.1"):
        scene.took(name)
    scene.finish("p1.1")


def test_after_a_promotion_a_position_is_where_the_new_primary_is(scene: Followed) -> None:
    scene.write(lsn=100)
    scene.lead("r1")
    scene.look("r1", 300, timeline=2)
    scene.look("r2", 250, timeline=2)
    scene.read()
    assert scene.clients["c1"].waiting
    assert repr(scene.clients["c1"].positions[0]) == "2:0/12C"
    scene.tell(scene.links["r2.1"], 300)
    scene.finish("r2.1")


def test_a_position_of_a_timeline_to_come_is_waited_for(scene: Followed) -> None:
    """The node that gave the token follows a primary that this node does not know yet."""
    client = scene.clients["c1"]
    with_token = "set pgcat.wait_for = '{}'"
    other = Followed("r1")
    other.write(lsn=100, timeline=3)
    other.send("c1", m.query("show pgcat.consistency_token"))
    token = other.took("c1").split(b"c1.")[1].split(b"C\0")[0].decode()
    other.close()
    scene.send("c1", m.query(with_token.format("c1." + token)))
    assert scene.took("c1").endswith(m.command_complete("SET") + m.ready_for_query(b"I"))
    assert repr(client.positions[0]) == "3:0/64"
    scene.read()
    scene.wait(0.3)
    assert fields_of(scene.took("c1")[5:])["D"] == "the primary is on timeline 1, 3:0/64 was asked for"


def test_who_waits_for_one_server_looks_elsewhere_when_it_goes(scene: Followed) -> None:
    scene.write()
    scene.look("r1", 100)
    scene.meet("c2")
    scene.meet("c3")
    scene.look("r2", 40)
    # Somebody has its only link.
    scene.avoid("r2", "lag")
    scene.read("c2")
    assert scene.links["r1.1"].client is scene.clients["c2"]
    scene.avoid("r2", "")
    scene.read()
    assert scene.clients["c1"].waiting
    assert scene.pools["r1"].alone is scene.clients["c1"].target
    scene.avoid("r1", "down")
    assert scene.desk.behind is scene.clients["c1"].target
    scene.wait(0.3)
    for name in ("r1.1", "r2.1"):
        scene.took(name)
    scene.finish("p1.1")


def test_a_server_that_would_be_stale_is_not_taken_from_the_queue(scene: Followed) -> None:
    """It was put among those who serve while somebody waited there."""
    scene.avoid("r2", "lag")
    scene.write()
    scene.look("r1", 100)
    scene.meet("c2")
    scene.read("c2")
    scene.read()
    assert scene.clients["c1"].waiting
    scene.avoid("r2", "")
    assert scene.clients["c1"].waiting
    assert scene.pools["r1"].alone is scene.clients["c1"].target
    scene.finish("r1.1", "c2")
    scene.finish("r1.1")


def test_a_write_that_a_standby_refused_counts(scene: Followed) -> None:
    text = m.query("select book()")
    scene.send("c1", text)
    link = "r1.1" if scene.links["r1.1"].client is not None else "r2.1"
    assert scene.took(link) == text
    refused = b"SERROR\0VERROR\0C25006\0Mread only\0\0"
    scene.send(link, b"E" + (len(refused) + 4).to_bytes(4, "big") + refused + m.ready_for_query(b"I"))
    assert scene.took("p1.1") == text
    scene.send("p1.1", ANSWER)
    scene.tell(scene.links["p1.1"], 100)
    assert repr(scene.clients["c1"].positions[0]) == "1:0/64"


def test_a_position_nobody_could_tell_is_replayed_nowhere(scene: Followed) -> None:
    scene.send("c1", WRITE)
    scene.took("p1.1")
    scene.send("p1.1", ANSWER)
    assert scene.took("p1.1") == QUESTION
    failed = b"SERROR\0VERROR\0C57014\0Mtoo slow\0\0"
    scene.send("p1.1", b"E" + (len(failed) + 4).to_bytes(4, "big") + failed + m.ready_for_query(b"I"))
    scene.took("c1")
    scene.read()
    scene.finish("p1.1")
    scene.send("c1", m.query("show pgcat.consistency_token"))
    assert fields_of(scene.took("c1")[5:])["C"] == "0A000"
    scene.write()
    scene.look("r1", 100)
    scene.read()
    scene.finish("r1.1")


def test_without_consistency_nobody_is_asked() -> None:
    scene = Scene(servers=("p1", "r1"))
    scene.bring("p1")
    scene.bring("r1")
    scene.meet("c1")
    scene.send("c1", WRITE)
    assert scene.ends["p1.1"].take() == WRITE
    scene.send("p1.1", ANSWER)
    assert scene.ends["p1.1"].take() == b""
    scene.send("c1", READ)
    assert scene.ends["r1.1"].take() == READ
    scene.close()
