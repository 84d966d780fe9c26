"""Every statement of the corpus goes where the corpus says, for the reason it says."""

from __future__ import annotations

import pytest

from pgcat_cluster.routing.role import RoleDecision, role_for
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.analysis import analyze
from tests.support.routes import ExpectedRoute, read_routes

ROUTES = read_routes()
pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_the_corpus(route: ExpectedRoute) -> None:
    expected = RoleDecision(role=route.role, reason=route.reason)
    assert role_for(analyze(route.text), "replicas") == expected


def test_the_corpus_is_large_and_says_everything_once() -> None:
    assert len(ROUTES) >= 350
    assert len({(route.file, route.text) for route in ROUTES}) == len(ROUTES)


def test_reads_may_be_kept_on_the_primary() -> None:
    kept = RoleDecision(role="primary", reason="reads stay on the primary by settings")
    assert role_for(analyze("select 1"), "primary") == kept
    assert role_for(analyze("begin read only"), "primary") == kept
    assert role_for(analyze("delete from t"), "primary") == RoleDecision(
        role="primary", reason="writes: delete"
    )
