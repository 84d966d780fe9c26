"""The node's two clocks, and the tick that notices when the loop itself was late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# For durations and deadlines: the clock of the event loops, never set back.
monotonic_s = time.monotonic


def wall_s() -> float:
    """For people only: seconds since 1970. Never used for durations."""
    return time.time()  # noqa: TID251 - this is the clock


async def tick(
    interval_s: float,
    on_tick: Callable[[float], None],
    now_s: Callable[[], float] = monotonic_s,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call `on_tick(now)` every interval until cancelled; a late one shows that the loop stood still."""
    while True:
        await pause(interval_s)
        on_tick(now_s())
