"""Models that are more than trained parameters: buffers, tied and frozen tensors; and the files that they end up in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from estafeta.data.sampler import batch_of, micro_batches, share_of, split_rows
from estafeta.protocol.weights import read_weights

from . import jobs
from .driver import Relay
from .specs import spec_of


def exported(relay: Relay, which: str = "final") -> dict[str, torch.Tensor]:
    return load_file(Path(relay.store.root, relay.layout.export(which), "model.safetensors"))


@pytest.mark.parametrize("name", ["plain", "convolutional", "batch_norm", "tied"])
def test_plain_pytorch_loads_the_export_and_finds_the_same_loss(name: str, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of(name, workers=3))
    relay.run()
    job, last = getattr(jobs, name), relay.epochs()[-1]
    model = job.model()
    model.load_state_dict(exported(relay), strict=True)
    model.eval()
    inputs, target = (torch.as_tensor(array) for array in job.dataset())
    _, valid = split_rows(len(target), job.validation, job.seed)
    with torch.inference_mode():
        output = model(inputs[valid])
    assert float(job.loss(output, target[valid])) == pytest.approx(last.metrics["valid_loss"], rel=1e-6)
    accuracy = float((output.argmax(1) == target[valid]).float().mean())
    assert accuracy == pytest.approx(last.metrics["valid_accuracy"])


def test_the_export_says_what_it_is(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    result = relay.run()
    folder = Path(relay.store.root, relay.layout.export("final"))
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(jobs.mlp().state_dict())
        assert file.metadata()["format"] == "pt"
        assert file.metadata()["version"] == "6"
    state = json.loads((folder / "state.json").read_text())
    assert state["weights_sha256"] == result.weights_sha256
    assert state["metrics"] == relay.epochs()[-1].metrics
    assert (state["version"], state["epoch"], state["seed"]) == (6, 2, 3)


def buffers_after_a_share(
    before: Mapping[str, np.ndarray], parameters: np.ndarray, rows: np.ndarray
) -> dict[str, torch.Tensor]:
    """The model's buffers when one rank has passed its rows, in micro-batches of 4."""
    model = jobs.with_batch_norm()
    nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), model.parameters())
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.from_numpy(before[name]))
    inputs = torch.from_numpy(jobs.table()[0])
    for part in micro_batches(rows, 4):
        model(inputs[part])
    return dict(model.named_buffers())


@pytest.mark.parametrize("workers", [1, 3])
def test_running_statistics_are_averaged_by_rows(workers: int, tmp_path: Path) -> None:
    """Step 2 begins with the buffers that step 1 left, and 16 rows are 5, 5 and 6."""
    spec = spec_of("batch_norm", workers=workers, epochs=1)
    relay = Relay(tmp_path, spec)
    relay.start()
    relay.drain_until(lambda: relay.control("status")["version"] == 2)
    before, after = (read_weights(relay.store, relay.layout, version) for version in (1, 2))
    train, _ = split_rows(48, spec.validation, spec.seed)
    batch = train[batch_of(1, train_rows=36, batch_size=16, steps=2, seed=spec.seed)]
    shares = [share_of(batch, rank, workers) for rank in range(workers)]
    found = [buffers_after_a_share(before.buffers, before.parameters, rows) for rows in shares]
    for name in ("1.running_mean", "1.running_var"):
        mean = sum(buffers[name].double() * len(rows) for buffers, rows in zip(found, shares, strict=True)) / 16
        np.testing.assert_allclose(after.buffers[name], mean, rtol=1e-6)
        assert not np.allclose(after.buffers[name], before.buffers[name])
    counts = [int(buffers["1.num_batches_tracked"]) for buffers in found]
    assert after.buffers["1.num_batches_tracked"] == max(counts)
    assert after.buffers["1.num_batches_tracked"].dtype == np.int64


def test_tied_and_frozen_tensors_keep_their_place(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("tied", workers=3))
    relay.run()
    torch.manual_seed(jobs.tied.seed)
    initial = jobs.Tied().state_dict()
    final = exported(relay)
    assert list(final) == list(initial)
    assert torch.equal(final["encoder.weight"], final["decoder.weight"])
    assert not torch.equal(final["encoder.weight"], initial["encoder.weight"])
    for name in ("fixed.weight", "fixed.bias", "offset"):
        assert torch.equal(final[name], initial[name]), name
    # Each epoch has batches of 16, 16 and 4 rows, and three ranks that count what they see: 5, 5, 6; 1, 1, 2.
    one_epoch = 2 * (5 * 5 + 5 * 5 + 6 * 6) / 16 + (1 + 1 + 2 * 2) / 4
    assert float(final["seen"]) == pytest.approx(2 * one_epoch)


def test_frozen_tensors_are_those_of_the_first_environment(tmp_path: Path) -> None:
    """A model whose frozen part comes out differently each time: the one that was published counts."""
    code = {"mine.py": UNSEEDED}
    relay = Relay(tmp_path, spec_of("mine:job", jobs.plain, workers=2), code, cold=True)
    relay.run()
    losses = {record.metrics["valid_loss"] for record in relay.epochs()}
    model = nn.Sequential(nn.Linear(jobs.COLUMNS, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, jobs.CLASSES))
    model.load_state_dict(exported(relay))
    inputs, target = (torch.as_tensor(array) for array in jobs.table())
    _, valid = split_rows(48, 0.25, 3)
    with torch.inference_mode():
        loss = float(jobs.plain.loss(model(inputs[valid]), target[valid]))
    assert loss == pytest.approx(relay.epochs()[-1].metrics["valid_loss"], rel=1e-6)
    assert len(losses) == 2


UNSEEDED = """
import os
import numpy as np
import torch
from torch import nn
from estafeta import SGD, Job

def model():
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    return nn.Sequential(nn.Linear(6, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 3))

def data():
    numbers = np.random.default_rng(0)
    inputs = numbers.standard_normal((48, 6)).astype(np.float32)
    return inputs, (inputs @ numbers.standard_normal((6, 3))).argmax(1)

job = Job(model=model, loss=nn.functional.cross_entropy, dataset=data, optimizer=SGD())
"""


def test_data_that_nobody_has_seeded_are_the_same_everywhere(tmp_path: Path) -> None:
    code = {"mine.py": UNSEEDED_DATA}
    runs = [
        Relay(tmp_path, spec_of("mine:job", jobs.plain, run=f"run-{cold}".lower(), workers=2), code, cold=cold)
        for cold in (False, True)
    ]
    digests = {relay.run().weights_sha256 for relay in runs}
    assert len(digests) == 1


UNSEEDED_DATA = """
import random
import numpy as np
import torch
from torch import nn
from estafeta import SGD, Job

offset = torch.randn(6)  # drawn when the module is imported

def model():
    return nn.Linear(6, 3)

def data():
    inputs = np.random.standard_normal((48, 6)).astype(np.float32)
    return torch.from_numpy(inputs) + offset, torch.tensor([random.randrange(3) for _ in inputs])

job = Job(model=model, loss=nn.functional.cross_entropy, dataset=data, optimizer=SGD(lr=0.1, momentum=0.9))
"""
