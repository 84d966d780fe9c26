"""Compiled and interpreted selectors find the same shards, also of keys and Bind messages that nobody should send."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from pgcat_cluster.relay.build import build_kind
from pgcat_cluster.relay.selectors import Selector, ShardTable
from pgcat_cluster.relay.shapes import Scanner
from tests.fuzz.twins import assert_twins_agree

_TYPES = {"smallint": 21, "integer": 23, "bigint": 20, "text": 25, "varchar": 1043, "uuid": 2950, "timestamp": 1114,
          "timestamptz": 1184}  # fmt: skip
_CASTS = (
    *(None,) * 12,
    "int2",
    "int4",
    "int8",
    "text",
    "varchar",
    "uuid",
    "timestamp",
    "timestamptz",
    "numeric",
)
_OIDS = (0, 20, 21, 23, 25, 705, 1043, 1114, 1184, 2950, 1700)
_ARRAYS = {20: 1016, 23: 1007, 21: 1005, 25: 1009, 1043: 1015, 2950: 2951, 1114: 1115, 1184: 1185}
_PIECES = (
    *("5", "0", "-", "+", " ", "00", "9223372036854775807", "9223372036854775808", "32768", "2147483648", "1_0", "0x"),
    *(".", "e", "a", "''", "\\", "é", "\n", "2026-02-2", "9 23:59:59", "T", "Z", "+05:30", "-16", ":", "{", "}"),
    *("{}", ",", "NULL", '"', "{5,", "{{", "}}", "[1:1]="),
    *("6a0e6c52-1f6a-4a55-9c0e-0c3b0f5d7a1", "6a0e6c521f6a4a559c0e0c3b0f5d7a11", "2000-01-01 00:00:00", ".123456"),
)  # fmt: skip
_QUOTES = ("'{}'", "'{}'", "E'{}'", "$${}$$", "$a${}$a$", "{}", "N'{}'", "'{}'\n'5'")

Case = tuple[str, str | None, tuple[bool, bool], bytes, bytes]


def cases(count: int, seed: int) -> Iterator[Case]:
    """Type of key, cast, a flag and whether it is an array; a text with constants, and what stands in a Bind behind
    its type and length.
    """
    chance = random.Random(seed)
    for _ in range(count):
        key_type = chance.choice([*_TYPES])
        keys = ["".join(chance.choices(_PIECES, k=chance.choice((1, 1, 1, 2, 3)))) for _ in range(2)]
        if is_array := chance.random() < 0.2:
            keys = [array_of(chance, keys), keys[1]]
        text = ", ".join(chance.choice(_QUOTES).format(key) for key in keys[: chance.choice((1, 1, 2))])
        value = chance.choice((keys[0].encode(), chance.randbytes(chance.choice((2, 4, 8, 16, 16, 3)))))
        if is_array and chance.random() < 0.5:
            value = binary_array(chance, _TYPES[key_type])
        formats = chance.choice((b"\0\0", b"\0\1\0\0", b"\0\1\0\1", b"\0\2\0\0\0\1", b"\0\1\0\2"))
        bind = b"\0\0" + formats + b"\0\2" + struct.pack(">I", len(value)) + value
        bind += chance.choice(
            (b"\xff\xff\xff\xff", struct.pack(">I", len(keys[1].encode())) + keys[1].encode())
        )
        if chance.random() < 0.2:
            bind = bind[: chance.randrange(len(bind))] + chance.randbytes(chance.randrange(3))
        flags = chance.random() < 0.2, is_array
        yield key_type, chance.choice(_CASTS), flags, text.encode(), bind


def array_of(chance: random.Random, words: list[str]) -> str:
    words = chance.choice((words, words[:1], ["5"], ["5", "NULL", "+5"]))
    quoted = [chance.choice(("{}", '"{}"', " {} ", '"\\\\{}"')).format(word) for word in words]
    return chance.choice(("{{{}}}", "{{{}}}", " {{{} }} ", "{}", "{{{},{{}}}}")).format(",".join(quoted))


def binary_array(chance: random.Random, oid: int) -> bytes:
    """Mostly a whole one."""
    width = {21: 2, 23: 4, 20: 8, 2950: 16, 1114: 8, 1184: 8}.get(oid, chance.randrange(5))
    elements = [chance.randbytes(width) for _ in range(chance.choice((0, 1, 1, 2)))]
    array = struct.pack(">IIIII", chance.choice((1, 1, 1, 0, 2)), 0, oid, len(elements), 1)
    for element in elements:
        is_null = chance.random() < 0.2
        array += b"\xff\xff\xff\xff" if is_null else struct.pack(">I", len(element)) + element
    return array[: chance.choice((len(array), len(array), len(array), 12, chance.randrange(len(array))))]


def answers(count: int, seed: int) -> Iterator[str]:
    """Everything that the selectors of this process have to say."""
    chance = random.Random(-seed)
    scanner = Scanner(constants_max=3)
    for key_type, cast, (flag, is_array), text, bound in cases(count, seed):
        table = ShardTable("hash", key_type, 1009)
        if key_type == "bigint":
            table = ShardTable("range", key_type, 4, None, [(-(2**40), 1), (0, -1), (6, 2), (2**62, 3)])
        found: list[object] = []
        buffer = bytearray(b"'" + text + b"1'")
        shape = scanner.scan(buffer, 1, 1 + len(text))
        if shape is not None:
            slots = [(scanner.places[n], cast, flag, is_array) for n in range(min(scanner.constants, 3))]
            found.append(Selector(table, slots).by_constants(scanner, buffer, not flag))
        declared = [chance.choice((_TYPES[key_type], chance.choice(_OIDS))) for _ in range(2)]
        if is_array and chance.random() < 0.9:
            declared[0] = _ARRAYS.get(declared[0], declared[0])
        types = struct.pack(">HII", 2, *declared)[: chance.choice((0, 2, 6, 10, 10))]
        numbers = [(1, cast, not flag, is_array), (2, None, True, False)][: chance.choice((1, 2))]
        message = bytearray(b"xB\0\0\0\0" + bound + b"\0\0")
        found.append(
            Selector(table, (), numbers).by_parameters(message, 1, len(message) - 2, types, not flag)
        )
        yield repr(found)


def test_the_cases_are_worth_comparing() -> None:
    found = Counter(min(int(one), 0) for answer in answers(4000, 1) for one in answer.strip("[]").split(", "))
    assert {0, -1, -2, -3, -4, -5, -6} <= set(found)
    assert found[0] > 300


@pytest.mark.once
@pytest.mark.skipif(
    build_kind() != "compiled", reason="needs the compiled data plane beside the interpreted one"
)
@pytest.mark.parametrize(
    ("count", "seed"), [(10_000, 1), pytest.param(500_000, 2, marks=pytest.mark.live_long)]
)
@pytest.mark.timeout(600)
def test_both_selectors_give_the_same_answers(count: int, seed: int) -> None:
    assert assert_twins_agree(__name__, count, seed, cases(count, seed), answers(count, seed)) == count
