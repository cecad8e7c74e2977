"""The job: the one object that a user writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo
from pydantic.dataclasses import dataclass

from estafeta.errors import Command, UsageError
from estafeta.job.checks import CONFIG, explained, not_allowed, only
from estafeta.job.dataset_name import BUNDLED, DATASET_NAME
from estafeta.job.optim import Optimizer
from estafeta.job.recipe import Recipe
from estafeta.job.stopping import EarlyStopping

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from estafeta import Run
else:
    Module = Tensor = Any  # pydantic looks the names up, and a client may have no torch

On = Literal["local", "inline", "aws"]
"""Place of a run: on this machine under Lambda's rules, in this process, or on AWS Lambda."""


def _is_factory(value: Any) -> bool:
    return callable(value) and (isinstance(value, type) or not hasattr(value, "state_dict"))


def _is_none_or_callable(value: Any) -> bool:
    return value is None or callable(value)


def _loss(value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise not_allowed("a function of output and target")
    if getattr(value, "reduction", "mean") == "sum":
        raise not_allowed("the mean over the batch: reduction='mean'")
    return value


def _named(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and not DATASET_NAME.fullmatch(value):
        listed = Command("estafeta", "data", "ls")
        hint = f"{listed} lists those of the store; scikit-learn has {', '.join(BUNDLED)}"
        raise UsageError(f"{info.field_name} {value!r} cannot be the name of a data set", hint=hint)
    return value


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Job(Recipe):
    """A training job: model, data, loss, optimiser, and how long.

    The functions import the callables by name. So these must be module-level functions or classes, in the job's file
    or beside it; `functools.partial` has no name.

    Its numbers are the fields of `Recipe`: `epochs`, `batch_size`, `micro_batch_size`, `drop_last`, `validation`,
    `window_mb`, `dense`, `seed`. A function of a run reads them from the run's spec, since `-o` may have changed them.

    Attributes:
        model: Makes the model; called with the overrides `-o model.NAME=VALUE` as keyword arguments.
        loss: `loss(output, target)`: the mean over the batch (PyTorch's default reduction), or one value for each row.
        dataset: Makes the data: a tuple of arrays or tensors of equal length (inputs …, target), or a map-style
            `torch.utils.data.Dataset` of such tuples. It may also be the name of a data set that was imported into the
            store, or that comes with scikit-learn.
        optimizer: One of Estafeta's, for instance `estafeta.AdamW(lr=3e-3)`.
        valid_dataset: Makes data for validation instead; then nothing is held out.
        collate: Makes a batch of a list of rows, instead of PyTorch's `default_collate`.
        transform: `transform(inputs …, target)`: turns a batch into the tuple that the model and the loss get.
        metrics: By name, `metric(output, target)`: the mean over the batch, or one value for each row.
        early_stopping: Rule for stopping early, and for the best epoch.

    Raises:
        UsageError: A value is out of its range, or of another kind.
    """

    model: Annotated[Callable[..., Module], only(_is_factory, "a function or class that makes the model")]
    loss: Annotated[Callable[..., Tensor], BeforeValidator(_loss)]
    dataset: Annotated[
        Callable[..., Any] | str,
        only(
            lambda value: isinstance(value, str) or callable(value),
            "a name, or a function or class that makes the data",
        ),
        BeforeValidator(_named),
    ]
    optimizer: Annotated[
        Optimizer, only(lambda value: isinstance(value, Optimizer), "one of Estafeta's, such as estafeta.SGD(lr=0.1)")
    ]
    valid_dataset: Annotated[
        Callable[..., Any] | str | None,
        only(
            lambda value: isinstance(value, str) or _is_none_or_callable(value),
            "a function or class that makes the data, a name, or None",
        ),
        BeforeValidator(_named),
    ] = None
    collate: Annotated[Callable[[list[Any]], Any] | None, only(_is_none_or_callable, "a function, or None")] = None
    transform: Annotated[Callable[..., Any] | None, only(_is_none_or_callable, "a function, or None")] = None
    metrics: Annotated[
        Mapping[str, Callable[..., Any]],
        only(
            lambda value: isinstance(value, Mapping) and all(map(callable, value.values())),
            "functions by name, as in {'accuracy': estafeta.metrics.accuracy}",
        ),
    ] = field(default_factory=dict)
    early_stopping: Annotated[
        EarlyStopping | None,
        only(lambda value: isinstance(value, EarlyStopping | None), "estafeta.EarlyStopping(…), or None"),
    ] = None
    _explained = explained

    @property
    def stopping(self) -> EarlyStopping:
        """The rule for stopping early; the default rule only finds the best epoch."""
        if self.early_stopping is not None:
            return self.early_stopping
        return EarlyStopping(monitor="valid_loss" if self.validation or self.valid_dataset else "train_loss")

    def train(self, *, workers: int = 2, on: On = "local", **options: Any) -> Run:
        """Train it and wait for the end; the same as `estafeta.train(job, …)`, which describes the options."""
        from estafeta import train

        return train(self, workers=workers, on=on, **options)
