"""Commands with FLEET as their last word: checked, carried out by all nodes, and their outcome put in words."""

from __future__ import annotations

from collections.abc import Awaitable

from pgcat_cluster.admin.bans import meant, place_of
from pgcat_cluster.admin.control import ControlPort
from pgcat_cluster.admin.grammar import Command
from pgcat_cluster.agreement.orders import FleetFault, Obeyed, Place
from pgcat_cluster.telemetry.snapshot import NodeSnapshot
from pgcat_cluster.wire import messages

# A lease of etcd can not be longer.
BAN_S_MAX = 1_000_000_000


def order(command: Command, control: ControlPort, by: str) -> Awaitable[Obeyed]:
    """What is to be awaited for a command. Raises FleetFault for words that make none."""
    fleet, snapshot = control.fleet, control.snapshot(connections=False)
    match command.name:
        case "BAN":
            word, length_s = _ban_words(command)
            return fleet.ban(servers(snapshot, word), length_s, by)
        case "UNBAN":
            if len(command.arguments) != 1:
                raise FleetFault("usage: UNBAN server FLEET", hint=_SERVERS)
            return fleet.unban(servers(snapshot, command.arguments[0]))
        case "PAUSE":
            return fleet.pause(_database(command, snapshot), by)
        case "RESUME":
            return fleet.resume(_database(command, snapshot))
        case "RECONNECT":
            return fleet.reconnect(_database(command, snapshot), by)
    if command.arguments:
        raise FleetFault(f"usage: {command.name} FLEET")
    return fleet.reload()


_SERVERS = "A server is named by its host, host:port, or as cluster/server."


def servers(snapshot: NodeSnapshot, word: str) -> list[Place]:
    """The servers a word means. Raises FleetFault if there is none."""
    found = [place_of(backend) for backend in meant(snapshot, word)]
    if not found:
        known = ", ".join(sorted(backend.name for backend in snapshot.backends))
        raise FleetFault(f"no server is called {word}", detail=f"there are: {known}", hint=_SERVERS)
    return found


def check_not_avoided(snapshot: NodeSnapshot, word: str) -> None:
    """Raises FleetFault if something else than an operator's ban keeps clients away from what a word means."""
    avoided = [f"{one.name} is avoided: {one.reason}" for one in meant(snapshot, word) if one.is_avoided]
    if avoided:
        raise FleetFault(
            f"nobody banned {word} on this node",
            detail="; ".join(avoided),
            hint="UNBAN <server> FLEET takes bans of the fleet back; what this node saw itself ends as soon as "
            "the server does well again.",
        )


def seconds(word: str) -> int:
    """For how long. Raises FleetFault, in PgCat's words."""
    try:
        length_s = int(word)
    except ValueError:
        raise FleetFault("duration_seconds must be an integer") from None
    if length_s <= 0:
        raise FleetFault("duration_seconds must be >= 0", hint="0 bans for no time at all: give at least 1.")
    if length_s > BAN_S_MAX:
        raise FleetFault(f"duration_seconds must be <= {BAN_S_MAX}")
    return length_s


def _ban_words(command: Command) -> tuple[str, int | None]:
    match command.arguments:
        case (word,):
            return word, None
        case (word, length):
            return word, seconds(length)
    raise FleetFault("usage: BAN server [duration_seconds] FLEET", hint=_SERVERS)


def _database(command: Command, snapshot: NodeSnapshot) -> str | None:
    names = {database.name for database in snapshot.databases}
    match command.arguments:
        case ():
            if same := sorted(name for name in names if name.upper() == "FLEET"):
                raise FleetFault(
                    f"{command.name} FLEET means all nodes, and there is a database {same[0]}",
                    hint=f'{command.name} "{same[0]}" means the database on this node, {command.name} '
                    f'"{same[0]}" FLEET on all nodes.',
                )
            return None
        case (name,):
            if name not in names:
                raise FleetFault(
                    f"no such database: {name}", hint="SHOW DATABASES lists those that this node serves."
                )
            return name
    raise FleetFault(
        f"usage: {command.name} [db] FLEET",
        hint="The fleet commands a database with all its users: leave the user out.",
    )


def notice(control: ControlPort, obeyed: Obeyed) -> bytes:
    """Who obeys, and of whom that is not known."""
    if control.fleet.is_alone:
        text = "this node goes by a file and is the whole fleet; what is said by hand lasts until it restarts"
        return messages.notice("NOTICE", "00000", text)
    count = len(obeyed.nodes)
    nodes = "the one live node obeys" if count == 1 else f"all {count} live nodes obey"
    said = messages.notice("NOTICE", "00000", nodes, ", ".join(obeyed.nodes))
    if obeyed.unasked:
        text = f"{len(obeyed.unasked)} nodes have no peer port and were not asked"
        said += messages.notice("WARNING", "01000", text, ", ".join(obeyed.unasked))
    if obeyed.lost:
        text = "nodes that lost their leases before do not know of it if they still serve"
        said += messages.notice("WARNING", "01000", text, ", ".join(obeyed.lost))
    return said
