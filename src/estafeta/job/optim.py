"""Optimisers on flat float32 NumPy vectors.

Role: turn the mean gradient and the optimiser state of step *t* into the parameters and state of step *t + 1*, in
place, for any slice of the flat vectors.
Must not know: torch, files, workers, or which slice of the model it is given.
Invariant: an update is elementwise and each elementary operation is one IEEE 754 float32 operation on its own, so
the result has the same bits however the vectors are cut, on x86-64 and arm64 alike.

The formulas and their order are those of the single-tensor optimisers in `torch.optim`. PyTorch's kernels differ
from them by the fused multiply-add, which rounds once where this rounds twice, and by its square root, which may be
one unit in the last place off; results agree to float32 rounding.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from annotated_types import Gt
from pydantic import BeforeValidator, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from estafeta.errors import UsageError
from estafeta.job.checks import CONFIG, Flag, Fraction, Number, Rate, explained, is_number, not_allowed, unknown
from estafeta.job.schedules import SCHEDULES, Progress, ScheduleOrNone

Vector = npt.NDArray[np.float32]
State = Mapping[str, Vector]
_Kind = TypeVar("_Kind")


def _pair(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(is_number(x) and 0 <= x < 1 for x in value):
        raise not_allowed("two numbers in [0, 1)")
    return tuple(float(x) for x in value)


CHUNK: Final = 65_536
"""Elements updated at a time, 256 KiB of each vector. So few stay in cache from one operation to the next; so many make
the calls cheap. The result does not depend on it."""


@dataclass(frozen=True, config=CONFIG)
class Optimizer(ABC):
    """Base of the optimisers: the settings they share, and the walk over the vectors.

    Attributes:
        lr: Learning rate, in [0, inf).
        schedule: Change of the learning rate over the run; None keeps it.
        clip_norm: Longest norm that the mean gradient of all parameters may have, in (0, inf); None is no limit.

    Raises:
        UsageError: A value is out of its range, or of another kind.
    """

    lr: Rate
    schedule: ScheduleOrNone = field(default=None, kw_only=True)
    clip_norm: Annotated[Number, Gt(0)] | None = field(default=None, kw_only=True)
    _explained = explained

    @property
    def state_slots(self) -> tuple[str, ...]:
        """Names of the state vectors, each as long as the parameters; the names are those of `torch.optim`."""
        return tuple(self._slots())

    def initial_state(self, size: int) -> dict[str, Vector]:
        """Return the state before step 0 of `size` parameters: slot name to float32 vector."""
        # Zeros take no memory until they are changed, and the worker that prepares a run only publishes them.
        return {
            slot: np.full(size, value, np.float32) if value else np.zeros(size, np.float32)
            for slot, value in self._slots().items()
        }

    def lr_at(self, progress: Progress) -> float:
        """Return the learning rate of the step that follows `progress`."""
        return self.lr * (self.schedule.factor(progress) if self.schedule else 1.0)

    def update(self, params: Vector, grad: Vector, state: State, *, step: int, lr: float, scale: float = 1.0) -> None:
        """Do one step on a slice, in place.

        Numbers that are not finite go through without a warning, as in PyTorch. The step uses memory for one chunk
        beside the vectors.

        Args:
            params: Parameters, float32 of shape (n,).
            grad: Their mean gradient, float32 of shape (n,). Its content is lost.
            state: A float32 vector of shape (n,) for each of `state_slots`.
            step: Steps done before this one.
            lr: Learning rate of this step, `lr_at`.
            scale: Factor that the gradient is multiplied by first, `clipping.clip_factor`.

        Raises:
            KeyError: If `state` lacks a slot.
            UsageError: If a vector has another dtype or shape; nothing was changed.
        """
        slots = {slot: state[slot] for slot in self.state_slots}
        for name, vector in {"params": params, "grad": grad, **slots}.items():
            if vector.dtype != np.float32 or vector.shape != (params.size,):
                raise UsageError(
                    f"{name} is {vector.dtype} of shape {vector.shape}, but must be float32 of shape ({params.size},)",
                    hint="Does it belong to the same slice of the same model?",
                )
        scratch = np.empty(min(params.size, CHUNK), np.float32)
        lr, scale = float(lr), float(scale)  # a NumPy float64 would lift every product to float64
        with np.errstate(all="ignore"):
            for start in range(0, params.size, CHUNK):
                part = slice(start, start + CHUNK)
                states = {slot: vector[part] for slot, vector in slots.items()}
                self.update_chunk(params[part], grad[part], states, scratch, step=step, lr=lr, scale=scale)

    def update_chunk(
        self, params: Vector, grad: Vector, state: State, scratch: Vector, *, step: int, lr: float, scale: float
    ) -> None:
        """Do one step on a chunk, without the checks of `update`: for callers that walk over the vectors themselves.

        The arguments are as there: vectors of up to `CHUNK` elements, `scratch` float32 and at least as long, `lr` and
        `scale` Python floats.
        """
        if scale != 1.0:
            grad *= scale
        self._apply(params, grad, state, scratch[: grad.size], step, lr)

    @abstractmethod
    def _slots(self) -> dict[str, float]:
        """Return the state vectors' names and the value that each starts with."""

    @abstractmethod
    def _apply(self, p: Vector, g: Vector, state: State, tmp: Vector, step: int, lr: float, /) -> None:
        """Do one step on one chunk: parameters `p`, gradient `g` (may be overwritten), scratch `tmp`."""


@dataclass(frozen=True, config=CONFIG)
class SGD(Optimizer):
    """Gradient descent, with or without momentum (`torch.optim.SGD`).

    Attributes:
        momentum: Share of the last step that is kept, in [0, inf).
        dampening: Share of the gradient that the momentum leaves out; any finite number.
        weight_decay: L2 penalty, in [0, inf).
        nesterov: Look ahead along the momentum. Needs momentum, and no dampening.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    lr: Rate = 1e-3
    momentum: Rate = 0.0
    dampening: Number = 0.0
    weight_decay: Rate = 0.0
    nesterov: bool = False

    @field_validator("nesterov", mode="before")
    @classmethod
    def _is_possible(cls, nesterov: Any, info: ValidationInfo) -> Any:
        possible = (False, True) if info.data.get("momentum") and info.data.get("dampening") == 0 else (False,)
        if not isinstance(nesterov, bool) or nesterov not in possible:
            raise not_allowed("False, or True with momentum > 0 and dampening = 0")
        return nesterov

    def _slots(self) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if self.momentum else {}

    def _apply(self, p: Vector, g: Vector, state: State, tmp: Vector, step: int, lr: float, /) -> None:
        if self.weight_decay:
            _add_scaled(g, p, self.weight_decay, tmp)
        if self.momentum:
            buffer = state["momentum_buffer"]
            if step == 0:
                buffer[:] = g  # the first step is not dampened
            else:
                buffer *= self.momentum
                _add_scaled(buffer, g, 1.0 - self.dampening, tmp)
            if self.nesterov:
                _add_scaled(g, buffer, self.momentum, tmp)
            else:
                g = buffer
        _add_scaled(p, g, -lr, tmp)


@dataclass(frozen=True, config=CONFIG)
class Adam(Optimizer):
    """Steps scaled by running moments of the gradient (`torch.optim.Adam`, without its `amsgrad`).

    Attributes:
        betas: Decay of the running mean and of the running mean square, each in [0, 1).
        eps: Added to the denominator, in [0, inf).
        weight_decay: L2 penalty, added to the gradient, in [0, inf).

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """

    lr: Rate = 1e-3
    betas: Annotated[tuple[float, float], BeforeValidator(_pair)] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0

    def _slots(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _apply(self, p: Vector, g: Vector, state: State, tmp: Vector, step: int, lr: float, /) -> None:
        if self.weight_decay:
            _add_scaled(g, p, self.weight_decay, tmp)
        self._descend(p, g, state, tmp, step, lr)

    def _descend(self, p: Vector, g: Vector, state: State, tmp: Vector, step: int, lr: float, /) -> None:
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = self.betas
        _lerp(mean, g, 1.0 - beta1, tmp)
        square *= beta2
        _add_square(square, g, 1.0 - beta2, tmp)
        np.sqrt(square, out=tmp)
        tmp /= math.sqrt(1.0 - beta2 ** (step + 1))
        tmp += self.eps
        _add_ratio(p, mean, tmp, -lr / (1.0 - beta1 ** (step + 1)), g)


@dataclass(frozen=True, config=CONFIG)
class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters and leaves the moments alone (`torch.optim.AdamW`).

    Attributes:
        weight_decay: Share of each parameter taken off per step, as a multiple of `lr`, in [0, inf).

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """

    weight_decay: Rate = 1e-2

    def _apply(self, p: Vector, g: Vector, state: State, tmp: Vector, step: int, lr: float, /) -> None:
        p *= 1.0 - lr * self.weight_decay
        self._descend(p, g, state, tmp, step, lr)


@dataclass(frozen=True, config=CONFIG)
class RMSprop(Optimizer):
    """Steps scaled by the running mean square of the gradient (`torch.optim.RMSprop`).

    With `centered`, a variance that rounding has made negative counts as zero; PyTorch's parameter becomes NaN there.

    Attributes:
        alpha: Decay of the running mean square, in [0, 1).
        eps: Added to the denominator, in [0, inf).
        weight_decay: L2 penalty, in [0, inf).
        momentum: Share of the last step that is kept, in [0, inf).
        centered: Scale by the running variance instead.

    Source: Hinton, "Neural Networks for Machine Learning", lecture 6, 2012; centred: Graves, arXiv:1308.0850.
    """

    lr: Rate = 1e-2
    alpha: Fraction = 0.99
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0
    momentum: Rate = 0.0
    centered: Flag = False

    def _slots(self) -> dict[str, float]:
        wanted = {"square_avg": True, "momentum_buffer": self.momentum > 0, "grad_avg": self.centered}
        return {slot: 0.0 for slot, is_wanted in wanted.items() if is_wanted}

    def _apply(self, p: Vector, g: Vector, state: State, tmp: Vector, _step: int, lr: float, /) -> None:
        if self.weight_decay:
            _add_scaled(g, p, self.weight_decay, tmp)
        square = state["square_avg"]
        square *= self.alpha
        _add_square(square, g, 1.0 - self.alpha, tmp)
        if self.centered:
            mean = state["grad_avg"]
            _lerp(mean, g, 1.0 - self.alpha, tmp)
            np.multiply(mean, mean, out=tmp)
            np.subtract(square, tmp, out=tmp)
            np.maximum(tmp, 0.0, out=tmp)
            np.sqrt(tmp, out=tmp)
        else:
            np.sqrt(square, out=tmp)
        tmp += self.eps
        if self.momentum:
            buffer = state["momentum_buffer"]
            buffer *= self.momentum
            _add_ratio(buffer, g, tmp, 1.0, g)
            _add_scaled(p, buffer, -lr, tmp)
        else:
            _add_ratio(p, g, tmp, -lr, g)


@dataclass(frozen=True, config=CONFIG)
class Adagrad(Optimizer):
    """Steps scaled by the sum of all squared gradients (`torch.optim.Adagrad`).

    Attributes:
        lr_decay: Step *t* (from 0) uses `lr / (1 + t * lr_decay)`; in [0, inf).
        weight_decay: L2 penalty, in [0, inf).
        initial_accumulator_value: First value of the sum, in [0, inf).
        eps: Added to the denominator, in [0, inf).

    Source: Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning", 2011.
    """

    lr: Rate = 1e-2
    lr_decay: Rate = 0.0
    weight_decay: Rate = 0.0
    initial_accumulator_value: Rate = 0.0
    eps: Rate = 1e-10

    def _slots(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}

    def _apply(self, p: Vector, g: Vector, state: State, tmp: Vector, step: int, lr: float, /) -> None:
        if self.weight_decay:
            _add_scaled(g, p, self.weight_decay, tmp)
        total = state["sum"]
        _add_square(total, g, 1.0, tmp)
        np.sqrt(total, out=tmp)
        tmp += self.eps
        _add_ratio(p, g, tmp, -lr / (1.0 + step * self.lr_decay), g)


# Each function below is one PyTorch kernel, its operations in the same order. `tmp` is overwritten.


def _add_scaled(target: Vector, source: Vector, factor: float, tmp: Vector) -> None:
    np.multiply(source, factor, out=tmp)
    target += tmp


def _add_square(target: Vector, source: Vector, factor: float, tmp: Vector) -> None:
    np.multiply(source, factor, out=tmp)
    tmp *= source
    target += tmp


def _add_ratio(target: Vector, above: Vector, below: Vector, factor: float, tmp: Vector) -> None:
    np.multiply(above, factor, out=tmp)
    tmp /= below
    target += tmp


def _lerp(target: Vector, end: Vector, weight: float, tmp: Vector) -> None:
    np.subtract(end, target, out=tmp)
    if weight < 0.5:
        tmp *= weight
        target += tmp
    else:  # from the nearer end, so that weight 1 gives `end` exactly
        tmp *= weight - 1.0
        np.add(end, tmp, out=target)


OPTIMIZERS: Final[Mapping[str, type[Optimizer]]] = {c.__name__: c for c in (SGD, Adam, AdamW, RMSprop, Adagrad)}


def to_dict(settings: Any) -> dict[str, Any]:
    """Return name and fields of an optimiser in the types of JSON, such as `{"name": "SGD", "lr": 0.1, …}`."""
    plain: dict[str, Any] = {"name": type(settings).__name__}
    for each in fields(settings):
        value = getattr(settings, each.name)
        plain[each.name] = to_dict(value) if is_dataclass(value) else list(value) if isinstance(value, tuple) else value
    return plain


def from_dict(data: Mapping[str, Any]) -> Optimizer:
    """Return the optimiser that `to_dict` described; fields left out take their defaults.

    Raises:
        UsageError: A name or a field is unknown, a field that has no default is missing, or a value is refused.
    """
    return _built("optimizer", OPTIMIZERS, data)


def _built(role: str, kinds: Mapping[str, type[_Kind]], data: Mapping[str, Any]) -> _Kind:
    values = {
        key: _built(key, SCHEDULES, value) if isinstance(value, Mapping) else value for key, value in data.items()
    }
    name = str(values.pop("name", None))
    if name not in kinds:
        raise unknown(f"{role} {name!r}", name, kinds)
    return kinds[name](**values)
