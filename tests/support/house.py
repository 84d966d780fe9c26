"""The map of the house: rooms and modules with the sentence each begins with."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "pgcat_cluster"


def rooms() -> str:
    """The top of the package: each room and each module beside them."""
    return _drawn([path for path in _entries(PACKAGE) if path.stem != "__main__"])


def modules() -> str:
    """Every room with its modules."""
    return "\n\n".join(
        _drawn([path, *_entries(path)]) if path.is_dir() else _drawn([path]) for path in _entries(PACKAGE)
    )


def _entries(folder: Path) -> list[Path]:
    """Rooms first, then modules."""
    found = [path for path in folder.glob("*.py") if path.stem != "__init__"]
    found += [path.parent for path in folder.glob("*/__init__.py")]
    return sorted(found, key=lambda path: (not path.is_dir(), path.name))


def _drawn(paths: list[Path]) -> str:
    names = [path.relative_to(PACKAGE).as_posix() + "/" * path.is_dir() for path in paths]
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_sentence(path)}" for name, path in zip(names, paths, strict=True))


def _sentence(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(source.read_text()))
    assert docstring, f"{source} does not say what it is for"
    return docstring.splitlines()[0]


if __name__ == "__main__":
    print(modules())
