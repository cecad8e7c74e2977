"""A job refuses wrong values, and has defaults for what the user leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from core.jobs import plain
from estafeta.errors import UsageError
from estafeta.job.job import Job
from estafeta.job.optim import SGD
from estafeta.job.stopping import EarlyStopping
from estafeta.metrics import accuracy


def job(**changes: Any) -> Job:
    return Job(**{**vars(plain), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"micro_batch_size": -1}, "micro_batch_size is -1"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"validation": -0.1}, "validation is -0.1"),
        ({"window_mb": 0}, "window_mb is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, r"it must be a whole number in \[0, 2\*\*63\)"),
        ({"dataset": "../x"}, "dataset '../x' cannot be the name"),
        ({"valid_dataset": "MNIST"}, "valid_dataset 'MNIST' cannot be the name"),
        ({"seed": -1}, r"seed is -1; it must be a whole number in \[0, "),
        ({"epochs": 2.0}, r"epochs is 2\.0; it must be a whole number"),
        ({"batch_size": None}, "batch_size is None; it must be a whole number"),
        ({"validation": "0.2"}, r"validation is '0.2'; it must be a number in \[0, 1\)"),
        ({"model": nn.Linear(1, 1)}, "model is a Linear; it must be a function or class that makes the model"),
        ({"model": None}, "model is None; it must be a function"),
        ({"loss": "mse"}, "loss is 'mse'; it must be a function"),
        ({"loss": nn.MSELoss}, "loss is MSELoss; it must be a function of output and target"),
        ({"loss": nn.MSELoss(reduction="sum")}, "loss is a MSELoss; it must be the mean over the batch"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "optimizer is a SGD; it must be one of Estaf"),
        ({"optimizer": SGD}, "optimizer is SGD; it must be one of Estafeta's, such as"),
        ({"dataset": ([1.0], [2.0])}, "dataset is a tuple; it must be a name, or a function or class that makes"),
        ({"valid_dataset": ([1.0], [2.0])}, "valid_dataset is a tuple; it must be a function"),
        ({"transform": "flip"}, "transform is 'flip'; it must be a function"),
        ({"metrics": [accuracy]}, "metrics is a list; it must be functions by name"),
        ({"metrics": {"accuracy": "accuracy"}}, "metrics is a dict; it must be functions by name"),
        ({"early_stopping": 3}, r"early_stopping is 3; it must be estafeta\.EarlyStopping"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job(**changes)


def test_a_name_may_be_that_of_a_data_set_in_the_store() -> None:
    assert job(dataset="people", valid_dataset="people-2026").dataset == "people"
    with pytest.raises(UsageError) as caught:
        job(dataset="people.csv/")
    assert caught.value.hint.endswith("breast_cancer, diabetes, digits, iris, wine")


@pytest.mark.parametrize(
    ("changes", "monitor"),
    [
        ({"validation": 0.2}, "valid_loss"),
        ({"validation": 0.0}, "train_loss"),
        ({"validation": 0.0, "valid_dataset": "iris"}, "valid_loss"),
        ({"early_stopping": EarlyStopping(monitor="valid_accuracy", patience=2)}, "valid_accuracy"),
    ],
)
def test_the_best_epoch_is_told_by_the_loss(changes: dict[str, Any], monitor: str) -> None:
    stopping = job(**changes).stopping
    assert stopping.monitor == monitor
    assert stopping.patience == (2 if "early_stopping" in changes else None)


def test_a_job_does_not_change() -> None:
    with pytest.raises(AttributeError):
        plain.epochs = 3  # type: ignore[misc]
