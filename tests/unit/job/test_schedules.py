"""Schedules against `torch.optim.lr_scheduler`, and the rules that PyTorch has no counterpart for."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from estafeta.errors import UsageError
from estafeta.job.schedules import Cosine, Progress, Schedule, StepLR, Warmup

EPOCHS = 30
STEPS_PER_EPOCH = 7

Scheduler = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def at(step: int, total: int = EPOCHS * STEPS_PER_EPOCH) -> Progress:
    return Progress(step=step, total_steps=total, steps_per_epoch=STEPS_PER_EPOCH)


def torch_factors(scheduler: Scheduler, count: int) -> list[float]:
    """Return the learning rates of `count` periods at a base learning rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler(optimizer)
    factors = []
    for _ in range(count):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return factors


def sequential(*parts: Scheduler, at: int) -> Scheduler:
    return lambda o: lr_scheduler.SequentialLR(o, [part(o) for part in parts], milestones=[at])


def linear(length: int, start: float = 1 / 3) -> Scheduler:
    return lambda o: lr_scheduler.LinearLR(o, start_factor=start, total_iters=length)


PAIRS: dict[str, tuple[Schedule, Scheduler]] = {
    "step": (StepLR(7, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 7, gamma=0.5)),
    "step, default gamma": (StepLR(4), lambda o: lr_scheduler.StepLR(o, 4)),
    "cosine": (Cosine(total=EPOCHS), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
    "cosine over the run": (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
    "cosine to a minimum": (Cosine(minimum=0.2), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS, eta_min=0.2)),
    "warm-up": (Warmup(5), linear(5)),
    "warm-up, other start": (Warmup(8, start=0.01), linear(8, 0.01)),
    "warm-up, then step": (
        Warmup(4, then=StepLR(6, gamma=0.3)),
        sequential(linear(4), lambda o: lr_scheduler.StepLR(o, 6, gamma=0.3), at=4),
    ),
    "warm-up, then cosine": (
        Warmup(5, then=Cosine()),
        sequential(linear(5), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS - 5), at=5),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # PyTorch's SequentialLR warns of itself
@pytest.mark.parametrize("name", PAIRS)
def test_epochs_follow_pytorch(name: str) -> None:
    schedule, scheduler = PAIRS[name]
    expected = torch_factors(scheduler, EPOCHS)
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH)
        factors = {schedule.factor(at(step)) for step in steps}
        assert len(factors) == 1, "the factor changes inside an epoch"
        # PyTorch's recursive forms gather rounding errors; near zero only the absolute error is small
        assert factors.pop() == pytest.approx(expected[epoch], rel=1e-12, abs=1e-14)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize(
    ("schedule", "scheduler"),
    [
        (StepLR(50, 0.5, unit="step"), lambda o: lr_scheduler.StepLR(o, 50, 0.5)),
        (Cosine(unit="step"), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS_PER_EPOCH)),
        (
            Warmup(20, then=Cosine(unit="step"), unit="step"),
            sequential(linear(20), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS_PER_EPOCH - 20), at=20),
        ),
    ],
)
def test_steps_follow_pytorch(schedule: Schedule, scheduler: Scheduler) -> None:
    steps = EPOCHS * STEPS_PER_EPOCH
    factors = [schedule.factor(at(step)) for step in range(steps)]
    np.testing.assert_allclose(factors, torch_factors(scheduler, steps), rtol=1e-11, atol=1e-14)


def test_warmup_in_steps_then_epochs_counted_from_its_end() -> None:
    schedule = Warmup(10, then=StepLR(1, gamma=0.5), unit="step")
    changes = [step for step in range(1, 40) if schedule.factor(at(step)) < schedule.factor(at(step - 1))]
    assert changes == [17, 24, 31, 38]


def test_warmup_in_epochs_then_cosine_in_steps_fills_the_rest() -> None:
    schedule = Warmup(2, then=Cosine(unit="step"))
    total, warm = EPOCHS * STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH
    middle = (total + warm) // 2
    assert schedule.factor(at(warm)) == 1.0
    assert schedule.factor(at(middle)) == pytest.approx(0.5)
    assert schedule.factor(at(total)) == 0.0


def test_cosine_stays_at_its_minimum() -> None:
    schedule = Cosine(total=10, minimum=0.1)
    assert {schedule.factor(at(epoch * STEPS_PER_EPOCH)) for epoch in (10, 11, 20, 29)} == {0.1}


def test_cosine_of_nothing_is_its_minimum() -> None:
    schedule = Warmup(3, then=Cosine(minimum=0.25))
    assert schedule.factor(at(3 * STEPS_PER_EPOCH, total=3 * STEPS_PER_EPOCH)) == 0.25


def test_unfinished_epochs_count_in_the_length_of_the_run() -> None:
    progress = Progress(step=10, total_steps=25, steps_per_epoch=10)
    assert Cosine().factor(progress) == pytest.approx((1 + math.cos(math.pi / 2.5)) / 2)


def test_warmup_may_start_at_zero_and_then_stays_at_one() -> None:
    schedule = Warmup(4, start=0.0, unit="step")
    assert [schedule.factor(at(step)) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "field", "value", "allowed"),
    [
        (lambda: StepLR(0), "step_size", "0", "whole number in [1, inf)"),
        (lambda: StepLR(2.5), "step_size", "2.5", "whole number in [1, inf)"),
        (lambda: StepLR(True), "step_size", "True", "whole number in [1, inf)"),
        (lambda: StepLR(3, gamma=-0.5), "gamma", "-0.5", "[0, inf)"),
        (lambda: StepLR(3, gamma=math.nan), "gamma", "nan", "[0, inf)"),
        (lambda: Cosine(total=0), "total", "0", "whole number in [1, inf)"),
        (lambda: Cosine(minimum=1.5), "minimum", "1.5", "[0, 1]"),
        (lambda: Warmup(5, start=-0.1), "start", "-0.1", "[0, 1]"),
        (lambda: Warmup(-1), "length", "-1", "whole number in [1, inf)"),
        (lambda: Warmup(5, then=0.1), "then", "0.1", "a schedule or None"),
        (lambda: Cosine(unit="batch"), "unit", "'batch'", '"epoch" or "step"'),
    ],
)
def test_values_outside_their_range_are_refused(
    make: Callable[[], Schedule], field: str, value: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    message = str(caught.value)
    assert f".{field} is {value}; it must be " in message
    assert allowed in message
    assert field in caught.value.hint


def test_the_ends_of_a_range_are_allowed() -> None:
    assert Cosine(minimum=1).minimum == 1.0
    assert Warmup(1, start=1).start == 1.0
    assert StepLR(1, gamma=0).gamma == 0.0


def test_numbers_are_kept_as_floats() -> None:
    assert type(StepLR(3, gamma=1).gamma) is float
    assert type(Cosine(minimum=np.float32(0.5)).minimum) is float
