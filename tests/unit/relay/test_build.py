"""Tests of the build: compiled where possible, interpreted on demand, never half of each, never stale."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

import pgcat_cluster
from pgcat_cluster.relay import build

ROOT = Path(__file__).parents[3]
RELAY = Path(pgcat_cluster.__file__).parent / "relay"
PRINT_KIND = "from pgcat_cluster.relay.build import build_kind; print(build_kind())"


def compiled_files(folder: Path) -> set[str]:
    return {path.name.split(".")[0] for suffix in EXTENSION_SUFFIXES for path in folder.glob(f"*{suffix}")}


def sources(name: str) -> list[Path]:
    body = RELAY / f"{name}.pyx"
    return [RELAY / f"{name}.pxd", body if body.exists() else RELAY / f"{name}.py"]


def output(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    ours = ("PGCAT_PURE", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        command, cwd=cwd, env=inherited | environment, check=True, capture_output=True, text=True, timeout=600
    ).stdout.strip()


def test_pure_runs_the_source_although_compiled_files_lie_beside() -> None:
    assert output(sys.executable, "-c", PRINT_KIND, PGCAT_PURE="1") == "interpreted"


def test_without_pure_the_kind_is_what_was_built() -> None:
    expected = "compiled" if compiled_files(RELAY) else "interpreted"
    assert output(sys.executable, "-c", PRINT_KIND, PGCAT_PURE="0") == expected


def test_this_process_runs_what_the_variable_asks_for() -> None:
    pure = os.environ.get("PGCAT_PURE", "0") not in ("", "0")
    assert build.build_kind() == ("interpreted" if pure or not compiled_files(RELAY) else "compiled")


def test_a_mixture_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    class OtherLoader:
        pass

    def half(name: str) -> object:
        if name.endswith(".sockets"):
            other = OtherLoader() if build_is_compiled else EXTENSION_LOADER
            return SimpleNamespace(__loader__=other)
        return real(name)

    build_is_compiled = build.build_kind() == "compiled"
    monkeypatch.setattr(build.importlib, "import_module", half)
    with pytest.raises(ImportError, match=r"part of the data plane is compiled .*sockets.*PGCAT_PURE=1"):
        build.build_kind()


EXTENSION_LOADER = importlib.machinery.ExtensionFileLoader("nothing", "nothing")


def test_no_compiled_file_is_older_than_its_source() -> None:
    stale = [
        name
        for name in sorted(compiled_files(RELAY))
        for built in (max(path.stat().st_mtime for path in RELAY.glob(f"{name}.*.so")),)
        if any(source.stat().st_mtime > built for source in sources(name))
    ]
    assert stale == [], "run: python setup.py -q build_ext --inplace"


def test_every_compiled_file_has_its_declarations() -> None:
    orphans = compiled_files(RELAY) - {path.stem for path in RELAY.glob("*.pxd")}
    assert orphans == set(), "these were left behind by modules that are gone: delete them"


@pytest.mark.once
@pytest.mark.live_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, "compiled"), ({"CC": "/nonexistent"}, "interpreted"), ({"PGCAT_PURE": "1"}, "interpreted")],
    ids=["with a compiler", "without one", "not wanted"],
)
def test_pip_install(tmp_path: Path, environment: dict[str, str], kind: str) -> None:
    # A copy, for a build leaves files in the tree that it builds.
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pgcat_cluster", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        output("cp", "-r", ROOT / name, tree / name)
    for path in (tree / "pgcat_cluster").rglob("*.so"):
        path.unlink()
    site = tmp_path / "site"
    output(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--target", site, tree),
        **environment,
    )
    assert output(sys.executable, "-c", PRINT_KIND, cwd=tmp_path, PYTHONPATH=str(site)) == kind
    installed = site / "pgcat_cluster" / "relay"
    declared = {path.stem for path in installed.glob("*.pxd")}
    assert declared == {path.stem for path in RELAY.glob("*.pxd")}
    assert compiled_files(installed) == (declared if kind == "compiled" else set())
