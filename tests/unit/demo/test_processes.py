"""Children that can not outlive their owner, and interruptions that do no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgcat_cluster.demo.processes import (
    Account,
    DemoFault,
    Household,
    Interrupted,
    Interruptions,
    wait_until,
)

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def children_heed_every_signal() -> Iterator[None]:
    """A shell makes what it runs in the background ignore SIGQUIT, and children inherit that."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGQUIT, before)


@pytest.fixture
def household(tmp_path: Path) -> Iterator[Household]:
    folder = tmp_path / "stack"
    folder.mkdir()
    household = Household(folder, keep=False)
    yield household
    household.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_closing_ends_children_and_removes_the_folder(household: Household) -> None:
    child = household.spawn(["sleep", "1000"], log=household.folder / "log")
    assert child.is_running()
    household.close()
    assert (child.returncode, household.folder.exists()) == (-signal.SIGQUIT, False)


def test_a_kept_folder_stays(tmp_path: Path) -> None:
    household = Household(tmp_path, keep=True)
    household.close()
    assert tmp_path.exists()


def test_the_guard_ends_children_of_an_owner_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    folder.mkdir()
    program = textwrap.dedent(
        f"""
        import pathlib, signal
        from pgcat_cluster.demo.processes import Household
        folder = pathlib.Path({str(folder)!r})
        household = Household(folder, keep=False)
        obedient = household.spawn(["sleep", "1000"], log=folder / "log")
        frozen = household.spawn(["sleep", "1000"], log=folder / "log")
        frozen.signal(signal.SIGSTOP)
        print(obedient.pid, frozen.pid, flush=True)
        signal.pause()
        """
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 2
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not any(map(is_alive, pids)), within_s=60.0, what="children end")
    wait_until(lambda: not folder.exists(), within_s=60.0, what="the folder goes")


def test_a_child_that_does_not_end_in_time_is_killed(household: Household) -> None:
    child = household.spawn(["sleep", "1000"], log=household.folder / "log")
    with pytest.raises(DemoFault, match=r"did not end within 0\.05 s"):
        child.wait(0.05)
    assert child.returncode == -signal.SIGKILL


def test_a_frozen_child_can_be_stopped(household: Household) -> None:
    child = household.spawn(["sleep", "1000"], log=household.folder / "log")
    child.signal_family(signal.SIGSTOP)
    child.stop(signal.SIGTERM, within_s=60.0)
    assert child.returncode == -signal.SIGTERM


def test_last_words_are_the_line_that_tells(household: Household) -> None:
    script = "echo starting; echo 'FATAL: no space left'; echo bye"
    child = household.spawn(["sh", "-c", script], log=household.folder / "log")
    child.wait(60.0)
    assert child.last_words() == "FATAL: no space left"


def test_an_interruption_raises_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruptions():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_deferred_interruption_raises_after_the_block() -> None:
    steps = []

    def interrupted_half_way(interruptions: Interruptions) -> None:
        with interruptions.deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("finished what was begun")
        steps.append("never")

    with Interruptions() as interruptions, pytest.raises(Interrupted):
        interrupted_half_way(interruptions)
    assert steps == ["finished what was begun"]


@pytest.mark.parametrize(
    ("mode", "uid_offset", "gid_offset", "reaches"),
    [
        (0o700, 0, 1, True),
        (0o700, 1, 0, False),
        (0o710, 1, 0, True),
        (0o710, 1, 1, False),
        (0o711, 1, 1, True),
    ],
)
def test_reach_follows_the_search_bits(
    mode: int, uid_offset: int, gid_offset: int, reaches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        # Somebody other than root: root reaches everything.
        if os.geteuid() == 0:
            os.chown(folder, 4711, 4711)
        owner = folder.stat()
        folder.chmod(mode)
        account = Account(name="somebody", uid=owner.st_uid + uid_offset, gid=owner.st_gid + gid_offset)
        assert account.can_reach(folder) is reaches
