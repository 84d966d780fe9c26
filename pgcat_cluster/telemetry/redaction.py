"""Keeps secrets out of whatever leaves the node: consoles, the status answer and log lines."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from pgcat_cluster.telemetry.snapshot import Setting

REDACTED = "****"

# Paths such as `tls.key_file` are no secrets, so `key` alone is not among the words.
_SECRET_KEY = re.compile(r"passw|passphrase|secret|credential|token|verifier|private_key$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"""SCRAM-SHA-256\$[^\s"',;]+"""  # a stored verifier
    r"""|\bmd5[0-9a-f]{32}\b"""  # a stored or sent MD5 password
    r"""|(?<=://)[^/\s:@]*:[^/\s@]*(?=@)"""  # user:password of a URL
    r"""|(?<=password=)("[^"]*"|'[^']*'|[^\s&"',;]+)"""  # of a connection string
    r"""|(?<=password )'[^']*'""",  # of CREATE or ALTER ROLE
    re.IGNORECASE,
)


def is_secret(key: str) -> bool:
    """Whether a setting or a log key of this name holds a secret, whatever its value."""
    return _SECRET_KEY.search(key) is not None


def redact(text: str) -> str:
    """The text without whatever looks like a password or a verifier."""
    return _SECRET_TEXT.sub(REDACTED, text)


def redact_settings(settings: Iterable[Setting]) -> tuple[Setting, ...]:
    return tuple(
        msgspec.structs.replace(setting, value=REDACTED, default="")
        if is_secret(setting.key)
        else msgspec.structs.replace(setting, value=redact(setting.value), default=redact(setting.default))
        for setting in settings
    )
