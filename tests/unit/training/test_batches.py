"""The way of a batch to the model, and the refusal of wrong data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.specs import spec_of
from estafeta.errors import UsageError, UserCodeError
from estafeta.job.job import Job
from estafeta.job.optim import SGD
from estafeta.protocol.layout import Round
from estafeta.protocol.spec import Plan
from estafeta.store.store import Store
from estafeta.training.batches import Data

ROWS = 20
TRAIN = Round(0, "train")


def arrays() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2), np.arange(ROWS)


def words() -> list[tuple[str, int]]:
    return [("x" * (row % 3 + 1), row) for row in range(ROWS)]


def lengths(rows: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([len(word) for word, _ in rows]), torch.tensor([row for _, row in rows])


def data_of(tmp_path: Path, **settings: Any) -> Data:
    job = Job(
        **{
            "model": nn.Identity,
            "loss": nn.functional.mse_loss,
            "dataset": arrays,
            "optimizer": SGD(lr=0.1),
            "validation": 0.0,
            **settings,
        }
    )
    return Data.open(job, spec_of("plain", validation=0.0), Store(tmp_path))


def plan(rows: int = ROWS) -> Plan:
    return Plan(
        token="t",
        train_rows=rows,
        valid_rows=0,
        steps_per_epoch=2,
        total_steps=2,
        sums=("loss",),
        parameters=(),
        buffers=(),
        frozen=(),
        state_dict=(),
    )


def first_batch(data: Data) -> tuple[Any, ...]:
    share = data.micro_batches(TRAIN, 0, spec_of("plain"), plan())
    return data.batch("train", share, 0)


def test_a_batch_as_it_is(tmp_path: Path) -> None:
    inputs, target = first_batch(data_of(tmp_path))
    np.testing.assert_array_equal(inputs[:, 0], 2 * target)
    assert inputs.dtype == torch.float32


def test_transform_has_the_last_word(tmp_path: Path) -> None:
    plain = first_batch(data_of(tmp_path))
    inputs, doubled, target = first_batch(data_of(tmp_path, transform=lambda x, y: [x, 2 * x, y]))
    torch.testing.assert_close(doubled, 2 * plain[0])
    torch.testing.assert_close(target, plain[1])
    torch.testing.assert_close(inputs, plain[0])


def test_collate_gets_rows_of_any_kind(tmp_path: Path) -> None:
    plain = first_batch(data_of(tmp_path))

    def backwards(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([row[0] for row in rows[::-1]]), torch.stack([row[1] for row in rows[::-1]])

    torch.testing.assert_close(first_batch(data_of(tmp_path, collate=backwards))[0], plain[0].flip(0))
    inputs, target = first_batch(data_of(tmp_path, dataset=words, collate=lengths))
    assert inputs.tolist() == [row % 3 + 1 for row in target.tolist()]


@pytest.mark.parametrize("what", ["collate", "transform"])
def test_errors_of_the_users_functions(what: str, tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no")

    with pytest.raises(UserCodeError, match=f"{what} raised ValueError: no"):
        first_batch(data_of(tmp_path, **{what: fails}))
    with pytest.raises(UsageError, match="A batch is a Tensor"):
        first_batch(data_of(tmp_path, **{what: lambda *batch: torch.ones(3)}))


def test_other_rows_than_those_of_the_plan(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    with pytest.raises(UsageError, match="has 20 rows for this phase, and had 21"):
        data.micro_batches(TRAIN, 0, spec_of("plain"), plan(21))
    data.tokens = ("another",)
    with pytest.raises(UsageError, match="has been imported again"):
        data.micro_batches(TRAIN, 0, spec_of("plain"), plan())
