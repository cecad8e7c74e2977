"""What to train: the one object that a user writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from estafeta.errors import Command, UsageError
from estafeta.job.dataset_name import BUNDLED, DATASET_NAME
from estafeta.job.optim import Optimizer
from estafeta.job.stopping import EarlyStopping

if TYPE_CHECKING:
    import torch

    from estafeta import Run

On = Literal["local", "inline", "aws"]
"""Where a run takes place: on this machine under Lambda's rules, in this process, or on AWS Lambda."""

SEEDS = 1 << 63
"""There are so many: PyTorch's generators take no larger one."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job: model, data, loss, optimiser, and how long.

    The callables are imported by name where the functions run, so they must be importable: module-level functions,
    classes or `functools.partial`-free factories in the job's file or beside it.

    Attributes:
        model: Makes the model; called with the overrides `-o model.NAME=VALUE` as keyword arguments.
        loss: `loss(output, target)`: the mean over the batch (PyTorch's default reduction), or one value for each row.
        dataset: Makes the data: a tuple of arrays or tensors of equal length (inputs …, target), or a map-style
            `torch.utils.data.Dataset` of such tuples; or the name of a data set, one that was imported into the store
            or one that comes with scikit-learn.
        optimizer: For instance `estafeta.AdamW(lr=3e-3)`.
        epochs: Most passes over the training rows.
        batch_size: Rows in a global batch; each worker takes its part.
        micro_batch_size: Most rows in one forward and backward pass. A worker that runs out of time hands over between
            two of them, and the sum over them is what it contributes; so it is part of the result's bits.
        drop_last: Leave out the last batch of an epoch if it is short.
        validation: Fraction of the rows that is held out, chosen by the seed; 0 for none. A data set that was imported
            with a fraction keeps that one.
        valid_dataset: Makes data for validation instead; then nothing is held out.
        window_mb: Of an imported data set, how much is shuffled together: the more, the better the order and the more
            memory it takes. It is part of the result's bits.
        dense: Make dense tensors of sparse rows.
        collate: Makes a batch of a list of rows, in place of PyTorch's `default_collate`.
        transform: `transform(inputs …, target)`: what to make of a batch before the model sees it, such a tuple again.
        metrics: By name, `metric(output, target)`: the mean over the batch, or one value for each row.
        early_stopping: When to stop early, and which epoch is the best.
        seed: Of the initial weights, the split, the order of rows, dropout.

    Raises:
        UsageError: A value is out of its range, or of another kind.
    """

    model: Callable[..., torch.nn.Module]
    loss: Callable[..., torch.Tensor]
    dataset: Callable[..., Any] | str
    optimizer: Optimizer
    epochs: int = 10
    batch_size: int = 64
    micro_batch_size: int = 64
    drop_last: bool = False
    validation: float = 0.2
    valid_dataset: Callable[..., Any] | str | None = None
    window_mb: int = 128
    dense: bool = False
    collate: Callable[[list[Any]], Any] | None = None
    transform: Callable[..., Any] | None = None
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_kinds(self)
        for name in ("epochs", "batch_size", "micro_batch_size", "window_mb"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1", hint="such as 1")
        if not 0 <= self.seed < SEEDS:
            raise UsageError(f"seed is {self.seed}; it must be at least 0 and below 2**63", hint="such as 0")
        if not 0 <= self.validation < 1:
            raise UsageError(
                f"validation is {self.validation}; it is a fraction, at least 0 and below 1", hint="such as 0.2"
            )
        for name in ("dataset", "valid_dataset"):
            if isinstance(value := getattr(self, name), str) and not DATASET_NAME.fullmatch(value):
                listed = Command("estafeta", "data", "ls")
                hint = f"{listed} lists those of the store; scikit-learn has {', '.join(BUNDLED)}"
                raise UsageError(f"{name} {value!r} cannot be the name of a data set", hint=hint)

    @property
    def stopping(self) -> EarlyStopping:
        """The rule for stopping early; by default only the best epoch is told apart."""
        if self.early_stopping is not None:
            return self.early_stopping
        return EarlyStopping(monitor="valid_loss" if self.validation or self.valid_dataset else "train_loss")

    def train(self, *, workers: int = 2, on: On = "local", **options: Any) -> Run:
        """Train it and wait for the end; the same as `estafeta.train(job, …)`, which describes the options."""
        from estafeta import train

        return train(self, workers=workers, on=on, **options)


def _check_kinds(job: Job) -> None:
    """Refuse what is taken for another thing most often: a model for its factory, PyTorch's optimiser for ours."""
    makes = "a function or class that makes"
    _require(job, "model", f"{makes} the model", isinstance(job.model, type) or not hasattr(job.model, "state_dict"))
    _require(job, "loss", "a function of output and target", not isinstance(job.loss, type))
    _require(job, "loss", "the mean over the batch: reduction='mean'", getattr(job.loss, "reduction", "mean") != "sum")
    _require(job, "optimizer", "one of Estafeta's, such as estafeta.SGD(lr=0.1)", isinstance(job.optimizer, Optimizer))
    _require(job, "dataset", f"a name, or {makes} the data", isinstance(job.dataset, str) or callable(job.dataset))
    for name in ("model", "loss"):
        _require(job, name, "a function", callable(getattr(job, name)))
    for name in ("valid_dataset", "collate", "transform"):
        value = getattr(job, name)
        is_name = isinstance(value, str) and name == "valid_dataset"
        _require(job, name, "a function, or None", value is None or is_name or callable(value))
    are_named = isinstance(job.metrics, Mapping) and all(map(callable, job.metrics.values()))
    _require(job, "metrics", "functions by name, as in {'accuracy': estafeta.metrics.accuracy}", are_named)
    stopping = job.early_stopping
    _require(
        job, "early_stopping", "estafeta.EarlyStopping(…)", stopping is None or isinstance(stopping, EarlyStopping)
    )
    for name in ("epochs", "batch_size", "micro_batch_size", "window_mb", "seed"):
        _require(job, name, "a whole number", isinstance(getattr(job, name), Integral))
    _require(job, "validation", "a fraction", isinstance(job.validation, Real))


def _require(job: Job, name: str, allowed: str, holds: bool) -> None:
    value = getattr(job, name)
    if not holds:
        what = repr(value) if isinstance(value, str | Real | None) else f"a {type(value).__name__}"
        what = value.__name__ if isinstance(value, type) else what
        raise UsageError(f"{name} is {what}; it must be {allowed}", hint=f"change {name} in the job's file")
