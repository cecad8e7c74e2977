"""A run on an imported data set has the same bits however little of it fits the memory, and whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from estafeta.data.catalog import read_manifest, remove
from estafeta.data.importing.arrays import Arrays, from_array
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.manifest import Manifest
from estafeta.data.sampler import held_out, steps_per_epoch
from estafeta.data.windows import BlockRows, Deal
from estafeta.job.job import Job
from estafeta.job.optim import SGD
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import Failure, FunctionSettings
from estafeta.store.store import Store
from estafeta.training.memory import MIB, RUNTIME_BYTES
from estafeta.training.session import open_session

from .driver import Relay
from .environment import forget
from .events import shuffled, twice
from .specs import FUNCTIONS, spec_of
from .stage import Stage

ROWS, COLUMNS, CLASSES = 9000, 128, 3
EPOCHS, BATCH, WINDOW_MB = 2, 1000, 1
BLOCK_BYTES = 1 << 18

HEAD = f"""
import torch
from torch import nn
from estafeta import SGD, Job

def model():
    return nn.Linear({COLUMNS}, {CLASSES})

settings = dict(model=model, loss=nn.functional.cross_entropy, dataset="numbers", optimizer=SGD(lr=0.5),
                batch_size={BATCH}, micro_batch_size=200, epochs={EPOCHS}, window_mb={WINDOW_MB}, validation=0.1)
"""
CODE = {"mine.py": HEAD + "job = Job(**settings)"}

JOB = Job(
    model=nn.Identity,
    loss=nn.functional.cross_entropy,
    dataset="numbers",
    optimizer=SGD(lr=0.5),
    batch_size=BATCH,
    micro_batch_size=200,
    epochs=EPOCHS,
    window_mb=WINDOW_MB,
    validation=0.1,
)


def invocation_of(relay: Relay) -> Invocation:
    """An invocation in the environment that the relay's functions share."""
    return Invocation(relay.store, lambda functions: relay, "a look", lambda: 900.0, quiet=True)


def numbers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    inputs = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return inputs, (inputs @ random.standard_normal((COLUMNS, CLASSES))).argmax(1)


def bring(root: Path, **wishes: Any) -> Manifest:
    inputs, target = numbers()
    source = Arrays({"x": from_array(inputs, "x"), "y": from_array(target, "y")}, "numbers", "y", 0)
    return import_dataset(Store(root), "numbers", source, ("numbers",), Wishes(block_bytes=BLOCK_BYTES, **wishes))


def memory(data_mb: float) -> dict[str, Any]:
    """Functions whose workers have so much memory for data."""
    worker = FunctionSettings(name="w", memory_mb=RUNTIME_BYTES // MIB + 1 + int(2 * data_mb), timeout_s=900)
    return {"functions": {**FUNCTIONS, "worker": worker}}


def relay_of(root: Path, code: dict[str, str] = CODE, **options: Any) -> Relay:
    settings = {key: options.pop(key) for key in list(options) if key in ("workers", "functions", "run", "validation")}
    return Relay(root, spec_of("mine:job", JOB, **{"window_mb": WINDOW_MB, **settings}), code, **options)


def failing(root: Path, tail: str = "job = Job(**settings)", **settings: Any) -> Failure:
    relay = relay_of(root, {"mine.py": HEAD + tail}, **settings)
    relay.run_to_failure()
    failure = relay.outcome().failure
    assert failure is not None
    return failure


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bits_do_not_depend_on_room_or_accidents(workers: int, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        manifest = bring(tmp_path / name, validation=0.2)
    assert manifest.bytes > 4 * WINDOW_MB * MIB
    expected = relay_of(tmp_path / "a", workers=workers).run()
    assert expected.state == "done"
    little = relay_of(tmp_path / "b", workers=workers, **memory(data_mb=2))
    assert little.run() == expected
    session = open_session(little.spec, invocation_of(little))
    assert session.data.tables["train"].slots < len(manifest.blocks)  # type: ignore[union-attr]
    legs = relay_of(tmp_path / "c", workers=workers, remaining_s=lambda: 0.0, cold=True, **memory(data_mb=2))
    assert legs.run() == expected
    disturbed = relay_of(tmp_path / "d", workers=workers, arrivals=shuffled(seed=1) if workers > 1 else twice)
    assert disturbed.run() == expected


@pytest.mark.parametrize("topology", ["sharded", "replicated"])
def test_the_bits_do_not_depend_on_the_topology(topology: str, tmp_path: Path) -> None:
    """Nor on legs, where little of the data fits."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bring(tmp_path / name, validation=0.2)
    expected = relay_of(tmp_path / "a", workers=3).run()
    settings = {"window_mb": WINDOW_MB, "rounds_per_invocation": 5, **memory(data_mb=2)}
    spec = spec_of("mine:job", JOB, workers=3, topology=topology, **settings)
    assert Stage(tmp_path / "b", spec, CODE, seed=2).run() == expected


HELD = """
import numpy as np
from torch.utils.data import Dataset

class Rows(Dataset):
    def __init__(self):
        self.inputs, self.target = np.load("FOLDER/x.npy", mmap_mode="r"), np.load("FOLDER/y.npy", mmap_mode="r")

    def __len__(self):
        return len(self.target)

    def __getitem__(self, row):
        return self.inputs[row].copy(), self.target[row]

def in_memory():
    return np.load("FOLDER/x.npy"), np.load("FOLDER/y.npy")

def mapped():
    return np.load("FOLDER/x.npy", mmap_mode="r"), np.load("FOLDER/y.npy", mmap_mode="r")
"""


def test_the_bits_do_not_depend_on_how_a_job_holds_its_rows(tmp_path: Path) -> None:
    """In memory, in a file that is mapped, or read row by row when they are needed."""
    for name, array in zip("xy", numbers(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    ends = []
    for way in ("in_memory", "mapped", "Rows"):
        (tmp_path / way).mkdir()
        code = HEAD + HELD.replace("FOLDER", str(tmp_path)) + f"job = Job(**settings | {{'dataset': {way}}})"
        ends.append(relay_of(tmp_path / way, {"mine.py": code}).run())
    assert ends[0].state == "done"
    assert ends == [ends[0]] * 3


@pytest.mark.parametrize(("workers", "imported"), [(1, None), (3, 0.2)])
def test_it_agrees_with_a_serial_loop(workers: int, imported: float | None, tmp_path: Path) -> None:
    """On the batches that the ranks' shares make together; the rows held out are those of the import, or the job."""
    manifest = bring(tmp_path, validation=imported, seed=5)
    relay = relay_of(tmp_path, workers=workers)
    relay.run()
    spec, held = relay.spec, held_out(0, ROWS, imported or 0.1, 5 if imported else relay.spec.seed)
    sizes = tuple(extent.bytes for extent in manifest.blocks)
    rows = BlockRows(manifest.starts, sizes, False, imported or 0.1, 5 if imported else spec.seed)
    steps = steps_per_epoch(len(rows), BATCH, False)
    deal = Deal(rows, workers, BATCH, steps, 200, WINDOW_MB * MIB, spec.seed)
    inputs, target = map(torch.from_numpy, numbers())
    torch.manual_seed(spec.seed)
    model = nn.Linear(COLUMNS, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(EPOCHS * steps):
        shares = [deal.train(step, rank) for rank in range(workers)]
        batch = np.concatenate([share[part] for share in shares for part in range(len(share))])
        assert not held[batch].any()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), target[batch]).backward()
        optimizer.step()
    weights = load_file(Path(relay.store.root, relay.layout.export("final"), "model.safetensors"))
    torch.testing.assert_close(weights["weight"], model.weight.detach(), rtol=3e-5, atol=3e-6)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(inputs[held]), target[held])
    assert relay.epochs()[-1].metrics["valid_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_blocks_stay_in_memory_from_round_to_round(tmp_path: Path) -> None:
    bring(tmp_path)
    relay = relay_of(tmp_path, workers=1)
    relay.start()
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(2)))
    session = open_session(relay.spec, invocation_of(relay))
    table = session.data.tables["train"]
    relay.drain()
    assert open_session(relay.spec, invocation_of(relay)).data.tables["train"] is table
    assert table.slots == len(read_manifest(relay.store, "numbers").blocks)  # type: ignore[union-attr]


def test_a_data_set_for_validation(tmp_path: Path) -> None:
    bring(tmp_path)
    tail = "job = Job(**settings | {'valid_dataset': 'numbers'})"
    relay = relay_of(tmp_path, {"mine.py": HEAD + tail}, validation=0.0)
    assert relay.run().state == "done"
    status = relay.control("status")
    assert (status["train_rows"], status["valid_rows"]) == (ROWS, ROWS)


@pytest.mark.parametrize(
    "tail",
    [
        "job = Job(**settings | {'transform': lambda x, y: (x.flip(1), y)})",
        "job = Job(**settings | {'collate': lambda rows: (torch.stack([r[0].flip(0) for r in rows]),"
        " torch.stack([r[1] for r in rows]))})",
    ],
)
def test_transform_and_collate_of_a_job_are_applied(tail: str, tmp_path: Path) -> None:
    """The weights of flipped columns are the flipped weights, but for what they were at the beginning."""
    tail = tail.replace("'transform'", "'model': zeros, 'transform'").replace("'collate'", "'model': zeros, 'collate'")
    zeros = "\ndef zeros():\n    m = model()\n    nn.init.zeros_(m.weight)\n    nn.init.zeros_(m.bias)\n    return m\n"
    weights = []
    for name, code in (("r", tail), ("s", "job = Job(**settings | {'model': zeros})")):
        (tmp_path / name).mkdir()
        bring(tmp_path / name)
        relay = relay_of(tmp_path / name, {"mine.py": HEAD + zeros + code}, run=name)
        assert relay.run().state == "done"
        weights.append(load_file(Path(relay.store.root, relay.layout.export("final"), "model.safetensors"))["weight"])
    torch.testing.assert_close(weights[0].flip(1), weights[1])


def test_a_name_that_is_not_in_the_store(tmp_path: Path) -> None:
    bring(tmp_path)
    failure = failing(tmp_path, "job = Job(**settings | {'dataset': 'number'})")
    assert (failure.reason, failure.exit_code) == ("UsageError", 2)
    assert "There is no data set named 'number' in the store" in failure.message
    assert failure.hint == "did you mean numbers? there is: numbers"


def test_a_plan_that_does_not_fit(tmp_path: Path) -> None:
    bring(tmp_path)
    worker = FunctionSettings(name="w", memory_mb=RUNTIME_BYTES // MIB, timeout_s=900)
    failure = failing(tmp_path, functions={**FUNCTIONS, "worker": worker})
    assert (failure.reason, failure.exit_code) == ("UsageError", 2)
    assert (
        "A worker needs 323 MB and has 320: Python and PyTorch 320, the model 1, its gradient, twice 1"
        in failure.message
    )
    assert "two windows of data 3" in failure.message
    assert failure.hint.startswith("-o worker.memory_mb=403, or -o ")


@pytest.mark.parametrize("again", [False, True])
def test_a_data_set_that_is_removed_during_the_run(again: bool, tmp_path: Path) -> None:
    bring(tmp_path)
    relay = relay_of(tmp_path)
    relay.start()
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(2)))
    remove(relay.store, "numbers")
    if again:
        bring(tmp_path)
    forget()
    relay.drain()
    failure = relay.outcome().failure
    assert failure is not None
    assert failure.exit_code == 2
    assert ("has been imported again" if again else "There is no data set named 'numbers'") in failure.message
