"""Answers to commands: their pieces for the extended protocol, and what a session that is bound may not do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import structs

from pgcat_cluster.errors import Unsupported
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.flows import Statement
from pgcat_cluster.session.account import ShardPlace
from pgcat_cluster.session.answers import answer as answer_of
from pgcat_cluster.session.answers import foretold
from pgcat_cluster.session.decisions import COMMAND
from pgcat_cluster.session.keyed import Asked
from pgcat_cluster.session.replies import Column, CommandAnswer, description
from pgcat_cluster.topology.model import Shard
from pgcat_cluster.wire import messages
from tests.support.scene import Scene

IDLE, OPEN = 0x49, 0x54


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def answer(client: Client, text: str) -> CommandAnswer:
    return answer_of(client, COMMAND, Asked(text=text.encode()))


def command(text: bytes, types: bytes = b"\0\0") -> Statement:
    return Statement(text, types, COMMAND, b"")


def names(text: str) -> list[str]:
    return [column.name for column in foretold(COMMAND, text).columns]


def test_what_is_known_before_a_command_is_carried_out() -> None:
    assert names("show server role") == ["server role"]
    assert names("show pgcat.server_role") == ["pgcat.server_role"]
    assert names("show pgcat.route") == ["shard", "role", "server", "reason"]
    assert names("explain route select 1") == ["route"]
    assert names("set shard to 1") == []
    assert isinstance(foretold(COMMAND, "begin; set shard to 1").fault, Unsupported)


def test_columns_and_answers_frame_by_frame(scene: Scene) -> None:
    client = scene.meet("c1")
    control = scene.control
    bind = messages.bind("", "", [], result_formats=[1])[5:].removeprefix(b"\0\0")
    assert control.own_columns(client, command(b"show shard"), b"") == messages.parameter_description(
        ()
    ) + description((Column("shard"),))
    assert control.own_columns(client, command(b"show shard"), bind) == description((Column("shard"),), (1,))
    assert control.own_columns(client, command(b"set shard to 0"), bind) == messages.no_data()
    assert control.own_answer(client, command(b"set shard to 0"), b"") == messages.command_complete(
        "SET SHARD"
    )
    assert control.own_answer(client, command(b"show shard"), bind) == messages.data_row(
        [b"0"]
    ) + messages.command_complete("SELECT 1")
    assert control.own_answer(client, command(b"set shard to 7"), b"")[:1] == b"E"
    assert scene.account.faults["22023"] == 1


def refusal(scene: Scene, text: str) -> tuple[str, str | None]:
    fault = answer(scene.clients["c1"], text).fault
    assert fault is not None
    return fault.message, fault.detail


def test_a_session_that_is_bound_stays_in_its_shard(scene: Scene) -> None:
    client = scene.meet("c1")
    # A second shard, of which nothing but the number is asked.
    second = Shard(number=1, cluster="main", database="test")
    scene.account.shards.append(ShardPlace(second, scene.account.shards[0].view))
    scene.account.settings = structs.replace(scene.settings, shards=(*scene.settings.shards, second))
    link = scene.bring("p1")
    assert answer(client, "set shard to 1").fault is None
    assert client.shard_wish == 1
    assert answer(client, "set shard to 0").fault is None
    scene.send("c1", messages.query("begin"))
    scene.send(scene.name_of(link), messages.command_complete("BEGIN") + messages.ready_for_query(b"T"))
    assert (client.server, client.status) == (link, OPEN)
    assert refusal(scene, "set shard to 1") == (
        "the session can not change to shard 1 now",
        "Because its transaction runs in shard 0.",
    )
    assert refusal(scene, "set local pgcat.shard = 1")[0] == "the session can not change to shard 1 now"
    assert answer(client, "set shard to 0").fault is None
    scene.send("c1", messages.query("commit"))
    scene.send(scene.name_of(link), messages.command_complete("COMMIT") + messages.ready_for_query(b"I"))
    assert answer(client, "set shard to 1").fault is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set sharding key to abc", "sharding key abc must stand in quotes"),
        ("set sharding key to 'abc'", 'invalid input syntax for type bigint: "abc"'),
        (f"set sharding key to {2**63}", f'value "{2**63}" is out of range for type bigint'),
        ("set pgcat.wait_for = '0/1'", "this pool keeps no positions"),
        ("show pgcat.consistency_token", "this pool keeps no positions"),
    ],
)
def test_refusals(scene: Scene, text: str, message: str) -> None:
    scene.meet("c1")
    assert refusal(scene, text)[0] == message


def test_a_key_in_an_encoding_that_is_not_understood(scene: Scene) -> None:
    client = scene.meet("c1")
    client.parameters = scene.control.catalogue.of({"client_encoding": "LATIN1"})
    message, detail = refusal(scene, "set sharding key to 'é'")
    assert message == "a sharding key of other characters than ASCII needs the client encoding UTF8"
    assert detail == "The client encoding is latin1."
