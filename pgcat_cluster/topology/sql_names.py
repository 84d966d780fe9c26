"""Names of tables and columns as SQL writes them, and the one form of all that name the same."""

import re

_PLAIN = r'[^\s".;]+'
_PART = rf'(?:{_PLAIN}|"(?:[^"]|"")+")'
COLUMN = rf"^{_PART}$"
TABLE = rf"^({_PART}\.)?{_PART}$"


def canonical_name(said: str) -> str:
    """The name folded as PostgreSQL does, and in quotes only where it needs them."""
    return ".".join(map(_canonical_part, re.findall(_PART, said)))


def _canonical_part(said: str) -> str:
    # Letters beyond ASCII stay as they are: whether PostgreSQL folds them is a matter of its locale.
    name = said[1:-1].replace('""', '"') if said.startswith('"') else said.encode().lower().decode()
    is_plain = re.fullmatch(_PLAIN, name) and name == name.encode().lower().decode()
    return name if is_plain else '"' + name.replace('"', '""') + '"'
