"""What a session wished at each savepoint of its transaction: going back to one undoes what was wished since."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from msgspec import Struct, structs

from pgcat_cluster.session.wishes import Wishes
from pgcat_cluster.sql.savepoints import Step, Steps, steps_of


class Saved(Struct, frozen=True, kw_only=True):
    """Wishes at a savepoint: those in force, and those that outlive the transaction."""

    lasting: Wishes
    now: Wishes
    name: str = ""


Savepoints = tuple[Saved, ...]
"""In the order in which they nest; the first, without a name, is how it was before the transaction's first wish.

Savepoints from before that are not known, and need not be: wherever they lead, nothing had been wished there.
"""


def followed(savepoints: Savepoints, current: Saved, steps: Steps) -> tuple[Savepoints, Saved]:
    """Savepoints and wishes after these steps (PostgreSQL, "SAVEPOINT")."""
    for step, name in steps:
        # Of several with one name the last counts; 0: from before the first wish.
        places = [place for place in range(1, len(savepoints)) if savepoints[place].name == name]
        place = places[-1] if places else 0
        match step:
            case Step.SAVES:
                savepoints = (*savepoints, structs.replace(current, name=name))
            case Step.RELEASES:
                savepoints = savepoints[: max(place, 1)]
            case Step.RETURNS:
                savepoints, current = savepoints[: place + 1], savepoints[place]
            case Step.ENDS:
                current = Saved(lasting=current.lasting, now=current.lasting)
                savepoints = (current,)
            case Step.OTHER:
                pass
    return savepoints, current


def missing(held: Iterable[bytes], text: bytes) -> str | None:
    """The savepoint that a statement names, and that those held before it have not set; None: there is none such."""
    names: list[str] = []
    for step, name in chain.from_iterable(
        steps_of(each.decode(errors="surrogateescape")) for each in (*held, text)
    ):
        if step is Step.SAVES:
            names.append(name)
        elif step in (Step.RELEASES, Step.RETURNS):
            if name not in names:
                return name
            while names[-1] != name:
                names.pop()
            if step is Step.RELEASES:
                names.pop()
    return None
