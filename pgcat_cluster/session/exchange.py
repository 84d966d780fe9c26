"""The steps of a linear exchange: what a login written as a generator asks its driver to do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias

import msgspec

from pgcat_cluster.errors import WireError
from pgcat_cluster.wire.scram import ScramKeys


class Send(msgspec.Struct, frozen=True):
    """Send these bytes; nothing is answered to the generator (`next`, or `send(None)`)."""

    data: bytes


class Receive(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for one frame; (type, body) is sent in.

    The driver calls `admit` as soon as it has the header, so that nothing is held that will be refused.
    `kinds` are the legal type bytes, empty for any; `expected` is PostgreSQL's word for them.
    """

    body_bytes_max: int
    kinds: bytes = b""
    expected: str = ""

    def admit(self, kind: int, body_bytes: int) -> None:
        """Raise WireError if a frame of this type and size is not legal here."""
        if self.kinds and kind not in self.kinds:
            raise WireError(f"expected {self.expected}, got message type {kind}")
        if not 0 <= body_bytes <= self.body_bytes_max:
            raise WireError("invalid message length")


class Derive(msgspec.Struct, frozen=True):
    """Call this off the loop, for it is slow; its result is sent in."""

    work: Callable[[], ScramKeys]


Step: TypeAlias = Send | Receive | Derive
Reply: TypeAlias = tuple[int, bytes] | ScramKeys | None


def receive(step: Receive) -> Generator[Step, Reply, tuple[int, bytes]]:
    """Yield the step and check what came of it."""
    reply = yield step
    if not isinstance(reply, tuple):
        raise TypeError("a Receive step is answered by a frame")
    kind, body = reply
    step.admit(kind, len(body))
    return kind, body


def derive(work: Callable[[], ScramKeys]) -> Generator[Step, Reply, ScramKeys]:
    """Yield the work and return its result."""
    reply = yield Derive(work)
    if not isinstance(reply, ScramKeys):
        raise TypeError("a Derive step is answered by its result")
    return reply
