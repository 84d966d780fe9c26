"""What happened to keys, as sentences."""

from __future__ import annotations

import pytest
from msgspec import Struct

from pgcat_cluster.agreement.documents import (
    Accepted,
    Ack,
    Active,
    Ban,
    Bundle,
    CommandStatus,
    Coord,
    DesiredStatus,
    Finding,
    Live,
    NodeFinding,
    NodesStatus,
    Status,
    Verdict,
    encode,
)
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.story import sentences
from pgcat_cluster.agreement.transactions import Batch, Event, Row

KEYS = Keys("eu")
Said = Struct | bytes | None


class Story:
    """Puts and deletions, one revision each, told as they happen."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.revision = 10

    def __call__(self, *changes: tuple[str, Said]) -> list[str]:
        self.revision += 1
        batch = Batch(revision=self.revision, events=tuple(self._event(*change) for change in changes))
        told = sentences(KEYS, batch, self.memory)
        self.memory.apply(batch)
        return told

    def _event(self, key: str, value: Said) -> Event:
        if value is None:
            return Event(key=key, row=None)
        before = self.memory.row(key)
        row = Row(
            key=key,
            value=value if isinstance(value, bytes) else encode(value),
            create_revision=before.create_revision if before else self.revision,
            mod_revision=self.revision,
        )
        return Event(key=key, row=row)


@pytest.fixture
def story() -> Story:
    return Story()


def ban(**more: object) -> Ban:
    said = {
        "id": "b1", "state": "banned", "scope": "fleet", "why": ("refused",), "votes": ("n1.1", "n2.2"),
        "need": 2, "jury": 3, "zones": 1, "strikes": 1, "by": "n1.1",
    }  # fmt: skip
    return Ban(**{**said, **more})  # type: ignore[arg-type]


def live(**more: str) -> Live:
    said = {
        "name": "n1",
        "host": "h",
        "zone": "b",
        "state": "joining",
        "addr": "x:1",
        "version": "1",
        "ttl": 6.0,
    }
    return Live(**{**said, **more})  # type: ignore[arg-type]


def test_documents(story: Story) -> None:
    key = KEYS.config("pools/app")
    verifier = KEYS.config("users/app")
    assert story((key, b"size = 1\nmin_size = 1")) == ["operator created config/pools/app"]
    assert story((key, b"size = 2")) == [
        "operator put config/pools/app: - pools.app.min_size = 1; ~ pools.app.size = 1 -> 2"
    ]
    assert story((key, b'{"size":2}')) == ["operator put config/pools/app: the settings are the same"]
    assert story((key, b"size = = 2")) == ["operator put config/pools/app: a text that can not be read"]
    assert story((key, b"".join(b"k%d = 1\n" % number for number in range(5)))) == [
        "operator put config/pools/app: a text that can not be read"
    ]
    assert story((key, b"a = 1")) == [
        "operator put config/pools/app: + pools.app.a = 1; - pools.app.k0 = 1; - pools.app.k1 = 1; 3 more"
    ]
    assert story((key, None)) == ["operator deleted config/pools/app"]
    story((verifier, b'verifier = "md5secret"'))
    assert story((verifier, b'verifier = "md5other"')) == [
        "operator put config/users/app: ~ users.app.verifier = *** -> ***"
    ]


def test_a_document_known_only_from_now_on(story: Story) -> None:
    key = KEYS.config("fleet")
    row = Row(key=key, value=b"jury = 5", create_revision=3, mod_revision=11)
    batch = Batch(revision=11, events=(Event(key=key, row=row),))
    assert sentences(KEYS, batch, story.memory) == ["operator put config/fleet"]


def test_acceptance_and_rejection(story: Story) -> None:
    first = Accepted(gen=1, from_rev=3, term=2, docs={"fleet": "1", "pools/app": "2"})
    assert story((KEYS.accepted, first)) == ["generation 1 is accepted: fleet, pools/app"]
    second = Accepted(gen=2, from_rev=5, term=2, docs={"pools/app": "2"})
    assert story((KEYS.accepted, second)) == ["generation 2 is accepted: fleet"]
    desired = DesiredStatus(rev=12, digest="d", state="rejected")
    nodes = NodesStatus(live=2, valid=1, nack=1, on_accepted=2)
    error = NodeFinding(key="config/pools/app", path="size", node="n2.2", msg="too much")
    status = Status(accepted=None, desired=desired, errors=(error,), nodes=nodes)
    told = ["the edit up to revision 12 is rejected: n2.2 says config/pools/app size: too much"]
    assert story((KEYS.status_config, status)) == told
    more = Status(
        accepted=None,
        desired=desired,
        errors=(error,),
        nodes=NodesStatus(live=3, valid=2, nack=1, on_accepted=2),
    )
    assert story((KEYS.status_config, more)) == []
    done = CommandStatus(for_rev=4, command="activate", result="done", detail="generation 2")
    assert story((KEYS.status_activate, done)) == ["command activate is done: generation 2"]
    assert story((KEYS.accepted, b"{")) == ["decided/accepted is unreadable"]
    assert story((KEYS.accepted, None)) == ["decided/accepted was deleted"]


def test_the_word_of_nodes(story: Story) -> None:
    key = KEYS.ack("n1.1")
    assert story((key, Ack(active=Active(gen=1)))) == ["n1.1 runs generation 1"]
    wrong = Finding(key="config/pools/app", rev=12, path="size", msg="is too much")
    bundle = Bundle(rev=12, digest="d")
    nacked = Ack(active=Active(gen=1), nacked=bundle, nack=(wrong,))
    assert story((key, nacked)) == [
        "n1.1 finds the edit up to revision 12 wrong: config/pools/app size: is too much"
    ]
    assert story((key, nacked)) == []
    assert story((key, Ack(active=Active(gen=2), valid=bundle, warn=(wrong,), suspect_self=True))) == [
        "n1.1 warns: config/pools/app size: is too much",
        "n1.1 runs generation 2",
        "n1.1 suspects itself",
    ]
    assert story((key, Ack(active=Active(gen=2), drained={"app": 9}, unusable=(wrong,)))) == [
        "n1.1 can not run what is accepted: config/pools/app size: is too much",
        "n1.1 has drained pool app",
        "n1.1 trusts itself again",
    ]
    assert story((key, None)) == []


def test_the_life_of_a_ban(story: Story) -> None:
    key = KEYS.ban("main", "r2", "fleet")
    assert story((key, ban())) == ["main/r2 is banned for refused (2 votes of 3, 2 needed: n1.1, n2.2)"]
    assert story((key, ban(state="probation"))) == [
        "main/r2 is on probation: it gets a growing share of its work"
    ]
    assert story((key, ban(strikes=2))) == [
        "main/r2 is banned again for refused (2 votes of 3, 2 needed: n1.1, n2.2)"
    ]
    assert story((key, None), (KEYS.timer("ban-b1"), None)) == ["the ban of main/r2 is lifted"]
    zone = KEYS.ban("main", "r2", "zone:b")
    assert story((zone, ban(scope="zone:b", votes=("n2.2",), need=1))) == [
        "main/r2 is banned in zone b for refused (1 votes of 3, 1 needed: n2.2)"
    ]


def test_verdicts(story: Story) -> None:
    key = KEYS.verdict("main", "r2", "n1.1")
    assert story((key, Verdict(v="bad", why=("refused",), since_rev=3, gen=1))) == [
        "n1.1 finds main/r2 bad: refused"
    ]
    assert story((key, Verdict(v="bad", why=("refused",), since_rev=3, gen=2))) == []
    assert story((key, Verdict(v="ok", since_rev=3, gen=2))) == ["n1.1 finds main/r2 good again"]
    assert story((key, None)) == ["n1.1 withdraws its verdict about main/r2"]


def test_nodes_come_and_go(story: Story) -> None:
    key = KEYS.live("n1.1")
    assert story((key, live()), (KEYS.prefix(7), b"{}")) == ["n1.1 joined, joining (x:1, zone b)"]
    assert story((key, live(state="serving"))) == ["n1.1 is serving"]
    assert story((KEYS.coord, Coord(node="n1.1"))) == ["n1.1 coordinates"]
    assert story((key, live(state="draining"))) == ["n1.1 is draining"]
    assert story((key, None), (KEYS.coord, None), (KEYS.seat("n1"), None)) == [
        "n1.1 left",
        "n1.1 does not coordinate any more",
        "the seat of n1 is given back",
    ]
    story(
        (key, live(state="serving")),
        (KEYS.verdict("main", "r2", "n1.1"), Verdict(v="bad", since_rev=1, gen=1)),
    )
    assert story((key, None), (KEYS.verdict("main", "r2", "n1.1"), None)) == [
        "n1.1 is gone: it ended, or could not renew its lease"
    ]


def test_overrides(story: Story) -> None:
    server = KEYS.server_override("main", "r1")
    assert story((server, b'{"action":"ban","reason":"disk","by":"ada","force":true}')) == [
        "operator put override/main/r1 ban by force (disk, by ada)"
    ]
    assert story((server, None)) == ["operator lifted override/main/r1 ban by force"]
    assert story((KEYS.pool_override("app"), b"reconnect = 3\naction = 'pause'")) == [
        "operator put override/_pool/app pause reconnect 3"
    ]
    assert story((KEYS.freeze, b"on")) == ["operator put override/_fleet/freeze on"]
    assert story((KEYS.activate, b'{"rev":7,"without":["n3"]}')) == [
        "operator put override/_fleet/activate revision 7 without n3"
    ]
    assert story((server, b"dance")) == [
        'operator put override/main/r1, which does nothing: action: "dance" is not allowed; '
        'allowed: "ban", "drain", "ignore", "pin"; did you mean "drain"?'
    ]


def test_bookkeeping_is_not_told_and_the_unknown_is(story: Story) -> None:
    assert story((KEYS.doc("00"), b"x"), (KEYS.history(3), b"{}"), (KEYS.strikes("main", "r2"), b"{}")) == []
    assert story((KEYS.root + "config/pool/app", b"x")) == [
        "config/pool/app was put, a key of no known kind: nobody reads it"
    ]
    assert story((KEYS.live("n1.1"), b"garbage"), (KEYS.ack("n1.1"), b"\xff")) == []
