"""A PostgreSQL proxy that is a fleet: pooling, read/write splitting and fail-over, agreed through etcd."""

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

__version__ = "0.1.0"


class _SourceFinder:
    """Finds the modules of `relay` as source only, although compiled ones lie beside, for PGCAT_PURE=1."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None or not name.startswith("pgcat_cluster.relay."):
            return None
        loader = (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES)
        for folder in path:
            if spec := importlib.machinery.FileFinder(folder, loader).find_spec(name, target):
                return spec
        return None


if os.environ.get("PGCAT_PURE", "0") not in ("", "0"):
    sys.meta_path.insert(0, _SourceFinder)
