"""Keeps the search_path that a client was given, in pools where the rules of bare names depend on it.

Outside transactions the parameters tell: those of the session, of the pool, and what servers report. Within one it is
what its statements have set, until it ends. The relay has it as a key: empty for PostgreSQL's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from pgcat_cluster.errors import Fault
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.session.account import visitor_of
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.sql import paths
from pgcat_cluster.sql.paths import Path, Step
from pgcat_cluster.topology.model import PoolSettings
from pgcat_cluster.wire.startup import parse_options

_NAME = "search_path"
# No statement begins with one of these, and no encoding's name.
_KNOWN = b"="
_UNKNOWN = b"?\0"


@lru_cache(maxsize=1024)
def path_of(key: bytes) -> Path | None:
    """What a key stands for; None: the default."""
    if not key:
        return None
    if key == _UNKNOWN:
        return paths.UNKNOWN
    return paths.path_of(key[1:-1].decode(errors="surrogateescape"))


def path_in(context: bytes) -> bytes:
    """The key that a statement's context begins with."""
    return context[: context.index(b"\0") + 1] if context[:1] in (b"=", b"?") else b""


def settle(client: Client, reported: Mapping[str, str]) -> None:
    """No transaction is in progress, and it is known which parameters are in force."""
    visitor = visitor_of(client)
    account = visitor.account
    if account.placement is None:
        return
    parameters = client.parameters
    assert isinstance(parameters, Parameters)
    value = parameters.values.get(_NAME)
    path = _of_pool(account.settings) if value is None else paths.path_of(value)
    if path is None and _NAME in reported:
        path = paths.path_of(reported[_NAME])
        path = None if path == paths.DEFAULT else path
    visitor.path = _key_of(path)
    end(client)


def lose(client: Client) -> None:
    """Nobody knows which parameters are in force."""
    visitor_of(client).path = _UNKNOWN
    end(client)


def end(client: Client) -> None:
    """A transaction has ended: what it set for itself is no longer in force."""
    visitor = visitor_of(client)
    visitor.path_moved = visitor.path_saved = False
    _put(client, visitor.path)


def move(client: Client, flow: Flow) -> None:
    """A statement runs that changes it."""
    visitor = visitor_of(client)
    to = flow.path
    if to in (Step.END, Step.BACK):
        if not (visitor.path_saved if to is Step.BACK else visitor.path_moved):
            return
        to = paths.UNKNOWN
    elif to is Step.RESET:
        startup = visitor.startup
        is_own = startup is not None and _NAME in startup.values
        # Servers reset to what is theirs; what is the client's is put into force when the transaction is over.
        to = paths.UNKNOWN if is_own else _of_pool(visitor.account.settings) or paths.DEFAULT
    assert isinstance(to, Path)
    visitor.path_moved = True
    visitor.path_saved |= client.saved_in == client.transactions
    client.wishes_end = True
    _put(client, _key_of(to))


def renew(client: Client) -> None:
    """The rules have changed: whether bare names depend on it, too."""
    if not visitor_of(client).path_moved:
        _put(client, visitor_of(client).path)


def _put(client: Client, key: bytes) -> None:
    placement = visitor_of(client).account.placement
    if placement is None or not placement.names_schemas:
        key = b""
    client.context = key + client.context[len(client.path) :]
    client.path = key


def _key_of(path: Path | None) -> bytes:
    if path is None:
        return b""
    if path.schemas is None:
        return _UNKNOWN
    return _KNOWN + paths.value_of(path.schemas).encode(errors="surrogateescape") + b"\0"


def _of_pool(settings: PoolSettings) -> Path | None:
    """What servers are given for all clients of a pool; None: nothing is said."""
    said = {name.lower(): value for name, value in settings.parameters.items()}
    try:
        options = parse_options(said.get("options", "").encode())
    except Fault:
        return paths.UNKNOWN
    value = said.get(_NAME, options.get(_NAME))
    return None if value is None else paths.path_of(value)
