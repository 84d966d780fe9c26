"""Cuts the text of a one-dimensional array into its elements, where every PostgreSQL cuts it the same."""

from pgcat_cluster.relay import literals

# What comes next in an array.
PLAIN = 0
QUOTED = 1
ESCAPED = 2  # in quotes, with backslashes
END = 3
UNREAD = 4  # of more dimensions, with bounds, or no array


def opens_at(text: bytearray, start: int, stop: int) -> int:
    """Where the array text[start:stop] has its opening brace, -1 if it begins with something else."""
    start = behind_blanks(text, start, stop)
    return start if start < stop and text[start] == 0x7B else -1


def next_element(text: bytearray, at: int, stop: int) -> tuple[int, int, int, int]:
    """What follows text[at], a brace or a comma: its kind, start and end, and where the next brace or comma is."""
    if text[at] == 0x7D:
        return END if behind_blanks(text, at + 1, stop) == stop else UNREAD, at, at, at
    is_first = text[at] == 0x7B
    start = behind_blanks(text, at + 1, stop)
    if start == stop:
        return UNREAD, at, at, at
    if is_first and text[start] == 0x7D:
        return END if behind_blanks(text, start + 1, stop) == stop else UNREAD, start, start, start
    kind = PLAIN
    if text[start] == 0x22:
        kind = QUOTED
        start += 1
        end = start
        while end < stop and text[end] != 0x22:
            if text[end] == 0x5C:
                kind = ESCAPED
                end += 1
            end += 1
        at = behind_blanks(text, end + 1, stop)
    else:
        at = start
        while at < stop and text[at] != 0x2C and text[at] != 0x7D:
            if text[at] == 0x22 or text[at] == 0x5C or text[at] == 0x7B:
                return UNREAD, at, at, at
            at += 1
        end = at
        while end > start and literals.is_blank(text[end - 1]):
            end -= 1
        if end == start:
            return UNREAD, at, at, at
    if at >= stop or (text[at] != 0x2C and text[at] != 0x7D):
        return UNREAD, at, at, at
    return kind, start, end, at


def behind_blanks(text: bytearray, start: int, stop: int) -> int:
    """Where the first byte stands that is no blank, `stop` or more if there is none."""
    while start < stop and literals.is_blank(text[start]):
        start += 1
    return start


def is_null(text: bytearray, start: int, stop: int) -> bool:
    """Whether an element without quotes is NULL."""
    return (
        stop - start == 4
        and text[start] | 0x20 == 0x6E
        and text[start + 1] | 0x20 == 0x75
        and text[start + 2] | 0x20 == 0x6C
        and text[start + 3] | 0x20 == 0x6C
    )


def unescaped(text: bytearray, start: int, stop: int) -> bytearray:
    """An element without the backslashes that only say: what follows is meant as it stands."""
    plain = bytearray(stop - start)
    count = 0
    while start < stop:
        if text[start] == 0x5C:
            start += 1
        plain[count] = text[start]
        count += 1
        start += 1
    return plain[:count]


def element_type(oid: int) -> int:
    """The type of the elements of an array of this type; none (0) and unknown stay, -1 if it is none of ours."""
    if oid == 0 or oid == 705:
        return oid
    if oid == 1016:
        return 20
    if oid == 1007:
        return 23
    if oid == 1005:
        return 21
    if oid == 1009:
        return 25
    if oid == 1015:
        return 1043
    if oid == 2951:
        return 2950
    if oid == 1115:
        return 1114
    return 1184 if oid == 1185 else -1
