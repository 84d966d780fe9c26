"""Hashes of keys, word by word as PostgreSQL computes them."""

from __future__ import annotations

import pytest

from pgcat_cluster.relay import hashing

# Key: hash, hash of the row, and the shard of 2, 3, 5 and 12 shards. From a PostgreSQL 15.
INTEGERS = {
    0: (0xC2E34BDA39F0F0CD, 0x0C8440B74FD699B0, 0, 2, 3, 8),
    1: (0x52D621058124E6D5, 0x9C7715E2970A8FB8, 0, 2, 0, 8),
    2: (0xA1DA1E669978F897, 0xEB7B1343AF5EA17A, 0, 0, 1, 6),
    -1: (0xBA5FC748095606C2, 0x0400BC251F3BAFA5, 1, 2, 4, 5),
    -5: (0x4BDE22832849AD1C, 0x957F17603E2F55FF, 1, 1, 4, 7),
    123456789: (0xF3311FB2440A2AEA, 0x3CD2148F59EFD3CD, 1, 1, 2, 1),
    2**32: (0x52D621058124E6D5, 0x9C7715E2970A8FB8, 0, 2, 0, 8),
    -(2**32): (0xC2E34BDA39F0F0CD, 0x0C8440B74FD699B0, 0, 2, 3, 8),
    2**63 - 1: (0x44893A0F1E949193, 0x8E2A2EEC347A3A76, 0, 0, 1, 6),
    -(2**63): (0xAC09237E4899F89C, 0xF5AA185B5E7FA17F, 1, 1, 4, 7),
}


@pytest.mark.parametrize("key", INTEGERS)
def test_an_integer_hashes_as_in_the_server(key: int) -> None:
    column = hashing.hash_of_int(key)
    row = hashing.hash_of_row(column)
    assert (column, row, *(row % shards for shards in (2, 3, 5, 12))) == INTEGERS[key]


# select hashtextextended(key, 8816678312871386365) in a database in UTF-8.
TEXTS = {
    "": -5700645584453517373,
    "a": -6705225459120232837,
    "ab": 596009030900183869,
    "abc": 3628778498291917250,
    "abcd": 4029384952263848046,
    "abcde": 4809259092934399961,
    "abcdefg": -1516236981150442578,
    "abcdefgh": -7754745184861941070,
    "abcdefghi": -7860738947571725408,
    "abcdefghijk": -2046435308545367432,
    "abcdefghijkl": -7876791541613377658,
    "abcdefghijklm": -6785754114725280077,
    "abcdefghijklmnopqrstuvwx": -10959101940276370,
    "abcdefghijklmnopqrstuvwxy": 1383018584709609407,
    "abcdefghijklmnopqrstuvwxyz0123456789": -7380664822038775401,
    "abcdefghijklmnopqrstuvwxyz0123456789äöü€": -1012086551874649399,
}


@pytest.mark.parametrize("key", TEXTS)
def test_a_text_hashes_as_in_the_server(key: str) -> None:
    assert hashing.hash_of_bytes(key.encode()) == TEXTS[key] % 2**64
