"""Layout does not count, constants do."""

import pytest

from pgcat_cluster.sql.form import form_of

pytestmark = pytest.mark.once

FORM = form_of("select a, 'X' from t where b = 1")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a, 'X' FROM t WHERE b = 1;",
        "select a,'X' from t where b=1 ; ;",
        "/* hint */ select a, -- why\n 'X'\nfrom t where b = 1",
        "Select\ta , 'X'\n\n  From T where B =1",
    ],
)
def test_layout_does_not_count(text: str) -> None:
    assert form_of(text) == FORM


@pytest.mark.parametrize(
    "text",
    [
        "select a, 'x' from t where b = 1",
        "select a, 'X' from t where b = 2",
        "select a, 'X' from t where b = 1.0",
        "select \"A\", 'X' from t where b = 1",
        "select a, 'X' from t where b = $1",
        "select a, 'X' from t where b = 1; select 1",
    ],
)
def test_everything_else_does(text: str) -> None:
    assert form_of(text) not in (None, FORM)


def test_lists_and_rows_keep_their_length() -> None:
    assert form_of("values (now()), (now())") != form_of("values (now())")
    assert form_of("select x in (1, 2), y in (3)") != form_of("select x in (1), y in (2, 3)")


def test_what_can_not_be_cut_has_no_form() -> None:
    assert form_of("select 'unterminated") is None
