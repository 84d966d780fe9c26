"""Reads sharding keys out of texts, where every PostgreSQL reads the same: what one may read otherwise is UNSURE.

A key comes as text[start:stop], without quotes. What is read of it is a status and a value; the value counts only if
the status is 0.
"""

# The codes of `selectors`.
_UNSURE = -1
_OUT_OF_RANGE = -5
_WRONG_TEXT = -6
_MOST = 2**63 - 1


def is_blank(byte: int) -> bool:
    """Whether PostgreSQL skips it at either end of a number."""
    return byte == 0x20 or 0x09 <= byte <= 0x0D


def read_integer(text: bytearray, start: int, stop: int) -> tuple[int, int]:
    """Read decimal digits, which may have a sign, and blanks at either end.

    0x1F and 1_000 are numbers to PostgreSQL 16 and no numbers to an older one.
    """
    while start < stop and is_blank(text[start]):
        start += 1
    while stop > start and is_blank(text[stop - 1]):
        stop -= 1
    is_negative = False
    if start < stop and (text[start] == 0x2D or text[start] == 0x2B):
        is_negative = text[start] == 0x2D
        start += 1
    status, magnitude = read_digits(text, start, stop)
    if status != 0:
        return status, 0
    return signed(magnitude, is_negative)


def read_digits(text: bytearray, start: int, stop: int) -> tuple[int, int]:
    """Read decimal digits alone: the value has no sign and at most 19 digits."""
    begin = start
    while start < stop and text[start] == 0x30:
        start += 1
    digits = start
    magnitude = 0
    while start < stop and 0x30 <= text[start] <= 0x39:
        if start - digits < 19:
            magnitude = magnitude * 10 + text[start] - 0x30
        start += 1
    if start == stop and stop > begin:
        if start - digits > 19:
            return _OUT_OF_RANGE, 0
        return 0, magnitude
    # A letter for the base, an underscore between digits, or a character that some locale takes for a blank.
    while start < stop:
        byte = text[start]
        letter = byte | 0x20
        if byte == 0x5F or byte >= 0x80:
            return _UNSURE, 0
        if (
            start == begin + 1
            and text[begin] == 0x30
            and (letter == 0x78 or letter == 0x6F or letter == 0x62)
        ):
            return _UNSURE, 0
        start += 1
    return _WRONG_TEXT, 0


def signed(magnitude: int, is_negative: bool) -> tuple[int, int]:
    """Give up to 19 digits a sign, if that fits 64 bits."""
    most = _MOST
    if is_negative and magnitude > 0:
        if magnitude - 1 > most:
            return _OUT_OF_RANGE, 0
        number = magnitude - 1
        return 0, -number - 1
    if magnitude > most:
        return _OUT_OF_RANGE, 0
    return 0, magnitude


def read_uuid(text: bytearray, start: int, stop: int) -> bytes:
    """Read the 16 bytes of a uuid, none if it is wrong.

    It may stand in braces, and a hyphen may stand behind each group of four digits.
    """
    if start < stop and text[start] == 0x7B:
        if text[stop - 1] != 0x7D:
            return b""
        start += 1
        stop -= 1
    found = bytearray(16)
    for n in range(16):
        if n and n % 2 == 0 and start < stop and text[start] == 0x2D:
            start += 1
        if start + 2 > stop:
            return b""
        high = digit_of(text[start])
        low = digit_of(text[start + 1])
        if high < 0 or low < 0:
            return b""
        found[n] = high << 4 | low
        start += 2
    return bytes(found) if start == stop else b""


def digit_of(byte: int) -> int:
    """The value of a hexadecimal digit, -1 if it is none."""
    if 0x30 <= byte <= 0x39:
        return byte - 0x30
    byte |= 0x20
    return byte - 0x57 if 0x61 <= byte <= 0x66 else -1


def read_moment(text: bytearray, start: int, stop: int, has_zone: bool) -> tuple[int, int]:
    """Read `2026-01-31 12:00:00.123456` as microseconds since 2000; with a zone also `Z`, `+01` or `+01:30` behind it.

    All other notations depend on DateStyle, on TimeZone, on a list of names or on the clock.
    """
    length = stop - start
    if length < 19 or text[start + 4] != 0x2D or text[start + 7] != 0x2D:
        return _UNSURE, 0
    if (
        (text[start + 10] != 0x20 and text[start + 10] != 0x54)
        or text[start + 13] != 0x3A
        or text[start + 16] != 0x3A
    ):
        return _UNSURE, 0
    year = two_digits(text, start) * 100 + two_digits(text, start + 2)
    month = two_digits(text, start + 5)
    day = two_digits(text, start + 8)
    hour = two_digits(text, start + 11)
    minute = two_digits(text, start + 14)
    second = two_digits(text, start + 17)
    if two_digits(text, start) < 0 or two_digits(text, start + 2) < 0 or year < 1 or month < 1 or day < 1:
        return _UNSURE, 0
    if (
        month > 12
        or day > days_of(year, month)
        or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60)
    ):
        return _UNSURE, 0
    start += 19
    fraction = 0
    if start < stop and text[start] == 0x2E:
        start += 1
        unit = 100000
        while start < stop and unit and 0x30 <= text[start] <= 0x39:
            fraction += (text[start] - 0x30) * unit
            unit //= 10
            start += 1
        if unit == 100000:
            return _UNSURE, 0
    zone = 0
    if has_zone:
        if start + 1 == stop and text[start] == 0x5A:
            start = stop
        elif (start + 3 == stop or (start + 6 == stop and text[start + 3] == 0x3A)) and (
            text[start] == 0x2B or text[start] == 0x2D
        ):
            hours = two_digits(text, start + 1)
            minutes = 0 if start + 3 == stop else two_digits(text, start + 4)
            if not (0 <= hours <= 15 and 0 <= minutes < 60):
                return _UNSURE, 0
            zone = hours * 60 + minutes
            if text[start] == 0x2D:
                zone = -zone
            start = stop
        else:
            return _UNSURE, 0
    if start != stop:
        return _UNSURE, 0
    seconds = days_before(year, month) + day - 1
    seconds = (seconds * 1440 + hour * 60 + minute - zone) * 60 + second
    return 0, seconds * 1000000 + fraction


def two_digits(text: bytearray, at: int) -> int:
    """The number at text[at], -100 or less if it is none."""
    if 0x30 <= text[at] <= 0x39 and 0x30 <= text[at + 1] <= 0x39:
        return (text[at] - 0x30) * 10 + text[at + 1] - 0x30
    return -10000


def days_of(year: int, month: int) -> int:
    """How many days a month has."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


def days_before(year: int, month: int) -> int:
    """How many days of the Gregorian calendar lie between 2000 and the first day of a month; the year is positive."""
    # March first: so the day that may be missing is the last one of a year.
    if month <= 2:
        year -= 1
        month += 12
    days = year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 - 457) // 5
    return days - 730425
