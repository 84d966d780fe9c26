"""The classes of evidence against a server, and the samples that carry it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EvidenceClass(Enum):
    """What kind of failure was seen; each kind has its own rule before it becomes an opinion."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    GOING = "going"
    SOFT = "soft"
    WRONG = "wrong"
    OVERLOAD = "overload"
    CONFIG = "config"

    @property
    def counts(self) -> bool:
        """Whether it can ever make a server bad: a full server and a wrong password are not illnesses."""
        return self not in (EvidenceClass.OVERLOAD, EvidenceClass.CONFIG)


def evidence_of_sqlstate(sqlstate: str) -> EvidenceClass:
    """The class of an error a server answered a connection attempt or a probe with."""
    if sqlstate in ("57P01", "57P02", "57P03"):
        return EvidenceClass.GOING
    if sqlstate.startswith("53"):
        return EvidenceClass.OVERLOAD
    if sqlstate[:2] in ("28", "3D", "42", "55", "0A", "22"):
        return EvidenceClass.CONFIG
    return EvidenceClass.SOFT


class Source(Enum):
    """How a sample came about; only probes prove something about the server as a whole."""

    KEPT = "kept link"
    FRESH = "fresh link"
    TRAFFIC = "traffic"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What one server said about itself in one answer.

    `write_lsn` is how far a primary has written, or how far a replica has received; `replay_lsn` is None
    outside recovery. `replayed_age_s` is how long ago the last transaction it replayed was committed.
    """

    in_recovery: bool
    system_identifier: str
    timeline: int
    write_lsn: int
    replay_lsn: int | None = None
    replayed_age_s: float | None = None
    started_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at one server: either facts, or the class of the failure with its text."""

    source: Source
    duration_s: float
    facts: ServerFacts | None = None
    failure: EvidenceClass | None = None
    detail: str = ""
    is_silence: bool = False  # the failure is that nothing came in the time granted


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeWanted:
    """Probe this server within `after_s`, over a fresh link if asked; the regular interval goes on then."""

    server: str
    after_s: float
    fresh: bool
    reason: str
