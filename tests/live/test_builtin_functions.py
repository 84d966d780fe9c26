"""What is known of PostgreSQL's own functions, against what a server says of them."""

from __future__ import annotations

from pathlib import Path

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.sql.builtin_functions import VOLATILITY
from tests.support.builtin_functions import MODULE, RANKS, functions_of, merged, module


def test_no_function_of_a_server_is_missing_or_said_to_be_better_than_it_is(pg_stack: Stack) -> None:
    said = functions_of(pg_stack)
    wrong = {
        name: (volatility, VOLATILITY.get(name))
        for name, volatility in said.items()
        if RANKS.index(volatility) > RANKS.index(VOLATILITY.get(name, "immutable")) or name not in VOLATILITY
    }
    assert wrong == {}, "run python -m tests.support.builtin_functions"
    assert (said["lower"], said["now"], said["nextval"]) == RANKS


def test_the_module_is_as_it_was_generated() -> None:
    assert Path(MODULE).read_text() == module(VOLATILITY)


def test_the_worst_that_any_server_says_counts() -> None:
    assert merged(
        {"a": "stable", "b": "immutable"}, [{"a": "volatile", "b": "immutable"}, {"c": "stable"}]
    ) == {
        "a": "volatile",
        "b": "immutable",
        "c": "stable",
    }
