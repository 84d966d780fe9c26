"""How busy this machine is."""

from __future__ import annotations

from pathlib import Path


class Busy:
    """The share of all cores that was at work since this was made."""

    def __init__(self) -> None:
        self._idle, self._all = _ticks()

    def share(self) -> float:
        idle, everything = _ticks()
        passed = everything - self._all
        return 1.0 - (idle - self._idle) / passed if passed else 0.0


def _ticks() -> tuple[int, int]:
    """Ticks without work, and all of them; both of all cores."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)
