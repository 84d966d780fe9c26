"""Structured log lines that never stop the node: one format, a bounded queue and a thread that writes.

A line is a constant message with variables as keys. What happens to a node, a server or a client is a
lifecycle event out of a closed list, logged with `lifecycle`; libraries that use the standard library's
logging come out in the same format.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import textwrap
import threading
from collections.abc import Hashable
from typing import Literal, TextIO, cast, get_args

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from pgcat_cluster.telemetry.redaction import REDACTED, is_secret, redact

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

QUEUE_LINES_MAX = 10_000
TEXT_CHARACTERS_MAX = 16_384
_PLAIN = re.compile(r"[^\s\"'=\x00-\x1f\x7f\ud800-\udfff]+")

Event = Literal[
    "node.starting",
    "node.ready",
    "node.degraded",
    "node.draining",
    "node.stopped",
    "fleet.joined",
    "fleet.lost",
    "fleet.refused",
    "fleet.waiting",
    "fleet.decided",
    "fleet.alarm",
    "fleet.accepted",
    "config.applied",
    "config.rejected",
    "listener.opened",
    "listener.closed",
    "client.refused",
    "client.failed",
    "login.failed",
    "pool.paused",
    "pool.resumed",
    "pool.exhausted",
    "pool.reconnected",
    "pool.cold",
    "server.connected",
    "server.refused",
    "server.lost",
    "server.avoided",
    "server.restored",
    "server.banned",
    "server.probation",
    "server.unbanned",
    "mirror.failed",
    "peer.refused",
    "primary.changed",
    "probe.failed",
    "task.failed",
]
EVENTS: frozenset[str] = frozenset(get_args(Event))


class LineWriter:
    """Writes lines from a thread of its own, so that a full pipe stops no one; owns that thread.

    At most `lines_max` lines wait; more are dropped and counted.
    """

    def __init__(self, stream: TextIO, lines_max: int = QUEUE_LINES_MAX) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(lines_max)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    # What structlog and a standard library handler call.
    msg = debug = info = warning = error = critical = write

    def close(self, timeout_s: float = 2.0) -> None:
        """Writes what waits, as far as the time allows, and ends the thread. Lines that follow are lost."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                # The reader of our log has gone: there is nobody left to tell.
                self.dropped += 1


class _Library(logging.Handler):
    """Hands a standard library record to the writer."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record))


def _redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Leaves numbers, and text without secrets and of bounded length."""
    for key, value in event.items():
        if key.startswith("_") or value is None or isinstance(value, (bool, int, float)):
            continue  # underscores are structlog's own
        event[key] = REDACTED if is_secret(key) else _cut(redact(str(value)))
    return event


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[:TEXT_CHARACTERS_MAX] + "…"


def _as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return json.dumps(event)


def _as_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """One line for people; a stack trace follows it, indented. What a peer sent can not start a line."""
    at, level, message = event.pop("timestamp"), event.pop("level"), event.pop("event")
    trace = event.pop("exception", None)
    words = [at, f"{level:<7}", _word(message) if not message.isprintable() else message]
    line = " ".join((*words, *(f"{key}={_word(value)}" for key, value in event.items())))
    return line if trace is None else line + "\n" + textwrap.indent(trace, "    ")


def _word(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


def configure_logs(writer: LineWriter, *, form: Format, level: Level) -> None:
    """Sends all log lines of the process to `writer`; asked again, lines that follow have the new form."""
    severity = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    render: Processor = _as_json if form == "json" else _as_text
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=lambda *args: writer,
        # A logger that exists already goes by a later configuration too.
        cache_logger_on_first_use=False,
    )
    library = _Library(writer)
    library.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [library]
    # Libraries are talkative below warnings, and their lines are not ours to word.
    root.setLevel(max(severity, logging.WARNING))


def get_logger(**bound: object) -> FilteringBoundLogger:
    """A logger with keys bound once; bind again per object, not per line."""
    return cast(FilteringBoundLogger, structlog.get_logger(**bound))


def lifecycle(logger: FilteringBoundLogger, event: Event, *, level: Level = "info", **keys: object) -> None:
    """Logs a lifecycle event; `get_logger` alone is for what no list of events can name."""
    assert event in EVENTS, event
    getattr(logger, level)(event, **keys)


class Repeat(msgspec.Struct):
    since_s: float
    count: int


class RepeatLimit:
    """Lets an (event, key) through once per period and counts the rest; knows at most `keys_max` of them."""

    def __init__(self, period_s: float = 10.0, keys_max: int = 1000) -> None:
        self._period_s = period_s
        self._keys_max = keys_max
        self._repeats: dict[tuple[str, Hashable], Repeat] = {}

    def admit(self, event: Event, key: Hashable, now_s: float) -> int | None:
        """None: say nothing, it was counted. Else how many were kept silent since one was let through."""
        known = self._repeats.get((event, key))
        if known is not None and now_s - known.since_s < self._period_s:
            known.count += 1
            return None
        self._repeats.pop((event, key), None)
        if len(self._repeats) >= self._keys_max:
            # Entries stand in the order of their periods: the first is the oldest.
            del self._repeats[next(iter(self._repeats))]
        self._repeats[event, key] = Repeat(since_s=now_s, count=0)
        return 0 if known is None else known.count
