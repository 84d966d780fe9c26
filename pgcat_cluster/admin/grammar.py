"""What can be typed at a console: one command per query, its words, and who may use which."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Dialect = Literal["pgbouncer", "pgcat"]
Rights = Literal["admin", "stats"]

VERB_CHARACTERS_MAX = 15
ARGUMENT_CHARACTERS_MAX = 63
VALUE_CHARACTERS_MAX = 255

# Everything there is, and the least rights it needs; what is not in here is refused to all.
NEEDS: dict[str, Rights] = {
    "SHOW HELP": "stats",
    "SHOW VERSION": "stats",
    "SHOW CONFIG": "stats",
    "SHOW DATABASES": "stats",
    "SHOW POOLS": "stats",
    "SHOW CLIENTS": "stats",
    "SHOW SERVERS": "stats",
    "SHOW USERS": "stats",
    "SHOW LISTS": "stats",
    "SHOW STATE": "stats",
    "SHOW STATS": "stats",
    "SHOW STATS_TOTALS": "stats",
    "SHOW STATS_AVERAGES": "stats",
    "SHOW TOTALS": "stats",
    "SHOW PINS": "stats",
    "SHOW MIRRORS": "stats",
    "SHOW BANS": "stats",
    "SHOW FLEET": "stats",
    "SHOW FLEET BANS": "stats",
    "SHOW FLEET OVERRIDES": "stats",
    "SHOW NODES": "stats",
    "SHOW VERDICTS": "stats",
    "SHOW FDS": "admin",
    # Session parameters that drivers ask for; they answer constants.
    "SHOW CLIENT_ENCODING": "stats",
    "SHOW DEFAULT_TRANSACTION_ISOLATION": "stats",
    "SHOW STANDARD_CONFORMING_STRINGS": "stats",
    "SHOW DATESTYLE": "stats",
    "SHOW TIMEZONE": "stats",
    "PAUSE": "admin",
    "RESUME": "admin",
    "RECONNECT": "admin",
    "RELOAD": "admin",
    "BAN": "admin",
    "UNBAN": "admin",
    "SHUTDOWN": "admin",
    "SET": "admin",
}
# What can be meant for all nodes at once, by FLEET as the last word.
FOR_FLEET = frozenset({"BAN", "UNBAN", "PAUSE", "RESUME", "RECONNECT", "RELOAD"})

_WORD = re.compile(r"""\s*(?:"((?:[^"]|"")*)"|'((?:[^']|'')*)'|([^\s"';=,]+)|([=,]))""")
_END = re.compile(r"\s*;?\s*\Z")


class Malformed(ValueError):
    """The text is no command at all."""


class TooLong(ValueError):
    """A word is longer than any command's."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command. `name` is its verb, for SHOW with the subject; both are upper case.

    `arguments` are the other words without their quotes; commas and equal signs stand as words. `is_for_fleet`:
    the last word was FLEET, without quotes, behind a verb that can be meant so; it is no argument then.
    """

    text: str
    name: str
    arguments: tuple[str, ...] = ()
    is_for_fleet: bool = False

    @property
    def verb(self) -> str:
        return self.name.partition(" ")[0]


def parse_command(text: str) -> Command:
    """Raises Malformed, or TooLong. `SELECT x` means `SHOW x`."""
    words: list[str] = []
    is_bare = False
    position = 0
    while not _END.match(text, position):
        match = _WORD.match(text, position)
        if match is None:
            raise Malformed(text)
        double, single, bare, mark = match.groups()
        if double is not None:
            words.append(double.replace('""', '"'))
        elif single is not None:
            words.append(single.replace("''", "'"))
        else:
            words.append(bare or mark)
        is_bare = bare is not None
        position = match.end()
    if not words:
        raise Malformed(text)
    verb = words[0].upper()
    if len(verb) > VERB_CHARACTERS_MAX:
        raise TooLong(text)
    limit = VALUE_CHARACTERS_MAX if verb == "SET" else ARGUMENT_CHARACTERS_MAX
    if any(len(word) > limit for word in words[1:]):
        raise TooLong(text)
    if verb not in ("SHOW", "SELECT"):
        is_for_fleet = verb in FOR_FLEET and is_bare and len(words) > 1 and words[-1].upper() == "FLEET"
        arguments = words[1:-1] if is_for_fleet else words[1:]
        return Command(text=text, name=verb, arguments=tuple(arguments), is_for_fleet=is_for_fleet)
    subject_words = 2 if words[1:2] and words[1].upper() == "FLEET" else 1
    return Command(
        text=text,
        name=" ".join(("SHOW", *words[1 : 1 + subject_words])).upper(),
        arguments=tuple(words[1 + subject_words :]),
    )
