"""The command line as a whole: what it teaches, what it says of itself, what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from pgcat_cluster.cli import main
from pgcat_cluster.relay.build import build_kind


def test_help_names_every_command_and_a_way_to_begin() -> None:
    answer = CliRunner().invoke(main, ["--help"])
    assert answer.exit_code == 0
    for line in (
        "pgcat-cluster demo",
        "pgcat-cluster run --config",
        "  run ",
        "  demo ",
        "  fleet ",
        "  config ",
    ):
        assert line in answer.output


@pytest.mark.parametrize("command", ["run", "demo", "fleet", "config"])
def test_every_command_explains_itself(command: str) -> None:
    answer = CliRunner().invoke(main, [command, "--help"])
    assert (answer.exit_code, answer.output.splitlines()[0].split()[:3]) == (0, ["Usage:", "main", command])


def test_an_unknown_command_is_refused() -> None:
    answer = CliRunner().invoke(main, ["dance"])
    assert answer.exit_code == 2
    assert "No such command 'dance'" in answer.output


def test_version_says_which_data_plane_runs() -> None:
    answer = CliRunner().invoke(main, ["--version"])
    assert answer.output.startswith("pgcat-cluster ")
    assert answer.output.endswith(f" ({build_kind()})\n")


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from pgcat_cluster.cli import main; main(['--help'], standalone_mode=False); "
        "print([name for name in ('rich', 'aiohttp', 'sqlglot', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_run_without_a_file_says_what_is_missing() -> None:
    answer = CliRunner().invoke(main, ["run"])
    assert answer.exit_code == 2
    assert "--config FILE, or --etcd, --fleet and --node" in answer.output
