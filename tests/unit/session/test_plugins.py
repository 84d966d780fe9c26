"""What plugins make of statements: refused, answered, or logged without secrets."""

import re

import pytest

from pgcat_cluster.relay import marks
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.session.plugins import PoolPlugins, plugins_of
from pgcat_cluster.session.replies import CommandAnswer, description, execution_frames
from pgcat_cluster.topology.model import PoolKey
from pgcat_cluster.topology.reading import parse
from pgcat_cluster.topology.settings import Plugins, Prewarmer
from pgcat_cluster.wire import messages

KEY = PoolKey("sales", "app")


def plugins(text: str) -> PoolPlugins:
    settings = parse(re.sub(r"^\[", "[fleet.plugins.", text, flags=re.MULTILINE), "x").fleet.plugins
    assert settings is not None
    made = plugins_of(settings, KEY)
    assert made is not None
    return made


def judged(of: PoolPlugins, text: str) -> CommandAnswer | None:
    data = text.encode(errors="surrogateescape")
    flow = of.judge(data, Scanner().scan(bytearray(data), 0, len(data)))
    if flow is None:
        return None
    assert flow.flags == marks.CALLS | marks.COMMAND
    assert isinstance(flow.detail, CommandAnswer)
    return flow.detail


def refused(of: PoolPlugins, text: str) -> str:
    found = judged(of, text)
    return f"{found.fault.sqlstate} {found.fault}" if found is not None and found.fault is not None else ""


ACCESS = "[table_access]\nenabled = true\ntables = ['secret', 'audit.log', '\"Big\".\"T\"']"


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("select * from secret", "secret"),
        ("select * from any_schema.SECRET s where x = 1", "secret"),
        ("insert into audit.log values ('x')", "log"),
        ("select * from log", "log"),
        ('select * from "Big"."T"', "T"),
        ('select * from "T"', "T"),
        ("do $$ begin delete from secret; end $$", "secret"),
        ("select 1; drop table secret", "secret"),
    ],
)
def test_a_table_is_refused(text: str, table: str) -> None:
    assert refused(plugins(ACCESS), text) == f'42501 permission for table "{table}" denied'


@pytest.mark.parametrize(
    "text",
    [
        "select * from public.log",
        'select * from "Secret"',
        'select * from public."T"',
        "select * from t",
        "select secret from notes where text = 'secret'",
        "do $$ begin delete from notes; end $$",
        "begin",
    ],
)
def test_other_tables_are_not(text: str) -> None:
    assert judged(plugins(ACCESS), text) is None


@pytest.mark.parametrize("text", ["selct * from secret", "select 'unterminated", "select \udcff"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    assert refused(plugins(ACCESS), text).startswith(
        "42501 permission for a statement that is not understood denied"
    )


ANSWER = """[intercept]
enabled = true
[intercept.queries.0]
query = "SELECT current_database() AS a, 5, 'X'"
schema = [["a", "text"], ["b", "int4"], ["c", "bool"], ["d", "whatever"]]
result = [["${DATABASE}/${USER}", "5", "t", ""], ["", "-1", "f", "x"]]
[table_access]
enabled = true
tables = ["secret"]
[intercept.queries.1]
query = "select * from secret"
schema = []
"""


def test_an_intercepted_statement_is_answered_whatever_its_layout() -> None:
    of = plugins(ANSWER)
    answer = judged(of, "select  current_database() as a,5, /* x */ 'X' ;")
    assert answer is not None
    assert description(answer.columns) == messages.row_description(
        [("a", 25, -1), ("b", 23, 4), ("c", 16, 1), ("d", 2276, 4)]
    )
    assert execution_frames(answer) == (
        messages.data_row([b"sales/app", b"5", b"t", None])
        + messages.data_row([None, b"-1", b"f", b"x"])
        + messages.command_complete("SELECT 2")
    )


@pytest.mark.parametrize("text", ["select current_database() as a, 6, 'X'", "select 1", "select '"])
def test_another_statement_is_not_intercepted(text: str) -> None:
    found = judged(plugins(ANSWER), text)
    assert found is None or found.fault is not None


def test_what_is_intercepted_is_not_refused() -> None:
    assert refused(plugins(ANSWER), "select * from secret") == ""
    assert refused(plugins(ANSWER), "select * from secret where true") != ""


def test_values_have_a_binary_form_where_their_type_has_one() -> None:
    answer = judged(plugins(ANSWER), "select current_database() as a, 5, 'X'")
    assert answer is not None
    assert description(answer.columns, [1, 1, 1, 0]) == messages.row_description(
        [("a", 25, -1), ("b", 23, 4), ("c", 16, 1), ("d", 2276, 4)], [1, 1, 1, 0]
    )
    assert execution_frames(answer, [1, 1, 1, 0]).startswith(
        messages.data_row([b"sales/app", b"\0\0\0\5", b"\1", None])
    )
    refusal = execution_frames(answer, [1])
    assert refusal[:1] == b"E"
    assert b"C0A000" in refusal
    assert b'column "d"' in refusal


def test_shapes_with_an_intercepted_statement_are_looked_at_each_time() -> None:
    of = plugins(ANSWER)
    shape = Scanner().scan(bytearray(b"select current_database() as a, 7, 'y'"), 0, 38)
    assert shape is not None
    assert of.depends_on_constants(shape)
    assert not of.depends_on_constants(b"select 1")


LOGGER = "[query_logger]\nenabled = true\nconstants = "


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("SELECT * FROM t WHERE a = 'x' AND b IN (1, 2)", "select * from t where a = ? and b in (?, ...)"),
        ("insert into t values (1, 'x'), (2, 'y')", "insert into t values (?, ?), ..."),
        ("alter role app password 'hunter2'", "alter role app password ?"),
        ("select 'hunter2", "(not understood, 15 bytes)"),
        ("select 1 /* hunter2 */", "select ?"),
    ],
)
def test_statements_are_logged_without_constants(text: str, line: str) -> None:
    assert plugins(LOGGER + "false").logged(text.encode()) == line


def test_constants_are_logged_where_asked_for_but_no_passwords() -> None:
    of = plugins(LOGGER + "true")
    assert of.logged(b"SELECT  'x' -- why") == "SELECT  'x' -- why"
    for text in (
        "ALTER ROLE app PassWord E'hunter2'",
        "create user app encrypted password $$hunter2$$",
        "create user mapping for app server s options (password 'hunter2')",
        "create subscription s connection 'host=a pass=hunter2' publication p",
        "alter role app password 'hunter2' /* unterminated",
    ):
        assert "hunter2" not in of.logged(text.encode())


def test_a_pool_whose_plugins_look_at_no_statement_has_none() -> None:
    assert plugins_of(None, KEY) is None
    assert plugins_of(Plugins(), KEY) is None
    assert plugins_of(Plugins(prewarmer=Prewarmer(enabled=True, queries=["select 1"])), KEY) is None
