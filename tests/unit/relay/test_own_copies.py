"""Tests that clients and servers get their own copies of inherited methods, which do the same."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType

import pytest

from pgcat_cluster.relay.build import build_kind
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.links import Link
from pgcat_cluster.relay.own_copies import give_own_copies
from pgcat_cluster.relay.server import Server
from pgcat_cluster.wire import messages as m
from tests.support.scene import Scene


@pytest.fixture
def shared() -> Iterator[None]:
    """Takes the copies away again."""
    before = {owner: set(vars(owner)) for owner in (Client, Server)}
    yield
    for owner, names in before.items():
        for name in set(vars(owner)) - names:
            delattr(owner, name)


@pytest.mark.usefixtures("shared")
def test_what_is_inherited_is_copied_once_and_goes_on_to_work() -> None:
    give_own_copies()
    copied = vars(Client).get("on_readable")
    give_own_copies()
    if build_kind() == "compiled":
        assert copied is None
    else:
        assert isinstance(copied, FunctionType)
        assert vars(Client)["on_readable"] is copied
        assert copied is not vars(Server)["on_readable"]
        assert copied.__code__.co_code == Link.on_readable.__code__.co_code
    scene = Scene()
    try:
        scene.bring("r1")
        scene.meet("c1")
        scene.send("c1", m.query("select 1"))
        assert scene.ends["r1.1"].take() == m.query("select 1")
        answer = m.command_complete("SELECT 1") + m.ready_for_query(b"I")
        scene.send("r1.1", answer)
        assert scene.ends["c1"].take() == answer
    finally:
        scene.close()
