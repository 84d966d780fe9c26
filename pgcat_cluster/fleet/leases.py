"""One lease of a node: refreshed in time, and given up before the store can have ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pgcat_cluster.fleet.store import Store, StoreFault
from pgcat_cluster.net.clock import monotonic_s

# The store ends a lease no earlier than its length after it received a refresh. Who stops so much sooner has
# stopped in time, as long as no two clocks differ by a quarter in rate.
_TRUSTED = 0.8
_AGAIN_S = 0.5


class HeldLease:
    """A lease from `grant` on. `is_held` is what may be relied on; `hold` returns when all is lost."""

    def __init__(
        self,
        store: Store,
        ttl_s: float,
        *,
        now_s: Callable[[], float] = monotonic_s,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.id = 0
        self._store = store
        self._ttl_s = ttl_s
        self._now_s = now_s
        self._pause = pause
        self._confirmed_s = 0.0  # when the last refresh that was answered had been sent

    @classmethod
    async def grant(
        cls,
        store: Store,
        ttl_s: float,
        *,
        now_s: Callable[[], float] = monotonic_s,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> HeldLease:
        """A new lease. Raises a StoreFault."""
        lease = cls(store, ttl_s, now_s=now_s, pause=pause)
        lease._confirmed_s = now_s()
        lease.id = await store.grant(round(ttl_s))
        return lease

    @property
    def is_held(self) -> bool:
        return self.id != 0 and self._now_s() < self._confirmed_s + _TRUSTED * self._ttl_s

    async def hold(self) -> None:
        """Refresh until the store says that it is gone, or has not answered for as long as it lasts."""
        wait_s = self._ttl_s / 3
        while True:
            await self._pause(wait_s)
            sent_s = self._now_s()
            try:
                left_s = await self._store.refresh(self.id)
            except StoreFault:
                if self._now_s() >= self._confirmed_s + self._ttl_s:
                    break
                wait_s = _AGAIN_S
                continue
            if left_s == 0:
                break
            self._confirmed_s = sent_s
            wait_s = self._ttl_s / 3
        self.id = 0
