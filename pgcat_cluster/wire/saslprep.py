"""Prepares a password for SCRAM as PostgreSQL does: SASLprep where it applies, else the bytes as they are."""

from __future__ import annotations

import stringprep
import unicodedata

from pgcat_cluster.wire.reader import to_bytes

# RFC 4013, section 2.3, and unassigned code points (2.5).
_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepared(password: str) -> bytes:
    """The bytes that SCRAM hashes.

    ASCII stays as it is, control characters too. What is no UTF-8, or holds characters that SASLprep
    prohibits, is taken raw, since a password's encoding is not known when it is checked.
    """
    raw = to_bytes(password)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
    if text.isascii():
        return raw
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        # U+200B is in both tables and becomes a space.
        if stringprep.in_table_c12(char) or not stringprep.in_table_b1(char)
    )
    # Checked before normalization, like PostgreSQL: that the two agree matters more than the RFC's order.
    if not mapped or not _is_permitted(mapped) or not _is_bidi_sound(mapped):
        return raw
    return unicodedata.normalize("NFKC", mapped).encode()


def _is_permitted(text: str) -> bool:
    return not any(table(char) for char in text for table in _PROHIBITED)


def _is_bidi_sound(text: str) -> bool:
    """RFC 3454, section 6: text from right to left starts and ends so, and has none from left to right."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))
