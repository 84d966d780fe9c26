"""Records what happens in an etcd from its first revision on, with etcd's own client and not with ours."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from pgcat_cluster.agreement.transactions import Event, Row
from tests.support.histories import Recorded

_END_S = 20.0


class Recorder:
    """A watch on all keys of a store; `history` is what it has told so far.

    It connects to the members themselves, and goes on with another one when the one in use is gone.
    """

    def __init__(self, etcdctl: str, endpoints: Sequence[str]) -> None:
        self.history: list[Recorded] = []
        self._began_s = time.monotonic()
        command = [
            etcdctl,
            f"--endpoints={','.join(endpoints)}",
            "watch",
            "--prefix",
            "",
            "--rev=1",
            "-w",
            "json",
        ]
        self._watch = subprocess.Popen(
            command, env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._record, name="recorder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._watch.terminate()
        self._watch.wait(_END_S)
        self._thread.join(_END_S)

    @property
    def revision(self) -> int:
        """Up to which everything is recorded."""
        return self.history[-1].batch.revision if self.history else 0

    def _record(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            at_s = time.monotonic() - self._began_s
            self.history += [Recorded.of(revision, events, at_s) for revision, events in _batches(line)]


def _batches(line: str) -> Iterator[tuple[int, list[Event]]]:
    """What one message of a watch tells, revision by revision."""
    by_revision: defaultdict[int, list[Event]] = defaultdict(list)
    for event in json.loads(line)["Events"] or ():
        row = _row(event["kv"])
        is_put = event.get("type", 0) == 0
        by_revision[row.mod_revision].append(Event(key=row.key, row=row if is_put else None))
    yield from sorted(by_revision.items())


def _row(kv: dict[str, Any]) -> Row:
    return Row(
        key=base64.b64decode(kv["key"]).decode(),
        value=base64.b64decode(kv.get("value", "")),
        create_revision=kv.get("create_revision", 0),
        mod_revision=kv["mod_revision"],
        lease=kv.get("lease", 0),
    )
