"""Cancel keys of a fleet: what a client is given, who its key names, and which node must hear of a cancel.

A process id is a prefix (12 bits) and a slot (19 bits): the prefix names a node, the slot a client of it.
Prefix 0 is that of a node without a store; no other node ever knows it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from pgcat_cluster.agreement.documents import Prefix, Undecodable, decode, encode
from pgcat_cluster.agreement.fleet_key import FleetKey
from pgcat_cluster.agreement.keys import Keys, Kind
from pgcat_cluster.agreement.transactions import Event, Put, Transaction, absent
from pgcat_cluster.errors import TooManyClients

Owner = TypeVar("Owner")

SLOT_BITS = 19
SLOT_MAX = (1 << SLOT_BITS) - 1
PREFIX_MAX = 4095
SHORT_BYTES = 4
LONG_BYTES = 32
BOOT_BYTES = 4
NONCE_BYTES = 16
# Of which version of the protocol on a key may be long.
LONG_KEYS_MINOR = 2
_FORMAT = b"\1"
_RANDOM_BYTES = 15
_MAC_BYTES = 12

# What became of a cancel where the client is; `passed`: another node has seen to it.
Answer = Literal["sent", "dequeued", "idle", "unknown", "passed"]


class Drop(Enum):
    """Why nobody is told of a cancel."""

    UNKNOWN = "unknown"
    FORGED = "forged"
    UNROUTABLE = "unroutable"


def prefix_of(pid: int) -> int:
    """The prefix in a process id; -1 for one that no node gives out."""
    return pid >> SLOT_BITS if 0 < pid <= 0x7FFFFFFF else -1


class CancelKeys(Generic[Owner]):
    """Hands out this node's keys and finds their owners: a key names one client, and only while it lives.

    `boot` are the four bytes of the node's id, `fleet_key` may be replaced at any time.
    """

    def __init__(self, random_bytes: Callable[[int], bytes], fleet_key: FleetKey, boot: bytes) -> None:
        self.fleet_key = fleet_key
        self._random_bytes = random_bytes
        self._boot = boot
        self._prefix = 0
        self._slot = 0
        self._owners: dict[int, tuple[bytes, Owner]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def lead(self, prefix: int) -> None:
        """New clients get this prefix; those who are here keep theirs."""
        self._prefix = prefix

    def issue(self, owner: Owner, minor: int = 0) -> tuple[int, bytes]:
        """A new key for a client that speaks protocol 3.`minor`: process id and secret.

        Slots go round, so that one comes back as late as possible.
        """
        if len(self._owners) >= SLOT_MAX:
            raise TooManyClients()
        while True:
            # Slot 0 is not used: with prefix 0 the process id would be none.
            self._slot = self._slot % SLOT_MAX + 1
            pid = self._prefix << SLOT_BITS | self._slot
            if pid not in self._owners:
                break
        if minor >= LONG_KEYS_MINOR:
            body = _FORMAT + self._boot + self._random_bytes(_RANDOM_BYTES)
            secret = body + _mac_of(self.fleet_key.cancel[0], pid, body)
        else:
            secret = self._random_bytes(SHORT_BYTES)
        self._owners[pid] = (secret, owner)
        return pid, secret

    def revoke(self, pid: int) -> None:
        self._owners.pop(pid, None)

    def find(self, pid: int, secret: bytes) -> Owner | None:
        """The owner of a key, or None."""
        entry = self._owners.get(pid)
        if entry is None or not hmac.compare_digest(entry[0], secret):
            return None
        return entry[1]

    def find_proven(self, pid: int, nonce: bytes, proof: bytes) -> Owner | None:
        """The owner of a key that another node proves to have seen."""
        entry = self._owners.get(pid)
        if entry is None or len(nonce) != NONCE_BYTES:
            return None
        proofs = [_proof(key, nonce, pid, entry[0]) for key in self.fleet_key.cancel]
        return entry[1] if any(hmac.compare_digest(one, proof) for one in proofs) else None


def prove(fleet_key: FleetKey, nonce: bytes, pid: int, secret: bytes) -> bytes:
    """Shows to the owner of a key that somebody here knows its secret, without saying it."""
    return _proof(fleet_key.cancel[0], nonce, pid, secret)


def boot_of(fleet_key: FleetKey, pid: int, secret: bytes) -> bytes | None:
    """Which life of a node gave out this long secret; None if no node of the fleet did."""
    if len(secret) != LONG_BYTES or not secret.startswith(_FORMAT):
        return None
    body, mac = secret[:-_MAC_BYTES], secret[-_MAC_BYTES:]
    macs = [_mac_of(key, pid, body) for key in fleet_key.cancel]
    if not any(hmac.compare_digest(one, mac) for one in macs):
        return None
    return body[len(_FORMAT) : len(_FORMAT) + BOOT_BYTES]


def _mac_of(key: bytes, pid: int, body: bytes) -> bytes:
    return hmac.digest(key, b"key" + pid.to_bytes(4, "big") + body, "sha256")[:_MAC_BYTES]


def _proof(key: bytes, nonce: bytes, pid: int, secret: bytes) -> bytes:
    return hmac.digest(key, b"proof" + nonce + pid.to_bytes(4, "big") + secret, "sha256")


# -- which node


class Neighbour(Struct, frozen=True, kw_only=True):
    """Another node of the fleet."""

    node: str
    peer: str
    zone: str


class PrefixTable:
    """Who has which prefix, as last seen.

    An entry whose key has vanished stays until its prefix is taken anew: a node that is cut off from the store
    still serves its clients.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._holders: dict[int, Prefix] = {}
        self._vanished: set[int] = set()

    def learn(self, prefix: int, holder: Prefix) -> None:
        self._holders[prefix] = holder
        self._vanished.discard(prefix)

    def apply(self, keys: Keys, events: Iterable[Event]) -> None:
        """What happened below `prefix/`; a value that can not be read tells nothing."""
        for event in events:
            named = keys.named(event.key)
            if named is None or named.kind is not Kind.PREFIX or not named.names[0].isdecimal():
                continue
            prefix = int(named.names[0])
            if event.row is None:
                self.vanished(prefix)
                continue
            with suppress(Undecodable):
                self.learn(prefix, decode(event.key, event.row.value, Prefix))

    def vanished(self, prefix: int) -> None:
        if prefix in self._holders:
            self._vanished.add(prefix)

    def holders(self) -> dict[int, Prefix]:
        """Everybody who is known, for a node's cache file."""
        return dict(self._holders)

    # -- a prefix for this node

    def choose(self, draw: int, before: int = 0) -> int:
        """The prefix to take: the one it had `before` if nobody took it, else a free one; 0: there is none.

        `draw` is a large random number. What was in use until lately is taken last.
        """
        if 0 < before <= PREFIX_MAX and self._is_ours_to_take(before):
            return before
        free = [prefix for prefix in range(1, PREFIX_MAX + 1) if prefix not in self._holders]
        free = free or sorted(self._vanished)
        return free[draw % len(free)] if free else 0

    def _is_ours_to_take(self, prefix: int) -> bool:
        holder = self._holders.get(prefix)
        return holder is None or prefix in self._vanished or holder.node == self.node

    # -- a cancel whose client is not here

    def destination(self, fleet_key: FleetKey, pid: int, secret: bytes) -> Prefix | Drop:
        """Whom to tell of a cancel that a client has sent here. A long secret is checked before anybody is."""
        boot = None
        if len(secret) != SHORT_BYTES:
            boot = boot_of(fleet_key, pid, secret)
            if boot is None:
                return Drop.FORGED
        prefix = prefix_of(pid)
        if prefix <= 0:
            return Drop.UNKNOWN
        holder = self._holders.get(prefix)
        if holder is None:
            return Drop.UNROUTABLE
        if holder.node == self.node or (boot is not None and not holder.node.endswith(f".{boot.hex()}")):
            return Drop.UNKNOWN
        return holder

    def next_hop(self, pid: int, hops: int, asker: str) -> Prefix | None:
        """Whom to tell of a cancel that `asker`, another node, has sent here; never `asker` itself."""
        holder = self._holders.get(prefix_of(pid))
        if hops <= 0 or holder is None or holder.node in (self.node, asker):
            return None
        return holder


def claim(keys: Keys, prefix: int, holder: Prefix, lease: int) -> Transaction:
    """Takes a prefix, if nobody has it."""
    key = keys.prefix(prefix)
    return Transaction(compares=(absent(key),), then=(Put(key=key, value=encode(holder), lease=lease),))


def relay_of(neighbours: Iterable[Neighbour], zone: str, holder: Prefix, draw: int) -> Neighbour | None:
    """Who is asked to pass a cancel on to a node that can not be reached from here: one of another zone, if any."""
    others = [one for one in neighbours if one.node != holder.node]
    elsewhere = [one for one in others if one.zone != zone] or others
    return elsewhere[draw % len(elsewhere)] if elsewhere else None


# -- how many may fail


class FailureLimit:
    """Bounds how many cancels may come to nothing: per source, and on the whole node.

    A source that has used up its share is not listened to until it has one again.
    """

    SOURCE_PER_S = 20.0
    SOURCE_BURST = 100.0
    NODE_PER_S = 1000.0
    SOURCES_MAX = 4096

    def __init__(self) -> None:
        self._node = (self.NODE_PER_S, 0.0)
        # The source that failed last stands last.
        self._sources: dict[str, tuple[float, float]] = {}

    def admits(self, source: str, now_s: float) -> bool:
        left = self._sources.get(source)
        return _left(self._node, self.NODE_PER_S, self.NODE_PER_S, now_s) >= 1 and (
            left is None or _left(left, self.SOURCE_PER_S, self.SOURCE_BURST, now_s) >= 1
        )

    def failed(self, source: str, now_s: float) -> None:
        self._node = (_left(self._node, self.NODE_PER_S, self.NODE_PER_S, now_s) - 1, now_s)
        known = self._sources.pop(source, (self.SOURCE_BURST, now_s))
        if len(self._sources) >= self.SOURCES_MAX:
            del self._sources[next(iter(self._sources))]
        self._sources[source] = (_left(known, self.SOURCE_PER_S, self.SOURCE_BURST, now_s) - 1, now_s)


def _left(bucket: tuple[float, float], per_s: float, burst: float, now_s: float) -> float:
    tokens, at_s = bucket
    return min(burst, tokens + (now_s - at_s) * per_s)
