"""What is ours to answer: PgCat's commands, parameters of ours, EXPLAIN ROUTE; and nothing else."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, strategies

from pgcat_cluster.errors import InvalidParameter, Unsupported
from pgcat_cluster.sql.analysis import analyze
from pgcat_cluster.sql.commands import Command, Verb, is_ours, recognise

pytestmark = pytest.mark.once


def words(verb: Verb, name: str, value: str | None = None, *, is_quoted: bool = False) -> Command:
    """A command in PgCat's words."""
    return Command(verb=verb, name=name, value=value, is_quoted=is_quoted, is_parameter=False)


def parameter(
    verb: Verb, name: str, value: str | None = None, *, is_quoted: bool = False, is_local: bool = False
) -> Command:
    return Command(verb=verb, name=name, value=value, is_quoted=is_quoted, is_local=is_local)


SET, SHOW, RESET = Verb.SET, Verb.SHOW, Verb.RESET

COMMANDS = {
    # PgCat's words
    "SET SHARD TO '1'": words(SET, "shard", "1", is_quoted=True),
    "SET SHARD TO 1": words(SET, "shard", "1"),
    "SET SHARD TO '1": words(SET, "shard", "1", is_quoted=True),
    "SET SHARD TO 1'": words(SET, "shard", "1"),
    "SET SHARD TO '1 ; ": words(SET, "shard", "1", is_quoted=True),
    "SET SHARD TO ANY": words(SET, "shard", "any"),
    "SET SHARD TO 'ANY'": words(SET, "shard", "ANY", is_quoted=True),
    "SET SHARD TO -1": words(SET, "shard", "-1"),
    "SET SHARD TO DEFAULT": words(SET, "shard"),
    "SET SHARD TO '1''": words(SET, "shard", "1''", is_quoted=True),
    "SET SHARDING KEY TO '123'": words(SET, "sharding_key", "123", is_quoted=True),
    "SET SHARDING KEY TO 123": words(SET, "sharding_key", "123"),
    "SET SHARDING KEY TO - 123": words(SET, "sharding_key", "-123"),
    "SET SHARDING KEY TO 'it''s'": words(SET, "sharding_key", "it's", is_quoted=True),
    "SET SHARDING KEY TO 'default'": words(SET, "sharding_key", "default", is_quoted=True),
    "SET SHARDING KEY TO ''": words(SET, "sharding_key", "", is_quoted=True),
    "SHOW SHARD": words(SHOW, "shard"),
    "SET SERVER ROLE TO 'primary'": words(SET, "server_role", "primary", is_quoted=True),
    "SET SERVER ROLE TO auto": words(SET, "server_role", "auto"),
    "SET SERVER ROLE TO 'default'": words(SET, "server_role", is_quoted=True),
    "SHOW SERVER ROLE": words(SHOW, "server_role"),
    "SET PRIMARY READS TO on": words(SET, "primary_reads", "on"),
    "SET PRIMARY READS TO 'OFF'": words(SET, "primary_reads", "OFF", is_quoted=True),
    "SET PRIMARY READS TO default": words(SET, "primary_reads"),
    "SHOW PRIMARY READS": words(SHOW, "primary_reads"),
    # freedom
    "set shard to 1;": words(SET, "shard", "1"),
    " \n SeT\tshArd\r\nTO\f'1' ; ": words(SET, "shard", "1", is_quoted=True),
    "set/**/shard/* a /* nested */ ' */to-- one\n1": words(SET, "shard", "1"),
    "/* shard_id: 3 */ show shard -- the end": words(SHOW, "shard"),
    "set shard to'1'": words(SET, "shard", "1", is_quoted=True),
    # parameters
    "set pgcat.shard = 1": parameter(SET, "shard", "1"),
    "set pgcat.shard to '1'": parameter(SET, "shard", "1", is_quoted=True),
    "SET SESSION PGCAT.SHARD TO any;": parameter(SET, "shard", "any"),
    "set local pgcat.server_role = replica": parameter(SET, "server_role", "replica", is_local=True),
    'set "pgcat"."shard" = 2': parameter(SET, "shard", "2"),
    'set "pgcat.shard" = 2': parameter(SET, "shard", "2"),
    "set pgcat . sharding_key = -5": parameter(SET, "sharding_key", "-5"),
    "set pgcat.shard to default": parameter(SET, "shard"),
    "set pgcat.no_such_thing = 1": parameter(SET, "no_such_thing", "1"),
    "set pgcat.a.b = 1": parameter(SET, "a.b", "1"),
    "reset pgcat.primary_reads": parameter(RESET, "primary_reads"),
    "show pgcat.route": parameter(SHOW, "route"),
    'show "pgcat"."consistency_token"': parameter(SHOW, "consistency_token"),
    # EXPLAIN ROUTE
    "explain route select 1": Command(verb=Verb.EXPLAIN, statement="select 1"),
    "EXPLAIN /* so */ ROUTE\n select ';' from t where id = 'x' ;": Command(
        verb=Verb.EXPLAIN, statement="select ';' from t where id = 'x' ;"
    ),
    "explain route select 1 /* shard_id: 1 */ ;": Command(
        verb=Verb.EXPLAIN, statement="select 1 /* shard_id: 1 */ ;"
    ),
    "explain route set shard to 1": Command(verb=Verb.EXPLAIN, statement="set shard to 1"),
}


@pytest.mark.parametrize("text", COMMANDS)
def test_commands(text: str) -> None:
    assert recognise(text) == COMMANDS[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "select 'set shard to 1'",
        'select "set shard to 1"',
        "select $$set shard to 1$$",
        "select $a$; set shard to 1;$a$",
        "select E'\\'; set shard to 1; --'",
        "/* set shard to 1 */",
        "-- set shard to 1",
        "set shard = 1",
        "set shard 1",
        "set shard to",
        "set shard to 1 2",
        "set shard to 1, 2",
        "set shard to e'1'",
        "set shard to $1",
        "set shard to $$1$$",
        "set session shard to 1",
        "set local shard to 1",
        '"set" shard to 1',
        'set "shard" to 1',
        "set sharding_key to 1",
        "set sharding role to 1",
        "set server role to 'primary",
        "set server role 'primary'",
        "show shards",
        "show sharding key",
        "show server",
        "show primary",
        "show shard 1",
        "reset shard",
        "set role to primary",
        "set pgcat to 1",
        "set pgcatx.shard = 1",
        "set app.pgcat = 'pgcat.shard'",
        "show all",
        "reset all",
        "explain select route from t",
        "explain route",
        "explain (route) select 1",
        "alter role app set pgcat.shard = 1",
        "select 1; select 'show shard'",
    ],
)
def test_what_is_no_command(text: str) -> None:
    assert recognise(text) is None
    assert not is_ours(text)


@pytest.mark.parametrize(
    "text",
    [
        "set shard to 1; select 1",
        "begin; set shard to 1",
        "select 1; show shard;",
        "set shard to 1; set shard to 2",
        "begin; set local pgcat.shard = 1; select 1; commit",
        "select ';'; set pgcat.shard = 1, 2",
        "explain route select 1; select 2",
    ],
)
def test_commands_stand_alone(text: str) -> None:
    with pytest.raises(Unsupported, match="must stand alone"):
        recognise(text)
    assert is_ours(text)


@pytest.mark.parametrize("text", ["set pgcat.shard", "set pgcat.shard = 1, 2", "set local pgcat.shard to"])
def test_parameters_take_one_value(text: str) -> None:
    with pytest.raises(InvalidParameter, match="takes one value"):
        recognise(text)
    assert is_ours(text)


PIECES = (
    *("set", "SHOW", "reset", "explain", "route", "shard", "Sharding", "key", "server", "role", "primary"),
    *("reads", "to", "=", "pgcat", ".", "pgcat.shard", "session", "local", "default", "any", "on", "1", "-1"),
    *("'1'", "'", '"', "$$", ";", "--", "/*", "*/", "\n", " ", "select", "from", "t", "$1", "E'\\''", ","),
)


def test_no_statement_of_postgresql_is_taken() -> None:
    """What its grammar takes is a command only where it sets or shows something that does not exist there."""
    chance = random.Random(7)
    taken = 0
    for _ in range(8_000):
        pieces = chance.choice(list(COMMANDS)).split(" ")
        for _ in range(chance.randint(0, 3)):
            place = chance.randrange(len(pieces) + 1)
            pieces[place : place + chance.randint(0, 1)] = chance.choices(PIECES, k=chance.randint(0, 2))
        text = " ".join(pieces)
        try:
            command = recognise(text)
        except (Unsupported, InvalidParameter):
            continue
        if command is None:
            continue
        taken += 1
        # Whatever is around a command, only white space, comments and semicolons are.
        analysis = analyze(text)
        if analysis.parses:
            assert command.verb in (SET, SHOW, RESET), text
            assert analysis.statements == 1, text
            name = command.name if not command.is_parameter else f"pgcat.{command.name}"
            assert command.is_parameter or command.name == "shard", text
            assert name in (*analysis.parameters, analysis.show), text
    assert taken > 800


# PgCat's own expressions (its query router), to which every string is a command that we answer too.
PGCAT = {
    r"^ *SET SHARDING KEY TO '?([0-9]+)'? *;? *$": "sharding_key",
    r"^ *SET SHARD TO '?([0-9]+|ANY)'? *;? *$": "shard",
    r"^ *SHOW SHARD *;? *$": "shard",
    r"^ *SET SERVER ROLE TO '(PRIMARY|REPLICA|ANY|AUTO|DEFAULT)' *;? *$": "server_role",
    r"^ *SHOW SERVER ROLE *;? *$": "server_role",
    r"^ *SET PRIMARY READS TO '?(on|off|default)'? *;? *$": "primary_reads",
    r"^ *SHOW PRIMARY READS *;? *$": "primary_reads",
}


@pytest.mark.parametrize("pattern", PGCAT)
@given(data=strategies.data())
def test_what_pgcat_takes_is_taken(data: strategies.DataObject, pattern: str) -> None:
    text = data.draw(strategies.from_regex(f"(?ai){pattern}"))
    command = recognise(text)
    assert command is not None
    assert (command.name, command.is_parameter) == (PGCAT[pattern], False)
    match = re.match(f"(?ai){pattern}", text)
    assert match is not None
    if command.verb is Verb.SHOW:
        return
    said = match[1]
    assert command.verb is Verb.SET
    assert (command.value or "default").lower() == said.lower()


def test_a_long_statement_is_read_no_further_than_its_beginning() -> None:
    long = "select '" + "x" * 1_000_000 + "'; show shard"
    assert recognise(long) is None
    assert recognise("show shard" + " " * 20_000) is None
    assert recognise(f"explain route {long}") == Command(verb=Verb.EXPLAIN, statement=long)
