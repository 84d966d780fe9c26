"""How far a server's log has come: the question, its answer, and the token that carries positions elsewhere."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping, Sequence

from msgspec import Struct

from pgcat_cluster.errors import InvalidParameter
from pgcat_cluster.health.evidence import ServerFacts
from pgcat_cluster.relay.positions import Position

# Where a primary has written, inserted but perhaps not flushed: a commit that did not wait for the disk lies
# before it too. A replica's own word on its timeline is worth little to a plain user: probes tell it.
POSITION_QUERY = b"""\
SELECT r, (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8,
 CASE WHEN NOT r THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END,
 pg_catalog.pg_wal_lsn_diff(CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn()
  ELSE pg_catalog.pg_current_wal_insert_lsn() END, '0/0'),
 pg_catalog.current_setting('wal_block_size'),
 pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
FROM pg_catalog.pg_is_in_recovery() r"""

# Headers of the log's pages, and of the first page of each file, in which no record can end (xlog_internal.h:
# SizeOfXLogShortPHD, SizeOfXLogLongPHD).
_PAGE_HEADER_BYTES = 24
_FILE_HEADER_BYTES = 40
_LSN_MAX = (1 << 63) - 1
_TIMELINE_MAX = (1 << 32) - 1
# No server has come this far: the position of a write that nobody could tell.
NOWHERE = Position(0, _LSN_MAX)


class Told(Struct, frozen=True):
    """What a server said: how far it has written, or replayed if it is in recovery; `timeline` is 0 there."""

    in_recovery: bool
    started_at: str
    timeline: int
    lsn: int


def read_answer(rows: Sequence[Sequence[bytes | None]]) -> Told | None:
    """The answer to `POSITION_QUERY`; None if it says nothing.

    The insert position of an idle log may stand behind the header of a page that has no record yet: then the
    last record ends where that page begins, and no replica gets further.
    """
    if len(rows) != 1:
        return None
    in_recovery, started_at, timeline, lsn, page_bytes, file_bytes = rows[0]
    if started_at is None or lsn is None or page_bytes is None or file_bytes is None:
        return None
    end = int(lsn)
    if end % int(file_bytes) == _FILE_HEADER_BYTES:
        end -= _FILE_HEADER_BYTES
    elif end % int(page_bytes) == _PAGE_HEADER_BYTES:
        end -= _PAGE_HEADER_BYTES
    return Told(in_recovery == b"t", started_at.decode(), int(timeline or b"0", 16), end)


def told_by(facts: ServerFacts) -> Told | None:
    """What a probe learned; None if the server has replayed nothing."""
    lsn = facts.replay_lsn if facts.in_recovery else facts.write_lsn
    return None if lsn is None else Told(facts.in_recovery, facts.started_at, facts.timeline, lsn)


def later(one: Position | None, other: Position) -> Position:
    """The one that is further: a later timeline holds all that is left of an earlier one."""
    if one is None or (other.timeline, other.lsn) > (one.timeline, one.lsn):
        return other
    return one


_ENTRY = re.compile(r"(\d{1,5}):([a-z0-9][a-z0-9-]{0,62}):([0-9a-f]{1,8})/([0-9a-f]{1,16})")
_FORM = "c1."
_TOKEN_CHARACTERS_MAX = 1 << 18
_CHECK_BYTES = 4


def make_token(positions: Mapping[int, Position], clusters: Sequence[str]) -> str:
    """The positions of shards as a text to be carried by whoever got it; `clusters` are those of the shards."""
    text = ",".join(
        f"{shard}:{clusters[shard]}:{position.timeline:x}/{position.lsn:x}"
        for shard, position in sorted(positions.items())
    ).encode()
    check = zlib.crc32(text).to_bytes(_CHECK_BYTES, "big")
    return _spelled(check + text)


def read_token(token: str, clusters: Sequence[str]) -> dict[int, Position]:
    """The positions in a token. Raises InvalidParameter for what is none, or one of other clusters."""
    positions: dict[int, Position] = {}
    for entry in filter(None, _text_of(token).split(",")):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise _no_token()
        shard, cluster = int(match[1]), match[2]
        if shard >= len(clusters) or clusters[shard] != cluster:
            raise InvalidParameter(
                "the consistency token is of another pool",
                detail=f"It tells of shard {shard} in cluster {cluster}.",
            )
        timeline, lsn = int(match[3], 16), int(match[4], 16)
        if not 0 < timeline <= _TIMELINE_MAX or lsn >= _LSN_MAX:
            raise _no_token()
        positions[shard] = Position(timeline, lsn)
    return positions


def _text_of(token: str) -> str:
    if not token.startswith(_FORM) or len(token) > _TOKEN_CHARACTERS_MAX:
        raise _no_token()
    body = token.removeprefix(_FORM)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _no_token() from None
    check, text = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
    is_sound = len(check) == _CHECK_BYTES and zlib.crc32(text) == int.from_bytes(check, "big")
    if not is_sound or _spelled(data) != token:
        raise _no_token()
    return text.decode(errors="replace")


def _spelled(data: bytes) -> str:
    return _FORM + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _no_token() -> InvalidParameter:
    return InvalidParameter(
        "this is no consistency token", hint="Take the whole text that SHOW pgcat.consistency_token gave."
    )
