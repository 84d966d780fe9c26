"""Who is there, as nodes say it; joining and draining, as guarded transactions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from msgspec import structs

from pgcat_cluster.agreement.documents import Live, Undecodable, decode, encode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Compare, Field, Operation, Put, Row, Transaction, unchanged


def join(keys: Keys, node: str, live: Live, lease: int, more: Iterable[Operation] = ()) -> Transaction:
    """The node is there from now on, unless another process of its name is."""
    nobody = Compare(key=keys.lives_of(live.name), field=Field.CREATE, operator="==", operand=0, prefix=True)
    return Transaction(
        compares=(nobody,), then=(Put(key=keys.live(node), value=encode(live), lease=lease), *more)
    )


def drain(row: Row, live: Live) -> Transaction:
    """The node takes no new clients, and does not vote any more."""
    return become(row, structs.replace(live, state="draining"))


def become(row: Row, live: Live) -> Transaction:
    """What the node says of itself changes; `row` is what it has said so far."""
    return Transaction(
        compares=(unchanged(row),), then=(Put(key=row.key, value=encode(live), lease=row.lease),)
    )


@lru_cache(maxsize=4096)
def live_of(value: bytes) -> Live | None:
    """What a node says of itself; None for what another version of ours may have written: it is not counted."""
    try:
        return decode("", value, Live)
    except Undecodable:
        return None
