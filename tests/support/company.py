"""Clients that share servers through the relay, each beside one server of its own: their answers must be the same."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from pgcat_cluster.relay.client import Client
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.wire import messages as m
from pgcat_cluster.wire.trace import format_frame
from tests.support.backend import Backend
from tests.support.scene import Scene

Pieces = Literal["whole", "bytes", "random"]
ROUNDS_MAX = 10_000


class Company:
    """A scene whose far ends are played: servers by models, clients by whoever calls `say`."""

    def __init__(
        self,
        options: Mapping[str, str],
        *,
        servers: tuple[str, ...] = ("p1", "r1"),
        statement_bytes_max: int = 1 << 20,
        seed: int = 0,
    ) -> None:
        self.scene = Scene(servers=servers, options=options, statement_bytes_max=statement_bytes_max)
        self.backends: dict[str, Backend] = {}
        self.alone: dict[str, Backend] = {}
        self.expected: dict[str, bytearray] = {}
        self.got: dict[str, bytearray] = {}
        self.said: list[str] = []
        self.is_whole: dict[str, bool] = {}
        self.random = random.Random(seed)
        self.entered = 0

    def enter(self) -> str:
        self.entered += 1
        name = f"c{self.entered}"
        self.scene.meet(name)
        self.alone[name] = Backend()
        self.expected[name] = bytearray()
        self.got[name] = bytearray()
        self.is_whole[name] = True
        return name

    def say(self, name: str, *frames: bytes, pieces: Pieces = "whole") -> None:
        """A client sends; then everybody goes on until nobody can. Its answers so far must be the right ones."""
        data = b"".join(frames)
        self.said += [f"{name}: {format_frame('frontend', frame)}" for frame in frames]
        answer = self.alone[name].feed(data)
        self.expected[name] += answer
        self.is_whole[name] = frames[-1][:1] in b"QSH" or data.endswith(b"c\0\0\0\4")
        self.scene.send(name, *self._cut(data, pieces))
        self.go_on(pieces)
        self.compare()
        if any(frame[:6] == b"P" + frame[1:5] + b"\0" for frame in frames) and b"SERROR\0" in answer:
            # Whether the unnamed statement was passed over (the earlier one lives) or failed itself (none does)
            # nobody could tell from the answers; we say none. A Query drops it for sure.
            self.say(name, m.sync(), m.query(""))

    def leave(self, name: str) -> None:
        self.said.append(f"{name} leaves")
        self.scene.leave(name)
        del self.alone[name]
        self.go_on("whole")

    def _cut(self, data: bytes, pieces: Pieces) -> list[bytes]:
        size = {"whole": len(data) or 1, "bytes": 1, "random": self.random.choice((1, 3, 5, 7, 20, 100))}[
            pieces
        ]
        return [data[start : start + size] for start in range(0, len(data), size)]

    def go_on(self, pieces: Pieces) -> None:
        scene = self.scene
        for _ in range(ROUNDS_MAX):
            scene.settle()
            asked, scene.calls = scene.calls, []
            for call in asked:
                verb, _, server = call.partition(" ")
                assert verb == "open", "\n".join([*self.said, call])
                scene.open(server)
            moved = bool(asked)
            for name in list(scene.links):
                if data := scene.ends[name].take():
                    backend = self.backends.setdefault(name, Backend(is_standby=name.startswith("r")))
                    answer = backend.feed(data)
                    if scene.links[name].closed:
                        continue
                    scene.send(name, *self._cut(answer, pieces))
                    moved = True
            if not moved:
                return
        raise AssertionError("they never come to rest")

    def compare(self) -> None:
        scene = self.scene
        scene.check()
        for name in self.alone:
            client: Client = scene.clients[name]
            self.got[name] += scene.ends[name].take()
            got, expected = self.got[name], self.expected[name]
            is_due = self.is_whole[name] and not client.waiting
            assert not scene.ends[name].is_closed, self._story(name)
            assert (got == expected) if is_due else expected.startswith(got), self._story(name)
        for name, link in scene.links.items():
            if link.resting and not link.closed:
                backend = self.backends.get(name, Backend())
                assert backend.status == b"I"
                assert isinstance(link.parameters, Parameters)
                assert link.parameters.values.get("work_mem", "4") == backend.work_mem
                known = {statement.server_name.decode() for statement in link.prepared}
                assert known <= backend.statements.keys(), (
                    f"{name} does not know {known - backend.statements.keys()}"
                )

    def finish(self) -> None:
        """Everybody ends what it does; then all answers are there, and all links rest."""
        for _ in range(2):
            for name in self.alone:
                self.say(name, m.sync(), m.query("rollback"), m.query("deallocate all"))
        assert not any(self.scene.clients[name].waiting for name in self.alone)
        for name in list(self.alone):
            self.leave(name)
        assert all(link.resting or link.closed for link in self.scene.links.values())
        self.scene.check()

    def _story(self, name: str) -> str:
        """What was said, and both answers."""
        return "\n".join(
            [
                *self.said,
                f"-- {name} should get",
                *_frames(bytes(self.expected[name])),
                f"-- {name} gets",
                *_frames(bytes(self.got[name])),
            ]
        )


def _frames(data: bytes) -> list[str]:
    lines = []
    while len(data) >= 5:
        size = 1 + int.from_bytes(data[1:5], "big")
        lines.append(format_frame("backend", data[:size]) if len(data) >= size else repr(data))
        data = data[size:]
    return lines
