"""Parameters as values: equal sets are one object, and one query turns a session's into a client's."""

from __future__ import annotations

import gc

import pytest

from pgcat_cluster.session.parameters import (
    Catalogue,
    Parameters,
    State,
    align_query,
    has_shapes,
    names_in,
    quote,
    read_state,
    reading_context,
    shuns_replicas,
    state_query,
)


def test_equal_sets_are_one_object_while_somebody_holds_them() -> None:
    catalogue = Catalogue()
    one = catalogue.of({"a": "1", "b": "2"})
    assert catalogue.of({"b": "2", "a": "1"}) is one
    assert catalogue.of({"a": "1"}) is not one
    assert catalogue.of({}) is catalogue.none
    del one
    gc.collect()
    assert len(catalogue._known) == 1


def test_a_set_can_not_be_changed_and_does_not_show_its_values() -> None:
    values = {"application_name": "s3cret"}
    parameters = Parameters(values)
    values["more"] = "1"
    assert dict(parameters.values) == {"application_name": "s3cret"}
    assert repr(parameters) == "Parameters(application_name)"
    with pytest.raises(TypeError):
        parameters.values["x"] = "1"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", "E''"),
        ("it's", "E'it''s'"),
        ("a\\b", "E'a\\\\b'"),
        ("\\'", "E'\\\\'''"),
        ("caf\udce9", "E'caf\udce9'"),
    ],
)
def test_a_quoted_value_means_itself(text: str, quoted: str) -> None:
    assert quote(text) == quoted


SET = "pg_catalog.set_config"


@pytest.mark.parametrize(
    ("have", "want", "query"),
    [
        ({}, {}, ""),
        ({"a": "1"}, {"a": "1"}, ""),
        ({}, {"a": "1"}, f"SELECT {SET}(E'a',E'1',false)"),
        ({"a": "1"}, {"a": "2"}, f"SELECT {SET}(E'a',E'2',false)"),
        ({"a": "1"}, {}, 'RESET "a"'),
        ({"a.B": "1"}, {}, 'RESET "a"."B"'),
        ({'a"': "1"}, {}, 'RESET "a"""'),
        ({"a": "1", "b": "1"}, {"b": "2"}, f"RESET \"a\";SELECT {SET}(E'b',E'2',false)"),
        ({"b": "1"}, {"b": "2", "c": "3"}, f"SELECT {SET}(E'b',E'2',false), {SET}(E'c',E'3',false)"),
        # Who one is is given up first and taken last, and set again even if it is the same.
        ({"role": "r"}, {}, "RESET role"),
        ({"role": "r", "a": "1"}, {"role": "r"}, f"RESET role;RESET \"a\";SELECT {SET}(E'role',E'r',false)"),
        (
            {"role": "r", "session_authorization": "s"},
            {"role": "q", "session_authorization": "s", "a": "1"},
            f"RESET role;RESET session_authorization;SELECT {SET}(E'a',E'1',false);"
            f"SELECT {SET}(E'session_authorization',E's',false);SELECT {SET}(E'role',E'q',false)",
        ),
    ],
)  # fmt: skip
def test_aligning(have: dict[str, str], want: dict[str, str], query: str) -> None:
    assert align_query(Parameters(have), Parameters(want)).decode() == query


def test_aligning_keeps_bytes_that_are_no_text() -> None:
    assert b"E'caf\xe9'" in align_query(Parameters({}), Parameters({"a": "caf\udce9"}))


def test_what_a_server_says_is_read() -> None:
    rows: list[list[bytes | None]] = [
        [b"s", b"work_mem", b"64MB"],
        [b"s", b"TimeZone", b"UTC"],
        [b"s", b"seed", b"unavailable"],
        [b"s", b"transaction_isolation", b"serializable"],
        [b"s", b"app.x", None],
        [b"p", b"listen", None],
        [b"p", b"hold cursor", None],
        [b"p", b"listen", None],
        [b"n", b"s1", None],
    ]
    assert read_state(rows) == State(
        values={"work_mem": "64MB", "timezone": "UTC", "app.x": ""},
        pins=("listen", "hold cursor"),
        prepared=frozenset({b"s1"}),
    )
    assert read_state([]) == State(values={}, pins=(), prepared=frozenset())


def test_the_question_grows_with_what_is_asked() -> None:
    plain = state_query("us'er", ()).decode()
    assert "session_user::text <> E'us''er'" in plain
    assert "pg_prepared_statements WHERE NOT from_sql" not in plain
    custom = state_query("us'er", ["app.x"]).decode()
    assert custom == plain + (
        " UNION ALL SELECT 's', E'app.x', v FROM pg_catalog.current_setting(E'app.x', true) v WHERE v IS NOT NULL"
    )
    spelled = state_query("us'er", (), is_spelled=True).decode()
    assert spelled == plain + (
        " UNION ALL SELECT 'n', name, NULL FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql"
    )


@pytest.mark.parametrize(
    ("values", "shuns"),
    [
        ({}, False),
        ({"default_transaction_isolation": "Serializable"}, True),
        ({"default_transaction_isolation": "read committed"}, False),
    ],
)
def test_who_shuns_replicas(values: dict[str, str], shuns: bool) -> None:
    assert shuns_replicas(Parameters(values)) is shuns


@pytest.mark.parametrize(
    ("reported", "has"),
    [
        ({}, True),
        ({"client_encoding": "UTF8", "standard_conforming_strings": "on"}, True),
        ({"client_encoding": "LATIN1"}, True),
        ({"client_encoding": "sjis"}, False),
        ({"client_encoding": "GB18030"}, False),
        ({"standard_conforming_strings": "off"}, False),
    ],
)
def test_which_sessions_have_shapes(reported: dict[str, str], has: bool) -> None:
    assert has_shapes(reported) is has


@pytest.mark.parametrize(
    ("reported", "values", "shares"),
    [
        ({}, {}, True),
        ({"application_name": "psql"}, {"application_name": "psql", "search_path": "a"}, True),
        ({"TimeZone": "Asia/Tokyo"}, {}, False),
        ({"DateStyle": "ISO, DMY"}, {}, False),
        ({"client_encoding": "LATIN1"}, {}, False),
        ({"standard_conforming_strings": "off"}, {}, False),
        ({}, {"extra_float_digits": "3"}, False),
        ({}, {"array_nulls": "off"}, False),
    ],
)
def test_who_shares_prepared_statements(
    reported: dict[str, str], values: dict[str, str], shares: bool
) -> None:
    fresh = {
        "client_encoding": "UTF8",
        "standard_conforming_strings": "on",
        "DateStyle": "ISO, MDY",
        "TimeZone": "UTC",
        "IntervalStyle": "postgres",
    }
    own = reading_context({**fresh, **reported}, Parameters(values))
    assert (own == reading_context(fresh, Parameters({}))) is shares


def test_names_in_code() -> None:
    code = b"do $$ begin perform set_config('App.Tenant', '1', false); set x.y to 2; app.tenant; end $$"
    assert names_in(code) == ("app.tenant", "x.y")
    assert len(names_in(b" ".join(b"a.b%d" % number for number in range(99)))) == 50
