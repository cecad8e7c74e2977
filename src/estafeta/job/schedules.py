"""Learning-rate schedules: the factor of the learning rate at each point of a run.

Role: say how the learning rate changes, as `optimizer.lr * schedule.factor(progress)`.
Must not know: the optimiser that it serves, the number of workers, the place of the run.
Invariant: a factor is a pure function of `Progress`. A schedule remembers nothing, so a resumed, repeated
or handed-over step gets the same learning rate.

The formulas are the closed forms of `torch.optim.lr_scheduler`, stepped once per epoch unless `unit` says otherwise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from annotated_types import Le
from pydantic.dataclasses import dataclass as checked

from estafeta.job.checks import CONFIG, Count, Rate, explained, only

Unit = Literal["epoch", "step"]
Factor = Annotated[Rate, Le(1)]
"""Number in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The steps done of a run, or of the part of it that one schedule rules.

    Attributes:
        step: Optimiser steps done.
        total_steps: Optimiser steps in the whole.
        steps_per_epoch: Optimiser steps in one pass over the data.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    def done(self, unit: Unit) -> int:
        """Return the steps, or whole epochs, done."""
        return self.step // self._steps_in(unit)

    def total(self, unit: Unit) -> float:
        """Return the length of the whole in steps, or in epochs and fractions of an epoch."""
        return self.total_steps / self._steps_in(unit)

    def after(self, length: int, unit: Unit) -> Progress:
        """Return the progress of a part that begins `length` units later: its own clock, ending at the same moment."""
        skipped = length * self._steps_in(unit)
        return Progress(self.step - skipped, self.total_steps - skipped, self.steps_per_epoch)

    def _steps_in(self, unit: Unit) -> int:
        return self.steps_per_epoch if unit == "epoch" else 1


@checked(frozen=True, config=CONFIG)
class Schedule(ABC):
    """Base of the schedules.

    Attributes:
        unit: Unit that the schedule counts in: `"epoch"` (as PyTorch users step their schedulers) or `"step"`.

    Raises:
        UsageError: A value is out of its range, or of another kind.
    """

    unit: Unit = field(default="epoch", kw_only=True)
    _explained = explained

    @abstractmethod
    def factor(self, progress: Progress) -> float:
        """Return the factor of the learning rate for the step that follows `progress`."""


ScheduleOrNone = Annotated[
    Schedule | None, only(lambda value: value is None or isinstance(value, Schedule), "a schedule or None")
]
"""Schedule, or None for a learning rate that stays."""


@checked(frozen=True, config=CONFIG)
class StepLR(Schedule):
    """Multiply by `gamma` every `step_size` units (`torch.optim.lr_scheduler.StepLR`).

    Attributes:
        step_size: Units between two changes, at least 1.
        gamma: Factor of one change, in [0, inf).
    """

    step_size: Count
    gamma: Rate = 0.1

    def factor(self, progress: Progress) -> float:
        """Return `gamma` to the power of the changes so far."""
        return self.gamma ** (progress.done(self.unit) // self.step_size)


@checked(frozen=True, config=CONFIG)
class Cosine(Schedule):
    """Fall from 1 to `minimum` along half a cosine (`torch.optim.lr_scheduler.CosineAnnealingLR`).

    Past `total` the factor stays at `minimum`; PyTorch's would rise again.

    Attributes:
        total: Length of the fall in units (PyTorch's `T_max`), at least 1; None is all of the run.
        minimum: Last factor, in [0, 1]. PyTorch's `eta_min` is `minimum * lr`.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, eq. 5.
    """

    total: Count | None = None
    minimum: Factor = 0.0

    def factor(self, progress: Progress) -> float:
        """Return the height of the cosine."""
        done = progress.done(self.unit)
        total = progress.total(self.unit) if self.total is None else self.total
        if done >= total:
            return self.minimum
        return self.minimum + (1.0 - self.minimum) * (1.0 + math.cos(math.pi * done / total)) / 2.0


@checked(frozen=True, config=CONFIG)
class Warmup(Schedule):
    """Rise in a straight line from `start` to 1, then follow another schedule.

    `then` begins at its own zero when the warm-up ends. A `Cosine()` without a total fills the rest of the run. The two
    may count in different units. In PyTorch: `SequentialLR([LinearLR(...), then], [length])`.

    Attributes:
        length: Units until the factor is 1, at least 1.
        start: First factor, in [0, 1].
        then: Schedule that follows; None keeps the factor at 1.
    """

    length: Count
    start: Factor = 1.0 / 3.0
    then: ScheduleOrNone = None

    def factor(self, progress: Progress) -> float:
        """Return the height of the ramp, or the factor of the schedule that follows it."""
        done = progress.done(self.unit)
        if done < self.length:
            return self.start + (1.0 - self.start) * done / self.length
        return self.then.factor(progress.after(self.length, self.unit)) if self.then else 1.0


SCHEDULES: Final[Mapping[str, type[Schedule]]] = {kind.__name__: kind for kind in (StepLR, Cosine, Warmup)}
"""The schedules by name."""
