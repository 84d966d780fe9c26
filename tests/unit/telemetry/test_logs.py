"""Log lines: their two formats, what is kept out of them, and that a slow reader stops nobody."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import structlog

from pgcat_cluster.telemetry.logs import (
    TEXT_CHARACTERS_MAX,
    LineWriter,
    RepeatLimit,
    configure_logs,
    get_logger,
    lifecycle,
)
from tests.support.control import SECRETS


@pytest.fixture(autouse=True)
def _leave_logging_alone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


class Log:
    """Configured logs into memory; `lines` closes the writer and reads what was written."""

    def __init__(self, form: str, level: str = "info") -> None:
        self.stream = io.StringIO()
        self.writer = LineWriter(self.stream)
        configure_logs(self.writer, form=form, level=level)

    def lines(self) -> list[str]:
        self.writer.close()
        return self.stream.getvalue().splitlines()


def test_json_lines() -> None:
    log = Log("json")
    lifecycle(get_logger(server="r1"), "server.avoided", level="warning", reason="caf\udce9", after_s=0.5)
    get_logger().debug("not shown")
    [line] = [json.loads(line) for line in log.lines()]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "server": "r1",
        "reason": "caf\udce9",
        "after_s": 0.5,
        "event": "server.avoided",
        "level": "warning",
    }


def test_text_lines_can_not_be_forged() -> None:
    log = Log("text")
    get_logger().info("client refused", user='x"\nfake line', database="app", count=3, empty="")
    [line] = log.lines()
    assert line.split(" ", 1)[1] == (
        r'info    client refused user="x\"\nfake line" database=app count=3 empty=""'
    )


def test_a_stack_trace_follows_its_line_indented() -> None:
    log = Log("text")
    try:
        raise ValueError(f"password={SECRETS[0]}")
    except ValueError:
        get_logger().exception("task failed")
    first, *trace = log.lines()
    assert first.endswith("error   task failed")
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1] == "    ValueError: password=****"


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_never_appear(form: str) -> None:
    log = Log(form)
    logger = get_logger(password=SECRETS[0])
    logger.info("one", verifier=SECRETS[1], client_secret=SECRETS[2], passwd=SECRETS[3])
    logger.info("two", error=ValueError(f"bad {SECRETS[1]} or {SECRETS[3]}"))
    logger.info("three", statement=f"alter role a password '{SECRETS[0]}'", url=f"pg://a:{SECRETS[2]}@h/d")
    logger.info("four", options=[f"password={SECRETS[0]}"])
    logging.getLogger("library").warning("connecting to %s", f"pg://a:{SECRETS[2]}@h/d")
    lines = log.lines()
    assert len(lines) == 5
    assert [secret for secret in SECRETS if secret in "\n".join(lines)] == []


def test_long_texts_are_cut() -> None:
    log = Log("json")
    get_logger().info("long", text="x" * (TEXT_CHARACTERS_MAX + 1))
    [line] = log.lines()
    assert json.loads(line)["text"] == "x" * TEXT_CHARACTERS_MAX + "…"


def test_libraries_come_out_in_the_same_format_from_warnings_on() -> None:
    log = Log("json", "debug")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("slow %d", 7)
    [line] = [json.loads(line) for line in log.lines()]
    assert (line["event"], line["level"]) == ("slow 7", "warning")


def test_a_later_configuration_holds_for_loggers_that_exist() -> None:
    log = Log("text")
    logger = get_logger(server="r1")
    logger.info("one")
    logger.debug("not shown")
    configure_logs(log.writer, form="json", level="debug")
    logger.debug("two")
    configure_logs(log.writer, form="json", level="warning")
    logger.info("not shown")
    logging.getLogger("library").warning("three")
    first, second, third = log.lines()
    assert first.endswith("info    one server=r1")
    assert (json.loads(second)["event"], json.loads(second)["level"]) == ("two", "debug")
    assert json.loads(third)["event"] == "three"


def test_an_event_outside_the_list_is_a_mistake() -> None:
    Log("json").writer.close()
    with pytest.raises(AssertionError, match=r"server\.sneezed"):
        lifecycle(get_logger(), "server.sneezed")


class Stuck(io.StringIO):
    """A stream whose reader does not read until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_entered = threading.Event()
        self.may_go_on = threading.Event()

    def write(self, text: str) -> int:
        self.is_entered.set()
        self.may_go_on.wait()
        return super().write(text)


def test_a_stuck_reader_stops_nobody_and_lost_lines_are_counted() -> None:
    stream = Stuck()
    writer = LineWriter(stream, lines_max=2)
    writer.write("0")
    assert stream.is_entered.wait(10)
    for number in range(1, 6):
        writer.write(str(number))
    assert writer.dropped == 3
    stream.may_go_on.set()
    writer.close()
    assert stream.getvalue() == "0\n1\n2\n"


def test_a_reader_that_went_away_is_survived() -> None:
    stream = io.StringIO()
    stream.close()
    writer = LineWriter(stream)
    writer.write("lost")
    writer.close()
    assert writer.dropped == 1


def test_repeats_are_counted_not_printed() -> None:
    limit = RepeatLimit(period_s=10.0, keys_max=2)
    assert limit.admit("probe.failed", "r1", 0.0) == 0
    assert limit.admit("probe.failed", "r1", 1.0) is None
    assert limit.admit("probe.failed", "r1", 9.9) is None
    assert limit.admit("server.lost", "r1", 9.9) == 0
    assert limit.admit("probe.failed", "r1", 10.0) == 2
    assert limit.admit("probe.failed", "r1", 10.1) is None
    assert limit.admit("probe.failed", "r2", 10.2) == 0  # the oldest, server.lost, is forgotten
    assert limit.admit("probe.failed", "r1", 10.3) is None
    assert limit.admit("server.lost", "r1", 10.4) == 0
