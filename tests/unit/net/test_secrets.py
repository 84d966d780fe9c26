"""Secrets from files and from the environment: what is read, what is refused, what is warned of."""

from pathlib import Path

import pytest

from pgcat_cluster.net.secrets import SecretReader
from pgcat_cluster.topology.secrets import SecretUnavailable, parse_reference


def _file(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    file = directory / "app.secret"
    file.write_bytes(content)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b" two\n\n", " two\n"),
        ("gehe\u00efm\n".encode(), "gehe\u00efm"),
    ],
)
def test_a_file_without_its_line_end(tmp_path: Path, content: bytes, secret: str) -> None:
    _file(tmp_path, content)
    assert SecretReader(tmp_path)(parse_reference("file:app.secret")) == secret


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\0b", "contains a zero byte"),
        (b"\xff", "app.secret is not UTF-8"),
        (b"x" * 65537, "app.secret is longer than 65536 bytes"),
    ],
)
def test_a_file_that_is_no_secret(tmp_path: Path, content: bytes, why: str) -> None:
    _file(tmp_path, content)
    with pytest.raises(SecretUnavailable, match=why):
        SecretReader(tmp_path)(parse_reference("file:app.secret"))


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP_PASSWORD", raising=False)
    (tmp_path / "folder").mkdir()
    reader = SecretReader(tmp_path)
    with pytest.raises(SecretUnavailable, match=r"app\.secret: No such file or directory"):
        reader(parse_reference("file:app.secret"))
    with pytest.raises(SecretUnavailable, match="folder: Is a directory"):
        reader(parse_reference("file:folder"))
    with pytest.raises(SecretUnavailable, match="APP_PASSWORD is not set in the environment"):
        reader(parse_reference("env:APP_PASSWORD"))


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PASSWORD", "hunter2")
    assert SecretReader(tmp_path)(parse_reference("env:APP_PASSWORD")) == "hunter2"


def test_a_file_that_everybody_may_read_is_warned_of_once(tmp_path: Path) -> None:
    file = _file(tmp_path, b"hunter2", 0o644)
    warnings: list[str] = []
    reader = SecretReader(tmp_path, warnings.append)
    reader(parse_reference("file:app.secret"))
    reader(parse_reference("file:app.secret"))
    assert warnings == [f"{file} can be read by every user of this machine; chmod 640 or 600 helps"]
