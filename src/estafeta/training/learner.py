"""A PyTorch model as flat vectors: load parameters, add up gradients and metrics over micro-batches.

The parameters are views into one flat float32 vector, so loading a weights file moves no tensor one by one. PyTorch
sums the gradients in each parameter's `grad`. The learner gives them away as one vector. In the last backward pass of a
share, it ships them one by one instead, the moment each is final and still in the processor's cache. This module knows
torch and the job; it must not know files, ranks or rounds.

The sum of the gradients depends only on the parameters, the micro-batches in their order, and their seeds.
"""

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
from estafeta.protocol.step import DIVERGING
from estafeta.store.tensorfile import CODES, Array
from estafeta.training.table import Batch

Sums = dict[str, float]
"""Sums over rows: `loss` and each metric by name, in float64."""
StateKey = tuple[str, str, str]


class Ship(Protocol):
    """The receiver of one parameter's gradient. The learner calls it again if the gradient has changed since."""

    def __call__(self, number: int, first: int, values: Array) -> None:
        """Take a gradient.

        Args:
            number: Number of the parameter, as in `Learner.slots`.
            first: Its first element in the flat vector.
            values: float32[n], valid during the call.
        """


class Learner:
    """A model whose parameters lie in a flat vector.

    Args:
        job: Job with model, loss and metrics.
        spec: Spec with the seed of the initial weights, the model's arguments and the number of threads.

    Attributes:
        parameters: float32[P], the trained parameters in the order of `named_parameters()`.
        slots: Place of each parameter in it.
        sums: Sums over the rows since `reset`.
        rows: Number of rows since `reset`.

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
                f"The job's model() gave a {type(self.model).__name__}, not a torch.nn.Module",
                hint="return the module from model()",
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
        self._loss_checked = False
        self.frozen = {n: p.detach().numpy() for n, p in self.model.named_parameters() if not p.requires_grad}
        self.reset()

    @property
    def buffers(self) -> dict[str, Array]:
        """The buffers of the state dict by name, as they are now: a module may have replaced them."""
        if not self._saved_buffers:
            return {}  # without a walk through the modules, in each round
        buffers = self.model.named_buffers()
        return {name: buffer.detach().numpy() for name, buffer in buffers if name in self._saved_buffers}

    @property
    def bytes(self) -> int:
        """Size of the model: trained and frozen parameters, and buffers."""
        others = [*self.frozen.values(), *self.buffers.values()]
        return self.parameters.nbytes + sum(array.nbytes for array in others)

    def reset(self) -> None:
        """Begin a new sum."""
        for parameter in self._trained:
            parameter.grad = None
        self.sums: Sums = dict.fromkeys(["loss", *self._metrics], 0.0)
        self.rows = 0

    def resume(self, gradient: Array, absent: Collection[int], rows: int, sums: Sums) -> None:
        """Continue a sum that another leg has begun.

        Args:
            gradient: float32[P]; the learner adds to it in place.
            absent: Numbers of the parameters that had no gradient so far.
            rows: Number of rows so far.
            sums: Sums over them.
        """
        flat = torch.from_numpy(gradient)
        for number, (parameter, slot) in enumerate(zip(self._trained, self.slots, strict=True)):
            span = flat[slot.offset : slot.offset + slot.size]
            parameter.grad = None if number in absent else span.view(parameter.shape)
        self.rows, self.sums = rows, dict(sums)

    @property
    def absent(self) -> tuple[int, ...]:
        """Numbers of the parameters without a gradient yet: PyTorch takes their first one as it is, without adding."""
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
            ship: Receiver of each parameter's summed gradient, once complete; for the last micro-batch only.

        Raises:
            UserCodeError: Model, loss or a metric raised.
            NotFinite: The loss is NaN or infinite.
        """
        self.model.train()
        with user_code("the forward pass"):
            output, loss, rows = self._forward(batch)
        if ship is not None and not math.isfinite(total := self.sums["loss"] + float(loss.detach())):
            raise NotFinite(
                f"The loss is {total / (self.rows + rows)}", hint=DIVERGING
            )  # rather than blame its gradient
        with user_code("the backward pass"):
            self._backward(loss, ship)
        self._add(output, batch[-1], loss, rows)

    def evaluate(self, batch: Batch) -> None:
        """Add a micro-batch's metrics to the sums; raises as `train` does, but accepts any loss."""
        self.model.eval()
        with torch.inference_mode(), user_code("the forward pass"):
            output, loss, rows = self._forward(batch)
        self._add(output, batch[-1], loss, rows)

    def check_metrics(self, monitor: str, *, validates: bool) -> None:
        """Make sure that the metric for early stopping exists.

        Raises:
            UsageError: It is not among the metrics; the hint lists them.
        """
        phases = ("train", "valid") if validates else ("train",)
        names = [f"{phase}_{name}" for phase in phases for name in self.sums]
        if monitor not in names:
            raise UsageError(
                f"early_stopping.monitor is {monitor!r}, which is no metric", hint=f"the metrics are {', '.join(names)}"
            )

    def check_loss(self) -> None:
        """Make sure that the sum of the losses can be used.

        Raises:
            NotFinite: The sum is NaN or infinite.
        """
        if not math.isfinite(self.sums["loss"]):
            raise NotFinite(f"The loss is {self.sums['loss'] / max(1, self.rows)}", hint=DIVERGING)

    def state_dict_keys(self) -> tuple[StateKey, ...]:
        """Keys of the model's state dict, each with the kind and the name of its tensor.

        Raises:
            UsageError: A key has no parameter and no buffer.
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
                f"The model's state dict has {min(others)!r}, neither a parameter nor a buffer",
                hint="make it a buffer, and it is saved with the model",
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
            # PyTorch keeps the hook where Python's garbage collector does not look: it must not keep the model alive.
            shipping = partial(_accumulated, weakref.ref(self), number)
            parameter.register_post_accumulate_grad_hook(shipping)  # type: ignore[no-untyped-call]
            slots.append(Slot(name=name, shape=tuple(parameter.shape), offset=offset))
            offset = span.stop
        return tuple(slots)

    def _forward(self, batch: Batch) -> tuple[Any, torch.Tensor, int]:
        *inputs, target = batch
        rows = len(target)
        output = self.model(*inputs)
        with contextlib.nullcontext() if self._loss_checked else _shapes_compared(output, target):
            loss = self._loss(output, target)
        self._loss_checked = True
        return output, _total(loss, rows, "The loss"), rows

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
            if number not in self._shipped:  # it had no part in this pass; the gradient of earlier ones counts
                ship(
                    number,
                    slot.offset,
                    np.zeros(slot.size, np.float32) if parameter.grad is None else _vector(parameter.grad),
                )
            parameter.grad = None

    def accumulated(self, number: int, parameter: torch.Tensor) -> None:
        """Ship a gradient that PyTorch has just added to. Re-entrant checkpointing adds more than once in a pass."""
        if self._ship is not None and parameter.grad is not None:
            self._shipped.add(number)
            self._ship(number, self.slots[number].offset, _vector(parameter.grad))

    def _add(self, output: Any, target: Any, loss: torch.Tensor, rows: int) -> None:
        self.rows += rows
        self.sums["loss"] += float(loss.detach())
        with torch.inference_mode():
            for name, metric in self._metrics.items():
                with user_code(f"the metric {name!r}"):
                    self.sums[name] += float(_total(_as_tensor(metric, output, target), rows, f"The metric {name!r}"))


def _accumulated(learner: weakref.ref[Learner], number: int, parameter: torch.Tensor) -> None:
    if (alive := learner()) is not None:
        alive.accumulated(number, parameter)


def seed_generators(seed: int) -> None:
    """Seed the global generators that a user's code may draw from: PyTorch's, NumPy's, Python's."""
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it formats a stack trace for CUDA each time
    np.random.seed(seed % 2**32)
    random.seed(seed)


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
                f"The loss would broadcast an output of shape {list(output.shape)} and a target of shape "
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
            "The model has no parameter that requires a gradient", hint="leave requires_grad on in model()"
        )
    for name, parameter in trained.items():
        if torch.nn.parameter.is_lazy(parameter):
            raise UsageError(f"Parameter {name!r} has no shape yet", hint="give the lazy module its sizes in model()")
        if parameter.dtype != torch.float32:
            raise UsageError(
                f"Parameter {name!r} is {parameter.dtype}; gradients are exchanged in float32",
                hint="call .float() on the model, or freeze the parameter",
            )


def _check_dtypes(model: torch.nn.Module) -> None:
    publishable = {f"torch.{dtype.name}" for dtype in CODES}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and str(tensor.dtype) not in publishable:
            raise UsageError(
                f"Tensor {name!r} is {tensor.dtype}, which cannot be published",
                hint="convert it to another dtype in model()",
            )
