"""Many histories, on all processors, and what is wrong with some of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from .history import live
from .stand_ins import stand_ins
from .world import PROFILES

BATCH = 20
"""Histories that a process lives at a time."""


@dataclass(frozen=True)
class Verdict:
    """One history in short.

    Attributes:
        seed: Seed of its world.
        violation: Broken promise; empty if there is none.
        turns: Length of the history.
        failures: Number of times that its run failed, and was resumed.
    """

    seed: int
    violation: str
    turns: int
    failures: int


def verdicts(profile: str, seeds: Iterable[int]) -> list[Verdict]:
    """Let worlds live, one after the other."""
    with stand_ins():
        histories = (live(PROFILES[profile](seed)) for seed in seeds)
        return [
            Verdict(history.world.seed, str(history.violation or ""), history.turns, history.failures)
            for history in histories
        ]


def campaign(profile: str, seeds: range, processes: int) -> Iterator[Verdict]:
    """Let worlds live on several processors; verdicts come in the order of the seeds."""
    batches = [seeds[first : first + BATCH] for first in range(0, len(seeds), BATCH)]
    if processes == 1:
        for batch in batches:
            yield from verdicts(profile, batch)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_keep_to_one) as pool:
        for found in pool.map(verdicts, [profile] * len(batches), batches):
            yield from found


def _keep_to_one() -> None:
    """Stay on one processor, another one for each process: threads that take turns change places much faster there."""
    own = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {own[os.getpid() % len(own)]})
