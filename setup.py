"""Compiles the data plane, that is every module of `relay` with a `.pxd` beside it, where a C compiler is."""

import os
import pathlib
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

RELAY = pathlib.Path("pgcat_cluster", "relay")
# Debug information about generated C helps nobody and takes a while to make.
COMPILER_OPTIONS = [] if os.name == "nt" else ["-g0"]
DIRECTIVES: dict[str, Any] = {
    "language_level": 3,
    # Annotations are for readers and mypy; C types stand in the .pxd alone.
    "annotation_typing": False,
    "auto_pickle": False,
    "boundscheck": False,
    "embedsignature": True,
    "initializedcheck": False,
    "wraparound": False,
}


class BuildAllOrNone(build_ext):
    """Builds every extension or, where the C compiler fails, none: half of it compiled was never tested."""

    def finalize_options(self) -> None:
        # Not at the top: who asks for metadata should neither need Cython nor wait for it.
        from Cython.Build import cythonize

        if self.distribution.ext_modules:
            self.distribution.ext_modules[:] = cythonize(
                self.distribution.ext_modules,
                build_dir="build/cython",
                compiler_directives=DIRECTIVES,
                quiet=True,
            )
        super().finalize_options()

    def run(self) -> None:
        inplace = self.inplace
        try:
            super().run()
        except (CCompilerError, BaseError) as error:
            # Gone with what was built just now, and with what an earlier build left in place.
            for self.inplace in {False, bool(inplace)}:
                for extension in self.extensions:
                    pathlib.Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []
            self.warn(f"the data plane stays interpreted, since it could not be compiled: {error}")


def extensions() -> list[Extension]:
    """One extension per `.pxd`; its source is the `.py`, or the `.pyx` of the few modules with two bodies."""
    if os.environ.get("PGCAT_PURE", "0") not in ("", "0"):
        return []
    found = []
    for declarations in sorted(RELAY.glob("*.pxd")):
        compiled_body = declarations.with_suffix(".pyx")
        source = compiled_body if compiled_body.exists() else declarations.with_suffix(".py")
        name = ".".join(declarations.with_suffix("").parts)
        found.append(Extension(name, [source.as_posix()], extra_compile_args=COMPILER_OPTIONS))
    return found


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildAllOrNone})
