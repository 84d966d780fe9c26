"""Cancel keys: who may cancel whose statement. A key names exactly one client, and only while it lives."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Generic, TypeVar

Owner = TypeVar("Owner")

SECRET_BYTES = 4
_PID_MAX = 0x7FFFFFFF


class CancelKeys(Generic[Owner]):
    """Hands out keys and finds their owners. Process ids are never 0 and never in use twice."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._owners: dict[int, tuple[bytes, Owner]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def issue(self, owner: Owner) -> tuple[int, bytes]:
        """A new key for a client: (process id, secret of 4 bytes, protocol 3.0)."""
        while True:
            pid = int.from_bytes(self._random_bytes(4), "big") & _PID_MAX
            if pid != 0 and pid not in self._owners:
                break
        secret = self._random_bytes(SECRET_BYTES)
        self._owners[pid] = (secret, owner)
        return pid, secret

    def revoke(self, pid: int) -> None:
        self._owners.pop(pid, None)

    def find(self, pid: int, secret: bytes) -> Owner | None:
        """The owner of a key, or None; the secret is compared in constant time."""
        entry = self._owners.get(pid)
        if entry is None or not hmac.compare_digest(entry[0], secret):
            return None
        return entry[1]
