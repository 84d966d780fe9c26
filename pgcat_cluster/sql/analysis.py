"""Says what a statement string is and does: whether it only reads, and what it leaves behind."""

from __future__ import annotations

from . import grammar, walk
from .findings import NOT_PARSED, NOT_READ, Findings, unknown
from .statement import Analysis, Effect, TransactionVerb
from .volatility import NO_RULES, FunctionRules

__all__ = ["Analysis", "Effect", "TransactionVerb", "analyze"]


def analyze(text: str, rules: FunctionRules = NO_RULES) -> Analysis:
    """Judges a statement string: the rendered text of a shape, or a client's own text.

    What can not be understood is unknown (`parses` is False) and no error.
    """
    if not grammar.fits(text):
        return unknown(NOT_READ)
    if not grammar.AVAILABLE:
        from . import fallback  # here, since sqlglot takes 30 MB that most nodes need not spend

        return fallback.analyze(text, rules)
    statements = grammar.parse(text)
    if statements is None:
        return unknown(NOT_PARSED)
    findings = Findings(rules=rules)
    for statement in statements:
        walk.judge(statement, findings)
    return findings.conclude(len(statements))
