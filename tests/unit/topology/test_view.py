"""The view that routing reads: how it begins, how it is replaced, how it follows a changed topology."""

from pgcat_cluster.topology.model import ServerKey, Topology, build
from pgcat_cluster.topology.reading import parse
from pgcat_cluster.topology.units import Address
from pgcat_cluster.topology.view import NOT_SEEN, ClusterView, first_view

R1, R2, R3 = (ServerKey("main", f"r{number}", Address(f"h{number}", 5432)) for number in (1, 2, 3))


def _topology(
    leadership: str, servers: str = 'r1 = {host="h1"}, r2 = {host="h2", weight=7}, r3 = {host="h3"}'
) -> Topology:
    return build(parse(f"[clusters.main]\nservers = {{ {servers} }}\nleadership = {leadership}", "x"))


STATIC = '{ source = "static", primary = "r1" }'
OBSERVE = '{ source = "observe" }'


def _readable(view: ClusterView) -> list[ServerKey]:
    return [server.key for server in view.readable]


def test_a_static_cluster_is_believed_at_once() -> None:
    main = first_view(_topology(STATIC)).clusters["main"]
    assert (main.primary, main.why_no_primary) == (R1, "")
    assert _readable(main) == [R2, R3]
    assert [server.weight for server in main.replicas] == [7, 100]


def test_an_observed_cluster_is_awaited() -> None:
    main = first_view(_topology(OBSERVE)).clusters["main"]
    assert (main.primary, main.why_no_primary) == (None, NOT_SEEN)
    assert _readable(main) == []
    assert main.refusals() == f"r1: {NOT_SEEN}; r2: {NOT_SEEN}; r3: {NOT_SEEN}"


def test_each_change_is_another_view_and_no_change_is_none() -> None:
    before = first_view(_topology(STATIC))
    main = before.clusters["main"]
    after = before.with_cluster(main.with_server("r2", "lags 12 s"))
    assert (before.generation, after.generation) == (0, 1)
    assert _readable(before.clusters["main"]) == [R2, R3]
    assert _readable(after.clusters["main"]) == [R3]
    assert after.clusters["main"].refusals() == "r2: lags 12 s"
    assert after.with_cluster(after.clusters["main"].with_server("r2", "lags 12 s")) is after
    assert _readable(after.clusters["main"].with_server("r2", "")) == [R2, R3]


def test_another_primary_leaves_the_old_one_among_the_replicas() -> None:
    main = first_view(_topology(STATIC)).clusters["main"].with_server("r1", "refused").with_primary("r2")
    assert main.primary == R2
    assert [server.key for server in main.replicas] == [R1, R3]
    assert _readable(main) == [R3]
    gone = main.with_primary(None, "nobody is out of recovery")
    assert (gone.primary, gone.why_no_primary) == (None, "nobody is out of recovery")


def test_a_changed_topology_keeps_the_standing_of_what_stayed() -> None:
    view = first_view(_topology(OBSERVE))
    main = view.clusters["main"].with_primary("r1").with_server("r2", "").with_server("r3", "refused")
    view = view.with_cluster(main).with_topology(
        _topology(OBSERVE, 'r1 = {host="h1"}, r2 = {host="h2", weight=9}, r3 = {host="moved"}'), {"main"}
    )
    main = view.clusters["main"]
    assert (main.primary, view.generation) == (R1, 2)
    assert [(server.key.address.host, server.weight, server.why_not) for server in main.replicas] == [
        ("h2", 9, ""),
        ("moved", 100, NOT_SEEN),
    ]


def test_a_primary_that_was_removed_is_none() -> None:
    view = first_view(_topology(OBSERVE))
    view = view.with_cluster(view.clusters["main"].with_primary("r1")).with_topology(
        _topology(OBSERVE, 'r2 = {host="h2"}'), {"main"}
    )
    assert view.clusters["main"].primary is None
    assert view.clusters["main"].why_no_primary == "the primary was removed"


def test_a_static_primary_is_followed_where_the_document_says() -> None:
    view = first_view(_topology(OBSERVE)).with_topology(
        _topology('{ source = "static", primary = "r3" }'), {"main"}
    )
    assert view.clusters["main"].primary == R3


def test_a_cluster_that_did_not_change_is_the_very_same() -> None:
    view = first_view(_topology(OBSERVE))
    assert view.with_topology(_topology(OBSERVE), ()).clusters["main"] is view.clusters["main"]
