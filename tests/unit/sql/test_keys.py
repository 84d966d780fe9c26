"""Which sharding keys a statement is bound to, construct by construct."""

from __future__ import annotations

import pytest

from pgcat_cluster.relay.shapes import Scanner, render
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import KeyRules, Term, Verdict, find_keys

pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")

RULES = KeyRules(
    "id",
    {"orders": "customer_id", "public.items": "customer_id", "x.odd": "k", 'y."Odd"': '"Key"'},
    frozenset({"countries"}),
)
ORDERS = "select * from orders o where "
"""Followed by a condition on `o`."""


def values(text: str, rules: KeyRules = RULES) -> str:
    """The values a statement is bound to, as they stand in it, or where it goes without."""
    keys = find_keys(text, rules)
    if keys.verdict is not Verdict.KEYED:
        return "anywhere" if keys.verdict is Verdict.ANYWHERE else f"nowhere: {keys.reason}"
    return " ".join(said(text, term) for term in keys.terms)


def said(text: str, term: Term) -> str:
    if term.parameter:
        value = f"${term.parameter}"
    else:
        rest = text.encode()[term.location :].decode()
        value = rest[: next((at for at, letter in enumerate(rest) if letter in " ,);]:"), len(rest))]
    sign = "-" if term.is_negative else ""
    cast = f"::{term.cast}" if term.cast else ""
    array = "[]" if term.is_array and (cast or term.parameter) else ""
    return f"{sign}{value}{cast}{array}{' in' if term.context == 'insert' else ''}"


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("customer_id = 5", "5"),
        ("o.customer_id = 5", "5"),
        ("5 = o.customer_id", "5"),
        ("((o.customer_id) = (5))", "5"),
        ("o.customer_id operator(pg_catalog.=) 5", "5"),
        ('"o"."customer_id" = 5', "5"),
        ("O.CUSTOMER_ID = 5", "5"),
        ("customer_id = -5", "-5"),
        ("customer_id = - 5", "-5"),
        ("customer_id = (-5)", "-5"),
        ("customer_id = -(5)", "-5"),
        ("customer_id = - /* - ( */ -- (-\n (5)", "-5"),
        ("customer_id = -(-5)", "5"),
        ("customer_id = +5", "5"),
        ("customer_id = 5000000000", "5000000000"),
        ("customer_id = -5.5", "-5.5"),
        ("customer_id = '5'", "'5'"),
        ("customer_id = E'5'", "E'5'"),
        ("customer_id = U&'5'", "U&'5'"),
        ("customer_id = $$5$$", "$$5$$"),
        ("customer_id = '5'::bigint", "'5'::int8"),
        ("customer_id = int '5'", "'5'::int4"),
        ("customer_id = cast(5 as pg_catalog.int8)", "5::int8"),
        ("customer_id = cast(-5 as bigint)", "-5::int8"),
        ("customer_id = -5::bigint", "-5::int8"),
        ("customer_id = '5'::x.number", "'5'::x.number"),
        ("customer_id = '5'::timestamp with time zone", "'5'::timestamptz"),
        ("customer_id = $1", "$1"),
        ("customer_id = $2::text", "$2::text"),
        ("customer_id in (5, -6, '7', $1)", "5 -6 '7' $1"),
        ("customer_id = any (array[5, 6])", "5 6"),
        ("customer_id = some (array[5, 6]::bigint[])", "5::int8 6::int8"),
        ("customer_id = any ('{5, 6}')", "'{5"),
        ("customer_id = any (('{5}'::bigint[]))", "'{5}'::int8[]"),
        ("customer_id = any (cast('{5}' as text[]))", "'{5}'::text[]"),
        ("customer_id = any (E'{5}')", "E'{5}'"),
        ("customer_id = any ($1)", "$1[]"),
        ("customer_id = some ($1::int4[])", "$1::int4[]"),
        ("customer_id = any (array[$1, '5']::int8[])", "$1::int8 '5'::int8"),
        ("customer_id between $1 and $1", "$1"),
        ("(customer_id, id) = (5, 6)", "5"),
        ("(id, customer_id) = (5, 6)", "6"),
        ("row(id, customer_id) = row(5, 6)", "6"),
        ("(id, customer_id) in ((5, 6), (7, 8))", "6 8"),
        ("customer_id = (select 5)", "5"),
        ("customer_id is not distinct from 5", "5"),
        ("-5::bigint is not distinct from o.customer_id", "-5::int8"),
        ("customer_id is not distinct from $1", "$1"),
        ("(id, customer_id) is not distinct from (5, $1)", "$1"),
        ("customer_id = 5 and id > 6", "5"),
        ("id > 6 and (true and customer_id = 5)", "5"),
        ("customer_id in (5, 6) and customer_id = 7", "7"),
        ("customer_id = 5 or customer_id = 6", "5 6"),
        ("(customer_id = 5 and id = 1) or customer_id in (6, 7)", "5 6 7"),
        ("id = 1 and (customer_id = 5 or customer_id = 5)", "5 5"),
    ],
)
def test_a_condition_binds(condition: str, found: str) -> None:
    assert values(ORDERS + condition) == found


@pytest.mark.parametrize(
    "condition",
    [
        "true",
        "id = 5",
        "customer_id <> 5",
        "customer_id > 5",
        "not customer_id = 5",
        "(customer_id = 5) is not true",
        "(customer_id = 5) = false",
        "customer_id is distinct from 5",
        "customer_id is not distinct from null",
        "customer_id is not distinct from (select 5)",
        "customer_id is not distinct from (select customer_id from items where customer_id = 5)",
        "(id, customer_id) is not distinct from (select 5, 6)",
        "(id, customer_id) is not distinct from (5, 6, 7)",
        "customer_id is not distinct from id",
        "customer_id = 5 or id = 5",
        "customer_id = 5 or true",
        "customer_id not in (5)",
        "customer_id = all (array[5])",
        "customer_id = all (select customer_id from items where customer_id = 5)",
        "customer_id <> any (array[5])",
        "customer_id between 5 and 5",
        "customer_id between $1 and $2",
        "customer_id not between $1 and $1",
        "customer_id = null",
        "customer_id = true",
        "customer_id = b'1'",
        "customer_id = 5 + 1",
        "customer_id = -$1",
        "customer_id = -'5'",
        "customer_id = @ 5",
        "customer_id = abs(5)",
        "customer_id + 0 = 5",
        "abs(customer_id) = 5",
        "customer_id::text = '5'",
        "customer_id = '5'::text::bigint",
        "customer_id = 'abc'::varchar(2)",
        "customer_id = '5'::numeric(3, 1)",
        "customer_id = N'5'",
        "customer_id = nchar '5'",
        "customer_id = '5'::bpchar",
        "customer_id = '5' collate \"C\"",
        "customer_id = all ('{5}')",
        "customer_id <> all ('{5}')",
        "customer_id <> any ($1)",
        "not customer_id = any ('{5}')",
        "5 = any (customer_id)",
        "customer_id = any (5)",
        "customer_id = any (null)",
        "customer_id = any (array[5, null])",
        "customer_id = any (array[array[5]])",
        "customer_id = any ('{5}'::bigint)",
        "customer_id = any ('{5}'::text::bigint[])",
        "customer_id = any ('{a}'::varchar(1)[])",
        "customer_id = any ('{{5}}'::bigint[][])",
        "customer_id = any ($1::bigint)",
        "customer_id = any ($1 || '{5}')",
        "customer_id = any (tags)",
        "customer_id = any (array[5, abs(6)])",
        "customer_id in (5, abs(6))",
        "customer_id in (5, null)",
        "customer_id operator(x.=) 5",
        "(o).customer_id = 5",
        "o = 5",
        '"Customer_ID" = 5',
        "x.customer_id = 5",
        "public.o.customer_id = 5",
        "case when customer_id = 5 then true end",
        "coalesce(customer_id = 5, true)",
        "customer_id = customer_id",
    ],
)
def test_a_condition_does_not_bind(condition: str) -> None:
    assert values(ORDERS + condition).startswith(
        "nowhere: the key of orders, customer_id, is not bound to a value"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # The names of tables.
        ("select * from orders where orders.customer_id = 5", "5"),
        ("select * from public.orders where orders.customer_id = 5", "5"),
        ("select * from public.orders where public.orders.customer_id = 5", "5"),
        ("select * from only (orders) where customer_id = 5", "5"),
        ("select * from items where customer_id = 5", "5"),
        ("select * from other.items where id = 5", "5"),
        ("select * from x.odd where k = 5", "5"),
        ('select * from y."Odd" where "Key" = 5', "5"),
        ("select * from accounts where id = 5", "5"),
        ("table countries", "anywhere"),
        ("select * from pg_catalog.pg_class, pg_class c, information_schema.tables", "anywhere"),
        # Joins.
        ("select * from orders o join items i on i.customer_id = o.customer_id where o.customer_id = 5", "5"),
        ("select * from orders o, items i where i.customer_id = o.customer_id and i.customer_id = 5", "5"),
        ("select * from orders o join items i on i.customer_id = o.customer_id and o.customer_id = 5", "5"),
        (
            "select * from orders o left join items i on i.customer_id = o.customer_id where o.customer_id"
            " = 5",
            "5",
        ),
        (
            "select * from orders o left join items i on i.customer_id = o.customer_id where i.customer_id"
            " = 5",
            "5",
        ),
        (
            "select * from items i right join orders o on i.customer_id = o.customer_id where o.customer_id"
            " = 5",
            "5",
        ),
        ("select * from countries c left join orders o on o.customer_id = 5", "5"),
        ("select * from orders o left join countries c on c.id = o.country where o.customer_id = 5", "5"),
        ("select * from orders o full join countries c on true where o.customer_id = 5", "5"),
        ("select * from orders o join items i using (customer_id) where o.customer_id = 5", "5"),
        ("select * from orders o join items i using (customer_id) where customer_id = 5", "5"),
        ("select * from orders o natural join items i where customer_id = 5", "5"),
        ("select * from orders o left join items i using (customer_id) where customer_id = 5", "5"),
        ("select * from items i right join orders o using (customer_id) where customer_id = 5", "5"),
        ("select * from (orders o join items i using (customer_id)) as j where j.customer_id = 5", "5"),
        ("select * from orders a, orders b where a.customer_id = 5 and b.customer_id = 6", "5 6"),
        (
            "select * from orders a join items b using (customer_id) join items c using (customer_id)"
            " where a.customer_id = 5",
            "5",
        ),
        # Subqueries.
        ("select * from (select * from orders where customer_id = 5) s", "5"),
        ("select * from countries where id in (select country from orders where customer_id = 5)", "5"),
        ("select (select count(*) from orders where customer_id = 5)", "5"),
        (
            "select * from orders o where customer_id = 5 and exists (select from items i where"
            " i.customer_id = o.customer_id)",
            "5",
        ),
        (
            "select * from orders where customer_id in (select customer_id from items where customer_id = 5)",
            "5",
        ),
        (
            "select * from orders where customer_id = (select customer_id from items where customer_id = 5)",
            "5",
        ),
        (
            "select * from orders where (id, customer_id) in (select id, customer_id from items where"
            " customer_id = 5)",
            "5",
        ),
        (
            "select * from orders o, lateral (select * from items i where i.customer_id = o.customer_id) s"
            " where o.customer_id = 5",
            "5",
        ),
        (
            "select * from (select customer_id from orders where customer_id = 5) s join items i on"
            " i.customer_id = s.customer_id",
            "5",
        ),
        (
            "select * from (select * from orders where customer_id = 5) s join items i using (customer_id)",
            "5",
        ),
        (
            "select * from (select customer_id from orders where customer_id = 5) s(k) join items i on"
            " i.customer_id = s.k",
            "5",
        ),
        ("select * from (select 5 as k union select 6) s join orders o on o.customer_id = s.k", "5 6"),
        ("select * from (values (5), (6)) v(k), orders o where o.customer_id = v.k", "5 6"),
        ("select array(select id from orders where customer_id = 5)", "5"),
        (
            "select * from orders where customer_id = 5 order by (select min(id) from items where"
            " customer_id = 6)",
            "5 6",
        ),
        ("select * from generate_series(1, (select max(id) from orders where customer_id = 5))", "5"),
        ("values ((select max(id) from orders where customer_id = 5))", "5"),
        # WITH.
        ("with w as (select * from orders where customer_id = 5) select * from w", "5"),
        (
            "with w as (select * from orders where customer_id = 5) select * from w join items i on"
            " i.customer_id = w.customer_id",
            "5",
        ),
        (
            "with w(k) as (select customer_id from orders where customer_id = 5) select * from w join items"
            " i on i.customer_id = w.k",
            "5",
        ),
        ("with w as (delete from orders where customer_id = 5 returning *) select * from w", "5"),
        ("with orders as (select 1 as id) select * from orders", "anywhere"),
        (
            "with recursive w as (select id, customer_id from orders where customer_id = 5"
            " union all select o.id, o.customer_id from orders o join w on o.parent = w.id and"
            " o.customer_id = w.customer_id)"
            " select * from w",
            "5",
        ),
        (
            "with recursive w(n) as (select 1 union all select n + 1 from w where n < 9) select n from w",
            "anywhere",
        ),
        ("with recursive a as (select * from b), b as (select 1) select * from a", "anywhere"),
        # Set operations.
        (
            "select id from orders where customer_id = 5 union select id from items where customer_id = 6",
            "5 6",
        ),
        ("(select id from orders where customer_id = 5 limit 1) except all select 1 order by 1", "5"),
        # Statements that change rows.
        ("insert into orders (id, customer_id) values (1, 5)", "5 in"),
        (
            "insert into orders (customer_id, id) values (5, 1), (-6, default), ($1, now())",
            "5 in -6 in $1 in",
        ),
        ("insert into orders as o (customer_id) values ('5'::bigint) returning o.*", "'5'::int8 in"),
        ("insert into orders (customer_id) select 5", "5 in"),
        ("insert into orders (id, customer_id) select id, $1 from countries", "$1 in"),
        ("insert into orders (id, customer_id) select id, customer_id from items where customer_id = 5", "5"),
        (
            "insert into orders (customer_id) select $1 where not exists (select from orders where"
            " customer_id = $2)",
            "$2 $1 in",
        ),
        (
            "insert into orders (customer_id, id) values (5, 1) on conflict (customer_id, id) do update set"
            " n = excluded.n",
            "5 in",
        ),
        ("insert into orders (customer_id) values (5) on conflict do nothing", "5 in"),
        (
            "with w as (delete from orders where customer_id = 5 returning *) insert into items"
            " (customer_id) select customer_id from w",
            "5",
        ),
        ("update orders set n = 1 where customer_id = 5", "5"),
        (
            "update orders o set n = i.n from items i where i.customer_id = o.customer_id and o.customer_id"
            " = 5",
            "5",
        ),
        ("update orders set n = v.n from (values (5, 1)) v(k, n) where customer_id = v.k", "5"),
        # Their key is set: the row stays if the new value is of the shard too.
        ("update orders set customer_id = 6, n = 1 where customer_id = 5", "5 6 in"),
        ("update orders set customer_id = $1 where customer_id = $1", "$1"),
        ("update orders set customer_id = $1::bigint, n = $2 where customer_id = $3", "$3 $1::int8 in"),
        ("update orders set customer_id = customer_id where customer_id = 5", "5"),
        ("update orders o set customer_id = o.customer_id where customer_id in (5, 6)", "5 6"),
        ("update orders set (n, customer_id) = (1, -6) where customer_id = 5", "5 -6 in"),
        ("update orders set (customer_id, n) = row('6', 1) where customer_id = 5", "5 '6' in"),
        (
            "update orders o set customer_id = i.customer_id from items i where i.customer_id = 6"
            " and o.customer_id = 5",
            "5 6",
        ),
        (
            "update orders set customer_id = v.k from (values (6)) v(k) where orders.customer_id = 5",
            "5 6 in",
        ),
        (
            "with w as (update orders set customer_id = 6 where customer_id = 5 returning *)"
            " select * from items i join w on i.customer_id = w.customer_id",
            "5 6 in",
        ),
        *[
            (
                "insert into orders (customer_id) values (5) on conflict (customer_id) do update set"
                f" {change}",
                found,
            )
            for change, found in (
                ("customer_id = excluded.customer_id, n = excluded.n", "5 in"),
                ("(n, customer_id) = (excluded.n, excluded.customer_id)", "5 in"),
                ("customer_id = orders.customer_id", "5 in"),
                ("customer_id = 6", "5 in 6 in"),
                ("n = (select max(n) from items i where i.customer_id = excluded.customer_id)", "5 in"),
            )
        ],
        (
            "update orders set (n, m) = (select 1, 2 from items where customer_id = 6) where customer_id = 5",
            "5 6",
        ),
        ("delete from orders where customer_id = 5 returning id", "5"),
        ("delete from orders o using items i where i.customer_id = 5 and o.customer_id = i.customer_id", "5"),
        (
            "merge into orders o using (values (5, 1)) v(k, n) on o.customer_id = v.k and o.id = v.n"
            " when matched then update set n = 2 when not matched then insert (customer_id, id) values (v.k, v.n)",
            "5",
        ),
        (
            "merge into orders o using countries c on o.customer_id = 5 and o.country = c.id"
            " when not matched then insert (id, customer_id) values (c.id, 6)",
            "5 6 in",
        ),
        (
            "merge into orders o using items i on o.customer_id = i.customer_id and i.customer_id = 5"
            " when matched then delete",
            "5",
        ),
        # Around statements.
        ("explain (analyze) select * from orders where customer_id = 5", "5"),
        ("declare c cursor for select * from orders where customer_id = 5", "5"),
        ("copy (select * from orders where customer_id = 5) to stdout", "5"),
        ("copy countries to stdout", "anywhere"),
        (
            "begin; update orders set n = 1 where customer_id = 5; delete from items where customer_id = 6;"
            " commit",
            "5 6",
        ),
        # No table, or none that is sharded.
        ("", "anywhere"),
        ("select 1, now(), random(), current_setting('a'), set_config('a', 'b', false)", "anywhere"),
        ("begin; set local a = 1; show a; reset a; savepoint s; rollback", "anywhere"),
        ("discard all; deallocate all; set constraints all deferred; fetch c; close c", "anywhere"),
    ],
)
def test_a_statement_is_bound(text: str, found: str) -> None:
    assert values(text) == found


UNBOUND = "is not bound to a value"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Joins that leave a table free.
        (
            "select * from orders o, items i where o.customer_id = 5",
            f"the key of items, customer_id, {UNBOUND}",
        ),
        (
            "select * from orders o left join items i on i.customer_id = o.customer_id and o.customer_id = 5",
            f"orders, customer_id, {UNBOUND}",
        ),
        ("select * from orders o left join countries c on o.customer_id = 5", UNBOUND),
        (
            "select * from orders o, items i where i.customer_id is not distinct from o.customer_id and"
            " o.customer_id = 5",
            UNBOUND,
        ),
        ("select * from countries c right join orders o on o.customer_id = 5", UNBOUND),
        (
            "select * from orders o full join items i on i.customer_id = o.customer_id and o.customer_id = 5",
            UNBOUND,
        ),
        ("select * from orders o full join items i using (customer_id) where customer_id = 5", UNBOUND),
        ("select * from countries c left join orders o using (customer_id) where customer_id = 5", UNBOUND),
        ("select * from orders o join items i on true where customer_id = 5", UNBOUND),
        (
            "select * from orders o(a, customer_id) where o.customer_id = 5",
            "(its columns have other names here)",
        ),
        ("select * from (orders o join items i using (customer_id)) as j where o.customer_id = 5", UNBOUND),
        (
            "select * from (orders o join countries i on true) as j(customer_id) where j.customer_id = 5",
            UNBOUND,
        ),
        ("select * from s1.orders, s2.orders where orders.customer_id = 5", UNBOUND),
        ("select * from orders natural right join countries where customer_id = 5", UNBOUND),
        # Names that may mean something else.
        ("select * from orders o, items i where customer_id = 5 and o.customer_id = 5", UNBOUND),
        (
            "select * from (select customer_id as k, customer_id as k from orders where customer_id = 5) s"
            " join items i on i.customer_id = s.k",
            UNBOUND,
        ),
        (
            "select * from orders o where customer_id = 5 and exists (select from countries c, items i"
            " where i.customer_id = c.x)",
            UNBOUND,
        ),
        (
            "select * from orders where customer_id = 5 and exists (select from accounts where accounts.id"
            " = customer_id)",
            UNBOUND,
        ),
        (
            "select * from orders o where o.customer_id = 5 and exists (select from items i, countries o"
            " where i.customer_id = o.customer_id)",
            UNBOUND,
        ),
        (
            "select * from orders o where o.customer_id = 5 and exists (select from countries j join items"
            " i using (customer_id) as o where o.customer_id = 5)",
            UNBOUND,
        ),
        (
            "select * from orders o where o.customer_id = 5 and exists (select from items i, f(1) o where"
            " i.customer_id = o.customer_id)",
            UNBOUND,
        ),
        # Subqueries that are not bound.
        ("select * from (select * from orders) s where s.customer_id = 5", UNBOUND),
        ("select * from orders where customer_id in (select id from countries)", UNBOUND),
        (
            "select * from orders where customer_id not in (select customer_id from items where customer_id"
            " = 5)",
            UNBOUND,
        ),
        ("select * from orders where customer_id = any (select 5 union select id from countries)", UNBOUND),
        ("select (select count(*) from orders)", UNBOUND),
        ("select 1 limit (select count(*) from orders)", UNBOUND),
        (
            "select * from orders o where customer_id = 5 group by id having (select count(*) from items) >"
            " 1",
            UNBOUND,
        ),
        ("select * from orders tablesample system (10) where customer_id = 5", "takes a sample of orders"),
        ("with w as (select * from orders) select * from w where customer_id = 5", UNBOUND),
        (
            "with recursive w as (select 5 as k union all select o.parent from orders o join w on"
            " o.customer_id = w.k) select * from w",
            UNBOUND,
        ),
        # Statements that change rows.
        ("insert into orders values (5)", "insert into orders without a list of columns: name the columns"),
        ("insert into orders default values", "the key of orders, customer_id, is left to its default"),
        ("insert into orders (id) values (5)", "the key of orders, customer_id, is not among the columns"),
        ("insert into orders (customer_id) values (default)", "is given by no constant or parameter"),
        ("insert into orders (customer_id) values (null)", "is given by no constant or parameter"),
        ("insert into orders (customer_id) values (5), (5 + 1)", "is given by no constant or parameter"),
        ("insert into orders (customer_id) select id from countries", "is given by no constant or parameter"),
        (
            "insert into orders (id, customer_id) select *, 5 from countries",
            "is given by no constant or parameter",
        ),
        (
            "insert into orders (customer_id) select i.customer_id from countries c left join items i on"
            " i.customer_id = 5",
            "is given by no constant or parameter",
        ),
        (
            "insert into orders (customer_id) select customer_id from items where customer_id = 5 group by"
            " rollup (customer_id)",
            "is given by no constant or parameter",
        ),
        *[
            (
                f"insert into orders (customer_id) values (5) on conflict (customer_id) do update set {change}",
                "sharding key can not be updated",
            )
            for change in (
                "customer_id = excluded.id",
                "customer_id = orders.id",
                "customer_id = excluded.customer_id + 1",
                "customer_id = default",
                "(n, customer_id) = (select n, customer_id from items where customer_id = 5)",
            )
        ],
        (
            "insert into orders (customer_id) values (5) on conflict (id) do update set n = (select"
            " count(*) from items)",
            UNBOUND,
        ),
        *[
            (f"update orders o set {change} where o.customer_id = 5", "sharding key can not be updated")
            for change in (
                "customer_id = default",
                "customer_id = null",
                "customer_id = id",
                "customer_id = customer_id + 0",
                "customer_id = (select 5)",
                "customer_id = 5 + 0",
                "customer_id[1] = 5",
                "customer_id.part = 5",
                "(n, customer_id) = (1, default)",
                "(n, customer_id) = (select 1, 5)",
                "(n, customer_id) = row(1)",
                "customer_id = i.customer_id from countries c left join items i on i.customer_id = 5",
            )
        ],
        ("update orders set customer_id = 5", UNBOUND),
        ("update orders set n = 1", UNBOUND),
        ("update orders set n = (select count(*) from items) where customer_id = 5", UNBOUND),
        ("delete from orders where current of c", UNBOUND),
        ("delete from orders where customer_id = 5 returning (select count(*) from items)", UNBOUND),
        (
            "merge into orders o using items i on o.customer_id = i.customer_id and i.customer_id = 5"
            " when not matched then do nothing",
            UNBOUND,
        ),
        ("merge into orders o using countries c on o.country = c.id when matched then delete", UNBOUND),
        (
            "merge into orders o using countries c on o.customer_id = 5 when not matched by source then delete",
            "merge: not matched by source concerns every shard",
        ),
        (
            "merge into orders o using countries c on o.customer_id = 5 when matched then update set customer_id = 6",
            "sharding key can not be updated",
        ),
        (
            "merge into orders o using countries c on o.customer_id = 5 when not matched then insert values (5)",
            "is not among the columns",
        ),
        (
            "merge into orders o using countries c on o.customer_id = 5 when not matched then insert default values",
            "is not among the columns",
        ),
        (
            "merge into orders o using countries c on o.customer_id = 5"
            " when not matched then insert (customer_id) values (c.id)",
            "is given by no constant or parameter",
        ),
        (
            "merge into countries c using orders o on o.customer_id = 5 when matched then delete",
            "reference table",
        ),
        ("insert into countries (id) values (5)", "countries is a reference table"),
        ("update countries set n = 1", "countries is a reference table"),
        ("with w as (delete from countries returning *) select * from w", "countries is a reference table"),
        ("update pg_settings set setting = 'on' where name = 'a'", "pg_settings belongs to the server"),
        # What has no shard of its own.
        ("select nextval('s')", "calls nextval()"),
        ("select pg_advisory_xact_lock(5)", "calls pg_advisory_xact_lock()"),
        ("select f(5)", "calls f()"),
        ("select x.lower('A') from countries", "calls lower()"),
        (
            "select query_to_xml('select 1', true, true, '') from orders where customer_id = 5",
            "calls query_to_xml()",
        ),
        ("select * from countries for share", "locks rows"),
        ("select * from pg_temp.orders where customer_id = 5", "names a temporary object"),
        ("select * into t from orders where customer_id = 5", "select into"),
        ("copy orders to stdout", "copies a whole table"),
        ("copy orders (customer_id) from stdin", "copies rows in"),
        ("copy (select 1) to '/tmp/x'", "copies from or to a file"),
        ("prepare p as select * from orders where customer_id = 5", "prepares by SQL"),
        ("execute p (5)", "executes what was prepared"),
        ("explain execute p (5)", "executes what was prepared"),
        ("listen c", "listens"),
        ("notify c", "notifies"),
        ("truncate orders", "concerns every shard"),
        ("create table t (a int)", "concerns every shard"),
        ("create table t as select * from orders where customer_id = 5", "concerns every shard"),
        ("vacuum", "concerns every shard"),
        ("lock orders", "concerns every shard"),
        ("do 'begin end'", "runs code"),
        ("call p()", "calls a procedure"),
        ("commit prepared 'x'", "ends a prepared transaction"),
        ("select * from orders where customer_id = 5; truncate orders", "concerns every shard"),
        ("select * from where", "not understood: does not parse"),
        ("select '\0'", "not understood: too long, or not text"),
    ],
)
def test_a_statement_is_not_bound(text: str, reason: str) -> None:
    assert reason in values(text)


def test_a_parameter_tells_whether_it_is_alone() -> None:
    alone = {
        (term.parameter, term.is_alone)
        for term in find_keys("select $2 from orders where customer_id in ($1, $2)", RULES).terms
    }
    assert alone == {(1, True), (2, False)}
    for text, is_alone in (
        ("select $1::bigint from orders where customer_id = $1::int8", True),
        ("select $1::int4 from orders where customer_id = $1::int8", False),
        ("select $1 from orders where customer_id = $1::int8", False),
        ("select $1::bigint[] from orders where customer_id = any ($1::int8[])", False),
        ("select 1 from orders where customer_id = any ($1::int8[])", True),
        ("select 1 from orders where customer_id = $1 and customer_id = any ($1)", False),
    ):
        assert {term.is_alone for term in find_keys(text, RULES).terms} == {is_alone}, text


def test_the_reason_names_what_a_statement_is_bound_by() -> None:
    text = "select * from public.orders o join items i using (customer_id) where o.customer_id = 5"
    assert find_keys(text, RULES).reason == "by public.orders.customer_id, items.customer_id"


class TestRules:
    """How a table of a statement finds its rule."""

    @pytest.mark.parametrize(
        ("rules", "table", "found"),
        [
            (KeyRules("id"), "t", "5"),
            (KeyRules("id"), "s.t", "5"),
            (KeyRules("ID"), "t", "5"),
            (KeyRules("", {"t": "id"}), "t", "5"),
            (KeyRules("", {"t": "id"}), "s.t", "5"),
            (KeyRules("", {"T": '"id"'}), "t", "5"),
            (KeyRules("", {"public.t": "id"}), "t", "5"),
            (KeyRules("", {"s.t": "id"}), "t", "5"),
            (KeyRules("x", {"public.t": "id"}), "t", "5"),
            (KeyRules("id", {"s.t": "id"}), "t", "5"),
            (KeyRules("x", {"s.t": "id"}), "s.t", "5"),
            (KeyRules("id", {"s.t": "x"}), "public.t", "5"),
            (KeyRules("id", {"s.t": "x"}), "other.t", "5"),
            (KeyRules("", {"t": "x", "s.t": "id"}), "s.t", "5"),
            (KeyRules("", {"t": "id", "s.t": "x"}), "t", "5"),
            (KeyRules("x", {"t": "id", "s.t": "x"}), "t", "5"),
            (KeyRules("id", {}, frozenset({"t"})), "t", "anywhere"),
            (KeyRules("id", {}, frozenset({"public.t"})), "t", "anywhere"),
            (KeyRules("id", {}, frozenset({"public.t"})), "s.t", "5"),
            (KeyRules("", {'"T"': "id"}), '"T"', "5"),
            (KeyRules("", {'"a.b"."c"': "id"}), '"a.b".c', "5"),
        ],
    )
    def test_found(self, rules: KeyRules, table: str, found: str) -> None:
        assert values(f"select from {table} t where t.id = 5", rules) == found

    @pytest.mark.parametrize(
        ("rules", "table", "reason"),
        [
            (KeyRules(), "t", "no sharding rule for table t: give it a key in sharding.tables, list it in"),
            (KeyRules(), "s.t", "no sharding rule for table s.t:"),
            (KeyRules("", {"public.t": "id"}), "s.t", "no sharding rule for table s.t:"),
            (KeyRules("", {"t": "id"}), '"T"', "no sharding rule for table T:"),
            (
                KeyRules("id", {"s.t": "x"}),
                "t",
                "table t may be s.t or another by search_path: write its schema",
            ),
            (KeyRules("", {"s.t": "x", "public.t": "id"}), "t", "table t may be public.t or s.t or another"),
            (
                KeyRules("", {"s.t": "id"}, frozenset({"public.t"})),
                "t",
                "table t may be public.t or s.t or another",
            ),
        ],
    )
    def test_not_found(self, rules: KeyRules, table: str, reason: str) -> None:
        assert reason in values(f"select from {table} t where t.id = 5", rules)

    @pytest.mark.parametrize("name", ["", "a.b.c", 'a"b', "a..b", ".a", "a."])
    def test_bad_names(self, name: str) -> None:
        with pytest.raises(ValueError, match="not "):
            KeyRules("", {name: "id"})


class TestLimits:
    """Nesting is refused, not followed without end."""

    @pytest.mark.parametrize(
        "text",
        [
            "select * from orders where customer_id = 5 and " + "not " * 200 + "true",
            "select * from orders where customer_id = 5 and " + "(true or " * 100 + "true" + ")" * 100,
            "select * from orders where customer_id = 5" + " union select 5" * 60,
            "select * from orders" + " cross join countries" * 60 + " where orders.customer_id = 5",
        ],
    )
    def test_long_is_no_trouble(self, text: str) -> None:
        assert values(text) in ("5", "nowhere: not understood: does not parse")

    @pytest.mark.parametrize(
        "text",
        [
            "select " + "(select " * 100 + "1" + ")" * 100,
            "select * from " + "(select * from " * 100 + "countries" + ") s" * 100,
            "select * from countries" + " join (countries" * 100 + " on true)" * 100 + " on true",
            "with recursive " + "a as (with recursive " * 60 + "a as (select 1) select 1" + ") select 1" * 60,
        ],
    )
    def test_deep_is_refused(self, text: str) -> None:
        assert values(text).startswith("nowhere: ")


@pytest.mark.parametrize(
    "text",
    [
        "select * from orders where customer_id = 7 and n in (1, 2)",
        "select * from orders where customer_id in (7, 8, 9)",
        "insert into orders (id, customer_id, note) values (1, 7, 'a'), (2, 8, 'b')",
        "select * from orders where customer_id = -7 and n = E'x'",
        "select * from orders where customer_id = '7'::bigint or customer_id = $1",
        "select * from orders where customer_id between 1 and 1",
    ],
)
def test_no_constants_value_has_a_say(text: str) -> None:
    statement = bytearray(text.encode())
    shape = Scanner().scan(statement, 0, len(statement))
    assert shape is not None
    of_text, of_shape = find_keys(text, RULES), find_keys(render(shape), RULES)
    assert (of_text.verdict, of_text.reason) == (of_shape.verdict, of_shape.reason)
    kinds = [(term.parameter, term.cast, term.is_negative, term.context) for term in of_text.terms]
    assert set(kinds) == {
        (term.parameter, term.cast, term.is_negative, term.context) for term in of_shape.terms
    }


def test_without_the_grammar_nothing_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "AVAILABLE", False)
    keys = find_keys("select 1", RULES)
    assert (keys.verdict, keys.terms) == (Verdict.UNREAD, ())
    assert keys.reason.startswith("not understood")


@pytest.mark.parametrize(
    "text",
    [
        "select count(*) from orders",
        "select customer_id from orders order by customer_id",
        "select * from orders where total > 5",
        "select * from orders o join items i on i.customer_id = o.customer_id where o.total = 5",
        "update orders set total = 0",
        "delete from orders",
        "truncate orders",
        "lock table orders",
        "do $$ begin end $$",
        "prepare one as select 1",
        "copy orders to stdout",
        "select pg_advisory_xact_lock(1)",
    ],
)
def test_what_names_no_key_is_for_the_shard_of_its_transaction(text: str) -> None:
    assert find_keys(text, RULES).verdict is Verdict.NOWHERE


@pytest.mark.parametrize(
    "text",
    [
        "insert into orders values (5)",
        "insert into orders default values",
        "insert into orders (total) values (5)",
        "insert into orders (customer_id) values (2 + 3)",
        "insert into orders (customer_id) select customer_id from countries",
        "insert into countries (code) values ('de')",
        "update countries set title = ''",
        "update orders set total = 0 where customer_id = 2 + 3",
        "update orders set total = 0 where customer_id > 5",
        "delete from orders where not customer_id = 5",
        "delete from orders where customer_id in (select code from countries)",
        "select * from orders where customer_id is null",
        "select * from orders where customer_id = any('{5}'::text::bigint[])",
        "select * from orders o (k) where k = 5",
        "select * from orders o join countries c on c.code = o.customer_id + 1",
        "copy orders from stdin",
        "execute one(5)",
    ],
)
def test_where_keys_can_not_be_read_a_transaction_does_not_tell_the_shard(text: str) -> None:
    assert find_keys(text, RULES).verdict is Verdict.UNREAD


def test_without_rules_a_transaction_tells_the_shard() -> None:
    for text in ("execute one(5)", "insert into orders values (5)", "copy orders from stdin"):
        assert find_keys(text, KeyRules()).verdict is Verdict.NOWHERE
