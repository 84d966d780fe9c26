"""Every form of a sharding key that is read, in a server: the very statement finds its row in that partition."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Callable, Iterator
from functools import cache

import psycopg
import pytest

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.relay.selectors import OUT_OF_RANGE, UNSURE, WRONG_TEXT, Selector, ShardTable
from pgcat_cluster.relay.shapes import Scanner, render_with_places
from pgcat_cluster.routing.keys import selector_of
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import KeyRules, Verdict, find_keys
from pgcat_cluster.wire import messages

pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="PostgreSQL's grammar is not installed")

SHARDS = 7
RULES = KeyRules(key="k")
INTEGERS = ("smallint", "integer", "bigint")
TYPES = (*INTEGERS, "text", "varchar", "uuid", "timestamp", "timestamptz")
OIDS = {
    "smallint": 21, "integer": 23, "bigint": 20, "text": 25, "varchar": 1043, "uuid": 2950, "timestamp": 1114,
    "timestamptz": 1184,
}  # fmt: skip

_UUID = "6a0e6c52-1f6a-4a55-9c0e-0c3b0f5d7a11"
_MOMENTS = (
    "2026-01-31 12:30:15",
    "2000-02-29T23:59:59.999999",
    "0001-01-01 00:00:00.5",
    "9999-12-31 23:59:59.00001",
)
_ZONES = ("Z", "+00", "-05", "+05:30", "-00:30", "+15:59")
_WHOLE = (
    *("5", "0", "-5", "- 5", "-(5)", "+5", "007", "'5'", "'-5'", "'+5'", "' 5 '", "'\t\n\v\f\r-007 '", "E'5'", "$$5$$"),
    *("$a$ -5$a$", "5::int2", "'5'::int4", "-5::bigint", "cast('5' as bigint)", "smallint '5'", "-32768", "32767"),
)  # fmt: skip
_TEXTS = (
    *("'a'", "''", "'it''s'", "''''", "'a\\b'", "' a'", "E'a'", "E'it''s'", "$$it's$$", "$t$a$$b$t$", "'grün €'"),
    *("'a'::text", "cast('a' as varchar)", "text 'a'", "'1'", "$$\n$$"),
)  # fmt: skip
# Each form of the decision note at least once.
LITERALS: dict[str, tuple[str, ...]] = {
    "smallint": _WHOLE,
    "integer": (*_WHOLE, "2147483647", "-2147483648"),
    "bigint": (*_WHOLE, "2147483648", "-2147483649", "9223372036854775807", "-9223372036854775808",
               "'-9223372036854775808'::int8"),
    "text": (*_TEXTS, "'a '"),
    "varchar": _TEXTS,
    "uuid": (
        f"'{_UUID}'", f"'{_UUID.upper()}'", f"'{{{_UUID}}}'", f"E'{_UUID.replace('-', '')}'", f"$${_UUID}$$",
        "'6a0e-6c52-1f6a-4a55-9c0e-0c3b-0f5d-7a11'", f"'{_UUID}'::uuid", f"uuid '{_UUID}'",
    ),
    "timestamp": (*(f"'{one}'" for one in _MOMENTS), f"timestamp '{_MOMENTS[0]}'", f"$${_MOMENTS[0]}$$::timestamp"),
    "timestamptz": (*(f"'{one}{zone}'" for one in _MOMENTS[:2] for zone in _ZONES),
                    f"timestamptz '{_MOMENTS[0]}Z'"),
}  # fmt: skip
# The types of arrays of keys.
ARRAY_OIDS = {
    "smallint": 1005, "integer": 1007, "bigint": 1016, "text": 1009, "varchar": 1015, "uuid": 2951, "timestamp": 1115,
    "timestamptz": 1185,
}  # fmt: skip
# What is refused before a server sees it, with the SQLSTATE that the server would have given, if any.
REFUSED: tuple[tuple[str, str, int, str], ...] = (
    ("bigint", "9223372036854775808", OUT_OF_RANGE, "22003"),
    ("bigint", "'9223372036854775808'", OUT_OF_RANGE, "22003"),
    ("smallint", "32768", OUT_OF_RANGE, "22003"),
    ("integer", "'3000000000'", OUT_OF_RANGE, "22003"),
    ("bigint", "'40000'::int2", OUT_OF_RANGE, "22003"),
    *(("bigint", text, WRONG_TEXT, "22P02") for text in ("'abc'", "''", "'5.0'", "'- 5'", "'5 5'", "'5a'")),
    *(
        ("uuid", text, WRONG_TEXT, "22P02")
        for text in ("'abc'", f"'{_UUID}0'", f"' {_UUID}'", f"'{{{_UUID}'")
    ),
    *(("bigint", text, UNSURE, "") for text in ("5.0", "5e0", "'5'\n'6'")),
    *(("text", text, UNSURE, "") for text in ("5", "E'a\\n'", "'a'\n'b'")),
    ("varchar", "'a '", UNSURE, ""),
    *(
        ("timestamp", text, UNSURE, "")
        for text in ("'now'", "'infinity'", "'2026-01-31'", f"'{_MOMENTS[0]}+01'")
    ),
    *(("timestamptz", text, UNSURE, "") for text in (f"'{_MOMENTS[0]}'", f"'{_MOMENTS[0]} UTC'")),
)
EXPRESSIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(INTEGERS, ("$1", "$1::int8", "cast($1 as smallint)")),
    **dict.fromkeys(("text", "varchar"), ("$1", "$1::text", "$1::varchar")),
    **{name: ("$1", f"$1::{name}") for name in ("uuid", "timestamp", "timestamptz")},
}


@pytest.fixture(scope="module")
def connection(pg_stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(pg_stack.primary.dsn("test", "test"), autocommit=True) as connection:
        # What the meaning of a form must not depend on.
        connection.execute("set datestyle = 'German, DMY'; set timezone = 'Pacific/Chatham'")
        for key_type in TYPES:
            connection.execute(f"create temporary table by_{key_type} (k {key_type}) partition by hash (k)")
            for shard in range(SHARDS):
                connection.execute(
                    f"create temporary table {key_type}_{shard} partition of by_{key_type}"
                    f" for values with (modulus {SHARDS}, remainder {shard})"
                )
        yield connection


def statements(key_type: str, expression: str) -> tuple[str, ...]:
    """The same key three times; each statement tells of the partition that it finds."""
    partition = "tableoid::regclass::text as partition"
    table = f"by_{key_type}"
    return (
        f"insert into {table} (k) values ({expression}) returning {partition}",
        f"select {partition} from {table} where k = {expression}",
        f"delete from {table} where k in ({expression}) returning {partition}",
    )


def selector_for(key_type: str, statement: str) -> tuple[Selector, Scanner, bytearray]:
    text = bytearray(statement.encode())
    scanner = Scanner()
    shape = scanner.scan(text, 0, len(text))
    assert shape is not None
    return remembered_selector(key_type, shape), scanner, text


@cache
def remembered_selector(key_type: str, shape: bytes) -> Selector:
    """As a node makes it: once for a shape, without a look at the values."""
    rendered, places = render_with_places(shape)
    keys = find_keys(rendered, RULES)
    assert keys.verdict is Verdict.KEYED, (rendered, keys.reason)
    selector = selector_of(ShardTable("hash", key_type, SHARDS), keys.terms, places)
    assert selector is not None
    return selector


def check_literal(connection: psycopg.Connection, key_type: str, literal: str) -> None:
    for statement in statements(key_type, literal):
        selector, scanner, text = selector_for(key_type, statement)
        shard = selector.by_constants(scanner, text, True)
        assert connection.execute(statement).fetchall() == [(f"{key_type}_{shard}",)], statement


@pytest.mark.parametrize("key_type", TYPES)
def test_literals(key_type: str, connection: psycopg.Connection) -> None:
    for literal in LITERALS[key_type]:
        check_literal(connection, key_type, literal)


@pytest.mark.parametrize(("key_type", "literal", "code", "sqlstate"), REFUSED)
def test_refused_literals(
    key_type: str, literal: str, code: int, sqlstate: str, connection: psycopg.Connection
) -> None:
    insert = statements(key_type, literal)[0]
    selector, scanner, text = selector_for(key_type, insert)
    assert selector.by_constants(scanner, text, True) == code
    if sqlstate:
        with pytest.raises(psycopg.Error) as raised:
            connection.execute(insert)
        assert raised.value.sqlstate == sqlstate


def integer(bits: int) -> Callable[[random.Random], tuple[str, bytes]]:
    def make(chance: random.Random) -> tuple[str, bytes]:
        key = chance.randint(-(1 << bits - 1), (1 << bits - 1) - 1) >> chance.randrange(bits)
        return str(key), key.to_bytes(bits // 8, "big", signed=True)

    return make


def text(chance: random.Random) -> tuple[str, bytes]:
    key = "".join(chance.choices("aB 0'\\$é€𝄞\n", k=chance.randrange(30))) + "."
    return key, key.encode()


def some_uuid(chance: random.Random) -> tuple[str, bytes]:
    key = uuid.UUID(bytes=chance.randbytes(16))
    return chance.choice((str(key), key.hex.upper(), f"{{{key}}}")), key.bytes


def moment(zones: tuple[str, ...]) -> Callable[[random.Random], tuple[str, bytes]]:
    def make(chance: random.Random) -> tuple[str, bytes]:
        day = f"{chance.randint(1, 9999):04}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        time = f"{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}"
        fraction = chance.choice(("", f".{chance.randint(0, 999999):06}", f".{chance.randint(0, 99):02}"))
        micros = chance.randint(-(2**55), 2**57)
        return day + chance.choice(" T") + time + fraction + chance.choice(zones), struct.pack(">q", micros)

    return make


# A key as text, and another one in binary format.
MAKERS: dict[str, Callable[[random.Random], tuple[str, bytes]]] = {
    "smallint": integer(16),
    "integer": integer(32),
    "bigint": integer(64),
    "text": text,
    "varchar": text,
    "uuid": some_uuid,
    "timestamp": moment(("",)),
    "timestamptz": moment(_ZONES),
}


@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize(("count", "seed"), [(40, 1), pytest.param(3_000, 2, marks=pytest.mark.live_long)])
@pytest.mark.timeout(900)
def test_random_literals(key_type: str, count: int, seed: int, connection: psycopg.Connection) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        key = MAKERS[key_type](chance)[0]
        doubled = key.replace("'", "''")
        forms = [f"'{doubled}'", f"$k${key}$k$"]
        if "\\" not in key:
            forms.append(f"E'{doubled}'")
        if key_type in INTEGERS:
            forms += [key, f"{key}::{key_type}", f"'  {key}\n'"]
        literal = chance.choice(forms)
        # -32768::smallint is the negative of a number that is too large.
        check_literal(
            connection, key_type, f"({literal[:-10]})" if literal == "-32768::smallint" else literal
        )


def check_parameter(
    connection: psycopg.Connection, key_type: str, expression: str, declared: int, value: bytes, kind: int
) -> bool:
    """Whether the form is read; then the server agrees."""
    types = struct.pack(">HI", 1, declared)
    bind = bytearray(messages.bind("", "", [value], [kind]))
    for statement in statements(key_type, expression):
        selector, _, _ = selector_for(key_type, statement)
        shard = selector.by_parameters(bind, 0, len(bind), types, True)
        if shard == UNSURE:
            return False
        result = connection.pgconn.exec_params(
            statement.encode(), [value], param_types=[declared], param_formats=[kind]
        )
        found = result.get_value(0, 0) if result.ntuples == 1 else result.error_message
        assert found == f"{key_type}_{shard}".encode(), (statement, declared, value, kind)
    return True


@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize(("count", "seed"), [(5, 1), pytest.param(200, 2, marks=pytest.mark.live_long)])
@pytest.mark.timeout(900)
def test_parameters(key_type: str, count: int, seed: int, connection: psycopg.Connection) -> None:
    chance = random.Random(seed)
    alike = next((group for group in (INTEGERS, ("text", "varchar")) if key_type in group), (key_type,))
    for _ in range(count):
        for expression in EXPRESSIONS[key_type]:
            for declared in (0, *(OIDS[other] for other in alike)):
                # So small that it fits every type of integers.
                as_text, as_binary = MAKERS["smallint" if key_type in INTEGERS else key_type](chance)
                assert check_parameter(connection, key_type, expression, declared, as_text.encode(), 0)
                if key_type in INTEGERS:
                    number = int.from_bytes(as_binary, "big", signed=True)
                    read = [
                        check_parameter(
                            connection,
                            key_type,
                            expression,
                            declared,
                            number.to_bytes(width, "big", signed=True),
                            1,
                        )
                        for width in (2, 4, 8)
                    ]
                    assert read.count(True) == 1
                else:
                    assert check_parameter(connection, key_type, expression, declared, as_binary, 1)


def array_conditions(key_type: str, key: str, chance: random.Random) -> list[str]:
    """Conditions that this key alone meets, by an array of each form that is read."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    element = f'"{escaped}"'
    is_text = key_type in ("text", "varchar")
    if not is_text and chance.random() < 0.5 and "{" not in key:
        element = key
    null = ", null" if not is_text else ""
    doubled = element.replace("'", "''")
    literal = "'" + key.replace("'", "''") + "'"
    texts = [f"'{{{doubled}}}'", f"' {{ {doubled} ,\t{doubled}{null} }} '", f"$k${{{element}}}$k$"]
    if "\\" not in element:
        texts.append(f"E'{{{doubled}}}'")
    arrays = [*texts, *(f"{text}::{key_type}[]" for text in texts), f"cast({texts[0]} as {key_type}[])"]
    arrays += [f"array[{literal}, {literal}]::{key_type}[]", f"array[{literal}::{key_type}]"]
    if key_type in INTEGERS:
        arrays += [f"array[{key}, {key}]", f"'{{ {key} }}'::int8[]", f"array[{key}]::int8[]"]
    return [f"k = {chance.choice(('any', 'some'))} ({array})" for array in arrays]


@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize(("count", "seed"), [(3, 1), pytest.param(200, 2, marks=pytest.mark.live_long)])
@pytest.mark.timeout(900)
def test_arrays_in_the_text(key_type: str, count: int, seed: int, connection: psycopg.Connection) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        key = MAKERS[key_type](chance)[0]
        connection.execute(f"insert into by_{key_type} (k) values (%s::{key_type})", [key])  # type: ignore[arg-type]
        for condition in array_conditions(key_type, key, chance):
            statement = f"select tableoid::regclass::text from by_{key_type} where {condition}"
            selector, scanner, text = selector_for(key_type, statement)
            shard = selector.by_constants(scanner, text, True)
            assert connection.execute(statement).fetchall() == [(f"{key_type}_{shard}",)], statement  # type: ignore[arg-type]
        connection.execute(f"delete from by_{key_type}")  # type: ignore[arg-type]


def packed(oid: int, elements: list[bytes | None]) -> bytes:
    """An array in binary format."""
    array = struct.pack(">IIIII", 1, int(None in elements), oid, len(elements), 1)
    for element in elements:
        array += b"\xff\xff\xff\xff" if element is None else struct.pack(">I", len(element)) + element
    return array


@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize(("count", "seed"), [(3, 1), pytest.param(200, 2, marks=pytest.mark.live_long)])
@pytest.mark.timeout(900)
def test_arrays_as_parameters(key_type: str, count: int, seed: int, connection: psycopg.Connection) -> None:
    chance = random.Random(seed)
    # What the server takes $1 for is the key's type, but for varchar, which it compares as text.
    element = 25 if key_type == "varchar" else OIDS[key_type]
    for _ in range(count):
        _, as_binary = MAKERS[key_type](chance)
        sent = connection.pgconn.exec_params(
            f"insert into by_{key_type} (k) values ($1) returning k".encode(),
            [as_binary],
            param_formats=[1],
        )
        key = (sent.get_value(0, 0) or b"").decode()
        if key_type == "timestamptz":
            # As the session shows it, its meaning depends on the session.
            sent = connection.pgconn.exec_(b"select to_char(k at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'"
                                           b" from by_timestamptz")  # fmt: skip
            key = (sent.get_value(0, 0) or b"").decode()
        elif key_type == "timestamp":
            sent = connection.pgconn.exec_(b"select to_char(k, 'YYYY-MM-DD HH24:MI:SS.US') from by_timestamp")
            key = (sent.get_value(0, 0) or b"").decode()
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        null = [] if key_type in ("text", "varchar") else ["NULL"]
        written = "{" + ",".join([f'"{escaped}"', *null, f' "{escaped}"']) + "}"
        for expression, declared, of in (
            ("$1", 0, element),
            ("$1", ARRAY_OIDS[key_type], OIDS[key_type]),
            (f"$1::{key_type}[]", 0, OIDS[key_type]),
            (f"$1::{key_type}[]", ARRAY_OIDS[key_type], OIDS[key_type]),
        ):
            statement = f"select tableoid::regclass::text from by_{key_type} where k = any ({expression})"
            for value, kind in (
                (written.encode(), 0),
                (packed(of, [as_binary]), 1),
                (packed(of, [None, as_binary, as_binary, None]), 1),
            ):
                selector, _, _ = selector_for(key_type, statement)
                bind = bytearray(messages.bind("", "", [value], [kind]))
                shard = selector.by_parameters(bind, 0, len(bind), struct.pack(">HI", 1, declared), True)
                result = connection.pgconn.exec_params(
                    statement.encode(), [value], param_types=[declared], param_formats=[kind]
                )
                found = result.get_value(0, 0) if result.ntuples == 1 else result.error_message
                assert found == f"{key_type}_{shard}".encode(), (statement, declared, value, kind)
        connection.execute(f"delete from by_{key_type}")  # type: ignore[arg-type]
