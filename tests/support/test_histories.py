"""The checker of recorded histories passes a good one, and names what is wrong with each that was broken on purpose.

The good one was recorded by the short form of tests/live/test_failures.py, which keeps its history in its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pgcat_cluster.agreement.keys import Keys, Kind
from pgcat_cluster.agreement.transactions import Batch, Event, Row
from tests.support.histories import CALM, PEACE, Recorded, Replay, load, save
from tests.support.invariants import Violated

pytestmark = pytest.mark.once

GOOD = Path(__file__).parents[1] / "corpus" / "histories" / "failures.jsonl"
KEYS = Keys("test")
Value = dict[str, Any]


class Plant:
    """A good history in which something is changed that etcd and our nodes would never have let happen."""

    def __init__(self) -> None:
        self.history = load(GOOD)

    # -- where

    def put(self, kind: Kind, where: Callable[[Value], bool] = lambda value: True) -> int:
        """The place of the first revision in which a key of this kind got such a value."""
        return next(
            place
            for place, one in enumerate(self.history)
            for event in one.batch.events
            if _is(event, kind) and event.row is not None and where(_value(event.row))
        )

    def key(self, place: int, kind: Kind) -> str:
        return next(event.key for event in self.history[place].batch.events if _is(event, kind))

    def gone(self, start: str) -> int:
        """The place of the first revision in which such a key vanished."""
        return next(
            place
            for place, one in enumerate(self.history)
            for event in one.batch.events
            if event.row is None and event.key.startswith(start)
        )

    def rows(self, place: int) -> dict[str, Row]:
        """All keys as this revision finds them."""
        replay = Replay(KEYS)
        replay.replay(self.history[:place])
        return dict(replay.rows)

    # -- what is changed

    def change(self, place: int, kind: Kind, **fields: Any) -> None:
        """Other fields in the values of the keys of this kind that were put there."""
        events = []
        for event in self.history[place].batch.events:
            if _is(event, kind) and event.row is not None:
                event = _event(event.row, json.dumps(_value(event.row) | fields).encode())
            events.append(event)
        self._set(place, events)

    def under(self, place: int, kind: Kind, lease: int) -> None:
        """The keys of this kind that were put there stand under another lease."""
        events = []
        for event in self.history[place].batch.events:
            if _is(event, kind) and event.row is not None:
                event = Event(key=event.key, row=structs.replace(event.row, lease=lease))
            events.append(event)
        self._set(place, events)

    def drop(self, places: range, unwanted: Callable[[Event], bool]) -> None:
        """These events never were."""
        for place in places:
            self._set(place, [event for event in self.history[place].batch.events if not unwanted(event)])

    def add(self, place: int, key: str, value: Value | str | None, lease: int = 0) -> None:
        """One key more is put, or deleted, in this revision."""
        one = self.history[place]
        row = None
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            revision = one.batch.revision
            known = self.rows(place).get(key)
            created = revision if known is None else known.create_revision
            row = Row(
                key=key, value=text.encode(), create_revision=created, mod_revision=revision, lease=lease
            )
        self._set(place, [*one.batch.events, Event(key=key, row=row)])

    def _set(self, place: int, events: list[Event]) -> None:
        one = self.history[place]
        self.history[place] = Recorded.of(one.batch.revision, events, one.at_s)


def _is(event: Event, kind: Kind) -> bool:
    named = KEYS.named(event.key)
    return named is not None and named.kind is kind


def _value(row: Row) -> Value:
    value: Value = json.loads(row.value)
    return value


def _event(row: Row, value: bytes) -> Event:
    return Event(key=row.key, row=structs.replace(row, value=value))


def _banned(value: Value) -> bool:
    return bool(value["state"] == "banned")


def _by_zone(value: Value) -> bool:
    return str(value["scope"]).startswith("zone:")


PLANTS: dict[str, tuple[str, Callable[[Plant], None]]] = {}


def plant(invariant: str) -> Callable[[Callable[[Plant], None]], Callable[[Plant], None]]:
    """Who breaks it so breaks this invariant."""

    def add(breaks: Callable[[Plant], None]) -> Callable[[Plant], None]:
        PLANTS[breaks.__name__] = invariant, breaks
        return breaks

    return add


# -- bans


@plant("I1")
def a_voter_said_nothing(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    rows = plant.rows(place)
    ban = _value(plant.history[place].batch.events[0].row or rows[""])
    voter = ban["votes"][0]
    plant.drop(range(place), lambda event: _is(event, Kind.VERDICT) and event.key.endswith(voter))


@plant("I1")
def too_few_voted(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    voters = _votes(plant, place)
    plant.drop(
        range(place),
        lambda event: _is(event, Kind.VERDICT) and not event.key.endswith(voters[0]),
    )
    plant.change(place, Kind.BAN, votes=voters[:1])


@plant("I1")
def a_ban_proves_itself_by_too_few_votes(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    plant.change(place, Kind.BAN, votes=_votes(plant, place)[:1])


@plant("I1")
def a_zone_banned_for_all(plant: Plant) -> None:
    place = plant.put(Kind.BAN, _by_zone)
    key = plant.key(place, Kind.BAN)
    row = next(event.row for event in plant.history[place].batch.events if event.key == key)
    assert row is not None
    plant.drop(range(place, place + 1), lambda event: event.key == key)
    plant.add(place, KEYS.ban("main", "r1", "fleet"), _value(row) | {"scope": "fleet"})


@plant("I1")
def a_verdict_was_of_another_generation(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    for before in range(place):
        plant.change(before, Kind.VERDICT, gen=1)


@plant("I1")
def a_ban_without_a_reason(plant: Plant) -> None:
    plant.change(plant.put(Kind.BAN), Kind.BAN, why=[])


@plant("I1")
def probation_though_nobody_found_it_good(plant: Plant) -> None:
    place = plant.put(Kind.BAN, lambda value: not _banned(value))
    for before in range(place):
        plant.change(before, Kind.VERDICT, v="bad", why=["soft"])


@plant("I2")
def the_last_server_is_banned(plant: Plant) -> None:
    place = max(place for place, one in enumerate(plant.history) if _puts_silent_ban(one.batch))
    rows = plant.rows(place)
    key = plant.key(place, Kind.BAN)
    ban = next(event.row for event in plant.history[place].batch.events if event.key == key)
    assert ban is not None
    for verdict, row in rows.items():
        if verdict.startswith(KEYS.server_verdicts("main", "r1")):
            plant.add(place, verdict.replace("/r1/", "/p1/"), _value(row), row.lease)
    name = "b" * 16
    for lost in ("p1", "r1", "r2"):
        if KEYS.ban("main", lost, "fleet") not in rows and f"/{lost}/" not in key:
            plant.add(place, KEYS.ban("main", lost, "fleet"), _value(ban) | {"id": name, "strikes": 1})
            plant.add(place, KEYS.timer(f"ban-{name}"), {"for": ""}, lease=7)
            plant.add(place, KEYS.strikes("main", lost), {"n": 1}, lease=8)


@plant("I6")
def a_ban_against_a_pin(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    plant.add(place - 1, KEYS.server_override("main", plant.key(place, Kind.BAN).split("/")[-2]), "pin")


@plant("I6")
def a_ban_while_all_is_frozen(plant: Plant) -> None:
    plant.add(plant.put(Kind.BAN) - 1, KEYS.freeze, "on")


@plant("I6")
def a_node_deletes_an_override(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    plant.add(place - 2, KEYS.server_override("main", "p1"), "pin")
    plant.add(place - 1, KEYS.server_override("main", "p1"), None)


@plant("life of a ban")
def nothing_measures_the_time_of_a_ban(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    plant.drop(range(place, place + 1), lambda event: _is(event, Kind.TIMER))


@plant("life of a ban")
def probation_before_the_time_is_up(plant: Plant) -> None:
    place = plant.put(Kind.BAN, lambda value: not _banned(value))
    plant.drop(range(place), lambda event: _is(event, Kind.TIMER) and event.row is None)


@plant("life of a ban")
def a_ban_is_lifted_before_its_ramp_is_over(plant: Plant) -> None:
    place = plant.gone(KEYS.ban_prefix)
    plant.drop(range(place), lambda event: "/ramp-" in event.key and event.row is None)


@plant("life of a ban")
def a_second_ban_forgets_the_strikes_of_the_first(plant: Plant) -> None:
    place = plant.put(Kind.BAN, lambda value: _banned(value) and value["strikes"] > 1)
    plant.change(place, Kind.BAN, strikes=1)


# -- who is there


@plant("leases")
def a_verdict_stands_under_no_node_s_lease(plant: Plant) -> None:
    plant.under(plant.put(Kind.VERDICT), Kind.VERDICT, 4711)


@plant("leases")
def an_ack_outlives_its_node(plant: Plant) -> None:
    place = plant.gone(KEYS.ack_prefix)
    key = next(event.key for event in plant.history[place].batch.events if _is(event, Kind.ACK))
    plant.add(place + 1, key, {}, plant.rows(place)[key].lease)


@plant("names")
def two_processes_have_one_name(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    key, row = next((key, row) for key, row in plant.rows(place).items() if key.startswith(KEYS.live_prefix))
    plant.add(place - 1, key.rpartition(".")[0] + ".00000000", _value(row), lease=9)


@plant("verdicts")
def a_node_speaks_for_another_zone(plant: Plant) -> None:
    plant.change(plant.put(Kind.VERDICT), Kind.VERDICT, zone="elsewhere")


# -- configuration


@plant("I11")
def a_generation_goes_backwards(plant: Plant) -> None:
    plant.change(plant.put(Kind.ACCEPTED, lambda value: bool(value["gen"] == 3)), Kind.ACCEPTED, gen=1)


@plant("I11")
def a_generation_is_accepted_again_after_a_deletion(plant: Plant) -> None:
    place = plant.put(Kind.ACCEPTED, lambda value: bool(value["gen"] == 3))
    plant.add(place - 1, KEYS.accepted, None)
    plant.change(place, Kind.ACCEPTED, gen=2)
    plant.drop(range(place, place + 1), lambda event: _is(event, Kind.HISTORY))


@plant("I11")
def an_accepted_text_is_another_one(plant: Plant) -> None:
    place = plant.put(Kind.ACCEPTED)
    row = plant.rows(place)[KEYS.accepted.replace("decided/accepted", "config/pools/test")]
    sha = _accepted(plant, place)["docs"]["pools/test"]
    plant.add(place - 1, KEYS.doc(sha), row.value.decode() + "\n# more\n")


@plant("I11")
def what_was_judged_was_overwritten(plant: Plant) -> None:
    place = plant.put(Kind.ACCEPTED)
    plant.add(place - 1, KEYS.config("pools/test"), "users = { test = {} }\nsize = 99")


@plant("I11")
def an_edit_is_accepted_that_nobody_judged(plant: Plant) -> None:
    place = plant.put(Kind.ACCEPTED)
    plant.drop(range(place), lambda event: _is(event, Kind.ACK))


@plant("I11")
def an_edit_is_accepted_that_a_node_objected_to(plant: Plant) -> None:
    place = plant.put(Kind.ACCEPTED)
    key, row = next((key, row) for key, row in plant.rows(place).items() if _is_ack(key))
    ack = _value(row)
    plant.add(place - 1, key, {"nacked": ack["valid"]}, row.lease)


@plant("I11")
def a_node_runs_what_nobody_accepted(plant: Plant) -> None:
    place = plant.put(Kind.ACK, lambda value: "active" in value)
    plant.change(place, Kind.ACK, active={"gen": 99})


@plant("I11")
def a_node_goes_back_to_an_older_generation(plant: Plant) -> None:
    place = plant.put(Kind.ACK, lambda value: value.get("active", {}).get("gen") == 2)
    row = plant.history[place].batch.events[0].row
    assert row is not None
    plant.add(place + 1, row.key, _value(row) | {"active": {"gen": 1}}, row.lease)


@plant("I5")
def a_node_forgets_what_it_has_applied(plant: Plant) -> None:
    place = plant.put(Kind.ACK, lambda value: value.get("active", {}).get("gen") == 2)
    row = plant.history[place].batch.events[0].row
    assert row is not None
    plant.add(place + 1, row.key, _value(row) | {"applied": {"decided": 1, "override": 0}}, row.lease)


# -- the coordinator


@plant("I14")
def another_term_accepts(plant: Plant) -> None:
    plant.change(plant.put(Kind.ACCEPTED), Kind.ACCEPTED, term=1)


@plant("I14")
def a_held_office_is_taken(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    rows = plant.rows(place)
    other = next(key for key in rows if key.startswith(KEYS.live_prefix))
    node = other.removeprefix(KEYS.live_prefix)
    plant.add(place - 1, KEYS.coord, {"node": node}, rows[other].lease)


@plant("I14")
def somebody_writes_the_status_without_the_office(plant: Plant) -> None:
    plant.drop(range(len(plant.history)), lambda event: event.key == KEYS.coord)


# -- what the rig said must not be, and how much is written


@plant("peace")
def something_is_written_in_peace(plant: Plant) -> None:
    place = plant.gone(PEACE)
    plant.add(place, KEYS.status_config, {})


@plant("calm")
def a_server_is_banned_that_did_nothing(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    row = next(event.row for event in plant.history[place].batch.events if _is(event, Kind.BAN))
    assert row is not None
    plant.add(plant.gone(CALM), row.key, _value(row))


@plant("I9")
def a_node_writes_without_end(plant: Plant) -> None:
    last = plant.history[-1]
    key, row = next((key, row) for key, row in plant.rows(len(plant.history)).items() if _is_ack(key))
    for revision in range(last.batch.revision + 1, last.batch.revision + 200):
        again = structs.replace(row, mod_revision=revision)
        plant.history.append(Recorded.of(revision, [Event(key=key, row=again)], last.at_s))


@plant("order")
def two_revisions_are_told_in_the_wrong_order(plant: Plant) -> None:
    place = plant.put(Kind.BAN)
    history = plant.history
    history[place - 1], history[place] = history[place], history[place - 1]


def _is_ack(key: str) -> bool:
    return key.startswith(KEYS.ack_prefix)


def _votes(plant: Plant, place: int) -> list[str]:
    row = next(event.row for event in plant.history[place].batch.events if _is(event, Kind.BAN))
    assert row is not None
    votes: list[str] = _value(row)["votes"]
    return votes


def _accepted(plant: Plant, place: int) -> Value:
    row = next(event.row for event in plant.history[place].batch.events if _is(event, Kind.ACCEPTED))
    assert row is not None
    return _value(row)


def _puts_silent_ban(batch: Batch) -> bool:
    """Whether it bans a server for the fleet that did not answer, so that not all must agree."""
    return any(
        _is(event, Kind.BAN)
        and event.row is not None
        and event.key.endswith("/fleet")
        and _banned(_value(event.row))
        and "refused" not in _value(event.row)["why"]
        for event in batch.events
    )


def test_the_good_one_keeps_to_all_invariants() -> None:
    replay = Replay(KEYS)
    replay.replay(load(GOOD))
    assert replay.bans_put >= 5
    assert replay.bans_lifted >= 4


def test_it_is_the_same_when_it_is_saved_and_loaded(tmp_path: Path) -> None:
    good = load(GOOD)
    save(good, tmp_path / "copy.jsonl")
    assert load(tmp_path / "copy.jsonl") == good
    assert (tmp_path / "copy.jsonl").read_text() == GOOD.read_text()


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name: str) -> None:
    invariant, breaks = PLANTS[name]
    planted = Plant()
    breaks(planted)
    with pytest.raises(Violated, match=f"^{invariant}: "):
        Replay(KEYS).replay(planted.history)
