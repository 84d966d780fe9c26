"""Judging a rendered shape gives what judging the statement gives, or asks for the text."""

from __future__ import annotations

import pytest

from pgcat_cluster.relay.shapes import Scanner, render
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.analysis import analyze
from tests.support.routes import read_routes

ROUTES = read_routes()
pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


def rendered(text: str) -> str | None:
    statement = bytearray(text.encode())
    shape = Scanner().scan(statement, 0, len(statement))
    return None if shape is None else render(shape)


def is_judged_alike(text: str) -> bool:
    shape = rendered(text)
    if shape is None:
        return True  # unknown, which goes to the primary
    of_text, of_shape = analyze(text), analyze(shape)
    if of_text.needs_text:
        return of_shape.needs_text
    return of_shape == of_text if of_text.parses else not of_shape.reads_only


def test_a_shape_is_judged_like_its_statement() -> None:
    assert [route for route in ROUTES if not is_judged_alike(route.text)] == []


def test_most_statements_have_a_shape() -> None:
    known = [route for route in ROUTES if rendered(route.text) is not None]
    assert len(known) > 0.95 * len(ROUTES)
