"""Statements that were changed at random, always the same ones for a seed: for the tests of shapes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tests.support.routes import read_routes

# What is rare in real statements, and where scanners go wrong.
_SEEDS = """\
select 'it''s', E'it\\'s', e'\\\\', 'a\\', N'x', B'01', X'1F', U&'\\0061'
select U&"\\0061" from t where a = U&'!0061' uescape '!'
select $$a$$, $tag$ b $$ ' $tag$, $1, a$1, $2::text
select 1, -1, +1, 1.5, .5, 1., 1e5, 1.5E-3, 0x1F, 0o17, 0b1, 1_000, 2147483647, 2147483648
select a[1], a[1:2], array[1, 2, 3], array['a', 'b'], row(1, 2), f(1, 2, 'x'), (1, 2)
select * from t where a in (1, 2, 3) and b not in ('x', 'y') and (c, d) in ((1, 'a'), (2, 'b'))
select * from t where a in (-1, -2) or a = any(array[1, 2]) or a in (1) or a in (select 1)
insert into t (a, b) values (1, 'x'), (2, 'y'), (-3, null), (default, now()) on conflict do nothing
values (1), (2), (f(1)), (f(2)), ((3))
select "in" (1, 2), "values" (1, 2) from "A"."b""c" where "a'b" = 1
select a/**/+/* x /* y */ */-1 -- rest\n, b @> c, d <-> e, f->>'g', h->1, i #> '{a}', j ?| array['k']
select 'a'\n'b', E'a'\n'\\'b', 'a' -- c\n 'd'
select a::varchar(10), cast(b as numeric(10, 2)), interval '1 day', interval '1' hour, date '2020-01-01'
select a from t order by 1, 2 desc limit 10 offset 20 for update skip locked
select case when a = 1 then 'x' else 'y' end, coalesce(b, 0), a between 1 and 2, a like 'x%' escape '!'
with x as (insert into t values (1) returning *) select * from x where a > 1.5
select extract(year from a), position('a' in 'b'), substring(a from 1 for 2), trim(both 'x' from a)
select a.b.c, a.*, (a).b, a[1].b, a.b[1] from only a as "x" (b, c)
select set_config('a.b', 'c', false), nextval('s'), pg_advisory_lock(1)
begin; update t set a = 1 where b = 'x'; commit
begin isolation level serializable read only deferrable
set search_path to 'a', b; set local statement_timeout = 1000; reset all
set time zone 'UTC'; set time zone 1; set a.b = on
explain (analyze, costs off) select 1
explain (analyze 0) delete from t
copy t (a, b) from stdin with (format csv, delimiter ',')
declare c cursor with hold for select 1; fetch 10 from c; move forward all in c
prepare p (int) as select $1 + 1; execute p (1); deallocate p
do $$ begin perform 1; end $$
create function f(a int) returns int language sql as $f$ select 1 $f$
create table t (a int default 1, b varchar(10) check (b <> 'x'), c float(3)) with (fillfactor = 70)
create role r password 'x' connection limit 1
comment on table t is 'x'
notify c, 'payload'
select 1 as _b, é from "ü" where ñ = 'ß'
select json_value(a, '$.b'), xmlelement(name a, 'b'), a is json, b at time zone 'UTC'
merge into t using s on t.a = s.a when matched then delete when not matched then insert values (1, 2)
""".replace("\\n", "\n")
_SEED_STATEMENTS = [line for line in _SEEDS.replace("\n", "\0").split("\0") if line]

_FRAGMENTS = """\
' '' '''' 'x' " "" "x" $$ $a$ $a $1 $ E' e'\\' E'\\'' B' b'1' X' n'x' U&' U&" u&'\\0061' u & -- /* */ /**/ /*/
--x ; ;; ( ) [ ] () ,, , . .. .5 1. 1.5 1e 1e5 1e+ 0x 0x1F 0b2 0o7 1_ 1_0 __ 1a 7 -7 +7 - + * / // \\ \\' = <>
~ @- :: in in( in(1) in(1,2) in('a','b') ((1),(2)) values values(1) values(1),(2) array[1,2] array[ uescape
uescape'!' select from where null true default x E e b u n é ß \x01 \x7f & && | ? : := => % ^ # ! `""".split()
_BLANKS = [" ", "\n", "\t", "\r", "\f", "  ", " \n ", "-- c\n", "/* c */", "/**/", "--'\n", "/*'*/"]
_CONSTANTS = [
    "'a'\n'b'",
    *"1 0 42 2147483648 1.5 .5 1e5 0x1F 'x' '' 'it''s' 'a\\' '--' '/*' '(1,2)' $$x$$ $a$'$$$a$".split(),
    *"E'\\'' E'x' B'0' X'1F' N'x' U&'x'".split(),
]
_NUMBER_OR_STRING = re.compile(r"\d+|'[^']*'")


def seeds() -> list[str]:
    """Real statements and rare ones."""
    return [route.text for route in read_routes()] + _SEED_STATEMENTS


def mutated(count: int, seed: int) -> Iterator[str]:
    """So many statements, each a seed that was changed in a few places."""
    chance = random.Random(seed)
    statements = seeds()
    for _ in range(count):
        text = chance.choice(statements)
        for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
            text = chance.choice(_MUTATIONS)(text, chance, statements)
        yield text


def with_other_blanks_and_case(text: str, chance: random.Random) -> str:
    """Change what a shape does not keep; `text` must hold neither quotes nor comments."""
    pieces = []
    for character in text:
        if character in " \n\t\r\f":
            # First a blank, or a minus before and a comment would make another comment.
            pieces.append(chance.choice(" \n\t") + chance.choice(["", *_BLANKS]))
        elif character.isascii():
            pieces.append(chance.choice((character.upper(), character.lower())))
        else:
            pieces.append(character)
    return "".join(pieces)


def _insert(text: str, chance: random.Random, statements: list[str]) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(_FRAGMENTS) + text[at:]


def _delete(text: str, chance: random.Random, statements: list[str]) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + text[at + chance.choice((1, 1, 2, 5)) :]


def _splice(text: str, chance: random.Random, statements: list[str]) -> str:
    other = chance.choice(statements)
    start = chance.randrange(len(other) + 1)
    at = chance.randrange(len(text) + 1)
    return text[:at] + other[start : start + chance.randrange(20)] + text[at:]


def _change_constant(text: str, chance: random.Random, statements: list[str]) -> str:
    """Put another constant in place of a number or a string, or before it."""
    places = [found.span() for found in _NUMBER_OR_STRING.finditer(text)]
    if not places:
        return text
    start, end = chance.choice(places)
    if chance.random() < 0.3:
        return f"{text[:start]}{chance.choice(_CONSTANTS)}, {text[start:]}"
    return text[:start] + chance.choice(_CONSTANTS) + text[end:]


def _change_blank(text: str, chance: random.Random, statements: list[str]) -> str:
    places = [at for at, character in enumerate(text) if character.isspace()]
    if not places:
        return text
    at = chance.choice(places)
    return text[:at] + chance.choice(["", *_BLANKS]) + text[at + 1 :]


def _change_case(text: str, chance: random.Random, statements: list[str]) -> str:
    at = chance.randrange(len(text) + 1)
    end = at + chance.randrange(30)
    return text[:at] + text[at:end].swapcase() + text[end:]


def _repeat(text: str, chance: random.Random, statements: list[str]) -> str:
    """Say again what stands between two commas or parentheses."""
    places = [at for at, character in enumerate(text) if character in ",()"]
    if len(places) < 2:
        return text
    first = chance.randrange(len(places) - 1)
    start, end = places[first], places[min(first + chance.choice((1, 1, 2)), len(places) - 1)]
    item = text[start : end + 1] if chance.random() < 0.5 else text[start + 1 : end]
    return text[: end + 1] + "," + item + text[end + 1 :]


_MUTATIONS = [
    _insert,
    _insert,
    _delete,
    _splice,
    _change_constant,
    _change_constant,
    _change_blank,
    _change_case,
    _repeat,
]
