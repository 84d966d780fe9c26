"""What a session wishes of routing, as a value: its shard, the role of its servers, reads on the primary.

Wishes come from the pool's settings, then from the start-up packet, then from the session's own commands, then from
SET LOCAL, which lasts as long as the transaction. What comes later replaces what came before, wish by wish; the
default of a session is what was in force when it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from msgspec import Struct, structs

from pgcat_cluster.errors import InvalidParameter, UnknownParameter
from pgcat_cluster.relay import marks
from pgcat_cluster.routing.keys import key_of_text, shard_of
from pgcat_cluster.topology.model import PoolSettings, Sharding, ShardMap
from pgcat_cluster.topology.wishes import (
    PREFIX,
    READERS,
    RoleWish,
    WrongValue,
    reads_wish,
    role_wish,
    shard_wish,
)

_Value = TypeVar("_Value")

ROUTE = "route"
TOKEN = "consistency_token"
WAIT_FOR = "wait_for"
SHOWN_ONLY = frozenset({ROUTE, TOKEN})
NAMES = (*READERS, ROUTE, TOKEN, WAIT_FOR)
"""Every parameter of ours, without its prefix."""


class Wishes(Struct, frozen=True, kw_only=True):
    """All wishes of one session at one moment. None: nothing was said, the pool decides.

    `key` is the sharding key that `shard` was found by, as it was written, if it was.
    """

    shard: int | None = None
    key: str | None = None
    role: RoleWish = "auto"
    reads: bool | None = None


NO_WISHES = Wishes()


_ROLE_MARKS = {"auto": -1, "primary": marks.PRIMARY, "replica": marks.STANDBY, "any": marks.ANY}


def role_mark(wishes: Wishes) -> int:
    """The role that the relay is to take for every statement; -1: what each statement needs."""
    return _ROLE_MARKS[wishes.role]


class Ground(Struct, frozen=True, kw_only=True):
    """What wishes are judged by: how many shards there are, where a key lies, and how to draw a number by chance.

    `shard_of` raises a fault for a text that is no key.
    """

    shards: int
    shard_of: Callable[[str], int]
    draw: Callable[[], int]


# PgCat takes keys where there is one shard too.
_UNSHARDED = Sharding(map=ShardMap(name="", kind="hash", key_type="bigint", shards=1))


def ground_for(settings: PoolSettings, draw: Callable[[], int]) -> Ground:
    """What wishes of a pool's clients are judged by."""
    return Ground(
        shards=len(settings.shards), shard_of=lambda key: shard_of_key(settings.sharding, key), draw=draw
    )


def shard_of_key(sharding: Sharding | None, text: str) -> int:
    """The shard of a sharding key as a client writes it; raises the fault to tell."""
    if sharding is None:
        sharding = _UNSHARDED
    shard = shard_of(sharding.map, key_of_text(sharding.map.key_type, text))
    if shard is None:
        raise InvalidParameter(f"sharding key {text} lies on no shard of map {sharding.map.name}")
    return shard


def with_wish(wishes: Wishes, name: str, value: str | None, *, default: Wishes, ground: Ground) -> Wishes:
    """Wishes after one of them was set; value None: as `default` has it. Raises the fault to tell."""
    if value is None:
        return carried(name, default, wishes)
    if name == "shard":
        return structs.replace(wishes, shard=_shard(value, wishes, ground), key=None)
    if name == "sharding_key":
        return structs.replace(wishes, shard=ground.shard_of(value), key=value)
    if name == "server_role":
        return structs.replace(wishes, role=_read(name, role_wish, value))
    return structs.replace(wishes, reads=_read(name, reads_wish, value))


_FIELDS = {
    "shard": ("shard", "key"),
    "sharding_key": ("shard", "key"),
    "server_role": ("role",),
    "primary_reads": ("reads",),
}


def carried(name: str, source: Wishes, target: Wishes) -> Wishes:
    """The other wishes, with this one as the first have it."""
    return structs.replace(target, **{field: getattr(source, field) for field in _FIELDS[name]})


def wishes_of(parameters: Mapping[str, str], wishes: Wishes, ground: Ground) -> Wishes:
    """Wishes after those among these parameters, by their full names in any case. Raises the fault to tell."""
    for name, value in parameters.items():
        short = short_name(name)
        if short is None:
            continue
        check_settable(short)
        if short in READERS:
            wishes = with_wish(wishes, short, value, default=wishes, ground=ground)
    return wishes


def wishes_of_pool(settings: PoolSettings, ground: Ground) -> Wishes:
    """What a pool says for its clients. Raises the fault to tell."""
    return wishes_of(settings.parameters, Wishes(role=settings.default_role), ground)


def short_name(parameter: str) -> str | None:
    """The name of a parameter of ours, known or not, in lower case and without the prefix; None if it is not."""
    name = parameter.lower()
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def for_servers(parameters: Mapping[str, str]) -> dict[str, str]:
    """Parameters without ours, which mean nothing to a server."""
    return {name: value for name, value in parameters.items() if short_name(name) is None}


def check_known(name: str) -> None:
    """Raises UnknownParameter, with the name that may have been meant."""
    if name in NAMES:
        return
    likely = [known for known in NAMES if name in known] or get_close_matches(name, NAMES, n=1)
    if likely:
        hint = f'Perhaps you meant the configuration parameter "{PREFIX}{likely[0]}".'
    else:
        hint = f"There are {', '.join(PREFIX + known for known in NAMES)}."
    raise UnknownParameter(f'unrecognized configuration parameter "{PREFIX}{name}"', hint=hint)


def check_settable(name: str) -> None:
    """Raises the fault to tell somebody who wants to set or reset what can not be."""
    check_known(name)
    if name in SHOWN_ONLY:
        raise InvalidParameter(f'parameter "{PREFIX}{name}" cannot be changed')


def _read(name: str, read: Callable[[str], _Value], value: str) -> _Value:
    try:
        return read(value)
    except WrongValue as wrong:
        raise InvalidParameter(
            f'invalid value for parameter "{PREFIX}{name}": "{value}"', hint=f"It takes {wrong}."
        ) from None


def _shard(value: str, wishes: Wishes, ground: Ground) -> int:
    shard = _read("shard", shard_wish, value)
    if shard == "any":
        return ground.draw() % ground.shards
    if not 0 <= shard < ground.shards:
        before = "None" if wishes.shard is None else f"Some({wishes.shard})"
        raise InvalidParameter(
            f"shard {shard} is not configured {ground.shards}, staying on shard {before}"
            " (shard numbers start at 0)"
        )
    return shard
