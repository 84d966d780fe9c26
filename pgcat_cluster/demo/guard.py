"""Ends what a stack started and removes its folder, once the process that owned the stack is gone.

Run as a script of its own: `python -I guard.py FOLDER (remove|keep)`. It is told pids on its standard
input (`+pid`, `-pid`) and acts at the end of that input: the pipe closes when the owner closes it, and also
when the owner is killed by SIGKILL, which nobody can catch. It therefore imports nothing of this package and
shares no session with the owner.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

# More than the 5 s that PostgreSQL, told to stop at once, gives its own children before it kills them.
PATIENCE_S = 10.0


def parents() -> dict[int, int]:
    """Every process that can be seen, with its parent."""
    if not os.path.isdir("/proc/self"):
        table = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False
        ).stdout
        return {int(pid): int(parent) for pid, parent in (line.split() for line in table.splitlines())}
    found: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The second field, the name in parentheses, may hold blanks and parentheses itself.
                stat = pathlib.Path("/proc", entry, "stat").read_text(errors="replace")
                state, parent = stat.rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry)] = int(parent)
    return found


def family(pid: int) -> list[int]:
    """The process and its children: for PostgreSQL, the postmaster and all that it forked."""
    return [pid, *(child for child, parent in parents().items() if parent == pid)]


def tell(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to all of them, whoever is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end(pids: set[int]) -> None:
    """Stop these processes and their children: politely, then by force."""
    everyone = [member for pid in pids for member in family(pid)]
    tell(everyone, signal.SIGCONT)
    # PostgreSQL's "immediate shutdown" releases shared memory, which SIGKILL would leave behind.
    tell(sorted(pids), signal.SIGQUIT)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and any(pid in parents() for pid in everyone):
        time.sleep(0.02)
    tell(everyone, signal.SIGKILL)


def postmasters(folder: pathlib.Path) -> set[int]:
    """Servers that run in this folder, by the lock files they write themselves."""
    found = set()
    for lock in folder.glob("*/postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            found.add(int(lock.read_text().splitlines()[0]))
    return found & parents().keys()


def main(folder: pathlib.Path, *, remove: bool) -> None:
    """Listen until the owner is gone, then leave nothing behind."""
    pids: set[int] = set()
    for line in sys.stdin:
        (pids.add if line.startswith("+") else pids.discard)(int(line[1:]))
    end((pids & parents().keys()) | postmasters(folder))
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    main(pathlib.Path(sys.argv[1]), remove=sys.argv[2] == "remove")
