"""Whom a node asks that doubts itself, and when what they say lets it speak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgcat_cluster.agreement.cancels import Neighbour
from pgcat_cluster.agreement.peer_frames import Reply, Seen

COUNT = 3
_GOOD = "ok"


def witnesses(neighbours: Iterable[Neighbour], zone: str, draw: int) -> tuple[Neighbour, ...]:
    """Three other nodes, in two zones as far as there are; those of other zones than ours come first.

    `draw` is a random number that turns the order, so that not always the same ones are asked.
    """
    # Within one kind the order is by name, so that `draw` alone decides.
    known = sorted(neighbours, key=lambda one: one.node)
    far = _turned([one for one in known if one.zone != zone], draw)
    near = _turned([one for one in known if one.zone == zone], draw)
    chosen = (far + near)[:COUNT]
    if len({one.zone for one in chosen}) == 1:
        # Three of one zone may share what is wrong with it.
        zones = chosen[0].zone
        other = [one for one in far + near if one.zone != zones]
        chosen[-1:] = other[:1] or chosen[-1:]
    return tuple(chosen)


def confirmed(replies: Sequence[Reply | None]) -> bool:
    """Whether the witnesses agree that a server is bad: most of them looked, and not one found it well.

    None is a witness that did not answer.
    """
    looks = [reply for reply in replies if isinstance(reply, Seen)]
    return 2 * len(looks) > len(replies) and all(look.evidence != _GOOD for look in looks)


def _turned(nodes: list[Neighbour], draw: int) -> list[Neighbour]:
    start = draw % len(nodes) if nodes else 0
    return nodes[start:] + nodes[:start]
