"""From what a statement is to a flow: role, flags, and the names that travel with it."""

from __future__ import annotations

import pytest

from pgcat_cluster.relay import marks
from pgcat_cluster.session.decisions import ANY_PARAMETER, UNKNOWN, flow_of, runs_code
from pgcat_cluster.sql.analysis import analyze

NAMES = {
    value: name
    for name, value in vars(marks).items()
    if name
    in ("READS", "ENDS", "LEAVES", "UNCLEAN", "SEQUENCES", "CALLS", "FORGETS", "UNPINS", "WRITES", "LOADS")
}


def flags_of(flags: int) -> set[str]:
    return {name for value, name in NAMES.items() if flags & value}


@pytest.mark.parametrize(
    ("text", "role", "flags"),
    [
        ("select 1", marks.REPLICA, "READS"),
        ("show work_mem", marks.REPLICA, "READS"),
        ("select 1 for update", marks.PRIMARY, "WRITES"),
        ("insert into t values (1)", marks.PRIMARY, "WRITES"),
        ("begin", marks.PRIMARY, ""),
        ("begin read only", marks.REPLICA, ""),
        ("commit", marks.PRIMARY, "ENDS"),
        ("rollback", marks.PRIMARY, "ENDS"),
        ("prepare transaction 'x'", marks.PRIMARY, "ENDS"),
        ("set work_mem = 1", marks.PRIMARY, "LEAVES WRITES"),
        ("listen x", marks.PRIMARY, "LEAVES WRITES"),
        ("create temp table x (n int)", marks.PRIMARY, "LEAVES WRITES"),
        ("drop table x", marks.PRIMARY, "UNPINS WRITES"),
        ("unlisten *", marks.PRIMARY, "UNPINS WRITES"),
        ("select pg_advisory_lock(1)", marks.PRIMARY, "LEAVES WRITES"),
        ("select pg_advisory_unlock(1)", marks.PRIMARY, "UNPINS WRITES"),
        ("select lastval()", marks.PRIMARY, "SEQUENCES WRITES"),
        ("do $$ begin end $$", marks.PRIMARY, "ENDS LEAVES UNCLEAN WRITES"),
        ("load 'x'", marks.PRIMARY, "LEAVES WRITES LOADS"),
        ("discard all", marks.PRIMARY, "LEAVES FORGETS WRITES"),
        ("deallocate all", marks.PRIMARY, "UNPINS FORGETS WRITES"),
        ("deallocate s", marks.PRIMARY, "UNPINS CALLS LEAVES WRITES"),
        ("execute s", marks.PRIMARY, "ENDS LEAVES CALLS WRITES"),
    ],
)
def test_flow(text: str, role: int, flags: str) -> None:
    flow = flow_of(analyze(text), "replicas")
    assert (flow.role, flags_of(flow.flags)) == (role, set(flags.split()))
    assert flow.reason or flow.role == marks.REPLICA


def test_a_pool_that_reads_from_its_primary() -> None:
    flow = flow_of(analyze("select 1"), "primary")
    assert flow.role == marks.PRIMARY
    assert flags_of(flow.flags) == {"READS"}


def test_what_is_not_understood() -> None:
    assert flow_of(analyze("frobnicate"), "replicas") is UNKNOWN
    assert UNKNOWN.role == marks.PRIMARY
    assert flags_of(UNKNOWN.flags) == {"UNCLEAN", "WRITES", "ENDS"}
    assert UNKNOWN.parameters == (ANY_PARAMETER,)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("set work_mem = 1", ()),
        ("set app.x = 1", ("app.x",)),
        ("set App.X = 1; reset app.y", ("app.x", "app.y")),
        ("select set_config('app.x', 'v', false)", ("app.x",)),
        ("select set_config($1, 'v', false)", (ANY_PARAMETER,)),
        ("select 1", ()),
    ],
)
def test_custom_parameters(text: str, parameters: tuple[str, ...]) -> None:
    assert flow_of(analyze(text), "replicas").parameters == parameters


def test_names_that_code_mentions_are_added() -> None:
    flow = flow_of(analyze("do $$ begin end $$"), "replicas", ("app.x",))
    assert "app.x" in flow.parameters


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("deallocate s", b"s"),
        ("deallocate S", b"s"),
        ('deallocate "S"', b"S"),
        ("deallocate all", None),
        ("deallocate s; select 1", None),
        ("execute s", None),
        ("select 1", None),
    ],
)
def test_the_name_of_a_lone_deallocate(text: str, name: bytes | None) -> None:
    assert flow_of(analyze(text), "replicas").detail == name


@pytest.mark.parametrize(
    ("text", "runs"), [("do $$ $$", True), ("call f()", True), ("execute s", False), ("select 1", False)]
)
def test_which_code_nobody_has_looked_at(text: str, runs: bool) -> None:
    assert runs_code(analyze(text)) is runs
