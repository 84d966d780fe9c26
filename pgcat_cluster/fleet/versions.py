"""What is known of etcd's versions: the faults that later ones mend, and those that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

Version = tuple[int, int, int]

_SUPPORTED = ((3, 4), (3, 5))
# Data differ between members after a crash under load.
_REFUSED_FIRST, _REFUSED_LAST = (3, 5, 0), (3, 5, 2)
# Before these a progress notice can overtake events.
_TRUE_PROGRESS = {(3, 4): 25, (3, 5): 8}


class Defect(Struct, frozen=True, kw_only=True):
    """A fault of old servers, and the first patch of each minor version that is free of it."""

    name: str
    mended: Mapping[tuple[int, int], int]
    # Who leads by a lease alone must not rely on such a server.
    of_leases: bool = False

    def is_in(self, version: Version) -> bool:
        return not _reaches(version, self.mended)


DEFECTS = (
    Defect(name="a watch may go back in time and repeat events", mended={(3, 4): 25, (3, 5): 8}),
    Defect(
        name="a stalled former leader may revoke leases, and events may be lost after a compaction",
        mended={(3, 4): 31, (3, 5): 13},
        of_leases=True,
    ),
    Defect(name="deletions may be missing at the compaction revision", mended={(3, 4): 36, (3, 5): 18}),
    Defect(
        name="a refresh may answer success although the lease is revoked",
        mended={(3, 4): 38, (3, 5): 23, (3, 6): 5},
        of_leases=True,
    ),
    Defect(
        name="reads may be stale after the server process paused",
        mended={(3, 4): 42, (3, 5): 28, (3, 6): 9},
    ),
)


def parse(text: str) -> Version:
    """The numbers of a version such as `3.5.1` or `3.6.0-rc.1`; zeros for what is not one."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def is_refused(version: Version) -> bool:
    """Whether a node does not work with this server unless it is told to."""
    return _REFUSED_FIRST <= version <= _REFUSED_LAST


def tells_true_progress(version: Version) -> bool:
    """Whether a progress notice means that all events up to its revision were delivered."""
    return _reaches(version, _TRUE_PROGRESS)


def defects(version: Version) -> tuple[Defect, ...]:
    """The known faults of a version."""
    return tuple(defect for defect in DEFECTS if defect.is_in(version))


def has_safe_leases(version: Version) -> bool:
    return not any(defect.of_leases for defect in defects(version))


def warnings(text: str) -> tuple[str, ...]:
    """What a node says at its start about the version of a server."""
    version = parse(text)
    untried = () if version[:2] in _SUPPORTED else (f"etcd {text} was never tried; 3.4 and 3.5 were",)
    return untried + tuple(f"etcd {text}: {defect.name}" for defect in defects(version))


def _reaches(version: Version, mended: Mapping[tuple[int, int], int]) -> bool:
    """Older minor versions than those listed are never mended, newer ones always were."""
    minor, patch = version[:2], version[2]
    if minor < min(mended):
        return False
    return patch >= mended.get(minor, 0)
