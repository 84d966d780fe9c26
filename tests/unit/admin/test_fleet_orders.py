"""Commands for all nodes, and PgCat's bans for one, as conversations with both consoles."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pgcat_cluster.admin.console import HELP, BouncerError, CatError, Console
from pgcat_cluster.admin.grammar import FOR_FLEET, parse_command
from pgcat_cluster.agreement.orders import FleetFault, Obeyed
from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.wire import messages
from tests.support.control import SNAPSHOT, FakeControl, FakeFleet, answers, converse
from tests.support.waiting import until

READY = messages.ready_for_query(b"I")
OBEYED = messages.notice("NOTICE", "00000", "all 2 live nodes obey", "n1.00000001, n2.00000002")
BAN_COLUMNS = messages.row_description([(name, 25, -1) for name in ("db", "user", "role", "host")])
R1 = messages.data_row([b"app", b"app", b"replica", b"10.0.0.2"])
R2 = messages.data_row([b"app", b"app", b"replica", b"10.0.0.3"])


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def control(fleet: FakeFleet) -> FakeControl:
    return FakeControl(fleet=fleet)


async def asked(control: FakeControl, text: str, dialect: str = "pgbouncer", rights: str = "admin") -> bytes:
    console = Console(dialect, "op", rights, control)  # type: ignore[arg-type]
    sent, closes = await converse(console, messages.query(text))
    assert not closes
    return sent


def done(tag: str) -> bytes:
    return messages.command_complete(tag) + READY


def refused(dialect: str, text: str, detail: str | None = None, hint: str | None = None) -> bytes:
    kind = BouncerError if dialect == "pgbouncer" else CatError
    return messages.error_response(kind(text, detail=detail, hint=hint)) + READY


def fields(sent: bytes) -> dict[str, str]:
    assert sent[:1] == b"E"
    return messages.fields_of_error(sent[5 : -len(READY)])


# -- the grammar


def test_fleet_is_the_last_bare_word_of_some_commands() -> None:
    for verb in FOR_FLEET:
        assert parse_command(f"{verb.lower()} x fleet;").is_for_fleet
        assert parse_command(f"{verb} x FLEET").arguments == ("x",)
    quoted = parse_command('PAUSE "fleet"')
    assert (quoted.is_for_fleet, quoted.arguments) == (False, ("fleet",))
    both = parse_command('PAUSE "fleet" FLEET')
    assert (both.is_for_fleet, both.arguments) == (True, ("fleet",))
    assert not parse_command("SHUTDOWN FLEET").is_for_fleet
    assert not parse_command("PAUSE FLEET app").is_for_fleet


def test_a_subject_of_two_words() -> None:
    assert parse_command("show fleet bans").name == "SHOW FLEET BANS"
    assert parse_command("SHOW FLEET;").name == "SHOW FLEET"
    assert parse_command("SHOW BANS now").arguments == ("now",)


# -- SHOW


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
@pytest.mark.parametrize("rights", ["admin", "stats"])
@pytest.mark.parametrize("subject", ["FLEET", "FLEET BANS", "FLEET OVERRIDES", "NODES", "VERDICTS"])
async def test_whoever_may_look_sees_the_fleet(
    control: FakeControl, dialect: str, rights: str, subject: str
) -> None:
    sent = await asked(control, f"SHOW {subject}", dialect, rights)
    assert sent[:1] == b"T"
    assert b"n1" in sent or b"on call" in sent
    assert sent.endswith(done("SHOW"))


async def test_a_driver_is_told_the_columns_before_the_rows(control: FakeControl) -> None:
    console = Console("pgcat", "op", "admin", control)
    sent, _ = await converse(
        console,
        messages.parse("", "SHOW VERDICTS")
        + messages.bind("", "", (), (), ())
        + messages.describe(b"P", "")
        + messages.execute("", 0)
        + messages.sync(),
    )
    names = [b"server", b"node", b"verdict", b"why", b"zone", b"generation", b"since_rev"]
    assert all(name in sent for name in names)
    assert sent.count(b"refused") == 1


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
async def test_without_the_store_the_fleet_is_not_shown(
    control: FakeControl, fleet: FakeFleet, dialect: str
) -> None:
    fleet.fault = FleetFault("etcd does not answer: no", hint="look here")
    assert await asked(control, "SHOW FLEET", dialect) == refused(
        dialect, "etcd does not answer: no", hint="look here"
    )


async def test_help_lists_them() -> None:
    for lines in HELP.values():
        text = "\n".join(lines)
        for words in ("FLEET BANS", "VERDICTS", "NODES", "BAN <server> <seconds>", "RELOAD FLEET"):
            assert words in text


# -- orders


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("PAUSE FLEET", ("pause", None, "op on n1")),
        ("PAUSE app FLEET", ("pause", "app", "op on n1")),
        ("RESUME app fleet;", ("resume", "app")),
        ('RECONNECT "Idle" FLEET', ("reconnect", "Idle", "op on n1")),
        ("RELOAD FLEET", ("reload",)),
    ],
)
async def test_an_order_is_answered_when_all_obey(
    control: FakeControl, fleet: FakeFleet, dialect: str, text: str, call: tuple[object, ...]
) -> None:
    assert await asked(control, text, dialect) == OBEYED + done(text.split()[0])
    assert (fleet.calls, control.calls) == ([call], [])


@pytest.mark.parametrize(
    "word", ["10.0.0.2", "10.0.0.2:5433", "r1", "c/r1"], ids=["host", "port", "name", "cluster"]
)
async def test_a_server_is_banned_for_all_nodes(control: FakeControl, fleet: FakeFleet, word: str) -> None:
    now = SNAPSHOT.backends
    renamed = tuple(msgspec.structs.replace(one, name=f"c/{one.name}") for one in now)
    pools = tuple(
        msgspec.structs.replace(
            pool,
            servers=tuple(msgspec.structs.replace(part, server=f"c/{part.server}") for part in pool.servers),
        )
        for pool in SNAPSHOT.pools
    )
    control.now = msgspec.structs.replace(SNAPSHOT, backends=renamed, pools=pools)
    sent = await asked(control, f"BAN {word} 60 FLEET", "pgcat")
    assert sent == OBEYED + BAN_COLUMNS + R1 + done("BAN")
    assert fleet.calls[0] == ("ban", [("c", "r1")], 60, "op on n1")
    await asked(control, f"BAN {word} FLEET")
    assert fleet.calls[-1] == ("ban", [("c", "r1")], None, "op on n1")
    assert (await asked(control, f"UNBAN {word} FLEET")).endswith(R1 + done("UNBAN"))
    assert fleet.calls[-1] == ("unban", [("c", "r1")])
    assert control.calls == []


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("BAN FLEET", "usage: BAN server [duration_seconds] FLEET", "named by its host"),
        ("BAN r1 60 70 FLEET", "usage: BAN server [duration_seconds] FLEET", "named by its host"),
        ("BAN r1 soon FLEET", "duration_seconds must be an integer", ""),
        ("BAN r1 0 FLEET", "duration_seconds must be >= 0", "at least 1"),
        ("BAN r1 1000000001 FLEET", "duration_seconds must be <= 1000000000", ""),
        ("BAN nowhere FLEET", "no server is called nowhere", "named by its host"),
        ("UNBAN FLEET", "usage: UNBAN server FLEET", "named by its host"),
        ("PAUSE nowhere FLEET", "no such database: nowhere", "SHOW DATABASES"),
        ("PAUSE app, app FLEET", "usage: PAUSE [db] FLEET", "leave the user out"),
        ("RELOAD app FLEET", "usage: RELOAD FLEET", ""),
    ],
)
async def test_wrong_words_do_nothing_and_say_what_is_right(
    control: FakeControl, fleet: FakeFleet, dialect: str, text: str, message: str, hint: str
) -> None:
    found = fields(await asked(control, text, dialect))
    assert found["M"] == message
    assert hint in found.get("H", "")
    assert found["C"] == ("08P01" if dialect == "pgbouncer" else "58000")
    assert fleet.calls == control.calls == []


async def test_a_database_that_is_called_fleet_is_not_taken_for_all_nodes(
    control: FakeControl, fleet: FakeFleet
) -> None:
    named = msgspec.structs.replace(SNAPSHOT.databases[0], name="fleet")
    control.now = msgspec.structs.replace(SNAPSHOT, databases=(named,))
    found = fields(await asked(control, "PAUSE fleet"))
    assert found["M"] == "PAUSE FLEET means all nodes, and there is a database fleet"
    assert 'PAUSE "fleet" FLEET on all nodes' in found["H"]
    await asked(control, 'RESUME "fleet" FLEET')
    assert fleet.calls == [("resume", "fleet")]


@pytest.mark.parametrize("verb", ["PAUSE", "BAN r1", "UNBAN r1", "RESUME", "RECONNECT", "RELOAD"])
async def test_a_stats_user_orders_nothing(control: FakeControl, fleet: FakeFleet, verb: str) -> None:
    sent = await asked(control, f"{verb} FLEET", rights="stats")
    assert sent == refused("pgbouncer", "admin access needed")
    assert fleet.calls == []


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
async def test_who_does_not_obey_is_named(control: FakeControl, fleet: FakeFleet, dialect: str) -> None:
    fleet.fault = FleetFault("not all", detail="no answer within 10 s from n2", hint="do that")
    assert await asked(control, "PAUSE app FLEET", dialect) == refused(
        dialect, "not all", "no answer within 10 s from n2", "do that"
    )


async def test_a_reload_that_is_refused_is_a_failed_reload(control: FakeControl, fleet: FakeFleet) -> None:
    fleet.fault = ConfigFault("rejected: n2: config/pools/app: size: is wrong")
    found = fields(await asked(control, "RELOAD FLEET"))
    assert (found["C"], found["M"]) == ("F0000", "RELOAD failed, see logs for additional details")
    assert found["D"] == "rejected: n2: config/pools/app: size: is wrong"
    assert fields(await asked(control, "RELOAD FLEET", "pgcat"))["C"] == "58000"


async def test_nodes_that_nobody_knows_of_are_told_too(control: FakeControl, fleet: FakeFleet) -> None:
    fleet.obeyed = Obeyed(nodes=("n1",), lost=("n3",), unasked=("n2",))
    sent = await asked(control, "RESUME FLEET")
    assert sent == (
        messages.notice("NOTICE", "00000", "the one live node obeys", "n1")
        + messages.notice("WARNING", "01000", "1 nodes have no peer port and were not asked", "n2")
        + messages.notice(
            "WARNING",
            "01000",
            "nodes that lost their leases before do not know of it if they still serve",
            "n3",
        )
        + done("RESUME")
    )


async def test_a_canceled_order_is_interrupted(control: FakeControl, fleet: FakeFleet) -> None:
    fleet.is_obeyed.clear()
    console = Console("pgbouncer", "op", "admin", control)
    [answer] = answers(console, messages.query("PAUSE FLEET"))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(answer.action())  # type: ignore[misc, arg-type]
        await until(lambda: fleet.calls)
        console.cancel()
    assert fields(waiting.result())["C"] == "57014"


async def test_what_takes_too_long_is_given_up(control: FakeControl, fleet: FakeFleet) -> None:
    fleet.is_obeyed.clear()
    console = Console("pgbouncer", "op", "admin", control, command_timeout_s=0.01)
    sent, _ = await converse(console, messages.query("PAUSE FLEET"))
    assert sent == refused("pgbouncer", "PAUSE FLEET gave up after 0.01 s")


async def test_a_fleet_of_one_says_so() -> None:
    control = FakeControl()
    said = "this node goes by a file and is the whole fleet; what is said by hand lasts until it restarts"
    assert await asked(control, "PAUSE FLEET") == messages.notice("NOTICE", "00000", said) + done("PAUSE")


# -- one node of a fleet


async def test_what_one_node_does_says_that_the_others_do_not(control: FakeControl, fleet: FakeFleet) -> None:
    control.is_drained.set()
    for dialect, verb in (("pgbouncer", "PAUSE"), ("pgcat", "PAUSE")):
        alone = messages.notice("NOTICE", "00000", f"on this node alone; {verb} … FLEET is for all nodes")
        assert await asked(control, verb, dialect) == alone + done(verb)
    assert fleet.calls == []


@pytest.mark.parametrize(("text", "held"), [("RESUME", "app, b"), ("RESUME app", "app")])
async def test_a_pause_of_all_nodes_is_not_taken_back_on_one(
    control: FakeControl, fleet: FakeFleet, text: str, held: str
) -> None:
    fleet.paused = frozenset({"app", "b"})
    found = fields(await asked(control, text))
    assert found["M"] == f"paused for the whole fleet: {held}"
    assert found["H"] == "RESUME [<db>] FLEET takes that back."
    assert control.calls == []


@pytest.mark.parametrize("dialect", ["pgbouncer", "pgcat"])
async def test_pgcat_s_ban_is_for_this_node(dialect: str) -> None:
    control = FakeControl()
    assert await asked(control, "BAN 10.0.0.3 60", dialect) == BAN_COLUMNS + R2 + done("BAN")
    assert control.calls == [("ban", [("c", "r2")], 60, "op")]
    control.lifted = [("c", "r2")]
    assert await asked(control, "UNBAN 10.0.0.3:5434", dialect) == BAN_COLUMNS + R2 + done("UNBAN")
    control.lifted = []
    assert await asked(control, "UNBAN r1", dialect) == BAN_COLUMNS + done("UNBAN")
    found = fields(await asked(control, "UNBAN r2", dialect))
    assert (found["M"], found["D"]) == ("nobody banned r2 on this node", "r2 is avoided: refused")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BAN", "usage: BAN hostname duration_seconds"),
        ("BAN r2", "usage: BAN hostname duration_seconds"),
        ("BAN r2 x", "duration_seconds must be an integer"),
        ("BAN r2 0", "duration_seconds must be >= 0"),
        ("BAN r2 -1", "duration_seconds must be >= 0"),
        ("UNBAN", "UNBAN command requires a hostname to unban"),
        ("BAN 10.9.9.9 5", "no server is called 10.9.9.9"),
        ("UNBAN 10.9.9.9", "no server is called 10.9.9.9"),
    ],
)
async def test_pgcat_s_words_for_a_wrong_ban(text: str, message: str) -> None:
    control = FakeControl()
    found = fields(await asked(control, text, "pgcat"))
    assert (found["M"], found["C"], found["S"]) == (message, "58000", "FATAL")
    assert control.calls == []
