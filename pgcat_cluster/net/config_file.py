"""Reads a configuration file together with the secrets and certificates it names."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from pgcat_cluster.net.secrets import SecretReader
from pgcat_cluster.net.tls import IncomingTls, OutgoingTls, TlsContexts, TlsFilesUnusable
from pgcat_cluster.topology.model import Topology, build
from pgcat_cluster.topology.reading import InvalidSettings, Problem, parse
from pgcat_cluster.topology.settings import ClientTls, ServerTls, Settings

_Tls = TypeVar("_Tls", ClientTls, ServerTls)


def read_settings(file: Path) -> Settings:
    """The settings of a file, without what it names. Raises InvalidSettings, also if it can not be read."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidSettings(str(file), [Problem("", error.strerror or str(error))]) from None
    return parse(text, str(file))


def load(file: Path, warn: Callable[[str], None] = lambda message: None) -> Topology:
    """What a file describes: secrets resolved, TLS files tried, paths made absolute.

    Raises InvalidSettings with all that is wrong.
    """
    settings = _anchored(read_settings(file), file.absolute().parent)
    topology = build(settings, SecretReader(Path(settings.node.secrets_dir), warn), source=str(file))
    tls_contexts(topology, source=str(file))
    return topology


def tls_contexts(topology: Topology, *, source: str = "settings") -> TlsContexts:
    """The TLS contexts of a node. Raises InvalidSettings for files that can not be used."""
    problems = []
    outgoing = {}
    for name, cluster in topology.clusters.items():
        tls = cluster.tls
        try:
            outgoing[name] = OutgoingTls(tls.mode, ca=tls.ca, cert=tls.cert, key=tls.key)
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


def _anchored(settings: Settings, directory: Path) -> Settings:
    """The same settings with every relative path below `directory`."""
    node = settings.node
    return structs.replace(
        settings,
        node=structs.replace(
            node, secrets_dir=str(directory / node.secrets_dir), tls=_anchored_tls(node.tls, directory)
        ),
        clusters={
            name: structs.replace(cluster, tls=_anchored_tls(cluster.tls, directory))
            for name, cluster in settings.clusters.items()
        },
    )


def _anchored_tls(tls: _Tls, directory: Path) -> _Tls:
    files = {
        field: getattr(tls, field) for field in ("ca", "client_ca", "cert", "key") if hasattr(tls, field)
    }
    return structs.replace(tls, **{field: str(directory / file) for field, file in files.items() if file})
