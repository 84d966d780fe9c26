"""Sharding keys as documents write them, and as maps hold them: numbers, or the bytes that a server compares.

Only types of which every value has one form, and PostgreSQL's hash of it can be computed, are offered. So not
char(n), whose blanks at the end mean nothing, nor numeric, where 5 and 5.0 are the same key. Text is compared byte
by byte: that a column's collation is deterministic is for the operator to know.
"""

import re
from collections.abc import Mapping
from typing import Literal

KeyType = Literal["smallint", "integer", "bigint", "text", "varchar", "uuid", "timestamp", "timestamptz"]
# Whole numbers, and microseconds since 2000 began, are numbers; texts (as UTF-8) and uuids are bytes.
Key = int | bytes

INTEGER_BITS: Mapping[str, int] = {"smallint": 16, "integer": 32, "bigint": 64}
_DAY_US = 86_400_000_000
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TIMESTAMP = (
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?)?"
    r"(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)


def least(key_type: KeyType) -> Key:
    """What no key of the type is less than."""
    return b"" if key_type in ("text", "varchar", "uuid") else -(1 << 63)


def read_key(key_type: KeyType, said: int | str) -> Key:
    """The key that a document says. Raises ValueError with what is allowed."""
    text = str(said)
    if bits := INTEGER_BITS.get(key_type):
        bound = 1 << bits - 1
        if re.fullmatch(r"-?[0-9]{1,19}", text) and -bound <= int(text) < bound:
            return int(text)
        raise ValueError(f"a whole number, from {-bound} to {bound - 1}")
    if key_type in ("text", "varchar"):
        return text.encode()
    if key_type == "uuid":
        if re.fullmatch(_UUID, text.lower()):
            return bytes.fromhex(text.replace("-", ""))
        raise ValueError('a uuid such as "6a0e6c52-1f6a-4a55-9c0e-0c3b0f5d7a11"')
    has_zone = key_type == "timestamptz"
    moment = _microseconds(text, has_zone)
    if moment is None:
        example = "2026-01-31 12:00:00" + ("+00" if has_zone else "")
        raise ValueError(f'a time with{"" if has_zone else "out"} zone such as "{example}"')
    return moment


def _microseconds(text: str, has_zone: bool) -> int | None:
    match = re.fullmatch(_TIMESTAMP, text)
    if match is None or (match[8] is not None) != has_zone:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    lengths = (31, 29 if is_leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (year and 1 <= month <= 12 and 1 <= day <= lengths[month - 1]):
        return None
    zone = (match[8] or "Z").replace(":", "").replace("Z", "+00").ljust(5, "0")
    zone_minutes = int(zone[1:3]) * 60 + int(zone[3:])
    if hour > 23 or minute > 59 or second > 59 or int(zone[1:3]) > 15 or int(zone[3:]) > 59:
        return None
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 + sum(lengths[: month - 1]) + day
    minutes = hour * 60 + minute + (zone_minutes if zone[0] == "-" else -zone_minutes)
    return (
        (days - _DAY_2000) * _DAY_US
        + (minutes * 60 + second) * 1_000_000
        + int((match[7] or "").ljust(6, "0"))
    )


# The first day of 2000, counted from the first day of year 1.
_DAY_2000 = 1999 * 365 + 1999 // 4 - 1999 // 100 + 1999 // 400 + 1
