"""`pgcat-cluster run`: one node from one file, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The TOML file with node, clusters, pools and users.",
)
@click.pass_context
def run(context: click.Context, config_path: Path) -> None:
    """Run a node from one TOML file.

    \b
    SIGHUP   reads the file again; clients stay, and an invalid file changes nothing.
    SIGTERM  drains: no new clients, running transactions finish. A second one stops at once.
    """
    from pgcat_cluster.node import run as run_node

    context.exit(run_node(config_path))
