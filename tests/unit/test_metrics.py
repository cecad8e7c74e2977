"""Metrics by scikit-learn's names give scikit-learn's values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn import metrics as theirs

from estafeta import metrics as ours

NUMBERS = torch.Generator().manual_seed(0)
CLASSES = torch.randint(0, 4, (50,), generator=NUMBERS)
BINARY = torch.randint(0, 2, (50,), generator=NUMBERS)
SCORES = torch.randn(50, 4, generator=NUMBERS)
LOGITS = torch.randn(50, generator=NUMBERS)


@pytest.mark.parametrize(
    ("output", "target", "predicted"),
    [
        (SCORES, CLASSES, SCORES.argmax(1)),
        (LOGITS, BINARY, LOGITS > 0),
        (LOGITS[:, None], BINARY, LOGITS > 0),
        (LOGITS[:, None], BINARY[:, None].float(), LOGITS > 0),
        (LOGITS, BINARY.float(), LOGITS > 0),
    ],
    ids=["classes", "logits", "column of logits", "columns", "float target"],
)
def test_accuracy(output: torch.Tensor, target: torch.Tensor, predicted: torch.Tensor) -> None:
    expected = theirs.accuracy_score(target.reshape(-1).long(), predicted.long())
    assert 0.1 < expected < 0.9
    assert float(ours.accuracy(output, target)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error"])
@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_errors(name: str, shape: tuple[int, ...]) -> None:
    metric: Callable[..., Any] = getattr(ours, name)
    expected = getattr(theirs, name)(BINARY, LOGITS)
    assert float(metric(LOGITS.reshape(shape), BINARY.float())) == pytest.approx(expected, rel=1e-6)
