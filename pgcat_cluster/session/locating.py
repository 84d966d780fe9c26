"""What a statement says of its own way, whether it may go to the default shard, and the words if it may go nowhere."""

from __future__ import annotations

import re
from functools import lru_cache

from pgcat_cluster.errors import Fault, InvalidParameter, NotParsed, Unsupported
from pgcat_cluster.relay import marks, selectors
from pgcat_cluster.relay.flows import Flow
from pgcat_cluster.relay.shapes import Scanner
from pgcat_cluster.routing.keys import fault_of
from pgcat_cluster.session.keyed import Asked, apart
from pgcat_cluster.session.wishes import NO_WISHES, Ground, Wishes, with_wish
from pgcat_cluster.sql.grammar import POSTGRESQL, mistake_in
from pgcat_cluster.sql.hints import Hints, hints_of, searched
from pgcat_cluster.topology.model import PoolSettings, Sharding


def hinted(settings: PoolSettings, text: bytes, ground: Ground) -> Wishes:
    """What a statement says of its own way, as wishes. Raises the fault to tell."""
    hints = _hints(settings, text)
    wishes = NO_WISHES
    if hints.role is not None:
        wishes = with_wish(wishes, "server_role", hints.role, default=wishes, ground=ground)
    if len(settings.shards) == 1:
        # It takes all, whatever is said.
        return wishes
    # As PgCat has it: the shard's number goes before the key.
    if hints.shard is not None:
        if not hints.shard.isdecimal():
            raise InvalidParameter(f'shard_id "{hints.shard}" is no number')
        wishes = with_wish(wishes, "shard", hints.shard, default=wishes, ground=ground)
    elif hints.key is not None:
        wishes = with_wish(wishes, "sharding_key", hints.key, default=wishes, ground=ground)
    return wishes


def _hints(settings: PoolSettings, text: bytes) -> Hints:
    """The pool's patterns are searched, and found by, before comments."""
    sharding = settings.sharding
    if sharding is not None and (sharding.shard_id_regex or sharding.sharding_key_regex):
        limited = text[: sharding.regex_search_limit_bytes].decode(errors="surrogateescape")
        found = searched(limited, _pattern(sharding.shard_id_regex), _pattern(sharding.sharding_key_regex))
        if found.shard is not None or found.key is not None:
            return found
    if not settings.comments:
        return Hints()
    words = bytearray(text)
    scanner = Scanner()
    if scanner.scan(words, 0, len(words)) is None:
        return Hints()
    places = zip(scanner.comment_starts, scanner.comment_ends, strict=True)
    comments = [words[start:end].decode(errors="surrogateescape") for start, end in places]
    return hints_of(comments[: scanner.comments])


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text) if text else None


# What refusals are counted by.
BOUND_ELSEWHERE = "bound_elsewhere"
_COUNTED = {
    marks.UNSAID: "no_key",
    selectors.SEVERAL: "several_shards",
    selectors.UNMAPPED: "unmapped_key",
    selectors.NULL: "null_key",
    selectors.OUT_OF_RANGE: "key_out_of_range",
    selectors.WRONG_TEXT: "wrong_key",
    selectors.MANY: "too_many_constants",
}


def counted_as(found: int) -> str:
    """The word by which it is counted that no shard was found for a statement."""
    return _COUNTED.get(found, "doubtful_key")


def may_default(sharding: Sharding, found: int) -> bool:
    """Whether a statement without a shard goes to the default one; what is doubtful or wrong is refused."""
    is_undecided = found in (marks.UNSAID, selectors.SEVERAL, selectors.UNMAPPED, selectors.NULL)
    return is_undecided and sharding.otherwise == "default_shard"


def why_nowhere(sharding: Sharding, flow: Flow, found: int, asked: Asked) -> Fault:
    """The fault for a statement that no shard was found for."""
    if found == selectors.SEVERAL:
        return _several(sharding, asked)
    if found == marks.UNSAID:
        return _mistake(asked) or Unsupported(
            f"no shard can be told for this statement: {flow.refusal or flow.reason}",
            hint="Name the sharding key in the statement, or say SET SHARD TO or SET SHARDING KEY TO before it.",
        )
    return fault_of(found, sharding.map)


def _mistake(asked: Asked) -> Fault | None:
    """What PostgreSQL says of a statement that breaks its grammar; None if it does not, or nobody can tell."""
    if not asked.has_shapes or not (asked.is_utf8 or asked.text.isascii()):
        return None
    mistake = mistake_in(asked.text.decode(errors="surrogateescape"))
    if mistake is None:
        return None
    return NotParsed(
        mistake.message,
        sqlstate=mistake.sqlstate,
        position=mistake.position,
        hint=f"The node has the grammar of PostgreSQL {POSTGRESQL}. A statement that a newer one knows"
        " runs when its shard is named: say SET SHARD TO before it.",
    )


def _several(sharding: Sharding, asked: Asked) -> Fault:
    fault = fault_of(selectors.SEVERAL, sharding.map)
    known = apart(sharding, asked)
    if known is None:
        return fault
    if known.moves_rows:
        detail = f"Their shards are {known}, and no row is moved to another shard."
        return Unsupported(
            fault.message, detail=detail, hint="Delete the row, and insert it where it belongs."
        )
    return Unsupported(fault.message, detail=f"Their shards are {known}.", hint=fault.hint)
