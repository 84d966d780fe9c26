"""Passes over runs of bytes that need no thought, for `shapes`; `runs.pyx` is the compiled body."""

import re

# Words, single blanks between tokens, and operators. What may begin a constant or a comment, and parentheses,
# end the run.
_plain = re.compile(
    rb"""(?: (?! [bBeEnNuUxX] ['&] ) [A-Za-z_\x80-\xff] [A-Za-z0-9_$\x80-\xff]*
         |   [ ] (?= [^ \t\n\r\f\v/-] )
         |   [.] (?= [A-Za-z_*\x80-\xff] )
         |   [=,*<>+:|]
         )+""",
    re.VERBOSE,
).match
_digits = re.compile(rb"(?:[0-9]+|_[0-9])*").match
_end_of_inside = re.compile(rb"['\\\0]").search


def copy_plain(text: bytearray, start: int, end: int, out: bytearray, size: int) -> int:
    """Copy a run that starts with a word at text[start] to out[size:], in lower case; return where it ends.

    The word is copied whole; how much of what is plain behind it goes along is left to each body.
    """
    run = _plain(text, start, end)
    if run is None:
        return start
    stop = run.end()
    out[size : size + stop - start] = text[start:stop].lower()
    return stop


def end_of_digits(text: bytearray, start: int, end: int) -> int:
    """Return the end of digits at text[start] that may be parted by single underscores."""
    found = _digits(text, start, end)
    return found.end() if found is not None else start


def end_of_inside(text: bytearray, start: int, end: int) -> int:
    """Return where in text[start:end] the first quote, backslash or NUL stands, `end` if there is none."""
    found = _end_of_inside(text, start, end)
    return found.start() if found is not None else end


def to_bytes(memory: bytearray, size: int) -> bytes:
    """Return memory[:size]."""
    return bytes(memory[:size])
