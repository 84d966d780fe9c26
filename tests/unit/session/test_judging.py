"""What prepared statements are decided by, when settings or servers say something else than before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import structs

from pgcat_cluster.session.judging import decide_anew
from pgcat_cluster.wire import messages as m
from tests.support.scene import Scene

PREPARED = m.close_complete() + m.parse_complete() + m.ready_for_query(b"I")


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene(shards=2, sharding={"sticky_comments": True})
    for server in ("p1", "p2"):
        made.bring(server)
    made.meet("c1")
    yield made
    made.check()
    made.close()


def prepare(scene: Scene, name: str, text: str, link: str) -> None:
    scene.send("c1", m.parse(name, text) + m.sync())
    scene.send(link, PREPARED)
    scene.ends["c1"].take()


def test_comments_are_heard_anew_and_the_session_goes_where_it_went(scene: Scene) -> None:
    client = scene.clients["c1"]
    prepare(scene, "a", "/* shard_id: 1 */ delete from t", "p2.1")
    prepare(scene, "b", "/* shard_id: 0 */ delete from t", "p1.1")
    assert [client.statements[name].hint for name in (b"a", b"b")] == [1, 0]
    wished, heard = client.shard_wish, (client.hint, client.role_hint)
    decide_anew(scene.account)
    assert [client.statements[name].hint for name in (b"a", b"b")] == [1, 0]
    assert (client.shard_wish, (client.hint, client.role_hint)) == (wished, heard)


def test_what_settings_say_of_comments_holds_for_what_is_prepared(scene: Scene) -> None:
    client = scene.clients["c1"]
    prepare(scene, "a", "/* shard_id: 1 */ delete from t", "p2.1")
    scene.account.settings = structs.replace(scene.account.settings, comments=False)
    decide_anew(scene.account)
    assert client.statements[b"a"].hint == -1


def test_a_batch_in_progress_is_decided_anew(scene: Scene) -> None:
    client = scene.clients["c1"]
    scene.send("c1", m.parse("a", "select * from t where id = 1") + m.flush())
    (flow,) = {one.flow for one in client.planned.values()}
    assert flow.role == 1
    scene.account.settings = structs.replace(scene.account.settings, reads="primary")
    decide_anew(scene.account)
    (flow,) = {one.flow for one in client.planned.values()}
    assert flow.role == 0
