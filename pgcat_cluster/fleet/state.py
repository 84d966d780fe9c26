"""What a node keeps on disk between two lives: which leases it has, and what it went by last."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from pgcat_cluster.agreement.documents import Accepted
from pgcat_cluster.agreement.transactions import Row


class Occupied(Exception):
    """Another process uses the directory."""


class Known(Struct, frozen=True, kw_only=True):
    """What a node goes by, so that it can go on without the store: accepted documents, bans, overrides.

    `rows` are all that was decided and overridden, as of `revision` or later. `parted`: the node left cleanly,
    so others may have what was its own. `stranger` is the identity of the store it did not believe at the end.
    """

    fleet: str
    cluster_id: int | None
    revision: int
    accepted: Accepted
    texts: Mapping[str, bytes]
    rows: tuple[Row, ...]
    parted: bool = False
    stranger: int | None = None


class _File(Struct, frozen=True, kw_only=True):
    digest: str
    known: msgspec.Raw


class State(Protocol):
    """Where a node keeps what outlives it."""

    def leases(self) -> list[int]: ...

    def keep_leases(self, leases: list[int]) -> None: ...

    def known(self, fleet: str) -> Known | None: ...

    def keep(self, known: Known) -> None: ...


class StateDirectory:
    """One process at a time owns it, as long as it lives. Raises OSError, and Occupied."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._known = path / "known.json"
        self._leases = path / "leases.json"
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Occupied(f"another process uses {path}") from None

    def close(self) -> None:
        os.close(self._lock)

    def leases(self) -> list[int]:
        """Those of the process before, which is dead: they may still live."""
        try:
            return msgspec.json.decode(self._leases.read_bytes(), type=list[int])
        except (OSError, msgspec.DecodeError):
            return []

    def keep_leases(self, leases: list[int]) -> None:
        _write(self._leases, msgspec.json.encode(leases))

    def known(self, fleet: str) -> Known | None:
        """What was kept of this fleet; None if there is nothing, or nothing whole."""
        try:
            file = msgspec.json.decode(self._known.read_bytes(), type=_File)
            known = msgspec.json.decode(file.known, type=Known)
        except (OSError, msgspec.DecodeError):
            return None
        if sha256(bytes(file.known)).hexdigest() != file.digest or known.fleet != fleet:
            return None
        return known

    def keep(self, known: Known) -> None:
        """Replace what was kept, wholly or not at all; takes a moment, for it waits for the disk."""
        body = msgspec.json.encode(known)
        file = _File(digest=sha256(body).hexdigest(), known=msgspec.Raw(body))
        _write(self._known, msgspec.json.encode(file))


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
