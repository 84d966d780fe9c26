"""What a node needs at hand before it can go by a topology: TLS contexts, and how each user logs in.

Files are read and keys derived here, which takes long: a node that serves does it in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pgcat_cluster.net.config_file import tls_contexts
from pgcat_cluster.net.tls import TlsContexts
from pgcat_cluster.session.login import Credential
from pgcat_cluster.topology.model import Topology, User
from pgcat_cluster.wire import md5, scram


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisions:
    """A topology with all that was made for it. Never changed, only replaced."""

    topology: Topology
    tls: TlsContexts
    credentials: Mapping[str, Credential]


def provide(topology: Topology, before: Provisions | None = None, *, source: str = "settings") -> Provisions:
    """Everything that `topology` needs; of `before` is kept what was made of the same user.

    Raises InvalidSettings, naming `source`, for files that can not be used.
    """
    return Provisions(
        topology=topology,
        tls=tls_contexts(topology, source=source),
        credentials=_credentials(topology, before),
    )


def _credentials(topology: Topology, before: Provisions | None) -> Mapping[str, Credential]:
    """A verifier is made of a password once, here, and kept while the user is the same."""
    credentials = {}
    for name, user in topology.users.items():
        if before is not None and before.topology.users.get(name) == user:
            credentials[name] = before.credentials[name]
        else:
            credentials[name] = Credential(method=user.auth, verifier=_verifier(user))
    return credentials


def _verifier(user: User) -> str | None:
    if user.verifier is not None:
        return user.verifier.reveal()
    if user.password is None:
        return None
    password = user.password.reveal()
    if user.auth == "md5":
        return md5.make_verifier(user.name, password)
    return scram.make_verifier(password, scram.ITERATIONS_DEFAULT, os.urandom(16)).to_text()
