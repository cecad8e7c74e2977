"""A model as flat vectors: its sums are those of autograd, and its tensors are views of the vectors."""

from __future__ import annotations

import errno
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from core import jobs
from core.specs import spec_of
from estafeta.errors import NotFinite, UsageError, UserCodeError
from estafeta.job.job import Job
from estafeta.protocol.step import check_gradient
from estafeta.training.learner import Learner, seed_generators
from estafeta.training.table import Batch

INPUTS, TARGET = (torch.as_tensor(array) for array in jobs.table())


def learner_of(name: str = "plain", **changes: Any) -> Learner:
    return Learner(Job(**{**vars(getattr(jobs, name)), **changes}), spec_of(name))


def rows(first: int, last: int) -> Batch:
    return INPUTS[first:last], TARGET[first:last]


def flat_gradient(model: nn.Module, batch: Batch) -> np.ndarray:
    """Gradient of the sum over the rows."""
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).numpy()


@pytest.mark.parametrize("name", ["plain", "tied", "row_losses"])
def test_the_gradient_is_the_sum_over_all_rows(name: str) -> None:
    learner = learner_of(name)
    expected = flat_gradient(learner.model, rows(0, 12))
    for first, last in ((0, 5), (5, 6), (6, 12)):
        learner.train(rows(first, last))
    np.testing.assert_allclose(learner.gradient(), expected, rtol=1e-5, atol=1e-6)
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
    assert not learner.gradient().any()


def test_parameters_are_views_of_one_vector() -> None:
    learner = learner_of()
    torch.manual_seed(jobs.plain.seed)
    expected = nn.utils.parameters_to_vector(jobs.mlp().parameters()).detach()
    np.testing.assert_array_equal(learner.parameters, expected)
    learner.parameters[:] = np.arange(len(learner.parameters))
    assert torch.equal(nn.utils.parameters_to_vector(learner.model.parameters()), torch.from_numpy(learner.parameters))
    assert [(slot.name, slot.shape, slot.offset) for slot in learner.slots] == [
        ("0.weight", (12, 6), 0),
        ("0.bias", (12,), 72),
        ("2.weight", (3, 12), 84),
        ("2.bias", (3,), 120),
    ]


def test_evaluating_leaves_no_gradient_and_no_trace() -> None:
    learner = learner_of("batch_norm")
    before = {name: array.copy() for name, array in learner.buffers.items()}
    learner.evaluate(rows(0, 8))
    assert not learner.gradient().any()
    assert learner.rows == 8
    assert all((learner.buffers[name] == array).all() for name, array in before.items())
    learner.train(rows(0, 8))
    assert learner.buffers["1.num_batches_tracked"] == 1


def test_dropout_works_in_training_alone_and_by_its_seed() -> None:
    def trained(seed: int) -> np.ndarray:
        learner.reset()
        seed_generators(seed)
        learner.train(rows(0, 8))
        return learner.gradient()

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
    with pytest.raises(NotFinite, match=r"The loss is (nan|inf|-inf)"):
        learner.check_loss()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number(value: float) -> None:
    learner = learner_of()
    learner.train(rows(0, 4))
    learner.check_loss()
    gradient = learner.gradient()
    check_gradient(gradient)
    gradient[-1] = value
    with pytest.raises(NotFinite, match="The gradient"):
        check_gradient(gradient)


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
        (lambda output, target: output, r"The loss has shape \[4, 3\] for 4 rows"),
        (lambda output, target: output[:2, 0], r"The loss has shape \[2\] for 4 rows"),
        (lambda output, target: output.mean(0), r"The loss has shape \[3\] for 4 rows"),
    ],
)
def test_a_loss_of_the_wrong_shape(loss: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        learner_of(loss=loss).train(rows(0, 4))


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.functional.l1_loss, nn.functional.huber_loss])
def test_a_loss_that_would_broadcast(loss: Any) -> None:
    """PyTorch warns, and trains towards the mean of all targets."""
    batch = (INPUTS[:4], TARGET[:4].float())
    changes: dict[str, Any] = {"model": lambda: nn.Linear(INPUTS.shape[1], 1), "metrics": {}}
    with pytest.raises(UsageError, match=r"broadcast an output of shape \[4, 1\] and a") as caught:
        learner_of(loss=loss, **changes).train(batch)
    assert "squeeze(1)" in caught.value.hint
    learner_of(loss=lambda output, target: loss(output.squeeze(1), target), **changes).train(batch)


def test_a_model_that_cannot_take_the_batch() -> None:
    with pytest.raises(UserCodeError, match="the forward pass raised RuntimeError"):
        learner_of().train((INPUTS[:4, :2], TARGET[:4]))


def test_a_loss_without_a_gradient() -> None:
    with pytest.raises(UserCodeError, match="the backward pass raised RuntimeError"):
        learner_of(loss=lambda output, target: output.detach().mean()).train(rows(0, 4))


# Shipping


class Shipped:
    """A receiver of gradients that counts how often each came.

    Attributes:
        numbers: Parameters, in the order in which they came.
        flat: What came, in its place; NaN where nothing did.
    """

    def __init__(self, learner: Learner) -> None:
        self.numbers: list[int] = []
        self.flat = np.full_like(learner.parameters, np.nan)
        self._slots = learner.slots

    def __call__(self, number: int, first: int, values: np.ndarray) -> None:
        slot = self._slots[number]
        assert (first, values.shape, values.dtype) == (slot.offset, (slot.size,), np.float32)
        assert values.flags.c_contiguous
        self.numbers.append(number)
        self.flat[first : first + slot.size] = values


def train_in_parts(learner: Learner, *lasts: int, ship: Any = None) -> None:
    """Micro-batches that end at these rows; the last one is shipped."""
    for first, last in itertools.pairwise((0, *lasts)):
        learner.train(rows(first, last), ship if last == lasts[-1] else None)


class Branches(nn.Module):
    """Two heads, of which the sign of the first row chooses one; and one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(jobs.COLUMNS, 4)
        self.heads = nn.ModuleList([nn.Linear(4, jobs.CLASSES) for _ in range(3)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.trunk(inputs).tanh()
        return self.heads[int(len(inputs) == 5)](hidden)


@pytest.mark.parametrize("lasts", [(12,), (5, 7, 12), (4, 8, 12)], ids=str)
@pytest.mark.parametrize("name", ["plain", "tied", "batch_norm", "row_losses"])
def test_each_gradient_is_shipped_once_and_complete(name: str, lasts: tuple[int, ...]) -> None:
    """The shipped gradient has the bits of the unshipped sum."""
    whole = learner_of(name)
    train_in_parts(whole, *lasts)
    learner = learner_of(name)
    shipped = Shipped(learner)
    train_in_parts(learner, *lasts, ship=shipped)
    assert sorted(shipped.numbers) == list(range(len(learner.slots)))
    assert shipped.flat.tobytes() == whole.gradient().tobytes()
    assert (learner.rows, learner.sums) == (whole.rows, whole.sums)


def test_gradients_are_shipped_as_they_come() -> None:
    """The last layer's gradient comes first, during the backward pass."""
    learner = learner_of()
    shipped = Shipped(learner)
    learner.train(rows(0, 12), shipped)
    assert set(shipped.numbers[:2]) == {2, 3}
    assert set(shipped.numbers[2:]) == {0, 1}


@pytest.mark.parametrize(
    ("lasts", "unused"),
    [((5,), {3, 4}), ((5, 12), set()), ((4, 9), set()), ((4, 8), {3, 4})],
    ids=["never used", "used before the last", "used in the last", "never used in two"],
)
def test_parameters_without_a_part_in_the_last_micro_batch(lasts: tuple[int, ...], unused: set[int]) -> None:
    """Five rows go through the second head, others through the first; nothing goes through the third."""
    whole, learner = (learner_of(model=Branches) for _ in range(2))
    train_in_parts(whole, *lasts)
    shipped = Shipped(learner)
    train_in_parts(learner, *lasts, ship=shipped)
    assert sorted(shipped.numbers) == list(range(8))
    assert shipped.flat.tobytes() == whole.gradient().tobytes()
    third = [slot for slot in learner.slots if slot.name.startswith("heads.2")]
    assert all(not shipped.flat[slot.offset : slot.offset + slot.size].any() for slot in third)


class Checkpointed(nn.Module):
    """The model uses a layer twice, and the backward pass computes it again each time."""

    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        self.first = nn.Linear(jobs.COLUMNS, 4)
        self.twice = nn.Linear(4, 4)
        self.last = nn.Linear(4, jobs.CLASSES)
        self._use_reentrant = use_reentrant

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs)
        for _ in range(2):
            if self._use_reentrant is None:
                hidden = self.twice(hidden).tanh()
            else:
                hidden = checkpoint(lambda x: self.twice(x).tanh(), hidden, use_reentrant=self._use_reentrant)
        return self.last(hidden)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("lasts", [(12,), (5, 12)], ids=str)
def test_with_checkpointing_the_last_word_is_the_whole_gradient(lasts: tuple[int, ...], use_reentrant: bool) -> None:
    """Re-entrant checkpointing adds to a gradient more than once in one pass; the gradient comes again each time."""
    plain = learner_of(model=lambda: Checkpointed(None))
    train_in_parts(plain, *lasts)
    learner = learner_of(model=lambda: Checkpointed(use_reentrant))
    shipped = Shipped(learner)
    train_in_parts(learner, *lasts, ship=shipped)
    assert set(shipped.numbers) == set(range(len(learner.slots)))
    np.testing.assert_allclose(shipped.flat, plain.gradient(), rtol=1e-5, atol=1e-6)
    unshipped = learner_of(model=lambda: Checkpointed(use_reentrant))
    train_in_parts(unshipped, *lasts)
    assert shipped.flat.tobytes() == unshipped.gradient().tobytes()
    if use_reentrant:
        assert shipped.numbers.count(2) == 2, "or the test could not tell"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), NotFinite("inf"), MemoryError()])
@pytest.mark.parametrize("after", [0, 2, 3])
def test_errors_of_shipping_are_raised_as_they_are(error: Exception, after: int) -> None:
    learner = learner_of()
    left = [None] * after

    def ship(number: int, first: int, values: np.ndarray) -> None:
        if not left:
            raise error
        left.pop()

    with pytest.raises(type(error)) as caught:
        learner.train(rows(0, 12), ship)
    assert caught.value is error
    learner.reset()
    shipped = Shipped(learner)
    learner.train(rows(0, 12), shipped)
    assert sorted(shipped.numbers) == [0, 1, 2, 3], "the next attempt begins anew"
    np.testing.assert_allclose(shipped.flat, flat_gradient(learner.model, rows(0, 12)), rtol=1e-5, atol=1e-6)


class Sparse(nn.Module):
    """An embedding whose gradient is sparse, as `sparse=True` makes it."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, jobs.CLASSES, sparse=sparse)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.embedding(inputs)


@pytest.mark.parametrize("is_shipped", [True, False])
def test_a_sparse_gradient_is_made_dense(is_shipped: bool) -> None:
    batches = [(torch.tensor([0, 1, 1, 4]), torch.tensor([0, 1, 2, 0])), (torch.tensor([4, 2]), torch.tensor([1, 1]))]
    dense, learner = learner_of(model=lambda: Sparse(sparse=False)), learner_of(model=Sparse)
    shipped = Shipped(learner)
    for batch in batches:
        dense.train(batch)
        learner.train(batch, shipped if is_shipped and batch is batches[-1] else None)
    np.testing.assert_array_equal(shipped.flat if is_shipped else learner.gradient(), dense.gradient())


def test_after_shipping_the_next_sum_begins_with_nothing() -> None:
    learner = learner_of()
    learner.train(rows(0, 12), Shipped(learner))
    assert learner.absent == (0, 1, 2, 3)
    learner.reset()
    learner.train(rows(0, 6))
    np.testing.assert_allclose(learner.gradient(), flat_gradient(learner.model, rows(0, 6)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [4, 5])
@pytest.mark.parametrize("is_shipped", [True, False])
def test_a_sum_that_was_begun_elsewhere_is_gone_on_with(cut: int, is_shipped: bool) -> None:
    """The first gradient of a parameter that had no part so far is taken as it is."""
    whole = learner_of(model=Branches)
    train_in_parts(whole, cut, 12)
    begun, learner = learner_of(model=Branches), learner_of(model=Branches)
    begun.train(rows(0, cut))
    absent = begun.absent
    assert absent == ((4, 5, 6, 7) if cut == 4 else (2, 3, 6, 7))
    learner.resume(begun.gradient(), absent, begun.rows, begun.sums)
    assert learner.absent == absent
    shipped = Shipped(learner)
    learner.train(rows(cut, 12), shipped if is_shipped else None)
    found = shipped.flat if is_shipped else learner.gradient()
    assert found.tobytes() == whole.gradient().tobytes()
    assert (learner.rows, learner.sums) == (12, whole.sums)


class Constant(nn.Module):
    """Its gradient is a negative zero."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.values * -0.0


def test_a_resumed_sum_keeps_negative_zeros() -> None:
    """Zero plus a negative zero is zero, so an absent gradient must not become zero."""
    learner = learner_of(model=Constant, loss=lambda output, target: output.sum(), metrics={})
    learner.train(rows(0, 4))
    expected = learner.gradient()
    assert np.signbit(expected).all(), "or the test could not tell"
    learner.reset()
    learner.resume(np.zeros_like(expected), (0,), 0, learner.sums)
    learner.train(rows(0, 4))
    assert learner.gradient().tobytes() == expected.tobytes()
