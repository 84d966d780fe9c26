"""When servers are asked of their functions, and what becomes of decisions when the answer is another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgcat_cluster.session.catalogs import CATALOG_AGE_S
from pgcat_cluster.sql.volatility import CATALOG_QUERY
from pgcat_cluster.wire import messages as m
from tests.support.scene import Scene

QUESTION = m.query(CATALOG_QUERY)
ANSWER = m.command_complete("SELECT 0") + m.ready_for_query(b"I")
CALL = m.query("select f(1)")


class Asked(Scene):
    """A primary with a link, a replica with one, and a client; nothing is answered yet."""

    def __init__(self) -> None:
        super().__init__(options={"functions": "catalog"})
        self.bring("p1")
        self.bring("r1")
        self.meet("c1")

    def took(self, name: str) -> bytes:
        return self.ends[name].take()

    def tell(self, link: str = "p1.1", **volatile: bool) -> None:
        """The primary is asked, and says which functions of a schema there are."""
        assert self.took(link) == QUESTION
        rows = [
            m.data_row([b"public", name.encode(), b"t" if is_volatile else b"f"])
            for name, is_volatile in volatile.items()
        ]
        self.send(link, b"".join(rows) + ANSWER)

    def call(self, link: str, text: bytes = CALL, client: str = "c1") -> None:
        """A client calls a function, and this link gets it."""
        self.send(client, text)
        assert self.took(link) == text
        self.send(link, ANSWER)
        assert self.took(client) == ANSWER


@pytest.fixture
def scene() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.check()
    made.close()


def test_the_first_link_asks_before_it_serves(scene: Asked) -> None:
    scene.send("c1", CALL)
    assert scene.clients["c1"].waiting
    scene.tell(f=False)
    # It was decided before anything was known.
    assert scene.took("p1.1") == CALL
    scene.send("p1.1", ANSWER)
    scene.took("c1")
    scene.call("r1.1")
    assert scene.took("r1.1") == b""


def test_a_change_judges_all_anew(scene: Asked) -> None:
    scene.tell(f=False)
    for _ in range(3):
        scene.call("r1.1")
    prepare = m.parse("s", "select f(2)") + m.sync()
    scene.send("c1", prepare)
    link = "r1.1" if scene.links["r1.1"].client is not None else "p1.1"
    scene.send(link, m.close_complete() + m.parse_complete() + m.ready_for_query(b"I"))
    scene.took("c1")
    statement = scene.clients["c1"].statements[b"s"]
    assert statement.flow.role == 1
    scene.wait(CATALOG_AGE_S + 1)
    scene.took("r1.1")
    scene.tell(f=True)
    scene.call("p1.1")
    assert (statement.flow.role, statement.flow.reason) == (0, "calls a volatile function f()")


def test_a_batch_whose_text_is_not_kept_judges_nothing(scene: Asked) -> None:
    scene.tell(f=False)
    for number in range(3):
        scene.send("c1", m.parse("", f"select f({number})") + m.bind("", "") + m.execute("") + m.sync())
        scene.send("r1.1", m.parse_complete() + m.bind_complete() + ANSWER)
    unnamed = scene.clients["c1"].unnamed
    assert unnamed is not None
    assert unnamed.flow.role == 1
    scene.wait(CATALOG_AGE_S + 1)
    scene.tell(f=True)
    unnamed = scene.clients["c1"].unnamed
    assert unnamed is not None
    assert (unnamed.flow.role, unnamed.flow.reason) == (0, "calls a volatile function f()")


def test_who_defines_waits_until_it_is_known(scene: Asked) -> None:
    scene.tell(f=True)
    scene.call("p1.1")
    definition = m.query("create or replace function f(int) returns int stable language sql as 'select 1'")
    scene.send("c1", definition + CALL)
    assert scene.took("p1.1") == definition
    scene.send("p1.1", m.command_complete("CREATE FUNCTION") + m.ready_for_query(b"I"))
    assert scene.took("r1.1") == b""
    scene.tell(f=False)
    assert scene.took("r1.1") == CALL
    scene.send("r1.1", ANSWER)


def test_after_code_it_asks_soon(scene: Asked) -> None:
    scene.tell(f=True)
    scene.send("c1", m.query("do $$ begin end $$"))
    scene.took("p1.1")
    scene.send("p1.1", m.command_complete("DO") + m.ready_for_query(b"I"))
    scene.took("p1.1")
    scene.send("p1.1", ANSWER)
    # The link is reset.
    scene.took("p1.1")
    scene.send("p1.1", m.command_complete("DISCARD ALL") + m.ready_for_query(b"I"))
    assert scene.took("p1.1") == b""
    scene.wait(1.5)
    scene.tell(f=False)
    scene.took("c1")
    scene.call("r1.1")


def test_an_older_answer_is_not_taken_for_a_newer_one(scene: Asked) -> None:
    scene.bring("p1")
    scene.tell(f=False)
    scene.wait(CATALOG_AGE_S + 1)
    asking = next(name for name in ("p1.1", "p1.2") if scene.took(name) == QUESTION)
    other = "p1.2" if asking == "p1.1" else "p1.1"
    definition = m.query("create or replace function f(int) returns int volatile language sql as 'select 1'")
    scene.send("c1", definition)
    assert scene.took(other) == definition
    scene.send(other, m.command_complete("CREATE FUNCTION") + m.ready_for_query(b"I"))
    scene.tell(other, f=True)
    scene.send(asking, m.data_row([b"public", b"f", b"f"]) + ANSWER)
    scene.took("c1")
    scene.send("c1", CALL)
    assert scene.took("r1.1") == b""


def test_a_standby_is_not_believed(scene: Asked) -> None:
    """A definition was sent there by a wish of the session, and refused."""
    scene.tell(f=True)
    scene.clients["c1"].role_wish = 3
    definition = m.query("create or replace function f(int) returns int stable language sql as 'select 1'")
    scene.send("c1", definition)
    assert scene.took("r1.1") == definition
    scene.send("r1.1", m.command_complete("CREATE FUNCTION") + m.ready_for_query(b"I"))
    scene.tell("r1.1", f=False)
    scene.clients["c1"].role_wish = -1
    scene.took("c1")
    scene.call("p1.1")


def test_without_it_nobody_is_asked() -> None:
    scene = Scene()
    scene.bring("p1")
    assert scene.ends["p1.1"].take() == b""
    scene.meet("c1")
    definition = m.query("create function f() returns int language sql as 'select 1'")
    scene.send("c1", definition)
    assert scene.ends["p1.1"].take() == definition
    scene.send("p1.1", m.command_complete("CREATE FUNCTION") + m.ready_for_query(b"I"))
    assert scene.ends["p1.1"].take() == b""
    assert scene.links["p1.1"].resting
    scene.close()


def test_when_all_is_forgotten_names_of_statements_stay_apart(scene: Asked) -> None:
    """A client that prepared before holds its statement, and a server knows it by its name."""
    desk = scene.desk
    flow = desk.session_flow
    before = desk.statements.make(b"select 1", b"\0\0", flow)
    desk.forget()
    assert desk.statements.get(b"select 1\0\0\0") is None
    assert desk.statements.make(b"delete from t", b"\0\0", flow).server_name != before.server_name
