"""What deciding code asks of those who perform it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from pgcat_cluster.agreement.documents import Accepted, Bundle
from pgcat_cluster.agreement.transactions import Transaction
from pgcat_cluster.topology.settings import Settings


class Effect(Struct, frozen=True, kw_only=True):
    """Something to be done."""


class Commit(Effect, frozen=True, kw_only=True):
    """Carry out a transaction, then hand the outcome back together with `purpose`."""

    purpose: str
    transaction: Transaction


class Say(Effect, frozen=True, kw_only=True):
    """Keep this value under `key`, on the node's lease, until another is said: only the newest counts."""

    key: str
    value: bytes


class Preflight(Effect, frozen=True, kw_only=True):
    """Try what these documents name: addresses, logins, secrets. `changed` are the documents that are new.

    `before` are the settings in force, where there are any.
    """

    bundle: Bundle
    settings: Settings
    changed: tuple[str, ...]
    before: Settings | None


class Fetch(Effect, frozen=True, kw_only=True):
    """Read texts of documents from the store, by their SHA-256."""

    hashes: tuple[str, ...]


class Run(Effect, frozen=True, kw_only=True):
    """Go by these documents from now on, all at once, and say so; or say why that can not be."""

    accepted: Accepted
    settings: Settings
    texts: Mapping[str, bytes]


class Alarm(Effect, frozen=True, kw_only=True):
    """Something an operator must know; said once, when it begins."""

    text: str
