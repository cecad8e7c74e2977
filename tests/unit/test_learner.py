"""A model as flat vectors: what it sums is what autograd computes, and its tensors are views of the vectors."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core import jobs
from core.specs import spec_of
from estafeta.dataset import Batch
from estafeta.errors import UsageError
from estafeta.job import Job
from estafeta.learner import Learner, NotFinite, seed_generators
from estafeta.usercode import UserCodeError

INPUTS, TARGET = (torch.as_tensor(array) for array in jobs.table())


def learner_of(name: str = "plain", **changes: Any) -> Learner:
    return Learner(Job(**{**vars(getattr(jobs, name)), **changes}), spec_of(name))


def rows(first: int, last: int) -> Batch:
    return INPUTS[first:last], TARGET[first:last]


def flat_gradient(model: nn.Module, batch: Batch) -> np.ndarray:
    """Of the sum over the rows."""
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).numpy()


@pytest.mark.parametrize("name", ["plain", "tied", "row_losses"])
def test_the_gradient_is_the_sum_over_all_rows(name: str) -> None:
    learner = learner_of(name)
    expected = flat_gradient(learner.model, rows(0, 12))
    for first, last in ((0, 5), (5, 6), (6, 12)):
        learner.train(rows(first, last))
    np.testing.assert_allclose(learner.gradient, expected, rtol=1e-5, atol=1e-6)
    assert learner.rows == 12


def test_sums_and_means_of_losses_and_metrics() -> None:
    learner = learner_of(metrics={"accuracy": jobs.accuracy, "entropy": nn.CrossEntropyLoss(reduction="none")})
    learner.train(rows(0, 5))
    learner.train(rows(5, 8))
    with torch.inference_mode():
        output = learner.model(INPUTS[:8])
        loss = float(nn.functional.cross_entropy(output, TARGET[:8], reduction="sum"))
    assert learner.sums["loss"] == pytest.approx(loss, rel=1e-6)
    assert learner.sums["entropy"] == pytest.approx(loss, rel=1e-6)
    assert learner.sums["accuracy"] == int((output.argmax(1) == TARGET[:8]).sum())
    learner.reset()
    assert learner.sums == {"loss": 0.0, "accuracy": 0.0, "entropy": 0.0}
    assert learner.rows == 0
    assert not learner.gradient.any()


def test_parameters_are_views_of_one_vector() -> None:
    learner = learner_of()
    torch.manual_seed(jobs.plain.seed)
    expected = nn.utils.parameters_to_vector(jobs.mlp().parameters()).detach()
    np.testing.assert_array_equal(learner.parameters, expected)
    learner.parameters[:] = np.arange(len(learner.parameters))
    assert torch.equal(nn.utils.parameters_to_vector(learner.model.parameters()), torch.from_numpy(learner.parameters))
    assert [(slot.name, slot.shape, slot.offset) for slot in learner.slots] == [
        ("0.weight", (12, 6), 0), ("0.bias", (12,), 72), ("2.weight", (3, 12), 84), ("2.bias", (3,), 120),
    ]  # fmt: skip


def test_evaluating_leaves_no_gradient_and_no_trace() -> None:
    learner = learner_of("batch_norm")
    before = {name: array.copy() for name, array in learner.buffers.items()}
    learner.evaluate(rows(0, 8))
    assert not learner.gradient.any()
    assert learner.rows == 8
    assert all((learner.buffers[name] == array).all() for name, array in before.items())
    learner.train(rows(0, 8))
    assert learner.buffers["1.num_batches_tracked"] == 1


def test_dropout_works_in_training_alone_and_by_its_seed() -> None:
    def trained(seed: int) -> np.ndarray:
        learner.reset()
        seed_generators(seed)
        learner.train(rows(0, 8))
        return learner.gradient.copy()

    learner = learner_of("dropout")
    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))
    losses = set()
    for _ in range(2):
        learner.reset()
        learner.evaluate(rows(0, 8))
        losses.add(learner.sums["loss"])
    assert len(losses) == 1


def test_all_generators_are_seeded() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.random()), random.random()

    seed_generators(2**63 - 1)
    first = drawn()
    assert len({*first, *drawn()}) == 6
    seed_generators(2**63 - 1)
    assert drawn() == first


def test_buffers_are_the_ones_that_the_model_has_now() -> None:
    learner = learner_of("tied")
    assert set(learner.buffers) == {"seen", "offset"}
    learner.train(rows(0, 5))
    assert learner.buffers["seen"] == 5
    learner.buffers["seen"][...] = 40
    learner.train(rows(0, 2))
    assert learner.buffers["seen"] == 42


def test_keys_of_the_state_dict_stand_for_tensors() -> None:
    keys = learner_of("tied").state_dict_keys()
    assert keys == (
        ("seen", "buffer", "seen"),
        ("offset", "buffer", "offset"),
        ("encoder.weight", "parameter", "encoder.weight"),
        ("decoder.weight", "parameter", "encoder.weight"),
        ("fixed.weight", "frozen", "fixed.weight"),
        ("fixed.bias", "frozen", "fixed.bias"),
        ("head.weight", "parameter", "head.weight"),
        ("head.bias", "parameter", "head.bias"),
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(value: float) -> None:
    learner = learner_of(loss=lambda output, target: output.mean() * 0 + value)
    learner.train(rows(0, 4))
    with pytest.raises(NotFinite, match=r"the loss is (nan|inf|-inf)"):
        learner.check_finite()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number(value: float) -> None:
    learner = learner_of()
    learner.train(rows(0, 4))
    learner.check_finite()
    learner.gradient[-1] = value
    with pytest.raises(NotFinite, match="the gradient"):
        learner.check_finite()


def test_a_validation_loss_may_be_anything() -> None:
    learner = learner_of(loss=lambda output, target: output.mean() * math.nan)
    learner.evaluate(rows(0, 4))
    assert math.isnan(learner.sums["loss"])


def test_the_monitor_is_looked_for_among_the_metrics() -> None:
    learner = learner_of()
    for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"):
        learner.check_metrics(name, validates=True)
    learner.check_metrics("train_loss", validates=False)
    with pytest.raises(UsageError, match="'valid_loss'") as caught:
        learner.check_metrics("valid_loss", validates=False)
    assert caught.value.hint == "the metrics are train_loss, train_accuracy"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, target: output, r"the loss has shape \[4, 3\] for 4 rows"),
        (lambda output, target: output[:2, 0], r"the loss has shape \[2\] for 4 rows"),
        (lambda output, target: output.mean(0), r"the loss has shape \[3\] for 4 rows"),
    ],
)
def test_a_loss_of_the_wrong_shape(loss: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        learner_of(loss=loss).train(rows(0, 4))


def test_a_model_that_cannot_take_the_batch() -> None:
    with pytest.raises(UserCodeError, match="the forward pass raised RuntimeError"):
        learner_of().train((INPUTS[:4, :2], TARGET[:4]))


def test_a_loss_without_a_gradient() -> None:
    with pytest.raises(UserCodeError, match="the backward pass raised RuntimeError"):
        learner_of(loss=lambda output, target: output.detach().mean()).train(rows(0, 4))
