"""Child processes that can not outlive us: spawned, watched, signalled, stopped."""

from __future__ import annotations

import abc
import contextlib
import http.client
import os
import pwd
import signal as signals
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Self

from pgcat_cluster.demo import guard

_POLL_S = 0.02
_ANSWER_S = 2.0
_INTERRUPTING = (signals.SIGINT, signals.SIGTERM)


class DemoFault(Exception):
    """Something a person can read in one line, and, where there is one, the remedy."""


class Started(abc.ABC):
    """What starts as a whole or not at all, and ends in reverse: a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()

    @abc.abstractmethod
    def _start(self) -> None:
        """Start one part after the other, and leave to `_closing` how each ends."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_why: object) -> None:
        self._closing.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A system user that children run as."""

    name: str
    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Whether this user may walk to the path and enter or execute it (ownership and permission bits)."""
        path = path.resolve()
        return all(self._has_search_bit(step) for step in (*path.parents, path))

    def _has_search_bit(self, path: Path) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        if self.uid in (0, status.st_uid):
            return bool(status.st_mode & 0o100)
        return bool(status.st_mode & (0o010 if status.st_gid == self.gid else 0o001))


def server_account() -> Account:
    """Who PostgreSQL runs as: ourselves, but never root, which it refuses."""
    if os.geteuid() != 0:
        ourselves = pwd.getpwuid(os.geteuid())
        return Account(name=ourselves.pw_name, uid=os.geteuid(), gid=os.getegid())
    for name in ("postgres", "nobody"):
        # The user must be in the user database: initdb looks it up.
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise DemoFault(
        "PostgreSQL does not run as root, and there is no user postgres or nobody; run this as a plain user"
    )


def wait_until(
    condition: Callable[[], bool],
    *,
    within_s: float,
    what: str,
    explain: Callable[[], str] | None = None,
) -> None:
    """Return as soon as the condition holds; DemoFault says what did not happen in time, and explains."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            explanation = f"; {explain()}" if explain else ""
            raise DemoFault(f"{what}: not within {within_s:g} s{explanation}")
        time.sleep(_POLL_S)


def said_over_http(address: tuple[str, int], page: str) -> bytes:
    """A page of a child, whatever proxy the environment names; OSError if it is not served."""
    connection = http.client.HTTPConnection(*address, timeout=_ANSWER_S)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"{page}: {answer.status} {answer.reason}")
        return answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{page}: {error!r}") from None
    finally:
        connection.close()


class Child:
    """One process we started. It is known to the guard from its first moment until it has ended."""

    def __init__(self, household: Household, process: subprocess.Popen[bytes], log: Path) -> None:
        self._household = household
        self._process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it lives; forgets it at the guard once it does not."""
        if self._process.poll() is None:
            return True
        self._household.forget(self)
        return False

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def signal(self, number: signals.Signals) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def signal_family(self, number: signals.Signals) -> None:
        """Send a signal to the process and its children."""
        if self.is_running():
            guard.tell(guard.family(self.pid), number)

    def wait(self, within_s: float) -> int:
        """Its exit code, once it has ended; kills it and raises DemoFault when it does not end in time."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoFault(f"a child process did not end within {within_s:g} s") from None
        self._household.forget(self)
        return code

    def stop(self, number: signals.Signals, *, within_s: float) -> None:
        """Ask it to end, wake it if it is frozen, and use force when it does not obey in time."""
        if not self.is_running():
            return
        self.signal(number)
        self.signal_family(signals.SIGCONT)
        with contextlib.suppress(DemoFault):
            self.wait(within_s)

    def kill(self) -> None:
        """End it and its children at once."""
        self.signal_family(signals.SIGKILL)
        self._process.wait()
        self._household.forget(self)

    def last_words(self) -> str:
        """The last line of its log that says what went wrong."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if any(word in line.lower() for word in ("fatal", "error"))]
        return (telling or lines or ["it said nothing"])[-1]


class Interrupted(BaseException):
    """SIGINT or SIGTERM told us to stop."""


class Interruptions:
    """Turns SIGINT and SIGTERM into one Interrupted, raised where it does no harm; later ones are ignored."""

    def __init__(self) -> None:
        self._arrived = False
        self._deferrals = 0
        # Several threads may start children at once.
        self._counting = threading.Lock()

    def __enter__(self) -> Interruptions:
        self._previous = {number: signals.signal(number, self._arrive) for number in _INTERRUPTING}
        return self

    def __exit__(self, *_why: object) -> None:
        for number, handler in self._previous.items():
            signals.signal(number, handler)

    def _arrive(self, _number: int, _frame: FrameType | None) -> None:
        first, self._arrived = not self._arrived, True
        if first and not self._deferrals:
            raise Interrupted

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what is begun be finished: raises after the block instead of inside it."""
        before = self._arrived
        with self._counting:
            self._deferrals += 1
        try:
            yield
        finally:
            with self._counting:
                self._deferrals -= 1
        if self._arrived and not before:
            raise Interrupted


class Household:
    """The folder of a stack and all processes in it; owns the guard that ends them should we die.

    Holds always: a running child is known to the guard; no interruption comes between starting and telling.
    """

    def __init__(self, folder: Path, *, keep: bool, interruptions: Interruptions | None = None) -> None:
        self.folder = folder
        self._interruptions = interruptions or Interruptions()
        self._children: list[Child] = []
        # No child inherits the pipe's write end, so the guard sees its end when we are gone, however we went.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(folder), "keep" if keep else "remove"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
    ) -> Child:
        """Start a child, its output in the log, in a session of its own: a Ctrl-C is ours to pass on."""
        dropped = account is not None and account.uid != os.geteuid()
        with self._interruptions.deferred():
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=stdin or subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=None if environment is None else dict(environment),
                    cwd=self.folder,
                    start_new_session=True,
                    user=account.uid if account and dropped else None,
                    group=account.gid if account and dropped else None,
                    extra_groups=[] if dropped else None,
                )
            child = Child(self, process, log)
            self._children.append(child)
            self._tell_guard(f"+{process.pid}")
        return child

    def forget(self, child: Child) -> None:
        """The child has ended; its pid may soon belong to somebody else."""
        if child in self._children:
            self._children.remove(child)
            self._tell_guard(f"-{child.pid}")

    def close(self) -> None:
        """End whatever still runs and remove the folder, unless it is to be kept."""
        for child in tuple(self._children):
            child.stop(signals.SIGQUIT, within_s=guard.PATIENCE_S)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def _tell_guard(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()
