"""Reads a configuration file together with the secrets and certificates it names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from pgcat_cluster.net.secrets import SecretReader
from pgcat_cluster.net.tls import IncomingTls, OutgoingTls, TlsContexts, TlsFilesUnusable
from pgcat_cluster.topology.model import Topology, build
from pgcat_cluster.topology.reading import InvalidSettings, Problem, parse, tree_of
from pgcat_cluster.topology.reading import read_local as read_local_tree
from pgcat_cluster.topology.settings import ClientTls, Local, ServerTls, Settings

_Tls = TypeVar("_Tls", ClientTls, ServerTls)


def read_settings(file: Path) -> Settings:
    """The settings of a file, without what it names. Raises InvalidSettings, also if it can not be read."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidSettings(str(file), [Problem("", error.strerror or str(error))]) from None
    return parse(text, str(file))


def read_local(file: Path | None, options: Mapping[str, Mapping[str, object]]) -> Local:
    """What a node of a fleet is told by a file, by options (table by table), or by both: an option counts more.

    Paths of a file begin at its directory, others at the one we run in. Raises InvalidSettings.
    """
    tree: dict[str, Any] = {}
    directory = Path.cwd()
    if file is not None:
        tree, directory = tree_of_file(file), file.absolute().parent
    merged = {**tree, **{table: {**tree.get(table, {}), **said} for table, said in options.items()}}
    local = read_local_tree(merged, "options" if file is None else str(file))
    said = options.get("store", {})
    paths = {
        field: str(directory / path)
        for field in ("state_dir", "ca", "cert", "key", "peer_key")
        if (path := getattr(local.store, field)) is not None and field not in said
    }
    is_given = "secrets_dir" in options.get("node", {})
    node = structs.replace(
        local.node,
        secrets_dir=str((Path.cwd() if is_given else directory) / local.node.secrets_dir),
        tls=anchored_tls(local.node.tls, directory),
    )
    return structs.replace(local, node=node, store=structs.replace(local.store, **paths))


def tree_of_file(file: Path) -> dict[str, Any]:
    """The plain tree of a TOML file. Raises InvalidSettings, also if it can not be read."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidSettings(str(file), [Problem("", error.strerror or str(error))]) from None
    return tree_of(text or b"#", str(file))


def load(file: Path, warn: Callable[[str], None] = lambda message: None) -> Topology:
    """What a file describes: secrets resolved, TLS files tried, paths made absolute.

    Raises InvalidSettings with all that is wrong.
    """
    settings = anchored(read_settings(file), file.absolute().parent)
    topology = build(settings, SecretReader(Path(settings.node.secrets_dir), warn), source=str(file))
    tls_contexts(topology, source=str(file))
    return topology


def tls_contexts(topology: Topology, *, source: str = "settings") -> TlsContexts:
    """The TLS contexts of a node; clusters that say the same share one.

    Raises InvalidSettings for files that can not be used.
    """
    problems = []
    outgoing = {}
    # Most clusters of many say the same about it, and a context costs a lot.
    made: dict[tuple[str | None, ...], OutgoingTls] = {}
    for name, cluster in topology.clusters.items():
        tls = cluster.tls
        said = (tls.mode, tls.ca, tls.cert, tls.key)
        try:
            if said not in made:
                made[said] = OutgoingTls(tls.mode, ca=tls.ca, cert=tls.cert, key=tls.key)
            outgoing[name] = made[said]
        except TlsFilesUnusable as error:
            problems.append(Problem(f"clusters.{name}.tls", str(error)))
    client = topology.node.tls
    try:
        incoming = IncomingTls(
            client.mode_in_force, cert=client.cert, key=client.key, client_ca=client.client_ca
        )
    except TlsFilesUnusable as error:
        problems.append(Problem("node.tls", str(error)))
    if problems:
        raise InvalidSettings(source, problems)
    return TlsContexts(incoming=incoming, outgoing=outgoing)


def anchored(settings: Settings, directory: Path) -> Settings:
    """The same settings with every relative path below `directory`."""
    node = settings.node
    return structs.replace(
        settings,
        node=structs.replace(
            node, secrets_dir=str(directory / node.secrets_dir), tls=anchored_tls(node.tls, directory)
        ),
        clusters={
            name: structs.replace(cluster, tls=anchored_tls(cluster.tls, directory))
            for name, cluster in settings.clusters.items()
        },
    )


def anchored_tls(tls: _Tls, directory: Path) -> _Tls:
    files = {
        field: getattr(tls, field) for field in ("ca", "client_ca", "cert", "key") if hasattr(tls, field)
    }
    return structs.replace(tls, **{field: str(directory / file) for field, file in files.items() if file})
