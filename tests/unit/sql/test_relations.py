"""Whatever table a statement names is found, wherever it stands; with the grammar and without it."""

import pytest

from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.relations import Relation, relations

pytestmark = pytest.mark.once

T = Relation("", "t")
ST = Relation("s", "t")

NAMED = [
    ("select * from t", T),
    ("select * from T", T),
    ('select * from "T"', Relation("", "T")),
    ("select * from s.t as x", ST),
    ("select 1 from a left join s.t using (x)", ST),
    ("select (select max(x) from t)", T),
    ("with t as (select 1) select * from t", T),
    ("with x as (delete from s.t returning *) select * from x", ST),
    ("select 1 union select x from s.t", ST),
    ("table t", T),
    ("insert into s.t values (1)", ST),
    ("insert into a select * from t", T),
    ("update a set x = 1 from t", T),
    ("delete from a using s.t", ST),
    ("merge into a using t on a.x = t.x when matched then delete", T),
    ("copy s.t from stdin", ST),
    ("copy (select * from t) to stdout", T),
    ("explain select * from t", T),
    ("prepare p as select * from t", T),
    ("declare c cursor for select * from t", T),
    ("create table a as select * from t", T),
    ("create view v as select * from s.t", ST),
    ("create table a (like t)", T),
    ("create index on s.t (x)", ST),
    ("alter table t rename to v", T),
    ("truncate a, s.t", ST),
    ("lock table t", T),
    ("grant select on s.t to public", ST),
    ("drop table a, s.t", ST),
    ("drop trigger r on t", T),
    ("comment on column s.t.c is 'x'", ST),
    ("comment on table t is 'x'", T),
    ("select 1; select * from t", T),
    ("select * from a where x in (1, 2) and exists (table s.t)", ST),
]


@pytest.mark.parametrize("is_available", [True, False])
@pytest.mark.parametrize(("text", "relation"), NAMED)
def test_a_table_is_found(
    text: str, relation: Relation, is_available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "AVAILABLE", is_available)
    assert relation in (relations(text) or ())


def test_other_names_are_not_tables() -> None:
    assert relations("select t.x as s, t(1), 't' from a t order by t") == {Relation("", "a")}
    assert relations("select 1") == frozenset()


def test_the_words_of_code_may_be_tables() -> None:
    assert T in (relations("do $$ begin perform * from S.T; end $$") or ())
    assert T in (relations("do language plpgsql 'delete from t'") or ())


@pytest.mark.parametrize("is_available", [True, False])
@pytest.mark.parametrize("text", ["select 'unterminated", "select \0", "x" * 20000, "select \udcff"])
def test_what_is_not_understood_names_nothing_sure(
    text: str, is_available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "AVAILABLE", is_available)
    assert relations(text) is None


def test_code_is_not_understood_without_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "AVAILABLE", False)
    assert relations("do 'select 1'") is None
