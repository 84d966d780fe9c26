"""What a statement string does to savepoints."""

from __future__ import annotations

import pytest

from pgcat_cluster.sql.savepoints import Step, steps_of

SAVES, RELEASES, RETURNS, ENDS, OTHER = Step.SAVES, Step.RELEASES, Step.RETURNS, Step.ENDS, Step.OTHER

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("savepoint a", [(SAVES, "a")]),
        (" SavePoint /* x */ Abc1 ; ", [(SAVES, "abc1")]),
        ('savepoint "A ""b"', [(SAVES, 'A "b')]),
        ("savepoint " + "x" * 70, [(SAVES, "x" * 63)]),
        ("release a", [(RELEASES, "a")]),
        ("release savepoint a", [(RELEASES, "a")]),
        ("release savepoint", [(RELEASES, "savepoint")]),
        ("rollback to a", [(RETURNS, "a")]),
        ("rollback to savepoint a", [(RETURNS, "a")]),
        ("rollback work to a", [(RETURNS, "a")]),
        ("rollback transaction to savepoint work", [(RETURNS, "work")]),
        ("rollback to transaction", [(RETURNS, "transaction")]),
        ("rollback", [(ENDS, "")]),
        ("commit and chain", [(ENDS, "")]),
        ("end; begin; savepoint b", [(ENDS, ""), (OTHER, ""), (SAVES, "b")]),
        ("savepoint a; select ';savepoint b;'; ;release a", [(SAVES, "a"), (OTHER, ""), (RELEASES, "a")]),
        ("-- savepoint a\nselect $$ savepoint b $$", [(OTHER, "")]),
        ("", []),
    ],
)
def test_steps(text: str, steps: list[tuple[Step, str]]) -> None:
    assert steps_of(text) == steps
