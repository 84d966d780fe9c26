"""Cuts a statement to its shape: its bytes with markers for constants, by PostgreSQL's own rules.

A marker is a NUL byte, which no statement can contain, and a letter for the kind of the constant:

    i  integer that fits 32 bits        s  'string'           e  E'string'       b  B'bits'      n  N'string'
    d  any other number                 q  $tag$string$tag$   u  U&'string'      x  X'bits'

and `m`, which says *one or more*, so that lists have one shape whatever their length. It stands behind the
item of a list `in (...)` or `array[...]` of constants of one kind and sign (`in (<i><m>)`), and behind a row
of VALUES or `in ((...), ...)`, for all rows like it that follow (`values (<i>,<s>)<m>`).

Besides, a run of white space and comments is one blank, or none at either end; unquoted words are in lower
case; trailing semicolons are gone. Signs, parameters ($1), quoted names, operators and keywords (as NULL and
TRUE are) are kept.

What can not be told exactly as PostgreSQL tells it has no shape. The rules are those of scan.l in PostgreSQL
17; older servers differ in numbers like 0x1F and 1_000 alone, which they take for a number and an alias. The
caller knows that standard_conforming_strings is on and that the client's encoding has no multi-byte
characters with ASCII bytes in them; otherwise nothing has a shape.
"""

from array import array

from pgcat_cluster.relay import runs

# Classes of bytes. The first three may begin what becomes a blank.
_BLANK, _DASH, _SLASH, _WORD, _PREFIX, _DIGIT, _QUOTE = range(7)
_NAME, _DOLLAR, _DOT, _OPEN, _CLOSE, _NUL, _OTHER = range(7, 14)
# What a parenthesis may be: of no interest, a list that may repeat an item, a first row, a row behind a row.
_PLAIN, _LIST, _ROW, _NEXT_ROW = range(4)
_CONSTANTS_MAX = 256
_COMMENTS_MAX = 16
_DEPTH_MAX = 32
# A longer statement borrows memory for the moment.
_STATEMENT_BYTES_KEPT = 16384

_WORD_START = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz" + bytes(range(128, 256))
_WORD_PART = _WORD_START + b"0123456789$"


def _table(default: int, *entries: tuple[bytes, int]) -> bytes:
    table = bytearray([default]) * 256
    for characters, value in entries:
        for character in characters:
            table[character] = value
    return bytes(table)


# Of each pair the first name owns the memory to which the second one is a mere pointer when compiled.
_CLASS_TABLE = _table(
    _OTHER,
    (_WORD_START, _WORD),
    (b"bBeEnNuUxX", _PREFIX),
    (b" \t\n\r\f\v", _BLANK),
    (b"0123456789", _DIGIT),
    (b"'", _QUOTE),
    (b'"', _NAME),
    (b"$", _DOLLAR),
    (b"-", _DASH),
    (b"/", _SLASH),
    (b".", _DOT),
    (b"([", _OPEN),
    (b")]", _CLOSE),
    (b"\0", _NUL),
)
_CLASS = _CLASS_TABLE
# What a byte becomes inside a word; 0 ends the word.
_FOLD_TABLE = bytes(byte if byte in _WORD_PART else 0 for byte in range(256)).lower()
_FOLD = _FOLD_TABLE
_DIGIT_TABLE = _table(255, *((b"%x%X" % (digit, digit), digit) for digit in range(16)))
_DIGIT_VALUE = _DIGIT_TABLE


class Scanner:
    """Cuts statements to shapes, one after the other, in memory of its own.

    After `scan`, `constants` is the number of constants seen. The first of them, as many as `starts` has room
    for, stand at buffer[starts[n]:ends[n]], kinds[n] is the letter of their marker, and places[n] is where in
    the shape the marker stands: that of the first item for all items of a list, and that in the first row for
    all rows that became one. `comments` counts comments, which are recorded likewise. All of it is meaningless
    when scan returned None. `is_placed`: constants were recorded, which a glance may leave out.
    """

    __slots__ = (
        "_kept",
        "_opened",
        "_openings",
        "_row_ends",
        "_row_starts",
        "comment_ends",
        "comment_starts",
        "comments",
        "constants",
        "constants_max",
        "ends",
        "is_placed",
        "kinds",
        "places",
        "starts",
    )

    def __init__(self, constants_max: int = _CONSTANTS_MAX) -> None:
        self._kept = bytearray(2 * _STATEMENT_BYTES_KEPT + 8)
        # Per depth of parentheses: the kind and the beginning of the open one, and the latest row.
        self._openings = array("q", bytes(8 * _DEPTH_MAX))
        self._opened = array("q", bytes(8 * _DEPTH_MAX))
        self._row_starts = array("q", bytes(8 * _DEPTH_MAX))
        self._row_ends = array("q", bytes(8 * _DEPTH_MAX))
        self.constants = 0
        self.constants_max = constants_max
        self.starts = array("q", bytes(8 * constants_max))
        self.ends = array("q", bytes(8 * constants_max))
        self.kinds = array("q", bytes(8 * constants_max))
        self.places = array("q", bytes(8 * constants_max))
        self.is_placed = False
        self.comments = 0
        self.comment_starts = array("q", bytes(8 * _COMMENTS_MAX))
        self.comment_ends = array("q", bytes(8 * _COMMENTS_MAX))

    def glance(self, buffer: bytearray, start: int, end: int) -> bytes | None:
        """Return the same shape as `scan`, with less effort where that can be; constants are counted, no more."""
        shape = runs.plain_shape(buffer, start, end)
        if shape is None:
            return self.scan(buffer, start, end)
        self.comments = 0
        self.constants = shape.count(0)
        self.is_placed = False
        return shape

    def scan(self, buffer: bytearray, start: int, end: int) -> bytes | None:
        """Return the shape of the statement buffer[start:end], or None when it is unknown."""
        # Nothing grows to more than twice its size: `1` becomes a marker of two bytes, a row `(1)` takes six.
        memory = self._kept if end - start <= _STATEMENT_BYTES_KEPT else bytearray(2 * (end - start) + 8)
        text = buffer
        out = memory
        size = 0
        depth = 0
        blank = False
        unicode = False
        self.is_placed = True
        self.constants = 0
        self.comments = 0
        i = start
        while i < end:
            byte = text[i]
            kind = _CLASS[byte]
            if kind <= _SLASH:
                if kind == _BLANK:
                    blank = True
                    i += 1
                    continue
                stop = _end_of_comment(text, i, end)
                if stop < 0:
                    return None
                if stop > i:
                    self._note_comment(i, stop)
                    blank = True
                    i = stop
                    continue
            if blank:
                blank = False
                if size:
                    out[size] = 0x20
                    size += 1

            if kind == _PREFIX and (i + 1 == end or (text[i + 1] != 0x27 and text[i + 1] != 0x26)):
                kind = _WORD  # only with a quote is the letter more: E'' B'' N'' X'' U&'' U&""
            if kind == _WORD:
                stop = runs.copy_plain(text, i, end, out, size)
                size += stop - i
                i = stop
                continue

            marker = 0
            stop = i + 1  # where the token ends that starts here; less than 1 when it is none
            if kind == _OTHER:
                pass
            elif kind == _OPEN:
                if depth < _DEPTH_MAX:
                    self._opened[depth] = size
                    outer = self._openings[depth - 1] if depth else _PLAIN
                    self._openings[depth] = _opening(out, size, byte, outer)
                depth += 1
            elif kind == _CLOSE:
                if depth:
                    depth -= 1
                    if depth < _DEPTH_MAX and self._openings[depth] != _PLAIN:
                        size = self._close(out, size, byte, depth)
                        i = stop
                        continue
            elif kind == _QUOTE:
                marker = 0x73
                stop = _end_of_string(text, stop, end, marker)
            elif kind == _DIGIT or (kind == _DOT and i + 1 < end and _CLASS[text[i + 1]] == _DIGIT):
                if kind == _DOT and size and _FOLD[out[size - 1]]:
                    return None  # t.5 is no SQL, and a number in place of its marker would melt into the word
                stop = _end_of_number(text, i, end)
                marker = 0x69 if stop > 0 else 0x64
                stop = abs(stop)
            elif kind == _PREFIX:
                marker = byte | 0x20
                if text[i + 1] == 0x27 and marker != 0x75:
                    stop = _end_of_string(text, i + 2, end, marker)
                elif marker == 0x75 and text[i + 1] == 0x26 and i + 2 < end and text[i + 2] == 0x27:
                    unicode = True
                    stop = _end_of_string(text, i + 3, end, marker)
                else:
                    # A word of one letter before an operator, or `u&"`, which passes as u, & and a name.
                    unicode = unicode or marker == 0x75
                    byte = marker
                    marker = 0
            elif kind == _NAME:
                stop = _end_of_name(text, stop, end)
            elif kind == _DOLLAR:
                if i + 1 < end and _CLASS[text[i + 1]] == _DIGIT:
                    stop = runs.end_of_digits(text, stop, end)
                    if stop < end and _FOLD[text[stop]] and text[stop] != 0x24:
                        return None  # $1a
                else:
                    marker = 0x71
                    stop = _end_of_dollars(buffer, i, end)
            elif kind == _DOT:
                if stop < end and text[stop] == 0x2E:
                    stop += 1  # `..` is one token, so that 1..5 holds no `.5`
            elif kind == _NUL:
                return None

            if stop <= 0:
                return None
            if marker:
                if self.constants < self.constants_max:
                    self.starts[self.constants] = i
                    self.ends[self.constants] = stop
                    self.kinds[self.constants] = marker
                    self.places[self.constants] = size
                self.constants += 1
                out[size] = 0
                out[size + 1] = marker
                size += 2
                i = stop
            else:
                out[size] = byte
                size += 1
                i += 1
                while i < stop:
                    out[size] = text[i]
                    size += 1
                    i += 1

        while size and (out[size - 1] == 0x20 or out[size - 1] == 0x3B):
            size -= 1
        shape = runs.to_bytes(out, size)
        if unicode and b"uescape" in shape:
            return None  # the constant behind UESCAPE decides what the name before it means
        return shape

    def mentions(self, buffer: bytearray) -> bool:
        """Whether a comment of buffer may say where its statement wants to go."""
        if self.comments > _COMMENTS_MAX:
            return True
        for n in range(self.comments):
            start, end = self.comment_starts[n], self.comment_ends[n]
            if buffer.find(b"shard", start, end) >= 0 or buffer.find(b"role", start, end) >= 0:
                return True
        return False

    def forget(self) -> None:
        """Of what comes next nothing is known."""
        self.constants = 0
        self.comments = 0

    def _note_comment(self, start: int, end: int) -> None:
        if self.comments < _COMMENTS_MAX:
            self.comment_starts[self.comments] = start
            self.comment_ends[self.comments] = end
        self.comments += 1

    def _close(self, out: bytearray, size: int, byte: int, depth: int) -> int:
        """Write the end of a list or row, and take back what only repeats; return the new size."""
        opened = self._opened[depth]
        n = min(self.constants, self.constants_max)
        if self._openings[depth] == _LIST:
            folded = _fold_list(out, opened + 1, size)
            while folded < size and n and self.places[n - 1] > opened:
                n -= 1
                self.places[n] = folded - 4
            out[folded] = byte
            return folded + 1
        out[size] = byte
        size += 1
        if self._openings[depth] == _NEXT_ROW:
            row_start = self._row_starts[depth]
            row_end = self._row_ends[depth]
            if row_end - 2 - row_start == size - opened and runs.is_same(
                out, row_start, opened, size - opened
            ):
                while n and self.places[n - 1] > opened:
                    n -= 1
                    self.places[n] -= opened - row_start
                return row_end
        out[size] = 0
        out[size + 1] = 0x6D
        self._row_starts[depth] = opened
        self._row_ends[depth] = size + 2
        return size + 2


def _opening(out: bytearray, size: int, byte: int, outer: int) -> int:
    """Tell what a parenthesis or bracket behind out[:size] may be; `outer` is what stands around it."""
    if size and out[size - 1] == 0x20:
        size -= 1
    if size == 0:
        return _PLAIN
    before = out[size - 1]
    if byte == 0x5B:
        return _LIST if before == 0x79 and _ends_with(out, size, b"array", 5) else _PLAIN
    if before == 0x6E and _ends_with(out, size, b"in", 2):
        return _LIST
    if before == 0x73 and _ends_with(out, size, b"values", 6):
        return _ROW
    if before == 0x28 and outer == _LIST:
        return _ROW
    if before == 0x2C and size > 3:
        size -= 1
        if out[size - 1] == 0x20:
            size -= 1
        if out[size - 1] == 0x6D and out[size - 2] == 0:
            return _NEXT_ROW
    return _PLAIN


def _ends_with(out: bytearray, size: int, word: bytes, length: int) -> bool:
    """Tell whether out[:size] ends with this keyword; behind a dot it would be a name."""
    before = size - length
    if before < 0 or (before and _FOLD[out[before - 1]]):
        return False
    for k in range(length):
        if out[before + k] != word[k]:
            return False
    if before and out[before - 1] == 0x20:
        before -= 1
    return before == 0 or out[before - 1] != 0x2E


def _fold_list(out: bytearray, start: int, size: int) -> int:
    """Turn the items out[start:size] into one and a marker if all are alike; return the new size."""
    length = 0
    kind = 0
    item = start
    while item < size:
        comma = item
        while comma < size and out[comma] != 0x2C:
            comma += 1
        stop = comma
        if stop > item and out[stop - 1] == 0x20:
            stop -= 1
        if item < stop and out[item] == 0x20:
            item += 1
        if length == 0:
            start = item
            length = stop - item
            is_negative = length == 3 and out[start] == 0x2D
            if (length != 2 and not is_negative) or out[stop - 2] != 0:
                return size  # no constant
            kind = out[stop - 1]
        elif stop - item != length or out[item] != out[start] or out[stop - 2] != 0 or out[stop - 1] != kind:
            return size
        item = comma + 1
    if length == 0 or out[size - 1] == 0x2C:
        return size
    out[start + length] = 0
    out[start + length + 1] = 0x6D
    return start + length + 2


def _end_of_comment(text: bytearray, i: int, end: int) -> int:
    """Return the end of the comment at text[i], i when there is none, -1 when it is not terminated."""
    if i + 1 >= end:
        return i
    if text[i] == 0x2D:
        if text[i + 1] != 0x2D:
            return i
        while i < end and text[i] != 0x0A and text[i] != 0x0D:
            if text[i] == 0:
                return -1
            i += 1
        return i
    if text[i + 1] != 0x2A:
        return i
    depth = 1
    i += 2
    while i + 1 < end:
        if text[i] == 0x2A and text[i + 1] == 0x2F:
            i += 2
            depth -= 1
            if depth == 0:
                return i
        elif text[i] == 0x2F and text[i + 1] == 0x2A:
            i += 2
            depth += 1
        elif text[i] == 0:
            return -1
        else:
            i += 1
    return -1


def _end_of_string(text: bytearray, i: int, end: int, marker: int) -> int:
    """Return the end of the string that goes on at text[i] behind its quote, -1 when it is not terminated."""
    while True:
        i = runs.end_of_inside(text, i, end)
        if i == end:
            return -1
        byte = text[i]
        i += 1
        if byte == 0x27:
            if i < end and text[i] == 0x27:
                if marker == 0x62 or marker == 0x78:
                    return -1  # B'' and X'' know no doubled quote
                i += 1
                continue
            following = _continuation(text, i, end)
            if following < 0:
                return i
            i = following
        elif byte == 0x5C:
            if marker == 0x65:
                if i == end or text[i] == 0:
                    return -1
                i += 1
        else:
            return -1


def _continuation(text: bytearray, i: int, end: int) -> int:
    """A string goes on behind white space with a newline: return where, or -1."""
    newline = False
    while i < end:
        byte = text[i]
        if byte == 0x27:
            return i + 1 if newline else -1
        if byte == 0x0A or byte == 0x0D:
            newline = True
        elif byte == 0x2D and i + 1 < end and text[i + 1] == 0x2D:
            i = _end_of_comment(text, i, end)
            if i < 0:
                return -1
            continue
        elif _CLASS[byte] != _BLANK:
            return -1
        i += 1
    return -1


def _end_of_name(text: bytearray, i: int, end: int) -> int:
    # A doubled quote inside needs no care: it ends one name and starts another, which has the same bytes.
    while i < end:
        byte = text[i]
        i += 1
        if byte == 0x22:
            return i
        if byte == 0:
            return -1
    return -1


def _end_of_dollars(buffer: bytearray, i: int, end: int) -> int:
    """Return the end of the dollar-quoted string at i, -1 when there is none or it is not terminated."""
    tag_end = i + 1
    while tag_end < end and _FOLD[buffer[tag_end]] and buffer[tag_end] != 0x24:
        tag_end += 1
    if tag_end == end or buffer[tag_end] != 0x24:
        return -1
    tag = buffer[i : tag_end + 1]
    close = buffer.find(tag, tag_end + 1, end)
    if close < 0 or buffer.find(b"\0", i, close) >= 0:
        return -1
    return close + len(tag)


def _end_of_number(text: bytearray, i: int, end: int) -> int:
    """Return the end of the number at text[i]; negative if it is no 32-bit integer, 0 if junk follows."""
    start = i
    base = 10
    if text[i] == 0x30 and i + 1 < end:
        letter = text[i + 1] | 0x20
        base = 16 if letter == 0x78 else 8 if letter == 0x6F else 2 if letter == 0x62 else 10
    integer = True
    if base != 10:
        i += 2
        start = i
        while i < end:
            if text[i] == 0x5F and i + 1 < end and _DIGIT_VALUE[text[i + 1]] < base:
                i += 2
            elif _DIGIT_VALUE[text[i]] < base:
                i += 1
            else:
                break
        if i == start or (i < end and text[i] == 0x2E):
            return 0
    else:
        i = runs.end_of_digits(text, i, end)
        if i < end and text[i] == 0x2E and not (i + 1 < end and text[i + 1] == 0x2E):
            integer = False
            i = runs.end_of_digits(text, i + 1, end)
        if i < end and text[i] | 0x20 == 0x65:
            integer = False
            i += 1
            if i < end and (text[i] == 0x2B or text[i] == 0x2D):
                i += 1
            if i == end or _CLASS[text[i]] != _DIGIT:
                return 0
            i = runs.end_of_digits(text, i, end)
    if i < end and _FOLD[text[i]] and text[i] != 0x24:
        return 0
    if i + 1 < end and text[i] == 0x2E and _CLASS[text[i + 1]] == _DIGIT:
        return 0  # 1.5.5: two numbers whose markers would grow together
    if integer and i - start > 7:  # fewer digits fit in any base
        value = 0
        for k in range(start, i):
            if text[k] != 0x5F and value <= 0x7FFFFFFF:
                value = value * base + _DIGIT_VALUE[text[k]]
        integer = value <= 0x7FFFFFFF
    return i if integer else -i


_CONSTANTS = {
    b"i": b"1",
    b"d": b"1.5",
    b"s": b"'x'",
    b"e": b"E'x'",
    b"b": b"B'0'",
    b"x": b"X'0'",
    b"n": b"N'x'",
    b"u": b"U&'x'",
    b"q": b"$$x$$",
}


def render(shape: bytes) -> str:
    """Return the shape as SQL for the parser: each marker a fixed constant of its kind, lists with one item.

    The shape of the result is the shape again. Bytes that are no UTF-8 become surrogates (surrogateescape).
    """
    return render_with_places(shape)[0]


def render_with_places(shape: bytes) -> tuple[str, dict[int, int]]:
    """Return what `render` does, and for each constant in it: where it begins, in bytes, and its place in the shape."""
    rendered, *pieces = shape.split(b"\0")
    place = len(rendered)
    places = {}
    for piece in pieces:
        marker = piece[:1]
        if marker != b"m":
            places[len(rendered)] = place
            rendered += _CONSTANTS[marker]
        rendered += piece[1:]
        place += 1 + len(piece)
    return rendered.decode("utf-8", "surrogateescape"), places
