"""Recognises in a statement string what is ours to answer: PgCat's commands, `pgcat.*` parameters, EXPLAIN ROUTE.

    SET SHARD TO value            SHOW SHARD             SET [SESSION | LOCAL] pgcat.name TO | = value
    SET SHARDING KEY TO value                            RESET pgcat.name
    SET SERVER ROLE TO value      SHOW SERVER ROLE       SHOW pgcat.name
    SET PRIMARY READS TO value    SHOW PRIMARY READS     EXPLAIN ROUTE statement

The whole string must be one of them. Case, white space, comments and semicolons at the end are free; a value may
stand in quotes, and where PgCat allows it behind or before one quote alone. Everything else is no command, but a
statement that can only mean our parameters is never PostgreSQL's, however it goes on.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pgcat_cluster.errors import Fault, InvalidParameter, Unsupported

PREFIX = "pgcat."
"""What the names of our parameters begin with."""
TEXT_LENGTH_MAX = 16 * 1024
"""A longer string is no command, unless it begins with EXPLAIN ROUTE."""


class Verb(enum.Enum):
    SET = "set"
    SHOW = "show"
    RESET = "reset"
    EXPLAIN = "explain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `name` is that of a parameter without its prefix, in lower case; it may be unknown."""

    verb: Verb
    name: str = ""
    value: str | None = None
    """What SET sets; None: the default."""
    is_quoted: bool = False
    """Whether the value stood in quotes."""
    is_local: bool = False
    is_parameter: bool = True
    """Written as a parameter, not in PgCat's words."""
    statement: str = ""
    """What is to be explained."""


_BY_WORDS = {
    "shard": "shard",
    "sharding key": "sharding_key",
    "server role": "server_role",
    "primary reads": "primary_reads",
}
_SHOWN_BY_WORDS = frozenset({"shard", "server role", "primary reads"})

# No command is without one of these; most statements are.
_HINT = re.compile(r"pgcat|shard|server|primary|route", re.IGNORECASE)
_WORD = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*"
_TOKEN = re.compile(
    rf"""
    (?P<blank> (?: [ \t\n\r\f\v] | --[^\n\r]* )+ )
  | (?P<comment> /\* )
  | (?P<escape> [eE]' (?> (?: [^'\\] | \\. | '' )* ) ' )
  | (?P<string> ' (?> (?: [^'] | '' )* ) ' )
  | (?P<open> ' .* )
  | (?P<name> " (?> (?: [^"] | "" )* ) " )
  | (?P<dollar> \$ (?P<tag> (?: {_WORD} )? ) \$ .*? \$ (?P=tag) \$ )
  | (?P<number> [0-9] [A-Za-z0-9_.]* )
  | (?P<word> {_WORD} )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    """A word in lower case, a name or string without its quotes, else as it was written."""
    end: int


def recognise(text: str) -> Command | None:
    """The command that a statement string is, or None.

    Raises Unsupported for a command among other statements, InvalidParameter for one of our parameters with
    more or less than one value.
    """
    if len(text) > TEXT_LENGTH_MAX:
        return _long_command(text)
    if _HINT.search(text) is None:
        return None
    statements = _statements(text)
    if len(statements) == 1:
        return _command(statements[0], text)
    for tokens in statements:
        if _concerns_us(tokens, text):
            words = " ".join(token.text.upper() for token in tokens[:2] if token.kind == "word")
            raise Unsupported(
                f"{words} must stand alone",
                detail="It is answered here, and not by the server that runs the other statements.",
                hint="Send it as a statement string of its own.",
            )
    return None


def is_ours(text: str) -> bool:
    """Whether a statement string is answered here: with what its command says, or with a fault."""
    try:
        return recognise(text) is not None
    except Fault:
        return True


def _concerns_us(tokens: list[_Token], text: str) -> bool:
    try:
        return _command(tokens, text) is not None
    except Fault:
        return True


def _command(tokens: list[_Token], text: str) -> Command | None:
    """The command that these tokens are, all of them."""
    first = tokens[0].text if tokens[0].kind == "word" else ""
    rest = tokens[1:]
    if first == "explain":
        if len(rest) < 2 or (rest[0].kind, rest[0].text) != ("word", "route"):
            return None
        # With a comment at its end, which may say where to go.
        return Command(verb=Verb.EXPLAIN, statement=text[rest[0].end :].strip())
    if first == "show":
        parameter, used = _parameter(rest)
        if parameter and used == len(rest):
            return Command(verb=Verb.SHOW, name=parameter)
        words = _words(rest)
        if words in _SHOWN_BY_WORDS:
            return Command(verb=Verb.SHOW, name=_BY_WORDS[words], is_parameter=False)
    elif first == "reset":
        parameter, used = _parameter(rest)
        if parameter and used == len(rest):
            return Command(verb=Verb.RESET, name=parameter)
    elif first == "set":
        return _set(rest)
    return None


def _long_command(text: str) -> Command | None:
    head = list(islice(_tokens(text), 2))
    if [(token.kind, token.text) for token in head] != [("word", "explain"), ("word", "route")]:
        return None
    return Command(verb=Verb.EXPLAIN, statement=text[head[1].end :].strip())


def _set(tokens: list[_Token]) -> Command | None:
    is_local = False
    scoped = tokens
    if tokens and tokens[0].kind == "word" and tokens[0].text in ("session", "local"):
        is_local = tokens[0].text == "local"
        scoped = tokens[1:]
    parameter, used = _parameter(scoped)
    if parameter:
        value = None
        if scoped[used:] and scoped[used].text in ("to", "=") and scoped[used].kind in ("word", "other"):
            value = _value(scoped[used + 1 :])
        if value is None:
            raise InvalidParameter(f'SET "{PREFIX}{parameter}" takes one value')
        is_default = value.kind == "word" and value.text == "default"
        return Command(
            verb=Verb.SET,
            name=parameter,
            value=None if is_default else value.text,
            is_quoted=value.kind == "string",
            is_local=is_local,
        )
    for words, name in _BY_WORDS.items():
        used = words.count(" ") + 2
        if _words(tokens[:used]) == f"{words} to":
            return _set_by_words(name, tokens[used:])
    return None


def _set_by_words(name: str, tokens: list[_Token]) -> Command | None:
    value = _value(tokens, is_loose=name != "server_role")
    if value is None:
        return None
    may_quote_default = name in ("server_role", "primary_reads")
    is_default = value.text.lower() == "default" and (value.kind == "word" or may_quote_default)
    return Command(
        verb=Verb.SET,
        name=name,
        value=None if is_default else value.text,
        is_quoted=value.kind == "string",
        is_parameter=False,
    )


def _words(tokens: list[_Token]) -> str:
    return " ".join(token.text if token.kind == "word" else "?" for token in tokens)


def _parameter(tokens: list[_Token]) -> tuple[str, int]:
    """The name of ours that tokens begin with, without its prefix, and how many they are; or an empty one."""
    parts = []
    used = 0
    while used < len(tokens) and tokens[used].kind in ("word", "name"):
        parts.append(tokens[used].text)
        used += 1
        if used == len(tokens) or tokens[used].text != "." or tokens[used].kind != "other":
            break
        used += 1
    name = ".".join(parts).lower()
    return (name.removeprefix(PREFIX), used) if name.startswith(PREFIX) else ("", 0)


def _value(tokens: list[_Token], *, is_loose: bool = False) -> _Token | None:
    """The one value that tokens are. `is_loose`: with only one of its two quotes, as PgCat takes it."""
    if is_loose and tokens and tokens[-1].kind == "open":
        last = tokens[-1]
        inside = last.text.strip().removesuffix(";").strip()
        if len(tokens) == 1 and inside:
            return _Token("string", inside, last.end)
        if not inside:
            tokens = tokens[:-1]
    if len(tokens) == 2 and tokens[0].text in ("-", "+") and tokens[1].kind == "number":
        sign, number = tokens
        return _Token("number", sign.text + number.text, number.end)
    if len(tokens) == 1 and tokens[0].kind in ("word", "number", "string", "name"):
        return tokens[0]
    return None


def _statements(text: str) -> list[list[_Token]]:
    """The tokens of each statement of a string; empty statements are left out."""
    statements: list[list[_Token]] = [[]]
    for token in _tokens(text):
        if token.kind == "other" and token.text == ";":
            statements.append([])
        else:
            statements[-1].append(token)
    return [statement for statement in statements if statement]


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None
        kind, position = match.lastgroup or "", match.end()
        found = match.group()
        if kind == "comment":
            position = _comment_end(text, position)
        elif kind == "word":
            yield _Token(kind, found.lower(), position)
        elif kind == "string":
            yield _Token(kind, found[1:-1].replace("''", "'"), position)
        elif kind == "name":
            yield _Token(kind, found[1:-1].replace('""', '"'), position)
        elif kind == "open":
            yield _Token(kind, found[1:], position)
        elif kind != "blank":
            yield _Token(kind, found, position)


def _comment_end(text: str, position: int) -> int:
    """Where the comment ends that was opened before `position`; comments nest."""
    depth = 1
    while depth > 0:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            return len(text)
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position
