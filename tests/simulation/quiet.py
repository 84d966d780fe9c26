"""Log lines of simulated nodes go nowhere, but an exception that somebody only logged ends the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn

import structlog

from tests.simulation.clockwork import Clockwork


@contextmanager
def quiet(clock: Clockwork) -> Iterator[None]:
    """While in here."""

    def swallow(_logger: object, _level: str, line: MutableMapping[str, Any]) -> NoReturn:
        if error := line.get("exc_info"):
            clock.call_exception_handler(
                {"exception": error if isinstance(error, BaseException) else sys.exc_info()[1]}
            )
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[swallow])
    try:
        yield
    finally:
        structlog.configure(**before)
