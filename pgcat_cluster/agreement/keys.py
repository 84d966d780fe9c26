"""Names the keys of one fleet in the store, and tells what a key names."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from msgspec import Struct


class Kind(Enum):
    """Every kind of key, as its place below the fleet; `{}` stands for a name."""

    SCHEMA = "schema"
    CONFIG_FLEET = "config/fleet"
    CONFIG_CLUSTER = "config/clusters/{}"
    CONFIG_POOL = "config/pools/{}"
    CONFIG_SHARDMAP = "config/shardmaps/{}"
    CONFIG_USER = "config/users/{}"
    OVERRIDE_PRIMARY = "override/{}/_primary"
    OVERRIDE_POOL = "override/_pool/{}"
    OVERRIDE_FREEZE = "override/_fleet/freeze"
    OVERRIDE_ACTIVATE = "override/_fleet/activate"
    OVERRIDE_STORE = "override/_fleet/store"
    OVERRIDE_SERVER = "override/{}/{}"
    ACCEPTED = "decided/accepted"
    DOC = "doc/{}"
    HISTORY = "history/{}"
    STATUS_CONFIG = "status/config"
    STATUS_COMMAND = "status/command/{}"
    STATUS_ACTIVATE = "status/command/_fleet"
    COORD = "decided/coord"
    BAN = "decided/ban/{}/{}/{}"
    STRIKES = "decided/strikes/{}/{}"
    TIMER = "decided/timer/{}"
    PRIMARY = "decided/primary/{}"
    BARRIER = "decided/barrier/{}"
    BUDGET = "decided/budget/{}/{}"
    SEAT = "seat/{}"
    LIVE = "live/{}"
    PREFIX = "prefix/{}"
    ACK = "ack/{}"
    HELD = "held/{}/{}"
    VERDICT_PRIMARY = "verdict/{}/_primary/{}"
    VERDICT = "verdict/{}/{}/{}"
    SHARE = "share/{}"


@lru_cache(maxsize=1 << 14)
def _quoted(name: str) -> str:
    """A name as a part of a key; the same few are asked for over and over."""
    return quote(name, safe=":")


class Named(NamedTuple):
    """What a key names: its kind and the names in it, in their order."""

    kind: Kind
    names: tuple[str, ...]


# Names without `_` in front: those are ours, and have kinds of their own above.
_PATTERNS = [
    (kind, re.compile("/".join("([^_/][^/]*)" if part == "{}" else part for part in kind.value.split("/"))))
    for kind in Kind
]


def node_id(name: str, boot: bytes) -> str:
    """The id of one life of the node `name`; `boot` are four bytes drawn when it started."""
    return f"{name}.{boot.hex()}"


def name_of(node: str) -> str:
    """The name in a node id."""
    return node.rpartition(".")[0]


class Keys(Struct, frozen=True):
    """The keys of one fleet. Names from elsewhere (a zone, say) are percent-encoded in them."""

    fleet: str

    @property
    def root(self) -> str:
        return f"/pgcat/{self.fleet}/"

    def named(self, key: str) -> Named | None:
        """What a key of this fleet names; None for a key of no known kind."""
        if not key.startswith(self.root):
            return None
        rest = key.removeprefix(self.root)
        for kind, pattern in _PATTERNS:
            if match := pattern.fullmatch(rest):
                return Named(kind, tuple(unquote(name) for name in match.groups()))
        return None

    def below(self, key: str) -> str:
        """A key as people read it: without the fleet's root."""
        return key.removeprefix(self.root)

    def of(self, kind: Kind, *names: str) -> str:
        """The key of this kind for these names."""
        return self.root + kind.value.format(*map(_quoted, names))

    # ---- prefixes, each with the slash at its end

    @property
    def config_prefix(self) -> str:
        return self.root + "config/"

    @property
    def override(self) -> str:
        return self.root + "override/"

    @property
    def decided(self) -> str:
        return self.root + "decided/"

    @property
    def doc_prefix(self) -> str:
        return self.root + "doc/"

    @property
    def history_prefix(self) -> str:
        return self.root + "history/"

    @property
    def seat_prefix(self) -> str:
        return self.root + "seat/"

    @property
    def live_prefix(self) -> str:
        return self.root + "live/"

    @property
    def prefix_prefix(self) -> str:
        return self.root + "prefix/"

    @property
    def ack_prefix(self) -> str:
        return self.root + "ack/"

    @property
    def verdict_prefix(self) -> str:
        return self.root + "verdict/"

    @property
    def share_prefix(self) -> str:
        return self.root + "share/"

    @property
    def ban_prefix(self) -> str:
        return self.root + "decided/ban/"

    @property
    def strikes_prefix(self) -> str:
        return self.root + "decided/strikes/"

    @property
    def timer_prefix(self) -> str:
        return self.root + "decided/timer/"

    def cluster_bans(self, cluster: str) -> str:
        """The prefix of all bans in one cluster."""
        return f"{self.ban_prefix}{_quoted(cluster)}/"

    def server_bans(self, cluster: str, server: str) -> str:
        """The prefix of the bans of one server, whatever their scope."""
        return f"{self.ban_prefix}{_quoted(cluster)}/{_quoted(server)}/"

    def cluster_overrides(self, cluster: str) -> str:
        return f"{self.override}{_quoted(cluster)}/"

    def server_verdicts(self, cluster: str, server: str) -> str:
        """The prefix of all verdicts about one server."""
        return f"{self.verdict_prefix}{_quoted(cluster)}/{_quoted(server)}/"

    def lives_of(self, name: str) -> str:
        """The prefix of the live keys of all processes of one name."""
        return f"{self.live_prefix}{name}."

    # ---- desired

    def config(self, name: str) -> str:
        """The key of a desired document: `fleet`, `clusters/main`, `pools/app` …"""
        return self.config_prefix + name

    def document(self, key: str) -> str:
        """The name of a desired document from its key."""
        return key.removeprefix(self.config_prefix)

    def server_override(self, cluster: str, server: str) -> str:
        return self.of(Kind.OVERRIDE_SERVER, cluster, server)

    def primary_override(self, cluster: str) -> str:
        return self.of(Kind.OVERRIDE_PRIMARY, cluster)

    def pool_override(self, pool: str) -> str:
        return self.of(Kind.OVERRIDE_POOL, pool)

    @property
    def freeze(self) -> str:
        return self.of(Kind.OVERRIDE_FREEZE)

    @property
    def activate(self) -> str:
        return self.of(Kind.OVERRIDE_ACTIVATE)

    @property
    def store(self) -> str:
        """Where an operator accepts the store that this is."""
        return self.of(Kind.OVERRIDE_STORE)

    # ---- accepted and agreed

    @property
    def schema(self) -> str:
        return self.of(Kind.SCHEMA)

    @property
    def accepted(self) -> str:
        return self.of(Kind.ACCEPTED)

    @property
    def coord(self) -> str:
        return self.of(Kind.COORD)

    @property
    def status_config(self) -> str:
        return self.of(Kind.STATUS_CONFIG)

    @property
    def status_activate(self) -> str:
        return self.of(Kind.STATUS_ACTIVATE)

    def doc(self, sha256: str) -> str:
        return self.of(Kind.DOC, sha256)

    def history(self, generation: int) -> str:
        return self.of(Kind.HISTORY, f"{generation:012}")

    def ban(self, cluster: str, server: str, scope: str) -> str:
        """`scope` is `fleet` or `zone:<z>`."""
        return self.of(Kind.BAN, cluster, server, scope)

    def strikes(self, cluster: str, server: str) -> str:
        return self.of(Kind.STRIKES, cluster, server)

    def timer(self, name: str) -> str:
        """`name` is its purpose and an id: `ban-b7e1…`, `ramp-b7e1…`."""
        return self.of(Kind.TIMER, name)

    # ---- observed

    def seat(self, name: str) -> str:
        return self.of(Kind.SEAT, name)

    def live(self, node: str) -> str:
        return self.of(Kind.LIVE, node)

    def prefix(self, number: int) -> str:
        """The key that gives the prefix `number` of cancel keys to one node."""
        return self.of(Kind.PREFIX, f"{number:04}")

    def ack(self, node: str) -> str:
        return self.of(Kind.ACK, node)

    def share(self, node: str) -> str:
        return self.of(Kind.SHARE, node)

    def verdict(self, cluster: str, server: str, node: str) -> str:
        return self.of(Kind.VERDICT, cluster, server, node)
