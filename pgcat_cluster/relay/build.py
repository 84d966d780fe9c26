"""Tells whether the data plane runs compiled or interpreted."""

import importlib
import pathlib
from importlib.machinery import ExtensionFileLoader
from typing import Literal


def build_kind() -> Literal["compiled", "interpreted"]:
    """Look at every module that can be compiled, as it is loaded in this process.

    Raises ImportError when some are compiled and some are not: such a mixture was never tested.
    """
    compiled: list[str] = []
    interpreted: list[str] = []
    for declarations in sorted(pathlib.Path(__file__).parent.glob("*.pxd")):
        module = importlib.import_module(f"{__package__}.{declarations.stem}")
        is_compiled = isinstance(module.__loader__, ExtensionFileLoader)
        (compiled if is_compiled else interpreted).append(declarations.stem)
    if compiled and interpreted:
        raise ImportError(
            f"part of the data plane is compiled ({', '.join(compiled)}),"
            f" part is not ({', '.join(interpreted)}): install again, or set PGCAT_PURE=1"
        )
    return "compiled" if compiled else "interpreted"
