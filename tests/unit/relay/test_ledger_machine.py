"""Random conversations of one client: it gets, byte for byte, what a server alone would answer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pgcat_cluster.wire import messages as m
from tests.support.backend import BAD_DATA, Backend
from tests.support.company import Company, Pieces

TEXTS = (
    "select 7",
    "select $1",
    "insert into t values ($1)",
    "begin",
    "commit",
    "rollback",
    "select 1/0",
    "selec 1",
)
SIMPLE = (*(text for text in TEXTS if "$" not in text), "", "set work_mem = 8", "show work_mem",
          "insert into t values (3)", "deallocate all")  # fmt: skip

names = st.sampled_from(["", "a", "b"])
portals = st.sampled_from(["", "", "p"])
texts = st.sampled_from(TEXTS)
# Names never share a text: servers know one statement by both, and which of them an error means is our guess.
TEXTS_OF_B = ("select 8", "select $1, 8", "insert into u values ($1)")


def values_of(text: str) -> list[bytes]:
    return [b"5"] * text.count("$")


@st.composite
def whole_statements(draw: st.DrawFn) -> list[bytes]:
    """Parse, Bind, Execute of one statement, as a driver sends them."""
    name, portal = draw(names), draw(portals)
    text = draw(st.sampled_from(TEXTS_OF_B) if name == "b" else texts)
    frames = [m.parse(name, text)]
    if draw(st.booleans()):
        frames.append(m.describe(b"S", name))
    frames.append(m.bind(portal, name, values_of(text)))
    if draw(st.booleans()):
        frames.append(m.describe(b"P", portal))
    return [*frames, m.execute(portal)]


single_frames = st.one_of(
    st.builds(m.parse, st.sampled_from(["", "a"]), texts),
    st.builds(m.parse, st.just("b"), st.sampled_from(TEXTS_OF_B)),
    st.builds(m.bind, portals, names, st.sampled_from([[], [b"6"]])),
    st.builds(m.describe, st.just(b"S"), names),
    st.builds(m.describe, st.just(b"P"), portals),
    st.builds(m.execute, portals),
    st.builds(m.close, st.just(b"S"), names),
    st.builds(m.close, st.just(b"P"), portals),
)
ends = st.sampled_from([[m.sync()], [m.sync()], [m.sync()], [m.flush()], [], [m.flush(), m.sync()]])
# Under a name of its own: nobody binds it and sends no data.
copy = [m.close(b"S", "k"), m.parse("k", "copy t from stdin"), m.bind("", "k"), m.execute("")]
copies = st.sampled_from(
    [
        [m.query("copy t from stdin"), m.copy_data(b"1\n"), m.copy_data(b"2\n"), m.copy_done()],
        [m.query("copy t from stdin"), m.copy_data(b"1\n"), m.copy_fail("no more")],
        [*copy, m.copy_data(b"1\n"), m.copy_done(), m.sync()],
        [*copy, m.sync(), m.copy_data(b"1\n"), m.copy_done(), m.sync()],
        [*copy, m.sync(), m.copy_fail("no"), m.sync()],
    ]
)
# Some of the data are wrong, and the client only learns of it when it has sent something else.
failing_copies = st.tuples(
    st.sampled_from([[m.query("copy t from stdin")], [*copy, m.sync()]]),
    st.sampled_from([[], [m.copy_data(b"1\n")], [m.sync(), m.copy_data(b"1\n")], [m.flush()]]),
    st.sampled_from(
        [
            [m.sync()],
            [m.copy_data(b"2\n"), m.copy_done(), m.sync()],
            [m.query("select 7")],
            [m.sync(), m.query("select 7")],
            [m.parse("", "select 7"), m.bind("", ""), m.execute(""), m.sync()],
            [m.sync(), m.execute(""), m.execute(""), m.sync()],
            [m.sync(), m.close(b"S", "a"), m.sync()],
        ]
    ),
).map(lambda parts: [m.sync(), *parts[0], *parts[1], m.copy_data(BAD_DATA), *parts[2], m.sync()])
# What a standby refuses can be asked again only as long as no row has left: it stands alone.
bumps = st.sampled_from(
    [
        [m.parse("f", "select bump($1)"), m.bind("", "f", [b"9"]), m.execute(""), m.sync()],
        [m.query("select bump(3)")],
        [m.parse("f", "select bump($1)"), m.describe(b"S", "f"), m.sync()],
        [m.bind("", "f", [b"8"]), m.describe(b"P", ""), m.execute(""), m.sync()],
        [
            m.close(b"S", "f"),
            m.parse("f", "select bump($1)"),
            m.bind("", "f", [b"7"]),
            m.execute(""),
            m.sync(),
        ],
    ]
).map(lambda frames: [m.sync(), *frames])
actions = st.one_of(
    st.sampled_from(SIMPLE).map(lambda text: [m.query(text)]),
    st.lists(single_frames, max_size=5).flatmap(lambda frames: ends.map(lambda end: [*frames, *end])),
    st.lists(whole_statements(), min_size=1, max_size=2).flatmap(
        lambda parts: ends.map(lambda end: [frame for part in parts for frame in part] + end)
    ),
    copies,
    failing_copies,
    # Answered here outside a transaction, so there is no portal that it would have to drop.
    st.just([m.sync(), m.query("rollback"), m.query("deallocate a")]),
    bumps,
).filter(bool)


def search(reads: str, examples: int) -> None:
    # A story of a dozen steps is read as it is: making it shorter would take minutes.
    @settings(
        max_examples=examples,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(actions, min_size=3, max_size=12),
        st.sampled_from(["whole", "bytes", "random"]),
        st.integers(0, 99),
    )
    def converses(conversation: list[list[bytes]], pieces: Pieces, seed: int) -> None:
        converse(reads, conversation, pieces, seed)

    converses()


def needs_preparing(frame: bytes, alone: Backend) -> bool:
    """Whether PostgreSQL looks into the statement even in a failed transaction: what a link does not know can not be
    prepared there then, so the answer is the error of all else in such a transaction."""
    if frame[:1] == b"B":
        _, name, rest = frame[5:].split(b"\0", 2)
        known = alone.statements.get(name.decode())
        return known is not None and known.parameters != int.from_bytes(rest[2:4], "big")
    return frame[:1] + frame[5:6] == b"DS"


def converse(reads: str, conversation: list[list[bytes]], pieces: Pieces, seed: int) -> None:
    company = Company({"reads": reads}, seed=seed)
    try:
        client = company.enter()
        for frames in conversation:
            alone = company.alone[client]
            if alone.status == b"E":
                frames = [m.flush() if needs_preparing(frame, alone) else frame for frame in frames]
            # What has begun on a replica stays there up to its Sync, so there must be one before anything writes.
            company.say(client, *frames, *[m.sync()] * (reads == "replicas"), pieces=pieces)
        company.finish()
    finally:
        company.scene.close()


@pytest.mark.parametrize("reads", ["primary", "replicas"])
def test_it_is_as_if_the_client_had_a_server_of_its_own(reads: str) -> None:
    search(reads, 100)


@pytest.mark.live_long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reads", ["primary", "replicas"])
def test_it_still_is_after_a_long_search(reads: str) -> None:
    search(reads, 5000)
