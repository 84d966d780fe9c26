"""`pgcat-cluster config`: checks, shows and describes configuration files without starting anything."""

import json
import sys
from pathlib import Path

import click

from pgcat_cluster.agreement.schemas import KINDS, schemas
from pgcat_cluster.net.config_file import load, read_local, read_settings, tree_of_file
from pgcat_cluster.topology.model import Topology
from pgcat_cluster.topology.reading import InvalidSettings
from pgcat_cluster.topology.showing import as_document, resolved, shown_lines

EXIT_CONFIG = 78  # sysexits.h: the configuration is wrong


@click.group()
def config() -> None:
    """Check, show and describe configuration files."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
def check(file: Path, as_json: bool) -> None:
    """Say everything that is wrong with FILE and its secrets; exit 78 if anything is."""
    warnings: list[str] = []
    try:
        if "store" in tree_of_file(file):
            local = read_local(file, {})
            summary = f"node {local.node.name} of fleet {local.store.fleet}"
        else:
            summary = _summary(load(file, warnings.append))
    except InvalidSettings as invalid:
        _refuse(invalid, as_json)
    for warning in warnings:
        click.echo(f"{file}: warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps({"file": str(file), "valid": True, "errors": [], "warnings": warnings}))
    else:
        click.echo(f"{file}: valid: {summary}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines of TOML.")
def show(file: Path, as_json: bool) -> None:
    """Show the settings FILE gives, every default said and no secret shown."""
    try:
        settings = read_settings(file)
    except InvalidSettings as invalid:
        _refuse(invalid, as_json)
    if as_json:
        click.echo(json.dumps(as_document(resolved(settings)), ensure_ascii=False))
    else:
        for line in shown_lines(settings):
            click.echo(line)


@config.command()
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option(
    "--write",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Write files here.",
)
def schema(kind: str | None, directory: Path | None) -> None:
    """Print the JSON Schema of each kind of document and of key, or of KIND alone."""
    chosen = {name: schema for name, schema in schemas().items() if kind in (None, name)}
    if directory is not None:
        for name, made in chosen.items():
            (directory / f"{name}.json").write_text(as_text(made), encoding="utf-8")
    else:
        click.echo(as_text(chosen if kind is None else chosen[kind]), nl=False)


def as_text(schema: object) -> str:
    """As the files of `proto/schemas` hold it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _refuse(invalid: InvalidSettings, as_json: bool) -> None:
    if as_json:
        errors = [{"path": problem.path, "message": problem.message} for problem in invalid.problems]
        click.echo(json.dumps({"file": invalid.source, "valid": False, "errors": errors, "warnings": []}))
    else:
        for line in invalid.lines():
            click.echo(line)
    sys.exit(EXIT_CONFIG)


def _summary(topology: Topology) -> str:
    servers = sum(len(cluster.servers) for cluster in topology.clusters.values())
    counts = (
        (len(topology.pools), "pool"),
        (len(topology.users), "user"),
        (len(topology.clusters), "cluster"),
        (servers, "server"),
        *([(len(topology.shardmaps), "shard map")] if topology.shardmaps else []),
    )
    return ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
