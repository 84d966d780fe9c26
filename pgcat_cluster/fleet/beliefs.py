"""What a node's health may say in the fleet's vote about each server."""

from __future__ import annotations

from pgcat_cluster.agreement.bans import Belief, Stance
from pgcat_cluster.health.cluster import ClusterHealth, Witness
from pgcat_cluster.health.detector import State
from pgcat_cluster.health.doubt import Look, Suspicion
from pgcat_cluster.health.evidence import EvidenceClass

# After a stall of our own, an opinion must be confirmed so soon to stand in public.
CONFIRM_S = 1.0
_SILENT = (EvidenceClass.UNREACHABLE.value, EvidenceClass.SOFT.value)

_TELLING: dict[str, Stance] = {"yes": "bad", "later": "unsure", "no": "silent"}


def look(host: str, health: ClusterHealth, server: str) -> Look:
    """One server as `Suspicion` compares it with the others."""
    witness = health.witness(server)
    is_doubted = witness.state in (State.SUSPECT, State.BAD) and witness.why in _SILENT
    return Look(
        host=host,
        is_bad_in_silence=is_doubted and witness.state is State.BAD,
        since_s=health.standings()[server].opinion.since_s,
        is_doubted=is_doubted,
        answered_s=None if is_doubted else witness.seen_s,
    )


def belief(cluster: str, server: str, health: ClusterHealth, suspicion: Suspicion, now: float) -> Belief:
    """What may be told about one server now."""
    witness = health.witness(server)
    why = witness.why
    return Belief(
        stance=_stance(cluster, server, witness, health, suspicion, now), why=why, seen_s=witness.seen_s
    )


def _stance(
    cluster: str, server: str, witness: Witness, health: ClusterHealth, suspicion: Suspicion, now: float
) -> Stance:
    match witness.state:
        case State.OK:
            return "proven" if witness.is_proven else "ok"
        case State.BAD:
            if not witness.is_confirmed:
                return "silent" if now - health.stalled_s >= CONFIRM_S else "unsure"
            if witness.why in _SILENT:
                return _TELLING[suspicion.may_tell((cluster, server))]
            return "bad"
        case _:
            return "unsure"
