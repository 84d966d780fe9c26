"""Durations, sizes and addresses: what is read, what is refused, and what is written reads the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.topology.units import (
    Address,
    parse_address,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("250ms", 0.25),
        ("20ms", 0.02),
        ("6s", 6.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        ("0s", 0.0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["6", "6 s", "s", "-1s", "1e3s", "6S", "1min", ".5s", "6s\n", "٣s", "9" * 400 + "s"]
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_duration(text)


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_shown_duration_reads_the_same(number: int, unit: str) -> None:
    number %= 10**9
    seconds = parse_duration(f"{number}{unit}")
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("512B", 512), ("64KiB", 65536), ("64MiB", 67108864), ("1GiB", 1 << 30), ("1536KiB", 1572864)],
)
def test_size(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes
    assert parse_size(show_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("text", ["64", "64MB", "64mib", "1.5MiB", "-1B", "64 MiB"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6432", Address("127.0.0.1", 6432)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:6432", Address("::1", 6432)),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["6432", ":6432", "::1:6432", "[::1]", "a:b", "a b:1", "h:65536", "h:-1", "[x]:1"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_address(text)
