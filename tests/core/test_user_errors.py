"""What the user got wrong is said once, at once, with its place; what was good before it is kept."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from estafeta.data.sampler import batch_of, share_of, split_rows
from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.spec import Failure

from . import jobs
from .driver import Relay
from .specs import spec_of

HEAD = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from estafeta import SGD, Job

def data():
    return torch.ones(40, 3), torch.zeros(40, dtype=torch.int64)

def model():
    return nn.Linear(3, 2)

settings = dict(model=model, loss=nn.functional.cross_entropy, dataset=data, optimizer=SGD(lr=0.1))
"""


def failing(tmp_path: Path, tail: str, *, place: str = "mine:job", **changes: Any) -> tuple[Relay, Failure]:
    """A run of `HEAD` and `tail`, which fails without any attempt at it being repeated."""
    relay = Relay(tmp_path, spec_of(place, jobs.plain, **changes), {"mine.py": HEAD + tail})
    relay.run_to_failure()
    assert not relay.errors
    failure = relay.outcome().failure
    assert failure is not None
    return relay, failure


@pytest.mark.parametrize(
    ("tail", "reason", "message", "hint"),
    [
        ("import no_such_package", "UserCodeError", "importing mine.py raised ModuleNotFoundError", ""),
        ("job = Job(**settings", "UserCodeError", "importing mine.py raised SyntaxError", ""),
        ("other = Job(**settings)\nthird = other", "UsageError", "no job named 'job'", "mine.py:other, "),
        ("", "UsageError", "no estafeta.Job at its top level", "job = estafeta.Job(…)"),
        (
            "job = Job(**settings | {'model': lambda: 1 / 0})",
            "UserCodeError",
            "making the model raised ZeroDivisionError: division by zero",
            "",
        ),
        ("job = Job(**settings | {'model': lambda: 'a model'})", "UsageError", "gave a str, not a torch.nn.Module", ""),
        (
            "job = Job(**settings | {'model': lambda: nn.ReLU()})",
            "UsageError",
            "no parameter that requires a gradient",
            "",
        ),
        (
            "job = Job(**settings | {'model': lambda: model().double()})",
            "UsageError",
            "Parameter 'weight' is torch.float64",
            ".float()",
        ),
        (
            "job = Job(**settings | {'model': lambda: nn.LazyLinear(2)})",
            "UsageError",
            "'weight' has no shape yet",
            "sizes in model()",
        ),
        (
            "job = Job(**settings | {'model': lambda: nn.Sequential(model(), nn.Linear(2, 2, dtype=torch.bfloat16)"
            ".requires_grad_(False))})",
            "UsageError",
            "Tensor '1.weight' is torch.bfloat16",
            "another dtype",
        ),
        (
            "class Extra(nn.Linear):\n    def get_extra_state(self):\n        return torch.ones(1)\n"
            "job = Job(**settings | {'model': lambda: Extra(3, 2)})",
            "UsageError",
            "state dict has '_extra_state', neither a parameter nor a buffer",
            "buffer",
        ),
        (
            "job = Job(**settings | {'dataset': lambda: 1 / 0})",
            "UserCodeError",
            "making the data set raised ZeroDivisionError",
            "",
        ),
        ("job = Job(**settings | {'dataset': lambda: 40})", "UsageError", "The data set is a int", "a tuple of arrays"),
        (
            "class Stream(IterableDataset):\n    def __iter__(self):\n        yield 1\n"
            "job = Job(**settings | {'dataset': Stream})",
            "UsageError",
            "The data set is a Stream",
            "map-style",
        ),
        (
            "job = Job(**settings | {'dataset': lambda: (np.ones((4, 3)),)})",
            "UsageError",
            "a tuple of one array",
            "(inputs …, target)",
        ),
        (
            "job = Job(**settings | {'dataset': lambda: (np.ones((4, 3)), np.ones(5))})",
            "UsageError",
            "different lengths: [4, 5]",
            "",
        ),
        ("job = Job(**settings | {'valid_dataset': lambda: None})", "UsageError", "The data set is a NoneType", ""),
    ],
)
def test_user_errors_in_preparing_end_the_run(tail: str, reason: str, message: str, hint: str, tmp_path: Path) -> None:
    relay, failure = failing(tmp_path, tail)
    assert failure.reason == reason
    assert message in failure.message
    assert hint in failure.hint
    assert failure.exit_code == (2 if reason == "UsageError" else 1)
    assert (failure.rank, failure.round) == (None, None)
    assert len(relay.delivered) == 1
    answer = relay.control("fetch", which="final")
    assert "ended before it had any weights" in answer["error"]["message"]


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    _, failure = failing(tmp_path, "job = Job(**settings)", place="yours:job")
    assert failure.reason == "UsageError"
    assert "no module 'yours'" in failure.message
    assert "mine" in failure.hint


def test_fewer_rows_than_workers(tmp_path: Path) -> None:
    _, failure = failing(tmp_path, "job = Job(**settings)", workers=31, validation=0.25)
    assert failure.exit_code == 2
    assert "30 training rows (10 are held out for validation), fewer than the 31 workers" in failure.message
    assert "--workers 30" in failure.hint


def test_no_full_batch(tmp_path: Path) -> None:
    _, failure = failing(tmp_path, "job = Job(**settings)", batch_size=33, drop_last=True, validation=0.2)
    assert failure.exit_code == 2
    assert "make no full batch of 33" in failure.message


@pytest.mark.parametrize("validation", [0.25, 0.0])
def test_a_monitor_that_is_no_metric(validation: float, tmp_path: Path) -> None:
    rule = EarlyStopping(monitor="valid_acuracy")
    _, failure = failing(tmp_path, "job = Job(**settings)", early_stopping=rule, validation=validation)
    assert failure.exit_code == 2
    assert "'valid_acuracy'" in failure.message
    assert failure.hint == f"the metrics are train_loss{', valid_loss' if validation else ''}"


@pytest.mark.parametrize(
    ("tail", "reason", "message"),
    [
        (
            "class Model(nn.Linear):\n    def forward(self, inputs):\n        return self.helper(inputs)\n"
            "    def helper(self, inputs):\n        raise KeyError('from the helper')\n"
            "job = Job(**settings | {'model': lambda: Model(3, 2)})",
            "UserCodeError",
            "the forward pass raised KeyError: 'from the helper' on rank 0 in round train-00000000",
        ),
        (
            "def loss(output, target):\n    return output\njob = Job(**settings | {'loss': loss})",
            "UsageError",
            "The loss has shape [4, 2] for 4 rows on rank 0 in round train-00000000",
        ),
        (
            "def score(output, target):\n    return output\njob = Job(**settings, metrics={'score': score})",
            "UsageError",
            "The metric 'score' has shape [4, 2] for 4 rows on rank 0 in round train-00000000",
        ),
        (
            "def score(output, target):\n    return output.no_such\njob = Job(**settings, metrics={'score': score})",
            "UserCodeError",
            "the metric 'score' raised AttributeError",
        ),
        (
            "class Rows:\n    def __len__(self):\n        return 40\n    def __getitem__(self, row):\n"
            "        return torch.ones(3)\njob = Job(**settings | {'dataset': Rows})",
            "UsageError",
            "A row of the data set is a Tensor on rank 0",
        ),
        (
            "class Rows:\n    def __len__(self):\n        return 40\n    def __getitem__(self, row):\n"
            "        raise LookupError('no row')\njob = Job(**settings | {'dataset': Rows})",
            "UserCodeError",
            "reading the data set raised LookupError: no row on rank 0",
        ),
        (
            "class Model(nn.Linear):\n    def forward(self, inputs):\n        if not self.training:\n"
            "            raise RuntimeError('not trained')\n        return super().forward(inputs)\n"
            "job = Job(**settings | {'model': lambda: Model(3, 2)})",
            "UserCodeError",
            "the forward pass raised RuntimeError: not trained on rank 0 in round valid-00000002",
        ),
        (
            "class Root(nn.Linear):\n    def forward(self, inputs):\n"
            "        return (super().forward(inputs) * 0).sqrt()\n"
            "job = Job(**settings | {'model': lambda: Root(3, 2)})",
            "NotFinite",
            "The gradient has elements that are not finite on rank 0 in round train-00000000",
        ),
    ],
)
def test_user_errors_in_a_round_end_the_run(tail: str, reason: str, message: str, tmp_path: Path) -> None:
    _, failure = failing(tmp_path, tail, batch_size=16, micro_batch_size=4)
    assert failure.reason == reason
    assert failure.message.startswith(message)
    if reason == "UserCodeError":
        assert "mine.py" in failure.traceback


def test_the_traceback_is_the_users_own(tmp_path: Path) -> None:
    tail = "def model():\n    return assemble(7)\n\ndef assemble(width):\n    return nn.Linear(width, -1)\n"
    _, failure = failing(tmp_path, tail + "job = Job(**settings | {'model': model})")
    lines = failure.traceback.splitlines()
    assert any("mine.py" in line and "in assemble" in line for line in lines)
    assert any("mine.py" in line and "in model" in line for line in lines)
    assert "nn.Linear(width, -1)" in failure.traceback
    assert lines[-1].startswith("RuntimeError")


def assert_good_weights(relay: Relay) -> None:
    """The last version before the failure can be fetched."""
    weights = load(base64.b64decode(relay.control("fetch", which="final")["data"]))
    assert weights.keys() == {"weight", "bias"}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


NAN_ROW = """
def data():
    numbers = np.random.default_rng(0)
    inputs = numbers.standard_normal((40, 3)).astype(np.float32)
    inputs[17] = np.nan
    return inputs, (inputs[:, 0] > 0).astype(np.int64)

job = Job(**settings | {"dataset": data})
"""


def test_a_loss_that_is_nan_is_traced_to_its_rank_and_round(tmp_path: Path) -> None:
    train, _ = split_rows(40, 0.0, seed=5)
    batches = [train[batch_of(s, train_rows=40, batch_size=9, steps=5, seed=5)] for s in range(5)]
    (step,) = (step for step, rows in enumerate(batches) if 17 in rows)
    (rank,) = (rank for rank in range(3) if 17 in share_of(batches[step], rank, 3))
    assert (step, rank) != (0, 0)
    relay, failure = failing(
        tmp_path,
        NAN_ROW,
        workers=3,
        seed=5,
        batch_size=9,
        validation=0.0,
        epochs=1,
        early_stopping=EarlyStopping(monitor="train_loss"),
    )
    assert failure.message == f"The loss is nan on rank {rank} in round train-{step:08d}"
    assert (failure.rank, failure.round) == (rank, f"train-{step:08d}")
    assert relay.control("status")["version"] == step
    assert_good_weights(relay)
    assert relay.control("resume")["state"] == "running"
    relay.drain()
    assert relay.outcome().why == failure.message, "it is so again"


def test_the_merge_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    tail = "def loss(output, target):\n    return 1e30 * output.mean()\njob = Job(**settings | {'loss': loss})"
    relay, failure = failing(tmp_path, tail, optimizer={"name": "SGD", "lr": 1e20})
    assert failure.reason == "Diverged"
    assert "Step 1 made parameters that are not finite" in failure.message
    assert "lower the learning rate" in failure.hint
    assert failure.function == "merge"
    assert relay.control("status")["version"] == 0
    assert_good_weights(relay)


def test_data_that_are_not_the_same_in_every_process(tmp_path: Path) -> None:
    """The data set has one row more each time that it is made."""
    tail = """
import pathlib

def data(path):
    made = pathlib.Path(path)
    rows = made.stat().st_size if made.exists() else 0
    made.write_text("x" * (rows + 1))
    return torch.ones(40 + rows, 3), torch.zeros(40 + rows, dtype=torch.int64)

job = Job(**settings | {"dataset": data})
"""
    arguments = {"dataset": {"path": str(tmp_path / "made")}}
    relay = Relay(tmp_path, spec_of("mine:job", jobs.plain, arguments=arguments), {"mine.py": HEAD + tail}, cold=True)
    relay.run_to_failure()
    failure = relay.outcome().failure
    assert failure is not None
    assert failure.reason == "UsageError"
    assert failure.message.startswith("The data set has 31 rows for this phase, and had 30 when the run was prepared")


@pytest.mark.parametrize(("error", "reason"), [("OSError(5, 'gone')", "OSError"), ("MemoryError('no')", "OutOfMemory")])
def test_passing_errors_are_retried(error: str, reason: str, tmp_path: Path) -> None:
    tail = f"def data():\n    raise {error}\njob = Job(**settings | {{'dataset': data}})"
    relay = Relay(tmp_path, spec_of("mine:job", jobs.plain), {"mine.py": HEAD + tail})
    relay.run_to_failure()
    assert len(relay.errors) == 3
    failure = relay.outcome().failure
    assert failure is not None
    assert failure.reason == reason
