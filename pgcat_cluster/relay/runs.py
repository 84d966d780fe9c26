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


# A whole statement of words, operators, single blanks and at most eight integers that surely fit 32 bits: its
# groups are what stands between those. Atomic groups: possessive quantifiers of groups give wrong answers before
# Python 3.11.5 (gh-106052).
_WORD = rb"[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+"
_BETWEEN = rb"((?>(?:" + _WORD + rb"(?:[ .]" + _WORD + rb")*|[=,*<>+:|]|[ ](?=[^ ;])|-(?!-))*))"
_INTEGER = rb"[0-9]{1,9}+(?![A-Za-z0-9_$.\x80-\xff])"
_plain_statement = re.compile(
    rb"(?![ ])" + _BETWEEN + (rb"(?:" + _INTEGER + _BETWEEN) * 8 + rb")?" * 8 + rb";?"
).fullmatch


def plain_shape(text: bytearray, start: int, end: int) -> bytes | None:
    """Return the shape of text[start:end] if it is so plain that no scan is needed, else None.

    This is for the interpreted body alone, where one match costs a fifth of a scan.
    """
    found = _plain_statement(text, start, end)
    if found is None:
        return None
    return b"\0i".join(found.groups()[: found.lastindex]).lower()


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


def is_same(memory: bytearray, first: int, second: int, length: int) -> bool:
    """Tell whether so many bytes at memory[first] and memory[second] are equal."""
    return memory[first : first + length] == memory[second : second + length]


def to_bytes(memory: bytearray, size: int) -> bytes:
    """Return memory[:size]."""
    return bytes(memory[:size])
