"""Responses of a watch become whole batches, in order, each once."""

from __future__ import annotations

from typing import Any

from aetcd import rpc

from pgcat_cluster.fleet.etcd import Assembly


def events(*named: tuple[int, str]) -> list[Any]:
    return [
        rpc.Event(type="PUT", kv=rpc.KeyValue(key=key.encode(), mod_revision=revision))
        for revision, key in named
    ]


def taken(assembly: Assembly, response: Any, *, true: bool = True) -> list[tuple[int, list[str]]]:
    batches = assembly.take(response, tells_true_progress=true)
    return [(batch.revision, [event.key for event in batch.events]) for batch in batches]


def progress(revision: int) -> Any:
    return rpc.WatchResponse(header=rpc.ResponseHeader(revision=revision))


def test_one_response_may_hold_many_revisions() -> None:
    response = rpc.WatchResponse(events=events((4, "a"), (4, "b"), (6, "a")))
    assert taken(Assembly(4), response) == [(4, ["a", "b"]), (6, ["a"])]


def test_a_revision_in_fragments_waits_for_its_last_part() -> None:
    assembly = Assembly(4)
    assert taken(assembly, rpc.WatchResponse(events=events((4, "a")), fragment=True)) == []
    assert taken(assembly, rpc.WatchResponse(events=events((4, "b"), (5, "a")), fragment=True)) == []
    assert taken(assembly, rpc.WatchResponse(events=events((5, "b")))) == [(4, ["a", "b"]), (5, ["a", "b"])]


def test_what_was_told_is_not_told_again() -> None:
    assembly = Assembly(4)
    taken(assembly, rpc.WatchResponse(events=events((4, "a"), (5, "a"))))
    assert taken(assembly, rpc.WatchResponse(events=events((3, "a"), (4, "a"), (5, "a"), (6, "a")))) == [
        (6, ["a"])
    ]


def test_progress_says_how_far_the_stream_is() -> None:
    assembly = Assembly(4)
    assert taken(assembly, progress(9)) == [(9, [])]
    assert taken(assembly, progress(9)) == []
    assert taken(assembly, rpc.WatchResponse(events=events((10, "a")))) == [(10, ["a"])]


def test_progress_that_may_overtake_events_says_nothing() -> None:
    assembly = Assembly(4)
    assert taken(assembly, progress(9), true=False) == []
    assert taken(assembly, rpc.WatchResponse(events=events((5, "a"))), true=False) == [(5, ["a"])]
