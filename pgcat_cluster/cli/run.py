"""`pgcat-cluster run`: one node from one file, or as part of a fleet, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from pgcat_cluster.net.config_file import read_local, tree_of_file
from pgcat_cluster.topology.reading import InvalidSettings

EXIT_CONFIG = 78  # sysexits.h: the configuration is wrong


@click.command()
@click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TOML file: [node], clusters, pools and users; or [node] and [store] for a node of a fleet.",
)
@click.option(
    "--etcd", metavar="HOST:PORT,...", help="The members of the fleet's etcd; https://HOST:PORT,... for TLS."
)
@click.option(
    "--etcd-ca", metavar="FILE", help="Who signed the members' certificates, if no public authority."
)
@click.option("--etcd-cert", metavar="FILE", help="Our certificate, where the members ask for one.")
@click.option("--etcd-key", metavar="FILE", help="Its key.")
@click.option("--etcd-user", metavar="NAME", help="A user of etcd, with the role of a node.")
@click.option(
    "--etcd-secret", metavar="REFERENCE", help="Its password: file:NAME in --secrets-dir, or env:NAME."
)
@click.option("--fleet", metavar="NAME", help="The name of the fleet.")
@click.option("--node", "name", metavar="NAME", help="This node's name, which no other of the fleet has.")
@click.option("--zone", metavar="ZONE", help="Where this node is; bans are weighed by zones.")
@click.option("--host", metavar="HOST", help="What this node shares its fate with; unset: this machine.")
@click.option("--state-dir", metavar="DIR", help="Kept for a restart while etcd is away.")
@click.option("--secrets-dir", metavar="DIR", help="Where file: references of documents are looked up.")
@click.option("--listen", metavar="HOST:PORT,...", help="Where clients connect.")
@click.option("--http", metavar="HOST:PORT", help="Where /ready, /metrics and /status answer, or off.")
@click.option("--peer", metavar="HOST:PORT", help="Where other nodes of the fleet ask this one.")
@click.option("--peer-key", metavar="FILE", help="The key that all nodes of the fleet share.")
@click.option(
    "--allow-bad-etcd", is_flag=True, help="Work with versions of etcd that are known to be faulty."
)
@click.pass_context
def run(
    context: click.Context,
    config_path: Path | None,
    etcd: str | None,
    etcd_ca: str | None,
    etcd_cert: str | None,
    etcd_key: str | None,
    etcd_user: str | None,
    etcd_secret: str | None,
    fleet: str | None,
    name: str | None,
    zone: str | None,
    host: str | None,
    state_dir: str | None,
    secrets_dir: str | None,
    listen: str | None,
    http: str | None,
    peer: str | None,
    peer_key: str | None,
    allow_bad_etcd: bool,
) -> None:
    """Run a node: from one TOML file, or as part of a fleet whose documents are in etcd.

    \b
    SIGHUP   reads the file again, in a fleet only secrets, keys and certificates; clients
             stay, and what is invalid changes nothing.
    SIGTERM  drains: no new clients, running transactions finish. A second one stops at once.
    """
    store = {
        "endpoints": etcd.split(",") if etcd else None,
        "ca": etcd_ca,
        "cert": etcd_cert,
        "key": etcd_key,
        "user": etcd_user,
        "secret": etcd_secret,
        "fleet": fleet,
        "zone": zone,
        "host": host,
        "state_dir": state_dir,
        "peer": peer,
        "peer_key": peer_key,
        "allow_bad_version": allow_bad_etcd or None,
    }
    node = {
        "name": name,
        "secrets_dir": secrets_dir,
        "listen": listen.split(",") if listen else None,
        "http": http,
    }
    options: dict[str, dict[str, object]] = {
        table: {key: value for key, value in said.items() if value is not None}
        for table, said in (("store", store), ("node", node))
    }
    try:
        is_in_fleet = bool(options["store"]) or (
            config_path is not None and "store" in tree_of_file(config_path)
        )
        if not is_in_fleet:
            if config_path is None:
                raise click.UsageError("--config FILE, or --etcd, --fleet and --node")
            if options["node"]:
                raise click.UsageError(f"without a fleet {', '.join(options['node'])} stand in FILE")
            from pgcat_cluster.process import run as run_node

            context.exit(run_node(config_path))
        local = read_local(config_path, options)
    except InvalidSettings as invalid:
        for line in invalid.lines():
            click.echo(line, err=True)
        context.exit(EXIT_CONFIG)
    from pgcat_cluster.fleet_node import run as run_in_fleet

    context.exit(run_in_fleet(local, config_path.absolute().parent if config_path else Path.cwd()))
