"""How numbers with a unit and addresses are written in documents, and back."""

import re
from collections.abc import Callable

from msgspec import Struct

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Address(Struct, frozen=True, order=True):
    """Where something listens; `host` is a name or an address, an IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Notation(Struct, frozen=True, kw_only=True):
    """A way to write a value as text: `parse` raises ValueError for anything else, `show` is its inverse.

    `pattern` says the same to JSON Schema, `allowed` to a person. Texts of a `secret` one are never shown.
    """

    parse: Callable[[str], float | int | str]
    show: Callable[[float], str] = str
    pattern: str
    allowed: str
    secret: bool = False


def _matched(pattern: str, text: str) -> re.Match[str]:
    match = re.fullmatch(pattern, text)
    if match is None:
        raise ValueError(text)
    return match


# At most nine digits before the point: no text, however long, becomes an infinite or absurd number.
_DURATION = r"^(0|([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d))$"
_SIZE = r"^(0|([0-9]{1,9})(B|KiB|MiB|GiB))$"


def parse_duration(text: str) -> float:
    """Seconds of `250ms`, `1.5s`, `5m`, `1h`, `2d` or `0`."""
    _, number, unit = _matched(_DURATION, text).groups()
    # Milliseconds divide, so that "250ms" is exactly 0.25 and not the nearest product.
    return 0.0 if unit is None else float(number) / 1000 if unit == "ms" else float(number) * _SECONDS[unit]


def show_duration(seconds: float) -> str:
    """The shortest text that parses to `seconds`."""
    if seconds == 0:
        return "0"
    for unit in ("d", "h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    milliseconds = round(seconds * 1000, 6)
    return f"{milliseconds:.0f}ms" if milliseconds.is_integer() else f"{milliseconds}ms"


def parse_size(text: str) -> int:
    """Bytes of `512B`, `64KiB`, `64MiB`, `1GiB` or `0`."""
    _, number, unit = _matched(_SIZE, text).groups()
    return 0 if unit is None else int(number) * _BYTES[unit]


def show_size(size_bytes: float) -> str:
    """The shortest text that parses to `size_bytes`."""
    if size_bytes == 0:
        return "0"
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size_bytes % _BYTES[unit] == 0)
    return f"{int(size_bytes) // _BYTES[unit]}{unit}"


# In front of an address: it speaks TLS.
HTTPS = "https://"


def parse_address(text: str) -> Address:
    """`127.0.0.1:6432`, `name:6432` or `[::1]:6432`; port 0 is any free one."""
    bracketed, plain, port = _matched(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", text).groups()
    if int(port) > 65535:
        raise ValueError(text)
    return Address(bracketed or plain, int(port))


def _checked_address(text: str) -> str:
    parse_address(text)
    return text


def _checked_endpoint(text: str) -> str:
    _checked_address(text.removeprefix(HTTPS))
    return text


def _checked_address_or_off(text: str) -> str:
    return text and _checked_address(text)


DURATION = Notation(
    parse=parse_duration,
    show=show_duration,
    pattern=_DURATION,
    allowed='a duration such as "250ms", "6s", "5m", "1h"',
)
SIZE = Notation(
    parse=parse_size,
    show=show_size,
    pattern=_SIZE,
    allowed='a size such as "512B", "64KiB", "64MiB", "1GiB"',
)
ADDRESS = Notation(
    parse=_checked_address,
    pattern=r"^.+:[0-9]{1,5}$",
    allowed='an address with a port such as "127.0.0.1:6432" or "[::1]:6432"',
)
ADDRESS_OR_OFF = Notation(
    parse=_checked_address_or_off,
    pattern=r"^(.+:[0-9]{1,5})?$",
    allowed='an address with a port such as "127.0.0.1:9930", or "" for off',
)
ENDPOINT = Notation(
    parse=_checked_endpoint,
    pattern=r"^(https://)?.+:[0-9]{1,5}$",
    allowed='an address with a port such as "10.0.0.1:2379", or "https://10.0.0.1:2379" for TLS',
)
