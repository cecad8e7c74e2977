"""A PyTorch model as flat vectors: load parameters, add up gradients and metrics over micro-batches.

The parameters are views into one flat float32 vector, so loading a weights file moves no tensor one by one. Gradients
are summed where PyTorch sums them, in each parameter's `grad`. They are read as one vector, or, in the last backward
pass of a share, shipped one by one the moment each is final and still in the processor's cache.
This module knows torch and the job; it knows nothing of files, ranks or rounds.

The sum of the gradients depends only on the parameters, the micro-batches in their order, and their seeds.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from estafeta.errors import NotFinite, UsageError
from estafeta.job.job import Job
from estafeta.job.user_code import user_code
from estafeta.protocol.spec import RunSpec, Slot
from estafeta.store.tensorfile import CODES, Array
from estafeta.store.vectors import is_finite
from estafeta.training.table import Batch

Sums = dict[str, float]
"""Sums over rows: `loss` and each metric by name, in float64."""

StateKey = tuple[str, str, str]


DIVERGING = "try a smaller learning rate, and look for missing or huge numbers in the data"
"""Hint for numbers that are not finite."""


class Ship(Protocol):
    """Takes the gradient of one parameter away. It comes again for the same parameter if that has changed since."""

    def __call__(self, number: int, first: int, values: Array) -> None:
        """Take it.

        Args:
            number: The parameter, as in `Learner.slots`.
            first: Its first element in the flat vector.
            values: float32[n], valid during the call.
        """


class Learner:
    """A model whose parameters lie in a flat vector.

    Args:
        job: Gives model, loss and metrics.
        spec: Gives the seed of the initial weights, the model's arguments and the number of threads.

    Attributes:
        parameters: float32[P], the trained parameters in the order of `named_parameters()`.
        slots: Where each parameter lies in it.
        sums: Sums over the rows since `reset`.
        rows: Rows since `reset`.

    Raises:
        UserCodeError: Making the model raised.
        UsageError: The model has no parameter to train, or has trained parameters that are not float32.
    """

    def __init__(self, job: Job, spec: RunSpec) -> None:
        torch.set_num_threads(spec.functions["worker"].threads)
        seed_generators(spec.seed)
        with user_code("making the model"):
            self.model = job.model(**spec.arguments.get("model", {}))
        if not isinstance(self.model, torch.nn.Module):
            raise UsageError(
                f"the job's model() gave a {type(self.model).__name__}, not a torch.nn.Module",
                hint="return a torch.nn.Module from it",
            )
        self._loss = job.loss
        self._metrics = dict(job.metrics)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        _check(trained)
        _check_dtypes(self.model)
        size = sum(p.numel() for p in trained.values())
        self.parameters: Array = np.empty(size, np.float32)
        self._trained = tuple(trained.values())
        self._saved_buffers = self.model.state_dict().keys() & {name for name, _ in self.model.named_buffers()}
        self.slots = self._flatten(trained)
        self._ship: Ship | None = None
        self._shipped: set[int] = set()
        self._has_lost = False
        self.frozen = {n: p.detach().numpy() for n, p in self.model.named_parameters() if not p.requires_grad}
        self.reset()

    @property
    def buffers(self) -> dict[str, Array]:
        """The buffers of the state dict by name, as they are now: a module may have put others in their place."""
        if not self._saved_buffers:
            return {}  # without a walk through the modules, in each round
        buffers = self.model.named_buffers()
        return {name: buffer.detach().numpy() for name, buffer in buffers if name in self._saved_buffers}

    @property
    def bytes(self) -> int:
        """Size of the model: what is trained, what is not, buffers."""
        others = [*self.frozen.values(), *self.buffers.values()]
        return self.parameters.nbytes + sum(array.nbytes for array in others)

    def reset(self) -> None:
        """Begin a new sum."""
        for parameter in self._trained:
            parameter.grad = None
        self.sums: Sums = dict.fromkeys(["loss", *self._metrics], 0.0)
        self.rows = 0

    def resume(self, gradient: Array, absent: Collection[int], rows: int, sums: Sums) -> None:
        """Go on with a sum that was begun elsewhere.

        Args:
            gradient: float32[P]; it is added to in place.
            absent: The parameters that had no gradient so far, by number.
            rows: Rows so far.
            sums: Sums over them.
        """
        flat = torch.from_numpy(gradient)
        for number, (parameter, slot) in enumerate(zip(self._trained, self.slots, strict=True)):
            span = flat[slot.offset : slot.offset + slot.size]
            parameter.grad = None if number in absent else span.view(parameter.shape)
        self.rows, self.sums = rows, dict(sums)

    @property
    def absent(self) -> tuple[int, ...]:
        """The parameters that have no gradient yet, by number: their first one is taken as it is, not added to zero."""
        return tuple(number for number, parameter in enumerate(self._trained) if parameter.grad is None)

    def gradient(self) -> Array:
        """The sum of the rows' gradients since `reset`, float32[P], in memory of its own; zero where there is none."""
        flat: Array = np.empty_like(self.parameters)
        for parameter, slot in zip(self._trained, self.slots, strict=True):
            span = flat[slot.offset : slot.offset + slot.size]
            span[:] = 0.0 if parameter.grad is None else _vector(parameter.grad)
        return flat

    def train(self, batch: Batch, ship: Ship | None = None) -> None:
        """Add a micro-batch's gradient and metrics to the sums.

        Args:
            batch: (inputs …, target) with n rows.
            ship: Of the last micro-batch: takes the sum of each parameter's gradients as soon as it is complete.

        Raises:
            UserCodeError: Model, loss or a metric raised.
            NotFinite: The loss is NaN or infinite.
        """
        self.model.train()
        with user_code("the forward pass"):
            output, loss, rows = self._forward(batch)
        if ship is not None and not math.isfinite(total := self.sums["loss"] + float(loss.detach())):
            raise NotFinite(
                f"the loss is {total / (self.rows + rows)}", hint=DIVERGING
            )  # before its gradient turns out to be so, too
        with user_code("the backward pass"):
            self._backward(loss, ship)
        self._add(output, batch[-1], loss, rows)

    def evaluate(self, batch: Batch) -> None:
        """Add a micro-batch's metrics to the sums; raises as `train` does, but a loss may be anything."""
        self.model.eval()
        with torch.inference_mode(), user_code("the forward pass"):
            output, loss, rows = self._forward(batch)
        self._add(output, batch[-1], loss, rows)

    def check_metrics(self, monitor: str, *, validates: bool) -> None:
        """Make sure that the metric that decides on stopping will be there.

        Raises:
            UsageError: It is not among the metrics; the message lists them.
        """
        phases = ("train", "valid") if validates else ("train",)
        names = [f"{phase}_{name}" for phase in phases for name in self.sums]
        if monitor not in names:
            raise UsageError(f"early_stopping.monitor is {monitor!r}", hint=f"the metrics are {', '.join(names)}")

    def check_loss(self) -> None:
        """Make sure that the sum of the losses can be used.

        Raises:
            NotFinite: It is NaN or infinite.
        """
        if not math.isfinite(self.sums["loss"]):
            raise NotFinite(f"the loss is {self.sums['loss'] / max(1, self.rows)}", hint=DIVERGING)

    def state_dict_keys(self) -> tuple[StateKey, ...]:
        """Each key of the model's state dict, with the kind and the name of the tensor that it stands for.

        Raises:
            UsageError: A key stands for something else.
        """
        first: dict[int, tuple[str, str]] = {}
        for name, parameter in self.model.named_parameters():
            first[id(parameter)] = ("parameter" if parameter.requires_grad else "frozen", name)
        for name, buffer in self.model.named_buffers():
            first[id(buffer)] = ("buffer", name)
        tensors: dict[str, torch.Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        tensors.update(self.model.named_buffers(remove_duplicate=False))
        keys = self.model.state_dict().keys()
        if others := keys - tensors.keys():
            raise UsageError(
                f"the model's state dict has {min(others)!r}, neither a parameter nor a buffer",
                hint="keep in a buffer what is to be saved with the model",
            )
        return tuple((key, *first[id(tensors[key])]) for key in keys)

    def _flatten(self, trained: Mapping[str, torch.nn.Parameter]) -> tuple[Slot, ...]:
        flat = torch.from_numpy(self.parameters)
        slots: list[Slot] = []
        offset = 0
        for number, (name, parameter) in enumerate(trained.items()):
            span = slice(offset, offset + parameter.numel())
            flat[span] = parameter.detach().reshape(-1)
            parameter.data = flat[span].view(parameter.shape)
            # The hook is kept by PyTorch where Python's garbage collector does not look: it must not keep the model.
            shipping = partial(_accumulated, weakref.ref(self), number)
            parameter.register_post_accumulate_grad_hook(shipping)  # type: ignore[no-untyped-call]
            slots.append(Slot(name=name, shape=tuple(parameter.shape), offset=offset))
            offset = span.stop
        return tuple(slots)

    def _forward(self, batch: Batch) -> tuple[Any, torch.Tensor, int]:
        *inputs, target = batch
        rows = len(target)
        output = self.model(*inputs)
        with contextlib.nullcontext() if self._has_lost else _shapes_compared(output, target):
            loss = self._loss(output, target)
        self._has_lost = True
        return output, _total(loss, rows, "the loss"), rows

    def _backward(self, loss: torch.Tensor, ship: Ship | None) -> None:
        self._ship = ship
        self._shipped.clear()
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self._ship = None
        if ship is None:
            return
        for number, (parameter, slot) in enumerate(zip(self._trained, self.slots, strict=True)):
            if number not in self._shipped:  # it had no part in this pass; what earlier ones gave it counts
                ship(
                    number,
                    slot.offset,
                    np.zeros(slot.size, np.float32) if parameter.grad is None else _vector(parameter.grad),
                )
            parameter.grad = None

    def accumulated(self, number: int, parameter: torch.Tensor) -> None:
        """A gradient has been added; with re-entrant checkpointing, more than once in a pass, so `grad` is kept."""
        if self._ship is not None and parameter.grad is not None:
            self._shipped.add(number)
            self._ship(number, self.slots[number].offset, _vector(parameter.grad))

    def _add(self, output: Any, target: Any, loss: torch.Tensor, rows: int) -> None:
        self.rows += rows
        self.sums["loss"] += float(loss.detach())
        with torch.inference_mode():
            for name, metric in self._metrics.items():
                with user_code(f"the metric {name!r}"):
                    self.sums[name] += float(_total(_as_tensor(metric, output, target), rows, f"the metric {name!r}"))


def _accumulated(learner: weakref.ref[Learner], number: int, parameter: torch.Tensor) -> None:
    if (alive := learner()) is not None:
        alive.accumulated(number, parameter)


def seed_generators(seed: int) -> None:
    """Seed all generators that a user's code may draw from without asking: PyTorch's, NumPy's, Python's."""
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it formats a stack trace for CUDA each time
    np.random.seed(seed % 2**32)
    random.seed(seed)


def check_gradient(values: Array) -> None:
    """Make sure that a gradient can be used.

    Raises:
        NotFinite: It has an element that is NaN or infinite.
    """
    if not is_finite(values):
        raise NotFinite("the gradient has elements that are not finite", hint=DIVERGING)


def _vector(gradient: torch.Tensor) -> Array:
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    vector: Array = dense.reshape(-1).numpy()
    return vector


@contextlib.contextmanager
def _shapes_compared(output: Any, target: Any) -> Iterator[None]:
    """Refuse a loss that broadcasts [n, 1] and [n] to [n, n]. PyTorch warns of that, in a log that nobody reads."""
    both = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
    if not both or output.shape == target.shape or output.numel() != target.numel():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size", UserWarning)
        try:
            yield
        except UserWarning as warning:
            raise UsageError(
                f"the loss would broadcast an output of shape {list(output.shape)} and a target of shape "
                f"{list(target.shape)}",
                hint="return output.squeeze(1) from the model, or reshape in the loss",
            ) from warning


def _total(value: torch.Tensor, rows: int, what: str) -> torch.Tensor:
    """The sum over the rows of a mean, or of one value for each row."""
    if value.dim() == 0:
        return value * rows
    if value.shape[0] == rows and value.numel() == rows:
        return value.sum()
    raise UsageError(
        f"{what} has shape {list(value.shape)} for {rows} rows",
        hint="return the mean over the batch, or one value for each row",
    )


def _as_tensor(metric: Callable[..., Any], output: Any, target: Any) -> torch.Tensor:
    return torch.as_tensor(metric(output.detach() if isinstance(output, torch.Tensor) else output, target))


def _check(trained: Mapping[str, torch.nn.Parameter]) -> None:
    if not trained:
        raise UsageError(
            "the model has no parameter that requires a gradient", hint="freeze fewer of its parameters: requires_grad"
        )
    for name, parameter in trained.items():
        if torch.nn.parameter.is_lazy(parameter):
            raise UsageError(f"parameter {name!r} has no shape yet", hint="give the lazy module its sizes in model()")
        if parameter.dtype != torch.float32:
            raise UsageError(
                f"parameter {name!r} is {parameter.dtype}; gradients are exchanged in float32",
                hint="call .float() on the model, or freeze the parameter",
            )


def _check_dtypes(model: torch.nn.Module) -> None:
    publishable = {f"torch.{dtype.name}" for dtype in CODES}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and str(tensor.dtype) not in publishable:
            raise UsageError(
                f"tensor {name!r} is {tensor.dtype}, which cannot be published",
                hint="convert it to another dtype in model()",
            )
