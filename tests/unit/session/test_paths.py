"""The search_path of a session: which flows it has a say in, what it costs, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgcat_cluster.session.judging import decide_anew
from pgcat_cluster.session.paths import path_in, path_of
from pgcat_cluster.sql.paths import UNKNOWN, Path
from pgcat_cluster.wire import messages as m
from tests.support.scene import Scene

NOTE = "select * from note where data_id = 1 and id = -1"
# Where that is right for public.note, and for any other.
PUBLIC, OTHER = "r1.1", "r2.1"
RULE = "public.note:data_id"


def sharded(tables: str = RULE, **options: object) -> Scene:
    made = Scene(shards=2, sharding={"tables": tables}, options=options)
    for server in ("p1", "r1", "p2", "r2"):
        made.bring(server)
    return made


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = sharded()
    yield made
    made.close()


def answer(scene: Scene, link: str, tag: str = "SELECT 0", row: bytes = b"") -> None:
    scene.send(link, row + m.command_complete(tag) + m.ready_for_query(b"I"))


def set_path(scene: Scene, path: str) -> None:
    scene.send("c1", m.query(f"set search_path = {path}"))
    answer(scene, "p2.1", "SET")
    answer(scene, "p2.1", "SELECT 1", m.data_row([b"s", b"search_path", path.encode()]))


def reads(scene: Scene, link: str, *, is_aligned: bool = True, text: str = NOTE) -> int:
    """A read goes there; how many upcalls it took."""
    before = scene.desk.upcalls
    scene.send("c1", m.query(text))
    if not is_aligned:
        answer(scene, link, "SELECT 1")
    answer(scene, link)
    return scene.desk.upcalls - before


def test_flows_are_remembered_by_path(scene: Scene) -> None:
    scene.meet("c1")
    assert [reads(scene, PUBLIC) for _ in range(4)] == [1, 1, 0, 0]
    set_path(scene, "other")
    assert [reads(scene, OTHER, is_aligned=is_aligned) for is_aligned in (False, True, True)] == [2, 1, 0]
    set_path(scene, "public")
    assert reads(scene, PUBLIC, is_aligned=False) == 2
    # What does not depend on it is shared.
    shared = "select * from public.note where data_id = 1"
    assert [reads(scene, PUBLIC, text=shared) for _ in range(3)] == [1, 1, 0]
    set_path(scene, "other")
    assert reads(scene, PUBLIC, is_aligned=False, text=shared) == 1


def test_rules_without_schemas_know_no_path() -> None:
    scene = sharded("note:data_id")
    client = scene.meet("c1")
    assert [reads(scene, PUBLIC) for _ in range(3)] == [1, 1, 0]
    set_path(scene, "other")
    assert client.path == b""
    assert reads(scene, PUBLIC, is_aligned=False) == 1
    assert reads(scene, PUBLIC) == 0
    scene.close()


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({}, None),
        ({"search_path": "Other, public"}, Path(("other", "public"))),
        ({"options": "-c search_path=other"}, Path(("other",))),
        ({"options": "-x"}, UNKNOWN),
    ],
)
def test_the_pool_gives_a_path(parameters: dict[str, str], path: Path | None) -> None:
    scene = sharded(parameters=parameters)
    client = scene.enter("c1")
    answer(scene, "p1.1")
    assert path_of(client.path) == path
    scene.close()


def test_other_rules(scene: Scene) -> None:
    """A change of the rules leaves clients their paths; what was prepared is decided by the path it was read by."""
    client = scene.meet("c1")
    scene.send("c1", frame(b"P", b"s\0" + NOTE.encode() + b"\0\0\0") + frame(b"S"))
    assert client.server is not None
    scene.send(
        scene.name_of(client.server), m.close_complete() + m.parse_complete() + m.ready_for_query(b"I")
    )
    prepared = client.statements[b"s"]
    set_path(scene, "other")
    assert path_in(client.context) == client.path != b""
    decide_anew(scene.account)
    assert path_of(client.path) == Path(("other",))
    assert prepared.shard == 0
    scene.send("c1", frame(b"B", b"\0s\0\0\0\0\0\0\0") + frame(b"E", b"\0\0\0\0\0") + frame(b"S"))
    assert scene.name_of(client.server) == OTHER
    assert (client.statements[b"s"].shard, prepared.shard) == (1, 0)


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body
