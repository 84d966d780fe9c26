"""Memory: whatever mix of batches and new lists brought it up to date, it knows the same."""

from hypothesis import given
from hypothesis import strategies as st

from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import Batch, Event, Row


def row(key: str, revision: int, value: bytes = b"", created: int | None = None) -> Row:
    return Row(key=key, value=value, create_revision=created or revision, mod_revision=revision)


def test_a_list_answers_its_differences() -> None:
    memory = Memory()
    assert memory.replace("a/", [row("a/1", 2), row("a/2", 3)], 5) == (
        Event(key="a/1", row=row("a/1", 2)),
        Event(key="a/2", row=row("a/2", 3)),
    )
    assert memory.replace("a/", [row("a/2", 3), row("a/3", 7)], 9) == (
        Event(key="a/1", row=None),
        Event(key="a/3", row=row("a/3", 7)),
    )
    assert memory.replace("a/", [row("a/2", 3), row("a/3", 7)], 11) == ()
    assert (memory.revision, memory.applied("a/"), memory.applied("b/")) == (11, 11, 0)


def test_a_list_of_one_prefix_leaves_the_others() -> None:
    memory = Memory()
    memory.replace("a/", [row("a/1", 2)], 5)
    memory.replace("b/", [row("b/1", 3)], 6)
    memory.replace("a/", [], 7)
    assert memory.under("a/") == []
    assert memory.under("b/") == [row("b/1", 3)]


def test_each_prefix_has_its_own_revision() -> None:
    memory = Memory()
    memory.replace("a/", [], 5)
    memory.replace("b/", [], 6)
    memory.apply(Batch(revision=9, events=(Event(key="a/1", row=row("a/1", 9)),)))
    assert (memory.applied("a/"), memory.applied("b/"), memory.revision) == (9, 6, 9)
    memory.apply(Batch(revision=12, events=()), "b/")
    assert (memory.applied("a/"), memory.applied("b/"), memory.revision) == (9, 12, 12)
    assert (memory.newest("a/"), memory.newest("b/"), memory.newest("")) == (9, 0, 9)


KEYS = st.sampled_from(["a", "a/", "a/b", "a/b/c", "a0", "b/a", "b"])
# Each step: put (a value) or delete (None) some keys at once.
STEPS = st.lists(
    st.dictionaries(KEYS, st.none() | st.binary(max_size=2), min_size=1, max_size=3), max_size=12
)


@given(STEPS, st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)))
def test_lists_and_batches_lead_to_the_same(
    steps: list[dict[str, bytes | None]], missed: set[int], listed: set[int]
) -> None:
    """A store changes; one memory gets every batch, another misses some and then lists again."""
    store: dict[str, Row] = {}
    watching, listing, following = Memory(), Memory(), Memory()
    for index, step in enumerate(steps):
        revision = index + 2
        events = []
        for key, value in step.items():
            if value is None:
                if store.pop(key, None) is not None:
                    events.append(Event(key=key, row=None))
            else:
                created = store[key].create_revision if key in store else revision
                store[key] = row(key, revision, value, created)
                events.append(Event(key=key, row=store[key]))
        batch = Batch(revision=revision, events=tuple(events))
        watching.apply(batch)
        if index not in missed:
            listing.apply(batch)
            following.apply(batch)
        if index in listed or index == len(steps) - 1:
            # What a new list answers, given to another memory as a batch, brings that one up to date too.
            events = list(listing.replace("", store.values(), revision))
            following.apply(Batch(revision=revision, events=tuple(events)))
            assert listing.under("") == following.under("") == watching.under("")
        assert watching.under("") == [store[key] for key in sorted(store)]
    for prefix in ("", "a", "a/", "a/b", "c"):
        expected = [store[key] for key in sorted(store) if key.startswith(prefix)]
        assert watching.under(prefix) == expected
        assert watching.newest(prefix) == max((one.mod_revision for one in expected), default=0)
    assert all(watching.row(key) == store.get(key) for key in ("a", "a/", "a/b", "c"))
