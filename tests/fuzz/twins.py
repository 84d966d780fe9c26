"""Compares what the compiled data plane answers with what the interpreted one does, case by case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def assert_twins_agree(
    module: str, count: int, seed: int, cases: Iterable[object], answers: Iterator[str]
) -> int:
    """Run `answers(count, seed)` of a module interpreted too, in a process of its own; return how many there were."""
    program = (
        "import json\n"
        "from pgcat_cluster.relay.build import build_kind\n"
        f"from {module} import answers\n"
        "print(build_kind())\n"
        f"for answer in answers({count}, {seed}): print(json.dumps(answer))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PGCAT_PURE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as interpreted:
        assert interpreted.stdout is not None
        assert interpreted.stdout.readline() == "interpreted\n"
        told = 0
        for case, answer in zip(cases, answers, strict=True):
            assert json.loads(interpreted.stdout.readline()) == answer, case
            told += 1
        assert interpreted.stdout.read() == ""
    assert interpreted.returncode == 0
    return told
