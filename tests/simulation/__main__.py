"""Runs the simulation for as many steps as asked: `python -m tests.simulation --steps 1000000`."""

from __future__ import annotations

import argparse
import time

from tests.simulation.story import run
from tests.support.invariants import Violated

_TELL_S = 10.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=1_000_000, help="stop after so many")
    options.add_argument("--seed", type=int, default=1, help="the first one")
    options.add_argument("--seeds", type=int, default=None, help="stop after so many runs")
    options.add_argument("--nodes", type=int, default=None, help="in each run, instead of a number by chance")
    chosen = options.parse_args()
    steps = bans = edits = runs = nodes_max = 0
    began_s = told_s = time.monotonic()
    seed = chosen.seed
    while steps < chosen.steps and (chosen.seeds is None or runs < chosen.seeds):
        try:
            taken, checks = run(seed, nodes=chosen.nodes)
        except Violated as violated:
            print(violated)
            again = f" --nodes {chosen.nodes}" if chosen.nodes else ""
            print(f'To repeat it: make sim ARGUMENTS="--seed {seed} --seeds 1{again}"')
            return 1
        nodes_max = max(nodes_max, checks.world.plan.nodes)
        steps, bans, edits = steps + taken, bans + checks.bans_put, edits + checks.activations
        runs, seed = runs + 1, seed + 1
        if (now_s := time.monotonic()) - told_s > _TELL_S:
            told_s = now_s
            print(
                f"{steps} steps, {runs} runs, {bans} bans, {edits} generations, {now_s - began_s:.0f} s",
                flush=True,
            )
    print(
        f"{steps} steps in {runs} runs from seed {chosen.seed}, of up to {nodes_max} nodes: {bans} bans, "
        f"{edits} generations, no violation; {time.monotonic() - began_s:.0f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
