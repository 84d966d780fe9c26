"""`pgcat-cluster explain`: where a statement would go by a configuration file, and why, with nothing asked or run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from pgcat_cluster.cli.config import EXIT_CONFIG
from pgcat_cluster.errors import Fault
from pgcat_cluster.net.config_file import read_settings
from pgcat_cluster.session.explaining import Circumstances
from pgcat_cluster.session.explaining import explain as explain_statement
from pgcat_cluster.session.plugins import plugins_of
from pgcat_cluster.session.wishes import ground_for, wishes_of, wishes_of_pool
from pgcat_cluster.topology.model import PoolSettings, Topology, build
from pgcat_cluster.topology.reading import InvalidSettings
from pgcat_cluster.topology.settings import OnAllBad
from pgcat_cluster.topology.view import ClusterView, first_view

EXIT_REFUSED = 1


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    """One shard by the file alone."""

    number: int
    view: ClusterView
    on_all_bad: OnAllBad


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    help="The TOML file whose pools, clusters and shard maps are gone by.",
)
@click.option("--database", required=True, help="The database a client would name.")
@click.option("--user", help="The user a client would name; without it the pool's first.")
@click.option(
    "--set",
    "said",
    multiple=True,
    metavar="NAME=VALUE",
    help="What the session said before, such as pgcat.shard=1; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
@click.argument("statement")
def explain(
    file: Path, database: str, user: str | None, said: tuple[str, ...], as_json: bool, statement: str
) -> None:
    """Say where STATEMENT would go and why; - reads it from standard input. Exit 1 if it would be refused.

    \b
        pgcat-cluster explain --config node.toml --database app "select * from orders where id = 7"
        pgcat-cluster explain --config node.toml --database app --set pgcat.server_role=primary - < query.sql

    The answer names the shard and the role with their reasons, every server that could serve it, the statement's
    shape (what is remembered of it, constants aside), and any doubt about it. No secret is read and no server is
    asked, so nothing is said of which servers are up. To ask a running node what it would do now:

    \b
        psql "host=NODE port=6432 dbname=app user=app" -c "EXPLAIN ROUTE select * from orders where id = 7"
    """
    try:
        topology = build(read_settings(file), lambda _: "", source=str(file))
    except InvalidSettings as invalid:
        for line in invalid.lines():
            click.echo(line, err=True)
        sys.exit(EXIT_CONFIG)
    pool = _pool(topology, database, user)
    text = (sys.stdin.read() if statement == "-" else statement).strip()
    if not text:
        raise click.UsageError("there is no statement")
    ground = ground_for(pool, lambda: 0)
    try:
        wishes = wishes_of(_parameters(said), wishes_of_pool(pool, ground), ground)
    except Fault as fault:
        raise click.UsageError(f"--set: {fault}") from None
    views = first_view(topology).clusters
    found = explain_statement(
        text,
        Circumstances(
            settings=pool,
            places=[
                _Place(
                    number=shard.number,
                    view=views[shard.cluster],
                    on_all_bad=topology.clusters[shard.cluster].read.on_all_bad,
                )
                for shard in pool.shards
            ],
            statement_bytes_max=topology.node.statement_bytes_max,
            wishes=wishes,
            plugins=plugins_of(pool.plugins, pool.key),
        ),
    )
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        for line in found.lines():
            click.echo(line)
    if found.refusal:
        sys.exit(EXIT_REFUSED)


def _pool(topology: Topology, database: str, user: str | None) -> PoolSettings:
    pools = [pool for key, pool in topology.pools.items() if key.database == database]
    if not pools:
        raise click.UsageError(f'there is no pool of database "{database}"; {_known(_databases(topology))}')
    for pool in pools:
        if user in (None, pool.key.user):
            return pool
    users = [pool.key.user for pool in pools]
    raise click.UsageError(f'database "{database}" has no user "{user}"; {_known(users)}')


def _databases(topology: Topology) -> Iterable[str]:
    return dict.fromkeys(key.database for key in topology.pools)


def _known(names: Iterable[str]) -> str:
    return f"there are: {', '.join(names) or 'none'}"


def _parameters(said: tuple[str, ...]) -> dict[str, str]:
    parameters = {}
    for assignment in said:
        name, equals, value = assignment.partition("=")
        if not equals or not name.startswith("pgcat."):
            raise click.UsageError(
                f'--set takes NAME=VALUE with a name such as pgcat.shard, not "{assignment}"'
            )
        parameters[name] = value
    return parameters
