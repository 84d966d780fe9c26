"""Commands a person types: the group and what it says of itself. Each command is imported when it is used."""

from __future__ import annotations

import importlib
import importlib.metadata

import click

_COMMANDS = {
    "run": "Run a node from one TOML file.",
    "demo": "Start etcd, PostgreSQL with replicas, and nodes in front, here and now, to try it.",
    "fleet": "See and change a fleet of nodes that agree through etcd.",
    "explain": "Say where a statement would go, and why, by a configuration file.",
    "config": "Check, show and describe configuration files without starting anything.",
}


class _Commands(click.Group):
    """Knows its commands by name and help; imports the module of the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from pgcat_cluster.relay.build import build_kind

        click.echo(f"pgcat-cluster {importlib.metadata.version('pgcat-cluster')} ({build_kind()})")
        ctx.exit()


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and whether the data plane is compiled or interpreted.",
)
def main() -> None:
    """A PostgreSQL proxy that pools connections and splits reads from writes.

    \b
    To see it work on this machine, with real servers that vanish on Ctrl-C:
        pgcat-cluster demo
    To run it in front of your own servers:
        pgcat-cluster config check node.toml
        pgcat-cluster run --config node.toml
    """
