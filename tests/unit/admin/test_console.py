"""Whole conversations with both consoles, byte for byte."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcat_cluster.admin.console import (
    HELP,
    PORTALS_MAX,
    STATEMENTS_MAX,
    BouncerError,
    CatError,
    Console,
    login_parameters,
)
from pgcat_cluster.errors import ConfigFault, Fault, ProtocolViolation
from pgcat_cluster.wire import messages
from tests.support.control import SECRETS, SNAPSHOT, FakeControl, answers, converse, cut

READY = messages.ready_for_query(b"I")


def console(dialect: str = "pgbouncer", rights: str = "admin", control: FakeControl | None = None) -> Console:
    return Console(dialect, "op", rights, control or FakeControl())


def error(fault: Fault) -> bytes:
    return messages.error_response(fault)


def refused(text: str) -> bytes:
    return error(BouncerError(text)) + READY


async def asked(text: str, **options: object) -> bytes:
    sent, closes = await converse(console(**options), messages.query(text))
    assert not closes
    return sent


def done(tag: str) -> bytes:
    return messages.command_complete(tag) + READY


# -- the simple protocol


async def test_a_show_is_rows_a_tag_without_a_count_and_idle() -> None:
    assert await asked("SHOW STATE") == (
        b"T\x00\x00\x00\x34\x00\x02"
        b"key\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00"
        b"value\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00"
        b"D\x00\x00\x00\x17\x00\x02\x00\x00\x00\x06active\x00\x00\x00\x03yes"
        b"D\x00\x00\x00\x16\x00\x02\x00\x00\x00\x06paused\x00\x00\x00\x02no"
        b"D\x00\x00\x00\x19\x00\x02\x00\x00\x00\x09suspended\x00\x00\x00\x02no"
        b"C\x00\x00\x00\x09SHOW\x00"
        b"Z\x00\x00\x00\x05I"
    )


@pytest.mark.parametrize(
    "text",
    ["show state", "  Show\n\tSTATE ;  ", 'SHOW "STATE"', "SELECT state", "SHOW STATE;"],
)
async def test_white_space_case_quotes_and_select_are_the_same(text: str) -> None:
    assert await asked(text) == await asked("SHOW STATE")


@pytest.mark.parametrize(
    "text",
    [
        *("", ";", "SHOW", "SHOW NOTHING", "FROBNICATE", "SHOW STATE; SHOW STATE", "SHOW STATE now"),
        *("SELECT 1", "BEGIN", 'SHOW "STATE', "SET", "SET x", "SHUTDOWN NOW", "PAUSE a b"),
    ],
)
async def test_pgbouncer_names_the_invalid_command(text: str) -> None:
    assert await asked(text) == refused(f"invalid command '{text}', use SHOW HELP;")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("SHOW NOTHING", "Unsupported SHOW query against the admin database"),
        ("SHOW", "Unsupported SHOW query against the admin database"),
        ("FROBNICATE", "Unsupported query against the admin database"),
        ("", "Unsupported query against the admin database"),
        ("PAUSE app", "usage: PAUSE [db, user]"),
        ("RESUME app", "usage: RESUME [db, user]"),
        ("PAUSE app, no", "No pool configured for database: app, user: no"),
        ("RESUME no,app", "No pool configured for database: no, user: app"),
    ],
)
async def test_pgcat_says_fatal_and_goes_on(text: str, answer: str) -> None:
    sent = await asked(text, dialect="pgcat")
    assert sent[5:] == b"SFATAL\0VFATAL\0C58000\0M" + answer.encode() + b"\0\0" + READY


async def test_pgcat_ignores_further_words() -> None:
    assert await asked("SHOW USERS please", dialect="pgcat") == await asked("SHOW USERS", dialect="pgcat")


@pytest.mark.parametrize("text", ["X" * 16, "PAUSE " + "x" * 64, "SET datestyle = '" + "x" * 256 + "'"])
async def test_words_have_their_limits(text: str) -> None:
    assert await asked(text) == refused("bad arguments")


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
async def test_help_is_a_notice_that_lists_what_there_is(dialect: str) -> None:
    detail = "".join("\n\t" + line for line in HELP[dialect])
    notice = messages.notice("NOTICE", "00000", "Console usage", detail)
    assert await asked("SHOW HELP", dialect=dialect) == notice + done("SHOW")
    assert {"DATABASES", "POOLS", "STATS", "VERSION", "PAUSE", "RELOAD"} <= set(
        detail.replace("|", " ").replace("\n", " ").replace("\t", " ").split()
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_encoding", "UTF-8"),
        ("default_transaction_isolation", "read committed"),
        ("standard_conforming_strings", "on"),
        ("datestyle", "ISO"),
        ("timezone", "GMT"),
    ],
)
async def test_drivers_may_ask_for_and_set_session_parameters(name: str, value: str) -> None:
    shown = messages.row_description([(name, 25, -1)]) + messages.data_row([value.encode()])
    assert await asked(f"SHOW {name}") == shown + done("SHOW")
    ignored = messages.notice("NOTICE", "00000", "SET ignored") + done("SET")
    assert await asked(f"SET {name} = 'x'") == ignored
    assert await asked(f"SET {name} TO x, y") == ignored


async def test_set_of_anything_else_fails() -> None:
    assert await asked("SET pool_size = 5") == refused("SET failed")
    assert await asked('SET "" = 5') == refused("bad arguments")
    assert await asked("SET anything", dialect="pgcat") == done("SET")


def test_login_parameters() -> None:
    assert login_parameters("pgbouncer") == {
        "server_version": "1.25.2/bouncer",
        "client_encoding": "UTF8",
        "server_encoding": "UTF8",
        "DateStyle": "ISO",
        "TimeZone": "GMT",
        "standard_conforming_strings": "on",
        "is_superuser": "on",
    }
    assert login_parameters("pgcat") == {
        "application_name": "",
        "client_encoding": "UTF8",
        "server_encoding": "UTF8",
        "server_version": "1.3.0",
        "DateStyle": "ISO, MDY",
    }


# -- rights


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
@pytest.mark.parametrize(
    "text", ["SHOW FDS", "SET x = 1", "PAUSE", "RESUME", "RECONNECT", "RELOAD", "SHUTDOWN", "PAUSE nowhere"]
)
async def test_a_stats_user_may_only_look(dialect: str, text: str) -> None:
    control = FakeControl()
    fault = (BouncerError if dialect == "pgbouncer" else CatError)("admin access needed")
    assert await asked(text, dialect=dialect, rights="stats", control=control) == error(fault) + READY
    assert control.calls == []
    assert await asked("SHOW POOLS", dialect=dialect, rights="stats") == await asked(
        "SHOW POOLS", dialect=dialect
    )


# -- actions


@pytest.mark.parametrize("text", ["PAUSE", "PAUSE app", 'pause "app";'])
async def test_pause_answers_when_the_last_link_has_gone(text: str) -> None:
    control = FakeControl()
    [answer] = answers(console(control=control), messages.query(text))
    assert (answer.data, answer.closes) == (b"", False)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(answer.action())
        await control.is_waited_for.wait()
        scope = (None, None) if text == "PAUSE" else ("app", None)
        assert control.calls == [("pause", *scope)]
        assert not waiting.done()
        control.is_drained.set()
    assert waiting.result() == done("PAUSE")
    assert control.calls == [("pause", *scope)]


async def test_a_canceled_pause_is_undone() -> None:
    control = FakeControl()
    session = console(control=control)
    [answer] = answers(session, messages.query("PAUSE app"))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(answer.action())
        await control.is_waited_for.wait()
        session.cancel()
    assert messages.fields_of_error(waiting.result()[5 : -len(READY)])["C"] == "57014"
    assert waiting.result().endswith(READY)
    assert control.calls == [("pause", "app", None), ("resume", "app", None)]
    session.cancel()
    assert (await converse(session, messages.query("SHOW STATE")))[0] == await asked("SHOW STATE")


async def test_a_pause_whose_console_goes_away_is_undone() -> None:
    control = FakeControl()
    [answer] = answers(console(control=control), messages.query("PAUSE"))
    task = asyncio.get_running_loop().create_task(answer.action())
    await control.is_waited_for.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert control.calls == [("pause", None, None), ("resume", None, None)]


async def test_a_pause_that_takes_too_long_is_undone_and_says_so() -> None:
    control = FakeControl()
    session = Console("pgbouncer", "op", "admin", control, command_timeout_s=0.01)
    sent, _ = await converse(session, messages.query("PAUSE"))
    assert sent == refused("PAUSE gave up after 0.01 s and was undone")
    assert control.calls == [("pause", None, None), ("resume", None, None)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("PAUSE", "already suspended/paused"),
        ("RESUME app", "database app is not paused"),
        ("PAUSE nowhere", "no such database: nowhere"),
        ("RESUME nowhere", "no such database: nowhere"),
        ("RECONNECT nowhere", "no such database: nowhere"),
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
        ("RECONNECT pgcat", "cannot reconnect admin db: pgcat"),
    ],
)
async def test_what_the_state_does_not_allow(text: str, answer: str) -> None:
    control = FakeControl(msgspec.structs.replace(SNAPSHOT, state="paused"))
    assert await asked(text, control=control) == refused(answer)
    assert control.calls == []


async def test_not_paused_and_shutting_down() -> None:
    assert await asked("RESUME") == refused("pooler is not paused/suspended")
    draining = FakeControl(msgspec.structs.replace(SNAPSHOT, state="draining"))
    assert await asked("PAUSE", control=draining) == refused("pooler is shutting down")


async def test_resume_and_reconnect() -> None:
    control = FakeControl(msgspec.structs.replace(SNAPSHOT, state="paused"))
    assert await asked("RESUME", control=control) == done("RESUME")
    assert await asked('RESUME "Idle"', control=control) == done("RESUME")
    assert await asked("RECONNECT", control=control) == done("RECONNECT")
    assert await asked("RECONNECT app", control=control) == done("RECONNECT")
    assert control.calls == [
        ("resume", None, None),
        ("resume", "Idle", None),
        ("reconnect", None),
        ("reconnect", "app"),
    ]


@pytest.mark.parametrize(
    ("text", "scope", "tag"),
    [
        ("PAUSE", (None, None), "PAUSE"),
        ("PAUSE app,app", ("app", "app"), "PAUSE app,app"),
        ("PAUSE app, app;", ("app", "app"), "PAUSE app,app"),
        ("RESUME", (None, None), "RESUME"),
        ("RESUME app , app", ("app", "app"), "RESUME app,app"),
    ],
)
async def test_pgcat_pauses_at_once(text: str, scope: tuple[str | None, str | None], tag: str) -> None:
    control = FakeControl()
    assert await asked(text, dialect="pgcat", control=control) == done(tag)
    assert control.calls == [(tag.split()[0].lower(), *scope)]


async def test_reload_says_why_it_failed_and_keeps_secrets() -> None:
    control = FakeControl()
    assert await asked("RELOAD", control=control) == done("RELOAD")
    control.reload_fault = ConfigFault(f"pools.app.size: wrong near password={SECRETS[0]}")
    text = "RELOAD failed, see logs for additional details"
    why = "pools.app.size: wrong near password=****"
    assert await asked("RELOAD", control=control) == error(ConfigFault(text, detail=why)) + READY
    assert (
        await asked("RELOAD", dialect="pgcat", control=control) == error(CatError(text, detail=why)) + READY
    )


async def test_shutdown_at_once_drops_the_connection() -> None:
    control = FakeControl()
    assert await converse(console(control=control), messages.query("SHUTDOWN")) == (b"", True)
    assert await asked("SHUTDOWN WAIT_FOR_SERVERS", control=control) == done("SHUTDOWN")
    assert await asked("shutdown wait_for_clients;", control=control) == done("SHUTDOWN")
    assert control.calls == [
        ("shutdown", "immediate"),
        ("shutdown", "wait_for_servers"),
        ("shutdown", "wait_for_clients"),
    ]


async def test_pgcat_shutdown_answers_a_row() -> None:
    control = FakeControl()
    head = messages.row_description([("success", 25, -1)])
    expected = head + messages.data_row([b"t"]) + done("SHUTDOWN")
    assert await asked("SHUTDOWN", dialect="pgcat", control=control) == expected
    control.now = msgspec.structs.replace(SNAPSHOT, state="draining")
    expected = head + messages.data_row([b"f"]) + done("SHUTDOWN")
    assert await asked("SHUTDOWN", dialect="pgcat", control=control) == expected
    assert control.calls == [("shutdown", "drain")]


# -- the extended protocol


async def test_a_driver_s_prepared_query() -> None:
    sent, closes = await converse(
        console(),
        messages.parse("s1", "SHOW LISTS")
        + messages.describe(b"S", "s1")
        + messages.flush()
        + messages.bind("", "s1", result_formats=[1])
        + messages.describe(b"P", "")
        + messages.execute("", 2)
        + messages.execute("", 11)
        + messages.execute("", 0)
        + messages.execute("", 0)
        + messages.close(b"S", "s1")
        + messages.sync(),
    )
    shape = [("list", 25, -1), ("items", 23, 4)]
    items = ["databases", "dns_names", "dns_pending", "dns_queries", "dns_zones", "free_clients"]
    items += ["free_servers", "login_clients", "peer_pools", "peers", "pools", "used_clients"]
    counts = [3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 13, 15, 3]
    items += ["used_servers", "users"]
    rows = [
        messages.data_row([name.encode(), count.to_bytes(4, "big")])
        for name, count in zip(items, counts, strict=True)
    ]
    assert sent == b"".join(
        [
            messages.parse_complete(),
            messages.parameter_description([]),
            messages.row_description(shape),
            messages.bind_complete(),
            messages.row_description(shape, [1, 1]),
            *rows[:2],
            messages.portal_suspended(),
            *rows[2:13],
            messages.portal_suspended(),
            *rows[13:],
            messages.command_complete("SHOW"),
            messages.command_complete("SHOW"),
            messages.close_complete(),
            READY,
        ]
    )
    assert not closes


async def test_numbers_in_binary() -> None:
    history_free = messages.parse("", "SHOW TOTALS") + messages.bind("", "", result_formats=[0, 1])
    sent, _ = await converse(console(), history_free + messages.execute("") + messages.sync())
    zero = messages.data_row([b"avg_xact_time", bytes(8)])
    large = messages.data_row([b"total_xact_time", bytes.fromhex("0002000100000000") + b"\x00\x01\x1f\x40"])
    assert zero in sent
    assert large in sent  # 18,000 = 1 * 10,000 + 8,000


async def test_actions_and_help_have_no_columns() -> None:
    control = FakeControl()
    control.is_drained.set()
    sent, _ = await converse(
        console(control=control),
        messages.parse("", "PAUSE app")
        + messages.describe(b"S", "")
        + messages.bind("", "")
        + messages.describe(b"P", "")
        + messages.execute("")
        + messages.sync(),
    )
    assert sent == b"".join(
        [
            messages.parse_complete(),
            messages.parameter_description([]),
            messages.no_data(),
            messages.bind_complete(),
            messages.no_data(),
            messages.command_complete("PAUSE"),
            READY,
        ]
    )
    assert control.calls == [("pause", "app", None)]


@pytest.mark.parametrize(
    ("frames", "answer"),
    [
        (messages.parse("", "NONSENSE"), "invalid command 'NONSENSE', use SHOW HELP;"),
        (messages.parse("", ""), "invalid command '', use SHOW HELP;"),
        (messages.parse("", "SHOW STATE", [23]), "parameters are not supported by admin console"),
        (messages.bind("", "none"), 'prepared statement "none" does not exist'),
        (messages.describe(b"S", "none"), 'prepared statement "none" does not exist'),
        (messages.describe(b"P", "none"), 'portal "none" does not exist'),
        (messages.execute("none"), 'portal "none" does not exist'),
    ],
)
async def test_after_an_error_everything_waits_for_sync(frames: bytes, answer: str) -> None:
    control = FakeControl()
    session = console(control=control)
    rest = messages.query("RECONNECT") + messages.flush() + messages.execute("") + messages.sync()
    sent, closes = await converse(session, frames + rest)
    assert (sent, closes) == (error(BouncerError(answer)) + READY, False)
    assert control.calls == []
    assert (await converse(session, messages.query("SHOW STATE")))[0] == await asked("SHOW STATE")


async def test_a_failed_reload_also_skips_to_sync() -> None:
    control = FakeControl()
    control.reload_fault = ConfigFault("no")
    batch = messages.parse("", "RELOAD") + messages.bind("", "") + messages.execute("")
    sent, _ = await converse(console(control=control), batch + batch + messages.sync())
    fault = ConfigFault("RELOAD failed, see logs for additional details", detail="no")
    assert sent == messages.parse_complete() + messages.bind_complete() + error(fault) + READY
    assert control.calls == [("reload",)]


@pytest.mark.parametrize(
    ("bind", "answer"),
    [
        (messages.bind("", "s", [b"1"]), "parameters are not supported by admin console"),
        (messages.bind("", "s", result_formats=[0, 0, 0]), "invalid result formats"),
        (messages.bind("", "s", result_formats=[2]), "invalid result formats"),
    ],
)
async def test_what_bind_refuses(bind: bytes, answer: str) -> None:
    sent, _ = await converse(console(), messages.parse("s", "SHOW STATE") + bind + messages.sync())
    assert sent == messages.parse_complete() + error(BouncerError(answer)) + READY


async def test_a_portal_ends_with_sync() -> None:
    start = messages.parse("", "SHOW STATE") + messages.bind("p", "") + messages.sync()
    sent, _ = await converse(console(), start + messages.execute("p") + messages.sync())
    assert sent.endswith(error(BouncerError('portal "p" does not exist')) + READY)


async def test_statements_and_portals_are_limited() -> None:
    session = console()
    many = b"".join(messages.parse(f"s{n}", "SHOW STATE") for n in range(STATEMENTS_MAX + 1))
    sent, _ = await converse(session, many + messages.sync())
    assert sent.endswith(error(BouncerError("too many prepared statements")) + READY)
    again = messages.parse("s1", "SHOW STATE") + messages.sync()
    assert (await converse(session, again))[0] == refused('prepared statement "s1" already exists')
    many = b"".join(messages.bind(f"p{n}", "s1") for n in range(PORTALS_MAX + 1))
    sent, _ = await converse(session, many + messages.sync())
    assert sent == PORTALS_MAX * messages.bind_complete() + refused("too many portals")


# -- what ends the session


async def test_terminate_closes_silently() -> None:
    assert await converse(console(), messages.terminate()) == (b"", True)


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
@pytest.mark.parametrize("kind", [b"F", b"d", b"c", b"f", b"p", b"\0"])
async def test_other_messages_are_fatal(dialect: str, kind: bytes) -> None:
    fault = ProtocolViolation(f"unsupported packet type for admin console: {kind[0]}")
    frames = messages.frame(kind, b"x") + messages.query("SHOW STATE")
    assert await converse(console(dialect), frames) == (error(fault), True)


@pytest.mark.parametrize("frame", [messages.frame(b"Q", b"SHOW STATE"), messages.frame(b"E", b"\0")])
async def test_malformed_messages_are_fatal(frame: bytes) -> None:
    sent, closes = await converse(console(), frame)
    assert closes
    assert messages.fields_of_error(sent[5:])["C"] == "08P01"


# -- what must never be seen


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
async def test_no_command_shows_a_secret_or_a_broken_text(dialect: str) -> None:
    for command in ("DATABASES", "POOLS", "CLIENTS", "SERVERS", "STATS", "CONFIG", "USERS", "FDS", "PINS"):
        sent = await asked(f"SHOW {command}", dialect=dialect)
        for kind, body in cut(sent):
            if kind == ord("D"):
                [value.decode() for value in messages.parse_data_row(body) if value is not None]
        assert [secret for secret in SECRETS if secret.encode() in sent] == []
    assert "caf\N{REPLACEMENT CHARACTER}".encode() in await asked("SHOW CLIENTS", dialect=dialect)


# -- whatever comes


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(b"QPBDECSHXFdpf\0"),
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from(
                    [
                        *(b"SHOW STATE\0", b"\0SHOW LISTS\0\0\0", b"S\0", b"P\0", b"\0\0\0\0\0\0\0\0"),
                        *(b"\0\0\0\0\0", b"PAUSE\0", b"SET \xff=\xff\0", b'SHOW "\xe9"\0', b"\0\0\0\0\1"),
                    ]
                ),
            ),
        ),
        max_size=20,
    )
)
def test_any_bytes_get_whole_frames_or_the_end(frames: list[tuple[int, bytes]]) -> None:
    session = console(rights="stats")
    for kind, body in frames:
        answer = session.receive(kind, body)
        assert answer.action is None
        assert b"".join(messages.frame(bytes([k]), b) for k, b in cut(answer.data)) == answer.data
        if answer.closes:
            return
