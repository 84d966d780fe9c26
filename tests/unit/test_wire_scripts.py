"""Plays every script of `tests/scripts/wire` in whole messages, byte by byte, and in random pieces."""

from __future__ import annotations

import os

import pytest

from tests.support import scripts

SCRIPTS = [scripts.read(path) for path in sorted(scripts.FOLDER.glob("*.wire"))]
REWRITES = os.environ.get("PGCAT_REWRITE", "0") not in ("", "0")


@pytest.mark.parametrize("chunks", scripts.CHUNKS)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script(script: scripts.Script, chunks: scripts.Chunks) -> None:
    happened = scripts.play(script, chunks)
    if REWRITES and chunks == "whole":
        (scripts.FOLDER / f"{script.name}.wire").write_text(happened, encoding="utf-8")
        return
    if happened != script.text:
        pytest.fail(f"{script.name}\n{scripts.mismatch(script.text, happened)}", pytrace=False)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 40
