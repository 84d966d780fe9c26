"""What the machine keeps from processes, so that a busy machine is not taken for a slow program."""

from __future__ import annotations

from pathlib import Path


def kept_waiting_s(*processes: int | str) -> float:
    """How long these processes have stood ready to run while others had the processors, since they began.

    Each is a process id, which means its main thread, or "thread-self". 0 where the system does not tell.
    """
    return sum(_kept_waiting_s(process) for process in processes)


def _kept_waiting_s(process: int | str) -> float:
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
