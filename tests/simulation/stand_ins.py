"""The jobs of simulated runs, and the few things of the real code that the tests put aside for them.

The learner is a stand-in of numpy: a vector whose gradient depends on itself and on the rows, with a buffer of each
kind. Everything above it is the real code. The tests put aside four things:

* the random generators of a user's code, as no job draws here;
* words made of real random bits: they come from the seed, so that a history repeats;
* a loop that looks how many processors there are;
* the least length of a slice: vectors are short, and every rank shall have one.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np

from core import jobs, spending
from estafeta import waiting
from estafeta.errors import Diverged, UserCodeError
from estafeta.job.job import Job
from estafeta.protocol import clipping, partition, step
from estafeta.protocol.spec import RunSpec, Slot
from estafeta.residents import claim, replica
from estafeta.store import store
from estafeta.store.tensorfile import Array
from estafeta.training import batches, session, share

from .world import Mishap

BIAS = 3
"""Elements of the second parameter."""

ALARM_S = 4.0
"""Seconds of the longest pause of a waiting rank, and between two looks at whether to go on. They are more than in
earnest, as most of a history would be looks that find no change."""

GRAIN = 4
"""Least elements of a slice."""


class Learner:
    """As `estafeta.training.learner.Learner`, of numpy; each micro-batch takes virtual time."""

    def __init__(self, job: Job, spec: RunSpec) -> None:
        self._seconds = spec.arguments["model"]["seconds"]
        size = spec.arguments["model"]["size"]
        self.parameters: Array = np.linspace(-1, 1, size, dtype=np.float32)
        self.slots = (
            Slot(name="weight", shape=(size - BIAS,), offset=0),
            Slot(name="bias", shape=(BIAS,), offset=size - BIAS),
        )
        self.frozen: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {"mean": np.zeros(2, np.float32), "seen": np.zeros((), np.int64)}
        self.bytes = self.parameters.nbytes
        self._factors, self._targets = _rows(size)
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, float] = {"loss": 0.0}
        self.rows = 0
        self._gradient: Array | None = None

    def resume(self, gradient: Array, absent: object, rows: int, sums: dict[str, float]) -> None:
        self._gradient, self.rows, self.sums = gradient, rows, dict(sums)

    @property
    def absent(self) -> tuple[int, ...]:
        return () if self._gradient is not None else (0, 1)

    def gradient(self) -> Array:
        return np.zeros_like(self.parameters) if self._gradient is None else self._gradient.copy()

    def train(self, batch: tuple[Array, ...], ship: Any = None) -> None:
        spending.spend(self._seconds)
        if MISHAPS.happens("UserCodeError"):
            raise UserCodeError("the model raised")
        rows = batch[0]
        found = (self.parameters * self._factors[rows] - self._targets[rows]).sum(0)
        if MISHAPS.happens("NotFinite"):
            found[0] = self.buffers["mean"][0] = np.nan
        self._gradient = found if self._gradient is None else self._gradient + found
        self.buffers["mean"] *= np.float32(0.9)
        self.buffers["mean"] += self._targets[rows, :2].mean(0)
        self.buffers["seen"] += len(rows)
        self._add(rows)
        if ship is not None:
            for number, slot in enumerate(self.slots):
                ship(number, slot.offset, self._gradient[slot.offset : slot.offset + slot.size])
            self._gradient = None

    def evaluate(self, batch: tuple[Array, ...]) -> None:
        spending.spend(self._seconds)
        self._add(batch[0])

    def check_metrics(self, monitor: str, *, validates: bool) -> None:
        assert monitor in ("train_loss", "valid_loss" if validates else "train_loss")

    def check_loss(self) -> None:
        assert math.isfinite(self.sums["loss"])

    def state_dict_keys(self) -> tuple[tuple[str, str, str], ...]:
        return (
            ("weight", "parameter", "weight"),
            ("bias", "parameter", "bias"),
            ("mean", "buffer", "mean"),
            ("seen", "buffer", "seen"),
        )

    def _add(self, rows: Array) -> None:
        away = self.parameters * self._factors[rows] - self._targets[rows]
        self.sums["loss"] += float((away * away).sum(dtype=np.float64))
        self.rows += len(rows)


class Table:
    """As `estafeta.training.table.Table`: a batch is the numbers of its rows."""

    collated = True

    def __init__(self, rows: int) -> None:
        self._length = rows

    def __len__(self) -> int:
        return self._length

    def batch(self, rows: Array) -> tuple[Array, Array]:
        return rows, rows


class Words:
    """As `secrets`, but the words come from a seed."""

    def __init__(self) -> None:
        self.numbers = random.Random()

    def token_hex(self, count: int) -> str:
        return f"{self.numbers.getrandbits(8 * count):0{2 * count}x}"


WORDS = Words()


class Mishaps:
    """The error that makes the run of the present world fail."""

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, mishap: Mishap | None) -> None:
        """From now on it is this."""
        self._mishap, self._chances = mishap, 0

    def happens(self, reason: str) -> bool:
        """Whether it happens now, where it could."""
        if self._mishap is None or self._mishap.reason != reason:
            return False
        self._chances += 1
        return self._mishap.after < self._chances <= self._mishap.after + self._mishap.times


MISHAPS = Mishaps()


def check_parameters(parameters: Array, version: int, lr: float) -> None:
    """As `step.check_parameters`."""
    if MISHAPS.happens("Diverged"):
        raise Diverged("the parameters are not finite")
    _check_parameters(parameters, version, lr)


_check_parameters = step.check_parameters


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Within it, jobs are trained by the stand-in, and nothing draws but from seeds."""
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (session, "load_job", lambda directory, place: jobs.plain),
            (session, "Learner", Learner),
            (session, "seed_generators", lambda seed: None),
            (share, "seed_generators", lambda seed: None),
            (batches, "open_table", lambda factory, arguments, collate: Table(arguments["rows"])),
            (store, "secrets", WORDS),
            (claim, "secrets", WORDS),
            (waiting, "SPIN_S", 0.0),
            (waiting, "ALARM_S", ALARM_S),
            (waiting, "CHECK_S", ALARM_S),
            (step, "check_parameters", check_parameters),
            (partition, "GRAIN", GRAIN),
            (partition, "BLOCK", GRAIN),
            (replica, "BLOCK", GRAIN),
            (clipping, "BLOCK", GRAIN),
        ):
            stack.enter_context(patch.object(place, name, value))
        stack.enter_context(patch.dict(store.Store.wait.__kwdefaults__, backoff=store.Backoff(longest_s=ALARM_S)))
        yield


@cache
def _rows(size: int) -> tuple[Array, Array]:
    numbers = np.random.default_rng(size)
    factors = numbers.uniform(0.5, 1.5, (256, size)).astype(np.float32)
    return factors, numbers.standard_normal((256, size)).astype(np.float32)
