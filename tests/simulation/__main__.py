"""`make simulate`, or `python -m simulation` in `tests/`: many histories, or one that is told.

python -m simulation                        20,000 histories; a line for each that is not as it should be
python -m simulation 1234                   the history of seed 1234, without what changed nothing
python -m simulation 1234 --whole           with every call
python -m simulation --profile failover …   worlds in which only that happens
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from .campaign import campaign
from .history import live
from .stand_ins import stand_ins
from .world import PROFILES

HISTORIES = 20_000


def main() -> int:
    """Returns 1 if something was not as it should be."""
    parser = argparse.ArgumentParser(prog="simulation", description="Simulated runs, each a function of its seed.")
    parser.add_argument("seed", type=int, nargs="?", help="tell the history of this one")
    parser.add_argument("--profile", choices=PROFILES, default="anything", help="which kind of worlds")
    parser.add_argument("--whole", action="store_true", help="tell every call")
    parser.add_argument("--histories", type=int, default=HISTORIES, help="how many")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="how many at a time")
    options = parser.parse_args()
    if options.seed is not None:
        with stand_ins():
            history = live(PROFILES[options.profile](options.seed))
        sys.stdout.write(f"{history.tell(options.whole)}\n")
        return int(history.violation is not None)
    began, wrong, failures, turns = time.monotonic(), 0, 0, 0
    seeds = range(options.first, options.first + options.histories)
    for verdict in campaign(options.profile, seeds, options.processes):
        turns += verdict.turns
        failures += verdict.failures
        if verdict.violation:
            wrong += 1
            sys.stdout.write(f"seed {verdict.seed}: {verdict.violation[:200]}\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"{len(seeds)} histories of {turns} turns in {time.monotonic() - began:.0f} s: {wrong} not as they should be; "
        f"{failures} times a run failed, said why, and was resumed\n"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
