"""What is known of PostgreSQL's own functions, against what a server says of them."""

from __future__ import annotations

import pytest

from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.sql.builtin_functions import VOLATILITY
from pgcat_cluster.sql.catalogs import RELATIONS
from tests.support import builtin_functions
from tests.support.builtin_functions import RANKS, functions_of, merged, module, relations_of

pytestmark = pytest.mark.once


def test_no_function_of_a_server_is_missing_or_said_to_be_better_than_it_is(pg_stack: Stack) -> None:
    said = functions_of(pg_stack)
    wrong = {
        name: (volatility, VOLATILITY.get(name))
        for name, volatility in said.items()
        if RANKS.index(volatility) > RANKS.index(VOLATILITY.get(name, "immutable")) or name not in VOLATILITY
    }
    assert wrong == {}, "run python -m tests.support.builtin_functions"
    assert (said["lower"], said["now"], said["nextval"]) == RANKS


def test_no_catalog_of_a_server_is_missing(pg_stack: Stack) -> None:
    assert relations_of(pg_stack) - RELATIONS == set(), "run python -m tests.support.builtin_functions"


def test_the_modules_are_as_they_were_generated() -> None:
    assert builtin_functions.MODULE.read_text() == module(VOLATILITY)
    assert builtin_functions.CATALOGS.read_text() == builtin_functions.catalogs_module(RELATIONS)


def test_the_worst_that_any_server_says_counts() -> None:
    assert merged(
        {"a": "stable", "b": "immutable"}, [{"a": "volatile", "b": "immutable"}, {"c": "stable"}]
    ) == {
        "a": "volatile",
        "b": "immutable",
        "c": "stable",
    }
