"""Waits on the event loop for what a test expects to happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Longer than anything takes here, so that only what never happens fails.
WITHIN_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Return in the first turn of the loop in which the condition holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - a condition has no event
            await asyncio.sleep(0)
