"""The examples on imported data, from the file to the weights, beside what scikit-learn makes of the same rows."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from estafeta.cli.main import main
from estafeta.client.backend import Backend
from estafeta.client.launch import start
from estafeta.client.plan import measure
from estafeta.client.run import Run
from estafeta.client.source import import_job
from estafeta.data.blocks import Csr
from estafeta.data.catalog import read_block, read_manifest
from estafeta.data.manifest import Manifest
from estafeta.data.sampler import held_out
from estafeta.protocol.spec import Choice
from estafeta.store.store import Store
from estafeta.training.block_table import BlockTable
from estafeta.training.memory import MIB, RUNTIME_BYTES

JOB = """
from torch import nn
import estafeta

def model():
    return nn.Linear(784, 2)

job = estafeta.Job(model=model, loss=nn.functional.cross_entropy, dataset="numbers", optimizer=estafeta.SGD(lr=0.5),
                   batch_size=4096, micro_batch_size=512, epochs=1, window_mb=1)
"""

MEMORY_MB = 340
"""Memory of a worker; 20 MB more than Python and PyTorch take."""

EXAMPLES = Path(__file__).parents[2] / "examples"


def bring(home: Path, name: str, path: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> Manifest:
    """Import a file on the command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["data", "import", name, str(path), "--validation", "0.2", "--json", *options])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["name"] == name
    return read_manifest(Store(home / "store"), name)


def train(name: str, inline: Backend) -> tuple[Run, ModuleType]:
    job, place, code = import_job(str(EXAMPLES / name))
    run = start(job, place, code, backend=inline, workers=2, options={}).wait()
    return run, sys.modules[name.removesuffix(".py")]


def write(module: str, path: Path) -> None:
    """Make an example's data as it says."""
    import_job(str(EXAMPLES / module))
    sys.modules[module.removesuffix(".py")].write(str(path))


def test_a_table(home: Path, inline: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("tabular_csv.py", tmp_path / "customers.csv")
    options = ("--label", "bought", "--standardize")
    manifest = bring(home, "customers", tmp_path / "customers.csv", *options, capsys=capsys)
    run, example = train("tabular_csv.py", inline)
    table = BlockTable(Store(home / "store"), manifest, 1 << 30)
    inputs, target = example.one_hot(*table.batch(np.arange(len(table))))
    held = held_out(0, len(table), 0.2, 0)
    assert held.sum() == 4000
    expected = LogisticRegression(C=1e6, max_iter=1000).fit(inputs[~held], target[~held])
    with torch.no_grad():
        found = run.load_model("final")(inputs).softmax(1).numpy()
    np.testing.assert_allclose(found, expected.predict_proba(inputs), atol=0.02)
    last: dict[str, Any] = run.history[-1]
    assert last["valid_loss"] == pytest.approx(log_loss(target[held], expected.predict_proba(inputs[held])), abs=2e-3)
    assert last["valid_accuracy"] == pytest.approx(expected.score(inputs[held], target[held]), abs=5e-3)


@pytest.mark.skipif(
    torch.version.cuda is not None, reason="libraries for GPUs alone take more than the limit; functions have none"
)
def test_far_more_rows_than_memory(
    home: Path, on_local: Backend, inline: Backend, whole_logs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Functions that have room for an eighth of the rows get the bits of a process that has all of them in memory."""
    random = np.random.default_rng(1)
    inputs = random.standard_normal((54_000, 784), np.float32)
    np.savez(tmp_path / "n.npz", x=inputs, y=(inputs[:, 0] > 0).astype(np.int64))
    manifest = bring(home, "numbers", tmp_path / "n.npz", capsys=capsys)
    assert manifest.bytes >= 8 * (MEMORY_MB * MIB - RUNTIME_BYTES)
    (tmp_path / "numbers_job.py").write_text(JOB)
    job, place, code = import_job(str(tmp_path / "numbers_job.py"))
    topologies: tuple[Choice, ...] = ("merge", "sharded", "replicated")
    digests = set()
    for backend, topology, memory_mb in (
        (inline, topologies[0], 1769),
        *((on_local, topology, MEMORY_MB) for topology in topologies),
    ):
        options = {"worker.memory_mb": memory_mb}
        run = start(job, place, code, backend=backend, workers=2, topology=topology, options=options).wait()
        outcome = run.status().outcome
        assert outcome is not None
        digests.add(outcome.weights_sha256)
        if backend is on_local:
            run.summary()  # it waits for the last functions, which write their reports after the run's outcome
            reports = [re.findall(r"(\d+) MB", entry.report) for entry in run.log() if entry.role == "worker"]
            assert reports
            assert all(int(used) <= int(size) == MEMORY_MB for size, used in reports)
    assert len(digests) == 1


def test_sparse_rows(
    home: Path, inline: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are trained on, and planned with: a batch of them cannot be sliced."""
    write("sparse_libsvm.py", tmp_path / "texts.svm")
    manifest = bring(home, "texts", tmp_path / "texts.svm", capsys=capsys)
    run, _ = train("sparse_libsvm.py", inline)
    rows, target = read_block(Store(home / "store"), manifest, 0)
    assert isinstance(rows, Csr)
    assert manifest.inputs[0].shape == (2000,)
    inputs = csr_matrix((rows.values, rows.columns, rows.starts), shape=(len(rows), 2000))
    held = held_out(0, len(rows), 0.2, 0)
    expected = LogisticRegression(max_iter=1000).fit(inputs[~held], target[~held]).score(inputs[held], target[held])
    assert expected > 0.85
    assert run.history[-1]["valid_accuracy"] > expected - 0.015
    monkeypatch.setattr(measure, "REPEATS", 1)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(EXAMPLES / "sparse_libsvm.py"), "-n", "2", "--memory", "1769", "--json"])
    assert caught.value.code == 0
    profile = json.loads(capsys.readouterr().out)["profile"]
    assert (profile["parameters"], profile["train_rows"]) == (2000 * 4 + 4, (~held).sum())
