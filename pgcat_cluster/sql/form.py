"""One form for statements that differ in nothing but blanks, comments and the case of words."""

from __future__ import annotations

from .tokens import NotUnderstood, cut


def form_of(text: str) -> tuple[str, ...] | None:
    """The tokens of a statement string, constants as they are; None for what can not be cut into tokens."""
    try:
        form = [token.name if token.is_keyword else token.text for token in cut(text)]
    except NotUnderstood:
        return None
    while form and form[-1] == ";":
        form.pop()
    return tuple(form)
