"""From an operator's put to a generation that every node runs, with all that must stop it on the way."""

from __future__ import annotations

import json

import pytest

from pgcat_cluster.agreement.bundles import Wrong, digest_of, hash_of
from pgcat_cluster.agreement.documents import (
    AcceptedStatus,
    Ack,
    CommandStatus,
    Finding,
    History,
    NodeFinding,
    NodesStatus,
    Schema,
    decode,
)
from pgcat_cluster.agreement.effects import Commit, Effect, Fetch, Preflight, Say
from pgcat_cluster.agreement.transactions import Batch, Delete, Outcome, Put
from pgcat_cluster.topology.reading import Problem
from tests.support.edits import DOCUMENTS, KEYS, Fleet, Node

LARGER = {"pools/app": b"users = { app = {} }\nsize = 20"}
BROKEN = {"pools/app": b"users = { app = {} }\nsizee = 20"}
SPELLING = "unknown key `sizee`; did you mean `size`?"


@pytest.fixture
def fleet() -> Fleet:
    return Fleet("px-1", "px-2", "px-3", documents=DOCUMENTS)


def touched(fleet: Fleet, since: int) -> list[list[str]]:
    """The keys of each revision after one, as far as they are no acks."""
    batches: list[Batch] = list(fleet.store.history("", since + 1))
    keys = [[KEYS.below(event.key) for event in batch.events] for batch in batches]
    return [sorted(of_one) for of_one in keys if not of_one[0].startswith("ack/")]


def acks(fleet: Fleet, since: int) -> int:
    return sum(
        event.key.startswith(KEYS.ack_prefix)
        for batch in fleet.store.history("", since + 1)
        for event in batch.events
    )


# ---- the way of a good edit


def test_an_empty_fleet_waits_for_its_first_documents() -> None:
    fleet = Fleet("px-1", "px-2")
    assert fleet.generations == [None, None]
    assert fleet.status.desired.state == "waiting"
    fleet.put({"clusters/main": DOCUMENTS["clusters/main"], "users/app": DOCUMENTS["users/app"]})
    fleet.run(2.0)
    assert (fleet.status.desired.state, fleet.status.desired.why) == (
        "waiting",
        "the first documents of a fleet need a pool",
    )
    fleet.put({"pools/app": DOCUMENTS["pools/app"]})
    fleet.run(2.0)
    assert fleet.generations == [1, 1]
    schema = decode("schema", fleet.row(KEYS.schema).value, Schema)
    assert schema == Schema(v=1, min_reader=1, fleet_id="the-fleet")


def test_a_good_edit_is_run_by_all_and_costs_as_little_as_it_can(fleet: Fleet) -> None:
    before = fleet.store.revision
    rev = fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]
    docs = {name: hash_of(text) for name, text in (DOCUMENTS | LARGER).items()}
    accepted = fleet.accepted
    assert (accepted.gen, accepted.from_rev, accepted.docs) == (2, rev, docs)
    assert accepted.term == fleet.row(KEYS.coord).create_revision
    assert touched(fleet, before) == [
        ["config/pools/app"],
        [f"doc/{docs['pools/app']}"],
        ["decided/accepted", "history/000000000002"],
        ["status/config"],
    ]
    assert acks(fleet, before) == 2 * 3
    assert fleet.row(KEYS.doc(docs["pools/app"])).value == LARGER["pools/app"]
    record = decode("history", fleet.row(KEYS.history(2)).value, History)
    assert record == History(gen=2, at_rev=rev, by=fleet.coordinator.id, docs=docs, changed=("pools/app",))
    for node in fleet.nodes:
        assert node.follower.running is not None
        assert node.follower.running.settings.pools["app"].size == 20
        assert (node.ack.valid, node.ack.active) == (fleet.nodes[0].ack.valid, fleet.nodes[0].ack.active)
    assert fleet.nodes[0].ack.valid is not None
    assert (fleet.nodes[0].ack.valid.rev, fleet.nodes[0].ack.valid.digest) == (rev, digest_of(docs))


def test_the_status_says_how_things_are(fleet: Fleet) -> None:
    status = fleet.status
    assert status.accepted == AcceptedStatus(gen=1, rev=fleet.row(KEYS.accepted).mod_revision)
    assert (status.desired.state, status.desired.why, status.errors) == ("accepted", "", ())
    assert status.nodes == NodesStatus(live=3, valid=3, nack=0, on_accepted=3)


def test_nothing_is_written_in_peace(fleet: Fleet) -> None:
    before = fleet.store.revision
    fleet.run(600.0)
    assert fleet.store.revision == before


def test_many_new_documents_are_judged_between_other_work(fleet: Fleet) -> None:
    """Nobody waits for all of them to be read."""
    users = {f"users/u{number}": f'auth = "trust"\nuser = "U{number}"'.encode() for number in range(100)}
    (node, *_) = fleet.nodes
    before = node.follower.ack.valid
    fleet.put(users)
    fleet.run(0.0205)  # they have settled, and a first portion is read
    assert node.follower.ack.valid == before
    fleet.run(1.0)
    assert fleet.generations == [2, 2, 2]


def test_many_puts_in_a_row_are_one_edit(fleet: Fleet) -> None:
    for size in range(11, 18):
        fleet.put({"pools/app": b"users = { app = {} }\nsize = %d" % size})
        fleet.run(0.01)
    fleet.run(2.0)
    assert fleet.accepted.gen == 2
    assert fleet["px-1"].follower.running is not None
    assert fleet["px-1"].follower.running.settings.pools["app"].size == 17


def test_acks_are_bounded(fleet: Fleet) -> None:
    fleet["px-2"].trial = lambda asked: ((Wrong("pools/app", "size", "no"),), ())
    before = fleet.store.revision
    for size in range(100):
        fleet.put({"pools/app": b"users = { app = {} }\nsize = %d" % (size + 1)})
        fleet.run(0.05)
    assert acks(fleet, before) <= 3 * (5 * 5 + 4)
    fleet["px-2"].trial = lambda asked: ((), ())
    fleet["px-2"].follower.judge_again()
    fleet.run(3.0)
    assert fleet.generations == [2, 2, 2]


def test_a_preflight_is_told_what_changed(fleet: Fleet) -> None:
    fleet.put(LARGER)
    fleet.run(1.0)
    asked = [effect for effect in fleet["px-1"].effects if isinstance(effect, Preflight)][-1]
    assert asked.changed == ("pools/app",)
    assert asked.before is not None
    assert (asked.before.pools["app"].size, asked.settings.pools["app"].size) == (10, 20)


def test_what_is_only_doubtful_is_told_and_goes_on(fleet: Fleet) -> None:
    doubt = Wrong("clusters/main", "servers.r2", "unreachable; would start in probation")
    fleet["px-2"].trial = lambda asked: ((), (doubt,))
    rev = fleet.put({"clusters/main": DOCUMENTS["clusters/main"] + b"# touched"})
    fleet.run(2.0)
    assert fleet.accepted.gen == 2
    assert fleet["px-2"].ack.warn == (
        Finding(key="config/clusters/main", rev=rev, path=doubt.path, msg=doubt.message),
    )


# ---- a bad edit


def test_a_bad_edit_is_told_by_every_node_and_changes_nothing(fleet: Fleet) -> None:
    rev = fleet.put(BROKEN)
    fleet.run(0.2)
    finding = Finding(key="config/pools/app", rev=rev, path="sizee", msg=SPELLING)
    for node in fleet.nodes:
        assert node.ack.nack == (finding,)
        assert node.ack.nacked is not None
        assert node.ack.nacked.rev == rev
    fleet.run(2.0)
    status = fleet.status
    assert fleet.generations == [1, 1, 1]
    assert status.desired.state == "rejected"
    assert status.errors == tuple(
        NodeFinding(key="config/pools/app", path="sizee", node=node.id, msg=SPELLING) for node in fleet.nodes
    )
    assert status.nodes == NodesStatus(live=3, valid=0, nack=3, on_accepted=3)


def test_one_node_that_finds_an_edit_wrong_stops_it(fleet: Fleet) -> None:
    wrong = Wrong("users/app", "secret", '"file:app.secret" can not be read: it is not there')
    fleet["px-3"].trial = lambda asked: ((wrong,), ())
    fleet.put(LARGER)
    fleet.run(60.0)
    assert fleet.generations == [1, 1, 1]
    assert fleet.status.errors == (
        NodeFinding(key="config/users/app", path="secret", node=fleet["px-3"].id, msg=wrong.message),
    )
    # Its cause was somewhere else, and is gone.
    fleet["px-3"].trial = lambda asked: ((), ())
    fleet["px-3"].follower.judge_again()
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]


def test_a_good_edit_after_a_bad_one(fleet: Fleet) -> None:
    fleet.put(BROKEN)
    fleet.run(2.0)
    fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]
    assert fleet.status.errors == ()
    assert all(node.ack.nack == () for node in fleet.nodes)


def test_a_bad_edit_that_is_taken_back_leaves_nothing(fleet: Fleet) -> None:
    fleet.put(BROKEN)
    fleet.run(2.0)
    fleet.put({"pools/app": DOCUMENTS["pools/app"]})
    fleet.run(2.0)
    assert (fleet.accepted.gen, fleet.status.desired.state, fleet.status.errors) == (1, "accepted", ())


def test_a_wrong_key_that_is_deleted_again_leaves_nothing(fleet: Fleet) -> None:
    """What is desired then is the very bundle of before: as old as before."""
    fleet.put({"pool/app": b"size = 5"})
    fleet.run(2.0)
    assert fleet.status.desired.state == "rejected"
    fleet.delete("pool/app")
    fleet.run(2.0)
    assert fleet.status.desired.state == "accepted"
    assert [(node.ack.nack, node.ack.nacked, node.ack.valid) for node in fleet.nodes] == [
        ((), None, fleet.nodes[0].ack.valid)
    ] * 3
    assert fleet.generations == [1, 1, 1]


def test_a_node_that_restarts_beside_a_bad_edit_serves_what_is_accepted(fleet: Fleet) -> None:
    fleet.put(BROKEN)
    fleet.run(2.0)
    fleet["px-2"].leave()
    node = fleet.join("px-2")
    fleet.run(2.0)
    assert fleet.generations == [1, 1, 1]
    assert any(isinstance(effect, Fetch) for effect in node.effects)
    assert [finding.path for finding in node.ack.nack] == ["sizee"]


def test_everything_under_config_is_deleted(fleet: Fleet) -> None:
    fleet.delete(*DOCUMENTS)
    fleet.run(5.0)
    assert fleet.generations == [1, 1, 1]
    text = "everything under config/ was deleted; the accepted documents stay in force"
    assert [node.alarms for node in fleet.nodes] == [[text]] * 3
    assert (fleet.status.desired.state, fleet.status.desired.why) == ("deleted", text)
    fleet["px-2"].leave()
    fleet.join("px-2")
    fleet.run(2.0)
    assert fleet.generations == [1, 1, 1]
    fleet.put(DOCUMENTS)
    fleet.run(2.0)
    assert fleet.status.desired.state == "accepted"
    assert fleet.accepted.gen == 1


# ---- silent nodes and policies


def with_policy(policy: str) -> Fleet:
    text = f'activation = {{ policy = "{policy}", timeout = "5s" }}'.encode()
    return Fleet("px-1", "px-2", "px-3", documents=DOCUMENTS | {"fleet": text})


def freeze_others(fleet: Fleet, count: int) -> None:
    others = [node for node in fleet.nodes if not node.is_coordinator]
    for node in others[:count]:
        node.is_frozen = True


def test_a_majority_goes_on_after_the_timeout() -> None:
    fleet = with_policy("majority")
    freeze_others(fleet, 1)
    fleet.put(LARGER)
    fleet.run(4.5)
    assert fleet.accepted.gen == 1
    silent = [node.id for node in fleet.nodes if node.is_frozen]
    assert (fleet.status.desired.state, fleet.status.desired.why) == (
        "validating",
        f"no word yet from {silent[0]}",
    )
    fleet.run(2.0)
    assert fleet.accepted.gen == 2
    assert fleet.status.nodes.lagging == tuple(silent)
    for node in fleet.nodes:
        node.is_frozen = False
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]
    assert fleet.status.nodes.lagging == ()


def test_a_minority_never_goes_on() -> None:
    fleet = with_policy("majority")
    freeze_others(fleet, 2)
    fleet.put(LARGER)
    fleet.run(60.0)
    assert fleet.accepted.gen == 1


def test_unanimous_waits_for_all() -> None:
    fleet = with_policy("unanimous")
    freeze_others(fleet, 1)
    fleet.put(LARGER)
    fleet.run(60.0)
    assert fleet.accepted.gen == 1
    (frozen,) = (node for node in fleet.nodes if node.is_frozen)
    frozen.leave()
    fleet.run(2.0)
    assert fleet.generations == [2, 2]


def test_immediate_needs_the_coordinator_alone() -> None:
    fleet = with_policy("immediate")
    freeze_others(fleet, 2)
    fleet.put(LARGER)
    fleet.run(0.1)
    assert fleet.accepted.gen == 2


def test_the_policy_is_the_accepted_one() -> None:
    fleet = with_policy("unanimous")
    freeze_others(fleet, 1)
    fleet.put(LARGER | {"fleet": b'activation = { policy = "immediate" }'})
    fleet.run(60.0)
    assert fleet.accepted.gen == 1


# ---- guards


def permit(fleet: Fleet, **fields: object) -> int:
    desired = fleet.status.desired
    return fleet.override(KEYS.activate, json.dumps({"rev": desired.rev, "digest": desired.digest} | fields))


def test_a_pool_is_not_removed_without_a_word(fleet: Fleet) -> None:
    fleet.put({"pools/old": b'database = "old"\nusers = { app = {} }'})
    fleet.run(2.0)
    fleet.delete("pools/old")
    fleet.run(30.0)
    desired = fleet.status.desired
    assert desired.state == "refused"
    assert desired.why == (
        f'pools/old is removed; to agree, put override/_fleet/activate {{"rev":{desired.rev},'
        f'"digest":"{desired.digest[:12]}"}}, or name it in allow_delete beforehand'
    )
    assert fleet.generations == [2, 2, 2]
    row = permit(fleet, reason="it is not used any more")
    fleet.run(2.0)
    assert fleet.generations == [3, 3, 3]
    done = decode("status", fleet.row(KEYS.status_activate).value, CommandStatus)
    assert done == CommandStatus(for_rev=row, command="activate", result="done", detail="generation 3")


def test_an_operators_word_is_for_one_bundle_and_counts_once(fleet: Fleet) -> None:
    pools = {"pools/one": b"users = { app = {} }", "pools/two": b"users = { app = {} }"}
    fleet.put(pools)
    rev = fleet.put({"users/app": DOCUMENTS["users/app"] + b" "})
    fleet.run(2.0)
    fleet.delete("pools/one")
    fleet.run(2.0)
    permit(fleet)
    fleet.delete("pools/two")
    fleet.run(2.0)
    # The newest revision left is the same; the digest is not.
    assert (fleet.status.desired.state, fleet.status.desired.rev) == ("refused", rev)
    assert fleet.accepted.gen == 2
    fleet.put({"pools/two": pools["pools/two"]})
    fleet.run(2.0)
    assert fleet.status.desired.state == "refused"
    word = permit(fleet)
    fleet.run(2.0)
    assert fleet.accepted.gen == 3
    assert "pools/one" not in fleet.accepted.docs
    # Put back and deleted once more: the old word is spent, though it names the very same documents.
    fleet.put({"pools/one": pools["pools/one"]})
    fleet.run(2.0)
    fleet.delete("pools/one")
    fleet.run(2.0)
    assert fleet.row(KEYS.activate).mod_revision == word
    assert fleet.status.desired.state == "refused"
    assert "pools/one" in fleet.accepted.docs


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ('{"rev":1}', "override/_fleet/activate names other documents"),
        (
            '{"rev":"x"}',
            'override/_fleet/activate: rev: "x" is not allowed; allowed: a whole number, at least 1',
        ),
    ],
)
def test_a_word_that_does_not_count_is_told(fleet: Fleet, word: str, why: str) -> None:
    other = next(node for node in fleet.nodes if not node.is_coordinator)
    other.trial = lambda asked: ((Wrong("pools/app", "", "no"),), ())
    fleet.put(LARGER)
    fleet.override(KEYS.activate, word)
    fleet.run(2.0)
    assert (fleet.status.desired.state, fleet.status.desired.why) == ("rejected", why)


def test_a_refused_activation_is_decided_anew_as_soon_as_its_cause_is_seen(fleet: Fleet) -> None:
    newer = b"users = { app = {} }\nsize = 30"
    at_activation(fleet, [Put(key=KEYS.config("pools/app"), value=newer)])
    fleet.put(LARGER)
    fleet.run(0.2)
    assert ("activate", False) in fleet.commits
    assert fleet.accepted.docs["pools/app"] == hash_of(newer)


def test_a_word_given_beforehand_in_the_accepted_documents(fleet: Fleet) -> None:
    old = {"pools/old": b"users = { app = {} }"}
    fleet.put(old | {"fleet": b'allow_delete = ["pools/old"]'})
    fleet.run(2.0)
    fleet.delete("pools/old")
    fleet.run(2.0)
    assert fleet.generations == [3, 3, 3]


def test_a_word_in_the_same_edit_does_not_count(fleet: Fleet) -> None:
    fleet.put({"pools/old": b"users = { app = {} }"})
    fleet.run(2.0)
    fleet.write(
        Delete(key=KEYS.config("pools/old")),
        Put(key=KEYS.config("fleet"), value=b'allow_delete = ["pools/old"]'),
    )
    fleet.run(2.0)
    assert fleet.status.desired.state == "refused"
    assert fleet.accepted.gen == 2


def test_more_than_half_of_a_clusters_servers(fleet: Fleet) -> None:
    fleet.put({"clusters/main": b'servers = { r3 = { host = "c" } }'})
    fleet.run(2.0)
    assert fleet.status.desired.why.startswith("clusters/main loses 2 of 2 servers; to agree")
    fleet.put({"clusters/main": b'servers = { r1 = { host = "a" } }'})
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]


def test_a_freeze_stops_activation_until_it_is_gone(fleet: Fleet) -> None:
    fleet.override(KEYS.freeze, "on")
    fleet.put(LARGER)
    fleet.run(10.0)
    assert fleet.accepted.gen == 1
    assert (fleet.status.desired.state, fleet.status.desired.why) == (
        "frozen",
        "override/_fleet/freeze is there",
    )
    fleet.write(Delete(key=KEYS.freeze))
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]


def test_an_operator_goes_on_without_one_broken_node(fleet: Fleet) -> None:
    broken = next(node for node in fleet.nodes if not node.is_coordinator)
    broken.trial = lambda asked: ((Wrong("users/app", "secret", "no"),), ())
    fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.status.desired.state == "rejected"
    permit(fleet, without=["px-9"])
    fleet.run(2.0)
    assert fleet.accepted.gen == 1
    permit(fleet, without=[broken.name])
    fleet.run(2.0)
    assert fleet.accepted.gen == 2
    # It never runs what it found wrong itself.
    assert [node.generation for node in fleet.nodes] == [1 if node is broken else 2 for node in fleet.nodes]
    assert fleet.status.nodes.lagging == (broken.id,)
    assert broken.ack.unusable == broken.ack.nack
    broken.trial = lambda asked: ((), ())
    broken.follower.judge_again()
    fleet.run(6.0)
    assert fleet.generations == [2, 2, 2]
    assert broken.ack.unusable == ()


# ---- the proof of the transaction


def at_activation(fleet: Fleet, disturb: list[Put | Delete]) -> None:
    """At the last moment before the first activation something is written."""

    def before_commit(commit: Commit) -> None:
        if commit.purpose == "activate" and disturb:
            fleet.write(*disturb)
            disturb.clear()

    fleet.before_commit = before_commit


def test_an_edit_that_was_overwritten_meanwhile_is_not_activated(fleet: Fleet) -> None:
    at_activation(fleet, [Put(key=KEYS.config("pools/app"), value=BROKEN["pools/app"])])
    fleet.put(LARGER)
    fleet.run(5.0)
    assert ("activate", False) in fleet.commits
    assert fleet.generations == [1, 1, 1]
    assert fleet.status.desired.state == "rejected"


def test_an_edit_that_somebody_finds_wrong_meanwhile_is_not_activated(fleet: Fleet) -> None:
    broken = next(node for node in fleet.nodes if not node.is_coordinator)
    fleet.put(LARGER)

    def before_commit(commit: Commit) -> None:
        if commit.purpose == "activate" and broken.ack.valid is not None:
            broken.trial = lambda _: ((Wrong("users/app", "secret", "is gone"),), ())
            broken.follower.judge_again()
            broken.turn()

    fleet.before_commit = before_commit
    fleet.run(5.0)
    assert ("activate", False) in fleet.commits
    assert fleet.generations == [1, 1, 1]
    assert fleet.status.desired.state == "rejected"


def test_an_edit_waits_for_who_came_meanwhile(fleet: Fleet) -> None:
    came: list[Node] = []

    def before_commit(commit: Commit) -> None:
        if commit.purpose == "activate" and not came:
            came.append(fleet.join("d"))
            came[0].state("serving")
            came[0].is_frozen = True

    fleet.before_commit = before_commit
    fleet.put(LARGER)
    fleet.run(3.0)
    assert ("activate", False) in fleet.commits
    assert fleet.generations[:3] == [
        1,
        1,
        1,
    ]  # it stands still, and there is time until the others go on without
    came[0].is_frozen = False
    fleet.run(3.0)
    assert fleet.generations == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("operation", "generation"),
    [
        (Put(key=KEYS.freeze, value=b"on"), 1),
        (Put(key=KEYS.accepted, value=b'{"gen":7,"from_rev":2,"term":1,"docs":{}}'), 8),
        (Delete(key=KEYS.coord), 2),
    ],
)
def test_what_an_activation_rests_on_is_compared(
    fleet: Fleet, operation: Put | Delete, generation: int
) -> None:
    at_activation(fleet, [operation])
    fleet.put(LARGER)
    fleet.run(10.0)
    assert ("activate", False) in fleet.commits
    assert fleet.accepted.gen == generation


def test_a_word_that_was_taken_back_meanwhile_does_not_count(fleet: Fleet) -> None:
    fleet.put({"pools/old": b"users = { app = {} }"})
    fleet.run(2.0)
    fleet.delete("pools/old")
    fleet.run(2.0)
    at_activation(fleet, [Delete(key=KEYS.activate)])
    permit(fleet)
    fleet.run(5.0)
    assert ("activate", False) in fleet.commits
    assert fleet.accepted.gen == 2


# ---- joiners


def test_a_joiner_that_can_not_use_the_accepted_documents_says_so_and_serves_nobody(fleet: Fleet) -> None:
    node = fleet.join("px-4")
    node.trouble = (Problem("users.app.secret", '"file:x" can not be read: it is not there'),)
    fleet.run(2.0)
    assert node.generation is None
    assert b'"joining"' in fleet.row(KEYS.live(node.id)).value
    assert node.ack.unusable == (
        Finding(key="config/users/app", path="secret", msg='"file:x" can not be read: it is not there'),
    )
    assert fleet.status.nodes.lagging == (node.id,)
    assert fleet.status.errors[0].node == node.id
    # Its word is not waited for.
    fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2, None]
    # When its trouble is over it joins by itself.
    node.trouble = ()
    fleet.run(10.0)
    assert fleet.generations == [2, 2, 2, 2]


def test_texts_from_the_store_are_checked(fleet: Fleet) -> None:
    fleet.put(BROKEN)
    fleet.run(2.0)
    sha = hash_of(DOCUMENTS["pools/app"])
    fleet.write(Put(key=KEYS.doc(sha), value=DOCUMENTS["pools/app"] + b" "))
    node = fleet.join("px-4")
    fleet.run(20.0)
    assert node.generation is None
    assert node.ack.unusable == (
        Finding(key="config/pools/app", msg="its accepted text is not in the store, or is another"),
    )
    fleet.write(Put(key=KEYS.doc(sha), value=DOCUMENTS["pools/app"]))
    fleet.run(10.0)
    assert node.generation == 1


def test_an_accepted_value_that_nobody_can_read_changes_nothing(fleet: Fleet) -> None:
    fleet.write(Put(key=KEYS.accepted, value=b"{"))
    fleet.put(LARGER)
    fleet.run(5.0)
    assert fleet.generations == [1, 1, 1]
    assert fleet.status.desired.why == "decided/accepted can not be read"
    assert fleet.nodes[0].ack.unusable[0].key == "decided/accepted"


def test_an_accepted_value_that_was_deleted_is_not_taken_for_an_empty_fleet(fleet: Fleet) -> None:
    fleet.put(LARGER)
    fleet.run(2.0)
    fleet.write(Delete(key=KEYS.accepted))
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]
    assert fleet.status.desired.why.startswith("decided/accepted was deleted, so losses can not be told")
    permit(fleet)
    fleet.run(2.0)
    assert fleet.accepted.gen == 3


# ---- the office


def test_the_next_coordinator_goes_on(fleet: Fleet) -> None:
    first = fleet.coordinator
    first.leave()
    fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.coordinator is not first
    assert fleet.generations == [2, 2]
    assert fleet.status.nodes.lost_seats == (first.name,)


def test_candidates_take_turns(fleet: Fleet) -> None:
    """One asks; the others see that it was given."""
    before = len(fleet.commits)
    fleet.coordinator.leave()
    fleet.run(1.0)
    assert [commit for commit in fleet.commits[before:] if commit[0] == "elect"] == [("elect", True)]


def test_a_tilted_coordinator_leaves_its_office(fleet: Fleet) -> None:
    first = fleet.coordinator
    first.election.tilted_since = fleet.now
    fleet.run(1.9)
    assert fleet.coordinator is first
    fleet.run(1.0)
    assert fleet.coordinator is not first
    fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.generations == [2, 2, 2]


def test_a_draining_node_is_neither_asked_nor_coordinator(fleet: Fleet) -> None:
    first = fleet.coordinator
    first.state("draining")
    first.trial = lambda asked: ((Wrong("pools/app", "", "no"),), ())
    fleet.run(3.0)
    assert fleet.coordinator is not first
    fleet.put(LARGER)
    fleet.run(2.0)
    assert fleet.accepted.gen == 2


def test_nobody_coordinates_a_fleet_without_nodes_that_could() -> None:
    fleet = Fleet(documents=DOCUMENTS)
    node = fleet.join("px-1")
    node.election.lease = 0
    fleet.run(5.0)
    assert fleet.read(KEYS.coord) == ()


# ---- what is kept


def test_history_and_texts_have_an_end(fleet: Fleet) -> None:
    for size in range(60):
        fleet.put({"pools/app": b"users = { app = {} }\nsize = %d" % (100 + size)})
        fleet.run(1.0)
    assert fleet.accepted.gen == 61
    kept = [row.key for row in fleet.read(KEYS.history_prefix, prefix=True)]
    assert kept == [KEYS.history(generation) for generation in range(12, 62)]
    named = {
        sha
        for row in fleet.read(KEYS.history_prefix, prefix=True)
        for sha in decode("history", row.value, History).docs.values()
    }
    texts = {row.key.removeprefix(KEYS.doc_prefix) for row in fleet.read(KEYS.doc_prefix, prefix=True)}
    assert texts == named


def reject(fleet: Fleet, documents: dict[str, bytes]) -> None:
    """An edit that one node finds wrong, after its texts were stored."""
    other = next(node for node in fleet.nodes if not node.is_coordinator)
    other.trial = lambda asked: ((Wrong("pools/app", "", "no"),), ())
    other.is_frozen = True
    fleet.put(documents)
    fleet.run(1.0)
    other.is_frozen = False
    fleet.run(2.0)
    other.trial = lambda asked: ((), ())
    assert fleet.status.desired.state == "rejected"
    assert all(fleet.read(KEYS.doc(hash_of(text))) for text in documents.values())


def test_texts_of_edits_that_were_never_accepted_go_with_the_next_that_is(fleet: Fleet) -> None:
    reject(fleet, LARGER)
    fleet.put({"pools/app": b"users = { app = {} }\nsize = 21"})
    fleet.run(2.0)
    assert fleet.accepted.gen == 2
    assert fleet.read(KEYS.doc(hash_of(LARGER["pools/app"]))) == ()


def lose_outcomes(fleet: Fleet, *purposes: str) -> list[str]:
    """The next outcome of each purpose is not told to the coordinator; answers those lost so far."""
    steward = fleet.coordinator.steward
    real, lost = steward.done, list[str]()

    def done(commit: Commit, outcome: Outcome | None, now: float) -> None:
        is_lost = commit.purpose in purposes and commit.purpose not in lost
        lost.extend([commit.purpose] * is_lost)
        real(commit, None if is_lost else outcome, now)

    steward.done = done  # type: ignore[method-assign]
    return lost


def test_outcomes_nobody_knows_are_looked_at_again(fleet: Fleet) -> None:
    lost = lose_outcomes(fleet, "texts", "activate", "status")
    fleet.put(LARGER)
    fleet.run(10.0)
    assert lost == ["texts", "activate", "status"]
    assert fleet.generations == [2, 2, 2]
    assert fleet.status.nodes.on_accepted == 3


def test_what_an_unknown_outcome_swept_is_put_again_when_it_is_needed(fleet: Fleet) -> None:
    reject(fleet, LARGER)
    lost = lose_outcomes(fleet, "activate")
    fleet.put({"pools/app": b"users = { app = {} }\nsize = 21"})
    fleet.run(5.0)
    assert lost == ["activate"]
    assert fleet.read(KEYS.doc(hash_of(LARGER["pools/app"]))) == ()
    fleet.put(LARGER)
    fleet.run(5.0)
    assert fleet.generations == [3, 3, 3]
    assert fleet.row(KEYS.doc(hash_of(LARGER["pools/app"]))).value == LARGER["pools/app"]


def test_nothing_is_decided_before_an_own_decision_is_seen(fleet: Fleet) -> None:
    node = fleet.coordinator
    steward, again = node.steward, list[Effect]()
    real = steward.done

    def done(commit: Commit, outcome: Outcome | None, now: float) -> None:
        real(commit, outcome, now)
        if commit.purpose == "activate":
            term = node.election.term(node.memory)
            again.extend(steward.step(node.memory, term, node.follower.running, now))

    steward.done = done  # type: ignore[method-assign]
    fleet.put(LARGER)
    fleet.run(2.0)
    assert (fleet.generations, again) == ([2, 2, 2], [])


def test_acks_tell_what_overrides_and_pauses_a_node_obeys(fleet: Fleet) -> None:
    node = fleet["px-1"]
    before = fleet.store.revision
    rev = fleet.override(KEYS.pool_override("app"), "pause")
    fleet.run(1.0)
    assert acks(fleet, before) == 0  # only those who obey it may say so
    node.follower.applied_overrides(rev)
    fleet.run(1.0)
    node.follower.drained({"app": rev})
    node.follower.suspects_itself(True)
    fleet.run(1.0)
    assert node.ack.applied is not None
    assert (node.ack.applied.override, node.ack.drained, node.ack.suspect_self) == (rev, {"app": rev}, True)
    assert acks(fleet, before) == 2


def test_a_node_with_a_cache_file_says_at_once_what_it_runs(fleet: Fleet) -> None:
    running = fleet["px-1"].follower.running
    assert running is not None
    node = fleet.join("px-4")
    node.follower.start(running.accepted, running.settings)
    fleet.run(1.0)
    said = [decode("ack", effect.value, Ack) for effect in node.effects if isinstance(effect, Say)]
    assert said[0].active is not None
    assert said[0].active.gen == 1
    assert node.runs == []
