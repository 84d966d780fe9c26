"""What happened to the keys of a fleet, as sentences for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pgcat_cluster.agreement.bundles import differences
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ack,
    Ban,
    CommandStatus,
    Coord,
    Finding,
    Live,
    Override,
    Status,
    Undecodable,
    Verdict,
    decode,
)
from pgcat_cluster.agreement.keys import Keys, Kind, Named
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.overview import said_by
from pgcat_cluster.agreement.transactions import Batch, Event, Row
from pgcat_cluster.topology.reading import InvalidSettings

_Value = TypeVar("_Value")

_SHOWN_MAX = 3
_CONFIG = (
    Kind.CONFIG_FLEET,
    Kind.CONFIG_CLUSTER,
    Kind.CONFIG_POOL,
    Kind.CONFIG_SHARDMAP,
    Kind.CONFIG_USER,
)
_OVERRIDE = (
    Kind.OVERRIDE_SERVER,
    Kind.OVERRIDE_PRIMARY,
    Kind.OVERRIDE_POOL,
    Kind.OVERRIDE_FREEZE,
    Kind.OVERRIDE_ACTIVATE,
    Kind.OVERRIDE_STORE,
)


def sentences(keys: Keys, batch: Batch, before: Memory) -> list[str]:
    """What the changes of one revision mean; `before` is what was known until then.

    Bookkeeping (texts, history, timers, strikes, prefixes) is not told.
    """
    vanished = {event.key for event in batch.events if event.row is None}
    told = []
    for event in batch.events:
        named = keys.named(event.key)
        if named is None:
            if event.row is not None:
                told.append(f"{keys.below(event.key)} was put, a key of no known kind: nobody reads it")
            continue
        told += _Change(keys, named, event, before.row(event.key), vanished).told()
    return told


class _Change:
    """One key's change; each method tells one kind of key."""

    def __init__(
        self, keys: Keys, named: Named, event: Event, before: Row | None, vanished: set[str]
    ) -> None:
        self._keys = keys
        self._named = named
        self._key = keys.below(event.key)
        self._before = before
        self._after = event.row
        self._vanished = vanished

    def told(self) -> Iterator[str]:
        kind = self._named.kind
        if kind in _CONFIG:
            yield from self._config()
        elif kind in _OVERRIDE:
            yield from self._override()
        match kind:
            case Kind.SCHEMA if self._after is not None:
                yield "the fleet is founded"
            case Kind.ACCEPTED:
                yield from self._accepted()
            case Kind.STATUS_CONFIG:
                yield from self._status()
            case Kind.STATUS_COMMAND | Kind.STATUS_ACTIVATE:
                yield from self._command()
            case Kind.COORD:
                yield from self._coord()
            case Kind.BAN:
                yield from self._ban()
            case Kind.SEAT if self._after is None:
                yield f"the seat of {self._named.names[0]} is given back"
            case Kind.LIVE:
                yield from self._live()
            case Kind.ACK:
                yield from self._ack()
            case Kind.VERDICT:
                yield from self._verdict()

    def _pair(self, kind: type[_Value]) -> tuple[_Value | None, _Value | None]:
        """What the key said before and says now."""
        return _decoded(self._before, kind), _decoded(self._after, kind)

    def _config(self) -> Iterator[str]:
        if self._after is None:
            yield f"operator deleted {self._key}"
            return
        if self._after.mod_revision == self._after.create_revision:
            yield f"operator created {self._key}"
            return
        name = self._keys.document(self._after.key)
        changes = ""
        if self._before is not None:
            try:
                found = differences({name: self._before.value}, {name: self._after.value})
                changes = _listed([str(one) for one in found], "; ") or "the settings are the same"
            except InvalidSettings:
                changes = "a text that can not be read"
        yield ": ".join(filter(None, (f"operator put {self._key}", changes)))

    def _override(self) -> Iterator[str]:
        if self._after is None:
            said = said_by(self._keys, self._before)[0] if self._before is not None else ""
            yield f"operator lifted {' '.join(filter(None, (self._key, said)))}"
            return
        said, override, doubt = said_by(self._keys, self._after)
        if doubt:
            yield f"operator put {self._key}, which does nothing: {doubt}"
        else:
            yield f"operator put {self._key} {said}{_because(override)}"

    def _accepted(self) -> Iterator[str]:
        before, after = self._pair(Accepted)
        if after is None:
            yield "decided/accepted was deleted" if self._after is None else "decided/accepted is unreadable"
            return
        old = before.docs if before else {}
        names = sorted({*old, *after.docs})
        changed = [name for name in names if old.get(name) != after.docs.get(name)]
        yield f"generation {after.gen} is accepted: {_listed(changed) or 'the same documents'}"

    def _status(self) -> Iterator[str]:
        before, after = self._pair(Status)
        if after is None or after.desired.state in ("accepted", "validating"):
            return
        if before is None or (before.desired, before.errors) != (after.desired, after.errors):
            found = [
                f"{error.node} says {_place(error.key, error.path)}: {error.msg}" for error in after.errors
            ]
            yield ": ".join(
                filter(
                    None,
                    (
                        f"the edit up to revision {after.desired.rev} is {after.desired.state}",
                        after.desired.why,
                        _listed(found, "; "),
                    ),
                )
            )

    def _command(self) -> Iterator[str]:
        _before, after = self._pair(CommandStatus)
        if after is not None:
            yield ": ".join(filter(None, (f"command {after.command} is {after.result}", after.detail)))

    def _coord(self) -> Iterator[str]:
        before, after = self._pair(Coord)
        if after is not None:
            yield f"{after.node} coordinates"
        elif self._after is None:
            yield f"{before.node if before else 'the coordinator'} does not coordinate any more"

    def _ban(self) -> Iterator[str]:
        cluster, server, scope = self._named.names
        whom = f"{cluster}/{server}"
        where = "" if scope == "fleet" else f" in {scope.replace(':', ' ')}"
        before, after = self._pair(Ban)
        if self._after is None:
            yield f"the ban of {whom}{where} is lifted"
        elif after is not None and after.state == "probation":
            yield f"{whom} is on probation{where}: it gets a growing share of its work"
        elif after is not None:
            again = " again" if before is not None or after.strikes > 1 else ""
            votes = f"{len(after.votes)} votes of {after.jury}, {after.need} needed: {', '.join(after.votes)}"
            yield f"{whom} is banned{where}{again} for {', '.join(after.why)} ({votes})"

    def _live(self) -> Iterator[str]:
        node = self._named.names[0]
        before, after = self._pair(Live)
        if self._after is None:
            if before is not None and before.state == "draining":
                yield f"{node} left"
            else:
                yield f"{node} is gone: it ended, or could not renew its lease"
        elif after is not None and before is None:
            place = ", ".join(filter(None, (after.addr, f"zone {after.zone}" if after.zone else "")))
            yield f"{node} joined, {after.state} ({place})"
        elif after is not None and before is not None and after.state != before.state:
            yield f"{node} is {after.state}"

    def _ack(self) -> Iterator[str]:
        node = self._named.names[0]
        before, after = self._pair(Ack)
        if after is None:
            return
        old = before or Ack()
        if after.nacked is not None and after.nacked != old.nacked:
            yield f"{node} finds the edit up to revision {after.nacked.rev} wrong: {_findings(after.nack)}"
        if after.warn and after.warn != old.warn:
            yield f"{node} warns: {_findings(after.warn)}"
        if after.unusable and after.unusable != old.unusable:
            yield f"{node} can not run what is accepted: {_findings(after.unusable)}"
        if after.active is not None and after.active != old.active:
            yield f"{node} runs generation {after.active.gen}"
        for pool, revision in after.drained.items():
            if old.drained.get(pool) != revision:
                yield f"{node} has drained pool {pool}"
        if after.suspect_self != old.suspect_self:
            yield f"{node} {'suspects itself' if after.suspect_self else 'trusts itself again'}"

    def _verdict(self) -> Iterator[str]:
        cluster, server, node = self._named.names
        before, after = self._pair(Verdict)
        if self._after is None:
            if self._keys.live(node) not in self._vanished:
                yield f"{node} withdraws its verdict about {cluster}/{server}"
        elif after is not None and (before is None or (before.v, before.why) != (after.v, after.why)):
            why = f": {', '.join(after.why)}" if after.why else ""
            yield f"{node} finds {cluster}/{server} {'bad' if after.v == 'bad' else 'good again'}{why}"


def _because(override: Override) -> str:
    by = f"by {override.by}" if override.by else ""
    said = ", ".join(filter(None, (override.reason, by)))
    return f" ({said})" if said else ""


def _place(key: str, path: str) -> str:
    return f"{key} {path}".strip()


def _findings(found: tuple[Finding, ...]) -> str:
    return _listed([f"{_place(one.key, one.path)}: {one.msg}" for one in found], "; ")


def _listed(words: list[str], separator: str = ", ") -> str:
    more = f"{separator}{len(words) - _SHOWN_MAX} more" if len(words) > _SHOWN_MAX else ""
    return separator.join(words[:_SHOWN_MAX]) + more


def _decoded(row: Row | None, kind: type[_Value]) -> _Value | None:
    try:
        return None if row is None else decode(row.key, row.value, kind)
    except Undecodable:
        return None
