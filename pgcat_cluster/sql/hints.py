"""Finds in a statement's comments, or by a pool's own patterns, where its author wants it to go."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pgcat_cluster.errors import InvalidParameter

_HINT = re.compile(r"\s*(shard_id|sharding_key|role)\s*:\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What a statement says of its own way; None: nothing."""

    shard: str | None = None
    key: str | None = None
    role: str | None = None


def hints_of(comments: Iterable[str]) -> Hints:
    """The hints in comments, each given with its marks: `/* shard_id: 1 */`, `-- role: replica`.

    A comment that is no hint from its beginning to its end says nothing. Raises InvalidParameter if two contradict.
    """
    found: dict[str, str] = {}
    for comment in comments:
        body = comment[2:-2] if comment.startswith("/*") else comment[2:]
        hint = _HINT.fullmatch(body)
        if hint is None:
            continue
        name, value = hint[1], hint[2].strip("'")
        if found.setdefault(name, value) != value:
            raise InvalidParameter(
                f"two comments name another {name.replace('_', ' ')} each: {found[name]}, {value}"
            )
    return Hints(shard=found.get("shard_id"), key=found.get("sharding_key"), role=found.get("role"))


def searched(text: str, shard_id: re.Pattern[str] | None, sharding_key: re.Pattern[str] | None) -> Hints:
    """The hints that a pool's own patterns find: what their group matched first."""
    shard = shard_id.search(text) if shard_id is not None else None
    key = sharding_key.search(text) if sharding_key is not None else None
    return Hints(shard=shard[1] if shard else None, key=key[1] if key else None)
