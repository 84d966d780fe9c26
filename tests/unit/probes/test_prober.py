"""What an answer says; when a server is looked at again, on a clock that stands still until it is told to go on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from pgcat_cluster.health.evidence import Sample, Source
from pgcat_cluster.net.outgoing import ConnectRefused, ServerAddress
from pgcat_cluster.net.tls import OutgoingTls
from pgcat_cluster.probes.prober import ProbeLink, Prober, ProbeTarget, parse_facts
from tests.support.waiting import until

pytestmark = pytest.mark.once

_TURNS = 100


class Guide:
    """Asks rarely by itself."""

    def timeout_s(self, _server: str, _source: Source) -> float:
        return 1.0

    def probe_interval_s(self, _server: str) -> float:
        return 3600.0

    def probes_per_link(self, _server: str) -> int:
        return 1


class Dead:
    """The probes of a server that refuses, each of which is followed by a wish for another one at once."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.samples: list[Sample] = []
        target = ProbeTarget(
            address=ServerAddress(host="nowhere", port=1),
            tls=OutgoingTls("disable"),
            user="probe",
            database="postgres",
            secret=None,
        )
        self.prober = Prober(
            {"r1": target},
            guide=Guide(),
            on_sample=self._take,
            connect=self._refuse,
            now_s=lambda: self.now_s,
        )

    async def _refuse(self, _target: ProbeTarget, _timeout_s: float) -> ProbeLink:
        raise ConnectRefused("refused")

    def _take(self, _server: str, sample: Sample) -> None:
        self.samples.append(sample)
        self.prober.nudge("r1")


async def test_a_first_failure_is_looked_into_at_once_and_the_next_ones_keep_the_gap() -> None:
    dead = Dead()
    dead.prober.start()
    try:
        for count in (2, 3, 4):
            await until(lambda count=count: len(dead.samples) == count)
            for _turn in range(_TURNS):
                await asyncio.sleep(0)
            assert len(dead.samples) == count
            dead.now_s += 0.06
    finally:
        with suppress(asyncio.CancelledError):
            await dead.prober.stop()


@pytest.mark.parametrize(("text", "age_s"), [("1.5", 1.5), ("-0.25", 0.0), (None, None)])
def test_an_unknown_age_is_not_zero_and_a_clock_ahead_of_ours_is(
    text: str | None, age_s: float | None
) -> None:
    facts = parse_facts([["t", "7", "1", "200", "100", text, "then"]])
    assert facts.replayed_age_s == age_s
