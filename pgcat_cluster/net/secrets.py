"""Reads secrets from files below one directory and from the environment."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from pgcat_cluster.topology.secrets import SecretReference, SecretUnavailable

# A secret is a password; what is longer is the wrong file.
_SECRET_BYTES_MAX = 64 << 10


class SecretReader:
    """Follows references; `warn` is told once of each file that others than its owner and group may read."""

    def __init__(self, directory: Path, warn: Callable[[str], None] = lambda message: None) -> None:
        self._directory = directory
        self._warn = warn
        self._warned: set[Path] = set()

    def __call__(self, reference: SecretReference, /) -> str:
        """The secret, without the line end of its file. Raises SecretUnavailable."""
        text = (
            self._of_environment(reference.name) if reference.kind == "env" else self._of_file(reference.name)
        )
        if not text:
            raise SecretUnavailable("is empty")
        if "\0" in text:
            raise SecretUnavailable("contains a zero byte")
        return text

    def _of_environment(self, name: str) -> str:
        text = os.environ.get(name)
        if text is None:
            raise SecretUnavailable(f"{name} is not set in the environment")
        return text

    def _of_file(self, name: str) -> str:
        path = self._directory / name
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise SecretUnavailable(f"{path} is not a regular file")
                content = file.read(_SECRET_BYTES_MAX + 1)
        except OSError as error:
            raise SecretUnavailable(f"{path}: {error.strerror}") from None
        if len(content) > _SECRET_BYTES_MAX:
            raise SecretUnavailable(f"{path} is longer than {_SECRET_BYTES_MAX} bytes")
        if status.st_mode & stat.S_IROTH and path not in self._warned:
            self._warned.add(path)
            self._warn(f"{path} can be read by every user of this machine; chmod 640 or 600 helps")
        try:
            return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise SecretUnavailable(f"{path} is not UTF-8") from None
