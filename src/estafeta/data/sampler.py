"""The rows of each batch, rank and micro-batch: pure functions of the seed and the counters.

The global batches do not depend on the number of workers: they are those of a serial loop over the same permutation.
This module must not know what a row is.
"""

import hashlib
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from estafeta.protocol.layout import Round

Rows = npt.NDArray[np.int64]
SMALLEST = 1e-15
"""Smallest fraction of held-out rows. With a smaller one, the ends of a stratum would not fit int64."""
DRAWS = 4096
"""Number of draws for held-out rows that come from one generator."""
_PURPOSES = {"split": 0, "shuffle": 1, "held out": 2, "blocks": 3, "window": 4}


def split_rows(rows: int, validation: float, seed: int) -> tuple[Rows, Rows]:
    """Deal rows to training and validation by a seeded permutation.

    Args:
        rows: Number of rows of the data set.
        validation: Fraction for validation, at least 0 and below 1; rounded to whole rows.
        seed: The run's seed.

    Returns:
        Indices of the training rows and of the validation rows, each ascending.
    """
    held_out = round(rows * validation)
    order = generator("split", seed).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def held_out(first: int, last: int, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """A mask of the held-out rows from `first` to `last` - 1: one of each 1/fraction rows, drawn by the seed.

    The mask depends on the row's number alone, so an import can deal rows before it knows how many will come.

    Args:
        first: Number of a row.
        last: Number of the row after the last one.
        fraction: Fraction that is held out, at least 0 and below 1.
        seed: Seed of the draw.
    """
    mask = np.zeros(last - first, bool)
    if fraction:
        fraction = max(fraction, SMALLEST)
        # One more stratum on either side: rounding may put a row into the one beside that of the formula.
        strata = np.arange(max(0, int(first * fraction) - 1), int(last * fraction) + 2)
        starts, ends = (np.ceil(edge / fraction).astype(np.int64) for edge in (strata, strata + 1))
        drawn = starts + (_draws(strata, seed) * (ends - starts)).astype(np.int64)
        mask[drawn[(drawn >= first) & (drawn < last)] - first] = True
    return mask


def steps_per_epoch(train_rows: int, batch_size: int, drop_last: bool) -> int:
    """Optimiser steps in one epoch."""
    return train_rows // batch_size if drop_last else -(-train_rows // batch_size)


def batch_of(step: int, *, train_rows: int, batch_size: int, steps: int, seed: int) -> Rows:
    """Positions (in the training rows) of the global batch of one step.

    Args:
        step: Step since the beginning of the run; epochs follow each other.
        train_rows: Number of training rows.
        batch_size: Rows in a batch; the last one of an epoch may be shorter.
        steps: Steps per epoch.
        seed: The run's seed.
    """
    epoch, index = divmod(step, steps)
    return _permutation(seed, epoch, train_rows)[index * batch_size : (index + 1) * batch_size]


def share_of(rows: Rows, rank: int, workers: int) -> Rows:
    """The rank's contiguous part of `rows`; sizes differ by one at most."""
    first, last = (len(rows) * r // workers for r in (rank, rank + 1))
    return rows[first:last]


def micro_batches(rows: Rows, size: int) -> list[Rows]:
    """A share, cut into as few parts as `size` allows, all of nearly the same length."""
    parts = -(-len(rows) // size)
    return [share_of(rows, part, parts) for part in range(parts)]


def seed_of(seed: int, round_: Round, rank: int, part: int) -> int:
    """Seed of the random numbers (dropout, augmentation) of one micro-batch: the same in every attempt and leg."""
    key = f"{seed}/{round_.name}/{rank}/{part}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1  # PyTorch takes 63 bits


def _draws(strata: Rows, seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each stratum. They are drawn in runs of `DRAWS`, so a late one needs no earlier run."""
    first, last = int(strata[0]) // DRAWS, int(strata[-1]) // DRAWS
    drawn = np.concatenate([generator("held out", seed, run).random(DRAWS) for run in range(first, last + 1)])
    return drawn[strata - first * DRAWS]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> Rows:
    return generator("shuffle", seed, epoch).permutation(rows)


def generator(purpose: Literal["split", "shuffle", "held out", "blocks", "window"], *key: int) -> np.random.Generator:
    """Random numbers for one purpose and key, and no other."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([_PURPOSES[purpose], *key])))
