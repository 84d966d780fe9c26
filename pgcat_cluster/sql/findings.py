"""What the judges of a statement string collect while they look, and the Analysis made of it at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from .functions import FUNCTIONS, PARAMETER_OF
from .statement import TRANSACTION_LOCAL, Analysis, Effect, TransactionVerb
from .volatility import FunctionRules, may_be_built_in

READS = "reads"
EMPTY = "empty"
NOT_PARSED = "unknown: does not parse"
NOT_READ = "unknown: too long, or not text"

ROLE_PARAMETERS = frozenset({"transaction_read_only", "default_transaction_read_only", "in_hot_standby"})
"""Clients SHOW these to learn whether they talk to a primary; the answer must be the primary's."""

_DISCARD_WIDTH = {"all": 3, "temp": 2, "sequences": 1, "plans": 0}


@dataclass(slots=True)
class Findings:
    """Grows while statements are looked at. The first reason against a read is the one that stays."""

    rules: FunctionRules
    reason: str | None = None
    verbs: list[TransactionVerb] = field(default_factory=list)
    opens: bool = False
    ends: bool = False
    effects: set[Effect] = field(default_factory=set)
    parameters: list[str | None] = field(default_factory=list)
    prepared_name: str | None = None
    discards: str | None = None
    shown: str | None = None
    needs_text: bool = False
    by_catalog: bool = False
    calls_unknown: bool = False

    def refuse(self, reason: str, *effects: Effect) -> None:
        """No read, for this reason, and with these effects."""
        if self.reason is None:
            self.reason = reason
        self.effects.update(effects)

    def control(self, verb: TransactionVerb, reason: str, *, opens: bool = False, ends: bool = False) -> None:
        self.verbs.append(verb)
        self.opens |= opens
        self.ends |= ends
        self.refuse(reason)

    def call(self, name: str, qualified_name: str) -> None:
        """A function is called that is not set_config()."""
        effects = FUNCTIONS.get(name)
        if effects is not None:
            self.refuse(f"calls {name}()", *effects)
            if name in PARAMETER_OF:
                self.parameters.append(PARAMETER_OF[name])
            return
        names, rules = {name, qualified_name}, self.rules
        if names & rules.writing:
            self.refuse("calls a function listed as writing", Effect.WRITES)
        elif names & rules.reading:
            return
        elif rules.catalog is None:
            self.calls_unknown |= not may_be_built_in(name, qualified_name)
        else:
            self.by_catalog = True
            objection = rules.catalog.objection(name, qualified_name)
            if objection is not None:
                self.refuse(objection, Effect.WRITES)

    def set_config(self, name: str | None, *, is_local: bool) -> None:
        self.needs_text = True
        self.parameters.append(None if name is None else name.lower())
        if is_local:
            self.effects.add(Effect.SETS_LOCAL)
        else:
            self.refuse("calls set_config()", Effect.SETS_PARAMETER)

    def show(self, name: str) -> None:
        self.shown = name.lower()
        if self.shown in ROLE_PARAMETERS:
            self.refuse("shows a server's role")

    def discard(self, what: str) -> None:
        if self.discards is None or _DISCARD_WIDTH[what] > _DISCARD_WIDTH[self.discards]:
            self.discards = what
        self.refuse("discards session state", Effect.DISCARDS)

    def conclude(self, statements: int) -> Analysis:
        alone = statements == 1
        if not self.verbs:
            verb = TransactionVerb.NONE
        else:
            verb = self.verbs[0] if alone else TransactionVerb.OTHER
        return Analysis(
            parses=True,
            statements=statements,
            reads_only=self.reason is None and self.effects <= TRANSACTION_LOCAL,
            reason=self.reason or (READS if statements else EMPTY),
            transaction=verb,
            opens_transaction=self.opens,
            ends_transaction=self.ends,
            effects=frozenset(self.effects),
            parameters=tuple(self.parameters),
            prepared_name=self.prepared_name,
            discards=self.discards,
            show=self.shown if alone else None,
            needs_text=self.needs_text,
            by_catalog=self.by_catalog,
            calls_unknown=self.calls_unknown,
        )


def unknown(reason: str) -> Analysis:
    """An analysis that knows nothing."""
    return Analysis(parses=False, reason=reason)
