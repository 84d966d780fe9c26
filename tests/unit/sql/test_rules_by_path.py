"""Rules of names without a schema, under a search_path that was set."""

from __future__ import annotations

import pytest

from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.keys import KeyRules, Verdict, find_keys
from pgcat_cluster.sql.paths import UNKNOWN, path_of

pytestmark = pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform")


@pytest.mark.parametrize(
    ("rules", "path", "found"),
    [
        # The first schema of the path that has a rule, or what all of them agree on.
        ({"a.t": "id", "b.t": "x"}, "a, b", "by t.id"),
        ({"a.t": "x", "b.t": "id"}, "b, a", "by t.id"),
        ({"a.t": "x", "b.t": "id"}, '"$user", pg_catalog, b', "by t.id"),
        ({"a.t": "x", "t": "id"}, "b", "by t.id"),
        ({"a.t": "x", "": "id"}, "b", "by t.id"),
        ({"a.t": "id", "": "id"}, "b, a", "by t.id"),
        ({"a.t": "id", "": "id"}, "", "by t.id"),
        (
            {"a.t": "x", "b.t": "id", "c.t": "id"},
            "d, b",
            "may be d.t or b.t by the session's search_path",
        ),
        (
            {"a.t": "x", "t": "id"},
            "b, a",
            "may be b.t or a.t by the session's search_path: write its schema",
        ),
        ({"public.t": "id"}, "a, public", "may be a.t or public.t"),
        ({"public.t": "id"}, "a", "no sharding rule for table a.t"),
        ({"public.t": "id"}, "", "may be public.t or another by the session's search_path"),
        ({"public.t": "id"}, None, "may be public.t or another by a search_path that is not known"),
        ({"public.t": "x", "a.t": "id"}, None, "may be a.t or public.t or another"),
        ({"public.t": "id", "": "id"}, None, "by t.id"),
        # What no rule names with a schema has nothing to do with it.
        ({"t": "id", "public.other": "x"}, None, "by t.id"),
        ({"": "id", "public.other": "x"}, "a, b", "by t.id"),
    ],
)
def test_found_by_a_path(rules: dict[str, str], path: str | None, found: str) -> None:
    tables = {name: column for name, column in rules.items() if name}
    known = KeyRules(rules.get("", ""), tables, path=UNKNOWN if path is None else path_of(path))
    keys = find_keys("select from t where t.id = 5", known)
    assert found in keys.reason
    assert keys.by_path == any(name.endswith(".t") for name in tables)
    if found.startswith("may be"):
        assert keys.verdict is Verdict.UNREAD
    else:
        assert keys.verdict is (Verdict.KEYED if found.startswith("by") else Verdict.NOWHERE)


def test_in_doubt_a_transaction_does_not_tell_the_shard() -> None:
    """It may be another table, with its key on another shard."""
    for rules in (KeyRules("id", {"s.t": "x"}), KeyRules("", {"s.t": "x", "public.t": "id"})):
        assert find_keys("select from t where id = 5", rules).verdict is Verdict.UNREAD


def test_what_depends_on_a_path() -> None:
    rules = KeyRules("id", {"s.t": "id"})
    for text, is_by_path in (
        ("select from t where id = 5", True),
        ("select from s.t where id = 5", False),
        ("select from o where id = 5", False),
        ("with t as (select from o where id = 5) select from t", False),
        ("insert into o (id) select id from t where id = 5", True),
        ("select from o where id = 5; delete from t where id = 5", True),
        ("select from t", True),
        ("select 1", False),
    ):
        assert find_keys(text, rules).by_path == is_by_path, text
