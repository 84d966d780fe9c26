"""How routing wishes are written, in documents and by clients: which there are, and what values each may have."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

PREFIX: Final = "pgcat."
"""What their names begin with where they are parameters."""

RoleWish = Literal["primary", "replica", "any", "auto"]
ANY_SHARD: Final = "any"

_ROLES: dict[str, RoleWish] = {role: role for role in get_args(RoleWish)}
_SWITCHES = {
    "on": True,
    "true": True,
    "yes": True,
    "1": True,
    "off": False,
    "false": False,
    "no": False,
    "0": False,
}
_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
# As PostgreSQL has no longer one, and so that no number takes long to read.
_DIGITS_MAX = 20


class WrongValue(ValueError):
    """A value that a wish can not have; the text says which it may have."""


def shard_wish(value: str) -> int | Literal["any"]:
    """A shard's number, in or out of range, or any shard."""
    if value.strip().lower() == ANY_SHARD:
        return ANY_SHARD
    if _NUMBER.fullmatch(value) is None or len(value) > _DIGITS_MAX:
        raise WrongValue("a shard's number, or any")
    return int(value)


def role_wish(value: str) -> RoleWish:
    role = _ROLES.get(value.strip().lower())
    if role is None:
        raise WrongValue(f"one of {', '.join(_ROLES)}")
    return role


def reads_wish(value: str) -> bool:
    """Whether the primary takes part in reads."""
    switch = _SWITCHES.get(value.strip().lower())
    if switch is None:
        raise WrongValue("one of on, off")
    return switch


def key_wish(value: str) -> str:
    """A sharding key; its type is the shard map's to know."""
    return value


READERS: Final = {
    "shard": shard_wish,
    "sharding_key": key_wish,
    "server_role": role_wish,
    "primary_reads": reads_wish,
}
"""Every wish by its name without the prefix, with what reads a value of it."""
