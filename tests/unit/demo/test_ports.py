"""A port that was given to one process is given to no other, listened on or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pgcat_cluster.demo import ports

pytestmark = pytest.mark.once

_PROGRAM = """
import sys
from pgcat_cluster.demo import ports
wanted, other = int(sys.argv[1]), int(sys.argv[2])
drawn = iter([wanted, other])
ports._chance.randrange = lambda *_: next(drawn)
print(ports.free_port())
"""


def test_two_processes_get_two_ports() -> None:
    first, second = ports.free_port(), ports.free_port()
    assert first != second
    # Ours, which nobody listens on, is drawn there at first.
    command = [sys.executable, "-c", _PROGRAM, str(first), "19999"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "19999\n"
