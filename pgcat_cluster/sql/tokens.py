"""Cuts a statement string into tokens where PostgreSQL's own grammar is not asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Atomic groups: possessive quantifiers of groups give wrong answers before Python 3.11.5 (gh-106052).
_LETTER = r"A-Za-z_\x80-\U0010ffff"
_TOKEN = re.compile(
    rf"""
    (?P<blank>   [ \t\n\r\f\v]+ | --[^\n\r]* )
  | (?P<comment> /\* )
  | (?P<escape>  [uU]&['"] )
  | (?P<string>  [eE]'(?>(?:[^'\\]|\\.|'')*)' | [bBxXnN]?'(?>(?:[^']|'')*)' )
  | (?P<quoted>  "(?>(?:[^"]|"")+)" )
  | (?P<dollar>  \$(?P<tag>(?:[{_LETTER}][{_LETTER}0-9]*)?)\$.*?\$(?P=tag)\$ )
  | (?P<value>   \$\d+ | \d[{_LETTER}0-9.]* )
  | (?P<word>    [{_LETTER}][{_LETTER}0-9$]* )
  | (?P<mark>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class NotUnderstood(Exception):
    """The text is not worth a guess."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a statement that is no blank. `name` is folded by PostgreSQL's rule; empty if it is none."""

    text: str
    name: str = ""
    is_string: bool = False
    is_value: bool = False
    is_keyword: bool = False


def cut(text: str) -> Iterator[Token]:
    """The tokens in their order. Raises NotUnderstood, perhaps late."""
    position = 0
    while match := _TOKEN.match(text, position):
        position = match.end()
        piece = match.group()
        match match.lastgroup:
            case "blank":
                pass
            case "comment":
                position = _end_of_comment(text, position)
            case "word":
                if piece.lower() == "atomic":  # the body of a function: its semicolons end no statement
                    raise NotUnderstood
                yield Token(piece, name=piece.lower(), is_keyword=True)
            case "quoted":
                yield Token(piece, name=piece[1:-1].replace('""', '"'))
            case "string":
                yield Token(piece, is_string=True)
            case "value":
                yield Token(piece, is_value=True)
            case "escape":  # may spell any name
                raise NotUnderstood
            case "mark" if piece in "'\"$\\{}?\0":  # unterminated, or nothing that PostgreSQL knows
                raise NotUnderstood
            case _:
                yield Token(piece)


def _end_of_comment(text: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            raise NotUnderstood
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position
