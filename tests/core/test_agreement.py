"""A run, on any number of workers, agrees with a plain PyTorch loop over the same batches to float32 rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from . import jobs
from .driver import Relay
from .reference import Trained, train_serially
from .specs import spec_of

ROUNDING = {"rtol": 3e-5, "atol": 3e-7}
"""Nine steps of float32 arithmetic in another order; measured: at most a tenth of it."""

SERIAL: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)},
    "adam": {"optimizer": lambda p: torch.optim.Adam(p, lr=0.02)},
    "adamw": {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
        "schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=3),
        "clip_norm": 0.3,
    },
    "convolutional": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.2)},
    "tied": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)},
}


def assert_agree(relay: Relay, trained: Trained) -> None:
    weights = load_file(Path(relay.store.root, relay.layout.export("final"), "model.safetensors"))
    assert weights.keys() == trained.model.state_dict().keys()
    expected = dict(trained.model.named_parameters(remove_duplicate=False))
    if relay.spec.workers == 1:  # on several, the buffers are means of what each has seen
        expected = trained.model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **ROUNDING)
    losses = [(record.metrics["train_loss"], record.metrics["valid_loss"]) for record in relay.epochs()]
    np.testing.assert_allclose(losses, trained.losses, **ROUNDING)


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("name", SERIAL)
def test_agrees_with_a_serial_loop(name: str, workers: int, tmp_path: Path) -> None:
    spec = spec_of(name, workers=workers)
    relay = Relay(tmp_path, spec)
    relay.run()
    assert_agree(relay, train_serially(getattr(jobs, name), spec, **SERIAL[name]))


@pytest.mark.parametrize(
    "changes",
    [{"drop_last": True}, {"batch_size": 36}, {"micro_batch_size": 1}, {"seed": 12}, {"batch_size": 3, "epochs": 1}],
    ids=str,
)
def test_agrees_however_the_rows_are_cut(changes: dict[str, Any], tmp_path: Path) -> None:
    spec = spec_of("plain", workers=4, **changes)
    relay = Relay(tmp_path, spec)
    relay.run()
    assert_agree(relay, train_serially(jobs.plain, spec, **SERIAL["plain"]))


def test_the_exported_optimizer_is_that_of_pytorch(tmp_path: Path) -> None:
    spec = spec_of("adam", workers=3)
    relay = Relay(tmp_path, spec)
    relay.run()
    trained = train_serially(jobs.adam, spec, **SERIAL["adam"])
    vectors = load_file(Path(relay.store.root, relay.layout.export("final"), "optimizer.safetensors"))
    state = trained.optimizer.state_dict()["state"]
    names = [name for name, _ in trained.model.named_parameters()]
    assert set(vectors) == {f"{name}.{slot}" for name in names for slot in ("exp_avg", "exp_avg_sq")}
    for number, name in enumerate(names):
        for slot in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(vectors[f"{name}.{slot}"], state[number][slot], **ROUNDING)


@pytest.mark.parametrize("workers", [2, 5])
def test_one_value_for_each_row_is_as_good_as_the_mean(workers: int, tmp_path: Path) -> None:
    relays = [
        Relay(tmp_path, spec_of(name, workers=workers, run=f"run-{n}"))
        for n, name in enumerate(["plain", "row_losses"])
    ]
    one, other = [relay.run() for relay in relays]
    losses = [[record.metrics["valid_loss"] for record in relay.epochs()] for relay in relays]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    assert one.version == other.version == 6
