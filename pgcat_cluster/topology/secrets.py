"""Secrets of documents: references to them, verifiers, and a value that does not print itself."""

import base64
import binascii
import re
from typing import Literal, Protocol

from msgspec import Struct

from pgcat_cluster.topology.units import Notation


class Secret(Struct, frozen=True):
    """A password or verifier; its text leaves only through `reveal`, never through repr, str or a log."""

    _text: str

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(hidden)"


class SecretReference(Struct, frozen=True, kw_only=True):
    """Where a clear secret is kept: a file below the secrets directory, or an environment variable."""

    kind: Literal["file", "env"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class SecretUnavailable(Exception):
    """A reference can not be followed; the message says why and shows nothing of the secret."""


class Secrets(Protocol):
    """Follows a reference; raises SecretUnavailable. Deciding code is given one: it reads nothing itself."""

    def __call__(self, reference: SecretReference, /) -> str: ...


def no_secrets(reference: SecretReference, /) -> str:
    """Secrets of a place that has none."""
    raise SecretUnavailable("secrets can not be read here")


# A file is named below the secrets directory, without "..": whoever writes documents for a whole fleet
# must not thereby be able to make a node send any file of its machine to a server.
_REFERENCE = (
    r"^(file:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*|env:[A-Za-z_][A-Za-z0-9_]*)$"
)
_VERIFIER = (
    r"^(SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)|md5[0-9a-f]{32})$"
)


def parse_reference(text: str) -> SecretReference:
    """`file:NAME` or `env:NAME`; raises ValueError."""
    if re.fullmatch(_REFERENCE, text) is None:
        raise ValueError("not a reference")
    kind, _, name = text.partition(":")
    return SecretReference(kind="file" if kind == "file" else "env", name=name)


def _checked_reference(text: str) -> str:
    parse_reference(text)
    return text


def _checked_verifier(text: str) -> str:
    match = re.fullmatch(_VERIFIER, text)
    if match is None:
        raise ValueError("not a verifier")
    if match[2] is not None:
        try:
            _, stored, server = (base64.b64decode(part, validate=True) for part in match.groups()[2:])
        except binascii.Error as error:
            raise ValueError("not base64") from error
        # Both keys are SHA-256 digests; another length is a text that was cut while copying.
        if int(match[2]) < 1 or len(stored) != 32 or len(server) != 32:
            raise ValueError("cut or damaged")
    return text


REFERENCE = Notation(
    parse=_checked_reference,
    pattern=_REFERENCE,
    allowed='a reference: "file:NAME" (below the secrets directory) or "env:NAME"',
    secret=True,
)
VERIFIER = Notation(
    parse=_checked_verifier,
    pattern=_VERIFIER,
    allowed='a verifier as in pg_authid: "SCRAM-SHA-256$4096:salt$stored:server", or "md5" and 32 hex digits',
    secret=True,
)
