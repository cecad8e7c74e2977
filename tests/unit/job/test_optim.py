"""Optimisers against `torch.optim`, and the bits that must not depend on how the vectors are cut."""

import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_
from torch.optim import lr_scheduler

from estafeta.errors import UsageError
from estafeta.job import optim
from estafeta.job.optim import CHUNK, OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, from_dict, to_dict
from estafeta.job.schedules import Cosine, Progress, StepLR, Warmup
from estafeta.protocol.clipping import BLOCK, block_sums, clip_factor, norm_from

STEPS = 60
STEPS_PER_EPOCH = 6
ULPS = 64
"""Allowed distance from PyTorch during `STEPS` steps, in units in the last place of the largest magnitude that the
element has had. Over six seeds it was at most 27, mostly below 8. PyTorch may round differently on other processors."""

VARIANTS: tuple[Optimizer, ...] = (
    SGD(),
    SGD(lr=0.1, weight_decay=0.01),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    SGD(lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
    Adam(),
    Adam(lr=3e-3, betas=(0.3, 0.95), eps=1e-6, weight_decay=0.1),
    AdamW(),
    AdamW(lr=3e-3, betas=(0.95, 0.99), weight_decay=0.1),
    RMSprop(),
    RMSprop(weight_decay=0.01, momentum=0.9),
    RMSprop(centered=True),
    RMSprop(alpha=0.9, eps=1e-6, weight_decay=0.01, momentum=0.5, centered=True),
    Adagrad(),
    Adagrad(lr_decay=0.01, weight_decay=0.01, initial_accumulator_value=0.1, eps=1e-8),
)
ALL_VARIANTS = pytest.mark.parametrize("optimizer", VARIANTS, ids=str)


def global_norm(grad: Any) -> float:
    """The Euclidean norm of a float32 vector, as a run takes it."""
    return norm_from(block_sums(grad))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep PyTorch's threads from waiting on each other over a few kilobytes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def torch_optimizer(optimizer: Optimizer, params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings = {name: value for name, value in vars(optimizer).items() if name not in ("schedule", "clip_norm")}
    return getattr(torch.optim, type(optimizer).__name__)(params, **settings, foreach=False)


def torch_scheduler(optimizer: Optimizer, theirs: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    match optimizer.schedule:
        case None:
            return lr_scheduler.ConstantLR(theirs, factor=1.0)
        case StepLR(step_size, gamma):
            return lr_scheduler.StepLR(theirs, step_size, gamma)
        case Cosine():
            return lr_scheduler.CosineAnnealingLR(theirs, STEPS // STEPS_PER_EPOCH)
        case Warmup(length, start):
            return lr_scheduler.LinearLR(theirs, start_factor=start, total_iters=length)
        case other:
            raise AssertionError(other)


def progress(step: int) -> Progress:
    return Progress(step, STEPS, STEPS_PER_EPOCH)


def normal(rng: np.random.Generator, size: int, scale: float = 1.0) -> optim.Vector:
    return scale * rng.standard_normal(size, dtype=np.float32)


def ulps_between(ours: optim.Vector, theirs: optim.Vector, largest: optim.Vector) -> float:
    return float(np.max(np.abs(ours.astype(np.float64) - theirs) / np.spacing(largest)))


def follow_pytorch(optimizer: Optimizer, *, seed: int, scale: float = 1.0, theirs: Optimizer | None = None) -> float:
    """Return the largest distance from PyTorch, with the settings of `theirs`, in `STEPS` steps of three tensors."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 3000, size=3)
    params = normal(rng, int(sizes.sum()))
    state = optimizer.initial_state(params.size)
    tensors = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in np.split(params, np.cumsum(sizes)[:-1])]
    reference = torch_optimizer(theirs or optimizer, tensors)
    scheduler = torch_scheduler(optimizer, reference)
    largest, worst = np.abs(params), 0.0
    for step in range(STEPS):
        grad = normal(rng, params.size, scale)
        for tensor, part in zip(tensors, np.split(grad.copy(), np.cumsum(sizes)[:-1]), strict=True):
            tensor.grad = torch.from_numpy(part)
        if optimizer.clip_norm is not None:
            clip_grad_norm_(tensors, optimizer.clip_norm, foreach=False)
        reference.step()
        if (step + 1) % STEPS_PER_EPOCH == 0:
            scheduler.step()

        factor = clip_factor(global_norm(grad), optimizer.clip_norm)
        optimizer.update(params, grad, state, step=step, lr=optimizer.lr_at(progress(step)), scale=factor)

        expected = np.concatenate([tensor.detach().numpy() for tensor in tensors])
        largest = np.maximum(largest, np.abs(expected))
        worst = max(worst, ulps_between(params, expected, largest))
    return worst


# --- Agreement with PyTorch


@ALL_VARIANTS
def test_follows_pytorch(optimizer: Optimizer) -> None:
    assert follow_pytorch(optimizer, seed=1) <= ULPS


@ALL_VARIANTS
def test_follows_pytorch_with_small_gradients(optimizer: Optimizer) -> None:
    """No penalty is used: one that cancels the gradient would leave only rounding errors to be scaled up."""
    assert follow_pytorch(replace(optimizer, weight_decay=0.0), seed=1, scale=1e-4) <= ULPS


@ALL_VARIANTS
@pytest.mark.parametrize("schedule", [StepLR(3, 0.5), Cosine(), Warmup(4)], ids=str)
@pytest.mark.parametrize("clip_norm", [None, 0.5, 1e6])
def test_follows_pytorch_with_schedule_and_clipping(
    optimizer: Optimizer, schedule: StepLR | Cosine | Warmup, clip_norm: float | None
) -> None:
    assert follow_pytorch(replace(optimizer, schedule=schedule, clip_norm=clip_norm), seed=2) <= ULPS


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(lr=0.1, momentum=0.9), SGD(lr=0.1, momentum=0.9, dampening=1e-4)),
        (Adam(), Adam(eps=1e-6)),
        (AdamW(weight_decay=0.01), AdamW(weight_decay=0.011)),
        (RMSprop(), RMSprop(alpha=0.98999)),
        (Adagrad(), Adagrad(lr_decay=1e-5)),
    ],
    ids=str,
)
def test_the_tolerance_is_far_below_a_small_mistake(ours: Optimizer, theirs: Optimizer) -> None:
    assert follow_pytorch(ours, seed=1, theirs=theirs) > 2 * ULPS


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.125),
        SGD(lr=0.125, momentum=0.5, weight_decay=0.0625),
        SGD(lr=0.125, momentum=0.5, dampening=0.75, weight_decay=0.0625),
        SGD(lr=0.125, momentum=0.5, weight_decay=0.0625, nesterov=True),
        Adam(betas=(0.75, 0.5)),
        Adam(betas=(0.25, 0.875)),
        AdamW(betas=(0.75, 0.5)),
        RMSprop(alpha=0.875),
        RMSprop(alpha=0.5, centered=True),
        Adagrad(),
    ],
    ids=str,
)
def test_bits_are_those_of_pytorch_where_products_are_exact(optimizer: Optimizer) -> None:
    """With factors that are powers of two and short gradients a fused multiply-add rounds like two operations.

    Then SGD's parameters and all running moments and sums must have PyTorch's bits: the order of operations is the
    same. Parameters behind a square root are left out: PyTorch's square root is not the correctly rounded one.
    """
    rng = np.random.default_rng(3)
    params = normal(rng, 5003)
    state = optimizer.initial_state(params.size)
    tensor = torch.nn.Parameter(torch.from_numpy(params.copy()))
    theirs = torch_optimizer(optimizer, [tensor])
    for step in range(STEPS):
        grad = (rng.integers(-100, 101, params.size) / 64).astype(np.float32)
        tensor.grad = torch.from_numpy(grad.copy())
        theirs.step()
        optimizer.update(params, grad, state, step=step, lr=optimizer.lr)
        for slot in optimizer.state_slots:
            np.testing.assert_array_equal(state[slot], theirs.state[tensor][slot].numpy())
        if isinstance(optimizer, SGD):
            np.testing.assert_array_equal(params, tensor.detach().numpy())


@ALL_VARIANTS
def test_slots_are_those_of_pytorch(optimizer: Optimizer) -> None:
    tensor = torch.nn.Parameter(torch.ones(3))
    tensor.grad = torch.ones(3)
    theirs = torch_optimizer(optimizer, [tensor])
    theirs.step()
    kept = {name for name, value in theirs.state[tensor].items() if value is not None and name != "step"}
    assert set(optimizer.state_slots) == kept


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_are_those_of_pytorch(name: str) -> None:
    theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))]).defaults
    ours = {key: value for key, value in vars(OPTIMIZERS[name]()).items() if key not in ("schedule", "clip_norm")}
    assert ours == {key: theirs[key] for key in ours}


# --- Bits do not depend on the cutting


@st.composite
def cuts(draw: st.DrawFn) -> list[int]:
    size = draw(st.integers(1, 2 * CHUNK + 1000))
    inner = draw(st.lists(st.integers(0, size), max_size=6))
    return sorted({0, *inner, size})


@ALL_VARIANTS
@settings(max_examples=12, deadline=None, derandomize=True)
@given(bounds=cuts(), seed=st.integers(0, 2**32 - 1))
def test_bits_do_not_depend_on_slices(optimizer: Optimizer, bounds: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = normal(rng, bounds[-1])
    state = optimizer.initial_state(params.size)
    cut_params, cut_state = params.copy(), {slot: vector.copy() for slot, vector in state.items()}
    for step in range(3):
        grad = normal(rng, params.size)
        cut_grad = grad.copy()
        optimizer.update(params, grad, state, step=step, lr=0.01, scale=0.7)
        for part in itertools.starmap(slice, itertools.pairwise(bounds)):
            views = {slot: vector[part] for slot, vector in cut_state.items()}
            optimizer.update(cut_params[part], cut_grad[part], views, step=step, lr=0.01, scale=0.7)
    assert params.tobytes() == cut_params.tobytes()
    for slot, vector in state.items():
        assert vector.tobytes() == cut_state[slot].tobytes()


@ALL_VARIANTS
def test_bits_do_not_depend_on_the_chunk(optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (1013, CHUNK):
        monkeypatch.setattr(optim, "CHUNK", chunk)
        rng = np.random.default_rng(4)
        params = normal(rng, 10_000)
        state = optimizer.initial_state(params.size)
        for step in range(3):
            optimizer.update(params, normal(rng, params.size), state, step=step, lr=0.01)
        results.append(params.tobytes())
    assert results[0] == results[1]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(size=st.integers(0, 4 * BLOCK), blocks=st.lists(st.integers(0, 4), max_size=4), seed=st.integers(0, 2**32 - 1))
def test_aligned_slices_give_the_bits_of_the_norm(size: int, blocks: list[int], seed: int) -> None:
    grad = normal(np.random.default_rng(seed), size)
    bounds = sorted({0, size, *(min(size, block * BLOCK) for block in blocks)})
    parts = [block_sums(grad[low:high]) for low, high in itertools.pairwise(bounds)]
    joined = np.concatenate([np.empty(0), *parts])
    assert joined.tobytes() == block_sums(grad).tobytes()
    assert norm_from(joined) == global_norm(grad)


# --- Manner of working


def test_an_update_needs_memory_for_one_chunk_only() -> None:
    size = 40 * CHUNK
    optimizer = RMSprop(momentum=0.9, centered=True, weight_decay=0.1)
    params, grad, state = np.ones(size, np.float32), np.ones(size, np.float32), optimizer.initial_state(size)
    tracemalloc.start()
    try:
        optimizer.update(params, grad, state, step=0, lr=0.1)
        global_norm(grad)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8 * max(CHUNK, BLOCK)


def test_numpy_scalars_do_not_lift_the_arithmetic_to_float64() -> None:
    grads = normal(np.random.default_rng(5), 1000), normal(np.random.default_rng(5), 1000)
    plain, lifted = np.ones(1000, np.float32), np.ones(1000, np.float32)
    SGD(lr=0.1, momentum=0.9).update(
        plain, grads[0], {"momentum_buffer": np.ones(1000, np.float32)}, step=1, lr=0.1, scale=0.3
    )
    SGD(lr=np.float64(0.1), momentum=np.float64(0.9)).update(
        lifted,
        grads[1],
        {"momentum_buffer": np.ones(1000, np.float32)},
        step=np.int64(1),
        lr=np.float64(0.1),
        scale=np.float64(0.3),
    )
    assert plain.tobytes() == lifted.tobytes()


def test_momentum_starts_with_the_whole_gradient() -> None:
    state = {"momentum_buffer": np.full(3, 99, np.float32)}
    params = np.zeros(3, np.float32)
    SGD(lr=1.0, momentum=0.5, dampening=0.5).update(params, np.ones(3, np.float32), state, step=0, lr=1.0)
    np.testing.assert_array_equal(state["momentum_buffer"], 1)
    np.testing.assert_array_equal(params, -1)


def test_centered_rmsprop_survives_a_constant_gradient() -> None:
    """Rounding makes the running variance negative for some elements; PyTorch gives NaN for these."""
    optimizer = RMSprop(centered=True)
    constant = normal(np.random.default_rng(6), 1000)
    params, state = np.zeros(1000, np.float32), optimizer.initial_state(1000)
    for step in range(2500):
        optimizer.update(params, constant.copy(), state, step=step, lr=optimizer.lr)
    assert (state["square_avg"] < state["grad_avg"] ** 2).any(), "the case does not occur"
    assert np.isfinite(params).all()


@ALL_VARIANTS
def test_nonfinite_numbers_go_through_silently_as_in_pytorch(optimizer: Optimizer) -> None:
    bad = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0], np.float32)
    params = np.ones(5, np.float32)
    state = optimizer.initial_state(5)
    tensor = torch.nn.Parameter(torch.ones(5))
    theirs = torch_optimizer(optimizer, [tensor])
    for step in range(2):
        tensor.grad = torch.from_numpy(bad.copy())
        theirs.step()
        optimizer.update(params, bad.copy(), state, step=step, lr=optimizer.lr)
    np.testing.assert_allclose(params, tensor.detach().numpy(), rtol=1e-6)


def test_a_step_that_overflows_is_silent() -> None:
    params = np.zeros(2, np.float32)
    SGD().update(params, np.array([3e38, -3e38], np.float32), {}, step=0, lr=1e30)
    np.testing.assert_array_equal(params, [-np.inf, np.inf])


def test_an_empty_slice_is_allowed() -> None:
    empty = np.empty(0, np.float32)
    AdamW().update(empty, empty.copy(), AdamW().initial_state(0), step=0, lr=0.1)
    assert global_norm(empty) == 0.0


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("grad", np.ones(5, np.float32)),
        ("grad", np.ones(1, np.float32)),
        ("grad", np.ones(4, np.float64)),
        ("exp_avg_sq", np.ones((2, 2), np.float32)),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_nothing_changes(name: str, vector: np.ndarray) -> None:
    vectors = {key: np.ones(4, np.float32) for key in ("params", "grad", "exp_avg", "exp_avg_sq")} | {name: vector}
    params, grad = vectors.pop("params"), vectors.pop("grad")
    with pytest.raises(UsageError, match=rf"{name} is {vector.dtype} of shape .*float32 of shape \(4,\)"):
        Adam().update(params, grad, vectors, step=0, lr=0.1)
    np.testing.assert_array_equal(params, 1)


def test_torch_is_not_imported() -> None:
    code = "import sys, estafeta.job.optim; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Clipping


def test_norm_is_that_of_float64() -> None:
    grad = normal(np.random.default_rng(7), 3 * BLOCK + 17, scale=1e-3)
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in grad))
    assert global_norm(grad) == pytest.approx(exact, rel=1e-14)


def test_squares_are_added_in_a_binary_tree() -> None:
    """The order is part of the result: 1e-16 is lost when added to 1, but two of them together are not."""
    tiny = np.float32(1e-8)
    halves = np.array([1, tiny, 0, tiny], np.float32), np.array([1, tiny, tiny, 0], np.float32)
    sums = [float(block_sums(half)[0]) for half in halves]
    assert sums == [1.0 + 2 * float(tiny) ** 2, 1.0]


def test_norm_of_nonfinite_numbers_is_silent() -> None:
    assert global_norm(np.array([1, -np.inf], np.float32)) == math.inf
    assert math.isnan(global_norm(np.array([np.inf, np.nan], np.float32)))


def test_norm_does_not_overflow_in_float32() -> None:
    assert global_norm(np.full(4, 2e38, np.float32)) == pytest.approx(4e38, rel=1e-6)


@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 17.0, 1e6])
def test_clipping_is_that_of_pytorch(clip_norm: float) -> None:
    grad = normal(np.random.default_rng(8), 300)
    tensor = torch.nn.Parameter(torch.zeros(300))
    tensor.grad = torch.from_numpy(grad.copy())
    norm = clip_grad_norm_([tensor], clip_norm)
    assert global_norm(grad) == pytest.approx(float(norm), rel=1e-6)
    clipped = grad * clip_factor(global_norm(grad), clip_norm)
    np.testing.assert_allclose(clipped, tensor.grad.numpy(), rtol=3e-7)


def test_clip_factor_at_its_edges() -> None:
    assert clip_factor(5.0, None) == 1.0
    assert clip_factor(0.0, 1.0) == 1.0
    assert clip_factor(1.0, 1.0) == 1.0 / (1.0 + 1e-6)
    assert clip_factor(math.inf, 1.0) == 0.0
    assert math.isnan(clip_factor(math.nan, 1.0))


# --- Settings


@pytest.mark.parametrize(
    ("make", "field", "value", "allowed"),
    [
        (lambda: SGD(lr=-1), "lr", "-1", "[0, inf)"),
        (lambda: SGD(lr=math.inf), "lr", "inf", "[0, inf)"),
        (lambda: SGD(lr="0.1"), "lr", "'0.1'", "[0, inf)"),
        (lambda: SGD(momentum=math.nan), "momentum", "nan", "[0, inf)"),
        (lambda: SGD(dampening=math.inf), "dampening", "inf", "(-inf, inf)"),
        (lambda: SGD(nesterov=True), "nesterov", "True", "momentum > 0 and dampening = 0"),
        (lambda: SGD(momentum=0.9, dampening=0.1, nesterov=True), "nesterov", "True", "dampening = 0"),
        (lambda: SGD(momentum=0.9, nesterov=1), "nesterov", "1", "False, or True"),
        (lambda: SGD(clip_norm=0), "clip_norm", "0", "(0, inf)"),
        (lambda: SGD(schedule="Cosine"), "schedule", "'Cosine'", "a schedule or None"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas", "(0.9, 1.0)", "two numbers in [0, 1)"),
        (lambda: Adam(betas=(0.9,)), "betas", "(0.9,)", "two numbers in [0, 1)"),
        (lambda: Adam(betas=0.9), "betas", "0.9", "two numbers in [0, 1)"),
        (lambda: AdamW(eps=-1e-8), "eps", "-1e-08", "[0, inf)"),
        (lambda: AdamW(weight_decay=True), "weight_decay", "True", "[0, inf)"),
        (lambda: RMSprop(alpha=1), "alpha", "1", "[0, 1)"),
        (lambda: RMSprop(centered="yes"), "centered", "'yes'", "True or False"),
        (lambda: Adagrad(lr_decay=-0.1), "lr_decay", "-0.1", "[0, inf)"),
        (lambda: Adagrad(initial_accumulator_value=-1), "initial_accumulator_value", "-1", "[0, inf)"),
    ],
)
def test_values_outside_their_range_are_refused(
    make: Callable[[], Optimizer], field: str, value: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    message = str(caught.value)
    assert f".{field} is {value}; it must be " in message
    assert allowed in message
    assert field in caught.value.hint


@pytest.mark.parametrize("schedule", [None, StepLR(3), Warmup(5, then=Cosine(minimum=0.1), unit="step")], ids=str)
@ALL_VARIANTS
def test_json_gives_the_optimizer_back(optimizer: Optimizer, schedule: Any) -> None:
    original = replace(optimizer, schedule=schedule, clip_norm=1.5)
    data = to_dict(original)
    assert json.loads(json.dumps(data)) == data
    assert from_dict(data) == original


def test_dict_is_what_the_user_would_write() -> None:
    assert to_dict(SGD(lr=0.1, schedule=StepLR(30))) == {
        "name": "SGD",
        "lr": 0.1,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "schedule": {"name": "StepLR", "step_size": 30, "gamma": 0.1, "unit": "epoch"},
        "clip_norm": None,
    }


def test_fields_left_out_take_their_defaults() -> None:
    assert from_dict({"name": "AdamW", "lr": 0.5}) == AdamW(lr=0.5)


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ({"name": "Adamw"}, "optimizer 'Adamw'", "did you mean AdamW? valid: SGD, Adam, AdamW, RMSprop, Adagrad"),
        ({}, "optimizer 'None'", "valid: SGD, Adam, AdamW, RMSprop, Adagrad"),
        ({"name": "SGD", "momentun": 1}, "field 'momentun' of SGD", "did you mean momentum? valid: lr, "),
        (
            {"name": "SGD", "schedule": {"name": "Cosin"}},
            "schedule 'Cosin'",
            "did you mean Cosine? valid: StepLR, Cosine, Warmup",
        ),
        ({"name": "SGD", "schedule": {"name": "StepLR"}}, "StepLR lacks step_size", "give StepLR"),
        ({"name": "SGD", "schedule": {"name": "SGD"}}, "schedule 'SGD'", "valid: StepLR"),
        ({"name": "SGD", "lr": None}, "SGD.lr is None", "lr"),
    ],
)
def test_unknown_names_list_the_valid_ones(data: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_dict(data)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_fields_tell_their_types() -> None:
    types = get_type_hints(Adam)
    assert types["lr"] is float
    assert types["betas"] == tuple[float, float]
    assert types["clip_norm"] == float | None
    assert get_type_hints(StepLR)["step_size"] is int
