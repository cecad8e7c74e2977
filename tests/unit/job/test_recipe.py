"""The numbers that a job and the spec of a run share: what each accepts, refuses and keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from core.jobs import plain
from core.specs import spec_of
from estafeta.errors import UsageError
from estafeta.job.optim import SGD
from estafeta.job.recipe import Recipe, numbers_of
from estafeta.job.schedules import StepLR
from estafeta.protocol.spec import RunSpec

NAMES = [field.name for field in dataclasses.fields(Recipe)]


def test_job_and_spec_have_every_number() -> None:
    assert list(numbers_of(plain)) == NAMES
    assert set(NAMES) <= set(RunSpec.model_fields)
    assert numbers_of(spec_of("plain")) == numbers_of(plain)


@pytest.mark.parametrize("name", NAMES)
def test_job_and_spec_refuse_the_same(name: str) -> None:
    """A list is none of the numbers."""
    with pytest.raises(UsageError, match=rf"^Job\.{name} is \[0\.5, 'x'\]|^Job\.{name} is a list"):
        dataclasses.replace(plain, **{name: [0.5, "x"]})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=name):
        RunSpec.model_validate({**spec_of("plain").model_dump(), name: [0.5, "x"]})


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("epochs", np.int64(3), 3),
        ("seed", np.uint32(4), 4),
        ("validation", np.float32(0.5), 0.5),
        ("validation", 0, 0.0),
    ],
)
def test_numpy_numbers_are_kept_as_plain_ones(name: str, value: Any, kept: float) -> None:
    found = getattr(dataclasses.replace(plain, **{name: value}), name)
    assert (found, type(found)) == (kept, type(kept))


def test_numpy_numbers_of_optimizers_and_schedules_are_kept_as_plain_ones() -> None:
    assert type(SGD(lr=np.float32(0.5), momentum=np.float64(0.5)).lr) is float
    assert type(StepLR(np.int64(3)).step_size) is int


@pytest.mark.parametrize("name", ["epochs", "batch_size", "validation", "seed"])
@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), -1])
def test_no_number_at_all(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^Job.{name} is .*; it must be a (whole )?number in ") as caught:
        dataclasses.replace(plain, **{name: value})
    assert caught.value.hint.startswith(f"set {name} to a ")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: SGD(momentun=0.9), "Unknown field 'momentun' of SGD", "did you mean momentum? valid: lr, "),  # type: ignore[call-arg]
        (lambda: SGD(0.1, -1), "SGD.momentum is -1; it must be a number in [0, inf)", "set momentum to"),
        (lambda: SGD(1, 1, 0, 0, True, 6), "SGD does not take 6", "write name=value, with the names lr, "),  # type: ignore[misc]
        (lambda: StepLR(), "StepLR lacks step_size", "give StepLR a value for each"),  # type: ignore[call-arg]
    ],
)
def test_wrong_arguments_are_told_the_right_ones(make: Any, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert caught.value.hint.startswith(hint)
    assert caught.value.__suppress_context__, "the text of pydantic is not shown"
