"""Whether a pool opens one more server link: one decision, with its reason and the numbers behind it."""

from __future__ import annotations

from msgspec import Struct

# Links being opened at a time, of one pool: a server that starts up is not to be flooded.
OPENING_MAX = 16
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0


class Growth(Struct, frozen=True, kw_only=True):
    """Open one more, or not; `reason` is constant text."""

    opens: bool
    reason: str
    opened: int
    opening: int
    idle: int
    limit: int
    waiting: int


def grow(
    *, opened: int, opening: int, idle: int, limit: int, min_size: int, waiting: int, is_wanted: bool
) -> Growth:
    """Decide for one pool. `is_wanted`: a client would have liked a link of this very server.

    1. At its limit: no.  2. Enough are on their way: no.  3. More wait than are idle or on their way: yes.
    4. Fewer than min_size: yes.  5. Wanted and none on its way: yes.  6. Else no.
    """
    total = opened + opening
    if total >= limit:
        opens, reason = False, "at its limit"
    elif opening >= OPENING_MAX:
        opens, reason = False, "enough are on their way"
    elif waiting > opening + idle:
        opens, reason = True, "a client waits"
    elif total < min_size:
        opens, reason = True, "below min_size"
    elif is_wanted and opening == 0 and idle == 0:
        opens, reason = True, "a client would use this server"
    else:
        opens, reason = False, "nobody waits"
    return Growth(
        opens=opens, reason=reason, opened=opened, opening=opening, idle=idle, limit=limit, waiting=waiting
    )


def backoff_s(failures: int) -> float:
    """How long to leave a server alone after so many failed attempts in a row."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** max(0, failures - 1)))
