"""Learning-rate schedules: what the learning rate is multiplied by at each point of a run.

Role: say how the learning rate changes, as `optimizer.lr * schedule.factor(progress)`.
Must not know: which optimiser it serves, how many workers there are, where the run is stored.
Invariant: a factor is a pure function of `Progress`. A schedule remembers nothing, so a resumed, repeated
or handed-over step gets the learning rate it would have had anyway.

The formulas are the closed forms of `torch.optim.lr_scheduler`, stepped once per epoch unless `unit` says otherwise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Final, Literal

from estafeta.errors import UsageError

Unit = Literal["epoch", "step"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run, or the part of it that one schedule rules, has come.

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
        """Return the progress of what begins `length` units later: its own clock, ending at the same moment."""
        skipped = length * self._steps_in(unit)
        return Progress(self.step - skipped, self.total_steps - skipped, self.steps_per_epoch)

    def _steps_in(self, unit: Unit) -> int:
        return self.steps_per_epoch if unit == "epoch" else 1


@dataclass(frozen=True)
class Schedule(ABC):
    """Base of the schedules.

    Attributes:
        unit: What the schedule counts in: `"epoch"` (as PyTorch users step their schedulers) or `"step"`.
    """

    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        require(self, "unit", self.unit in ("epoch", "step"), '"epoch" or "step"')

    @abstractmethod
    def factor(self, progress: Progress) -> float:
        """Return what the learning rate is multiplied by for the step that follows `progress`."""


@dataclass(frozen=True)
class StepLR(Schedule):
    """Multiply by `gamma` every `step_size` units (`torch.optim.lr_scheduler.StepLR`).

    Attributes:
        step_size: Units between two changes, at least 1.
        gamma: Factor of one change, in [0, inf).
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "step_size")
        require_numbers(self, "[0, inf)", "gamma")

    def factor(self, progress: Progress) -> float:
        """Return `gamma` to the power of the changes so far."""
        return self.gamma ** (progress.done(self.unit) // self.step_size)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Fall from 1 to `minimum` along half a cosine (`torch.optim.lr_scheduler.CosineAnnealingLR`).

    Past `total` the factor stays at `minimum`; PyTorch's would rise again.

    Attributes:
        total: Length of the fall in units (PyTorch's `T_max`), at least 1; None is all of the run.
        minimum: Last factor, in [0, 1]. PyTorch's `eta_min` is `minimum * lr`.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, eq. 5.
    """

    total: int | None = None
    minimum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total is not None:
            require_counts(self, "total")
        require_numbers(self, "[0, 1]", "minimum")

    def factor(self, progress: Progress) -> float:
        """Return the height of the cosine."""
        done = progress.done(self.unit)
        total = progress.total(self.unit) if self.total is None else self.total
        if done >= total:
            return self.minimum
        return self.minimum + (1.0 - self.minimum) * (1.0 + math.cos(math.pi * done / total)) / 2.0


@dataclass(frozen=True)
class Warmup(Schedule):
    """Rise in a straight line from `start` to 1, then follow another schedule.

    `then` begins, at its own zero, where the warm-up ends, and a `Cosine()` without a total fills what is left of
    the run. The two may count in different units. In PyTorch: `SequentialLR([LinearLR(...), then], [length])`.

    Attributes:
        length: Units until the factor is 1, at least 1.
        start: First factor, in [0, 1].
        then: What follows; None keeps the factor at 1.
    """

    length: int
    start: float = 1.0 / 3.0
    then: Schedule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "length")
        require_numbers(self, "[0, 1]", "start")
        require(self, "then", self.then is None or isinstance(self.then, Schedule), "a schedule or None")

    def factor(self, progress: Progress) -> float:
        """Return the height of the ramp, or the factor of what follows it."""
        done = progress.done(self.unit)
        if done < self.length:
            return self.start + (1.0 - self.start) * done / self.length
        return self.then.factor(progress.after(self.length, self.unit)) if self.then else 1.0


SCHEDULES: Final[Mapping[str, type[Schedule]]] = {kind.__name__: kind for kind in (StepLR, Cosine, Warmup)}
"""The schedules by name."""


def require(record: object, name: str, valid: bool, allowed: str) -> None:
    """Refuse the value of a setting.

    Args:
        record: The dataclass instance that holds the setting.
        name: Its field.
        valid: Whether its value may stay.
        allowed: What it may be, in words.

    Raises:
        UsageError: If not `valid`; the message names the field, the value and what is allowed.
    """
    if not valid:
        raise UsageError(
            f"{type(record).__name__}: {name}={getattr(record, name)!r}, but it must be {allowed}",
            hint=f"Set {name} to {allowed}.",
        )


def require_numbers(record: object, interval: str, *names: str) -> None:
    """Refuse numbers outside `interval`, such as `"[0, 1)"`, and keep the others as Python floats.

    A NumPy scalar would decide the dtype of what it is multiplied with, and is not JSON; a float does neither harm.

    Raises:
        UsageError: If the value of one of the fields is no number or lies outside.
    """
    for name in names:
        value = getattr(record, name)
        require(record, name, is_within(value, interval), f"a number in {interval}")
        object.__setattr__(record, name, float(value))


def require_counts(record: object, *names: str) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        UsageError: If the value of one of the fields is something else.
    """
    for name in names:
        value = getattr(record, name)
        require(record, name, type(value) is int and value >= 1, "a whole number in [1, inf)")


def is_within(value: object, interval: str) -> bool:
    """Tell whether `value` is a real number inside `interval`, such as `"[0, 1)"`; NaN and bool never are."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    number = float(value)
    return low < number < high or (interval[0] == "[" and number == low) or (interval[-1] == "]" and number == high)
