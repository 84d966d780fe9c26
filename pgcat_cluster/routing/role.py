"""Which role of server a statement outside a transaction needs: the primary, or a replica will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgcat_cluster.sql.analysis import Analysis, TransactionVerb

Role = Literal["primary", "replica"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleDecision:
    """A role and the constant text that says why."""

    role: Role
    reason: str


def role_for(analysis: Analysis, reads: Literal["replicas", "primary"]) -> RoleDecision:
    """Decides by this statement alone: nothing of an earlier one sticks."""
    may_read_elsewhere = analysis.reads_only or analysis.transaction is TransactionVerb.BEGIN_READ_ONLY
    if may_read_elsewhere and reads == "primary":
        return RoleDecision(role="primary", reason="reads stay on the primary by settings")
    return RoleDecision(role="replica" if may_read_elsewhere else "primary", reason=analysis.reason)
